"""HTTP/2 by hand: frames out, frames in, and as much HPACK as the answers of a gRPC server need."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from tests.e2e.raw_client import Raw

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
FRAME_HEAD_BYTES = 9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

HEADER_TABLE_SIZE = 1
INITIAL_WINDOW_SIZE = 4


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Error(IntEnum):
    """Reasons in GOAWAY and RST_STREAM."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    return frame(Kind.SETTINGS, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, stream, struct.pack(">I", increment))


def reset(stream: int, error: Error = Error.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, stream, struct.pack(">I", error))


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(Kind.DATA, stream, payload, flags)


def message(payload: bytes, *, announced: int | None = None, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix, which may lie."""
    return struct.pack(">BI", compressed, len(payload) if announced is None else announced) + payload


# HPACK.


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer whose prefix has so many bits, beside the bits of `first`."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    encoded = bytearray([first | most])
    value -= most
    while value >= 0x80:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*encoded, value])


def text(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def literal(name: str | bytes, value: str | bytes, *, first: int = 0) -> bytes:
    """A field in plain letters; `first` of 0x40 puts it into the table."""
    name, value = (part.encode() if isinstance(part, str) else part for part in (name, value))
    return bytes([first]) + text(name) + text(value)


def fields(path: str = PREDICT, extra: Mapping[str, str | None] | None = None) -> bytes:
    """The header block of a call. `extra` replaces and adds; None takes a field out."""
    given: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **(extra or {}),
    }
    return b"".join(literal(name, value) for name, value in given.items() if value is not None)


def headers(stream: int, block: bytes | None = None, flags: int = END_HEADERS) -> bytes:
    return frame(Kind.HEADERS, stream, fields() if block is None else block, flags)


def call(stream: int, payload: bytes, block: bytes | None = None) -> bytes:
    """A whole call: headers and one message."""
    return headers(stream, block) + data(stream, message(payload), END_STREAM)


# The codes of the characters that occur in the names and numbers that tests look at (RFC 7541, appendix B).
FIVE_BITS = "012aceiost"
SIX_BITS = " %-./3456789=A_bdfghlmnpru"
CODES = {
    **{f"{number:05b}": character for number, character in enumerate(FIVE_BITS)},
    **{f"{number + 20:06b}": character for number, character in enumerate(SIX_BITS)},
}
STATUS_NAME = 8
STATUSES = {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}


def plain(huffman: bytes) -> str:
    """The text; it ends with the first character that is not in the table."""
    bits = "".join(f"{byte:08b}" for byte in huffman)
    read, start = "", 0
    for end in range(1, len(bits) + 1):
        character = CODES.get(bits[start:end])
        if character is not None:
            read, start = read + character, end
    return read


class Block:
    """A reader of header blocks that do not use the dynamic table, since we have set its size to 0."""

    def __init__(self, payload: bytes) -> None:
        self._rest = payload

    def _integer(self, bits: int) -> int:
        most = (1 << bits) - 1
        value, self._rest = self._rest[0] & most, self._rest[1:]
        shift, goes_on = 0, value == most
        while goes_on:
            byte, self._rest = self._rest[0], self._rest[1:]
            value += (byte & 0x7F) << shift
            shift, goes_on = shift + 7, bool(byte & 0x80)
        return value

    def _text(self) -> str:
        is_huffman = bool(self._rest[0] & 0x80)
        length = self._integer(7)
        content, self._rest = self._rest[:length], self._rest[length:]
        return plain(content) if is_huffman else content.decode(errors="replace")

    def fields(self) -> dict[str, str]:
        """Names that stand in the static table are left out, but for `:status`."""
        found = {}
        while self._rest:
            first = self._rest[0]
            if first & 0x80:
                found[":status"] = STATUSES.get(self._integer(7), "")
            elif first & 0xE0 == 0x20:
                self._integer(5)
            else:
                index = self._integer(6 if first & 0x40 else 4)
                name = self._text() if index == 0 else (":status" if STATUS_NAME <= index < 15 else f"({index})")
                found[name] = self._text()
        return found


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def error(self) -> Error:
        """The reason that a GOAWAY or RST_STREAM gives."""
        at = 4 if self.kind == Kind.GOAWAY else 0
        return Error(struct.unpack_from(">I", self.payload, at)[0])

    @property
    def fields(self) -> dict[str, str]:
        return Block(self.payload).fields()


class Http2(Raw):
    """A connection on which both sides have said hello."""

    def __init__(self, port: int, values: Mapping[int, int] | None = None, *, receive_bytes: int | None = None) -> None:
        super().__init__(port, receive_bytes=receive_bytes)
        self._read = 0
        self._stream = -1
        self._frames: list[Frame] = []
        self.send(PREFACE + settings({HEADER_TABLE_SIZE: 0, **(values or {})}))
        # Only then may more be sent than the protocol's small windows allow.
        self.wait_for(lambda: bool(self.of_kind(Kind.WINDOW_UPDATE)), "the server's windows")
        self.send(frame(Kind.SETTINGS, 0, flags=ACK))

    def __enter__(self) -> Http2:
        return self

    def next_stream(self) -> int:
        """A stream that this has not given before, for tests that do not count themselves."""
        self._stream += 2
        return self._stream

    @property
    def frames(self) -> list[Frame]:
        """All whole frames so far."""
        self._frames.extend(self._new_frames())
        return self._frames

    def _new_frames(self) -> Iterator[Frame]:
        while len(self.received) >= self._read + FRAME_HEAD_BYTES:
            head = bytes(self.received[self._read : self._read + FRAME_HEAD_BYTES])
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            end = self._read + FRAME_HEAD_BYTES + length
            if len(self.received) < end:
                return
            payload = bytes(self.received[self._read + FRAME_HEAD_BYTES : end])
            self._read = end
            yield Frame(kind, flags, int.from_bytes(head[5:], "big"), payload)

    def of_kind(self, kind: Kind) -> list[Frame]:
        return [frame for frame in self.frames if frame.kind == kind]

    @property
    def goaway(self) -> Error | None:
        """Why the server ended the connection, if it did."""
        said = self.of_kind(Kind.GOAWAY)
        return said[-1].error if said else None

    def wait_told_to_go(self) -> None:
        """Wait until the server says that nothing more is to begin, as a client does."""
        self.wait_for(lambda: self.goaway is not None, "the server says so")
        assert self.goaway == Error.NO_ERROR
        for ping in self.of_kind(Kind.PING):
            if not ping.flags & ACK:
                self.send(frame(Kind.PING, 0, ping.payload, ACK))

    def resets(self, stream: int | None = None) -> list[Error]:
        """Why the server ended streams."""
        frames = self.of_kind(Kind.RST_STREAM)
        return [frame.error for frame in frames if stream is None or frame.stream == stream]

    def is_ended(self, stream: int) -> bool:
        return bool(self.resets(stream)) or any(
            frame.stream == stream and frame.kind in (Kind.DATA, Kind.HEADERS) and frame.flags & END_STREAM
            for frame in self.frames
        )

    def answer(self, stream: int) -> dict[str, str]:
        """The fields of an answer, headers and trailers together, once it has ended."""
        self.wait_for(lambda: self.is_ended(stream) or self.goaway is not None, f"an answer on stream {stream}")
        found: dict[str, str] = {}
        for frame in self.of_kind(Kind.HEADERS):
            if frame.stream == stream:
                found |= frame.fields
        return found

    def ping(self, content: bytes = b"12345678") -> None:
        """Wait until the server has dealt with everything that was sent before."""
        self.send(frame(Kind.PING, 0, content))
        self.wait_for(
            lambda: any(frame.flags & ACK and frame.payload == content for frame in self.of_kind(Kind.PING)),
            "an answer to a ping",
        )
