"""Whether two decoded answers are the same, within a tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """The first thing that differs in one output."""

    where: str
    what: str
    deviation: float = 0.0
    """The largest between two numbers there."""


def compare(answer: Any, logged: Any, tolerance: float) -> list[Difference]:
    """The differences, at most one for each output."""
    answer, logged = _outputs(answer), _outputs(logged)
    found = []
    for name in sorted({*answer, *logged}):
        if name not in answer or name not in logged:
            where = "was not logged" if name in answer else "is missing"
            found.append(Difference(name, f"the output {where}"))
            continue
        differing = list(_leaves(answer[name], logged[name], "", tolerance))
        if differing:
            where, got, want, _ = differing[0]
            deviation = max(one[3] for one in differing)
            found.append(Difference(name, f"{where} is {got}, was {want}".strip(), deviation))
    return found


def _outputs(answer: Any) -> dict[str, Any]:
    outputs = answer.get("outputs") if isinstance(answer, dict) else None
    return outputs if isinstance(outputs, dict) else dict(answer)


def _leaves(got: Any, want: Any, where: str, tolerance: float) -> list[tuple[str, Any, Any, float]]:
    if isinstance(got, dict) and isinstance(want, dict):
        pairs = [(f"{where}.{name}".strip("."), got.get(name), want.get(name)) for name in sorted({*got, *want})]
        return [leaf for name, one, other in pairs for leaf in _leaves(one, other, name, tolerance)]
    if isinstance(got, list) and isinstance(want, list):
        if len(got) != len(want):
            return [(where, f"{len(got)} values", f"{len(want)} values", 0.0)]
        parts = enumerate(zip(got, want, strict=True))
        return [leaf for at, (one, other) in parts for leaf in _leaves(one, other, f"{where}[{at}]", tolerance)]
    one, other = _number(got), _number(want)
    if one is None or other is None:
        return [] if got == want else [(where, got, want, 0.0)]
    if (math.isnan(one) and math.isnan(other)) or got == want:
        return []
    are_whole = isinstance(got, int) and isinstance(want, int)
    if not are_whole and math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance):
        return []
    deviation = abs(one - other)
    return [(where, got, want, math.inf if math.isnan(deviation) else deviation)]


def _number(value: Any) -> float | None:
    """Numbers, which JSON leaves out where they are 0 and has as text where they are not finite."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        return None
    return float(value)
