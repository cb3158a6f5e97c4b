"""Which package reads which kind of store, and how it is opened: a table of fsspec's file systems."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from servable.config.base_path import place_of, scheme_of
from servable.errors import FailedPreconditionError

__all__ = ["KINDS", "Kind", "check_packages", "open_filesystem"]

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
"""Without a byte. Stores answer within seconds, and clients try again themselves."""


def _s3() -> dict[str, Any]:
    # Its own five attempts wait for up to 15 s in between, and s3fs makes further ones.
    retries = {"mode": "standard", "max_attempts": 3}
    return {
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": retries,
        }
    }


def _gcs() -> dict[str, Any]:
    # It logs a stack trace for each failure that it raises as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return {"requests_timeout": READ_TIMEOUT_S}


def _azure() -> dict[str, Any]:
    return {"connection_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}


def _http() -> dict[str, Any]:
    from aiohttp import ClientTimeout

    # aiohttp's own limit is on the whole download.
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "simple_links": False}


def _none() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Kind:
    """A kind of store."""

    packages: tuple[str, ...]
    """What has to be importable."""
    extra: str
    """The extra of ours that installs them."""
    options: Callable[[], Mapping[str, Any]]
    """For fsspec's file system, where the user has not said otherwise (`FSSPEC_…`)."""
    is_flat: bool
    """There are no folders, only names with slashes: everything below a name can be listed at once."""


_S3 = Kind(("fsspec", "s3fs"), "s3", _s3, is_flat=True)
_GCS = Kind(("fsspec", "gcsfs"), "gcs", _gcs, is_flat=True)
_AZURE = Kind(("fsspec", "adlfs"), "azure", _azure, is_flat=True)
_HTTP = Kind(("fsspec", "aiohttp"), "http", _http, is_flat=False)

KINDS: Mapping[str, Kind] = {
    "s3": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "hdfs": Kind(("fsspec", "pyarrow"), "hdfs", _none, is_flat=False),
    "http": _HTTP,
    "https": _HTTP,
}


def check_packages(uri: str) -> None:
    """`FailedPreconditionError` if the packages for this kind of store are not installed. Imports them."""
    scheme = scheme_of(uri)
    kind = KINDS[scheme]
    # gcsfs asks over gRPC what kind of bucket it has, for a minute if that is blocked, and brings all of gRPC along.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        for package in kind.packages:
            import_module(package)
    except ImportError as error:
        raise FailedPreconditionError(
            f"{uri} cannot be read: {scheme}:// needs packages that are not installed ({error}); "
            f"pip install 'servable[{kind.extra}]'"
        ) from error


def open_filesystem(uri: str) -> Any:
    """fsspec's file system for the bucket, container or host of `uri`: a new one, which remembers no listings."""
    check_packages(uri)
    import fsspec
    from fsspec.config import conf

    scheme = scheme_of(uri)
    protocols = fsspec.get_filesystem_class(scheme).protocol
    chosen = {name for protocol in protocols for name in conf.get(protocol, {})}
    options = {name: value for name, value in KINDS[scheme].options().items() if name not in chosen}
    options |= {"use_listings_cache": False, "skip_instance_cache": True}
    filesystem, _ = fsspec.core.url_to_fs(f"{scheme}://{place_of(uri)}/", **options)
    return filesystem
