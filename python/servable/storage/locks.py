"""Locks between processes, on files; the kernel releases those of a process that dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

__all__ = ["Lock", "lock"]

POLL_S = 0.05
"""flock has no timeout, so we ask again."""


class Lock:
    """A lock that is held until `release`."""

    def __init__(self, file: int) -> None:
        self._file: int | None = file

    def share(self) -> None:
        """Let others have it as well, as long as they share it. Somebody may have had it alone for a moment before."""
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        """Harmless if repeated."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock(path: str, *, alone: bool, wait_s: float = 0.0) -> Lock | None:
    """Lock the file at `path`, which is made if need be; `None` if others hold it for longer than `wait_s`.

    Its folder is made as well. Whoever holds the lock alone may remove both.
    """
    end = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(FileExistsError):  # it was there, and is removed before makedirs takes a second look
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the folder was removed between the two
            continue
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            if time.monotonic() >= end:
                return None
            time.sleep(POLL_S)
            continue
        except BaseException:
            os.close(file)
            raise
        if _is_at(file, path):
            return Lock(file)
        os.close(file)  # it was removed before it was ours; another one may lie there now


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
