"""Versions that could not be loaded are tried again when their files have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from servable.models.manager import Failed
from servable.storage.aside import PATIENCE_S, Aside

__all__ = ["Mender"]


class Mender:
    """Looks at the files of failed versions now and then.

    `failed` tells which versions have failed and what their files looked like before (their stamp), `stamp` what those
    of a folder look like now, `retry` has a version tried again.
    """

    def __init__(
        self,
        failed: Callable[[], Sequence[Failed]],
        stamp: Callable[[str], str],
        retry: Callable[[str, int], None],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._failed = failed
        self._stamps = Aside(stamp, patience_s=patience_s)
        self._retry = retry
        self._seen: Mapping[tuple[str, int], str] = {}

    def look(self) -> None:
        """Have those versions tried again whose files differ from what failed, and from one look to the next do not."""
        seen: dict[tuple[str, int], str] = {}
        all_failed = self._failed()
        stamps = self._stamps.ask_all([failed.goal.path for failed in all_failed])
        for failed in all_failed:
            key = (failed.name, failed.goal.version)
            stamp = stamps[failed.goal.path]
            if isinstance(stamp, Exception):
                continue
            seen[key] = stamp
            if stamp != failed.stamp and stamp == self._seen.get(key):
                self._retry(*key)
        self._seen = seen
