"""What a file of `PredictionLog`s asks, and what was answered."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from servable.errors import InvalidArgumentError

__all__ = ["Logged", "read_logged"]

SERVING = "tensorflow.serving."
KINDS = {
    "predict_log": ("Predict", "PredictRequest", "PredictResponse"),
    "classify_log": ("Classify", "ClassificationRequest", "ClassificationResponse"),
    "regress_log": ("Regress", "RegressionRequest", "RegressionResponse"),
    "multi_inference_log": ("MultiInference", "MultiInferenceRequest", "MultiInferenceResponse"),
}


@dataclass(frozen=True)
class Logged:
    """A request, ready to be sent."""

    method: str
    request: bytes
    response: Any
    """Values by output; `None` if no answer was logged."""

    def decode(self, answer: bytes) -> Any:
        """The values of another answer to it."""
        from servable.engine import decode_message

        message = next(response for method, _, response in KINDS.values() if method == self.method)
        return _values(json.loads(decode_message(SERVING + message, answer)))


def read_logged(path: str, model: str | None) -> Iterator[Logged]:
    """The requests in a file, for another model if one is named. Those that no server answers are left out."""
    from servable.engine import RecordReader, decode_message, encode_json

    for number, record in enumerate(RecordReader(path), 1):
        try:
            log = json.loads(decode_message(SERVING + "PredictionLog", record))
        except ValueError as error:
            raise InvalidArgumentError(f"record {number} of {path} is no PredictionLog: {error}") from error
        for name, (method, message, _) in KINDS.items():
            if "request" not in log.get(name, {}):
                continue
            request = log[name]["request"]
            if model is not None:
                for spec in [request, *request.get("tasks", ())]:
                    if "model_spec" in spec or method != "MultiInference":
                        spec.setdefault("model_spec", {})["name"] = model
            response = log[name].get("response")
            yield Logged(
                method,
                encode_json(SERVING + message, json.dumps(request)),
                None if response is None else _values(response),
            )


def _values(response: Any) -> Any:
    """An answer without what may differ: the version, and how tensors are written."""
    if isinstance(response, list):
        return [_values(one) for one in response]
    if not isinstance(response, dict):
        return response
    if "dtype" in response:
        return _tensor(response)
    return {name: _values(value) for name, value in response.items() if name != "model_spec"}


def _tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    import struct

    shape = [int(dim.get("size", 0)) for dim in tensor.get("tensor_shape", {}).get("dim", ())]
    count = 1
    for size in shape:
        count *= size
    values: list[Any] = [value for name, part in tensor.items() if name.endswith("_val") for value in part]
    content = base64.b64decode(tensor.get("tensor_content", ""))
    code = FORMATS.get(tensor["dtype"])
    if content and code:
        values = list(struct.unpack(f"<{len(content) // struct.calcsize(code)}{code}", content))
    elif content:
        values = [tensor["tensor_content"]]
    elif 0 < len(values) < count and tensor["dtype"] != "DT_STRING" and "COMPLEX" not in tensor["dtype"]:
        values += values[-1:] * (count - len(values))
    if "INT" in tensor["dtype"]:
        values = [int(value) for value in values]  # JSON has those of 64 bits as strings
    return {"dtype": tensor["dtype"], "shape": shape, "values": values}


FORMATS = {
    "DT_FLOAT": "f",
    "DT_DOUBLE": "d",
    "DT_INT8": "b",
    "DT_INT16": "h",
    "DT_INT32": "i",
    "DT_INT64": "q",
    "DT_UINT8": "B",
    "DT_UINT16": "H",
    "DT_UINT32": "I",
    "DT_UINT64": "Q",
    "DT_BOOL": "?",
}
"""How `struct` names what lies in `tensor_content`."""
