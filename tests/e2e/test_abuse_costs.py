"""Requests that are small on the wire and dear for the server: together they may not cost more than its limits."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.e2e.grpc_client import Grpc, code_of, predict_request, tensor
from tests.e2e.http2 import (
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    Http2,
    call,
    data,
    fields,
    headers,
    message,
)
from tests.e2e.raw_client import Raw
from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, Model, ServerProcess, serving
from tests.e2e.siege import LIMITS, MAX_BYTES_IN_FLIGHT, MIB, ON_LINUX, Peak

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="memory is read from /proc")

STREAMS = 1024
REQUESTS = 10_000
"""As many may be on their way as there may be at work."""
FRAME_BYTES = 16 << 10
MOST_MIB = 4 * MAX_BYTES_IN_FLIGHT / MIB
"""What may be in flight, the tensors made of it, what the allocator keeps of those for the next run, and room for
whatever else a server does.
"""
ONE_RUN = "--grpc_max_threads=1"
"""While one runs, all others wait with what they have."""
RUN_MS = 1000
GZIPPED = {"grpc-encoding": "gzip"}


@contextmanager
def costing(folder: Path, most_mib: float, *flags: str) -> Iterator[ServerProcess]:
    """A server of which nothing may be asked that costs more memory."""
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    models = [Model(name, MODELS / name) for name in ("half", "big", "slow", "total")]
    flags = (f"--monitoring_config_file={folder / 'monitoring'}", "--drain_timeout_seconds=1", *LIMITS, *flags)
    with serving(models, folder, *flags) as server:
        with Grpc(server.grpc_address) as client, Rest(server.rest_port) as rest:
            assert rest.predict("half", {"inputs": [1.0]}).status == 200
            client.predict(predict_request("half", {"x": [1.0]}))
        with Peak(server) as peak:
            yield server
        print(f"{peak.growth_mib:.1f} MiB more (at most {most_mib})")
        assert peak.growth_mib <= most_mib


def occupy(connection: Http2) -> None:
    """Make a call, the first on its connection, that takes its time."""
    request = predict_request("slow", {"ms": tensor(RUN_MS, "int64"), "x": [1.0]}, signature="ms")
    connection.send(call(connection.next_stream(), request.SerializeToString()))
    connection.ping()


def many_calls(server: ServerProcess, count: int, block: bytes, payload: bytes) -> None:
    """Make calls at the same time and wait for the end of each."""
    with Http2(server.grpc_port) as connection:
        occupy(connection)
        streams = range(3, 2 * count + 3, 2)
        for stream in streams:
            connection.send(headers(stream, block))
            for start in range(0, len(payload), FRAME_BYTES):
                part = payload[start : start + FRAME_BYTES]
                connection.send(data(stream, part, END_STREAM if start + FRAME_BYTES >= len(payload) else 0))
        for stream in streams:
            connection.answer(stream)


def test_compressed_messages_count_as_what_they_become(tmp_path: Path) -> None:
    request = predict_request("total", {"x": [0.0]})
    request.inputs["x"].ClearField("float_val")
    request.inputs["x"].tensor_content = bytes(15_000_000)
    request.inputs["x"].tensor_shape.dim[0].size = 15_000_000 // 4
    payload = message(gzip.compress(request.SerializeToString()), compressed=1)
    with costing(tmp_path, MOST_MIB, ONE_RUN) as server:
        many_calls(server, 30, fields(extra=GZIPPED), payload)


def test_compressed_bodies_count_as_what_they_become(tmp_path: Path) -> None:
    body = gzip.compress(b'{"inputs": [%s0]}' % (b"0," * 3_900_000))
    head = b"POST /v1/models/total:predict HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
    with costing(tmp_path, MOST_MIB, ONE_RUN) as server, ExitStack() as stack:
        occupy(stack.enter_context(Http2(server.grpc_port)))
        connections = [stack.enter_context(Raw(server.rest_port)) for _ in range(30)]
        for connection in connections:
            connection.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for connection in connections:
            connection.wait_for(connection.is_answered, "an answer")


def test_values_are_repeated_only_where_there_is_room(tmp_path: Path) -> None:
    """Less than a tensor may have of them, and more than all requests may take."""
    request = predict_request("total", {"x": [0.0]})
    request.inputs["x"].tensor_shape.dim[0].size = 60 * MIB
    with costing(tmp_path, 32) as server, Http2(server.grpc_port) as connection:
        for stream in range(1, 9, 2):
            connection.send(call(stream, request.SerializeToString()))
            assert connection.answer(stream)["grpc-status"] == "8"


def test_repeated_values_count_as_what_they_become(tmp_path: Path) -> None:
    request = predict_request("total", {"x": [0.0]})
    request.inputs["x"].tensor_shape.dim[0].size = 8 * MIB
    with costing(tmp_path, MOST_MIB, ONE_RUN) as server:
        many_calls(server, 20, fields(), message(request.SerializeToString()))


def test_answers_that_cannot_be_sent_are_limited(tmp_path: Path) -> None:
    request = predict_request("big", {"n": tensor(1_000_000, "int32")}).SerializeToString()
    with costing(tmp_path, MOST_MIB) as server, Http2(server.grpc_port, {INITIAL_WINDOW_SIZE: 0}) as connection:
        streams = range(1, 201, 2)
        connection.flood(call(stream, request) for stream in streams)
        connection.wait_for(lambda: len({frame.stream for frame in connection.frames} - {0}) == 100, "all answers")


def test_answers_that_nobody_reads_are_limited(tmp_path: Path) -> None:
    body = b'{"inputs": 1000000}'
    head = b"POST /v1/models/big:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with costing(tmp_path, MOST_MIB) as server, ExitStack() as stack:
        connections = [stack.enter_context(Raw(server.rest_port, receive_bytes=4096)) for _ in range(60)]
        for connection in connections:
            connection.send(head + body)
        for connection in connections:
            connection.wait_for(connection.is_answered, "the beginning of an answer")


def test_long_names_of_unknown_models_are_not_kept(tmp_path: Path) -> None:
    name = "x" * 1_000_000
    with costing(tmp_path, 32) as server:
        with Grpc(server.grpc_address) as client:
            for number in range(30):
                with pytest.raises(grpc.RpcError) as caught:
                    client.predict(predict_request(f"{name}{number}", {}))
                assert code_of(caught.value) == "NOT_FOUND"
        with Rest(server.rest_port) as rest:
            assert len(rest.get("/monitoring/prometheus/metrics").body) < MIB


def predict_in_parts(server: ServerProcess) -> str:
    """The status of a call whose message comes later than its head."""
    with Http2(server.grpc_port) as connection:
        connection.send(headers(1))
        connection.ping()
        request = predict_request("half", {"x": [1.0]}).SerializeToString()
        connection.send(data(1, message(request), END_STREAM))
        return connection.answer(1)["grpc-status"]


def test_calls_without_messages_leave_room_for_others(tmp_path: Path) -> None:
    """For some that have not come either, and however many those are, for those that are there."""
    with costing(tmp_path, MOST_MIB) as server, ExitStack() as stack:
        for count in range(1, 11):
            connection = stack.enter_context(Http2(server.grpc_port))
            connection.flood(headers(stream) for stream in range(1, 2 * STREAMS, 2))
            connection.ping()
            if count * STREAMS < REQUESTS:
                assert predict_in_parts(server) == "0"
        client = stack.enter_context(Grpc(server.grpc_address))
        assert client.predict(predict_request("half", {"x": [1.0]})).outputs


WATCH = fields("/grpc.health.v1.Health/Watch")
REFLECT = fields("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
LISTENING = {
    "watches": lambda stream: call(stream, b"", WATCH),
    "watches that do not say of what": lambda stream: headers(stream, WATCH),
    "checks that do not say of what": lambda stream: headers(stream, fields("/grpc.health.v1.Health/Check")),
    "questions about services": lambda stream: headers(stream, REFLECT),
}


@pytest.mark.parametrize("start", LISTENING.values(), ids=LISTENING)
def test_streams_that_only_listen_leave_room_for_others(tmp_path: Path, start: Callable[[int], bytes]) -> None:
    flags = ("--max_requests_in_flight=50", "--enable_grpc_healthcheck_service")
    with costing(tmp_path, MOST_MIB, *flags) as server, Http2(server.grpc_port) as connection:
        connection.flood(start(stream) for stream in range(1, 121, 2))
        connection.ping()
        assert not any(connection.is_ended(stream) for stream in range(1, 121, 2))
        assert predict_in_parts(server) == "0"
        connection.flood(start(stream) for stream in range(121, 2 * STREAMS, 2))
        connection.ping()
        assert predict_in_parts(server) == "0"


def test_questions_wait_where_they_cost_little(tmp_path: Path) -> None:
    """No answer can be sent, so that none is taken; further questions come all the same."""
    question = message(b"\x3a\x80\x08" + b"x" * 1024)
    with costing(tmp_path, 32) as server, ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(Http2(server.grpc_port, {INITIAL_WINDOW_SIZE: 0}))
            for stream in range(1, 9, 2):
                connection.send(headers(stream, REFLECT))
                connection.flood(data(stream, question * 15) for _ in range(250))
            connection.ping()


def test_questions_about_services_are_short(tmp_path: Path) -> None:
    announced = message(b"", announced=4_000_000)
    with costing(tmp_path, 32) as server, Http2(server.grpc_port) as connection:
        streams = range(1, 161, 2)
        for stream in streams:
            connection.send(headers(stream, REFLECT) + data(stream, announced))
            for _ in range(4):
                connection.send(data(stream, bytes(16_000)))
        connection.wait_for(lambda: all(connection.is_ended(stream) for stream in streams), "they are refused")


def test_calls_that_were_given_up_cost_nothing(tmp_path: Path) -> None:
    """While they wait for a thread, their deadline passes, and what they brought goes at once."""
    request = predict_request("total", {"x": [0.0]})
    request.inputs["x"].ClearField("float_val")
    request.inputs["x"].tensor_content = bytes(15_000_000)
    request.inputs["x"].tensor_shape.dim[0].size = 15_000_000 // 4
    with costing(tmp_path, MOST_MIB, ONE_RUN) as server, ExitStack() as stack:
        occupied = stack.enter_context(Http2(server.grpc_port))
        for _ in range(10):
            occupy(occupied)
        client = stack.enter_context(Grpc(server.grpc_address))
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as caught:
                client.predict(request, timeout=0.3)
            assert code_of(caught.value) == "DEADLINE_EXCEEDED"


def test_bodies_that_do_not_come_leave_room_for_others(tmp_path: Path) -> None:
    """What is only declared is taken from nobody."""
    head = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{"
    with costing(tmp_path, MOST_MIB) as server, ExitStack() as stack:
        connections = [stack.enter_context(Raw(server.rest_port)) for _ in range(40)]
        for connection in connections:
            connection.send(head % 16_000_000)
        rest = stack.enter_context(Rest(server.rest_port))
        assert rest.predict("half", {"inputs": [1.0] * 20_000}).status == 200
        assert not any(connection.is_answered() for connection in connections), (
            "they have all the time that there is for a body"
        )


def test_a_flood_of_gzip_members_holds_nobody_up(tmp_path: Path) -> None:
    """While one body is decompressed, each network thread answers others."""
    body = gzip.compress(b"") * 500_000
    head = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
    with costing(tmp_path, MOST_MIB) as server, ExitStack() as stack:
        connection = stack.enter_context(Raw(server.rest_port))
        others = [stack.enter_context(Rest(server.rest_port)) for _ in range(2 * (os.cpu_count() or 1))]
        connection.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        rounds = 0
        while not connection.is_answered():
            assert all(other.get("/readyz").status == 200 for other in others)
            rounds += 1
        assert rounds > 5, "the answers had to wait"
