"""Requests that are made to hurt: an error for them, nothing for anybody else."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import predict_pb2

from tests.e2e import http2
from tests.e2e.grpc_client import TIMEOUT_S, Grpc, code_of
from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, Model, ServerProcess, serving, wait_until

INT64_MAX = 2**63 - 1


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Grpc:
    return Grpc(server.grpc_address)


def float_request(model: str, *sizes: int) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].dtype = 1
    for size in sizes:
        request.inputs["x"].tensor_shape.dim.add().size = size
    return request


def refusal(client: Grpc, request: predict_pb2.PredictRequest) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(request)
    return code_of(caught.value), str(caught.value.details())


@pytest.mark.parametrize("sizes", [(0, INT64_MAX, INT64_MAX), (0, 2**62, 2**62), (2**62, 0, 2**62)])
def test_an_empty_tensor_of_impossible_shape_is_refused(client: Grpc, sizes: tuple[int, ...]) -> None:
    assert refusal(client, float_request("total", *sizes)) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_an_empty_tensor_with_huge_dimensions_is_refused(client: Grpc) -> None:
    code, text = refusal(client, float_request("total", 0, 2**40))
    assert code == "RESOURCE_EXHAUSTED"
    assert "max_tensor_elements" in text


def test_a_flood_of_names_is_refused(client: Grpc) -> None:
    request = float_request("half")
    request.output_filter.extend([""] * 100_000)
    code, text = refusal(client, request)
    assert code == "RESOURCE_EXHAUSTED"
    assert "more than 4096" in text


def test_calls_that_nobody_waits_for_are_not_run(tmp_path: Path) -> None:
    models = [Model(name, MODELS / name) for name in ("slow", "counter")]
    with serving(models, tmp_path, "--grpc_max_threads=1") as server, Grpc(server.grpc_address) as client:
        running = client.prediction.Predict.future(float_request("slow", 1), timeout=TIMEOUT_S)
        count = predict_pb2.PredictRequest()
        count.model_spec.name = "counter"
        waiting = [client.prediction.Predict.future(count, timeout=TIMEOUT_S) for _ in range(20)]
        for call in waiting:
            call.cancel()
        assert running.result().outputs["y"].tensor_shape.dim[0].size == 1
        count.model_spec.signature_name = "read"
        (counted,) = client.predict(count).outputs["count"].int64_val
        assert counted < len(waiting), "a few may have come before the slow one"


def send_slow(server: ServerProcess) -> socket.socket:
    """A connection over which a request of the slow model has been sent."""
    connection = socket.create_connection(("127.0.0.1", server.rest_port), timeout=TIMEOUT_S)
    body = b'{"instances": [1]}'
    head = (
        f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def read_all(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        return file.read()


def test_rest_requests_that_nobody_waits_for_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    flags = ["--grpc_max_threads=1", f"--monitoring_config_file={tmp_path / 'monitoring'}"]
    with serving([Model("slow", MODELS / "slow")], tmp_path, *flags) as server, send_slow(server) as running:
        for _ in range(20):
            send_slow(server).close()
        assert read_all(running).startswith(b"HTTP/1.1 200")
        with send_slow(server) as last:
            # It has no more to say, which does not mean that it has gone: it is answered.
            last.shutdown(socket.SHUT_WR)
            assert read_all(last).startswith(b"HTTP/1.1 200")
        with Rest(server.rest_port) as rest:
            page = rest.get("/monitoring/prometheus/metrics").body.decode()
        (runs,) = re.findall(r':runtime_latency_count\{model_name="slow".*\} (\d+)', page)
        assert 2 <= int(runs) < 20, "a few may have come before the first one"


def test_failures_do_not_earn_the_network_thread(client: Grpc, server: ServerProcess) -> None:
    wrong = float_request("slow", 1)
    wrong.inputs["x"].dtype = 3
    for _ in range(50):
        refusal(client, wrong)
    done = threading.Event()

    def run() -> None:
        client.predict(float_request("slow", 1))
        done.set()

    runner = threading.Thread(target=run)
    runner.start()
    answered = 0
    while not done.is_set():
        for _ in range(4):  # over all network threads
            with Rest(server.rest_port) as rest:
                assert rest.get("/readyz").status == 200
        answered += 1
    runner.join()
    assert answered > 1, "the answers had to wait for the run"


def test_announced_messages_take_no_room(tmp_path: Path) -> None:
    """What streams announce and do not send costs others nothing; what they have sent counts until they are gone."""
    flags = ["--max_bytes_in_flight=10000000", f"--model_base_path={MODELS / 'half'}", "--model_name=half"]
    with ServerProcess(flags, tmp_path / "log") as server, Grpc(server.wait_ready().grpc_address) as client:
        with http2.Http2(server.grpc_port) as connection:
            streams = range(1, 31, 2)
            for stream in streams:
                announcement = http2.message(b"", announced=1_000_000)
                connection.send(http2.headers(stream) + http2.data(stream, announcement))
            for _ in range(20):
                assert code_after(client) == "OK"
            for stream in streams:
                for _ in range(40):
                    connection.send(http2.data(stream, bytes(10_000)))
            connection.ping()
            wait_until(lambda: code_after(client) == "RESOURCE_EXHAUSTED", "the budget is spent")
        wait_until(lambda: code_after(client) == "OK", "what had come is given back with the connection")


def code_after(client: Grpc) -> str:
    """The code of a call that needs two megabytes."""
    request = float_request("half", 500_000)
    request.inputs["x"].tensor_content = bytes(2_000_000)
    try:
        client.predict(request)
    except grpc.RpcError as error:
        return code_of(error)
    return "OK"


def test_made_up_names_do_not_fill_the_metrics_page(tmp_path: Path) -> None:
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    flags = f"--monitoring_config_file={tmp_path / 'monitoring'}"
    with serving([Model("half", MODELS / "half")], tmp_path, flags) as server, Rest(server.rest_port) as rest:
        for number in range(300):
            assert rest.send("POST", f"/v1/models/made-up-{number}:predict", b"{").status == 400
        page = rest.get("/monitoring/prometheus/metrics").body.decode()
        for metric in (":tensorflow:serving:request_count{", "servable_other_requests_total{"):
            lines = [line for line in page.splitlines() if line.startswith(metric)]
            assert 100 <= sum("made-up-" in line for line in lines) <= 101
        assert 'model_name="(other)",status="INVALID_ARGUMENT"} 200' in page


def test_one_connection_at_most_serves_either_port(tmp_path: Path) -> None:
    with serving([Model("half", MODELS / "half")], tmp_path, "--max_connections=1") as server:
        for _ in range(3):
            with Rest(server.rest_port) as rest:
                assert rest.get("/readyz").status == 200


def test_more_requests_than_allowed_are_refused_at_once(tmp_path: Path) -> None:
    with serving([Model("slow", MODELS / "slow")], tmp_path, "--max_requests_in_flight=2") as server:
        client = Grpc(server.grpc_address)
        calls = [client.prediction.Predict.future(float_request("slow", 1), timeout=TIMEOUT_S) for _ in range(6)]
        codes = [call.code().name for call in calls if call.exception() or True]
        assert sorted(codes) == ["OK"] * 2 + ["UNAVAILABLE"] * 4
