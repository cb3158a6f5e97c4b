"""What a base path may be: an absolute path on this machine, or a URI of a kind of store that is known."""

from __future__ import annotations

import re

__all__ = ["REMOTE_SCHEMES", "is_absolute", "is_supported", "local_path", "place_of", "scheme_of"]

REMOTE_SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "http", "https")
"""Schemes of the stores that `servable.storage` reads; `file` is another way to write a local path."""


def scheme_of(path: str) -> str:
    """`s3` of `s3://bucket/models`; empty for a path without a scheme."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    return found[1].lower() if found else ""


def place_of(uri: str) -> str:
    """`bucket` of `s3://bucket/models`: the bucket, container or host."""
    return uri.partition("://")[2].partition("/")[0]


def local_path(path: str) -> str | None:
    """The path on this machine that is meant: `/models` for `/models` and `file:///models`; `None` for other URIs."""
    scheme = scheme_of(path)
    if scheme == "file":
        return path[len("file://") :]
    return None if scheme else path


def is_absolute(path: str) -> bool:
    """Whether it depends on no working directory."""
    return path.startswith("/") or bool(scheme_of(path))


def is_supported(base_path: str) -> bool:
    """Whether versions can be looked for there."""
    local = local_path(base_path)
    if local is not None:
        return local.startswith("/")
    place = place_of(base_path)
    # fsspec takes two colons for the beginning of another store, which the first one reads.
    return scheme_of(base_path) in REMOTE_SCHEMES and bool(place) and "::" not in place
