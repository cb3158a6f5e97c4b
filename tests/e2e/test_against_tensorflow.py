"""Random tensors of every type and rank: the server answers what TensorFlow itself says, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.e2e.grpc_client import TIMEOUT_S, Grpc, code_of, details_of, predict_request
from tests.e2e.random_tensors import (
    JSON_KINDS,
    KINDS,
    Array,
    Expected,
    Generator,
    Kind,
    Shape,
    Values,
    assert_same_json,
    content,
    delimited,
    fits_json,
    objects,
    random_shape,
    random_shapes,
    random_strings,
    random_texts,
    random_values,
    scattered,
    shortened,
    tensor_of,
    to_json,
    typed,
    values_of,
)
from tests.e2e.random_tensors import elements as elements_of
from tests.e2e.rest_client import Rest
from tests.e2e.tensorflow_models import Reference

RANKS = range(9)
MOST_DIMENSIONS = 254 if int(np.__version__.split(".")[0]) >= 2 else 32
"""What a message can have. The TensorFlow that comes with numpy 1 cannot take a larger tensor from Python."""
STRING = KINDS["string"]

FORMS = (content, typed, shortened)

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=str)
each_json_kind = pytest.mark.parametrize("kind", [*JSON_KINDS, STRING], ids=str)
each_rank = pytest.mark.parametrize("rank", RANKS)

Inputs = dict[str, Any]


class OverGrpc:
    """Both servers and TensorFlow: whether they say the same about the same tensors."""

    def __init__(self, model_grpc: Grpc, content_grpc: Grpc, reference: Reference) -> None:
        self._servers = [(model_grpc, False), (content_grpc, True)]
        self._reference = reference

    def check(self, model: str, signature: str, variants: Iterable[Inputs], outputs: Sequence[str] = ()) -> None:
        """`variants` are messages of the same inputs."""
        first, *others = variants
        tensors = {name: tensor_of(proto) for name, proto in first.items()}
        expected = {name: Expected(tensor) for name, tensor in self._reference(model, signature, tensors).items()}
        for inputs in (first, *others):
            request = predict_request(model, inputs, signature=signature, outputs=outputs)
            for server, is_content in self._servers:
                answer = server.predict(request).outputs
                assert sorted(answer) == sorted(outputs or expected)
                for name in answer:
                    expected[name].check(answer[name], is_content=is_content)


@pytest.fixture(scope="module")
def over_grpc(model_grpc: Grpc, content_grpc: Grpc, reference: Reference) -> OverGrpc:
    return OverGrpc(model_grpc, content_grpc, reference)


@each_kind
def test_the_messages_of_these_tests_are_what_tensorflow_takes_them_for(random: Generator, kind: Kind) -> None:
    for rank in RANKS:
        values = random_values(kind, random_shape(rank, random), random)
        for form in FORMS:
            assert typed(values_of(tensor_of(form(values)))).SerializeToString() == typed(values).SerializeToString()


@each_rank
@each_kind
def test_tensors_over_grpc(over_grpc: OverGrpc, random: Generator, kind: Kind, rank: int) -> None:
    for shape in random_shapes(rank, random):
        values = random_values(kind, shape, random)
        over_grpc.check("types", kind.name, [{"x": form(values)} for form in FORMS])


@each_kind
def test_very_many_dimensions_over_grpc(over_grpc: OverGrpc, random: Generator, kind: Kind) -> None:
    for rank in (int(random.integers(9, MOST_DIMENSIONS)), MOST_DIMENSIONS):
        values = random_values(kind, random_large_rank(rank, random), random)
        over_grpc.check("types", kind.name, [{"x": form(values)} for form in FORMS])


def random_large_rank(rank: int, random: Generator) -> Shape:
    """Ones but for a few."""
    sizes = np.ones(rank, int)
    sizes[random.choice(rank, 5, replace=False)] = random_shape(5, random, smallest=1)
    return tuple(sizes.tolist())


@each_kind
def test_two_inputs_over_grpc(over_grpc: OverGrpc, random: Generator, kind: Kind) -> None:
    for _ in range(3):
        a, b = (random_values(kind, random_shape(int(random.integers(9)), random), random) for _ in "ab")
        variants = [{"a": content(a), "b": typed(b)}, {"b": content(b), "a": typed(a)}]
        over_grpc.check("types", f"{kind}_two", variants)


def written_by_hand(signature: str, tensor: bytes) -> bytes:
    """A request for the model `types`; what Python writes would be tidier."""
    request = predict_request("types", {}, signature=signature)
    entry = delimited(1, b"x") + delimited(2, tensor)
    return bytes(request.SerializeToString()) + delimited(2, entry)


PREDICT = "/tensorflow.serving.PredictionService/Predict"


@each_kind
def test_values_in_other_encodings(
    model_grpc: Grpc, content_grpc: Grpc, reference: Reference, random: Generator, kind: Kind
) -> None:
    for number in range(10):
        shape = random_shape(int(random.integers(5)), random, smallest=number % 2)
        tensor = scattered(random_values(kind, shape, random), random)
        expected = reference("types", kind.name, {"x": tf.io.parse_tensor(tensor, kind.dtype)})
        for client, is_content in ((model_grpc, False), (content_grpc, True)):
            predict: Any = client.channel.unary_unary(PREDICT)
            answer = predict(written_by_hand(kind.name, tensor), timeout=TIMEOUT_S)
            outputs = predict_pb2.PredictResponse.FromString(answer).outputs
            for name in expected:
                Expected(expected[name]).check(outputs[name], is_content=is_content)


def test_bytes_that_are_no_booleans_are_refused(model_grpc: Grpc) -> None:
    """TensorFlow refuses them too, and its ops would do anything with them."""
    message = content(Values(KINDS["bool"], np.array([1, 2], np.uint8), (2,)))
    with pytest.raises(tf.errors.InvalidArgumentError):
        tensor_of(message)
    with pytest.raises(grpc.RpcError) as caught:
        model_grpc.predict(predict_request("types", {"x": message}, signature="bool"))
    assert (code_of(caught.value), details_of(caught.value)) == ("INVALID_ARGUMENT", "tensor parsing error: x")


class OverRest:
    """REST and TensorFlow: whether they say the same, by columns and by rows."""

    def __init__(self, rest: Rest, reference: Reference, random: Generator) -> None:
        self._rest = rest
        self._reference = reference
        self._random = random

    def check_columns(self, model: str, signature: str, inputs: dict[str, Values]) -> None:
        columns = {name: to_json(values, self._random) for name, values in inputs.items()}
        answer = self._predict(model, {"signature_name": signature, "inputs": self._perhaps_bare(columns)})
        expected = self._expected(model, signature, inputs)
        assert list(answer) == ["outputs"]
        assert sorted(answer["outputs"]) == sorted(expected)
        for name, tensor in expected.items():
            assert_same_json(answer["outputs"][name], name, tensor)

    def check_rows(self, model: str, signature: str, inputs: dict[str, Values]) -> None:
        columns = {name: to_json(values, self._random) for name, values in inputs.items()}
        named = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        rows = next(iter(columns.values())) if self._perhaps_bare(columns) is not columns else named
        answer = self._predict(model, {"signature_name": signature, "instances": rows})
        expected = self._expected(model, signature, inputs)
        assert list(answer) == ["predictions"]
        for name, tensor in expected.items():
            assert_same_json([row.pop(name) for row in answer["predictions"]], name, tensor)
        assert not any(answer["predictions"]), "outputs that the signature does not have"

    def _perhaps_bare(self, columns: dict[str, Any]) -> Any:
        """The only input may go without its name."""
        return next(iter(columns.values())) if len(columns) == 1 and self._random.random() < 0.5 else columns

    def _predict(self, model: str, body: Any) -> Any:
        answer = self._rest.predict(model, printed(body, self._random))
        assert answer.status == 200, answer.body
        return answer.json

    def _expected(self, model: str, signature: str, inputs: dict[str, Values]) -> dict[str, Any]:
        return self._reference(model, signature, {name: values.tensor for name, values in inputs.items()})


def printed(body: Any, random: Generator) -> bytes:
    """JSON in one of the ways in which clients write it."""
    choices: list[Callable[[Any], str]] = [
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: json.dumps(value, separators=(",", ":")),
        lambda value: json.dumps(value, indent=2, sort_keys=True),
    ]
    return choices[random.integers(len(choices))](body).encode()


@pytest.fixture
def over_rest(model_rest: Rest, reference: Reference, random: Generator) -> OverRest:
    return OverRest(model_rest, reference, random)


@each_rank
@each_json_kind
def test_columns_over_rest(over_rest: OverRest, random: Generator, kind: Kind, rank: int) -> None:
    for shape in filter(fits_json, random_shapes(rank, random)):
        over_rest.check_columns("types", kind.name, {"x": random_values(kind, shape, random)})


@pytest.mark.parametrize("rank", RANKS[1:])
@each_json_kind
def test_rows_over_rest(over_rest: OverRest, random: Generator, kind: Kind, rank: int) -> None:
    for shape in filter(fits_json, random_shapes(rank, random)):
        if shape[0] > 0:
            over_rest.check_rows("types", f"{kind}_rows", {"x": random_values(kind, shape, random)})


@each_rank
def test_text_over_rest(over_rest: OverRest, random: Generator, rank: int) -> None:
    """Outputs whose names do not end in `_bytes` come as JSON strings."""
    shape = random_shape(rank, random, smallest=1)
    texts = {"x": Values(STRING, random_texts(elements_of(shape), random), shape)}
    over_rest.check_columns("types", "text", texts)
    if rank > 0:
        over_rest.check_rows("types", "text_rows", texts)


@pytest.mark.parametrize("kind", [KINDS["float32"], KINDS["bool"], STRING], ids=str)
def test_very_many_dimensions_over_rest(over_rest: OverRest, random: Generator, kind: Kind) -> None:
    values = {"x": random_values(kind, random_large_rank(MOST_DIMENSIONS, random), random)}
    over_rest.check_columns("types", kind.name, values)
    over_rest.check_rows("types", f"{kind}_rows", values)


def mixed_values(shape: Shape, random: Generator) -> dict[str, Values]:
    """The inputs of the model that has several."""
    kinds = {"number": "float32", "count": "int64", "word": "string", "flag": "bool"}
    return {name: random_values(KINDS[kind], shape, random) for name, kind in kinds.items()}


def test_inputs_of_several_types_and_a_filter_over_grpc(over_grpc: OverGrpc, random: Generator) -> None:
    outputs = ["chosen", "wrapped", "named_bytes", "length", "either", "half", "complex", "short", "words"]
    for _ in range(30):
        values = mixed_values(random_shape(int(random.integers(9)), random), random)
        forms = [content if is_content else typed for is_content in random.random(len(values)) < 0.5]
        inputs = {name: form(values[name]) for name, form in zip(values, forms, strict=True)}
        wanted = random.permutation(outputs)[: random.integers(len(outputs))].tolist()
        over_grpc.check("mixed", "wide", [inputs], wanted)


def test_inputs_of_several_types_over_rest(over_rest: OverRest, random: Generator) -> None:
    for _ in range(20):
        values = mixed_values(random_shape(int(random.integers(1, 9)), random, smallest=1), random)
        over_rest.check_columns("mixed", "serving_default", values)
        over_rest.check_rows("mixed", "serving_default", values)


def large_strings(random: Generator) -> list[Array]:
    return [objects([random.bytes(3_000_000), b"", random.bytes(100)]), random_strings(10_000, random)]


@pytest.mark.parametrize("name", ["float64", "int64", "uint8"])
def test_large_tensors_over_grpc(over_grpc: OverGrpc, random: Generator, name: str) -> None:
    """Megabytes, which are many frames of HTTP/2."""
    values = random_values(KINDS[name], (3, 100_000), random)
    over_grpc.check("types", name, [{"x": content(values)}, {"x": typed(values)}])


def test_large_strings_over_grpc(over_grpc: OverGrpc, random: Generator) -> None:
    for cells in large_strings(random):
        values = Values(STRING, cells, cells.shape)
        over_grpc.check("types", "string", [{"x": content(values)}, {"x": typed(values)}])


@pytest.mark.parametrize("name", ["float32", "int64"])
def test_large_tensors_over_rest(over_rest: OverRest, random: Generator, name: str) -> None:
    """Some hundred kilobytes of text."""
    values = {"x": random_values(KINDS[name], (5_000, 2), random)}
    over_rest.check_columns("types", name, values)
    over_rest.check_rows("types", f"{name}_rows", values)


def test_large_strings_over_rest(over_rest: OverRest, random: Generator) -> None:
    for cells in large_strings(random):
        values = {"x": Values(STRING, cells, cells.shape)}
        over_rest.check_columns("types", "string", values)
        over_rest.check_rows("types", "string_rows", values)
