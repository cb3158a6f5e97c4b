"""The compiled module keeps the promises of its stub."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servable import engine
from servable.platforms.tensorflow import LIBRARIES, find_package
from servable.types import LimitSpec, ModelRoutes, ServerSpec, SessionSpec, VersionRoute

from tests.e2e.rest_client import Answer, Rest
from tests.e2e.server import DEADLINE_S, HALF_PLUS_TWO, MODELS, REPOSITORY, wait_until

CONFIG = "tensorflow.serving.ModelServerConfig"
LOG = "tensorflow.serving.PredictionLog"
STUB = REPOSITORY / "python" / "servable" / "_engine.pyi"


def stub_names() -> list[str]:
    for statement in ast.parse(STUB.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(statement.value)
            return names
    raise AssertionError("the stub has no __all__")


def test_the_module_has_the_names_of_its_stub() -> None:
    from servable import _engine

    assert sorted(_engine.__all__) == sorted(stub_names())
    assert sorted(engine.__all__) == sorted(stub_names())
    assert all(hasattr(_engine, name) for name in stub_names())


# Messages.


def test_an_error_has_a_code_and_a_message() -> None:
    error = engine.EngineError("NOT_FOUND", "no such thing")
    assert (error.code, error.message) == ("NOT_FOUND", "no such thing")
    assert error.args == ("NOT_FOUND", "no such thing")
    assert str(error) == "NOT_FOUND: no such thing"


def test_text_and_json_make_the_same_bytes() -> None:
    text = "model_config_list { config { name: 'm' base_path: '/m' version_labels { key: 's' value: 9000000000 } } }"
    value = {"model_config_list": {"config": [{"name": "m", "base_path": "/m", "version_labels": {"s": 9000000000}}]}}
    encoded = engine.encode_text(CONFIG, text)
    assert engine.encode_json(CONFIG, json.dumps(value)) == encoded
    assert json.loads(engine.decode_message(CONFIG, encoded)) == value


def test_nothing_is_the_empty_message() -> None:
    assert engine.encode_text(CONFIG, "") == engine.encode_text(CONFIG, "# a comment\n") == b""
    assert engine.encode_json(CONFIG, "{}") == b""
    assert json.loads(engine.decode_message(CONFIG, b"")) == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("model_config_list {\n  confg { }\n}", "2:3"),
        ("model_config_list { config { name: 5 } }", "1:36"),
        ("model_config_list {", "1:"),
        ("\n\n!", "3:1"),
    ],
)
def test_a_mistake_in_text_is_located(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=rf"^{place}.*: "):
        engine.encode_text(CONFIG, text)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"no_such_field": 1}', '{"model_config_list": 1}'])
def test_bad_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        engine.encode_json(CONFIG, text)


def test_bytes_that_are_no_message_are_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"."):
        engine.decode_message(CONFIG, b"\xff\xff\xff")


def test_an_unknown_message_is_a_key_error() -> None:
    for call in (
        lambda: engine.encode_text("no.Such", ""),
        lambda: engine.encode_json("no.Such", "{}"),
        lambda: engine.decode_message("no.Such", b""),
    ):
        with pytest.raises(KeyError, match=r"no\.Such"):
            call()


# SavedModels.


def test_a_saved_model_is_described() -> None:
    (graph,) = json.loads(engine.read_saved_model(str(HALF_PLUS_TWO / "1")))["meta_graphs"]
    assert graph["tags"] == ["serve"]
    assert graph["tensorflow_version"].startswith("2.")
    assert graph["signatures"]["serving_default"]["inputs"]["x"]["shape"] == [-1]


def test_a_saved_model_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(engine.EngineError) as raised:
        engine.read_saved_model(str(tmp_path))
    assert raised.value.code == "NOT_FOUND"
    assert str(tmp_path) in raised.value.message
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(engine.EngineError) as raised:
        engine.read_saved_model(str(tmp_path))
    assert raised.value.code == "DATA_LOSS"


# Loading.


@pytest.fixture(scope="module")
def runtime() -> engine.Runtime:
    folder = find_package("tensorflow")
    assert folder is not None
    framework, library = (str(folder / name) for name in LIBRARIES)
    return engine.Runtime.open(framework, library)


def test_libraries_that_are_not_there_are_a_failed_precondition(tmp_path: Path) -> None:
    code = (
        "from servable.engine import EngineError, Runtime\n"
        f"try: Runtime.open({str(tmp_path / 'a.so')!r}, {str(tmp_path / 'b.so')!r})\n"
        "except EngineError as error: print(error.code, error.message)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("FAILED_PRECONDITION ")
    assert str(tmp_path / "a.so") in printed


def test_opening_again_gives_the_same_runtime(runtime: engine.Runtime) -> None:
    from importlib import metadata

    again = engine.Runtime.open("/nowhere/a.so", "/nowhere/b.so")
    assert again.version == runtime.version == metadata.version("tensorflow-cpu")


def load(runtime: engine.Runtime, name: str = "m", version: int = 1, model: Path = HALF_PLUS_TWO / "1") -> Any:
    return runtime.load(name, version, str(model), SessionSpec())


def test_a_loaded_servable_knows_its_name_and_version(runtime: engine.Runtime) -> None:
    servable = load(runtime, "name", 2**62)
    assert (servable.name, servable.version) == ("name", 2**62)
    assert servable.unload(0.0)
    assert (servable.name, servable.version) == ("name", 2**62)


def test_unloading_again_is_as_good(runtime: engine.Runtime) -> None:
    servable = load(runtime)
    assert servable.unload(None)
    assert servable.unload(None)
    assert servable.unload(0.0)


def test_a_load_that_fails_has_the_code_of_tensorflow(runtime: engine.Runtime, tmp_path: Path) -> None:
    with pytest.raises(engine.EngineError) as raised:
        load(runtime, model=tmp_path)
    assert raised.value.code == "NOT_FOUND"
    assert str(tmp_path) in raised.value.message
    with pytest.raises(engine.EngineError) as raised:
        runtime.load("m", 1, str(HALF_PLUS_TWO / "1"), SessionSpec(tags=("serve", "gpu")))
    assert raised.value.code == "NOT_FOUND"


def test_a_session_configuration_that_is_none_is_refused(runtime: engine.Runtime) -> None:
    with pytest.raises(engine.EngineError) as raised:
        runtime.load("m", 1, str(HALF_PLUS_TWO / "1"), SessionSpec(config=b"\xff\xff\xff"))
    assert raised.value.code == "INVALID_ARGUMENT"


def test_an_op_library_that_is_not_there_is_refused(runtime: engine.Runtime, tmp_path: Path) -> None:
    with pytest.raises(engine.EngineError) as raised:
        runtime.register_ops(str(tmp_path / "ops.so"))
    assert raised.value.code == "NOT_FOUND"


# Warm-up.

COUNTER = MODELS / "counter" / "1"


def log_of(model: str = "", **request: Any) -> bytes:
    """A record for Predict, its signature `add` unless it says otherwise."""
    spec = {"name": model, "signature_name": request.pop("signature", "add")}
    log = {"predict_log": {"request": {"model_spec": spec, **request}}}
    return engine.encode_json(LOG, json.dumps(log))


def adding(number: int) -> bytes:
    by = {"dtype": "DT_INT64", "tensor_shape": {"dim": [{"size": 1}]}, "int64_val": [number]}
    return log_of(inputs={"by": by})


def refusal(servable: engine.Servable, record: bytes, **options: Any) -> tuple[str, str]:
    with pytest.raises(engine.EngineError) as raised:
        servable.warm_up(record, **options)
    return raised.value.code, raised.value.message


def count(server: engine.Server, model: str = "m") -> int:
    """What the counter has come to; `server` serves it, and is started by the first question."""
    if server.rest_port is None:
        server.start()
    assert server.rest_port is not None
    with Rest(server.rest_port) as rest:
        value: int = rest.predict(model, {"signature_name": "add", "inputs": {"by": [0]}}).json["outputs"]
        return value


def test_warm_up_runs_before_anything_is_published(runtime: engine.Runtime, server: engine.Server) -> None:
    servable = load(runtime, model=COUNTER)
    servable.warm_up(adding(10))
    servable.warm_up(adding(100), 3)
    servable.warm_up(log_of("another model, which does not matter", signature="read"), iterations=2)
    servable.warm_up(b"")
    server.publish(routes(servable))
    assert count(server) == 310
    assert server.snapshot()["requests_total"] == 1
    server.publish({})
    assert servable.unload(None)


def test_a_warm_up_request_is_refused_as_any_other(runtime: engine.Runtime) -> None:
    servable = load(runtime, model=COUNTER)
    assert refusal(servable, log_of())[0] == "INVALID_ARGUMENT"
    assert refusal(servable, log_of(signature="no"))[0] == "FAILED_PRECONDITION"
    strange = {"model_spec": {"name": "m"}, "method_name": "strange"}
    for log, outcome in [
        ({"session_run_log": {}}, ("UNIMPLEMENTED", "Unsupported log_type for warmup: 5")),
        ({"predict_streamed_log": {}}, ("UNIMPLEMENTED", "Unsupported log_type for warmup: 7")),
        ({"classify_log": {}}, ("INVALID_ARGUMENT", "Expected one input Tensor.")),
        ({"multi_inference_log": {}}, ("INVALID_ARGUMENT", "ModelSpec has no name specified.")),
        (
            {"multi_inference_log": {"request": {"tasks": [strange]}}},
            ("UNIMPLEMENTED", "Unsupported signature method_name: strange"),
        ),
    ]:
        assert refusal(servable, engine.encode_json(LOG, json.dumps(log))) == outcome
    for record in (b"\xff", b"\x32\x02\x0a\xff", b"\x32\x04\x0a\x02\x0a\xff"):
        with pytest.raises(ValueError, match="PredictionLog"):
            servable.warm_up(record)
    servable.unload(None)
    assert refusal(servable, b"")[0] == "FAILED_PRECONDITION"


def test_warm_up_checks_method_names_if_asked_to(runtime: engine.Runtime) -> None:
    servable = load(runtime, model=MODELS / "odd" / "1")
    x = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 1}]}}
    record = log_of(signature="custom_method", inputs={"x": x})
    servable.warm_up(record)
    code, message = refusal(servable, record, check_method_names=True)
    assert code == "INTERNAL"
    assert message.startswith("Expected prediction signature method_name")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_warm_up_runs_at_low_priority_and_leaves_the_caller_its_own(runtime: engine.Runtime) -> None:
    def priorities() -> set[int]:
        found = set()
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                if (thread / "comm").read_text().strip() == "servable-load":
                    found.add(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
        return found

    servable = load(runtime, model=MODELS / "slow" / "1")
    inputs = {
        "x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 1}]}},
        "ms": {"dtype": "DT_INT64", "tensor_shape": {}, "int64_val": [1000]},
    }
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    warming, _ = in_thread(lambda: servable.warm_up(log_of(signature="ms", inputs=inputs)))
    wait_until(lambda: priorities() == {10} or not warming.is_alive(), "the request runs quietly")
    assert warming.is_alive()
    warming.join()
    servable.warm_up(b"")
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_a_servable_tells_its_signatures(runtime: engine.Runtime) -> None:
    (graph,) = json.loads(engine.read_saved_model(str(COUNTER)))["meta_graphs"]
    assert json.loads(load(runtime, model=COUNTER).signatures()) == graph["signatures"]


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = str(tmp_path / "records")
    records = [b"", b"a", bytes(range(256)) * 1000]
    engine.write_records(path, records)
    reader = engine.RecordReader(path)
    assert iter(reader) is reader
    assert list(reader) == records
    assert list(reader) == []
    engine.write_records(path, [])
    assert list(engine.RecordReader(path)) == []


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "records"
    with pytest.raises(engine.EngineError) as raised:
        engine.RecordReader(str(path))
    assert (raised.value.code, str(path) in raised.value.message) == ("NOT_FOUND", True)
    with pytest.raises(engine.EngineError) as raised:
        engine.write_records(str(tmp_path / "no" / "folder"), [])
    assert raised.value.code == "NOT_FOUND"
    engine.write_records(str(path), [b"whole", b"cut off"])
    path.write_bytes(path.read_bytes()[:-1])
    reader = engine.RecordReader(str(path))
    assert next(reader) == b"whole"
    with pytest.raises(engine.EngineError) as raised:
        next(reader)
    assert raised.value.code == "DATA_LOSS"
    assert raised.value.message == f"truncated record of 7 bytes at 21 in {path}"
    assert list(reader) == []


def test_a_record_is_described() -> None:
    described = {"kind": "predict", "signature": "add", "inputs": {"by": {"dtype": "DT_INT64", "shape": [1]}}}
    assert json.loads(engine.describe_record(adding(1))) == described
    assert json.loads(engine.describe_record(b"")) == {"kind": "none"}
    with pytest.raises(ValueError, match="PredictionLog"):
        engine.describe_record(b"\xff")


def test_bodies_become_records() -> None:
    (record,) = engine.make_records(str(COUNTER), ["serve"], "add", [b'{"inputs": [7]}'])
    request = json.loads(engine.decode_message(LOG, record))["predict_log"]["request"]
    assert request["model_spec"] == {"signature_name": "add"}
    assert list(request["inputs"]) == ["by"]
    for bodies, tags, code, text in [
        ([b'{"inputs": [7]}', b"{"], ["serve"], "INVALID_ARGUMENT", "request 2: JSON Parse error"),
        ([b'{"inputs": "x"}'], ["serve"], "INVALID_ARGUMENT", "request 1: "),
        ([], ["gpu"], "NOT_FOUND", "no graph with the tags { gpu }"),
    ]:
        with pytest.raises(engine.EngineError) as raised:
            engine.make_records(str(COUNTER), tags, "add", bodies)
        assert raised.value.code == code
        assert text in raised.value.message


# The server.

SPEC = ServerSpec(rest_address="127.0.0.1:0")


@pytest.fixture
def server() -> Iterator[engine.Server]:
    server = engine.Server(SPEC)
    yield server
    server.stop(0.0)


def routes(*servables: Any) -> dict[str, ModelRoutes]:
    return {one.name: ModelRoutes((VersionRoute(one.version, "AVAILABLE", servable=one),)) for one in servables}


def test_what_is_published_is_served(runtime: engine.Runtime, server: engine.Server) -> None:
    servable = load(runtime)
    failed = VersionRoute(2, "END", error_code="DATA_LOSS", error_message="broken")
    server.publish({"m": ModelRoutes((failed, *routes(servable)["m"].versions), labels={"stable": 1})})
    assert (server.grpc_port, server.rest_port) == (None, None)
    server.start()
    assert server.grpc_port is None
    assert server.rest_port is not None
    with Rest(server.rest_port) as rest:
        assert rest.predict("m/labels/stable", {"instances": [1]}).json == {"predictions": [2.5]}
        assert rest.get("/v1/models/m").json["model_version_status"] == [
            {"version": "2", "state": "END", "status": {"error_code": "DATA_LOSS", "error_message": "broken"}},
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        ]
        counters = server.snapshot()
        assert set(counters) == {"connections", "requests_in_flight", "requests_total"}
        assert (counters["connections"], counters["requests_total"]) == (1, 2)
        server.publish({})
        assert rest.predict("m", {"instances": [1]}).status == 404
    assert servable.unload(DEADLINE_S)


def test_what_is_unloaded_cannot_be_published(runtime: engine.Runtime, server: engine.Server) -> None:
    servable = load(runtime)
    assert servable.unload(None)
    with pytest.raises(ValueError, match="version 1 is unloaded"):
        server.publish(routes(servable))


def test_what_is_being_unloaded_cannot_be_published_any_more(runtime: engine.Runtime, server: engine.Server) -> None:
    servable = load(runtime)
    server.publish(routes(servable))
    assert not servable.unload(0.0), "the routes still have it"
    with pytest.raises(ValueError, match="unloaded"):
        server.publish(routes(servable))
    server.publish({})
    assert servable.unload(None)


@pytest.mark.parametrize(
    "route",
    [VersionRoute(1, "READY"), VersionRoute(1, "END", error_code="BAD"), VersionRoute(2**63, "END")],
)
def test_routes_that_make_no_sense_are_refused(server: engine.Server, route: VersionRoute) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError), match=r"."):
        server.publish({"m": ModelRoutes((route,))})


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(call()))
    thread.start()
    return thread, outcome


def test_unload_waits_while_a_request_is_in_flight(runtime: engine.Runtime, server: engine.Server) -> None:
    servable = load(runtime, "slow", 1, MODELS / "slow" / "1")
    server.publish(routes(servable))
    server.start()
    assert server.rest_port is not None
    with Rest(server.rest_port) as rest:
        before = time.process_time()
        asking, answers = in_thread(lambda: rest.predict("slow", {"instances": [3.0]}))
        # A request is in flight before it has found its servable. This model keeps a processor busy for a second.
        wait_until(lambda: time.process_time() - before > 0.2, "the model computes")
        assert server.snapshot()["requests_in_flight"] == 1
        server.publish({})
        assert not servable.unload(0.05)
        assert not answers
        unloading, unloaded = in_thread(lambda: servable.unload(None))
        asking.join()
        unloading.join()
    (answer,) = answers
    assert getattr(answer, "json", None) == {"predictions": [3.0]}
    assert unloaded == [True]


def test_requests_are_captured(runtime: engine.Runtime, server: engine.Server) -> None:
    counter, other = load(runtime, "counter", model=COUNTER), load(runtime, "other")
    server.publish(routes(counter, other))
    server.start()
    assert server.rest_port is not None
    capturing, outcome = in_thread(lambda: server.capture("counter", 3, 10_000, 10 * DEADLINE_S))
    with Rest(server.rest_port) as rest:

        def ask(number: int) -> bool:
            rest.predict("other", {"instances": [number]})
            rest.predict("counter", {"signature_name": "add", "inputs": {"by": [number]}})
            rest.predict("counter", {"signature_name": "add", "inputs": {"by": ["no number"]}})
            return bool(outcome)

        numbers = iter(range(1, 1000))
        wait_until(lambda: ask(next(numbers)), "enough requests were answered")
    capturing.join()
    (records,) = outcome
    assert isinstance(records, list)
    assert len(records) == 3
    requests = [json.loads(engine.decode_message(LOG, record))["predict_log"]["request"] for record in records]
    assert {json.dumps(request["model_spec"]) for request in requests} == {
        json.dumps({"name": "counter", "signature_name": "add"})
    }
    counter.warm_up(records[0])
    server.publish({})
    assert counter.unload(None)


def test_requests_over_examples_are_captured(runtime: engine.Runtime) -> None:
    import grpc

    def encoded(kind: str, **request: Any) -> bytes:
        example = {"features": {"feature": {"x": {"float_list": {"value": [1.0]}}}}}
        request["input"] = {"example_list_with_context": {"examples": [{}], "context": example}}
        return engine.encode_json(f"tensorflow.serving.{kind}Request", json.dumps(request))

    def spec(signature: str) -> dict[str, str]:
        return {"name": "ex", "signature_name": signature}

    tasks = [
        {"model_spec": spec("classify"), "method_name": "tensorflow/serving/classify"},
        {"model_spec": spec("regress"), "method_name": "tensorflow/serving/regress"},
    ]
    requests = [
        ("Classify", encoded("Classification", model_spec=spec("classify"))),
        ("Classify", encoded("Classification", model_spec=spec("classify_int"))),  # breaks its promise
        ("Regress", encoded("Regression", model_spec=spec("regress"))),
        ("MultiInference", encoded("MultiInference", tasks=tasks)),
    ]
    server = engine.Server(ServerSpec(grpc_address="127.0.0.1:0"))
    servable = load(runtime, "ex", model=MODELS / "ex" / "1")
    server.publish(routes(servable))
    server.start()
    capturing, outcome = in_thread(lambda: server.capture("ex", 6, 10_000, 10 * DEADLINE_S))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:

        def ask() -> bool:
            for method, request in requests:
                call: Any = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
                with contextlib.suppress(grpc.RpcError):
                    call(request)
            return bool(outcome)

        wait_until(ask, "enough requests were answered")
    capturing.join()
    (records,) = outcome
    assert isinstance(records, list)
    described = {engine.describe_record(record) for record in records}
    assert {(one["kind"], one["signature"], one["examples"]) for one in map(json.loads, described)} == {
        ("classify", "classify", 1),
        ("regress", "regress", 1),
        ("multi_inference", "classify, regress", 1),
    }
    for record in records:
        servable.warm_up(record)
    server.stop(DEADLINE_S)


def test_a_capture_ends_with_its_time_or_the_server(runtime: engine.Runtime, server: engine.Server) -> None:
    with pytest.raises(engine.EngineError) as raised:
        server.capture("m", 1, 1000, 0.0)
    assert (raised.value.code, raised.value.message) == ("NOT_FOUND", "no model is called m")
    server.publish(routes(load(runtime)))
    server.start()
    assert server.capture("m", 1, 1000, 0.01) == []
    capturing, outcome = in_thread(lambda: server.capture("m", 1, 1000, 10 * DEADLINE_S))
    server.stop(DEADLINE_S)
    capturing.join(DEADLINE_S)
    assert outcome == [[]]
    server.publish({})


def test_warm_ups_are_counted() -> None:
    path = "/metrics"
    server = engine.Server(ServerSpec(rest_address="127.0.0.1:0", metrics_path=path))
    server.count_warmup("/models/m/1", "OK", 7, 0.5)
    with pytest.raises(ValueError, match="no canonical code"):
        server.count_warmup("/models/m/1", "FINE", 7, 0.5)
    server.start()
    assert server.rest_port is not None
    with Rest(server.rest_port) as rest:
        page = rest.get(path).body.decode()
    assert ':tensorflow:serving:model_warmup_records_read{model_path="/models/m/1",status="OK"} 7\n' in page
    assert ':tensorflow:serving:model_warmup_latency_sum{model_path="/models/m/1",status="OK"} 500000\n' in page
    server.stop(DEADLINE_S)


def test_a_server_starts_once(server: engine.Server) -> None:
    server.start()
    with pytest.raises(engine.EngineError) as raised:
        server.start()
    assert raised.value.code == "FAILED_PRECONDITION"
    server.stop(DEADLINE_S)
    with pytest.raises(engine.EngineError) as raised:
        server.start()
    assert raised.value.code == "FAILED_PRECONDITION"


def test_an_address_that_is_taken_is_named_and_leaves_nothing_open(server: engine.Server) -> None:
    server.start()
    address = f"127.0.0.1:{server.rest_port}"
    second = engine.Server(ServerSpec(grpc_address="127.0.0.1:0", rest_address=address))
    with pytest.raises(engine.EngineError) as raised:
        second.start()
    assert raised.value.code == "UNAVAILABLE"
    assert address in raised.value.message
    assert second.grpc_port is None
    server.stop(DEADLINE_S)
    second.start()  # a failed start may be repeated
    assert second.grpc_port
    assert second.stop(DEADLINE_S)


def test_a_server_that_never_started_stops(server: engine.Server) -> None:
    assert server.stop(0.0)
    assert server.stop(0.0)
    assert server.next_call(DEADLINE_S) is None


def test_some_ports_open_before_the_others() -> None:
    anywhere = "127.0.0.1:0"
    spec = ServerSpec(rest_address=anywhere, admin_address=anywhere, monitoring_address=anywhere)
    server = engine.Server(spec)
    server.open()
    server.open()
    assert server.rest_port is None
    assert server.admin_port is not None
    assert server.monitoring_port is not None
    with Rest(server.monitoring_port) as watching, Rest(server.admin_port) as administering:
        assert watching.get("/readyz").body == b"starting\n"
        remark = "UNAVAILABLE: not all there"
        server.publish({"m": ModelRoutes([VersionRoute(1, "LOADING", remark=remark)])})
        assert watching.get("/readyz").body == b"starting\nmodel m version 1: LOADING: UNAVAILABLE: not all there\n"
        assert administering.get("/readyz/models/m?verbose").json["model"]["error"] == remark
        server.publish({"m": ModelRoutes([VersionRoute(1, "END")], configured=False)})
        assert watching.get("/readyz/models/m").status == 404
        server.start()
        assert server.rest_port is not None
        assert watching.get("/readyz").body == b"ready\n"
        server.leave()
        with Rest(server.rest_port) as rest:
            assert (rest.get("/livez").status, rest.get("/readyz").status) == (200, 503)
        assert (watching.get("/livez").status, watching.get("/readyz").body) == (200, b"draining\n")
    assert server.stop(DEADLINE_S)
    with pytest.raises(engine.EngineError, match="has been started before"):
        server.open()


def test_a_port_that_opens_early_and_is_taken_is_named(server: engine.Server) -> None:
    server.start()
    address = f"127.0.0.1:{server.rest_port}"
    with pytest.raises(engine.EngineError, match=address):
        engine.Server(ServerSpec(monitoring_address=address)).open()


def test_waiting_for_calls_ends_with_the_timeout_or_the_server(server: engine.Server) -> None:
    server.start()
    assert server.next_call(0.01) is None
    # If the wait held the interpreter, `stop` would never be reached.
    waiting, outcome = in_thread(lambda: server.next_call(10 * DEADLINE_S))
    assert server.stop(DEADLINE_S)
    waiting.join(DEADLINE_S)
    assert outcome == [None]


def test_a_call_is_answered_by_the_control_plane() -> None:
    import grpc

    server = engine.Server(ServerSpec(grpc_address="127.0.0.1:0"))
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            reload: Any = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")

            def next_call() -> engine.ControlCall:
                call = server.next_call(DEADLINE_S)
                assert call is not None
                return call

            pending = reload.future(b"\x12\x01a", timeout=DEADLINE_S)
            call = next_call()
            assert (call.method, call.request) == ("HandleReloadConfigRequest", b"\x12\x01a")
            call.reply(b"answer")
            assert pending.result() == b"answer"

            pending = reload.future(b"", timeout=DEADLINE_S)
            next_call().fail("ALREADY_EXISTS", "there is one")
            assert (pending.code().name, pending.details()) == ("ALREADY_EXISTS", "there is one")

            pending = reload.future(b"", timeout=DEADLINE_S)
            next_call()  # and forget it
            assert pending.code().name == "INTERNAL"
    finally:
        server.stop(0.0)


@pytest.fixture
def administered() -> Iterator[engine.Server]:
    server = engine.Server(ServerSpec(admin_address="127.0.0.1:0"))
    server.start()
    yield server
    server.stop(0.0)


def call_for(server: engine.Server) -> engine.ControlCall:
    call = server.next_call(DEADLINE_S)
    assert call is not None
    return call


def test_the_admin_port_speaks_rest(administered: engine.Server) -> None:
    assert administered.admin_port is not None
    with Rest(administered.admin_port) as rest:

        def send(method: str, target: str, body: str | None = None) -> Answer:
            answers: list[Answer] = []
            asking = threading.Thread(target=lambda: answers.append(rest.send(method, target, body)))
            asking.start()
            call = call_for(administered)
            assert (call.method, call.request) == (f"{method} {target}", (body or "").encode())
            if method == "DELETE":
                call.fail("FAILED_PRECONDITION", "no")
            elif method == "PATCH":
                call.fail("UNIMPLEMENTED", "no such verb")
            else:
                call.reply(b'{"a": 1}')
            asking.join(DEADLINE_S)
            return answers[0]

        for method in ("GET", "PUT", "POST"):
            answer = send(method, "/admin/v1/models/a%2Fb?wait=false", "{}" if method != "GET" else None)
            assert (answer.status, answer.json) == (200, {"a": 1})
        answer = send("DELETE", "/admin/v1/models/m")
        assert (answer.status, answer.error, answer.headers["servable-code"]) == (400, "no", "FAILED_PRECONDITION")
        answer = send("PATCH", "/admin/v1/models/m")
        assert (answer.status, answer.error) == (405, "no such verb")


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/", {}, 404),
        ("/v1/models/m", {}, 404),
        ("/admin/v1/models", {"Origin": "http://localhost"}, 403),
        ("/admin/v1/models/m", {"Content-Length": str((4 << 20) + 1)}, 429),
    ],
)
def test_the_admin_port_refuses_what_need_not_reach_the_control_plane(
    administered: engine.Server, target: str, headers: dict[str, str], status: int
) -> None:
    assert administered.admin_port is not None
    with Rest(administered.admin_port) as rest:
        answer = rest.send("GET", target, None, headers)
        assert (answer.status, list(answer.json)) == (status, ["error"])
    assert administered.next_call(0.0) is None


def test_the_admin_port_speaks_grpc(administered: engine.Server) -> None:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{administered.admin_port}") as channel:
        remove: Any = channel.unary_unary("/servable.admin.v1.Admin/RemoveModel")
        pending = remove.future(b"request", timeout=DEADLINE_S)
        call = call_for(administered)
        assert (call.method, call.request) == ("servable.admin.v1.Admin/RemoveModel", b"request")
        call.reply(b"answer")
        assert pending.result() == b"answer"
        pending = remove.future(b"", timeout=DEADLINE_S, metadata=[("origin", "http://localhost")])
        assert pending.code().name == "PERMISSION_DENIED"
        for method in ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", "/servable.admin.v1.Other/X"):
            other: Any = channel.unary_unary(method)
            assert other.future(b"", timeout=DEADLINE_S).code().name == "UNIMPLEMENTED"
    assert administered.next_call(0.0) is None


def test_limits_arrive() -> None:
    limited = engine.Server(ServerSpec(rest_address="127.0.0.1:0", limits=LimitSpec(max_body_bytes=10)))
    limited.start()
    try:
        assert limited.rest_port is not None
        with Rest(limited.rest_port) as rest:
            assert "max_body_bytes" in rest.predict("m", {"instances": [1]}).error
    finally:
        limited.stop(0.0)


def test_classes_are_final() -> None:
    for name in ("Runtime", "Servable", "Server", "ControlCall"):
        with pytest.raises(TypeError):
            type("Sub", (getattr(engine, name),), {})


def run_python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_control_c_is_handled_beside_a_running_server() -> None:
    code = (
        "import signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from servable.engine import Server\n"
        "from servable.types import ServerSpec\n"
        "server = Server(ServerSpec(rest_address='127.0.0.1:0'))\n"
        "server.start()\n"
        "threading.Thread(target=server.next_call, args=(60.0,), daemon=True).start()\n"
        "try:\n"
        "    print('started')\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    print(server.stop(5.0))\n"
    )
    with run_python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "True\n"
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_before_the_start_may_use_the_engine() -> None:
    code = (
        "import os\n"
        "from servable.engine import Server, encode_text\n"
        "from servable.types import ServerSpec\n"
        "server = Server(ServerSpec(rest_address='127.0.0.1:0'))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        f"    encode_text({CONFIG!r}, '')\n"
        "    server.start()\n"
        "    os._exit(0 if server.stop(5.0) else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    with run_python(code) as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert output == "0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_a_running_server_does_not_hang() -> None:
    """The child has the server without its threads; it can end, and the parent goes on."""
    code = (
        "import os, sys, warnings\n"
        "from servable.engine import Server\n"
        "from servable.types import ServerSpec\n"
        "warnings.simplefilter('ignore')\n"
        "server = Server(ServerSpec(rest_address='127.0.0.1:0'))\n"
        "server.start()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), server.stop(5.0))\n"
    )
    with run_python(code) as process:
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert output == "7 True\n"
