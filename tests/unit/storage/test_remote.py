"""A store through fsspec, with fsspec's file system in memory."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from servable.errors import IncompleteError, InvalidArgumentError, NotFoundError, ServableError
from servable.storage.cache import Cache
from servable.storage.remote import (
    RemoteFile,
    RemoteStore,
    check_names,
    child_names,
    fingerprint,
    relative_name,
    remote_file,
    store_error,
)

from tests.e2e.server import wait_until
from tests.unit.fakes import FakeClock

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
SAVED_MODEL = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights",
}


class Memory(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Objects by their keys. `before_open` is called with the key of an object before it is read."""

    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec keeps it in the class
    pseudo_dirs: list[str] = [""]  # noqa: RUF012 - as above
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store = {}
        self.pseudo_dirs = [""]
        self.failure: Exception | None = None
        self.before_open: Callable[[str], object] = lambda key: None

    def put_object(self, key: str, content: bytes, *, age_s: float = 3600) -> None:
        self.pipe_file(f"memory://{key}", content)
        self.store[f"/{key}"].created = NOW - datetime.timedelta(seconds=age_s)
        self.store[f"/{key}"].modified = NOW - datetime.timedelta(seconds=age_s)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        return super().ls(path, detail=detail, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if "r" in mode:
            self.before_open(path)
        return super()._open(path, mode, **kwargs)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("s3://", "memory://")))


class Store:
    """A store in memory, and what brings its versions."""

    def __init__(self, folder: Path, *, marker_file: str | None = None, settle_s: float = 1.0) -> None:
        self.clock = FakeClock()
        self.wall = FakeClock()
        self.wall.now = NOW.timestamp()
        self.objects = Memory()
        self.folder = folder
        self.remote = RemoteStore(
            lambda: self.objects,
            Cache(str(folder)),
            marker_file=marker_file,
            settle_s=settle_s,
            clock=self.clock,
            now=self.wall,
        )

    def put(self, contents: Mapping[str, bytes], *, prefix: str = "m/1", age_s: float = 3600) -> None:
        for name, content in contents.items():
            self.objects.put_object(f"bucket/{prefix}/{name}", content, age_s=age_s)

    def bring(self) -> dict[str, bytes]:
        """The files of version 1."""
        brought = self.remote.bring("s3://bucket/m/1")
        files = [path for path in Path(brought.folder).rglob("*") if path.is_file()]
        brought.release()
        return {str(path.relative_to(brought.folder)): path.read_bytes() for path in files}

    def copies(self) -> int:
        return len(list(self.folder.glob("*/model")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_a_version_is_brought_with_all_its_files(store: Store) -> None:
    contents = SAVED_MODEL | {"assets/deep/er/words.txt": b"words", "empty": b"", "big": bytes(range(256)) * 80_000}
    store.put(contents)
    assert store.bring() == contents
    assert store.copies() == 1


def test_the_same_listing_is_downloaded_once(store: Store) -> None:
    store.put(SAVED_MODEL)
    read: list[str] = []
    store.objects.before_open = read.append
    store.bring()
    store.bring()
    assert len(read) == 3


def test_changed_objects_are_downloaded_anew(store: Store) -> None:
    store.put(SAVED_MODEL)
    store.bring()
    store.put({"saved_model.pb": b"other"}, age_s=60)
    assert store.bring()["saved_model.pb"] == b"other"


def test_a_version_that_changes_while_it_is_downloaded_is_not_taken(store: Store) -> None:
    store.put(SAVED_MODEL)

    def change(key: str) -> None:
        store.put({"saved_model.pb": b"other"}, age_s=60)
        store.objects.before_open = lambda key: None

    store.objects.before_open = change
    with pytest.raises((IncompleteError, ServableError)) as caught:
        store.bring()
    assert caught.value.code == "UNAVAILABLE"
    assert store.copies() == 0
    assert store.bring()["saved_model.pb"] == b"other"


def test_an_object_that_goes_while_it_is_downloaded_makes_the_version_incomplete(store: Store) -> None:
    store.put(SAVED_MODEL)
    store.objects.before_open = lambda key: store.objects.store.pop("/bucket/m/1/saved_model.pb", None)
    with pytest.raises(IncompleteError, match="has changed while it was downloaded"):
        store.bring()
    assert store.copies() == 0


def test_a_store_that_fails_in_the_middle_leaves_nothing(store: Store) -> None:
    store.put(SAVED_MODEL)

    def fail(key: str) -> None:
        raise ConnectionResetError("reset by peer")

    store.objects.before_open = fail
    with pytest.raises(ServableError, match="s3://bucket/m/1: ConnectionResetError: reset by peer") as caught:
        store.bring()
    assert caught.value.code == "UNAVAILABLE"
    assert store.copies() == 0


def test_fresh_objects_have_to_stand_still(store: Store) -> None:
    store.put(SAVED_MODEL, age_s=0)
    with pytest.raises(IncompleteError, match="is still changing"):
        store.bring()
    store.clock.now = 0.5
    store.put({"assets/words": b""}, age_s=0)
    for store.clock.now in (0.6, 1.5):
        with pytest.raises(IncompleteError):
            store.bring()
    store.clock.now = 1.7
    assert len(store.bring()) == 4


def test_a_model_without_variables_has_to_stand_still_for_longer(store: Store) -> None:
    """Uploads send small files first, and variables may take minutes."""
    store.put({"saved_model.pb": b"graph"}, age_s=5)
    with pytest.raises(IncompleteError):
        store.bring()
    store.put({"saved_model.pb": b"graph"}, age_s=61)
    assert list(store.bring()) == ["saved_model.pb"]


@pytest.mark.parametrize("missing", SAVED_MODEL)
def test_an_upload_that_is_not_finished_is_waited_for(missing: str, store: Store) -> None:
    store.put({name: content for name, content in SAVED_MODEL.items() if name != missing})
    with pytest.raises(IncompleteError, match=r"s3://bucket/m/1 has no .* yet") as caught:
        store.bring()
    assert 0 < caught.value.retry_after_s <= 5
    store.put({missing: b"at last"})
    assert len(store.bring()) == 3


def test_a_marker_is_all_that_counts_where_one_is_required(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", marker_file="DONE")
    store.put({"model.bin": b""})
    with pytest.raises(IncompleteError, match="s3://bucket/m/1 has no file DONE yet"):
        store.bring()
    store.put({"DONE": b""}, age_s=0)
    assert sorted(store.bring()) == ["DONE", "model.bin"]


def test_a_version_that_is_missing_is_not_found(store: Store) -> None:
    store.put(SAVED_MODEL, prefix="m/2")
    with pytest.raises(NotFoundError, match="s3://bucket/m/1"):
        store.bring()


def test_folders_are_listed_anew_after_a_period(store: Store) -> None:
    store.put(SAVED_MODEL, prefix="m/1")
    assert store.remote.folders("s3://bucket/m") == ("1",)
    assert store.remote.folders("s3://bucket/m/") == ("1",)
    store.put(SAVED_MODEL, prefix="m/2")
    assert store.remote.folders("s3://bucket/m") == ("1",)
    store.clock.now = 30
    wait_until(lambda: store.remote.folders("s3://bucket/m") == ("1", "2"), "the new version is listed")


def test_a_base_path_that_cannot_be_read_is_an_oserror(store: Store) -> None:
    with pytest.raises(OSError, match="NOT_FOUND: s3://bucket/m; No such file or directory"):
        store.remote.folders("s3://bucket/m")
    store.objects.failure = ConnectionRefusedError("refused")
    with pytest.raises(OSError, match="UNAVAILABLE: s3://bucket/n: ConnectionRefusedError: refused"):
        store.remote.folders("s3://bucket/n")


def test_a_stamp_changes_with_the_objects(store: Store) -> None:
    def stamp() -> str:
        store.clock.now += 1000  # so that it is asked for anew
        return store.remote.stamp("s3://bucket/m/1")

    stamps = [stamp()]
    store.put(SAVED_MODEL)
    stamps.append(stamp())
    assert stamp() == stamps[-1]
    store.put({"saved_model.pb": b"other"}, age_s=60)
    stamps.append(stamp())
    store.objects.failure = ConnectionRefusedError("refused")
    assert stamp() == stamps[-1], "as far as anybody knows"
    store.objects.failure = None
    store.objects.store.clear()
    assert stamp() == stamps[0] == ""
    assert len(set(stamps)) == 3


@pytest.mark.parametrize(
    ("root", "keys", "expected"),
    [
        ("b/m", ["b/m/1", "b/m/2/"], ("1", "2")),
        ("b/m/", ["b/m/1"], ("1",)),
        ("b", ["b/1", "b/2"], ("1", "2")),
        ("b/m", ["b/m/", "b/m", "b/m/1", "b/m/1/"], ("1",)),  # objects in the place of folders
        ("b/m", ["b/mm/1", "other/m/1"], ()),
        ("b/m", ["b/m/1/saved_model.pb"], ()),
    ],
)
def test_children(root: str, keys: list[str], expected: tuple[str, ...]) -> None:
    assert child_names(root, keys) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("http://h/m/1/a%20b.txt", "a b.txt"),
        ("http://h/m/1/?C=N;O=D", ""),
        ("http://h/m/1/#top", ""),
        ("http://h/m/1/%2e%2e/%2e%2e/x", "../../x"),
        ("http://h/m/1/variables/", ""),
        ("http://h/m/other", ""),
    ],
)
def test_links_of_an_index_page(key: str, expected: str) -> None:
    assert relative_name("http://h/m/1", key, is_url=True) == expected


@pytest.mark.parametrize(
    "names",
    [["../x"], ["a/../../x"], ["/etc/passwd"], ["a//b"], ["./a"], ["a\\b"], ["a\0b"], [".."], ["a", "a/b"]],
)
def test_names_that_lead_elsewhere_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="s3://b/m/1 has an object that cannot be a file of a version"):
        check_names("s3://b/m/1", ["saved_model.pb", *names])


def test_odd_names_that_stay_are_taken() -> None:
    check_names("s3://b/m/1", ["saved_model.pb", "..a", "a../b", "...", "ä b/ç"])


def test_a_version_with_such_a_name_is_refused_as_a_whole(store: Store) -> None:
    store.put(SAVED_MODEL | {"a\\b": b""})
    with pytest.raises(InvalidArgumentError):
        store.bring()
    assert store.copies() == 0


@pytest.mark.parametrize(
    ("info", "tag", "modified_s", "md5"),
    [
        ({"ETag": '"abc"', "LastModified": NOW}, '"abc"', NOW.timestamp(), None),
        ({"etag": "x", "updated": "2026-01-01T00:00:00.000Z"}, "x", NOW.timestamp(), None),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, str(NOW.timestamp()), NOW.timestamp(), None),
        ({"mtime": 5}, "5.0", 5.0, None),
        ({"created": datetime.datetime(2026, 1, 1)}, str(NOW.timestamp()), NOW.timestamp(), None),
        ({}, "inf", math.inf, None),
        ({"Last-Modified": "once"}, "inf", math.inf, None),
        ({"etag": "x", "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="}, "x", math.inf, bytes(16)),
        ({"etag": "x", "md5Hash": "?"}, "x", math.inf, None),
        ({"etag": "x", "content_settings": {"content_md5": bytearray(16)}}, "x", math.inf, bytes(16)),
        ({"etag": "x", "content_settings": {"content_md5": None}}, "x", math.inf, None),
    ],
)
def test_what_stores_tell_of_an_object(info: dict[str, Any], tag: str, modified_s: float, md5: bytes | None) -> None:
    file = remote_file("a", "b/m/1/a", info | {"size": 3})
    assert file == RemoteFile("a", "b/m/1/a", 3, tag, modified_s, md5)


def test_a_size_has_to_be_told() -> None:
    with pytest.raises(ServableError, match="the server does not tell its size") as caught:
        remote_file("a", "http://h/a", {"size": None})
    assert caught.value.code == "FAILED_PRECONDITION"


def test_the_fingerprint_tells_names_sizes_and_tags_apart() -> None:
    files = [RemoteFile("a", "k", 1, "t", 0.0), RemoteFile("b", "k", 1, "t", 0.0)]
    files += [RemoteFile("a", "k", 2, "t", 0.0), RemoteFile("a", "k", 1, "u", 0.0)]
    assert len({fingerprint([file]) for file in files}) == 4


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("status")
        self.status = status


class NoCredentialsError(Exception):
    pass


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("x"), "NOT_FOUND"),
        (caused(FileNotFoundError("x"), StatusError(404)), "NOT_FOUND"),
        (caused(FileNotFoundError("x"), StatusError(403)), "PERMISSION_DENIED"),
        (caused(FileNotFoundError("x"), asyncio.TimeoutError()), "UNAVAILABLE"),
        (caused(FileNotFoundError("x"), ConnectionRefusedError()), "UNAVAILABLE"),
        (PermissionError("x"), "PERMISSION_DENIED"),
        (NoCredentialsError("x"), "PERMISSION_DENIED"),
        (StatusError(401), "PERMISSION_DENIED"),
        (StatusError(503), "UNAVAILABLE"),
        (TimeoutError("x"), "UNAVAILABLE"),
        (OSError("x"), "UNAVAILABLE"),
        (ValueError("x"), "UNAVAILABLE"),
        (ServableError("x", code="FAILED_PRECONDITION"), "FAILED_PRECONDITION"),
    ],
)
def test_the_code_of_an_error(error: Exception, code: str) -> None:
    assert store_error("s3://b/m", error).code == code
