"""Stand-ins for what lies outside the control plane."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any


class FakeCodec:
    """Takes JSON for protobuf, as text and as bytes."""

    def encode_text(self, message: str, text: str) -> bytes:
        try:
            return json.dumps(json.loads(text or "{}")).encode()
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.lineno}:{error.colno}: {error.msg}") from error

    def encode_json(self, message: str, json: str) -> bytes:
        return json.encode()

    def decode_message(self, message: str, data: bytes) -> str:
        return data.decode() or "{}"


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakePool:
    """Keeps jobs until the test runs them."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.has_threads = True

    def submit(self, job: Callable[[], None]) -> bool:
        if self.has_threads:
            self.jobs.append(job)
        return self.has_threads

    def run_next(self) -> None:
        self.jobs.pop(0)()


class FakeServable:
    def __init__(self, name: str, version: int, events: list[str], idle: Mapping[str, float] | None = None) -> None:
        self.name, self.version, self._events = name, version, events
        self.idle_s = (idle or {}).get(name, 0.0)
        self.report: Mapping[str, Any] | None = None

    def batching(self) -> str | None:
        return None if self.report is None else json.dumps(self.report)

    def unload(self, timeout_s: float | None) -> bool:
        self._events.append(f"unload {self.name}/{self.version}")
        return True


def statuses(routes: Mapping[str, Any], name: str) -> dict[int, str]:
    """The states of a model's published versions."""
    return {version.version: version.state for version in routes[name].versions} if name in routes else {}
