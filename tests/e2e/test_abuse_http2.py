"""Attacks on the gRPC port: each gets what is documented, costs bounded memory, and nobody else notices."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import http2
from tests.e2e.grpc_client import predict_request, tensor
from tests.e2e.http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    PADDED,
    Error,
    Http2,
    Kind,
    call,
    data,
    fields,
    frame,
    headers,
    integer,
    literal,
    message,
    reset,
    settings,
    window_update,
)
from tests.e2e.raw_client import Raw, Sending
from tests.e2e.server import MODELS, Model, serving
from tests.e2e.siege import MAX_MESSAGE_BYTES, MIB, ON_LINUX, STOP_S, Siege, besieged

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="memory and descriptors are read from /proc")

REQUEST = predict_request("half_plus_two", {"x": [1.0, 2.0, 5.0]}).SerializeToString()
FRAME_BYTES = 16 << 10
STREAMS = 1024
"""Calls at a time on one connection."""
LITTLE_MIB = 8
STREAMS_MIB = 16
"""What as many calls as one connection may have cost, while they do nothing."""

# Status codes of gRPC.
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = "0", "3", "4", "8", "12", "13"


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with besieged(tmp_path_factory.mktemp("siege")) as siege:
        yield siege


def streams(count: int) -> range:
    return range(1, 2 * count + 1, 2)


def in_frames(stream: int, payload: bytes, flags: int = END_STREAM) -> Iterator[bytes]:
    for start in range(0, len(payload), FRAME_BYTES):
        part = payload[start : start + FRAME_BYTES]
        yield data(stream, part, flags if start + FRAME_BYTES >= len(payload) else 0)


# What ends the connection.


@dataclass(frozen=True)
class Attack:
    """What is sent, frame by frame, and the reason that the server gives for ending the connection."""

    pieces: Callable[[], Iterable[bytes]]
    expected: Error


def once(*frames: bytes, expected: Error = Error.PROTOCOL_ERROR) -> Attack:
    return Attack(lambda: frames, expected)


def flood(start: bytes, part: bytes, expected: Error = Error.ENHANCE_YOUR_CALM) -> Attack:
    return Attack(lambda: itertools.chain([start], itertools.repeat(part, 50 * MIB // len(part))), expected)


BIG_FIELD = literal("x-big", "v" * 4000, first=0x40)
AGAIN = b"\xbe"
"""The newest field of the table."""
CONNECTION_ERRORS = {
    # Floods.
    "rapid reset": Attack(lambda: (headers(one) + reset(one) for one in streams(50_000)), Error.ENHANCE_YOUR_CALM),
    "rapid reset of whole calls": Attack(
        lambda: (call(one, REQUEST) + reset(one) for one in streams(50_000)), Error.ENHANCE_YOUR_CALM
    ),
    "resets that the server is made to send": Attack(
        lambda: (headers(one, fields(extra={":method": None})) for one in streams(50_000)), Error.ENHANCE_YOUR_CALM
    ),
    "resets for bad windows": Attack(
        lambda: (headers(one) + window_update(one, 2**31 - 1) * 2 for one in streams(50_000)),
        Error.ENHANCE_YOUR_CALM,
    ),
    "far more streams than allowed": Attack(lambda: (headers(one) for one in streams(50_000)), Error.ENHANCE_YOUR_CALM),
    "empty CONTINUATION": flood(headers(1, flags=0), frame(Kind.CONTINUATION, 1) * 100),
    "full CONTINUATION": flood(headers(1, flags=0), frame(Kind.CONTINUATION, 1, literal("a", "b" * 16_000))),
    "a field over many CONTINUATION": flood(
        headers(1, b"\0\1a" + integer(10**9, 7), flags=0),
        frame(Kind.CONTINUATION, 1, b"b" * FRAME_BYTES),
        Error.PROTOCOL_ERROR,
    ),
    "an HPACK bomb": once(headers(1, fields() + BIG_FIELD + AGAIN * 12_000), expected=Error.ENHANCE_YOUR_CALM),
    "empty DATA": flood(headers(1), data(1, b"") * 100),
    "empty DATA, padded": flood(headers(1), data(1, b"\xff" + bytes(255), PADDED) * 10),
    "data after the answer": flood(
        b"".join(headers(one) + data(one, message(b"", announced=2**32 - 1)) for one in streams(STREAMS)),
        b"".join(data(one, b"x") for one in streams(STREAMS)),
    ),
    # Frames that break the rules.
    "DATA before HEADERS": once(data(1, b"x")),
    "DATA on a stream that was never opened": once(headers(1), data(5, b"x")),
    "DATA after the end": once(call(1, REQUEST) + data(1, b"x")),
    "DATA on no stream": once(data(0, b"x")),
    "HEADERS on no stream": once(headers(0)),
    "HEADERS on a stream of the server": once(headers(2)),
    "HEADERS on a lower stream": once(headers(5), headers(3)),
    "CONTINUATION out of the blue": once(frame(Kind.CONTINUATION, 1, fields(), END_HEADERS)),
    "another frame between HEADERS and CONTINUATION": once(headers(1, flags=0), frame(Kind.PING, 0, bytes(8))),
    "RST_STREAM on a stream that was never opened": once(reset(7)),
    "RST_STREAM on no stream": once(reset(0)),
    "PUSH_PROMISE": once(frame(Kind.PUSH_PROMISE, 1, b"\0\0\0\2" + fields(), END_HEADERS)),
    "WINDOW_UPDATE beyond all windows": once(window_update(0, 2**31 - 1) * 2, expected=Error.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of nothing": once(window_update(0, 0)),
    "WINDOW_UPDATE of nothing on a stream": once(headers(1), window_update(1, 0)),
    "an oversized frame": once(data(1, bytes(FRAME_BYTES + 1)), expected=Error.FRAME_SIZE_ERROR),
    "the largest frame there is": flood(b"\xff\xff\xff\0\0\0\0\0\1", bytes(65536), Error.FRAME_SIZE_ERROR),
    "a window beyond all windows": once(settings({INITIAL_WINDOW_SIZE: 2**31})),
    "SETTINGS of odd length": once(frame(Kind.SETTINGS, 0, b"123")),
    "SETTINGS on a stream": once(frame(Kind.SETTINGS, 1)),
    "PING of odd length": once(frame(Kind.PING, 0, b"123")),
    "padding beyond the frame": once(headers(1), data(1, b"\xff" + bytes(10), PADDED)),
    "HPACK that is none": once(headers(1, b"\xff" * 10)),
    "an index beyond the table": once(headers(1, fields() + b"\xfe")),
    "a table larger than allowed": once(headers(1, integer(2**30, 5, 0x20) + fields())),
}


@pytest.mark.parametrize("attack", CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
def test_it_ends_the_connection(siege: Siege, attack: Attack) -> None:
    with siege.attack(STREAMS_MIB), Http2(siege.server.grpc_port) as connection:
        connection.flood(attack.pieces())
        connection.wait_closed()
        assert connection.goaway == attack.expected
        assert connection.sent_bytes < 10 * MIB
        siege.good.goes_on()


def test_rapid_resets_from_many_connections_do_no_harm(siege: Siege) -> None:
    with siege.attack(LITTLE_MIB):
        for _ in range(50):
            with Http2(siege.server.grpc_port) as connection:
                connection.flood(headers(one) + reset(one) for one in streams(5000))
                connection.wait_closed()
                assert connection.goaway == Error.ENHANCE_YOUR_CALM
        siege.good.goes_on()


def test_other_protocols_are_told_off(siege: Siege) -> None:
    hello = bytes.fromhex("16030100c8010000c40303") + os.urandom(190)
    with siege.attack(LITTLE_MIB):
        for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", hello, bytes(100), http2.PREFACE[:-1] + b"x"):
            with Raw(siege.server.grpc_port) as connection:
                connection.send(words)
                assert b"HTTP/1" not in connection.wait_closed()
        siege.good.goes_on()


# What the connection survives.

PING = frame(Kind.PING, 0, b"12345678")
HARMLESS = {
    "PING": PING * 100_000,
    "SETTINGS": settings({INITIAL_WINDOW_SIZE: 65535}) * 50_000,
    "SETTINGS of a large table": settings({http2.HEADER_TABLE_SIZE: 2**32 - 1}) * 1000,
    "PRIORITY": b"".join(frame(Kind.PRIORITY, one, b"\0\0\0\0\x10") for one in streams(100_000)),
    "WINDOW_UPDATE": window_update(0, 1) * 100_000,
    "frames of an unknown type": frame(77, 0, bytes(1000)) * 20_000,
    "answers to nothing": frame(Kind.PING, 0, b"12345678", ACK) * 100_000,
}


@pytest.mark.parametrize("frames", HARMLESS.values(), ids=HARMLESS)
def test_a_flood_of_harmless_frames_costs_nothing(siege: Siege, frames: bytes) -> None:
    with siege.attack(LITTLE_MIB), Http2(siege.server.grpc_port) as connection:
        assert connection.send(frames) is Sending.DONE
        siege.good.goes_on()
        connection.send(call(2**31 - 1, REQUEST))
        assert connection.answer(2**31 - 1)["grpc-status"] == OK


@pytest.mark.parametrize("part", [PING, settings({INITIAL_WINDOW_SIZE: 65535})], ids=["PING", "SETTINGS"])
def test_answers_that_nobody_reads_stop_the_reading(siege: Siege, part: bytes) -> None:
    with siege.attack(LITTLE_MIB), Http2(siege.server.grpc_port, receive_bytes=4096) as connection:
        assert connection.flood(itertools.repeat(part * 1000, 20_000), reading=False) is Sending.STUCK
        siege.good.goes_on()


REFUSED_STREAMS = {
    "no method": headers(1, fields(extra={":method": None})),
    "no path": headers(1, fields(extra={":path": None})),
    "no scheme": headers(1, fields(extra={":scheme": None})),
    "a hop-by-hop header": headers(1, fields(extra={"connection": "close"})),
    "a pseudo header after others": headers(1, fields() + literal(":path", "/")),
    "too many headers": headers(1, fields() + BIG_FIELD + AGAIN * 20),
    "a window beyond all windows": headers(1) + window_update(1, 2**31 - 1) * 2,
    "more than was declared": headers(1, fields(extra={"content-length": "3"})) + data(1, bytes(10), END_STREAM),
    "a stream that depends on itself": headers(1, b"\0\0\0\1\x10" + fields(), END_HEADERS | 0x20),
}


@pytest.mark.parametrize("frames", REFUSED_STREAMS.values(), ids=REFUSED_STREAMS)
def test_it_ends_its_stream_alone(siege: Siege, frames: bytes) -> None:
    with siege.attack(LITTLE_MIB), Http2(siege.server.grpc_port) as connection:
        connection.send(frames)
        connection.wait_for(lambda: connection.is_ended(1), "the end of the stream")
        connection.send(call(3, REQUEST))
        assert connection.answer(3)["grpc-status"] == OK
        siege.good.goes_on()


def test_streams_beyond_the_most_are_refused_one_by_one(siege: Siege) -> None:
    with siege.attack(STREAMS_MIB), Http2(siege.server.grpc_port) as connection:
        connection.flood(headers(one) for one in streams(STREAMS + 100))
        connection.ping()
        assert set(connection.resets()) == {Error.REFUSED_STREAM}
        assert len(connection.resets()) == 100
        assert connection.send(data(1, message(REQUEST), END_STREAM)) is Sending.DONE
        assert connection.answer(1)["grpc-status"] == OK
        siege.good.goes_on()


# Calls that do not get on.

HALF_OPEN = {
    "headers alone": lambda stream: headers(stream),
    "large headers": lambda stream: headers(stream, fields() + literal("x", os.urandom(6000).hex())),
    "a prefix and no message": lambda stream: headers(stream) + data(stream, message(b"", announced=16_000)),
    "half a message": lambda stream: headers(stream) + data(stream, message(REQUEST[:-9], announced=len(REQUEST))),
    "a message and no end": lambda stream: headers(stream) + data(stream, message(REQUEST)),
}
"""What is sent on each stream; the largest are 12 KB each, which is not forgotten before the call ends."""


@pytest.mark.parametrize("part", HALF_OPEN.values(), ids=HALF_OPEN)
def test_calls_that_do_not_get_on_cost_little(siege: Siege, part: Callable[[int], bytes]) -> None:
    most_mib = STREAMS_MIB + 2 * STREAMS * len(part(1)) / MIB
    with siege.attack(most_mib), Http2(siege.server.grpc_port) as connection:
        assert connection.flood(part(one) for one in streams(STREAMS)) is Sending.DONE
        connection.ping()
        assert not connection.of_kind(Kind.HEADERS)
        siege.good.goes_on()


def test_messages_that_are_announced_and_not_sent_take_no_room(siege: Siege) -> None:
    size = MAX_MESSAGE_BYTES - 1
    with siege.attack(STREAMS_MIB), Http2(siege.server.grpc_port) as connection:
        for stream in streams(100):
            connection.send(headers(stream) + data(stream, message(b"", announced=size)))
        connection.ping()
        assert not any(connection.is_ended(stream) for stream in streams(100)), "they have the time that there is"
        siege.good.goes_on()


def test_answers_that_cannot_be_sent_wait(siege: Siege) -> None:
    values = {INITIAL_WINDOW_SIZE: 0}
    with siege.attack(STREAMS_MIB), Http2(siege.server.grpc_port, values) as connection:
        connection.flood(call(one, REQUEST) for one in streams(STREAMS))
        connection.send(headers(2 * STREAMS + 1))
        connection.ping()
        assert connection.resets() == [Error.REFUSED_STREAM]
        assert not connection.of_kind(Kind.DATA)
        siege.good.goes_on()
        connection.send(settings({INITIAL_WINDOW_SIZE: 65535}) + window_update(0, MIB))
        assert all(connection.answer(one)["grpc-status"] == OK for one in streams(STREAMS))


def test_answers_that_nobody_wants_any_more_are_dropped(siege: Siege) -> None:
    """Over and over, as many calls as there may be are made, cannot be answered, and are cancelled."""
    values = {INITIAL_WINDOW_SIZE: 0}
    with siege.attack(STREAMS_MIB), Http2(siege.server.grpc_port, values) as connection:
        for first in range(1, 20 * 1000, 1000):
            batch = range(first, first + 1000, 2)
            connection.flood(call(one, REQUEST) for one in batch)
            connection.ping(struct.pack(">Q", first))
            connection.flood(reset(one) for one in batch)
        connection.ping(b"farewell")
        assert connection.goaway is None
        siege.good.goes_on()


def test_one_byte_frames_make_a_message(siege: Siege) -> None:
    """By the ten-thousand; more at once may be taken for an attack."""
    count = 50_000
    request = predict_request("total", {"x": tensor([1.0])})
    request.inputs["x"].tensor_content = struct.pack("<f", 1.0) * count
    request.inputs["x"].ClearField("float_val")
    request.inputs["x"].tensor_shape.dim[0].size = count
    payload = message(request.SerializeToString())
    with siege.attack(LITTLE_MIB), Http2(siege.server.grpc_port) as connection:
        connection.send(headers(1))
        for at in range(0, len(payload), 10_000):
            connection.send(b"".join(data(1, bytes([byte])) for byte in payload[at : at + 10_000]))
            connection.ping(struct.pack(">Q", at))
        connection.send(data(1, b"", END_STREAM))
        assert connection.answer(1)["grpc-status"] == OK
        siege.good.goes_on()


def test_frames_cost_little_more_than_they_hold(siege: Siege) -> None:
    """Each frame of the message is read together with others that are thrown away."""
    size, part = MAX_MESSAGE_BYTES - 1, FRAME_BYTES // 2
    junk = frame(77, 0, bytes(FRAME_BYTES)) * 3
    with siege.attack(LITTLE_MIB + 3 * size / MIB), Http2(siege.server.grpc_port) as connection:
        connection.send(headers(1) + data(1, message(b"", announced=size)))
        for _ in range(size // part):
            assert connection.send(data(1, bytes(part)) + junk) is Sending.DONE
        connection.ping()
        siege.good.goes_on()


STAGES = {
    "before the preface": b"",
    "in the preface": http2.PREFACE[:9],
    "in a frame": http2.PREFACE + settings({}) + headers(1)[:20],
    "after the headers": http2.PREFACE + settings({}) + headers(1),
    "in a message": http2.PREFACE + settings({}) + headers(1) + data(1, message(REQUEST)[:-1]),
    "before the answers": http2.PREFACE + settings({}) + b"".join(call(one, REQUEST) for one in streams(100)),
}


@pytest.mark.parametrize("sent", STAGES.values(), ids=STAGES)
def test_resets_do_no_harm(siege: Siege, sent: bytes) -> None:
    with siege.attack(LITTLE_MIB):
        for leave in (Raw.reset, Raw.close, Raw.finish) * 30:
            with Raw(siege.server.grpc_port) as connection:
                connection.send(sent, reading=False)
                leave(connection)
        siege.good.goes_on()


# Calls that gRPC has rules for.


def deflated(payload: bytes) -> tuple[bytes, bytes]:
    return fields(extra={"grpc-encoding": "deflate"}), message(zlib.compress(payload), compressed=1)


def gzipped(payload: bytes) -> tuple[bytes, bytes]:
    return fields(extra={"grpc-encoding": "gzip"}), message(gzip.compress(payload, 1), compressed=1)


def with_fields(**extra: str | None) -> tuple[bytes, bytes]:
    return fields(extra={name.replace("_", "-"): value for name, value in extra.items()}), message(REQUEST)


CALLS: dict[str, tuple[Callable[[], tuple[bytes, bytes]], str]] = {
    "a good call": (lambda: (fields(), message(REQUEST)), OK),
    "gzip": (lambda: gzipped(REQUEST), OK),
    "deflate": (lambda: deflated(REQUEST), OK),
    "a gzip bomb": (lambda: gzipped(bytes(200 * MIB)), RESOURCE_EXHAUSTED),
    "a deflate bomb": (lambda: deflated(bytes(200 * MIB)), RESOURCE_EXHAUSTED),
    "gzip cut off": (lambda: (gzipped(b"")[0], message(gzip.compress(REQUEST)[:-3], compressed=1)), INTERNAL),
    "gzip that is none": (lambda: (gzipped(b"")[0], message(REQUEST, compressed=1)), INTERNAL),
    "compressed, nobody says how": (lambda: (fields(), message(REQUEST, compressed=1)), INTERNAL),
    "compressed more than once": (lambda: (gzipped(b"")[0], message(REQUEST, compressed=2)), INTERNAL),
    "an unknown encoding": (lambda: with_fields(grpc_encoding="br"), UNIMPLEMENTED),
    "two messages": (lambda: (fields(), message(REQUEST) * 2), INVALID_ARGUMENT),
    "two empty messages": (lambda: (fields(), message(b"") * 2), INVALID_ARGUMENT),
    "a message shorter than announced": (lambda: (fields(), message(REQUEST, announced=len(REQUEST) + 9)), INTERNAL),
    "a message longer than announced": (
        lambda: (fields(), message(REQUEST, announced=len(REQUEST) - 9)),
        INVALID_ARGUMENT,
    ),
    "the longest message there is": (lambda: (fields(), message(b"", announced=2**32 - 1)), RESOURCE_EXHAUSTED),
    "a message that is too long": (lambda: (fields(), message(bytes(MAX_MESSAGE_BYTES + 1))), RESOURCE_EXHAUSTED),
    "half a prefix": (lambda: (fields(), b"\0\0"), INTERNAL),
    "no message": (lambda: (fields(), b""), INTERNAL),
    "a message that is none": (lambda: (fields(), message(b"\xff" * 100)), INTERNAL),
    "an unknown service": (lambda: (fields("/a/b"), message(REQUEST)), UNIMPLEMENTED),
    "an unknown method": (lambda: (fields(http2.PREDICT + "s"), message(REQUEST)), UNIMPLEMENTED),
    "a long method": (lambda: (fields("/" + "a" * 10_000), message(REQUEST)), UNIMPLEMENTED),
    "a timeout that is none": (lambda: with_fields(grpc_timeout="garbage"), OK),
    "a negative timeout": (lambda: with_fields(grpc_timeout="-1S"), OK),
    "a timeout of nine digits": (lambda: with_fields(grpc_timeout="999999999S"), OK),
    "the longest timeout": (lambda: with_fields(grpc_timeout="99999999H"), OK),
    "a timeout of nothing": (lambda: with_fields(grpc_timeout="0n"), DEADLINE_EXCEEDED),
    "another content type": (lambda: with_fields(content_type="text/plain"), OK),
    "no content type": (lambda: with_fields(content_type=None), OK),
    "another method of HTTP": (lambda: (fields(extra={":method": "GET"}), message(REQUEST)), OK),
    "much metadata": (lambda: (fields() + literal("x", "y" * 3000) * 3, message(REQUEST)), OK),
    "binary metadata that is none": (lambda: with_fields(x_bin="!!"), OK),
}  # fmt: skip


@pytest.mark.parametrize(("make", "status"), CALLS.values(), ids=CALLS)
def test_a_call_gets_its_status(siege: Siege, make: Callable[[], tuple[bytes, bytes]], status: str) -> None:
    block, payload = make()
    with siege.attack(LITTLE_MIB + 3 * MAX_MESSAGE_BYTES / MIB), Http2(siege.server.grpc_port) as connection:
        connection.send(headers(1, block))
        connection.flood(in_frames(1, payload) if payload else [data(1, b"", END_STREAM)])
        assert connection.answer(1).get("grpc-status") == status
        connection.send(call(3, REQUEST))
        assert connection.answer(3)["grpc-status"] == OK
        siege.good.goes_on()


def test_a_server_stops_under_attack(tmp_path: Path) -> None:
    """Clients that never get on are cut off when the time to drain is over."""
    models = [Model("half_plus_two", MODELS / "half")]
    with serving(models, tmp_path, "--drain_timeout_seconds=1") as server, ExitStack() as stack:
        for _ in range(100):
            for port in (server.grpc_port, server.rest_port):
                for start in (b"", b"P"):
                    stack.enter_context(Raw(port)).send(start)
            head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\n"
            for rest in (b"", b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\n"):
                stack.enter_context(Raw(server.rest_port)).send(head + rest)
        calls = stack.enter_context(Http2(server.grpc_port, {INITIAL_WINDOW_SIZE: 0}))
        calls.flood(headers(one) if one % 4 == 1 else call(one, REQUEST) for one in streams(STREAMS))
        calls.ping()
        signalled = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0, server.log
        assert time.monotonic() - signalled < STOP_S
