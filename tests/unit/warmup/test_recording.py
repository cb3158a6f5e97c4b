from __future__ import annotations

import math

import pytest
from servable.errors import InvalidArgumentError
from servable.warmup.recording import MOST_BYTES, record


class FakeServer:
    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int, float]] = []

    def capture(self, model: str, count: int, max_bytes: int, timeout_s: float) -> list[bytes]:
        self.asked.append((model, count, max_bytes, timeout_s))
        return [b"record"]


def test_a_recording_is_bounded() -> None:
    server = FakeServer()
    assert record(server, "m") == [b"record"]
    assert record(server, "m", 1000, 0.5) == [b"record"]
    assert server.asked == [("m", 100, MOST_BYTES, 60.0), ("m", 1000, MOST_BYTES, 0.5)]


@pytest.mark.parametrize(("count", "seconds"), [(0, 1.0), (1001, 1.0), (1, 0.0), (1, 3601.0), (1, math.nan)])
def test_numbers_that_make_no_sense_are_refused(count: int, seconds: float) -> None:
    server = FakeServer()
    with pytest.raises(InvalidArgumentError):
        record(server, "m", count, seconds)
    assert server.asked == []
