"""Limits per model and per client, timeouts of connections, and memory in a small container."""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from servable.config.limits import fitted
from servable.types import LimitSpec

from tests.e2e.grpc_client import Grpc, code_of, details_of, predict_request, tensor
from tests.e2e.http2 import PREFACE, Http2, call, fields, reset
from tests.e2e.raw_client import Raw
from tests.e2e.rest_client import Rest
from tests.e2e.server import DEADLINE_S, MODELS, Model, ServerProcess, serving, wait_until

ON_LINUX = sys.platform == "linux"
MIB = 1 << 20
CONTAINER_BYTES = 512 * MIB
RUN_MS = 1500
BODY = {"instances": [1.0]}


def models(*names: str) -> list[Model]:
    return [Model(name, MODELS / name) for name in names]


def other_client(server: ServerProcess) -> http.client.HTTPConnection:
    """A connection to the REST port, from another address than all others where there is one."""
    source = ("127.0.0.2", 0) if ON_LINUX else None
    return http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=DEADLINE_S, source_address=source)


def at_work(server: ServerProcess) -> int:
    """Requests at work, without the one that asks."""
    connection = other_client(server)
    connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    (count,) = (int(line.split()[-1]) for line in lines if line.startswith("servable_requests_in_flight "))
    return count - 1


@contextmanager
def occupied(server: ServerProcess) -> Iterator[Any]:
    """A request for the model `slow` that is at work."""
    with Grpc(server.grpc_address) as client:
        request = predict_request("slow", {"ms": tensor(RUN_MS, "int64"), "x": [1.0]}, signature="ms")
        running = client.prediction.Predict.future(request, timeout=DEADLINE_S)
        server.wait_for(lambda: at_work(server) == 1, "it is at work")
        yield running
        running.result()


def test_requests_for_one_model_leave_room_for_others(tmp_path: Path) -> None:
    with serving(models("slow", "half"), tmp_path, "--max_requests_per_model=1") as server:
        with occupied(server) as running, Rest(server.rest_port) as rest, Grpc(server.grpc_address) as client:
            refused = rest.predict("slow", BODY)
            assert refused.status == http.client.SERVICE_UNAVAILABLE
            assert "max_requests_per_model" in refused.error
            assert refused.headers["retry-after"] == "1"
            with pytest.raises(grpc.RpcError) as error:
                client.predict(predict_request("slow", {"x": [1.0]}))
            assert code_of(error.value) == "UNAVAILABLE"
            assert "max_requests_per_model" in details_of(error.value)
            assert rest.predict("half", {"inputs": [1.0]}).status == http.client.OK
            assert not running.done()
        with Rest(server.rest_port) as rest:
            asked = lambda: rest.predict("slow", BODY).status != http.client.SERVICE_UNAVAILABLE  # noqa: E731
            wait_until(asked, "its place is given back")


@pytest.mark.skipif(not ON_LINUX, reason="all of 127.0.0.0/8 is this machine there")
def test_requests_of_one_client_leave_room_for_others(tmp_path: Path) -> None:
    with serving(models("slow", "half"), tmp_path, "--max_requests_per_client=1") as server:
        with occupied(server) as running, Rest(server.rest_port) as rest:
            refused = rest.predict("half", {"inputs": [1.0]})
            assert refused.status == http.client.SERVICE_UNAVAILABLE
            assert "max_requests_per_client" in refused.error
            other = other_client(server)
            other.request("POST", "/v1/models/half:predict", '{"inputs": [1.0]}')
            assert other.getresponse().status == http.client.OK
            other.close()
            assert not running.done()
        with Rest(server.rest_port) as rest:
            asked = lambda: rest.predict("half", {"inputs": [1.0]}).status == http.client.OK  # noqa: E731
            wait_until(asked, "its place is given back")


@pytest.mark.parametrize("limit", ["model", "client", "in_flight"])
def test_a_run_that_nobody_waits_for_keeps_its_place(tmp_path: Path, limit: str) -> None:
    flag = "--max_requests_in_flight=1" if limit == "in_flight" else f"--max_requests_per_{limit}=1"
    with serving(models("slow"), tmp_path, flag) as server, Http2(server.grpc_port) as connection:

        def is_refused() -> bool:
            stream = ask(connection)
            connection.ping(struct.pack(">Q", stream))
            if not connection.is_ended(stream):
                connection.send(reset(stream))
                return False
            assert connection.answer(stream)["grpc-status"] == "14"
            return True

        wait_until(is_refused, "a call that was reset is still at work")
        with Rest(server.rest_port) as rest:

            def has_room() -> bool:
                return rest.get("/v1/models/slow/metadata").status == http.client.OK

            assert not has_room()
            wait_until(has_room, "it is done")


def test_a_run_that_nobody_waits_for_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with serving(models("slow"), tmp_path, "--drain_timeout_seconds=600") as server:
        with Http2(server.grpc_port) as connection:
            stream = ask(connection, run_ms=600_000)
            server.wait_for(lambda: at_work(server) == 1, "it is at work")
            connection.send(reset(stream))
            connection.ping()
        server.signal()
        assert server.exit_code() == 0


def test_one_connection_too_many_of_a_client_is_closed_at_once(tmp_path: Path) -> None:
    def is_served(port: int) -> bool:
        try:
            with Rest(port) as rest:
                return rest.predict("half", {"inputs": [1.0]}).status == http.client.OK
        except (http.client.HTTPException, OSError):
            return False

    with serving(models("half"), tmp_path, "--max_connections_per_client=2") as server:
        server.wait_for(lambda: is_served(server.rest_port), "there is room")
        with Rest(server.rest_port) as first:

            def is_alone() -> bool:
                return b"\nservable_connections 1\n" in first.get("/metrics").body

            server.wait_for(is_alone, "those that looked whether it is there are gone")
            with Raw(server.rest_port) as second, Raw(server.rest_port) as third:
                third.wait_closed()
                assert not second.is_closed
                server.wait_for(lambda: not is_alone(), "the first one is served as before, and the second counts")
        server.wait_for(lambda: is_served(server.rest_port), "their places are given back")


def test_timeouts_of_connections(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    flags = ("--connection_idle_timeout_seconds=0.5", "--header_timeout_seconds=0.5", f"--grpc_socket_path={path}")
    with (
        socket.socket(socket.AF_UNIX) as local,
        serving(models("half"), tmp_path, *flags) as server,
        Raw(server.rest_port) as silent,
        Raw(server.grpc_port) as other,
        Raw(server.rest_port) as slow,
    ):
        slow.send(b"POST /v1/models/half:predict HTTP/1.1\r\nHost:")
        local.settimeout(DEADLINE_S)
        local.connect(str(path))
        local.sendall(PREFACE[:3])
        for connection in (silent, other, slow):
            connection.wait_closed()
        assert local.recv(1) == b""


def flags_of(limits: LimitSpec) -> list[str]:
    return [f"--{name}={most}" for name in LimitSpec.__dataclass_fields__ if (most := getattr(limits, name))]


def peak_bytes(server: ServerProcess) -> int:
    """The most memory that it has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    return peak


@pytest.mark.skipif(not ON_LINUX, reason="memory is read from /proc")
def test_a_small_container_survives_the_largest_messages(tmp_path: Path) -> None:
    """Several clients send the largest messages there may be, all at a time; each is answered or refused."""
    limits, _ = fitted(LimitSpec(), CONTAINER_BYTES)
    assert limits.max_message_bytes
    request = predict_request("total", {"x": [0.0]})
    request.inputs["x"].ClearField("float_val")
    count = (limits.max_message_bytes - 1024) // 4
    request.inputs["x"].tensor_content = np.ones(count, np.float32).tobytes()
    request.inputs["x"].tensor_shape.dim[0].size = count
    payload = request.SerializeToString()
    codes: list[str] = []

    def attack(address: str) -> None:
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(address, options=options) as channel:
            predict: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            for _ in range(3):
                try:
                    predict(payload, timeout=DEADLINE_S)
                    codes.append("OK")
                except grpc.RpcError as error:
                    codes.append(code_of(error))

    with serving(models("total", "half"), tmp_path, *flags_of(limits)) as server:
        clients = [threading.Thread(target=attack, args=(server.grpc_address,)) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}, codes
        assert "OK" in codes
        with Rest(server.rest_port) as rest:
            assert rest.predict("half", {"inputs": [1.0]}).status == http.client.OK
        print(f"at most {peak_bytes(server) / MIB:.0f} MiB; {codes}")
        assert peak_bytes(server) < CONTAINER_BYTES


@pytest.mark.skipif(not ON_LINUX, reason="memory is read from /proc")
def test_a_small_container_survives_small_messages_that_stand_for_large_tensors(tmp_path: Path) -> None:
    """With the limits that it gets by itself, and with more repeated values than there is room for."""
    given = LimitSpec(max_repeated_bytes=256 * MIB)
    for number, (limits, _) in enumerate((fitted(LimitSpec(), CONTAINER_BYTES), fitted(given, CONTAINER_BYTES))):
        assert limits.max_repeated_bytes
        request = predict_request("total", {"x": [0.0]})
        request.inputs["x"].tensor_shape.dim[0].size = limits.max_repeated_bytes // 4 - 1
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(models("total", "half"), folder, *flags_of(limits)) as server, ExitStack() as stack:
            connections = [stack.enter_context(Http2(server.grpc_port)) for _ in range(8)]
            for connection in connections:
                connection.send(call(1, request.SerializeToString()))
            codes = {connection.answer(1)["grpc-status"] for connection in connections}
            assert codes <= {"0", "8"}
            assert "8" in codes or limits.max_repeated_bytes < 256 * MIB
            with Rest(server.rest_port) as rest:
                assert rest.predict("half", {"inputs": [1.0]}).status == http.client.OK
            print(f"at most {peak_bytes(server) / MIB:.0f} MiB; {codes}")
            assert peak_bytes(server) < CONTAINER_BYTES


def with_arguments(folder: Path, **arguments: int) -> AbstractContextManager[ServerProcess]:
    listed = ",".join(f"grpc.max_connection_{name}_ms={value}" for name, value in arguments.items())
    return serving(models("slow", "half"), folder, f"--grpc_channel_arguments={listed}")


def ask(connection: Http2, model: str = "slow", run_ms: int = RUN_MS) -> int:
    """Ask something, which takes a while with `slow`. The stream."""
    stream = connection.next_stream()
    inputs = {"ms": tensor(run_ms, "int64"), "x": [1.0]} if model == "slow" else {"x": [1.0]}
    request = predict_request(model, inputs, signature="ms" if model == "slow" else "")
    connection.send(call(stream, request.SerializeToString(), fields()))
    return stream


def test_an_old_connection_finishes_what_is_under_way(tmp_path: Path) -> None:
    with with_arguments(tmp_path, age=500) as server:
        with Http2(server.grpc_port) as connection:
            stream = ask(connection)
            connection.wait_told_to_go()
            assert not connection.is_ended(stream)
            connection.wait_for(lambda: connection.is_ended(stream), "the answer")
            assert connection.answer(stream)["grpc-status"] == "0"
            connection.wait_closed()
        with Grpc(server.grpc_address) as client:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:  # over several connections, which nobody notices
                client.predict(predict_request("half", {"x": [1.0]}))


def test_an_old_connection_has_a_time_to_finish(tmp_path: Path) -> None:
    with with_arguments(tmp_path, age=300, age_grace=100) as server, Http2(server.grpc_port) as connection:
        stream = ask(connection)
        connection.wait_told_to_go()
        connection.wait_closed()
        assert not connection.is_ended(stream)


def test_an_idle_connection_is_told_to_go(tmp_path: Path) -> None:
    with with_arguments(tmp_path, idle=400) as server, Http2(server.grpc_port) as connection:
        stream = ask(connection)
        connection.wait_for(lambda: connection.is_ended(stream), "the answer")
        assert connection.goaway is None, "it was not idle"
        connection.wait_told_to_go()
        connection.wait_closed()
