"""The end of a server: requests in flight finish, nobody new is let in, and it does end."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf

from tests.e2e.grpc_client import Grpc, code_of, predict_request, tensor
from tests.e2e.handmade import write_endless
from tests.e2e.http2 import Http2, call
from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, ServerProcess, accepts, serving, wait_until

SLOW_MS = 2500


def begin_slow_grpc(client: Grpc) -> Any:
    """A request that takes a while, and that the server is known to work on."""
    inputs = {"x": tensor([4.0]), "ms": tensor(SLOW_MS, tf.int64)}
    call = client.prediction.Predict.future(predict_request("slow", inputs, signature="ms"), timeout=60)
    client.status("slow")  # the connection keeps the order, so once this is answered the other one has arrived
    return call


def begin_slow_rest(port: int, milliseconds: int = SLOW_MS) -> socket.socket:
    """The same over REST. The server asks for the body, so it has begun with the request."""
    body = json.dumps({"signature_name": "ms", "inputs": {"x": [4.0], "ms": milliseconds}})
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
    connection.sendall(body.encode())
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        return file.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_finish_while_new_connections_are_refused(tmp_path: Path, number: signal.Signals) -> None:
    models = [Model("slow", MODELS / "slow")]
    with serving(models, tmp_path) as server, Grpc(server.grpc_address) as client:
        call = begin_slow_grpc(client)
        with begin_slow_rest(server.rest_port) as connection:
            server.signal(number)
            server.wait_for(lambda: not accepts(server.rest_port), "the REST port closes")
            server.wait_for(lambda: not accepts(server.grpc_port), "the gRPC port closes")
            assert not call.done(), "the ports have to close at once"
            assert call.result().outputs["y"].float_val[0] == 4.0
            answer = read_to_end(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"outputs": [4.0]}
        assert server.exit_code() == 0


def test_connections_are_told_to_go_and_finish_what_is_under_way(tmp_path: Path) -> None:
    inputs = {"x": tensor([4.0]), "ms": tensor(SLOW_MS, tf.int64)}
    request = predict_request("slow", inputs, signature="ms").SerializeToString()
    with (
        serving([Model("slow", MODELS / "slow")], tmp_path, "--drain_timeout_seconds=60") as server,
        Http2(server.grpc_port) as busy,
        Http2(server.grpc_port) as idle,
    ):
        busy.send(call(1, request))
        busy.ping()
        server.signal()
        for connection in (idle, busy):
            connection.wait_told_to_go()
        idle.wait_closed()
        assert not busy.is_ended(1)
        busy.wait_for(lambda: busy.is_ended(1), "what is under way is finished")
        assert busy.answer(1)["grpc-status"] == "0"
        busy.wait_closed()
        assert server.exit_code() == 0


@pytest.mark.parametrize("begun", [b"", b"GET /livez HTTP/1.1\r\nHo"], ids=["silent", "within a head"])
def test_connections_without_a_request_do_not_hold_up_the_end(tmp_path: Path, begun: bytes) -> None:
    models = [Model("m", HALF_PLUS_TWO)]
    with (
        serving(models, tmp_path, "--drain_timeout_seconds=5") as server,
        Grpc(server.grpc_address) as client,
        socket.create_connection(("127.0.0.1", server.rest_port)) as idle,
        socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as kept,
    ):
        idle.sendall(begun)
        assert client.predict(predict_request("m", {"x": [2.0]})).outputs["y"].float_val[0] == 3.0
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200 OK")
        server.signal()
        assert server.exit_code() == 0
        assert "cut off" not in server.log


@pytest.mark.parametrize("attempt", range(3))
def test_a_signal_that_comes_as_the_ports_open_is_not_missed(tmp_path: Path, attempt: int) -> None:
    models = [Model("slow", MODELS / "slow")]
    with serving(models, tmp_path) as server, begin_slow_rest(server.rest_port, 100) as connection:
        server.signal()
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 OK")
        assert server.exit_code() == 0


@pytest.fixture
def endless(tmp_path: Path) -> ServerProcess:
    """A server, short of patience, with a model that never answers."""
    write_endless(tmp_path / "endless" / "1")
    flags = [f"--model_base_path={tmp_path / 'endless'}", "--model_name=endless", "--drain_timeout_seconds=0.3"]
    return ServerProcess(flags, tmp_path / "log")


def test_a_request_that_never_ends_is_cut_off(endless: ServerProcess) -> None:
    with endless as server, Grpc(server.wait_ready().grpc_address) as client:
        call = client.prediction.Predict.future(predict_request("endless", {"x": 1.0}), timeout=60)
        assert client.states("endless") == {1: "AVAILABLE"}
        server.signal()
        assert server.exit_code() == 0
        with pytest.raises(grpc.RpcError) as raised:
            call.result()
        assert code_of(raised.value) in ("UNAVAILABLE", "CANCELLED", "INTERNAL")
    assert "Requests were still running after 0.3 s; they were cut off" in endless.log
    assert "not unloaded" not in endless.log, "there is nothing more to wait for"


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    write_endless(tmp_path / "endless" / "1")
    with serving([Model("endless", tmp_path / "endless")], tmp_path) as server, Grpc(server.grpc_address) as client:
        call = client.prediction.Predict.future(predict_request("endless", {"x": 1.0}), timeout=60)
        client.states("endless")
        server.signal()
        server.wait_for(lambda: "Stopping: " in server.log, "the first signal is seen")
        assert not call.done()
        server.signal()
        assert server.exit_code() == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_waits_for_its_first_version_stops(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "empty").mkdir()
    with ServerProcess([f"--model_base_path={tmp_path / 'empty'}"], tmp_path / "log") as server:
        server.wait_for(lambda: "No versions of servable default found" in server.log, "it looks for versions")
        server.signal(number)
        assert server.exit_code() == 0


def test_ports_can_be_taken_again_at_once(tmp_path: Path) -> None:
    models = [Model("m", HALF_PLUS_TWO)]
    with serving(models, tmp_path) as server, Grpc(server.grpc_address) as client:
        client.predict(predict_request("m", {"x": [2.0]}))
        port = server.grpc_port
        server.stop()
    wait_until(lambda: not accepts(port), "the port is free")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
