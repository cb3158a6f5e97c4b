"""When a version that grows in place counts as complete: when it has stood still for a while.

There are two pieces of evidence, and the better one counts: the time of its newest file, which tells at once that a
version is old, but needs clocks that agree; and our own looks at it, which need none, but take time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["Look", "Settling", "remaining_s"]

FORGOTTEN_AFTER_S = 600.0
"""Nobody asks for a version any more that has not been looked at for so long."""


@dataclass(frozen=True)
class Look:
    """What has been seen of one version so far. Times are those of a monotonic clock."""

    stamp: str
    first_s: float
    """When it was looked at first."""
    since_s: float
    """When it was first seen as it is now."""
    latest_s: float


def remaining_s(look: Look, *, newest_s: float, settle_s: float, now_s: float) -> float:
    """How long a version still has to stand still; 0 if it has.

    `newest_s` and `now_s` are the time of its newest file and ours, in seconds since 1970.
    """
    stood_still_s = max(now_s - newest_s, look.latest_s - look.since_s)
    return max(0.0, settle_s - stood_still_s)


class Settling:
    """Remembers versions that are not complete yet. For any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._looks: dict[str, Look] = {}

    def look(self, path: str, stamp: str) -> Look:
        """Take note that the version at `path` has this stamp now."""
        with self._lock:
            now = self._clock()
            self._looks = {p: look for p, look in self._looks.items() if now - look.latest_s < FORGOTTEN_AFTER_S}
            before = self._looks.get(path, Look(stamp, now, now, now))
            since_s = before.since_s if before.stamp == stamp else now
            self._looks[path] = replace(before, stamp=stamp, since_s=since_s, latest_s=now)
            return self._looks[path]

    def forget(self, path: str) -> None:
        with self._lock:
            self._looks.pop(path, None)
