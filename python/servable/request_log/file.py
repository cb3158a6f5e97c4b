"""Records in local TFRecord files, rotated by size and age, the oldest removed beyond a total."""

from __future__ import annotations

import functools
import logging
import os
import re
import secrets
import time
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path

from servable.engine import EngineError, RecordReader, frame_records
from servable.errors import InvalidArgumentError
from servable.request_log.ownership import own
from servable.types import RequestLogOptions

__all__ = ["FileCollector"]

log = logging.getLogger(__name__)

SUFFIX = ".tfrecord"
UNFINISHED = ".part"
MODE = 0o600
"""Records are what clients sent, whatever the umask says of other files."""
FRAME_BYTES = 16
"""Of a record in a file: its length, and two checksums."""


class FileCollector:
    """Files `PREFIX.<time>-<writer>-<n>.tfrecord`; the one that is being written ends with `.part`.

    Servers may share a prefix: each writer has a name of its own. Files that a dead one has not finished are finished
    by the next, at its first `tend`.
    """

    def __init__(self, prefix: str, options: RequestLogOptions) -> None:
        if not os.path.isabs(prefix):
            raise InvalidArgumentError("it is no absolute path")
        self._prefix = Path(prefix)
        self._options = options
        self._file: RawIOBase | None = None
        self._path = Path()
        self._size = 0
        self._records = 0
        self._begun = 0.0
        self._number = 0
        self._writer = secrets.token_hex(4)
        self._has_recovered = False

    def write(self, records: Sequence[bytes]) -> None:
        for record in records:
            framed = frame_records([record])
            most = self._options.file_bytes
            if self._file is not None and most and self._size + len(framed) > most:
                self._finish()
            file = self._file or self._begin()
            try:
                self._append(file, framed)
            except OSError:
                file.truncate(self._size)  # what follows half a record could not be read
                file.seek(self._size)
                raise
            self._size += len(framed)
            self._records += 1

    def tend(self) -> None:
        if not self._has_recovered:
            self._has_recovered = True
            self.recover()
        if self._file is None:
            return
        if self._options.file_seconds and time.monotonic() - self._begun >= self._options.file_seconds:
            self._finish()

    def waiting(self) -> int:
        return 0  # nobody need finish a file to read it

    def unfinished(self) -> int:
        """How many records the file has that is being written."""
        return 0 if self._file is None else self._records

    def size(self) -> int:
        """Of all its files, in bytes."""
        return sum(path.stat().st_size for path in self.finished()) + (0 if self._file is None else self._size)

    def close(self) -> None:
        if self._file is not None:
            self._finish()

    def finished(self) -> list[Path]:
        """The files that are done, oldest first."""
        return self._files("")

    def recover(self) -> None:
        """Finish what writers that have died were writing, with the records that can be read. Others are left alone."""
        for path in self._files(UNFINISHED):
            try:
                with open(path, "r+b", buffering=0) as file:
                    if own(file.fileno(), str(path), without_locks=False):
                        records = self._recover(path, file)
                        log.info(
                            "The request log has finished what a server left behind: %s, %s records", path, records
                        )
            except FileNotFoundError:  # its writer has just finished it
                continue
            except OSError as error:
                log.warning("The request log leaves %s, which a server has not finished: %s", path, error)
        self._make_room()

    @staticmethod
    def _recover(path: Path, file: RawIOBase) -> int:
        records, size = 0, 0
        try:
            for record in RecordReader(str(path)):
                records += 1
                size += len(record) + FRAME_BYTES
        except EngineError:
            pass  # the last one was being written
        if records:
            file.truncate(size)
            os.replace(path, path.with_suffix(""))
        else:
            path.unlink()
        return records

    def _files(self, end: str) -> list[Path]:
        # Not those of another prefix that begins like this one.
        name = rf"{re.escape(self._prefix.name)}\.\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}-\d+{re.escape(SUFFIX + end)}"
        folder = self._prefix.parent
        found = [path for path in folder.iterdir() if re.fullmatch(name, path.name)] if folder.is_dir() else []
        return sorted(found, key=lambda path: path.name)  # which begins with the time

    def _begin(self) -> RawIOBase:
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            name = f"{self._prefix.name}.{moment}-{self._writer}-{self._number:06}{SUFFIX}"
            self._path = self._prefix.with_name(name)
            self._number += 1
            unfinished = f"{self._path}{UNFINISHED}"
            # Without a buffer: a record is there, or known not to be, when it has been written.
            opener = functools.partial(os.open, mode=MODE)
            file = open(unfinished, "xb", buffering=0, opener=opener)  # noqa: SIM115 (kept open)
            if own(file.fileno(), unfinished, without_locks=True):
                self._file = file
            else:
                file.close()  # a server that has just started took it for one that was left behind
        self._size, self._records, self._begun = 0, 0, time.monotonic()
        return self._file

    @staticmethod
    def _append(file: RawIOBase, framed: bytes) -> None:
        left = memoryview(framed)
        while left:
            left = left[file.write(left) or 0 :]

    def _finish(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with file:  # it is ours until it has its name
                os.replace(f"{self._path}{UNFINISHED}", self._path)
            self._make_room()

    def _make_room(self) -> None:
        if not self._options.keep_bytes:
            return
        files = [(path, path.stat().st_size) for path in self.finished() if path.exists()]
        total = sum(size for _, size in files)
        for path, size in files[:-1]:
            if total <= self._options.keep_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
