"""Versions in folders of this machine."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from servable.config.base_path import local_path
from servable.errors import IncompleteError, ServableError
from servable.storage.base import Brought
from servable.storage.saved_model import VARIABLES_INDEX, has_saved_model, lacks_variables, missing_part
from servable.storage.settling import Settling, remaining_s

__all__ = ["LocalStore", "Tree", "walk"]

TICK_S = 2.0
"""Coarsest time stamp of a file system that is in use (FAT)."""

RELIST_S = 10.0
"""A listing is never reused for longer: FUSE file systems over object stores may never change a folder's times."""

PATIENCE_S = 60.0
"""How long a folder with a SavedModel may go on changing: then what changes is not the model but, say, a log. And how
long one that seems to lack something has to stand still: then it may be odd, but nothing more is coming."""

RETRY_S = 0.5


@dataclass(frozen=True)
class _Listing:
    """The names in a folder, as listed once, and the folder's times at that moment."""

    identity: tuple[int, ...]
    seen_s: float
    """When this identity was seen first."""
    listed_s: float
    names: tuple[str, ...]

    def is_final(self, now_s: float) -> bool:
        """Whether every change up to `now_s` would have changed the identity, or is in the listing."""
        return self.listed_s - self.seen_s > TICK_S and now_s - self.listed_s < RELIST_S


class LocalStore:
    """Folders of this machine, by absolute path or `file://` URI.

    A folder's own times change whenever a name in it comes or goes, so an unchanged folder is not listed again. Two
    changes within one tick of the file system's clock leave the same time behind, and a listing made in between misses
    the second. So one is reused only if it was made more than a tick after its time was seen first. Both moments are
    ours: how the clock of a file server is set does not matter.
    """

    def __init__(
        self,
        *,
        marker_file: str | None = None,
        settle_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._marker_file = marker_file
        self._settle_s = settle_s
        self._clock = clock
        self._now = now
        self._settling = Settling(clock)
        self._listings: dict[str, _Listing] = {}  # values are replaced as a whole, so threads need no lock

    def folders(self, base_path: str) -> Sequence[str]:
        folder = local_path(base_path) or base_path
        try:
            status = os.stat(folder)
            # Tools that copy times may set the old one again; nobody can set the time of the change itself.
            identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            now_s = self._clock()
            known = self._listings.get(folder)
            if known is None or known.identity != identity:
                known = _Listing(identity, now_s, now_s, tuple(os.listdir(folder)))
            elif not known.is_final(now_s):
                known = _Listing(identity, known.seen_s, now_s, tuple(os.listdir(folder)))
        except OSError:
            self._listings.pop(folder, None)
            raise
        self._listings[folder] = known
        return known.names

    def bring(self, path: str) -> Brought:
        folder = local_path(path) or path
        try:
            tree = walk(folder)
        except (FileNotFoundError, NotADirectoryError):
            self._settling.forget(folder)
            return Brought(folder, 0)
        except OSError as error:
            code = "PERMISSION_DENIED" if isinstance(error, PermissionError) else "UNAVAILABLE"
            raise ServableError(f"{error.filename or path}; {error.strerror}", code=code) from error
        if self._marker_file is not None:
            if self._marker_file not in tree.names:
                raise IncompleteError(f"{path} has no file {self._marker_file} yet", RETRY_S)
        elif self._settle_s > 0:
            self._wait_for_rest(path, folder, tree)
        return Brought(folder, tree.size_bytes)

    def stamp(self, path: str) -> str:
        try:
            return walk(local_path(path) or path).stamp
        except OSError:
            return ""

    def _wait_for_rest(self, path: str, folder: str, tree: Tree) -> None:
        look = self._settling.look(folder, tree.stamp)
        missing = _missing_part(folder, tree)
        settle_s = self._settle_s if missing is None else max(self._settle_s, PATIENCE_S)
        rest_s = remaining_s(look, newest_s=tree.newest_s, settle_s=settle_s, now_s=self._now())
        is_endless = look.latest_s - look.first_s >= PATIENCE_S and missing is None and has_saved_model(tree.names)
        if rest_s > 0 and not is_endless:
            reason = "is still changing" if missing is None else f"has no {missing} yet"
            raise IncompleteError(f"{path} {reason}", min(rest_s, RETRY_S))
        self._settling.forget(folder)


def _missing_part(folder: str, tree: Tree) -> str | None:
    """What more has to come to a SavedModel; `None` if nothing. What is none is for the platform to complain of."""
    if not has_saved_model(tree.names):
        return None
    return missing_part(tree.names) or (VARIABLES_INDEX if lacks_variables(folder) else None)


@dataclass(frozen=True)
class Tree:
    """All files below a folder."""

    names: frozenset[str]
    """Relative to the folder."""
    size_bytes: int
    newest_s: float
    """When a file in it was written last, or a name in it came or went; in seconds since 1970.

    Not when the folder itself was renamed: that leaves alone the times of all that is looked at here.
    """
    stamp: str


def walk(folder: str) -> Tree:
    """Look at everything below `folder`, links followed. `OSError` if that cannot be read, or is no folder."""
    statuses = dict(_statuses(folder, "", set()))
    files = {name: status for name, status in statuses.items() if not name.endswith("/")}
    lines = sorted(f"{name}\0{status.st_size}\0{status.st_mtime_ns}" for name, status in statuses.items())
    return Tree(
        names=frozenset(files),
        size_bytes=sum(status.st_size for status in files.values()),
        newest_s=max(status.st_mtime for status in statuses.values()),
        stamp=hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest(),
    )


def _statuses(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """Each file by its name, and each folder by its name with a slash at the end."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that we have been to
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        children = list(entries)
    yield prefix or "/", status
    for entry in children:
        try:
            if entry.is_dir():
                yield from _statuses(entry.path, f"{prefix}{entry.name}/", seen)
            else:
                yield f"{prefix}{entry.name}", entry.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            continue  # it has gone since, or is a link to nothing
