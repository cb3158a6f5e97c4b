"""A socket to a server, for tests that send what no client library would."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import TracebackType

from tests.e2e.server import DEADLINE_S, wait_until

PIECE_BYTES = 64 << 10
STUCK_S = 0.3
"""A server on this machine that takes nothing for so long is taken to have stopped reading."""


class Sending(Enum):
    """What became of bytes that were to be sent."""

    DONE = "all were taken"
    STUCK = "the server takes no more for the time being"
    CLOSED = "the server has closed the connection"


class Raw:
    """One connection. What the server says is gathered while we send, so that neither side waits for the other."""

    def __init__(self, port: int, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(("127.0.0.1", port))
        self.received = bytearray()
        self.is_closed = False
        self.sent_bytes = 0

    def send(self, data: bytes, *, reading: bool = True) -> Sending:
        """Send all of it, unless the server closes or stops taking it."""
        view = memoryview(data)
        while view and not self.is_closed:
            events = self._events(select.POLLOUT | (select.POLLIN if reading else 0))
            if not events:
                return Sending.STUCK
            if reading and events & ~select.POLLOUT:
                self._gather()
            elif events:
                view = view[self._push(view) :]
        return Sending.CLOSED if self.is_closed else Sending.DONE

    def _events(self, wanted: int) -> int:
        """What is possible now or soon; `select` knows no descriptors beyond 1024."""
        poll = select.poll()
        poll.register(self.socket, wanted)
        return sum(events for _, events in poll.poll(STUCK_S * 1000))

    def flood(self, pieces: Iterable[bytes], *, reading: bool = True) -> Sending:
        """Send one after the other until that comes to an end."""
        outcome = Sending.DONE
        for piece in pieces:
            outcome = self.send(piece, reading=reading)
            if outcome is not Sending.DONE:
                break
        return outcome

    def _push(self, view: memoryview) -> int:
        try:
            count = self.socket.send(view[:PIECE_BYTES], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            # What the server said before may still be there to be read.
            self.wait_closed()
            return 0
        self.sent_bytes += count
        return count

    def _gather(self) -> bool:
        """Take what is there; whether the connection goes on."""
        try:
            data = self.socket.recv(PIECE_BYTES)
        except ConnectionError:
            data = b""
        self.received += data
        self.is_closed = self.is_closed or not data
        return bool(data)

    def is_answered(self) -> bool:
        """Whether the server has said anything, or hung up."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(self.received) or self.is_closed or bool(poll.poll(0))

    def wait_for(self, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Read until the condition holds; the server must not close before."""
        end = time.monotonic() + deadline_s
        while not condition():
            left = end - time.monotonic()
            assert left > 0, f"waited in vain: {what}; got {bytes(self.received[-300:])!r}"
            self.socket.settimeout(left)
            assert self._gather(), f"closed before: {what}; got {bytes(self.received[-300:])!r}"

    def wait_closed(self, deadline_s: float = DEADLINE_S) -> bytes:
        """Read to the end; everything that came."""
        end = time.monotonic() + deadline_s
        while not self.is_closed:
            left = end - time.monotonic()
            assert left > 0, f"the server has not closed; it said {bytes(self.received[-300:])!r}"
            self.socket.settimeout(left)
            self._gather()
        return bytes(self.received)

    def reset(self) -> None:
        """Leave with a RST instead of a proper end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    def finish(self) -> None:
        """Say that nothing more will come; answers may."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def answered(connections: Sequence[Raw]) -> list[Raw]:
    """Those that the server has said something to, once there are any."""
    found: list[Raw] = []

    def is_any() -> bool:
        found[:] = [connection for connection in connections if connection.is_answered()]
        return bool(found)

    wait_until(is_any, "one of many connections is answered")
    return found
