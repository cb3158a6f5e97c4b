"""Attacks on the REST port: each gets what is documented, costs bounded memory, and nobody else notices."""

from __future__ import annotations

import gzip
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import http2
from tests.e2e.raw_client import Raw, Sending, answered
from tests.e2e.server import MODELS, Model, ServerProcess, serving
from tests.e2e.siege import (
    MAX_MESSAGE_BYTES,
    MIB,
    ON_LINUX,
    Siege,
    besieged,
    descriptors,
    limit_descriptors,
)

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="memory and descriptors are read from /proc")

GET = b"GET /v1/models/half_plus_two HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = b"GET /v1/models/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
METRICS = b"GET /monitoring/prometheus/metrics HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"instances": [1.0, 2.0, 5.0]}'
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKED_BODY = b"1e\r\n" + BODY + b"\r\n0\r\n\r\n"
GZIP = b"Content-Encoding: gzip\r\n"

BLOCK = b"a" * 65536
HUNDREDS = 300
THOUSANDS = 2000
LITTLE_MIB = 8
"""What single connections may cost that send much and are given nothing for it."""
HEAD_MIB = 0.45
"""The most that the head of one request takes, whatever is sent."""


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with besieged(tmp_path_factory.mktemp("siege")) as siege:
        yield siege


def statuses(connection: Raw) -> list[int]:
    return [int(number) for number in re.findall(rb"HTTP/1\.1 (\d{3}) ", bytes(connection.received))]


def wait_answered(connection: Raw) -> None:
    connection.wait_for(lambda: bool(statuses(connection)), "an answer")


def post(body: bytes, headers: bytes = b"", target: bytes = POST) -> bytes:
    return target + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def length(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\n" + BODY


def both(encoding: bytes) -> bytes:
    """A length that includes part of a second request, and an encoding that ends before it."""
    return POST + b"Content-Length: 45\r\nTransfer-Encoding: " + encoding + b"\r\n\r\n" + CHUNKED_BODY + SMUGGLED


def big(count: int) -> bytes:
    """A small request whose answer has so many numbers."""
    return post(b'{"inputs": %d}' % count, target=b"POST /v1/models/big:predict HTTP/1.1\r\nHost: x\r\n")


@dataclass(frozen=True)
class Attack:
    """What is sent, piece by piece, and the statuses that come back; then the server closes."""

    pieces: Callable[[], Iterable[bytes]]
    expected: tuple[int, ...]
    most_mib: float = LITTLE_MIB


def once(data: bytes, *expected: int) -> Attack:
    return Attack(lambda: [data], expected)


def endless(start: bytes, part: bytes, *expected: int, most_mib: float = LITTLE_MIB) -> Attack:
    """Not quite: 100 MiB at most, by which the server has to have had enough."""
    return Attack(lambda: itertools.chain([start], itertools.repeat(part, 100 * MIB // len(part))), expected, most_mib)


CLOSED_AFTERWARDS = {
    # Heads.
    "an endless header": endless(POST + b"X: ", BLOCK, 431),
    "endless headers": endless(POST, b"X: y\r\n" * 1000, 431),
    "2,000 headers": once(POST + b"X: y\r\n" * 2000 + b"\r\n", 431),
    "an endless request line": endless(b"GET /", BLOCK, 431),
    "a target beyond 64 KiB": once(b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n", 431),
    "an endless method": endless(b"", b"A" * 65536, 431),
    "a NUL in a header": once(b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", 400),
    "a folded header": once(b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    "no version": once(b"GET /\r\n\r\n", 400),
    "another version": once(b"GET / HTTP/2.0\r\n\r\n", 400),
    "a tunnel": once(b"CONNECT example:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    # Lengths.
    "a length of 63 bits": once(length(b"9223372036854775807"), 429),
    "a length of 64 bits": once(length(b"9223372036854775808"), 429),
    "the largest length of 64 bits": once(length(b"18446744073709551615"), 431),
    "a length of 65 bits": once(length(b"18446744073709551616"), 400),
    "a negative length": once(length(b"-1"), 400),
    "a length with a sign": once(length(b"+30"), 400),
    "a hexadecimal length": once(length(b"0x1e"), 400),
    "a length with a space in it": once(length(b"3 0"), 400),
    "an empty length": once(length(b""), 400),
    "a list of lengths": once(length(b"30, 30"), 400),
    "two different lengths": once(length(b"30\r\nContent-Length: 31"), 400),
    "a space before the colon of the length": once(POST + b"Content-Length : 30\r\n\r\n" + BODY, 400),
    "a body longer than declared": once(length(b"30") + b"junk \r\n\r\n", 200, 400),
    # A request within a request must not be found.
    "length and chunks": once(both(b"chunked"), 200),
    "length and chunks in capitals": once(both(b"CHUNKED"), 200),
    "length and chunks after a tab": once(both(b"\tchunked"), 200),
    "length and chunks twice": once(both(b"chunked\r\nTransfer-Encoding: chunked"), 200),
    "length and another encoding before chunks": once(both(b"identity, chunked"), 200),
    "length and another encoding after chunks": once(both(b"chunked, identity"), 400),
    "length and another encoding": once(both(b"identity"), 400),
    "length and an unknown encoding": once(both(b"xchunked"), 400),
    "length and quoted chunks": once(both(b'"chunked"'), 400),
    "length and chunks with a control character": once(both(b"chunked\x0b"), 400),
    "length and chunks on two lines": once(both(b"chunk\r\n ed"), 400),
    "a space before the colon of the encoding": once(POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED_BODY, 400),
    "chunks in HTTP/1.0": once(CHUNKED.replace(b"1.1", b"1.0") + CHUNKED_BODY, 400),
    # Chunks.
    "a chunk of 65 bits": once(CHUNKED + b"ffffffffffffffff1\r\n", 499),
    "a negative chunk": once(CHUNKED + b"-1\r\n", 499),
    "a chunk with a sign": once(CHUNKED + b"+1e\r\n" + BODY, 499),
    "a chunk with a prefix": once(CHUNKED + b"0x1e\r\n" + BODY, 499),
    "a chunk without a size": once(CHUNKED + b"\r\n", 499),
    "a chunk that is no number": once(CHUNKED + b"g\r\n", 499),
    "a chunk without its end": once(CHUNKED + b"1e\r\n" + BODY + b"0\r\n\r\n", 499),
    "lines without carriage returns": once(CHUNKED + b"1e\n" + BODY + b"\n0\n\n", 499),
    "an endless extension": endless(CHUNKED + b"1e;", BLOCK, 499),
    "endlessly many extensions": endless(CHUNKED, (b"1;" + b"a" * 10_000 + b"\r\n \r\n") * 10, 499),
    "an endless trailer": endless(CHUNKED + b"1e\r\n" + BODY + b"\r\n0\r\nX: ", BLOCK, 499),
    "endless trailers": endless(CHUNKED + b"1e\r\n" + BODY + b"\r\n0\r\n", b"X: y\r\n" * 1000, 499),
    "endless chunks": endless(CHUNKED, b"10000\r\n" + BLOCK + b"\r\n", 429, most_mib=4 * MAX_MESSAGE_BYTES / MIB),
    # Bodies that nobody wants.
    "a body beyond the limit": endless(POST + b"Content-Length: 104857600\r\n\r\n", BLOCK, 429),
    "a body for a question": endless(GET[:-2] + b"Content-Length: 104857600\r\n\r\n", BLOCK, 200),
    "an endless body for a question": endless(
        GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + BLOCK + b"\r\n", 200
    ),
    "an endless body for nobody": endless(
        b"POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + BLOCK + b"\r\n", 404
    ),
    "a body beyond the limit, announced": once(
        POST + b"Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n", 429
    ),
    # Something else altogether.
    "HTTP/2": once(http2.PREFACE),
    "TLS": once(bytes.fromhex("16030100c8010000c40303") + os.urandom(190), 400),
    "zeros": endless(b"", bytes(65536), 400),
}


@pytest.mark.parametrize("attack", CLOSED_AFTERWARDS.values(), ids=CLOSED_AFTERWARDS)
def test_it_is_refused_and_the_connection_closed(siege: Siege, attack: Attack) -> None:
    with siege.attack(attack.most_mib), Raw(siege.server.rest_port) as connection:
        connection.flood(attack.pieces())
        connection.wait_closed()
        assert statuses(connection) == list(attack.expected), bytes(connection.received[:500])
        assert b"smuggled" not in connection.received
        assert connection.sent_bytes < 50 * MIB
        siege.good.goes_on()


def test_random_bytes_do_no_harm(siege: Siege) -> None:
    with siege.attack(LITTLE_MIB):
        for port, size in itertools.product((siege.server.rest_port, siege.server.grpc_port), (1, 100, 10_000) * 10):
            with Raw(port) as connection:
                connection.send(os.urandom(size))
                connection.finish()
                connection.wait_closed()
                assert set(statuses(connection)) <= {400, 431}
        siege.good.goes_on()


def keys(count: int, end: bytes = b"") -> bytes:
    return b",".join(b'"k%d":1' % number for number in range(count)) + end


MILLION = 1_000_000
ANSWERED: dict[str, tuple[Callable[[], bytes], int]] = {
    "the same length twice": (lambda: length(b"30\r\nContent-Length: 30"), 200),
    "a length with zeros": (lambda: length(b"0030"), 200),
    "one-byte chunks": (lambda: CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n", 200),
    "one-byte chunks by the ten-thousand": (lambda: CHUNKED + b"1\r\n \r\n" * 50_000 + CHUNKED_BODY, 200),
    "extensions": (lambda: CHUNKED + b"1e;a=b\r\n" + BODY + b"\r\n0;x\r\n\r\n", 200),
    "an upgrade": (lambda: GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
    "no host": (lambda: b"GET /v1/models/half_plus_two HTTP/1.1\r\n\r\n", 200),
    # gzip.
    "a gzip bomb": (lambda: post(gzip.compress(bytes(100 * MIB), 1), GZIP), 400),
    "gzip in gzip": (lambda: post(gzip.compress(gzip.compress(BODY)), GZIP), 400),
    "a bomb in gzip": (lambda: post(gzip.compress(gzip.compress(bytes(100 * MIB), 1)), GZIP), 400),
    "gzip cut off": (lambda: post(gzip.compress(BODY)[:-3], GZIP), 400),
    "gzip with junk": (lambda: post(gzip.compress(BODY) + b"junk", GZIP), 400),
    "no gzip": (lambda: post(BODY, GZIP), 400),
    "many members": (lambda: post(gzip.compress(b" ") * 50_000 + gzip.compress(BODY), GZIP), 200),
    "many empty members": (lambda: post(gzip.compress(b"") * 50_000 + gzip.compress(BODY), GZIP), 200),
    # JSON.
    "a million levels": (lambda: post(b'{"instances": ' + b"[" * MILLION), 400),
    "a million levels, closed": (lambda: post(b'{"instances": ' + b"[" * 999_990 + b"]" * 999_990 + b"}"), 400),
    "a million objects": (lambda: post(b'{"a":' * 999_990 + b"1" + b"}" * 999_990), 400),
    "more levels than allowed": (lambda: post(b"[" * 2 * MILLION), 400),
    "a million base64 objects": (lambda: post(b'{"instances": [' + b'{"b64":' * 999_990), 400),
    "many keys": (lambda: post(b"{" + keys(MILLION, b"," + BODY[1:])), 200),
    "one key many times": (lambda: post(b"{" + b",".join([BODY[1:-1]] * 400_000) + b"}"), 200),
    "many inputs": (lambda: post(b'{"inputs": {' + keys(MILLION, b"}}")), 400),
    "a row of many inputs": (lambda: post(b'{"instances":[{' + keys(MILLION, b"}]}")), 400),
    "rows of unknown inputs": (lambda: post(b'{"instances":[' + b",".join([b'{"x":1,"y":2}'] * 500_000) + b"]}"), 400),
    "uneven rows": (lambda: post(b'{"instances":[' + b",".join([b"[1]", b"[1,1]"] * 500_000) + b"]}"), 400),
    "a number of many digits": (lambda: post(b'{"instances":[' + b"1" * 10 * MILLION + b"]}"), 400),
    "an exponent of many digits": (lambda: post(b'{"instances":[1e' + b"9" * 10 * MILLION + b"]}"), 400),
    "a long string": (lambda: post(b'{"instances":["' + b"\\u0041" * 2 * MILLION + b'"]}'), 400),
}
"""What is sent, made when it is needed, and the status of its answer."""
JSON_MIB = 6 * MAX_MESSAGE_BYTES / MIB
"""A body, what it is decompressed to and the values in it, each of which may double while it grows."""


@pytest.mark.parametrize(("make", "status"), ANSWERED.values(), ids=ANSWERED)
def test_it_is_answered_and_the_connection_goes_on(siege: Siege, make: Callable[[], bytes], status: int) -> None:
    request = make()
    with siege.attack(JSON_MIB), Raw(siege.server.rest_port) as connection:
        connection.send(request)
        wait_answered(connection)
        connection.send(GET)
        connection.wait_for(lambda: len(statuses(connection)) == 2, "a further answer")
        assert statuses(connection) == [status, 200], bytes(connection.received[:500])
        assert len(connection.received) < MIB
        siege.good.goes_on()


# Many connections.


@dataclass(frozen=True)
class Crowd:
    """What each of many connections sends, and what that may cost."""

    data: bytes
    connections: int
    mib_each: float
    byte_by_byte: bytes = b""
    stay: int | None = None
    """How many are not refused, if not all."""


IDLE_MIB = 0.03
CROWDS = {
    "idle": Crowd(b"", THOUSANDS, IDLE_MIB),
    "idle after a request": Crowd(GET, THOUSANDS, IDLE_MIB),
    "heads a byte at a time": Crowd(b"", HUNDREDS, IDLE_MIB, POST[:40]),
    "heads as long as they may be": Crowd(POST + b"X: " + b"a" * 400_000, 100, HEAD_MIB),
    "bodies a byte at a time": Crowd(POST + b"Content-Length: 1000\r\n\r\n", HUNDREDS, IDLE_MIB, BODY),
    "small bodies that do not come": Crowd(POST + b"Content-Length: 16000\r\n\r\n", HUNDREDS, 0.05),
    "large bodies that do not come": Crowd(POST + b"Content-Length: 16000000\r\n\r\n", HUNDREDS, IDLE_MIB),
    "huge chunks that do not come": Crowd(CHUNKED + b"ffffffffffffffff\r\n", HUNDREDS, IDLE_MIB),
    "bodies that are expected and do not come": Crowd(
        POST + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n", HUNDREDS, IDLE_MIB
    ),
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("leave", [Raw.close, Raw.reset], ids=["closed", "reset"])
def test_connections_that_do_not_get_on_cost_little(siege: Siege, crowd: Crowd, leave: Callable[[Raw], None]) -> None:
    before = descriptors(siege.server)
    with siege.attack(LITTLE_MIB + crowd.connections * crowd.mib_each), ExitStack() as stack:
        connections = [Raw(siege.server.rest_port) for _ in range(crowd.connections)]
        for connection in connections:
            stack.callback(leave, connection)
            assert connection.send(crowd.data, reading=False) is Sending.DONE
        for byte in crowd.byte_by_byte:
            for connection in connections:
                connection.send(bytes([byte]), reading=False)
        stay = crowd.connections if crowd.stay is None else crowd.stay
        siege.server.wait_for(lambda: descriptors(siege.server) >= before + stay, "they stay")
        siege.good.goes_on()


def test_connections_to_the_grpc_port_that_do_not_get_on_cost_little(siege: Siege) -> None:
    with siege.attack(LITTLE_MIB + THOUSANDS * IDLE_MIB), ExitStack() as stack:
        for number in range(THOUSANDS):
            connection = stack.enter_context(Raw(siege.server.grpc_port))
            connection.send(http2.PREFACE[: number % len(http2.PREFACE)], reading=False)
        siege.good.goes_on()


@pytest.mark.parametrize("request_", [GET, METRICS, big(10_000)], ids=["status", "metrics", "predict"])
def test_answers_that_nobody_reads_stop_the_reading(siege: Siege, request_: bytes) -> None:
    with siege.attack(LITTLE_MIB), Raw(siege.server.rest_port, receive_bytes=4096) as connection:
        pieces = itertools.repeat(request_ * 100, 100 * MIB // len(request_ * 100))
        assert connection.flood(pieces, reading=False) is Sending.STUCK
        siege.good.goes_on()


def test_pipelined_requests_are_all_answered(siege: Siege) -> None:
    with siege.attack(LITTLE_MIB), Raw(siege.server.rest_port) as connection:
        assert connection.flood([GET * 100] * 50) is Sending.DONE
        connection.wait_for(lambda: connection.received.count(b"HTTP/1.1 200 OK\r\n") == 5000, "all answers")


def test_large_answers_that_nobody_reads_cost_what_they_are(siege: Siege) -> None:
    count, number_bytes, connections = 1_000_000, 16, 4
    with siege.attack(LITTLE_MIB + connections * 3 * count * number_bytes / MIB), ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(Raw(siege.server.rest_port, receive_bytes=4096))
            connection.send(big(count))
            connection.wait_for(connection.is_answered, "the beginning of an answer")
        siege.good.goes_on()


STAGES = {
    "before anything": b"",
    "in the head": POST[:30],
    "before the body": POST + b"Content-Length: 1000\r\n\r\n",
    "in the body": length(b"1000"),
    "in a chunk": CHUNKED + b"ff\r\n" + BODY,
    "before the answer": length(b"30"),
    "in the answer": big(100_000),  # 0.9 MiB, as numbers and as text
    "in a pipeline": length(b"30") * 100,
}


@pytest.mark.parametrize("data", STAGES.values(), ids=STAGES)
def test_resets_do_no_harm(siege: Siege, data: bytes) -> None:
    count, answer_mib = 30, 0.9
    with siege.attack(LITTLE_MIB + 3 * count * answer_mib):
        for leave in (Raw.reset, Raw.close, Raw.finish) * count:
            with Raw(siege.server.rest_port, receive_bytes=4096) as connection:
                connection.send(data, reading=False)
                leave(connection)
        siege.good.goes_on()


# Servers of their own.

CROWD = 200


def check_that_all_are_served(server: ServerProcess, room: int) -> None:
    """Many clients want to stay; so many are served at a time, and the next ones once the first have gone."""
    with ExitStack() as stack:
        waiting = [stack.enter_context(Raw(server.rest_port)) for _ in range(CROWD)]
        for connection in waiting:
            connection.send(GET)
        while waiting:
            served = answered(waiting)
            assert len(served) <= room
            for connection in served:
                wait_answered(connection)
                assert statuses(connection) == [200]
                connection.close()
            waiting = [connection for connection in waiting if connection not in served]


def test_clients_beyond_the_most_connections_are_served_once_there_is_room(tmp_path: Path) -> None:
    with serving([Model("half_plus_two", MODELS / "half")], tmp_path, "--max_connections=5") as server:
        check_that_all_are_served(server, 5)


def test_clients_beyond_the_descriptors_are_served_once_there_is_room(tmp_path: Path) -> None:
    with serving([Model("half_plus_two", MODELS / "half")], tmp_path) as server:
        most = 20 + max(int(one.name) for one in Path(f"/proc/{server.process.pid}/fd").iterdir())
        assert most < CROWD
        limit_descriptors(server, most)
        check_that_all_are_served(server, most)
