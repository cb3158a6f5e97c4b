"""Copies of versions on this machine, shared by all servers that use the same folder.

    <folder>/lock                 held while room is made, for a moment
    <folder>/<key>/lock           shared by whoever uses the copy, held alone by whoever makes or removes it
    <folder>/<key>/claim          how many bytes it will take, while it is being made
    <folder>/<key>/incoming/      what has come so far
    <folder>/<key>/model/         the copy
    <folder>/<key>/manifest.json  what is in it; written last, so that there is none without a whole copy

The key is made of the version's URI and the listing of its files, so a version whose files change gets another copy.
Locks are the kernel's: those of a server that was killed are free at once, and what it left is removed by the next one
that comes upon it. The time of the manifest is when the copy was used last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servable.errors import IncompleteError, ServableError
from servable.storage.base import Brought
from servable.storage.locks import Lock, lock

__all__ = ["Cache", "Order", "Space", "space_at"]

log = logging.getLogger(__name__)

DOWNLOAD_WAIT_S = 30.0
"""How long to wait for another server's download before the thread is given back."""
RETRY_S = 0.25

ROOM_WAIT_S = 30.0
"""Room is made in a moment; a server that takes longer has been stopped."""

FREE_SHARE = 10
"""One part in so many of the disk is left to others, if there is no other limit."""

DAMAGED_ATTEMPTS = 20

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Order:
    """What a copy has to hold."""

    uri: str
    fingerprint: str
    """Of the listing: another one means another copy."""
    sizes: Mapping[str, int]
    """By name relative to the version."""

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes.values())

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.uri}\0{self.fingerprint}".encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Space:
    """A disk."""

    free_bytes: int
    total_bytes: int


def space_at(folder: str) -> Space:
    status = os.statvfs(folder)
    return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)


def excess_bytes(needed: int, used: int, limit: int | None, space: Space) -> int:
    """How much has to go before `needed` bytes may come; 0 or less if they have room."""
    if limit is not None:
        return used + needed - limit
    return needed + space.total_bytes // FREE_SHARE - space.free_bytes


class _Entry:
    """The folder of one copy."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lock = os.path.join(folder, "lock")
        self.claim = os.path.join(folder, "claim")
        self.incoming = os.path.join(folder, "incoming")
        self.model = os.path.join(folder, "model")
        self.manifest = os.path.join(folder, "manifest.json")
        self.new_manifest = f"{self.manifest}.new"

    def contents(self) -> dict[str, Any] | None:
        """The manifest; `None` if there is no whole copy."""
        try:
            with open(self.manifest, encoding="utf-8") as file:
                contents = json.load(file)
        except (OSError, ValueError):
            return None
        return contents if isinstance(contents, dict) and isinstance(contents.get("size_bytes"), int) else None

    def size_bytes(self) -> int:
        """What it takes, or is going to take."""
        contents = self.contents()
        if contents is not None:
            size: int = contents["size_bytes"]
            return size
        try:
            with open(self.claim, encoding="utf-8") as file:
                return int(file.read() or 0)
        except (OSError, ValueError):
            return 0

    def used_s(self) -> float:
        """When it was used last."""
        try:
            return os.stat(self.manifest).st_mtime
        except OSError:
            return 0.0

    def touch(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.manifest)

    def holds(self, order: Order) -> bool:
        """Whether the copy is whole: names and sizes of its files are those of the order."""
        return self.contents() is not None and _sizes_below(self.model) == order.sizes

    def clear(self) -> None:
        """Remove all but the lock. The manifest goes first: without it nothing here counts."""
        for file in (self.manifest, self.new_manifest, self.claim):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
        for folder in (self.model, self.incoming):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove it altogether; whoever does so holds the lock alone."""
        self.clear()
        with contextlib.suppress(OSError):
            os.unlink(self.lock)
            os.rmdir(self.folder)


class Cache:
    """Hands out copies. Any number of threads and processes may use one folder; methods wait."""

    def __init__(
        self,
        folder: str,
        limit_bytes: int | None = None,
        *,
        space: Callable[[str], Space] = space_at,
        wait_s: float = DOWNLOAD_WAIT_S,
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._space = space
        self._wait_s = wait_s
        self._opening = threading.Lock()  # guards what follows
        self._is_open = False

    def fetch(self, order: Order, download: Callable[[str], Mapping[str, str]]) -> Brought:
        """The copy of `order`, made by `download` if there is none.

        `download` gets an empty folder, puts the files there, and returns the SHA-256 of each. What it raises is raised
        here, with nothing left behind; but if the disk is full, copies that nobody uses go and it is called once more.
        `IncompleteError` while another server downloads the same.
        """
        try:
            self._open()
            for number in itertools.count():
                brought = self._fetch_as(f"{order.key}-{number}" if number else order.key, order, download)
                if brought is not None:
                    return brought
        except OSError as error:
            raise ServableError(
                f"{order.uri} cannot be kept in {self._folder}: {error}",
                code="PERMISSION_DENIED" if isinstance(error, PermissionError) else "UNAVAILABLE",
            ) from error
        raise AssertionError("this is a bug: counting has ended")

    def _fetch_as(self, key: str, order: Order, download: Callable[[str], Mapping[str, str]]) -> Brought | None:
        """The copy under this key; `None` if there is a damaged one that somebody uses, so that it has to stay."""
        entry = _Entry(os.path.join(self._folder, key))
        for _ in range(DAMAGED_ATTEMPTS):
            held = lock(entry.lock, alone=False, wait_s=self._wait_s)
            if held is None:
                raise IncompleteError(f"{order.uri} is being downloaded by another server", RETRY_S)
            if entry.holds(order):
                return self._pin(entry, held, order)
            held.release()
            held = lock(entry.lock, alone=True, wait_s=RETRY_S)
            if held is None:
                continue
            try:
                if not entry.holds(order):
                    self._make(entry, order, download)
                held.share()
                if entry.holds(order):  # in the moment between the two, somebody may have removed it to make room
                    return self._pin(entry, held, order)
            except BaseException:
                held.release()
                raise
            held.release()
        return None

    def _pin(self, entry: _Entry, held: Lock, order: Order) -> Brought:
        entry.touch()

        def release() -> None:
            entry.touch()
            held.release()

        return Brought(entry.model, order.size_bytes, release)

    def _make(self, entry: _Entry, order: Order, download: Callable[[str], Mapping[str, str]]) -> None:
        """Make the copy; whoever does so holds its lock alone."""
        try:
            try:
                self._claim(entry, order)
                self._try_to_make(entry, order, download)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                log.warning("The disk of %s is full: copies of versions that are not in use are removed", self._folder)
                self._make_room(entry, order, everything=True)
                self._try_to_make(entry, order, download)
        except OSError as error:
            entry.remove()
            if error.errno not in DISK_FULL:
                raise
            space = self._space(self._folder)
            raise _exhausted(
                f"{order.uri} takes {order.size_bytes} bytes; the disk of {self._folder} has {space.free_bytes} left, "
                "and no copies to remove that are not in use"
            ) from error
        except BaseException:
            entry.remove()
            raise

    def _try_to_make(self, entry: _Entry, order: Order, download: Callable[[str], Mapping[str, str]]) -> None:
        shutil.rmtree(entry.incoming, ignore_errors=True)
        os.mkdir(entry.incoming, 0o700)
        hashes = download(entry.incoming)
        sizes = _sizes_below(entry.incoming)
        if sizes != order.sizes:
            raise ServableError(f"{order.uri}: got {sizes}, but {dict(order.sizes)} was announced", code="UNAVAILABLE")
        os.rename(entry.incoming, entry.model)
        files = [{"name": name, "size": size, "sha256": hashes[name]} for name, size in sorted(sizes.items())]
        contents = {"uri": order.uri, "size_bytes": order.size_bytes, "files": files}
        with open(entry.new_manifest, "w", encoding="utf-8") as file:
            json.dump(contents, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.rename(entry.new_manifest, entry.manifest)
        _sync_folder(entry.folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.claim)

    def _claim(self, entry: _Entry, order: Order) -> None:
        """See that there is room, and let others know how much of it is taken."""
        entry.clear()
        with self._lock_room():
            self._make_room(entry, order)
            with open(entry.claim, "w", encoding="utf-8") as file:
                file.write(str(order.size_bytes))

    def _make_room(self, own: _Entry, order: Order, *, everything: bool = False) -> None:
        """Remove the copies whose last use is longest ago, as far as needed, but none that is in use."""
        others = [entry for entry in self._entries() if entry.folder != own.folder]
        sizes = {entry.folder: entry.size_bytes() for entry in others}
        used = sum(sizes.values())
        excess = excess_bytes(order.size_bytes, used, self._limit_bytes, self._space(self._folder))
        if everything:
            excess = used
        held: list[tuple[_Entry, Lock]] = []
        try:
            freed = 0
            for entry in sorted(others, key=_Entry.used_s):
                if freed >= excess:
                    break
                alone = lock(entry.lock, alone=True)
                if alone is not None:
                    held.append((entry, alone))
                    freed += sizes[entry.folder]
            if self._limit_bytes is not None and freed < excess and not everything:
                raise _exhausted(
                    f"{order.uri} takes {order.size_bytes} bytes; the copies in {self._folder} may take "
                    f"{self._limit_bytes} together (--model_cache_bytes), of which {used - freed} are in use"
                )
            for entry, _ in held:
                log.info("Removing the copy in %s to make room", entry.folder)
                entry.remove()
        finally:
            for _, alone in held:
                alone.release()

    def _entries(self) -> list[_Entry]:
        """All copies, whole or being made. What was left by servers that died is removed on the way."""
        entries = []
        for name in os.listdir(self._folder):
            if not re.fullmatch(r"[0-9a-f]{40}(-[0-9]+)?", name):
                continue  # not ours: somebody may have chosen a folder that has other things in it
            entry = _Entry(os.path.join(self._folder, name))
            if entry.contents() is None:
                alone = lock(entry.lock, alone=True)
                if alone is not None:
                    with alone:
                        if entry.contents() is None:
                            log.info("Removing what is left of a download in %s", entry.folder)
                            entry.remove()
                            continue
            entries.append(entry)
        return entries

    def _open(self) -> None:
        with self._opening:
            if not self._is_open:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                with self._lock_room():
                    self._entries()
                self._is_open = True

    def _lock_room(self) -> Lock:
        held = lock(os.path.join(self._folder, "lock"), alone=True, wait_s=ROOM_WAIT_S)
        if held is None:
            raise IncompleteError(f"Another server makes room in {self._folder}", RETRY_S)
        return held


def _sizes_below(folder: str) -> dict[str, int]:
    """The size of each file by its name relative to `folder`; empty if there is no such folder."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            status = os.stat(path, follow_symlinks=False)
            sizes[os.path.relpath(path, folder)] = status.st_size
    return sizes


def _exhausted(message: str) -> ServableError:
    return ServableError(message, code="RESOURCE_EXHAUSTED")


def _sync_folder(folder: str) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
