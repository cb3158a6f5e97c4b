"""All stores behind one door: a path's scheme decides."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from servable.config.base_path import REMOTE_SCHEMES, is_supported, local_path, place_of, scheme_of
from servable.config.server_config import StorageOptions
from servable.errors import InvalidArgumentError, ServableError
from servable.storage.base import Brought, Store
from servable.storage.cache import Cache
from servable.storage.filesystems import check_packages, open_filesystem
from servable.storage.local import LocalStore
from servable.storage.remote import RemoteStore

__all__ = ["Stores"]


class Stores:
    """The store of every path that is local or a URI. Made once, at the start; for any thread."""

    def __init__(self, options: StorageOptions, *, open_filesystem: Callable[[str], Any] = open_filesystem) -> None:
        self._options = options
        self._open_filesystem = open_filesystem
        self._local = LocalStore(marker_file=options.marker_file, settle_s=options.settle_s)
        self._cache = Cache(options.cache_folder, options.cache_bytes)
        self._lock = threading.Lock()  # guards what follows
        self._remote: dict[tuple[str, str], RemoteStore] = {}

    def check(self, base_path: str) -> None:
        """`InvalidArgumentError` if the kind of store is unknown, `FailedPreconditionError` if its packages are
        missing. Imports them, so it may take a second; does not ask the store."""
        if not is_supported(base_path):
            known = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
            raise InvalidArgumentError(f"{base_path} cannot be read; the stores that are known: {known}")
        if local_path(base_path) is None:
            check_packages(base_path)

    def folders(self, base_path: str) -> Sequence[str]:
        """What lies directly in `base_path`; see `Store`."""
        return self._store(base_path).folders(base_path)

    def bring(self, path: str) -> Brought:
        """The version at `path` as a folder on this machine; see `Store`."""
        return self._store(path).bring(path)

    def stamp(self, path: str) -> str:
        """A text that changes when anything below `path` does; see `Store`."""
        try:
            return self._store(path).stamp(path)
        except ServableError:
            return ""

    def _store(self, path: str) -> Store:
        if not scheme_of(path):
            return self._local
        self.check(path)
        if local_path(path) is not None:
            return self._local
        place = (scheme_of(path), place_of(path))
        with self._lock:
            if place not in self._remote:
                self._remote[place] = RemoteStore(
                    functools.partial(self._open_filesystem, path),
                    self._cache,
                    marker_file=self._options.marker_file,
                    settle_s=self._options.settle_s,
                    period_s=self._options.remote_period_s,
                )
            return self._remote[place]
