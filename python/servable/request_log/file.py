"""Records in local TFRecord files, rotated by size and age, the oldest removed beyond a total."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path

from servable.engine import frame_records
from servable.errors import InvalidArgumentError
from servable.types import RequestLogOptions

__all__ = ["FileCollector"]

SUFFIX = ".tfrecord"
UNFINISHED = ".part"


class FileCollector:
    """Files `PREFIX.<time>-<writer>-<n>.tfrecord`; the one that is being written ends with `.part`.

    Servers may share a prefix: each writer has a name of its own.
    """

    def __init__(self, prefix: str, options: RequestLogOptions) -> None:
        if not os.path.isabs(prefix):
            raise InvalidArgumentError("it is no absolute path")
        self._prefix = Path(prefix)
        self._options = options
        self._file: RawIOBase | None = None
        self._path = Path()
        self._size = 0
        self._begun = 0.0
        self._number = 0
        self._writer = secrets.token_hex(4)

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

    def tend(self) -> None:
        if self._file is None:
            return
        if self._options.file_seconds and time.monotonic() - self._begun >= self._options.file_seconds:
            self._finish()

    def close(self) -> None:
        if self._file is not None:
            self._finish()

    def finished(self) -> list[Path]:
        """The files that are done, oldest first."""
        # Not those of another prefix that begins like this one.
        own = re.compile(rf"{re.escape(self._prefix.name)}\.\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}-\d+{re.escape(SUFFIX)}")
        found = [path for path in self._prefix.parent.iterdir() if own.fullmatch(path.name)]
        return sorted(found, key=lambda path: path.name)  # which begins with the time

    def _begin(self) -> RawIOBase:
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{self._prefix.name}.{moment}-{self._writer}-{self._number:06}{SUFFIX}"
        self._path = self._prefix.with_name(name)
        self._number += 1
        # Without a buffer: a record is there, or known not to be, when it has been written.
        self._file = open(f"{self._path}{UNFINISHED}", "xb", buffering=0)  # noqa: SIM115 (kept open)
        self._size, self._begun = 0, time.monotonic()
        return self._file

    @staticmethod
    def _append(file: RawIOBase, framed: bytes) -> None:
        left = memoryview(framed)
        while left:
            left = left[file.write(left) or 0 :]

    def _finish(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
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
