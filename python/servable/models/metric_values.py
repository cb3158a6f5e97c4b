"""Values of metrics, by the names that TensorFlow has for them: a reload tells by how much they have grown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["first_values"]

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\d+)")
"""A whole number; the labels are in braces."""


def first_values(page: str, names: Sequence[str]) -> Mapping[str, int]:
    """The value that each of these metrics has for the first of its labels, in their order.

    0 for one that has none, that is unknown, or that is no whole number, as in TensorFlow Serving. `page` is what
    Prometheus reads.
    """
    shown = {name: re.sub(r"[^a-zA-Z0-9_:]", "_", name.replace("/", ":")) for name in names}
    wanted = set(shown.values())
    first: dict[str, tuple[str, int]] = {}
    for line in page.splitlines():
        sample = SAMPLE.fullmatch(line)
        if sample is None or sample[1] not in wanted:
            continue
        name, labels, value = sample[1], sample[2] or "", int(sample[3])
        first[name] = min(first.get(name, (labels, value)), (labels, value))
    return {name: first.get(shown[name], ("", 0))[1] for name in names}
