"""The file of warm-up requests that a version may bring along: TFRecords of serialised `PredictionLog`s."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from servable.errors import AlreadyExistsError, reading

__all__ = ["MOST_RECORDS", "warmup_file", "write_file"]

MOST_RECORDS = 1000
"""A version with more warm-up requests is not loaded."""


def warmup_file(folder: str) -> str:
    """Where the version in `folder` has its warm-up requests, if it has any."""
    return os.path.join(folder, "assets.extra", "tf_serving_warmup_requests")


def write_file(
    path: str,
    records: Sequence[bytes],
    *,
    force: bool,
    write_records: Callable[[str, Sequence[bytes]], None],
) -> None:
    """Put records in place all at once, and make the folder if it is missing.

    `ServableError` ALREADY_EXISTS if there is a file, unless `force`.
    """
    if os.path.exists(path) and not force:
        raise AlreadyExistsError(f"{path} exists; --force replaces it")
    aside = f"{path}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_records(aside, records)
        os.replace(aside, path)
    except OSError as error:
        raise reading(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)
