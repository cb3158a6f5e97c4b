"""Versions in object stores and on web servers, of which copies are kept on this machine."""

from __future__ import annotations

import base64
import binascii
import datetime
import email.utils
import errno
import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from servable.config.base_path import scheme_of
from servable.errors import IncompleteError, InvalidArgumentError, NotFoundError, ServableError
from servable.storage.answers import Answers
from servable.storage.base import Brought
from servable.storage.cache import Cache, Order
from servable.storage.filesystems import KINDS
from servable.storage.saved_model import missing_part
from servable.storage.settling import Settling, remaining_s

__all__ = [
    "RemoteFile",
    "RemoteStore",
    "check_names",
    "child_names",
    "fingerprint",
    "is_fault",
    "relative_name",
    "remote_file",
    "store_error",
]

CHUNK_BYTES = 16 * 2**20
"""Read at a time: large enough that a request's delay hardly counts."""

MAX_STREAMS = 4
"""Files downloaded at a time."""

MAX_DEPTH = 16
"""Deepest folders of a version on a web server, whose index pages may link in circles."""

BARE_SETTLE_S = 60.0
"""How long a SavedModel without variables has to stand still. Uploads often send `saved_model.pb` first, and an object
appears only when all of it is there, which for the variables may take a while."""

INCOMPLETE_RETRY_S = 5.0


@dataclass(frozen=True)
class RemoteFile:
    """A file of a version, as a store lists it."""

    name: str
    """Relative to the version."""
    key: str
    """As the store calls it."""
    size: int
    tag: str
    """Changes with the content: an ETag or the like, or the time."""
    modified_s: float
    """In seconds since 1970; infinity if the store does not tell."""
    md5: bytes | None = None


class RemoteStore:
    """One bucket, container or host, through fsspec.

    Listings for scans are made on threads aside, so that a store that is slow or gone delays nobody; see `Answers`.
    """

    def __init__(
        self,
        open_filesystem: Callable[[], Any],
        cache: Cache,
        *,
        marker_file: str | None = None,
        settle_s: float = 1.0,
        period_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._open_filesystem = open_filesystem
        self._cache = cache
        self._marker_file = marker_file
        self._settle_s = settle_s
        self._period_s = period_s
        self._now = now
        self._settling = Settling(clock)
        self._children: Answers[Sequence[str]] = Answers(self._list_children, period_s, is_fault=is_fault, clock=clock)
        self._stamps: Answers[str] = Answers(self._take_stamp, period_s, is_fault=is_fault, clock=clock)
        self._opening = threading.Lock()  # guards what follows
        self._opened: Any = None

    def folders(self, base_path: str) -> Sequence[str]:
        try:
            return self._children.get(base_path)
        except ServableError as error:
            raise OSError(error.status) from error

    def stamp(self, path: str) -> str:
        try:
            return self._stamps.get(path)
        except (ServableError, OSError):
            return self._stamps.latest(path) or ""

    def bring(self, path: str) -> Brought:
        files = self._list_files(path)
        check_names(path, [file.name for file in files])
        self._check_complete(path, files)
        order = Order(path, fingerprint(files), {file.name: file.size for file in files})

        def download(folder: str) -> Mapping[str, str]:
            hashes = _download(self._filesystem(), files, folder, path)
            if fingerprint(self._list_files(path)) != order.fingerprint:
                raise IncompleteError(f"{path} has changed while it was downloaded", self._retry_s())
            return hashes

        brought = self._cache.fetch(order, download)
        self._settling.forget(path)
        return brought

    def _check_complete(self, path: str, files: Sequence[RemoteFile]) -> None:
        names = {file.name for file in files}
        if self._marker_file is not None:
            if self._marker_file not in names:
                raise IncompleteError(f"{path} has no file {self._marker_file} yet", self._retry_s())
            return
        missing = missing_part(names)
        if missing is not None:
            raise IncompleteError(f"{path} has no {missing} yet", self._retry_s())
        if self._settle_s > 0:
            is_bare = not any(name.startswith("variables/") for name in names)
            rest_s = remaining_s(
                self._settling.look(path, fingerprint(files)),
                newest_s=max(file.modified_s for file in files),
                settle_s=max(self._settle_s, BARE_SETTLE_S) if is_bare else self._settle_s,
                now_s=self._now(),
            )
            if rest_s > 0:
                raise IncompleteError(f"{path} is still changing", min(rest_s, INCOMPLETE_RETRY_S))

    def _retry_s(self) -> float:
        return min(max(self._period_s, 0.25), INCOMPLETE_RETRY_S)

    def _take_stamp(self, path: str) -> str:
        try:
            return fingerprint(self._list_files(path))
        except NotFoundError:
            return ""

    def _list_children(self, base_path: str) -> Sequence[str]:
        try:
            filesystem = self._filesystem()
            filesystem.invalidate_cache()
            listed = filesystem.ls(_with_slash(base_path), detail=False)
            return child_names(filesystem._strip_protocol(base_path), listed, is_url=_is_url(base_path))
        except Exception as error:
            raise store_error(base_path, error) from error

    def _list_files(self, path: str) -> tuple[RemoteFile, ...]:
        """All files of a version, ordered by name. `NotFoundError` if there are none."""
        try:
            filesystem = self._filesystem()
            filesystem.invalidate_cache()
            root = filesystem._strip_protocol(path)
            is_flat = KINDS[scheme_of(path)].is_flat
            listed = filesystem.find(root, detail=True) if is_flat else dict(_walk(filesystem, _with_slash(path)))
            if not isinstance(listed, dict):  # adlfs's answer for a path that is a file
                listed = {}
            files = [
                remote_file(name, key, filesystem.info(key) if info.get("size") is None else info)
                for key, info in listed.items()
                if (name := relative_name(root, key, is_url=_is_url(path)))
            ]
        except Exception as error:
            raise store_error(path, error) from error
        if not files:
            raise NotFoundError(f"{path} has no files")
        return tuple(sorted(files, key=lambda file: file.name))

    def _filesystem(self) -> Any:
        with self._opening:
            if self._opened is None:
                self._opened = self._open_filesystem()
            return self._opened


def _walk(filesystem: Any, folder: str, depth: int = 0) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Every file below a folder. fsspec's own walk leaves out what cannot be listed."""
    for info in filesystem.ls(folder, detail=True):
        if info["type"] != "directory":
            yield info["name"], info
        elif depth < MAX_DEPTH:
            yield from _walk(filesystem, info["name"], depth + 1)


def child_names(root: str, keys: Iterable[str], *, is_url: bool = False) -> tuple[str, ...]:
    """The names directly below `root`, each once, of what a store lists there."""
    names = (relative_name(root, key.rstrip("/"), is_url=is_url) for key in keys)
    return tuple(dict.fromkeys(name for name in names if name and "/" not in name))


def relative_name(root: str, key: str, *, is_url: bool = False) -> str:
    """The name of an object relative to `root`; empty for what is no file below it.

    Object stores may hold an empty object in the place of a folder: its name is that of the folder, or ends with a
    slash. Index pages have links for sorting, which carry a query.
    """
    prefix = root.rstrip("/") + "/"
    name = key[len(prefix) :] if key.startswith(prefix) else ""
    if is_url:
        name = "" if re.search("[?#]", name) else unquote(name)
    return "" if name.endswith("/") else name


def check_names(path: str, names: Collection[str]) -> None:
    """Refuse names that would lead out of the folder they are put in, or cannot be put there together."""
    folders = {name[:index] for name in names for index, letter in enumerate(name) if letter == "/"}
    for name in names:
        is_odd = any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name
        if is_odd or name in folders:
            raise InvalidArgumentError(f"{path} has an object that cannot be a file of a version: {name!r}")


def fingerprint(files: Sequence[RemoteFile]) -> str:
    """A text that changes with any name, size or content."""
    lines = "\n".join(f"{file.name}\0{file.size}\0{file.tag}" for file in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def store_error(uri: str, error: Exception) -> ServableError:
    """The domain error for what fsspec or a client below it raises.

    fsspec says `FileNotFoundError` and `PermissionError` where a store said so; but over HTTP also where it got no
    answer, so its cause counts as well. Whatever else goes wrong may be well the next time.
    """
    if isinstance(error, ServableError):
        return error
    chain = list(_causes(error))
    values = [getattr(cause, name, None) for cause in chain for name in ("status", "status_code", "code")]
    statuses = {value for value in values if isinstance(value, int)}
    kinds = {type(cause).__name__ for cause in chain}
    text = f"{uri}: {type(error).__name__}: {error}"
    is_unanswered = any("Connect" in kind or "Timeout" in kind for kind in kinds)
    if statuses & {401, 403} or isinstance(error, PermissionError) or any("Credentials" in kind for kind in kinds):
        return ServableError(text, code="PERMISSION_DENIED")
    if isinstance(error, FileNotFoundError) and not is_unanswered:
        return NotFoundError(f"{uri}; No such file or directory")
    return ServableError(text, code="UNAVAILABLE")


def is_fault(error: Exception) -> bool:
    """Whether it tells of the store rather than of what was asked for."""
    return isinstance(error, ServableError) and error.code == "UNAVAILABLE"


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _download(filesystem: Any, files: Sequence[RemoteFile], folder: str, path: str) -> dict[str, str]:
    """Put the files into `folder`; the SHA-256 of each. The first failure ends it for all."""
    given_up = threading.Event()

    def fetch(file: RemoteFile) -> str | Exception:
        try:
            return _fetch(filesystem, file, folder, path, given_up)
        except Exception as error:
            given_up.set()
            return error

    with ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="download") as pool:
        outcomes = list(pool.map(fetch, files))
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for error in sorted(errors, key=lambda error: isinstance(error, _GivenUpError)):
        raise error
    return {file.name: str(digest) for file, digest in zip(files, outcomes, strict=True)}


class _GivenUpError(Exception):
    """Another file of the version could not be had."""


def _fetch(filesystem: Any, file: RemoteFile, folder: str, path: str, given_up: threading.Event) -> str:
    target = os.path.join(folder, *file.name.split("/"))
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(target, "xb") as output:
        for chunk in _chunks(filesystem, file, path):
            if given_up.is_set():
                raise _GivenUpError
            output.write(chunk)
            sha256.update(chunk)
            if file.md5 is not None:
                md5.update(chunk)
        output.flush()
        os.fsync(output.fileno())
    if file.md5 is not None and md5.digest() != file.md5:
        raise ServableError(f"{path}: what came for {file.name} is not what the store says it has", code="UNAVAILABLE")
    return sha256.hexdigest()


def _chunks(filesystem: Any, file: RemoteFile, path: str) -> Iterable[bytes]:
    """The content of a file, piece by piece. `ServableError` if it cannot be had."""
    if file.size == 0:
        return
    try:
        # A web server need not know ranges, so what it has is taken in one go.
        with filesystem.open(
            file.key, "rb", block_size=0 if _is_url(path) else CHUNK_BYTES, cache_type="none"
        ) as input:
            rest = file.size
            while rest > 0 and (chunk := input.read(min(CHUNK_BYTES, rest))):
                rest -= len(chunk)
                yield chunk
    except Exception as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) == errno.EBUSY:
            raise IncompleteError(f"{path} has changed while it was downloaded", INCOMPLETE_RETRY_S) from error
        raise store_error(path, error) from error


def remote_file(name: str, key: str, info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    if size is None:
        raise ServableError(f"{key}: the server does not tell its size", code="FAILED_PRECONDITION")
    modified_s = _modified_s(info)
    tag = next((str(info[word]) for word in ("ETag", "etag", "generation") if info.get(word)), str(modified_s))
    return RemoteFile(name, key, int(size), tag, modified_s, _md5(info))


def _modified_s(info: Mapping[str, Any]) -> float:
    for word in ("LastModified", "last_modified", "mtime", "updated", "Last-Modified", "created"):
        value = info.get(word)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            value = _time(value)
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).timestamp()
    return math.inf


def _time(text: str) -> datetime.datetime | None:
    """A time as JSON or HTTP has it."""
    for parse in (datetime.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            return parse(text.replace("Z", "+00:00"))
        except ValueError:
            continue
    return None


def _md5(info: Mapping[str, Any]) -> bytes | None:
    """The MD5 of the content, where the store has one. An ETag of S3 may be one, but need not be."""
    settings = info.get("content_settings") or {}
    value = info.get("md5Hash") or settings.get("content_md5")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            return None
    return bytes(value) if value and len(value) == 16 else None


def _is_url(path: str) -> bool:
    return scheme_of(path) in ("http", "https")


def _with_slash(path: str) -> str:
    """A folder on a web server has its slash; for stores it makes no difference."""
    return path.rstrip("/") + "/" if _is_url(path) else path
