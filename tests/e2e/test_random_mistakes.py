"""Requests with random mistakes: what still means something gets TensorFlow's answer, all else a clean error, at once.

After each of them the server answers a good request as before.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import classification_pb2, predict_pb2

from tests.e2e.grpc_client import Grpc, code_of, details_of, predict_request
from tests.e2e.random_examples import random_examples
from tests.e2e.random_tensors import (
    KINDS,
    Expected,
    Generator,
    Values,
    assert_same_json,
    content,
    random_shape,
    random_values,
    shortened,
    tensor_of,
    to_json,
    typed,
)
from tests.e2e.rest_client import Answer, Rest
from tests.e2e.tensorflow_models import Reference

SERVICE = "/tensorflow.serving.PredictionService"
TIMEOUT_S = 20.0
"""A mistake that takes longer hangs."""

REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
"""For messages that are messages; the last two are about names of models and signatures."""

ANSWERS = {"OK", "INTERNAL", "RESOURCE_EXHAUSTED", *REFUSALS}
"""For what is no message; neither a hang nor a server that is gone."""

MOST_ELEMENTS = 100_000
"""More may be refused, and are too many for the test."""

rounds = pytest.mark.parametrize("round_", range(4))
REQUESTS = 100
"""In each round."""

Good = Callable[[], None]


# Mistakes in bytes, whatever they stand for.


def damaged(message: bytes, random: Generator) -> bytes:
    """One random change, or two."""
    for _ in range(random.integers(1, 3)):
        start = int(random.integers(len(message) + 1))
        end = start + int(random.integers(1, 9))
        message = DAMAGES[random.integers(len(DAMAGES))](message, start, end, random)
    return message


DAMAGES: list[Callable[[bytes, int, int, Generator], bytes]] = [
    lambda message, start, _end, random: _flipped(message, start, 1 << random.integers(8)),
    lambda message, start, _end, random: _flipped(message, start, int(random.integers(1, 256))),
    lambda message, start, end, _random: message[:start] + message[end:],
    lambda message, start, end, random: message[:start] + random.bytes(end - start) + message[start:],
    lambda message, start, end, _random: message[:end] + message[start:],
    lambda message, start, _end, _random: message[:start],
    lambda message, start, _end, _random: message[start:] + message[:start],
]


def _flipped(message: bytes, place: int, mask: int) -> bytes:
    changed = bytearray(message)
    if place < len(changed):
        changed[place] ^= mask
    return bytes(changed)


# Mistakes in requests of Predict that are still messages.


def mistaken(request: Any, random: Generator) -> Any:
    """A few random mistakes."""
    for _ in range(random.integers(1, 3)):
        if request.inputs:
            names = sorted(request.inputs)
            MISTAKES[random.integers(len(MISTAKES))](request, names[random.integers(len(names))], random)
    return request


def _other_type(request: Any, name: str, random: Generator) -> None:
    request.inputs[name].dtype = int(random.choice([*range(-1, 40), *range(100, 125), 2**31 - 1]))


def _other_size(request: Any, name: str, random: Generator) -> None:
    dims = request.inputs[name].tensor_shape.dim
    if dims:
        dims[random.integers(len(dims))].size = int(random.choice([-1, -(2**63), 0, 1, 2, 7, 2**31, 2**40, 2**63 - 1]))


def _more_dimensions(request: Any, name: str, random: Generator) -> None:
    for _ in range(random.choice([1, 2, 5, 300])):
        request.inputs[name].tensor_shape.dim.add(size=int(random.choice([1, 1, 1, 2])))


def _fewer_dimensions(request: Any, name: str, random: Generator) -> None:
    del request.inputs[name].tensor_shape.dim[:1]


def _no_shape(request: Any, name: str, _random: Generator) -> None:
    request.inputs[name].ClearField("tensor_shape")


def _unknown_rank(request: Any, name: str, _random: Generator) -> None:
    request.inputs[name].tensor_shape.unknown_rank = True


def _other_content(request: Any, name: str, random: Generator) -> None:
    request.inputs[name].tensor_content = damaged(request.inputs[name].tensor_content, random)


def _other_values(request: Any, name: str, random: Generator) -> None:
    """More values, or values in another field."""
    kind = list(KINDS.values())[random.integers(len(KINDS))]
    values = typed(random_values(kind, (int(random.integers(4)),), random))
    values.ClearField("dtype")
    values.ClearField("tensor_shape")
    request.inputs[name].MergeFrom(values)


def _no_values(request: Any, name: str, _random: Generator) -> None:
    kept = request.inputs[name]
    empty = type(kept)(dtype=kept.dtype, tensor_shape=kept.tensor_shape)
    kept.CopyFrom(empty)


def _other_name(request: Any, name: str, random: Generator) -> None:
    request.inputs[str(random.choice(["", "y", name + "\x00", name + " ", "ä", name * 1000]))].CopyFrom(
        request.inputs[name]
    )
    if random.random() < 0.5:
        del request.inputs[name]


def _no_input(request: Any, name: str, _random: Generator) -> None:
    del request.inputs[name]


def _other_outputs(request: Any, _name: str, random: Generator) -> None:
    request.output_filter.extend(random.choice(["same", "flat", "joined", "", "nope", "x:0"], 2).tolist())


def _other_model(request: Any, _name: str, random: Generator) -> None:
    request.model_spec.name = str(random.choice(["", "nope", "types\x00", "types/1", "mixed"]))


def _other_signature(request: Any, _name: str, random: Generator) -> None:
    request.model_spec.signature_name = str(
        random.choice(["", "nope", "float32", "text_rows", "__saved_model_init_op"])
    )


def _other_version(request: Any, _name: str, random: Generator) -> None:
    request.model_spec.version.value = int(random.choice([0, 1, 2, -1, 2**63 - 1]))


def _label(request: Any, _name: str, random: Generator) -> None:
    request.model_spec.version_label = str(random.choice(["", "stable"]))


def _no_model(request: Any, _name: str, _random: Generator) -> None:
    request.ClearField("model_spec")


MISTAKES = [
    _other_type, _other_size, _other_size, _more_dimensions, _fewer_dimensions, _no_shape, _unknown_rank,
    _other_content, _other_content, _other_values, _no_values, _other_name, _no_input, _other_outputs,
    _other_model, _other_signature, _other_version, _label, _no_model,
]  # fmt: skip


class Judge:
    """What a request of Predict for the model `types` means to TensorFlow."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def answer(self, request: Any) -> dict[str, Any] | None:
        """The outputs, or nothing if there is a mistake."""
        spec = request.model_spec
        version = spec.WhichOneof("version_choice")
        outputs = list(request.output_filter)
        if spec.name != "types" or version == "version_label" or (version == "version" and spec.version.value != 1):
            return None
        signature = self._reference.signature("types", spec.signature_name or "serving_default")
        if signature is None or set(request.inputs) != set(signature.structured_input_signature[1]):
            return None
        if len(set(outputs)) < len(outputs) or not set(outputs) <= set(signature.structured_outputs):
            return None
        try:
            answers = signature(**{name: self._tensor(proto) for name, proto in request.inputs.items()})
        except (tf.errors.InvalidArgumentError, MistakeError):
            return None
        return {name: answers[name] for name in outputs or answers}

    def _tensor(self, proto: Any) -> Any:
        if proto.dtype not in [kind.dtype.as_datatype_enum for kind in KINDS.values()] or extent(proto) > MOST_ELEMENTS:
            raise MistakeError
        return tensor_of(proto)


class MistakeError(Exception):
    """Of a kind that TensorFlow is not to be tried with: it may abort the process."""


def extent(proto: Any) -> int:
    """Elements, if no dimension were zero."""
    product = 1
    for dim in proto.tensor_shape.dim:
        product *= max(1, dim.size)
    return product


@pytest.fixture
def good(model_grpc: Grpc, reference: Reference) -> Good:
    """A good request, and its answer."""
    values = Values(KINDS["float32"], np.arange(6, dtype=np.float32), (2, 3))
    request = predict_request("types", {"x": typed(values)}, signature="float32")
    expected = {name: Expected(tensor) for name, tensor in reference("types", "float32", {"x": values.tensor}).items()}

    def check() -> None:
        answer = model_grpc.predict(request, timeout=TIMEOUT_S).outputs
        for name, tensor in expected.items():
            tensor.check(answer[name])

    return check


def good_requests(random: Generator) -> Iterator[Any]:
    for _ in range(REQUESTS):
        kind = list(KINDS.values())[random.integers(len(KINDS))]
        form = (content, typed, shortened)[random.integers(3)]
        names, signature = ("x", kind.name) if random.random() < 0.7 else ("ab", f"{kind}_two")
        inputs = {
            name: form(random_values(kind, random_shape(int(random.integers(4)), random), random)) for name in names
        }
        yield predict_request("types", inputs, signature=signature)


def outcome(grpc_client: Grpc, method: str, message: bytes) -> tuple[str, Any]:
    """The code, and the answer or the text."""
    call: Any = grpc_client.channel.unary_unary(f"{SERVICE}/{method}")
    try:
        return "OK", call(message, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return code_of(error), details_of(error)


class Judgement:
    """Sends requests of Predict for the model `types`, and compares the answers with what they deserve."""

    def __init__(self, client: Grpc, reference: Reference) -> None:
        self._client = client
        self._judge = Judge(reference)

    def check_damaged(self, message: bytes) -> None:
        """What is no message gets any clean answer; what is one gets the right answer, written as it should be.

        Parsers differ in what they take for damage: fields of another wire type, varints of more than 64 bits, mistakes
        in parts that nobody asks for. So the same is sent again as Python writes it.
        """
        code, answer = outcome(self._client, "Predict", message)
        assert code in ANSWERS, answer
        try:
            request = predict_pb2.PredictRequest.FromString(message)
        except DecodeError:
            return
        request.DiscardUnknownFields()
        self.check(request)

    def check(self, request: Any) -> None:
        code, answer = outcome(self._client, "Predict", request.SerializeToString())
        expected = self._judge.answer(request)
        if code == "OK":
            assert expected is not None, request
            outputs = predict_pb2.PredictResponse.FromString(answer).outputs
            assert sorted(outputs) == sorted(expected)
            for name in expected:
                Expected(expected[name]).check(outputs[name])
        elif code == "RESOURCE_EXHAUSTED":
            assert any(extent(proto) > MOST_ELEMENTS for proto in request.inputs.values()), answer
        else:
            assert code in REFUSALS, answer
            assert expected is None, (answer, request)


@pytest.fixture
def judgement(model_grpc: Grpc, reference: Reference) -> Judgement:
    return Judgement(model_grpc, reference)


@rounds
def test_damaged_predict_messages(judgement: Judgement, good: Good, random: Generator, round_: int) -> None:
    for request in good_requests(random):
        judgement.check_damaged(damaged(request.SerializeToString(), random))
        good()


@rounds
def test_mistaken_predict_requests(judgement: Judgement, good: Good, random: Generator, round_: int) -> None:
    for request in good_requests(random):
        judgement.check(mistaken(request, random))
        good()


@rounds
def test_damaged_examples(model_grpc: Grpc, reference: Reference, good: Good, random: Generator, round_: int) -> None:
    for _ in range(REQUESTS):
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = "trees"
        request.input.example_list.examples.extend(random_examples(int(random.integers(1, 4)), random))
        message = damaged(request.SerializeToString(), random)
        code, answer = outcome(model_grpc, "Classify", message)
        assert code in ANSWERS, answer
        with suppress(DecodeError):
            check_classes(model_grpc, reference, classification_pb2.ClassificationRequest.FromString(message))
        good()


def check_classes(client: Grpc, reference: Reference, request: Any) -> None:
    request.DiscardUnknownFields()
    code, answer = outcome(client, "Classify", request.SerializeToString())
    if request.model_spec != type(request.model_spec)(name="trees") or not request.input.example_list.examples:
        assert code in REFUSALS, answer
        return
    examples = [one.SerializeToString() for one in request.input.example_list.examples]
    try:
        expected = reference("trees", "classify", {"inputs": tf.constant(examples, tf.string)})
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):  # the latter for an error whose text is none
        assert code == "INVALID_ARGUMENT", (answer, request)
        return
    assert code == "OK", (answer, request)
    result = classification_pb2.ClassificationResponse.FromString(answer).result
    scores = [[one.score for one in classes.classes] for classes in result.classifications]
    np.testing.assert_allclose(scores, expected["scores"].numpy(), rtol=1e-6)


# Mistakes in JSON with numbers, whose meaning is short to write down.

JSON_TYPES: dict[str, tuple[type, ...]] = {"float32": (int, float), "int64": (int,), "bool": (bool,)}


def parsed(text: str) -> Any:
    """A body as Python reads it, told what differs: the first value is all that counts, and its first keys."""

    def number(digits: str) -> float:
        value = float(digits)
        if np.isinf(value):
            raise ValueError("too big")
        return value

    def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    decoder = json.JSONDecoder(object_pairs_hook=first, parse_float=number)
    return decoder.raw_decode(text.lstrip(" \t\r\n"))[0]


def judged(text: str, reference: Reference) -> dict[str, Any] | None:
    """TensorFlow's answer to a body for the model `types`, or nothing if there is a mistake."""
    try:
        body = parsed(text)
        if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
            return None
        signature = body.get("signature_name", "")
        name = signature.removesuffix("_rows")
        is_reading_rows = "instances" in body
        column = rows(body["instances"]) if is_reading_rows else one_input(body["inputs"])
        if is_reading_rows != signature.endswith("_rows"):
            raise ValueError("the other kind of signature, which these tests do not know")
        return reference("types", signature, {"x": tensor(column, name)})
    except (ValueError, KeyError, OverflowError, AttributeError):
        return None


def one_input(value: Any) -> Any:
    return value["x"] if isinstance(value, dict) else value


def rows(value: Any) -> list[Any]:
    """Rows are all with names or all without."""
    if not isinstance(value, list) or not value:
        raise ValueError("no rows")
    named = [isinstance(row, dict) for row in value]
    if all(named) and all(list(row) == ["x"] for row in value):
        return [row["x"] for row in value]
    if any(named):
        raise ValueError("some with names")
    return value


def tensor(value: Any, name: str) -> Any:
    """The tensor that a column stands for."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    cells = leaves(value, shape, JSON_TYPES[name])
    with np.errstate(over="ignore"):  # numbers that float32 has not are infinite
        return Values(KINDS[name], np.array(cells, KINDS[name].cell), tuple(shape)).tensor


def leaves(value: Any, shape: list[int], types: tuple[type, ...]) -> list[Any]:
    if not shape:
        if type(value) not in types:
            raise ValueError("not of the type")
        return [value]
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("not of the shape")
    return [cell for inner in value for cell in leaves(inner, shape[1:], types)]


def check_json(answer: Answer, expected: dict[str, Any] | None, body: Any) -> None:
    if answer.status != 200:
        assert answer.status in (400, 501), (answer, body)  # the latter for types that JSON does not have
        assert answer.error
        assert expected is None, (answer, body)
        return
    assert expected is not None, body
    for name, output in expected.items():
        found = answer.json
        column = found["outputs"][name] if "outputs" in found else [row[name] for row in found["predictions"]]
        assert_same_json(column, name, output)


def good_body(random: Generator) -> Any:
    name = list(JSON_TYPES)[random.integers(len(JSON_TYPES))]
    has_rows, is_named = random.random(2) < 0.5
    shape = random_shape(int(random.integers(1 if has_rows else 0, 4)), random, smallest=1)
    value = to_json(random_values(KINDS[name], shape, random), random)
    if has_rows:
        return {"signature_name": f"{name}_rows", "instances": [{"x": row} for row in value] if is_named else value}
    return {"signature_name": name, "inputs": {"x": value} if is_named else value}


def miswritten(text: str, random: Generator) -> str:
    """A few characters too many, too few, or wrong."""
    for _ in range(random.integers(1, 3)):
        start = int(random.integers(len(text)))
        end = start + int(random.integers(3))
        between = "".join(random.choice(list('[]{},:"\\0123456789.eE+-truefalsenullNaN \n'), random.integers(3)))
        text = text[:start] + between + text[end:]
    return text if random.random() < 0.9 else text[: random.integers(len(text))]


def misplaced(value: Any, random: Generator) -> Any:
    """A mistake in one random place of a tree of lists and objects."""
    if isinstance(value, dict) and random.random() < 0.9:
        key = list(value)[random.integers(len(value))]
        return {**value, key: misplaced(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = int(random.integers(len(value)))
        return [*value[:place], misplaced(value[place], random), *value[place + 1 :]]
    others = [None, True, 1, -0.0, 1.5, 2**63, -(2**63) - 1, 2**64, 1e308, "x", "", [], {}, [value], {"b64": "YQ=="}]
    return [*others, {"x": value}, [value, value]][random.integers(len(others) + 2)]


@rounds
def test_miswritten_bodies(model_rest: Rest, reference: Reference, good: Good, random: Generator, round_: int) -> None:
    for _ in range(REQUESTS):
        text = miswritten(json.dumps(good_body(random)), random)
        check_json(model_rest.predict("types", text), judged(text, reference), text)
        good()


@rounds
def test_misplaced_values(model_rest: Rest, reference: Reference, good: Good, random: Generator, round_: int) -> None:
    for _ in range(REQUESTS):
        text = json.dumps(misplaced(good_body(random), random))
        check_json(model_rest.predict("types", text), judged(text, reference), text)
        good()


def test_damaged_gzip(model_rest: Rest, reference: Reference, good: Good, random: Generator) -> None:
    for _ in range(REQUESTS):
        body = damaged(gzip.compress(json.dumps(good_body(random)).encode()), random)
        answer = model_rest.send("POST", "/v1/models/types:predict", body, {"content-encoding": "gzip"})
        check_json(answer, judged(gunzipped(body), reference), body)
        good()


def gunzipped(body: bytes) -> str:
    """Empty if there is any mistake; unlike Python's gzip, also if zeros follow."""
    stream = zlib.decompressobj(wbits=31)
    try:
        text = stream.decompress(body).decode()
    except (zlib.error, UnicodeDecodeError):
        return ""
    return text if stream.eof and not stream.unused_data else ""
