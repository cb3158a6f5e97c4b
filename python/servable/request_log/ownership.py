"""Which unfinished files have a writer: it holds the kernel's lock on them, which is free as soon as it has died."""

from __future__ import annotations

import contextlib
import fcntl
import os

__all__ = ["own"]


def own(descriptor: int, path: str, *, without_locks: bool) -> bool:
    """Take an open file or folder, for as long as it is open. False if somebody has it, or if it is gone from `path`.

    `without_locks` is the answer where the file system has none, so that nobody can know.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
