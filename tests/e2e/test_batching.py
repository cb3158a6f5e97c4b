"""Requests that are gathered into batches, as clients and operators see it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.e2e.grpc_client import Grpc, code_of, predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, Model, ServerProcess, command, free_ports, serving, wait_until
from tests.e2e.tensorflow_models import write_batch_function

CLIENTS = 16


@contextmanager
def batching(folder: Path, parameters: str, *names: str, flags: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """A server of these models with a file of batching parameters."""
    file = folder / "batching.txt"
    file.write_text(parameters)
    models = [Model(name, MODELS / name) for name in names]
    given = ("--enable_batching", f"--batching_parameters_file={file}", *flags)
    with serving(models, folder, *given) as server:
        yield server


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What calls give that begin at the same time."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def monitored(folder: Path) -> str:
    """The flag that turns metrics on."""
    (folder / "monitoring.txt").write_text("prometheus_config { enable: true }")
    return f"--monitoring_config_file={folder / 'monitoring.txt'}"


def explained(port: int, model: str) -> dict[str, Any]:
    """What `servable batching explain` says of the only queue of the only version."""
    done = subprocess.run(
        [command("servable"), "batching", "explain", model, "--json", f"--server=127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    (version,) = report["versions"]
    (queue,) = version["queues"]
    return {**version, **queue}


def half(client: Grpc, *values: float, **options: Any) -> list[float]:
    request = predict_request("half", {"x": np.array(values, np.float32)})
    return list(client.predict(request, **options).outputs["y"].float_val)


def test_requests_of_both_protocols_share_batches(tmp_path: Path) -> None:
    (admin,) = free_ports(1)
    parameters = "max_batch_size { value: 4 } batch_timeout_micros { value: 60000000 } num_batch_threads { value: 1 }"
    with (
        batching(tmp_path, parameters, "half", flags=(f"--admin_port={admin}", monitored(tmp_path))) as server,
        Grpc(server.grpc_address) as client,
        Rest(server.rest_port) as rest,
    ):
        answers = together(
            lambda: half(client, 1.0),
            lambda: half(client, 2.0, 3.0),
            lambda: rest.predict("half", {"instances": [4.0]}).json["predictions"],
        )
        assert answers == [[2.5], [3.0, 3.5], [4.0]]
        report = explained(admin, "half")
        assert (report["batches"], report["rows"], report["fill"]) == (1, 4, 1.0), "nobody waited for a minute"
        assert report["cuts"] == {"full": 1, "timeout": 0, "idle": 0, "deadline": 0, "closed": 0}
        wanted = [
            ":tensorflow:serving:batching_session:wrapped_run_count{} 1",
            'servable_batches_total{model="half",reason="full",signature="serving_default",version="7"} 1',
            'servable_batch_stage_seconds_count{model="half",signature="serving_default",stage="queue",version="7"} 3',
        ]

        def is_counted() -> bool:
            page = rest.get("/monitoring/prometheus/metrics").body.decode().splitlines()
            return all(line in page for line in wanted)

        wait_until(is_counted, "metrics tell of the batch")  # they are counted after the answer


def test_batching_that_tunes_itself_answers_all_and_says_why(tmp_path: Path) -> None:
    (admin,) = free_ports(1)
    flags = ("--latency_slo_ms=50", f"--admin_port={admin}")
    with serving([Model("half", MODELS / "half")], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:

        def many(first: int) -> list[list[float]]:
            return [half(client, float(first + number)) for number in range(50)]

        for client_number, answers in enumerate(together(*(lambda n=n: many(1000 * n) for n in range(CLIENTS)))):
            assert answers == [[(1000 * client_number + number) / 2 + 2] for number in range(50)]
        report = explained(admin, "half")
        assert (report["mode"], report["requests"], report["rows"]) == ("self_tuning", CLIENTS * 50, CLIENTS * 50)
        assert sum(report["cuts"].values()) == report["batches"] <= CLIENTS * 50
        text = subprocess.run(
            [command("servable"), "batching", "explain", "half", f"--server=127.0.0.1:{admin}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "serving_default" in text


def test_one_bad_request_fails_alone(tmp_path: Path) -> None:
    parameters = "max_batch_size { value: 3 } batch_timeout_micros { value: 60000000 } num_batch_threads { value: 1 }"
    with batching(tmp_path, parameters, "ex") as server:

        def classify(example: Any) -> tuple[int, Any]:
            with Rest(server.rest_port) as rest:
                body = {"signature_name": "classify", "examples": [example]}
                answer = rest.send("POST", "/v1/models/ex:classify", body)
                return answer.status, answer.json

        good, bad = {"x": 0.5}, {"x": "no number"}
        first, second, third = together(lambda: classify(good), lambda: classify(bad), lambda: classify(good))
        assert first == third == (200, {"results": [[["lo", 0.5], ["hi", 0.0]]]})
        assert second[0] == 400
        assert "x" in second[1]["error"]


def test_what_cannot_be_batched_runs_on_its_own_if_asked_for(tmp_path: Path) -> None:
    parameters = "max_batch_size { value: 4 } batch_timeout_micros { value: 1000 }"
    flags = ("--unbatched_fallback",)
    with batching(tmp_path, parameters, "half", "total", flags=flags) as server, Rest(server.rest_port) as rest:
        answers = [
            rest.predict("total", {"inputs": [1.0, 2.0]}).json,
            rest.predict("half", {"inputs": 1.0}).json,
            rest.predict("half", {"instances": [1.0] * 5}).json,
        ]
        assert answers == [{"outputs": 3.0}, {"outputs": 2.5}, {"predictions": [2.5] * 5}]


def test_a_large_request_is_spread_over_batches(tmp_path: Path) -> None:
    (admin,) = free_ports(1)
    parameters = """
        max_batch_size { value: 16 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }
        max_enqueued_batches { value: 9 } batch_timeout_micros { value: 1000 }
    """
    flags = (f"--admin_port={admin}",)
    with batching(tmp_path, parameters, "half", flags=flags) as server, Grpc(server.grpc_address) as client:
        rows = [float(number) for number in range(10)]
        assert half(client, *rows) == [number / 2 + 2 for number in rows]
        report = explained(admin, "half")
        assert (report["requests"], report["batches"], report["rows"]) == (1, 3, 10)
        with pytest.raises(grpc.RpcError) as refused:
            half(client, *[1.0] * 17)
        assert code_of(refused.value) == "INVALID_ARGUMENT"
        assert "Task size 17 is larger than maximum input batch size 16" in str(refused.value)


@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
def test_requests_that_can_wait_ride_with_those_that_cannot(tmp_path: Path, protocol: str) -> None:
    (admin,) = free_ports(1)
    parameters = """
        max_batch_size { value: 4 } num_batch_threads { value: 1 }
        servable { low_priority_max_batch_size: 4 low_priority_batch_timeout_micros: 60000000 }
    """
    flags = (f"--admin_port={admin}",)
    with batching(tmp_path, parameters, "half", flags=flags) as server, Grpc(server.grpc_address) as client:
        low = {"servable-priority": "low"}

        def ask_later() -> list[float]:
            if protocol == "gRPC":
                return half(client, 1.0, metadata=tuple(low.items()))
            with Rest(server.rest_port) as rest:
                answer = rest.send("POST", "/v1/models/half:predict", {"instances": [1.0]}, low)
                return list(answer.json["predictions"])

        def waits() -> bool:
            try:
                return bool(explained(admin, "half")["queued_rows"] == 1)
            except ValueError:
                return False  # there is no queue yet

        with ThreadPoolExecutor(1) as pool:
            later = pool.submit(ask_later)
            wait_until(waits, "the request that can wait is in the queue")
            assert half(client, 2.0) == [3.0]
            assert later.result() == [2.5]
        report = explained(admin, "half")
        assert (report["requests"], report["batches"]) == (2, 1)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[ServerProcess]:
    """One thread that is busy for a while with each request, and room for two that wait."""
    parameters = "max_batch_size { value: 1 } max_enqueued_batches { value: 2 } num_batch_threads { value: 1 }"
    with batching(tmp_path, parameters, "slow") as server:
        yield server


def test_a_full_queue_answers_at_once(crowded: ServerProcess) -> None:
    def ask() -> Any:
        with Rest(crowded.rest_port) as rest:
            return rest.predict("slow", {"instances": [1.0]})

    answers = together(*[ask] * 6)
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) >= 3
    assert all("batch scheduling queue to which this task was submitted is full" in one.error for one in refused)
    assert all(one.headers["retry-after"] == "1" for one in refused)
    assert {answer.status for answer in answers} == {200, 503}


def test_who_waited_too_long_is_not_run(crowded: ServerProcess) -> None:
    request = predict_request("slow", {"x": np.ones(1, np.float32)})
    with Grpc(crowded.grpc_address) as client:
        first = client.prediction.Predict.future(request, timeout=60)
        with pytest.raises(grpc.RpcError) as refused:
            client.predict(request, timeout=0.2)
        assert code_of(refused.value) in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
        assert first.result().outputs


def test_unloading_does_not_wait_for_the_timeout(tmp_path: Path) -> None:
    base = tmp_path / "models" / "half"
    base.mkdir(parents=True)
    (base / "1").symlink_to(MODELS / "half" / "7")
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 9 } batch_timeout_micros { value: 600000000 }")
    flags = ("--enable_batching", f"--batching_parameters_file={tmp_path / 'batching.txt'}")
    with serving([Model("half", base)], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        request = predict_request("half", {"x": np.ones(1, np.float32)})
        waiting = client.prediction.Predict.future(request, timeout=60)
        (base / "2").symlink_to(MODELS / "half" / "7")
        wait_until(lambda: client.states("half").get(1) == "END", "version 1 is unloaded")
        assert list(waiting.result().outputs["y"].float_val) == [2.5]


def test_batching_in_the_graph_needs_no_flag(tmp_path: Path) -> None:
    write_batch_function(tmp_path / "models" / "inside" / "1", threads=1)
    models = [Model("inside", tmp_path / "models" / "inside")]
    with serving(models, tmp_path) as server, Grpc(server.grpc_address) as client:

        def ask(value: float) -> list[float]:
            request = predict_request("inside", {"x": np.array([value], np.float32)})
            return list(client.predict(request).outputs["y"].float_val)

        for _ in range(20):  # the more brief runs, the more a network thread is tempted to do them itself
            answers = together(*(lambda value=value: ask(value) for value in (1.0, 2.0, 4.0, 8.0)))
            assert answers == [[15.0]] * 4


def test_batching_in_the_graph_that_adapts_itself(tmp_path: Path) -> None:
    write_batch_function(tmp_path / "models" / "inside" / "1", threads=0)
    models = [Model("inside", tmp_path / "models" / "inside")]
    with serving(models, tmp_path) as server, Grpc(server.grpc_address) as client:
        request = predict_request("inside", {"x": np.ones(4, np.float32)})
        assert list(client.predict(request).outputs["y"].float_val) == [4.0] * 4
