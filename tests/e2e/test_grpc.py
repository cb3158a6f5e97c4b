"""Stock clients over gRPC: what they send arrives, what they get is right, and errors are what they know."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc as grpcio
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from servable import engine
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_log_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from tests.conftest import SERVED
from tests.e2e.grpc_client import Grpc, array, code_of, details_of, predict_request, tensor
from tests.e2e.rest_client import Rest
from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, ServerProcess, serving

Array = np.ndarray[Any, Any]

NUMBERS = {
    "float32": ("float_val", tf.float32),
    "float64": ("double_val", tf.float64),
    "int32": ("int_val", tf.int32),
    "int16": ("int_val", tf.int16),
    "int8": ("int_val", tf.int8),
    "uint8": ("int_val", tf.uint8),
    "uint16": ("int_val", tf.uint16),
    "uint32": ("uint32_val", tf.uint32),
    "int64": ("int64_val", tf.int64),
    "uint64": ("uint64_val", tf.uint64),
    "bool": ("bool_val", tf.bool),
    "float16": ("half_val", tf.float16),
    "bfloat16": ("half_val", tf.bfloat16),
    "complex64": ("scomplex_val", tf.complex64),
    "complex128": ("dcomplex_val", tf.complex128),
}
"""Signatures of `echo` with the field that holds typed values, and the type."""

SHAPES = [(), (0,), (1,), (5,), (2, 3), (3, 0, 2), (2, 1, 3, 2), (1,) * 12, (4097,)]


def random_numbers(dtype: Any, shape: tuple[int, ...]) -> Array:
    """Any values that the type can have but signalling NaNs, which Python's floats do not keep."""
    numpy_type = np.dtype(dtype.as_numpy_dtype)
    size = int(np.prod(shape, dtype=np.int64)) * numpy_type.itemsize
    raw = np.frombuffer(random.Random(f"{dtype.name}{shape}").randbytes(size), np.uint8)
    if dtype == tf.bool:
        return (raw % 2).astype(bool).reshape(shape)
    values: Array = raw.view(numpy_type).reshape(shape)
    if dtype.is_integer:
        return values
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isnan(values), numpy_type.type(-0.0), values))


def empty(dtype: Any, shape: tuple[int, ...]) -> Any:
    """A tensor without values."""
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def typed(field: str, dtype: Any, values: Array) -> Any:
    """A tensor in its typed field, the way other languages than Python write it."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if field == "half_val":
        flat = flat.view(np.uint16)
    elif field.endswith("complex_val"):
        flat = flat.view(np.float32 if field == "scomplex_val" else np.float64)
    proto = empty(dtype, values.shape)
    getattr(proto, field).extend(flat.tolist())
    return proto


def content(dtype: Any, values: Array) -> Any:
    """A tensor as one run of bytes."""
    proto = empty(dtype, values.shape)
    proto.tensor_content = values.tobytes()
    return proto


@pytest.fixture(scope="module")
def content_echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grpc]:
    """The echo model behind a server that answers with tensor_content."""
    models = [Model("echo", MODELS / "echo")]
    folder = tmp_path_factory.mktemp("content")
    with serving(models, folder, "--enable_serialization_as_tensor_content") as server, Grpc(server.grpc_address) as it:
        yield it


# Both servers and both ways to send: whatever the form, the values are the same.


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_come_back_bit_by_bit(grpc: Grpc, content_echo: Grpc, name: str) -> None:
    field, dtype = NUMBERS[name]
    for shape in SHAPES:
        values = random_numbers(dtype, shape)
        for sent in (typed(field, dtype, values), content(dtype, values)):
            for client, is_content in ((grpc, False), (content_echo, True)):
                answer = client.predict(predict_request("echo", {"x": sent}, signature=name)).outputs["y"]
                assert answer.dtype == dtype.as_datatype_enum
                assert [dim.size for dim in answer.tensor_shape.dim] == list(shape)
                assert bool(answer.tensor_content) == (is_content and values.size > 0)
                came_back = np.asarray(array(answer))
                assert came_back.dtype == values.dtype
                assert came_back.tobytes() == values.tobytes()


def test_signalling_nans_pass_as_content(content_echo: Grpc) -> None:
    bits = np.array([0x7F800001, 0xFFA00000, 0x7FFFFFFF, 1], np.uint32)
    sent = content(tf.float32, bits.view(np.float32))
    answer = content_echo.predict(predict_request("echo", {"x": sent}, signature="float32"))
    assert answer.outputs["y"].tensor_content == bits.tobytes()


STRINGS = [b"", b"a", b"\x00", b"\xff\xfe", "grüße".encode(), b"x" * 100_000, b"y" * 24, b"z" * 23]
"""Short ones, long ones, and such as are no text."""


@pytest.mark.parametrize("shape", [(8,), (2, 4), (8, 1)])
def test_strings_come_back_byte_by_byte(grpc: Grpc, shape: tuple[int, ...]) -> None:
    sent = tensor(np.array(STRINGS, object).reshape(shape), tf.string)
    answer = grpc.predict(predict_request("echo", {"x": sent}, signature="string")).outputs["y"]
    assert [dim.size for dim in answer.tensor_shape.dim] == list(shape)
    assert list(answer.string_val) == STRINGS


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def test_strings_come_back_as_content(content_echo: Grpc) -> None:
    sent = tensor(np.array(STRINGS, object), tf.string)
    expected = b"".join(varint(len(string)) for string in STRINGS) + b"".join(STRINGS)
    answer = content_echo.predict(predict_request("echo", {"x": sent}, signature="string")).outputs["y"]
    assert answer.tensor_content == expected
    sent.ClearField("string_val")
    sent.tensor_content = expected
    again = content_echo.predict(predict_request("echo", {"x": sent}, signature="string")).outputs["y"]
    assert again.tensor_content == expected


def test_the_last_value_fills_the_tensor(grpc: Grpc) -> None:
    sent = typed("float_val", tf.float32, np.arange(3, dtype=np.float32))
    sent.tensor_shape.dim[0].size = 6
    answer = grpc.predict(predict_request("half_plus_two", {"x": sent}))
    assert list(answer.outputs["y"].float_val) == [2.0, 2.5, 3.0, 3.0, 3.0, 3.0]


def test_an_answer_says_which_version_and_signature_it_is_from(grpc: Grpc) -> None:
    answer = grpc.predict(predict_request("half", {"x": [1.0]}))
    assert text_format.MessageToString(answer.model_spec, as_one_line=True) == (
        'name: "half" version { value: 7 } signature_name: "serving_default"'
    )
    assert list(grpc.predict(predict_request("half", {"x": [1.0]}, signature="other")).outputs["y"].float_val) == [101]


@pytest.mark.parametrize(
    ("version", "label", "value"),
    [(None, None, 3.0), (1, None, 1.0), (2, None, 2.0), (None, "stable", 1.0), (None, "a:b c", 2.0)],
)
def test_a_version_is_chosen_by_number_or_label(
    grpc: Grpc, version: int | None, label: str | None, value: float
) -> None:
    answer = grpc.predict(predict_request("multi", {"x": 0.0}, version=version, label=label))
    assert answer.outputs["y"].float_val[0] == value
    assert answer.model_spec.version.value == int(value)


def test_only_the_outputs_asked_for_come(grpc: Grpc) -> None:
    answer = grpc.predict(predict_request("pair", {"a": [3.0], "b": [1.0]}, outputs=["diff"]))
    assert {name: list(output.float_val) for name, output in answer.outputs.items()} == {"diff": [2.0]}


def test_an_input_with_a_default_may_be_left_out(grpc: Grpc) -> None:
    assert grpc.predict(predict_request("dflt", {"x": [2.0]})).outputs["y"].float_val[0] == 10.0
    assert grpc.predict(predict_request("dflt", {"x": [2.0], "k": 3.0})).outputs["y"].float_val[0] == 6.0


def wrong_size() -> Any:
    sent = tensor([1.0, 2.0])
    sent.tensor_content = b"abc"
    return sent


def negative_size() -> Any:
    sent = tensor([1.0, 2.0])
    sent.tensor_shape.dim[0].size = -1
    return sent


LONG = "n" * 2000

ERRORS = [
    (lambda: predict_request("nope", {}), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    (lambda: predict_request("half", {}, version=0), "NOT_FOUND", "Servable not found for request: Specific(half, 0)"),
    (
        lambda: predict_request("multi", {}, label="canary"),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    ),
    (predict_pb2.PredictRequest, "INVALID_ARGUMENT", "Missing ModelSpec"),
    (lambda: predict_request("", {}), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (
        lambda: predict_request("half", {"x": 1.0}, signature="nope"),
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    ),
    (
        lambda: predict_request("pair", {"a": [1.0]}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
    ),
    (
        lambda: predict_request("pair", {"a": [1.0], "c": [1.0]}),
        "INVALID_ARGUMENT",
        "not found in request and no default value provided",
    ),
    (lambda: predict_request("half", {"x": wrong_size()}), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (lambda: predict_request("half", {"x": negative_size()}), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (
        lambda: predict_request("half", {"x": tensor([1], tf.int64)}),
        "INVALID_ARGUMENT",
        "to be float but int64 is provided",
    ),
    (
        lambda: predict_request("pair", {"a": [1.0], "b": [1.0]}, outputs=["nope"]),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: nope Outputs expected to be in the set {diff,sum}.",
    ),
    (
        lambda: predict_request("pair", {"a": [1.0], "b": [1.0]}, outputs=["sum", "sum"]),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: sum",
    ),
    (lambda: predict_request("mm", {"x": [[1.0, 2.0]]}), "INVALID_ARGUMENT", "Matrix size-incompatible"),
    (
        lambda: predict_request("fail", {"i": tensor([7], tf.int32)}, signature="gather"),
        "INVALID_ARGUMENT",
        "not in [0, 3)",
    ),
    (lambda: predict_request("half", {"x": 1.0, LONG: 1.0}), "INVALID_ARGUMENT", "...TRUNCATED"),
]


@pytest.mark.parametrize(("request_of", "code", "details"), ERRORS)
def test_errors_have_the_code_and_words_that_clients_know(
    grpc: Grpc, request_of: Callable[[], Any], code: str, details: str
) -> None:
    with pytest.raises(grpcio.RpcError) as raised:
        grpc.predict(request_of())
    assert code_of(raised.value) == code
    assert details in details_of(raised.value)


@pytest.mark.parametrize(
    "method",
    [
        "/tensorflow.serving.PredictionService/Nope",
        "/tensorflow.serving.SessionService/SessionRun",
        "/no.such.Service/Method",
        "/grpc.health.v1.Health/Check",
    ],
)
def test_an_unknown_method_is_unimplemented(grpc: Grpc, method: str) -> None:
    call: Any = grpc.channel.unary_unary(method)
    with pytest.raises(grpcio.RpcError) as raised:
        call(b"", timeout=60)
    assert code_of(raised.value) == "UNIMPLEMENTED"


def test_bytes_that_are_no_request_are_refused(grpc: Grpc) -> None:
    call: Any = grpc.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpcio.RpcError) as raised:
        call(b"\xff" * 10, timeout=60)
    assert code_of(raised.value) == "INTERNAL"


@pytest.mark.parametrize("name", ["half_plus_two", "multi", *SERVED])
def test_metadata_are_the_signatures_of_the_saved_model(grpc: Grpc, name: str) -> None:
    base = HALF_PLUS_TWO if name == "half_plus_two" else MODELS / name
    newest = max(base.iterdir(), key=lambda folder: int(folder.name))
    saved = saved_model_pb2.SavedModel.FromString((newest / "saved_model.pb").read_bytes())
    expected = dict(saved.meta_graphs[0].signature_def.items())
    assert dict(grpc.metadata(name).signature_def.items()) == expected


def test_metadata_errors(grpc: Grpc) -> None:
    for fields, name, code in [
        ([], "half", "INVALID_ARGUMENT"),
        (["x"], "half", "INVALID_ARGUMENT"),
        (["signature_def"], "nope", "NOT_FOUND"),
    ]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        request.model_spec.name = name
        with pytest.raises(grpcio.RpcError) as raised:
            grpc.prediction.GetModelMetadata(request, timeout=60)
        assert code_of(raised.value) == code


def test_status_lists_versions_from_the_newest(grpc: Grpc) -> None:
    assert grpc.status("multi") == [(version, "AVAILABLE", 0, "") for version in (3, 2, 1)]
    assert grpc.status("multi", 2) == [(2, "AVAILABLE", 0, "")]


@pytest.mark.parametrize(
    ("name", "version", "details"),
    [
        ("nope", None, "Could not find any versions of model nope"),
        ("multi", 9, "Could not find version 9 of model multi"),
    ],
)
def test_the_status_of_what_is_unknown_is_not_found(grpc: Grpc, name: str, version: int | None, details: str) -> None:
    with pytest.raises(grpcio.RpcError) as raised:
        grpc.status(name, version)
    assert (code_of(raised.value), details_of(raised.value)) == ("NOT_FOUND", details)
    with pytest.raises(grpcio.RpcError) as raised:
        grpc.model.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(), timeout=60)
    assert (code_of(raised.value), details_of(raised.value)) == ("INVALID_ARGUMENT", "Missing ModelSpec")


@pytest.mark.parametrize("name", ["keras", "lookup", "mm", "tf1", "tf1_legacy", "ranks"])
def test_answers_are_those_of_tensorflow(grpc: Grpc, name: str) -> None:
    loaded = tf.saved_model.load(str(MODELS / name / "1"))
    generator = np.random.default_rng(7)
    for key, signature in loaded.signatures.items():
        specs = signature.structured_input_signature[1]
        inputs = {alias: random_input(spec, generator) for alias, spec in specs.items()}
        expected = signature(**{alias: tf.constant(value, specs[alias].dtype) for alias, value in inputs.items()})
        protos = {alias: tensor(value, specs[alias].dtype) for alias, value in inputs.items()}
        answer = grpc.predict(predict_request(name, protos, signature=key))
        assert set(answer.outputs) == set(expected)
        for alias, output in answer.outputs.items():
            np.testing.assert_array_equal(array(output), expected[alias].numpy(), f"{key} {alias}")


def random_input(spec: Any, generator: np.random.Generator) -> Array:
    shape = [size or 3 for size in spec.shape]
    if spec.dtype == tf.string:
        return generator.choice(np.array([b"one", b"two", b"a", b"red", b"unheard"], object), shape)
    if spec.dtype.is_integer:
        return np.asarray(generator.integers(0, 6, shape))
    return np.asarray(generator.standard_normal(shape), np.float32)


@pytest.mark.parametrize("compression", [grpcio.Compression.Gzip, grpcio.Compression.Deflate])
def test_requests_may_be_compressed(grpc: Grpc, compression: grpcio.Compression) -> None:
    values = np.arange(100_000, dtype=np.float32)
    answer = grpc.predict(predict_request("half", {"x": values}), compression=compression)
    np.testing.assert_array_equal(array(answer.outputs["y"]), values / 2 + 2)


def test_thousands_of_requests_at_a_time_get_their_own_answers(server: ServerProcess) -> None:
    clients = [Grpc(server.grpc_address) for _ in range(3)]
    try:
        calls = [
            clients[number % 3].prediction.Predict.future(
                predict_request("half_plus_two", {"x": [float(number)]}), timeout=60
            )
            for number in range(3000)
        ]
        answers = [call.result().outputs["y"].float_val[0] for call in calls]
    finally:
        for client in clients:
            client.close()
    assert answers == [number / 2 + 2 for number in range(3000)]


def slow_request(milliseconds: int, value: float = 1.0) -> Any:
    inputs = {"x": tensor([value]), "ms": tensor(milliseconds, tf.int64)}
    return predict_request("slow", inputs, signature="ms")


def test_quick_requests_overtake_slow_ones_on_the_same_channel(grpc: Grpc) -> None:
    slow = [grpc.prediction.Predict.future(slow_request(1500), timeout=60) for _ in range(4)]
    for number in range(20):
        assert grpc.predict(predict_request("half", {"x": float(number)})).outputs["y"].float_val[0] == number / 2 + 2
    assert not any(call.done() for call in slow)
    assert [call.result().outputs["y"].float_val[0] for call in slow] == [1.0] * 4


def test_a_deadline_that_passes_is_exceeded(grpc: Grpc) -> None:
    with pytest.raises(grpcio.RpcError) as raised:
        grpc.predict(slow_request(2000), timeout=0.2)
    assert code_of(raised.value) == "DEADLINE_EXCEEDED"
    assert grpc.predict(predict_request("half", {"x": 1.0}), timeout=60).outputs["y"].float_val[0] == 2.5


def test_a_large_request_has_a_large_answer(grpc: Grpc) -> None:
    values = np.arange(5_000_000, dtype=np.float32)  # 20 MB, five times gRPC's usual limit
    answer = grpc.predict(predict_request("echo", {"x": tensor(values)}, signature="float32"))
    np.testing.assert_array_equal(array(answer.outputs["y"]), values)


def test_limits_name_the_option_to_raise(tmp_path: Path) -> None:
    models = [Model("half", MODELS / "half"), Model("big", MODELS / "big")]
    limits = ["--max_message_bytes=10000", "--max_tensor_elements=2000", "--max_output_bytes=4000"]
    ones = tensor(np.ones(5000, np.float32))
    elements = typed("float_val", tf.float32, np.ones(1, np.float32))
    elements.tensor_shape.dim[0].size = 3000
    with serving(models, tmp_path, *limits) as server, Grpc(server.grpc_address) as client:
        refusals = {}
        for request, option in [
            (predict_request("half", {"x": ones}), "max_message_bytes"),
            (predict_request("half", {"x": elements}), "max_tensor_elements"),
            (predict_request("big", {"n": tensor(1001, tf.int32)}), "max_output_bytes"),
        ]:
            with pytest.raises(grpcio.RpcError) as raised:
                client.predict(request)
            refusals[option] = code_of(raised.value), option in details_of(raised.value)
        assert refusals == dict.fromkeys(refusals, ("RESOURCE_EXHAUSTED", True))
        assert len(client.predict(predict_request("big", {"n": tensor(1000, tf.int32)})).outputs["y"].float_val) == 1000


def test_a_unix_socket_serves_and_goes_with_the_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    path = folder / "s"
    flags = [f"--model_base_path={HALF_PLUS_TWO}", "--model_name=m", f"--grpc_socket_path={path}"]
    with ServerProcess(flags, folder / "log", with_grpc=False) as server:
        server.wait_ready()
        with Grpc(f"unix:{path}") as client:
            assert list(client.predict(predict_request("m", {"x": [2.0]})).outputs["y"].float_val) == [3.0]
        server.stop()
    assert not path.exists()


def test_health_is_told_if_asked_for(tmp_path: Path) -> None:
    serving_status, not_serving_status = b"\x08\x01", b"\x08\x02"
    models = [Model("m", HALF_PLUS_TWO)]
    with (
        serving(models, tmp_path, "--enable_grpc_healthcheck_service") as server,
        Grpc(server.grpc_address) as client,
    ):
        check: Any = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=60) == serving_status
        watch: Any = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
        changes = watch(b"", timeout=60)
        assert next(changes) == serving_status
        cancelled = watch(b"", timeout=60)
        assert next(cancelled) == serving_status
        cancelled.cancel()
        server.signal()
        assert list(changes) == [not_serving_status], "and then the stream ends as it should"
        assert changes.code() is grpcio.StatusCode.OK
        client.close()
        assert server.exit_code() == 0


# A process may have our engine and the stock packages, in any order: nothing registers a message twice.


def test_the_engine_reads_a_configuration_as_the_stock_package_does() -> None:
    name = "tensorflow.serving.ModelServerConfig"
    text = Model("m", Path("/models/m"), policy="specific { versions: 1 versions: 5 }", labels={"a": 1, "b": 5}).text()
    text = f"model_config_list {{ # a comment\n{text} }}"
    expected = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert model_server_config_pb2.ModelServerConfig.FromString(engine.encode_text(name, text)) == expected


def test_messages_of_the_stock_package_are_read_by_the_engine() -> None:
    request = model_management_pb2.ReloadConfigRequest(metric_names=["a"])
    request.config.model_config_list.config.add(name="m", base_path="/m")
    json = engine.decode_message("tensorflow.serving.ReloadConfigRequest", request.SerializeToString())
    again = engine.encode_json("tensorflow.serving.ReloadConfigRequest", json)
    assert model_management_pb2.ReloadConfigRequest.FromString(again) == request
    assert prediction_log_pb2.PredictionLog.DESCRIPTOR.full_name == "tensorflow.serving.PredictionLog"
    assert types_pb2.DataType.Name(1) == "DT_FLOAT"


def test_both_protocols_agree_on_metadata_and_status(grpc: Grpc, rest: Rest) -> None:
    described = rest.get("/v1/models/half/metadata").json
    (signature,) = grpc.metadata("half").signature_def["serving_default"].inputs.values()
    told = described["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"]
    assert told["name"] == signature.name
    assert {str(version): state for version, state in grpc.states("multi").items()} == rest.states("multi")
