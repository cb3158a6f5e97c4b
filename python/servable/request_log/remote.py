"""Records in files of any store that fsspec knows: written locally, and uploaded when they are finished."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from servable.errors import InvalidArgumentError, ServableError
from servable.request_log.file import FileCollector
from servable.types import RequestLogOptions

__all__ = ["FsspecCollector"]


MOST_SPOOLED_BYTES = 256 << 20
"""Of finished files that could not be uploaded yet."""


class FsspecCollector:
    """Files `PREFIX.<time>-<writer>-<n>.tfrecord` below a URL. A file that cannot be uploaded is tried again."""

    def __init__(self, prefix: str, options: RequestLogOptions) -> None:
        if "://" not in prefix:
            raise InvalidArgumentError("it is no URL, such as s3://bucket/folder/name")
        import fsspec  # noqa: F401 (whoever lacks it should know now)

        self._folder, _, name = prefix.rpartition("/")
        self._spool = tempfile.TemporaryDirectory(prefix="servable-request-log-")
        # What waits here is not thinned out but refused, so that it is known what is lost.
        spooled = replace(options, keep_bytes=0)
        self._files = FileCollector(str(Path(self._spool.name) / (name or "requests")), spooled)

    def write(self, records: Sequence[bytes]) -> None:
        waiting = sum(path.stat().st_size for path in self._files.finished())
        if waiting > MOST_SPOOLED_BYTES:
            raise ServableError(f"{waiting} bytes wait to be uploaded to {self._folder}", code="RESOURCE_EXHAUSTED")
        self._files.write(records)

    def tend(self) -> None:
        self._files.tend()
        self._upload()

    def close(self) -> None:
        self._files.close()
        self._upload()
        self._spool.cleanup()

    def _upload(self) -> None:
        import fsspec

        for path in self._files.finished():
            filesystem, folder = fsspec.core.url_to_fs(self._folder)
            filesystem.makedirs(folder, exist_ok=True)
            filesystem.put_file(str(path), f"{folder}/{path.name}")
            path.unlink()
