"""Models as people have them, with random inputs: the servers and TensorFlow in this process say the same.

Sums of many floats are compared with a tolerance: how their terms are grouped depends on how many threads take part,
and on the kernels that TensorFlow fuses in a session or in a function. All else is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from tests.e2e import random_examples
from tests.e2e.grpc_client import TIMEOUT_S, Grpc, predict_request
from tests.e2e.random_tensors import (
    KINDS,
    Expected,
    Generator,
    Values,
    assert_same_json,
    content,
    json_of,
    objects,
    random_values,
    tensor_of,
    to_json,
    typed,
)
from tests.e2e.rest_client import Rest
from tests.e2e.tensorflow_models import WORDS, Reference

RELATIVE, ABSOLUTE = 1e-5, 1e-6

Inputs = dict[str, Values]


@dataclass(frozen=True)
class Case:
    """A signature, and what one can send to it."""

    model: str
    signature: str
    inputs: Callable[[int, Generator], Inputs]

    def __str__(self) -> str:
        return f"{self.model}-{self.signature}"


def images(count: int, random: Generator) -> Inputs:
    return {"image": _floats(random.standard_normal((count, 16, 16, 3)))}


def sentences(count: int, random: Generator) -> Inputs:
    """Known words and unknown ones, in upper case too, with white space of all sorts, or with nothing else."""
    known = [*WORDS, *(word.upper() for word in WORDS), b"unknown", b"\xc3\xa4", b"\x00", b""]
    spaces = [b" ", b"  ", b"\t", b"\n", b"\r\n"]
    lengths = random.integers(0, 12, count)
    texts = [
        b"".join(known[random.integers(len(known))] + spaces[random.integers(len(spaces))] for _ in range(length))
        for length in lengths
    ]
    return {"sentence": Values(KINDS["string"], objects(texts), (count,))}


def heads(count: int, random: Generator) -> Inputs:
    return {
        "image": _floats(random.standard_normal((count, 8))),
        "allowed": random_values(KINDS["bool"], (count, 5), random),
        "key": random_values(KINDS["int64"], (count,), random),
        "name": Values(KINDS["string"], objects([b"n%d" % number for number in range(count)]), (count,)),
    }


def only_image(count: int, random: Generator) -> Inputs:
    return {"image": heads(count, random)["image"]}


def examples(count: int, random: Generator) -> Inputs:
    rows = [example.SerializeToString() for example in random_examples.random_examples(count, random)]
    return {"examples": Values(KINDS["string"], objects(rows), (count,))}


def _floats(array: Any) -> Values:
    return Values(KINDS["float32"], array.astype(np.float32).reshape(-1), array.shape)


CASES = [
    Case("image", "serving_default", images),
    Case("image", "serve", images),
    Case("text", "serving_default", sentences),
    Case("heads", "serving_default", heads),
    Case("heads", "embed", only_image),
    Case("trees", "predict", examples),
]


def expected_of(reference: Reference, case: Case, inputs: Inputs) -> dict[str, Any]:
    return reference(case.model, case.signature, {name: values.tensor for name, values in inputs.items()})


@pytest.mark.parametrize(
    ("case", "count"),
    # TensorFlow's convolutions have no answer to an empty batch.
    [(case, count) for case in CASES for count in (0, 1, 2, 33) if count > 0 or case.model != "image"],
    ids=str,
)
def test_predict_over_grpc(
    model_grpc: Grpc, content_grpc: Grpc, reference: Reference, random: Generator, case: Case, count: int
) -> None:
    inputs = case.inputs(count, random)
    expected = expected_of(reference, case, inputs)
    for client, is_content in ((model_grpc, False), (content_grpc, True)):
        for form in (content, typed):
            messages = {name: form(values) for name, values in inputs.items()}
            answer = client.predict(predict_request(case.model, messages, signature=case.signature)).outputs
            assert sorted(answer) == sorted(expected)
            for name, tensor in expected.items():
                if tensor.dtype.is_floating:
                    came = tensor_of(answer[name])
                    assert (came.dtype, came.shape) == (tensor.dtype, tensor.shape)
                    np.testing.assert_allclose(came, tensor, RELATIVE, ABSOLUTE)
                else:
                    Expected(tensor).check(answer[name], is_content=is_content)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_predict_over_rest(model_rest: Rest, reference: Reference, random: Generator, case: Case, count: int) -> None:
    inputs = case.inputs(count, random)
    expected = expected_of(reference, case, inputs)
    columns = {name: to_json(values, random) for name, values in inputs.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_columns = predicted(model_rest, case, {"inputs": columns})["outputs"]
    by_rows = predicted(model_rest, case, {"instances": rows})["predictions"]
    if len(expected) == 1:
        (name,) = expected
        by_columns, by_rows = {name: by_columns}, [{name: row} for row in by_rows]
    assert sorted(by_columns) == sorted(expected)
    for name, tensor in expected.items():
        check_json(by_columns[name], name, tensor)
        check_json([row.pop(name) for row in by_rows], name, tensor)
    assert not any(by_rows), "outputs that the signature does not have"


def predicted(rest: Rest, case: Case, body: dict[str, Any]) -> Any:
    answer = rest.predict(case.model, {"signature_name": case.signature, **body})
    assert answer.status == 200, answer.body
    return answer.json


def check_json(answer: Any, name: str, tensor: Any) -> None:
    if tensor.dtype.is_floating:
        np.testing.assert_allclose(answer, json_of(name, tensor), RELATIVE, ABSOLUTE)
    else:
        assert_same_json(answer, name, tensor)


def test_outputs_without_rows_come_by_columns_alone(model_rest: Rest, reference: Reference, random: Generator) -> None:
    for shape in ((), (3,), (2, 1, 2)):
        values = Values(KINDS["float64"], random.standard_normal(int(np.prod(shape))), shape)
        value = to_json(values, random)
        answer = model_rest.predict("heads", {"signature_name": "describe", "inputs": value})
        for name, tensor in reference("heads", "describe", {"x": values.tensor}).items():
            assert_same_json(answer.json["outputs"][name], name, tensor)
        refused = model_rest.predict("heads", {"signature_name": "describe", "instances": [value]})
        assert refused.status == 400
        assert "rank has no shape information" in refused.error


# Examples: a context belongs to all of them, and an example's own feature goes before that of the context.

SIZES = [1, 2, 33]


@dataclass(frozen=True)
class Examples:
    """Some examples, perhaps with a context, in all the ways in which they can be written."""

    examples: list[Any]
    context: Any | None

    def fill(self, request: Any) -> Any:
        if self.context is None:
            request.input.example_list.examples.extend(self.examples)
        else:
            request.input.example_list_with_context.examples.extend(self.examples)
            request.input.example_list_with_context.context.CopyFrom(self.context)
        return request

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"examples": [random_examples.to_json(example) for example in self.examples]}
        return body if self.context is None else {**body, "context": random_examples.to_json(self.context)}

    @property
    def tensor(self) -> Any:
        return tf.constant([self._whole(example).SerializeToString() for example in self.examples])

    def _whole(self, example: Any) -> Any:
        whole = example_pb2.Example()
        for part in (self.context or whole, example):
            for name, feature in part.features.feature.items():
                whole.features.feature[name].CopyFrom(feature)
        return whole


@pytest.fixture(params=[(count, has_context) for count in SIZES for has_context in (False, True)], ids=str)
def some(request: pytest.FixtureRequest, random: Generator) -> Examples:
    count, has_context = request.param
    context = random_examples.random_example(random) if has_context else None
    if context is not None:
        del context.features.feature["sizes"]
    return Examples(random_examples.random_examples(count, random), context)


def check_classes(classifications: list[list[tuple[str, float]]], expected: dict[str, Any]) -> None:
    """Labels and scores of each example; what the signature lacks is empty or zero."""
    shape = next(iter(expected.values())).shape
    labels = expected["classes"].numpy() if "classes" in expected else np.full(shape, b"")
    scores = expected["scores"].numpy() if "scores" in expected else np.zeros(shape)
    assert [[label.encode() for label, _ in classes] for classes in classifications] == labels.tolist()
    np.testing.assert_allclose(
        [[score for _, score in classes] for classes in classifications], scores, RELATIVE, ABSOLUTE
    )


def classes_of(result: Any) -> list[list[tuple[str, float]]]:
    return [[(one.label, one.score) for one in classes.classes] for classes in result.classifications]


@pytest.mark.parametrize("signature", ["", "classify", "labels", "scores"])
def test_classify(model_grpc: Grpc, model_rest: Rest, reference: Reference, some: Examples, signature: str) -> None:
    expected = reference("trees", signature or "serving_default", {"inputs": some.tensor})
    request = some.fill(classification_pb2.ClassificationRequest())
    request.model_spec.name, request.model_spec.signature_name = "trees", signature
    check_classes(classes_of(model_grpc.prediction.Classify(request, timeout=TIMEOUT_S).result), expected)
    answer = model_rest.send("POST", "/v1/models/trees:classify", {"signature_name": signature, **some.json})
    assert answer.status == 200, answer.body
    check_classes(answer.json["results"], expected)


@pytest.mark.parametrize("signature", ["regress", "flat"])
def test_regress(model_grpc: Grpc, model_rest: Rest, reference: Reference, some: Examples, signature: str) -> None:
    """Exact: the model's sums are."""
    expected = reference("trees", signature, {"inputs": some.tensor})["outputs"].numpy().reshape(-1).tolist()
    request = some.fill(regression_pb2.RegressionRequest())
    request.model_spec.name, request.model_spec.signature_name = "trees", signature
    result = model_grpc.prediction.Regress(request, timeout=TIMEOUT_S).result
    assert [regression.value for regression in result.regressions] == expected
    answer = model_rest.send("POST", "/v1/models/trees:regress", {"signature_name": signature, **some.json})
    assert answer.status == 200, answer.body
    assert answer.json["results"] == expected


def test_multi_inference(model_grpc: Grpc, reference: Reference, some: Examples, random: Generator) -> None:
    methods = {"classify": "classify", "scores": "classify", "regress": "regress", "flat": "regress"}
    request = some.fill(inference_pb2.MultiInferenceRequest())
    names = random.permutation(list(methods)).tolist()
    for name in names:
        task = request.tasks.add(method_name=f"tensorflow/serving/{methods[name]}")
        task.model_spec.name, task.model_spec.signature_name = "trees", name
    results = model_grpc.prediction.MultiInference(request, timeout=TIMEOUT_S).results
    assert [result.model_spec.signature_name for result in results] == names
    for name, result in zip(names, results, strict=True):
        expected = reference("trees", name, {"inputs": some.tensor})
        if methods[name] == "classify":
            check_classes(classes_of(result.classification_result), expected)
        else:
            values = [regression.value for regression in result.regression_result.regressions]
            assert values == expected["outputs"].numpy().reshape(-1).tolist()
