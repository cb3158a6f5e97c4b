from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from servable import engine
from servable.warmup import sizes
from servable.warmup.sizes import Outline, enlarged, outline
from tensorflow_serving.apis import prediction_log_pb2

LOG = "tensorflow.serving.PredictionLog"


def log(**inputs: Any) -> dict[str, Any]:
    return {"predict_log": {"request": {"model_spec": {"signature_name": "s"}, "inputs": inputs}}}


def tensor(dtype: str, shape: list[int], **values: Any) -> dict[str, Any]:
    return {"dtype": dtype, "tensor_shape": {"dim": [{"size": size} for size in shape]}, **values}


def content(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, np.float32).tobytes()).decode()


def grown(made: dict[str, Any], rows: int, size: int) -> Any:
    """The input `x` of the larger request, after it has been through the engine."""
    larger = engine.encode_json(LOG, json.dumps(enlarged(made, rows, size, 100)))
    return prediction_log_pb2.PredictionLog.FromString(larger).predict_log.request.inputs["x"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (tensor("DT_FLOAT", [2, 2], float_val=[1, 2, 3, 4]), [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]),
        (tensor("DT_INT64", [2], int64_val=[1, 2]), [1, 2, 1, 2, 1]),
        (tensor("DT_INT64", [2, 2], int64_val=[7]), [7]),
        (tensor("DT_INT64", [2, 0]), []),
        (tensor("DT_STRING", [2], string_val=["YQ==", "Yg=="]), [b"a", b"b", b"a", b"b", b"a"]),
        (tensor("DT_COMPLEX64", [2], scomplex_val=[1, 2, 3, 4]), [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]),
    ],
    ids=lambda value: value["dtype"] if isinstance(value, dict) else "",
)
def test_rows_come_again(values: dict[str, Any], expected: list[Any]) -> None:
    larger = grown(log(x=values), 2, 5)
    found = [list(value) for field, value in larger.ListFields() if field.name.endswith("_val")]
    assert found == ([expected] if expected else [])
    assert larger.tensor_shape.dim[0].size == 5


def test_rows_come_again_in_bytes() -> None:
    larger = grown(log(x=tensor("DT_FLOAT", [2, 2], tensor_content=content(1, 2, 3, 4))), 2, 3)
    assert np.frombuffer(larger.tensor_content, np.float32).tolist() == [1, 2, 3, 4, 1, 2]
    assert [dim.size for dim in larger.tensor_shape.dim] == [3, 2]


@pytest.mark.parametrize("form", ["example_list", "example_list_with_context"])
def test_examples_come_again(form: str) -> None:
    one = {"features": {"feature": {"x": {"float_list": {"value": [1]}}}}}
    classify = {"classify_log": {"request": {"input": {form: {"examples": [one, {}]}}}, "response": {}}}
    assert enlarged(classify, 2, 3, 100) == {
        "classify_log": {"request": {"input": {form: {"examples": [one, {}, one]}}}}
    }
    assert enlarged(classify, 2, 3, sizes.MOST_BYTES) == {
        "classify_log": {"request": {"input": {form: {"examples": [{}, {}, {}]}}}}
    }


def test_a_large_request_has_zeros() -> None:
    made = log(x=tensor("DT_FLOAT", [1, 2], float_val=[1, 2]))
    larger = enlarged(made, 1, 4, sizes.MOST_BYTES // 4 + 1)
    assert larger == log(x=tensor("DT_FLOAT", [4, 2]))


def slot(*shape: int) -> dict[str, Any]:
    return {"dtype": "DT_FLOAT", "shape": list(shape)}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"kind": "none"}, None),
        ({"kind": "predict", "signature": "s", "inputs": {}}, None),
        ({"kind": "predict", "signature": "s", "inputs": {"x": slot()}}, None),
        ({"kind": "predict", "signature": "s", "inputs": {"x": slot(0, 3)}}, None),
        ({"kind": "predict", "signature": "s", "inputs": {"x": slot(2), "y": slot(3)}}, None),
        (
            {"kind": "predict", "signature": "s", "inputs": {"y": slot(2), "x": slot(2, 3)}},
            Outline("predict", "s", 2, 50),
        ),
        (
            {"kind": "predict", "signature": "s", "inputs": {"x": {"dtype": "DT_STRING", "shape": [2]}}},
            Outline("predict", "s", 2, 50),
        ),
        (
            {"kind": "predict", "signature": "s", "inputs": {"x": {"dtype": "DT_BOOL", "shape": [20, 2]}}},
            Outline("predict", "s", 20, 5),
        ),
        ({"kind": "classify", "signature": "s", "examples": 0}, None),
        ({"kind": "classify", "signature": "s", "examples": 3}, Outline("classify", "s", 3, 33)),
    ],
    ids=str,
)
def test_outlines(described: dict[str, Any], expected: Outline | None) -> None:
    assert outline(described, 100) == expected


@pytest.mark.parametrize(("dtype", "row_bytes"), [("DT_FLOAT", 4000), ("DT_UINT8", 1000), ("DT_STRING", 24000)])
def test_what_a_row_takes_is_not_what_its_text_takes(dtype: str, row_bytes: int) -> None:
    described = {"kind": "predict", "signature": "s", "inputs": {"x": {"dtype": dtype, "shape": [2, 10, 100]}}}
    assert outline(described, 100) == Outline("predict", "s", 2, row_bytes)
