"""Requests that a version brings along, enlarged to the sizes that batches are filled up to."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Outline", "enlarged", "outline", "too_much"]

MOST_BYTES = 16 << 20
"""A request that takes more is not enlarged, and one that would take more has zeros for values: text that long takes
several times the memory."""

MOST_TENSOR_BYTES = 128 << 20
"""No larger batch is sent: about 200 images of 224 x 224 pixels as floats."""

WIDTHS = {
    **dict.fromkeys(["DT_BOOL", "DT_INT8", "DT_UINT8"], 1),
    **dict.fromkeys(["DT_HALF", "DT_BFLOAT16", "DT_INT16", "DT_UINT16"], 2),
    **dict.fromkeys(["DT_FLOAT", "DT_INT32", "DT_UINT32"], 4),
    "DT_COMPLEX128": 16,
    "DT_STRING": 24,
}
"""Bytes that a value takes in a tensor, where these are not 8; a long string takes more."""


@dataclass(frozen=True)
class Outline:
    """What is to be known of a request that may be enlarged."""

    kind: str
    signature: str
    rows: int
    row_bytes: int
    """What a row takes, as a message or in tensors, whichever is more."""


def outline(described: Mapping[str, Any], length: int) -> Outline | None:
    """The outline of a request of `length` bytes that `describe_record` has described; `None` if it has no rows."""
    kind, signature = described["kind"], described.get("signature", "")
    inputs = described.get("inputs", {}).values()
    counts = {slot["shape"][0] if slot["shape"] else 0 for slot in inputs} or {described.get("examples", 0)}
    rows = counts.pop()
    if counts or rows == 0:
        return None
    row_bytes = sum(math.prod(slot["shape"][1:]) * WIDTHS.get(slot["dtype"], 8) for slot in inputs)
    return Outline(kind, signature, rows, max(row_bytes, length // rows))


def too_much(outline: Outline, length: int, size: int) -> str:
    """Why a request of `length` bytes is not enlarged to so many rows; empty if it is."""
    if length > MOST_BYTES:
        return f"the request takes more than {MOST_BYTES >> 20} MiB"
    if outline.row_bytes * size > MOST_TENSOR_BYTES:
        return f"it would take more than {MOST_TENSOR_BYTES >> 20} MiB"
    return ""


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
