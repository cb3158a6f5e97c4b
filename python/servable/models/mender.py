"""Versions that could not be loaded are tried again when their files have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from servable.models.manager import Failed

__all__ = ["Mender"]


class Mender:
    """Looks at the files of failed versions now and then.

    `failed` tells which versions have failed and what their files looked like before (their stamp), `stamp` what those
    of a folder look like now, `retry` has a version tried again.
    """

    def __init__(
        self, failed: Callable[[], Sequence[Failed]], stamp: Callable[[str], str], retry: Callable[[str, int], None]
    ) -> None:
        self._failed = failed
        self._stamp = stamp
        self._retry = retry
        self._seen: Mapping[tuple[str, int], str] = {}

    def look(self) -> None:
        """Have those versions tried again whose files differ from what failed, and from one look to the next do not."""
        seen = {}
        for failed in self._failed():
            key = (failed.name, failed.goal.version)
            stamp = seen[key] = self._stamp(failed.goal.path)
            if stamp != failed.stamp and stamp == self._seen.get(key):
                self._retry(*key)
        self._seen = seen
