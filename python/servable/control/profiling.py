"""TensorFlow's profiler service: traces of what TensorFlow does in this process, for TensorFlow's profiler client."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Protocol

from servable.config.codec import Codec
from servable.errors import InvalidArgumentError, ServableError, UnimplementedError

__all__ = ["LONGEST_S", "SERVICE", "Profiling", "Session"]

SERVICE = "tensorflow.ProfilerService"
LONGEST_S = 60.0
"""A longer profile is refused: what it collects is kept in memory."""
TOOL = "xplane.pb"
"""The raw trace, which the client saves and TensorBoard makes everything else of."""


class Session(Protocol):
    """One profile of the process. TensorFlow has one at a time."""

    def start(self) -> None: ...
    def stop(self) -> bytes:
        """The serialised `tensorflow.profiler.XSpace`."""


class Profiling:
    """Answers the service's calls, side by side on threads of their own.

    `open_session` raises `ServableError` where TensorFlow is not here or has no profiler.
    """

    def __init__(self, open_session: Callable[[], Session], codec: Codec, stopped: threading.Event) -> None:
        self._open_session = open_session
        self._codec = codec
        self._stopped = stopped
        self._busy = threading.Lock()  # guards the one session that there may be
        self._end = threading.Event()

    def answer(self, name: str, request: bytes) -> bytes:
        """The serialised answer to the RPC of this name."""
        if name == "Profile":
            return self._profile(request)
        if name == "Terminate":
            self._end.set()
            return b""
        if name == "Monitor":
            raise UnimplementedError(
                "Monitor is not answered: TensorFlow has numbers for it on TPUs only. Metrics are at /metrics"
            )
        raise UnimplementedError(f"{SERVICE} has no {name} here")

    def _profile(self, request: bytes) -> bytes:
        asked = json.loads(self._codec.decode_message("tensorflow.ProfileRequest", request))
        duration_s = int(asked.get("duration_ms", 0)) / 1000
        if not 0 < duration_s <= LONGEST_S:
            raise InvalidArgumentError(
                f"duration_ms is {asked.get('duration_ms', 0)}; a profile takes from 1 to {LONGEST_S * 1000:.0f}"
            )
        if not self._busy.acquire(blocking=False):
            raise ServableError("another profile is being taken; try again when it is done", code="UNAVAILABLE")
        try:
            self._end.clear()
            session = self._open_session()
            session.start()
            try:
                self._wait(duration_s)
            finally:
                trace = session.stop()
        finally:
            self._busy.release()
        data = {"name": TOOL, "data": base64.b64encode(trace).decode()}
        answer = {"tool_data": [data]} if trace else {"empty_trace": True}
        return self._codec.encode_json("tensorflow.ProfileResponse", json.dumps(answer))

    def _wait(self, duration_s: float) -> None:
        """Wait for the time, somebody's word or the end of the server."""
        stop = threading.Timer(duration_s, self._end.set)
        stop.start()
        while not self._end.wait(0.1) and not self._stopped.is_set():
            pass
        stop.cancel()
