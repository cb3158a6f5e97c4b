from __future__ import annotations

from typing import Any

import pytest
from servable.warmup.synthesis import LeftOut, Synthesized, synthesize


def slot(dtype: str = "DT_FLOAT", shape: list[int] | None = None, *, default: bool = False) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "tensor": "x:0", "has_default": default}


def signature(method: str = "tensorflow/serving/predict", **inputs: Any) -> dict[str, Any]:
    return {"method_name": method, "inputs": inputs, "outputs": {"y": slot()}}


def inputs_of(request: Synthesized) -> dict[str, Any]:
    """Type and shape of each input."""
    return {
        name: (tensor["dtype"], [dim["size"] for dim in tensor["tensor_shape"]["dim"]])
        for name, tensor in request.log["predict_log"]["request"]["inputs"].items()
    }


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ([-1, 3], (1,), [[1, 3]]),
        ([-1, 3], (1, 8), [[1, 3], [8, 3]]),
        ([-1, -1, -1, 3], (2,), [[2, 1, 1, 3]]),
        ([4, 3], (1, 8), [[4, 3]]),
        ([], (1, 8), [[]]),
        (None, (1,), [[1]]),
        ([2, 0], (1,), [[2, 0]]),
    ],
    ids=str,
)
def test_shapes(shape: list[int] | None, sizes: tuple[int, ...], expected: list[list[int]]) -> None:
    made, left_out = synthesize({"s": signature(x=slot(shape=shape))}, sizes)
    assert [inputs_of(request)["x"] for request in made] == [("DT_FLOAT", shape) for shape in expected]
    assert left_out == []


def test_signatures_come_by_name_and_inputs_with_defaults_stay_out() -> None:
    signatures = {
        "z": signature(),
        "a": signature(b=slot("DT_STRING", [-1]), a=slot("DT_INT64", [-1]), c=slot(default=True)),
        "__saved_model_init_op": signature(),
        "__saved_model_train_op": signature(),
    }
    made, _ = synthesize(signatures)
    assert [request.signature for request in made] == ["a", "z"]
    assert inputs_of(made[0]) == {"a": ("DT_INT64", [1]), "b": ("DT_STRING", [1])}
    assert inputs_of(made[1]) == {}
    assert made[0].log["predict_log"]["request"]["model_spec"] == {"signature_name": "a"}


@pytest.mark.parametrize("kind", ["classify", "regress"])
def test_signatures_over_examples_get_empty_ones(kind: str) -> None:
    made, _ = synthesize({"s": signature(f"tensorflow/serving/{kind}", inputs=slot("DT_STRING", [-1]))}, (1, 2))
    assert [request.log[f"{kind}_log"]["request"]["input"]["example_list"]["examples"] for request in made] == [
        [{}],
        [{}, {}],
    ]


@pytest.mark.parametrize("dtype", ["DT_RESOURCE", "DT_VARIANT", "DT_INVALID"])
def test_what_no_request_can_hold_is_left_out(dtype: str) -> None:
    made, left_out = synthesize(
        {"s": signature(x=slot(), r=slot(dtype, [])), "t": signature(r=slot(dtype, default=True))}
    )
    assert [request.signature for request in made] == ["t"]
    assert left_out == [LeftOut("s", "nothing can be sent for its input r")]
