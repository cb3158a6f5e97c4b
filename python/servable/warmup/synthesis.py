"""Requests made from nothing but signatures: zeros and empty strings, in the smallest shapes that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MESSAGE", "LeftOut", "Synthesized", "synthesize"]

MESSAGE = "tensorflow.serving.PredictionLog"

EXAMPLE_LOGS = {"tensorflow/serving/classify": "classify_log", "tensorflow/serving/regress": "regress_log"}
"""The log of each method that takes examples."""

UNFEEDABLE = ("DT_RESOURCE", "DT_VARIANT", "DT_INVALID")
"""Types without values that a request could hold; the last stands for those that this server does not know."""


@dataclass(frozen=True)
class Synthesized:
    """A request for one signature."""

    signature: str
    log: Mapping[str, Any]
    """A `PredictionLog` as proto JSON."""


@dataclass(frozen=True)
class LeftOut:
    """A signature that no request can be made for."""

    signature: str
    reason: str


def synthesize(
    signatures: Mapping[str, Any], batch_sizes: Sequence[int] = (1,)
) -> tuple[list[Synthesized], list[LeftOut]]:
    """One request for each signature that clients use and each size of batches, in the order of names and sizes.

    `signatures` are those of one graph, as `read_saved_model` tells them. A first dimension of unknown size is that of
    the batch, any other is 1; a tensor of unknown rank is a list. Inputs that have defaults are left out. A signature
    whose batches have one size gets one request.
    """
    made: list[Synthesized] = []
    left_out: list[LeftOut] = []
    for name, signature in sorted(signatures.items()):
        if name.startswith("__saved_model_"):
            continue
        inputs = {key: slot for key, slot in signature["inputs"].items() if not slot["has_default"]}
        unfeedable = sorted(key for key, slot in inputs.items() if slot["dtype"] in UNFEEDABLE)
        if unfeedable:
            left_out.append(LeftOut(name, f"nothing can be sent for its input {unfeedable[0]}"))
            continue
        logs: list[Mapping[str, Any]] = []
        for size in batch_sizes:
            log = _log(name, signature["method_name"], inputs, size)
            if log not in logs:
                logs.append(log)
        made += [Synthesized(name, log) for log in logs]
    return made, left_out


def _log(name: str, method: str, inputs: Mapping[str, Any], batch_size: int) -> Mapping[str, Any]:
    request: dict[str, Any] = {"model_spec": {"signature_name": name}}
    if method in EXAMPLE_LOGS:
        request["input"] = {"example_list": {"examples": [{}] * batch_size}}
        return {EXAMPLE_LOGS[method]: {"request": request}}
    request["inputs"] = {key: _tensor(slot, batch_size) for key, slot in sorted(inputs.items())}
    return {"predict_log": {"request": request}}


def _tensor(slot: Mapping[str, Any], batch_size: int) -> Mapping[str, Any]:
    """A `TensorProto`. Values that it does not hold are zeros, or empty strings."""
    shape: Sequence[int] = slot["shape"] if slot["shape"] is not None else [-1]
    sizes = [size if size >= 0 else batch_size if index == 0 else 1 for index, size in enumerate(shape)]
    return {"dtype": slot["dtype"], "tensor_shape": {"dim": [{"size": size} for size in sizes]}}
