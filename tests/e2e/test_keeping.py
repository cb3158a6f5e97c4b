"""How models are kept: loaded with their first request, unloaded for others, refused where there is no room, mended."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from tests.e2e.grpc_client import Grpc, code_of, details_of, predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, Model, ServerProcess, serving
from tests.e2e.test_lifecycle import put, put_broken

LAZY = "--lazy_loading"


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def example_input(value: float) -> Any:
    example = tf.train.Example(features={"feature": {"x": {"float_list": {"value": [value]}}}})
    request = regression_pb2.RegressionRequest()
    request.input.example_list.examples.append(example)
    return request.input


def classify(client: Grpc) -> Any:
    request = classification_pb2.ClassificationRequest(input=example_input(1.0))
    request.model_spec.name = "ex"
    request.model_spec.signature_name = "classify"
    return client.prediction.Classify(request, timeout=60)


def regress(client: Grpc) -> Any:
    request = regression_pb2.RegressionRequest(input=example_input(1.0))
    request.model_spec.name = "ex"
    request.model_spec.signature_name = "regress"
    return client.prediction.Regress(request, timeout=60)


def infer(client: Grpc) -> Any:
    request = inference_pb2.MultiInferenceRequest(input=example_input(1.0))
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name = "ex"
    task.model_spec.signature_name = "regress"
    return client.prediction.MultiInference(request, timeout=60)


def rest(method: str, path: str, body: Any = None) -> Callable[[Rest], None]:
    def ask(client: Rest) -> None:
        answer = client.send(method, path, body)
        assert answer.status == 200, answer

    return ask


GRPC_CALLS: dict[str, Callable[[Grpc], Any]] = {
    "classify": classify,
    "regress": regress,
    "multi-inference": infer,
    "metadata": lambda client: client.metadata("ex"),
}
REST_CALLS = {
    "classify": rest("POST", "/v1/models/ex:classify", {"signature_name": "classify", "examples": [{"x": 1.0}]}),
    "regress": rest(
        "POST", "/v1/models/ex/versions/1:regress", {"signature_name": "regress", "examples": [{"x": 1.0}]}
    ),
    "metadata": rest("GET", "/v1/models/ex/metadata"),
}


@pytest.mark.parametrize("call", GRPC_CALLS)
def test_every_call_loads_what_it_needs(call: str, tmp_path: Path) -> None:
    with serving([Model("ex", MODELS / "ex")], tmp_path, LAZY) as server, Grpc(server.grpc_address) as client:
        assert set(client.states("ex").values()) == {"START"}
        GRPC_CALLS[call](client)
        assert set(client.states("ex").values()) == {"AVAILABLE"}


@pytest.mark.parametrize("call", REST_CALLS)
def test_every_rest_request_loads_what_it_needs(call: str, tmp_path: Path) -> None:
    with serving([Model("ex", MODELS / "ex")], tmp_path, LAZY) as server, Rest(server.rest_port) as client:
        assert set(client.states("ex").values()) == {"START"}
        REST_CALLS[call](client)
        assert set(client.states("ex").values()) == {"AVAILABLE"}


def test_first_requests_share_one_load(tmp_path: Path) -> None:
    with serving([Model("multi", MODELS / "multi")], tmp_path, LAZY) as server:

        def ask(number: int) -> float:
            if number % 2:
                with Rest(server.rest_port) as client:
                    return float(client.predict("multi", {"inputs": number}).json["outputs"])
            with Grpc(server.grpc_address) as client:
                answer = client.predict(predict_request("multi", {"x": float(number)}))
                return float(answer.outputs["y"].float_val[0])

        with ThreadPoolExecutor(20) as threads:
            assert list(threads.map(ask, range(40))) == [number + 3.0 for number in range(40)]
        assert server.log.count("Loading servable version {name: multi version: 3}") == 1


def test_models_take_turns_where_memory_is_short(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    for number, name in enumerate(names, 1):
        put(tmp_path / name, 1, source=number % 3 + 1)
    most = max(size_of(tmp_path / name) for name in names)
    models = [Model(name, tmp_path / name) for name in names]
    flags = (LAZY, f"--total_model_memory_limit_bytes={int(most * 1.2 * 2.5)}")
    with serving(models, tmp_path, *flags) as server:

        def ask(number: int) -> tuple[int, float]:
            which = number % len(names)
            with Grpc(server.grpc_address) as client:
                answer = client.predict(predict_request(names[which], {"x": 0.0}))
                return which, float(answer.outputs["y"].float_val[0])

        for number in range(len(names)):
            assert ask(number) == (number, (number + 1) % 3 + 1.0)
        with Grpc(server.grpc_address) as client:
            states = [client.states(name)[1] for name in names]
            assert states == ["START", "START", "AVAILABLE", "AVAILABLE"], "the least recently used have gone"
        with ThreadPoolExecutor(8) as threads:
            for which, answer in threads.map(ask, range(80)):
                assert answer == (which + 1) % 3 + 1.0


def test_a_pinned_model_stays(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / name, 1)
    limit = int(size_of(tmp_path / "a") * 1.2 * 2.5)
    pinned = Model("a", tmp_path / "a").text().replace("  }\n", "    servable { pinned: true }\n  }\n")
    others = "".join(Model(name, tmp_path / name).text() for name in ("b", "c"))
    models = "model_config_list {\n" + pinned + others + "}\n"
    flags = (LAZY, f"--total_model_memory_limit_bytes={limit}")
    with serving(models, tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        for name in ("a", "b", "c"):
            client.predict(predict_request(name, {"x": 0.0}))
        assert [client.states(name)[1] for name in ("a", "b", "c")] == ["AVAILABLE", "START", "AVAILABLE"]


def test_who_asks_for_a_broken_model_is_told_why(tmp_path: Path) -> None:
    put_broken(tmp_path / "broken", 1)
    with serving([Model("broken", tmp_path / "broken")], tmp_path, LAZY) as server, Grpc(server.grpc_address) as client:
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as raised:
                client.predict(predict_request("broken", {"x": 0.0}))
            assert code_of(raised.value) == "UNAVAILABLE"
            assert "{name: broken version: 1} could not be loaded: NOT_FOUND: " in details_of(raised.value)
        with Rest(server.rest_port) as client_:
            assert client_.predict("broken", {"inputs": 0}).status == 503
        with pytest.raises(grpc.RpcError) as raised:
            client.predict(predict_request("broken", {"x": 0.0}, version=2))
        assert code_of(raised.value) == "NOT_FOUND"


def test_a_lazy_model_in_use_changes_its_version_without_a_failed_request(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    with serving([Model("multi", base)], tmp_path, LAZY) as server, Grpc(server.grpc_address) as client:
        answers: list[float] = []
        stopped = threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                answers.append(client.predict(predict_request("multi", {"x": 0.0})).outputs["y"].float_val[0])

        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(ask)
            server.wait_for(lambda: bool(answers), "the model answers")
            put(base, 2)
            server.wait_for(lambda: answers[-1] == 2.0, "the new version answers")
            stopped.set()
            asking.result()
        assert sorted(answers) == answers


def test_a_model_can_let_its_old_version_go_first(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    model = Model("multi", base).text().replace("  }\n", "    servable { transition: RESOURCE_PRESERVING }\n  }\n")
    with serving(f"model_config_list {{ {model} }}", tmp_path) as server, Grpc(server.grpc_address) as client:
        put(base, 2)
        server.wait_for(lambda: client.states("multi") == {1: "END", 2: "AVAILABLE"}, "the new version is there")
        unloaded = server.log.index("Done unloading servable version {name: multi version: 1}")
        assert unloaded < server.log.index("Approving load for servable version {name: multi version: 2}")


def test_a_version_that_does_not_fit_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    limit = int(size_of(base) * 1.2 * 1.5)
    flags = [f"--total_model_memory_limit_bytes={limit}"]
    with serving([Model("multi", base)], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        put(base, 2)
        server.wait_for(lambda: client.states("multi") == {1: "AVAILABLE", 2: "END"}, "the load is refused")
        ((_, _, code, message),) = client.status("multi", 2)
        assert code == tf.errors.RESOURCE_EXHAUSTED
        assert message.startswith("Insufficient resources to load servable {name: multi version: 2}")
        assert client.predict(predict_request("multi", {"x": 0.0})).outputs["y"].float_val[0] == 1.0


def test_a_broken_version_that_is_mended_in_place_is_loaded(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    flags = ["--max_num_load_retries=0"]
    with serving([Model("multi", base)], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        put_broken(base, 2, b"no SavedModel")
        server.wait_for(lambda: client.states("multi").get(2) == "END", "the load fails")
        shutil.copytree(MODELS / "multi" / "2", base / "2", dirs_exist_ok=True)
        server.wait_for(lambda: client.states("multi") == {1: "END", 2: "AVAILABLE"}, "the mended version is loaded")
        assert client.predict(predict_request("multi", {"x": 0.0})).outputs["y"].float_val[0] == 2.0


def test_the_last_version_can_be_kept_whatever_happens_to_its_folder(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    flags = ["--servable_versions_always_present"]
    with serving([Model("multi", base)], tmp_path, *flags) as server, Rest(server.rest_port) as client:
        (base / "1").rename(base / "one")
        server.wait_for(lambda: "Refusing to unload all versions for Servable: multi" in server.log, "it is noticed")
        assert client.states("multi") == {"1": "AVAILABLE"}
        put(base, 2)
        server.wait_for(lambda: client.states("multi") == {"2": "AVAILABLE", "1": "END"}, "a new version takes over")


def test_a_model_without_versions_can_end_the_server(tmp_path: Path) -> None:
    flags = [f"--model_base_path={tmp_path}", "--model_name=m", "--fail_if_zero_versions_at_startup"]
    with ServerProcess(flags, tmp_path / "log") as server:
        assert server.exit_code() == 255
        assert "{name: m} due to error: NOT_FOUND: no version was found under its base path" in server.log
