"""Records in files of any store that fsspec knows: written locally, and uploaded when they are finished."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from servable.config.base_path import REMOTE_SCHEMES, scheme_of
from servable.errors import InvalidArgumentError, ServableError
from servable.request_log.file import FRAME_BYTES, FileCollector
from servable.request_log.ownership import own
from servable.types import RequestLogOptions

__all__ = ["FsspecCollector"]

log = logging.getLogger(__name__)

SCHEMES = (*REMOTE_SCHEMES, "file", "local", "memory")
"""Of fsspec's stores those that need no permission. It knows dozens, of which some run what they read."""
FEWEST_FILES = 4
"""That the bound on what waits is divided into: a file is uploaded when it is finished."""


class FsspecCollector:
    """Files `PREFIX.<time>-<writer>-<n>.tfrecord` below a URL. A file that cannot be uploaded is tried again.

    Until then they lie in the spool, within its bound. What a dead server left there, for the same URL, is uploaded by
    the next one.
    """

    def __init__(self, prefix: str, options: RequestLogOptions) -> None:
        _check(prefix, options.roots)
        import fsspec  # noqa: F401 (whoever lacks it should know now)

        self._url = prefix
        self._folder, _, name = prefix.rpartition("/")
        self._name = name or "requests"
        # What waits here is not thinned out but refused, so that it is known what is lost.
        self._options = replace(options, keep_bytes=0, file_bytes=_file_bytes(options))
        self._waiting = 0
        self._spool: _Spool | None = None
        self._files: FileCollector | None = None

    def write(self, records: Sequence[bytes]) -> None:
        files = self._opened()
        size, most = files.size(), self._options.spool_bytes
        if most and size + sum(len(record) + FRAME_BYTES for record in records) > most:
            raise ServableError(f"{size} bytes wait to be uploaded to {self._folder}", code="RESOURCE_EXHAUSTED")
        files.write(records)
        self._waiting += len(records)

    def tend(self) -> None:
        files = self._opened()
        files.tend()
        self._upload(files)

    def waiting(self) -> int:
        return self._waiting

    def close(self) -> None:
        if self._files is None or self._spool is None:
            return
        try:
            self._files.close()
            self._upload(self._files)
        finally:
            self._spool.close()

    def _opened(self) -> FileCollector:
        """Files of our own, with what others left behind."""
        if self._files is None:
            self._spool = _Spool(Path(self._options.spool_folder), self._url)
            self._files = self._collector(self._spool.folder)
            for folder in self._spool.left_behind():
                try:
                    self._take_over(folder, self._spool.folder)
                except OSError as error:
                    log.warning("The request log leaves what a server left behind in %s: %s", folder, error)
        return self._files

    def _collector(self, folder: Path) -> FileCollector:
        return FileCollector(str(folder / self._name), self._options)

    def _take_over(self, folder: Path, own_folder: Path) -> None:
        log.info("The request log uploads what a server left behind in %s", folder)
        files = self._collector(folder)
        files.recover()
        for path in files.finished():
            os.replace(path, own_folder / path.name)
        shutil.rmtree(folder)

    def _upload(self, files: FileCollector) -> None:
        import fsspec

        for path in files.finished():
            filesystem, folder = fsspec.core.url_to_fs(self._folder)
            filesystem.makedirs(folder, exist_ok=True)
            filesystem.put_file(str(path), f"{folder}/{path.name}")
            path.unlink()
        self._waiting = files.unfinished()


def _file_bytes(options: RequestLogOptions) -> int:
    """Size at which a file is finished: so that one is, and is uploaded, before there is no room for another record."""
    sizes = (options.file_bytes, options.spool_bytes // FEWEST_FILES)
    return min((size for size in sizes if size), default=0)


def _check(url: str, roots: Sequence[str]) -> None:
    """Refuse what fsspec would open that no operator has meant: a store that wraps another, or one of any kind that
    happens to be installed."""
    if "://" not in url:
        raise InvalidArgumentError("it is no URL, such as s3://bucket/folder/name")
    if "::" in url:
        raise InvalidArgumentError("it names several stores, one in another")
    if scheme_of(url) not in SCHEMES and not roots:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InvalidArgumentError(f"the stores that are known: {known}; --request_log_root allows others")


class _Spool:
    """A folder of a writer's own in the one for all of them, which only its user can use."""

    def __init__(self, parent: Path, url: str) -> None:
        self._begin = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held = ExitStack()
        is_ours = False
        while not is_ours:  # unless a server that has just started took it for one that was left behind
            self.folder = Path(tempfile.mkdtemp(prefix=self._begin, dir=parent))
            is_ours = self._held.enter_context(_owned(self.folder, without_locks=True))

    def left_behind(self) -> Iterator[Path]:
        """Folders of writers that have died, for the same URL. Each is ours until the next is asked for."""
        for folder in sorted(self.folder.parent.glob(f"{self._begin}*")):
            with _owned(folder, without_locks=False) as is_ours:
                if is_ours:
                    yield folder

    def close(self) -> None:
        """Nobody writes any more. What could not be uploaded is left behind."""
        if any(self.folder.iterdir()):
            log.warning("The request log leaves records in %s, which could not be uploaded", self.folder)
        else:
            self.folder.rmdir()
        self._held.close()


@contextmanager
def _owned(folder: Path, *, without_locks: bool) -> Iterator[bool]:
    """Whether this folder of our own user has no other writer. It gets none before the end of the context."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        is_own = os.fstat(descriptor).st_uid == os.geteuid()
        yield is_own and own(descriptor, str(folder), without_locks=without_locks)
    finally:
        os.close(descriptor)
