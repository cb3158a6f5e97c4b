"""Recording the requests that a running server answers, to warm up with them later."""

from __future__ import annotations

from typing import Protocol

from servable.errors import InvalidArgumentError
from servable.warmup.file import MOST_RECORDS

__all__ = ["DEFAULT_COUNT", "DEFAULT_SECONDS", "record"]

DEFAULT_COUNT = 100
DEFAULT_SECONDS = 60.0
LONGEST_SECONDS = 3600.0
MOST_BYTES = 256 << 20
"""What the records of one recording may take together."""


class Capturing(Protocol):
    """What the engine's `Server` does for a recording."""

    def capture(self, model: str, count: int, max_bytes: int, timeout_s: float) -> list[bytes]: ...


def record(
    server: Capturing,
    model: str,
    count: int = DEFAULT_COUNT,
    seconds: float = DEFAULT_SECONDS,
    *,
    max_bytes: int = MOST_BYTES,
) -> list[bytes]:
    """The next requests that a model answers, as serialised `PredictionLog`s, ready for a file of warm-up requests.

    Waits until there are `count` of them, they would take more than `max_bytes`, or the time is over. INVALID_ARGUMENT
    for numbers that make no sense; other errors are the engine's.
    """
    if not 1 <= count <= MOST_RECORDS:
        raise InvalidArgumentError(
            f"count is from 1 to {MOST_RECORDS}, what a version may be warmed up with: not {count}"
        )
    if not 0 < seconds <= LONGEST_SECONDS:
        raise InvalidArgumentError(f"seconds are above 0 and at most {LONGEST_SECONDS:.0f}: not {seconds}")
    return server.capture(model, count, max_bytes, seconds)
