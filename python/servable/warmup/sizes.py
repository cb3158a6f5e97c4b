"""Requests that a version brings along, enlarged to the sizes that batches are filled up to."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Outline", "enlarged", "outline"]

MOST_BYTES = 16 << 20
"""A request that would take more has zeros for values: text that long takes several times the memory."""


@dataclass(frozen=True)
class Outline:
    """What requests that may share a batch have in common: all but their values and their number of rows."""

    kind: str
    signature: str
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    """Name, type and shape of a row of each; none for requests over examples."""


def outline(described: Mapping[str, Any]) -> tuple[Outline, int] | None:
    """The outline of a request that `describe_record` has described, and its rows; `None` if it has no rows."""
    kind, signature = described["kind"], described.get("signature", "")
    if "examples" in described:
        return (Outline(kind, signature), described["examples"]) if described["examples"] else None
    inputs = described.get("inputs", {})
    rows = {slot["shape"][0] if slot["shape"] else 0 for slot in inputs.values()}
    if len(rows) != 1 or rows == {0}:
        return None
    slots = ((name, slot["dtype"], tuple(slot["shape"][1:])) for name, slot in sorted(inputs.items()))
    return Outline(kind, signature, tuple(slots)), rows.pop()


def enlarged(log: Mapping[str, Any], rows: int, size: int, length: int) -> Mapping[str, Any]:
    """The request in a `PredictionLog` of proto JSON with `size` rows instead of `rows`: its own, over and over.

    `length` is what the log takes when serialised.
    """
    ((kind, logged),) = ((name, part) for name, part in log.items() if name.endswith("_log"))
    request, is_short = logged["request"], length * size // rows <= MOST_BYTES
    if "inputs" in request:
        larger = {name: _tensor(tensor, rows, size, is_short) for name, tensor in request["inputs"].items()}
        return {kind: {"request": {**request, "inputs": larger}}}
    ((form, listed),) = request["input"].items()
    examples = _repeated(listed["examples"], size) if is_short else [{}] * size
    return {kind: {"request": {**request, "input": {form: {**listed, "examples": examples}}}}}


def _tensor(tensor: Mapping[str, Any], rows: int, size: int, is_short: bool) -> Mapping[str, Any]:
    dims = [{"size": size}, *tensor["tensor_shape"]["dim"][1:]]
    larger = {"dtype": tensor["dtype"], "tensor_shape": {"dim": dims}}
    elements = rows * math.prod(dim.get("size", 0) for dim in dims[1:])
    for name, values in tensor.items() if is_short and elements else ():
        if name == "tensor_content":
            content = base64.b64decode(values)
            larger[name] = base64.b64encode((content * -(-size // rows))[: len(content) // rows * size]).decode()
        elif name.endswith("_val"):
            # A list that is too short goes on with its last value, in a larger tensor too.
            is_full = len(values) >= elements
            larger[name] = _repeated(values, len(values) // rows * size) if is_full else values
    return larger


def _repeated(values: list[Any], count: int) -> list[Any]:
    return (values * -(-count // len(values)))[:count]
