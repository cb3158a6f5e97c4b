"""The same cases over real servers of each kind; object_stores.py says what has to be installed for which."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from servable.config.server_config import StorageOptions
from servable.errors import IncompleteError, InvalidArgumentError, NotFoundError, ServableError
from servable.storage.base import Brought
from servable.storage.stores import Stores

from tests.e2e.server import MODELS, wait_until
from tests.storage.object_stores import KINDS, ObjectStore, running

VERSION = MODELS / "multi" / "1"
Open = Callable[..., Stores]

NAMES = count()


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running(request.param, tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def model() -> str:
    """A name for a model that no other test has."""
    return f"m{next(NAMES)}"


@pytest.fixture
def open_stores(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    store.use(monkeypatch)

    def opened(*, settle_s: float = 0.0, period_s: float = 0.0, marker_file: str | None = None) -> Stores:
        folder = str(tmp_path / "cache")
        return Stores(StorageOptions(folder, settle_s=settle_s, remote_period_s=period_s, marker_file=marker_file))

    return opened


def contents(folder: str | Path) -> dict[str, bytes]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_versions_are_listed(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.upload(VERSION, f"{model}/1")
    store.upload(VERSION, f"{model}/0010")
    store.put(f"{model}/7", b"a file")
    store.put(f"{model}/notes.txt", b"a file")
    for base_path in (f"{store.base}/{model}", f"{store.base}/{model}/"):
        assert sorted(open_stores().folders(base_path)) == ["0010", "1", "7", "notes.txt"]


def test_a_new_version_is_listed_soon(store: ObjectStore, open_stores: Open, model: str) -> None:
    stores = open_stores()
    store.upload(VERSION, f"{model}/1")
    assert stores.folders(f"{store.base}/{model}") == ("1",)
    store.upload(VERSION, f"{model}/2")
    wait_until(lambda: sorted(stores.folders(f"{store.base}/{model}")) == ["1", "2"], "the new version is listed")


@pytest.mark.filterwarnings("ignore:Sending a large body")  # how the clients of GCS and Azure upload is their concern
def test_a_version_is_brought_as_it_is(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.upload(VERSION, f"{model}/1")
    store.put(f"{model}/1/assets/ä word & more.txt", b"words")
    store.put(f"{model}/1/assets/empty", b"")
    large = bytes(range(256)) * 160_000  # more than is read at a time
    store.put(f"{model}/1/assets.extra/large", large)
    path = f"{store.base}/{model}/1"
    brought = open_stores().bring(path)
    expected = contents(VERSION) | {
        "assets/ä word & more.txt": b"words",
        "assets/empty": b"",
        "assets.extra/large": large,
    }
    assert contents(brought.folder) == expected
    assert brought.size_bytes == sum(len(content) for content in expected.values())
    assert open_stores().bring(path).folder == brought.folder
    brought.release()


def test_several_threads_bring_one_copy(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.upload(VERSION, f"{model}/1")
    stores = [open_stores(), open_stores()]
    start = threading.Barrier(6)

    def bring(index: int) -> Brought:
        start.wait()
        return stores[index % 2].bring(f"{store.base}/{model}/1")

    with ThreadPoolExecutor(6) as pool:
        brought = list(pool.map(bring, range(6)))
    assert len({one.folder for one in brought}) == 1


def test_a_version_counts_when_its_marker_is_there(store: ObjectStore, open_stores: Open, model: str) -> None:
    stores = open_stores(marker_file="DONE")
    store.upload(VERSION, f"{model}/1")
    with pytest.raises(IncompleteError, match=f"{model}/1 has no file DONE yet"):
        stores.bring(f"{store.base}/{model}/1")
    store.put(f"{model}/1/DONE", b"")
    assert (Path(stores.bring(f"{store.base}/{model}/1").folder) / "DONE").exists()


def test_a_version_counts_when_it_has_stood_still(store: ObjectStore, open_stores: Open, model: str) -> None:
    stores = open_stores(settle_s=2.0)
    path = f"{store.base}/{model}/1"
    store.upload(VERSION, f"{model}/1")
    with pytest.raises(IncompleteError, match="is still changing"):
        stores.bring(path)

    def is_there() -> bool:
        try:
            stores.bring(path).release()
        except IncompleteError:
            return False
        return True

    wait_until(is_there, "the version has stood still")


def test_an_upload_without_its_variables_is_waited_for(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.upload(VERSION, f"{model}/1")
    store.delete(f"{model}/1/variables/variables.data-00000-of-00001")
    with pytest.raises(IncompleteError, match=r"has no variables/variables\.data-\* yet"):
        open_stores().bring(f"{store.base}/{model}/1")


def test_a_stamp_changes_with_the_content(store: ObjectStore, open_stores: Open, model: str) -> None:
    path = f"{store.base}/{model}/1"
    assert open_stores().stamp(path) == ""
    store.upload(VERSION, f"{model}/1")
    before = open_stores().stamp(path)
    assert before == open_stores().stamp(path) != ""
    store.put(f"{model}/1/fingerprint.pb", b"longer than it was before" * 10)
    assert open_stores().stamp(path) not in ("", before)


def test_changed_content_is_another_copy(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.upload(VERSION, f"{model}/1")
    first = open_stores().bring(f"{store.base}/{model}/1")
    store.put(f"{model}/1/fingerprint.pb", b"new")
    second = open_stores().bring(f"{store.base}/{model}/1")
    assert contents(second.folder)["fingerprint.pb"] == b"new"
    assert contents(first.folder) == contents(VERSION)


def test_what_is_missing_is_not_found(store: ObjectStore, open_stores: Open, model: str) -> None:
    stores = open_stores()
    with pytest.raises(NotFoundError, match=f"{store.base}/{model}/1"):
        stores.bring(f"{store.base}/{model}/1")
    with pytest.raises(OSError, match=f"NOT_FOUND: {store.base}/{model}"):
        stores.folders(f"{store.base}/{model}")


def test_a_version_that_is_a_file_is_not_found(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.put(f"{model}/7", b"a file")
    with pytest.raises(NotFoundError):
        open_stores().bring(f"{store.base}/{model}/7")


def test_names_that_lead_elsewhere_are_refused(store: ObjectStore, open_stores: Open, model: str) -> None:
    store.upload(VERSION, f"{model}/1")
    store.put(f"{model}/1/assets/a\\b", b"")
    if store.base.startswith("az:"):
        pytest.skip("Azure takes a backslash for a slash")
    with pytest.raises(InvalidArgumentError, match="cannot be a file of a version"):
        open_stores().bring(f"{store.base}/{model}/1")


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_server_that_is_gone_is_unavailable(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(kind, tmp_path) as store:
        store.use(monkeypatch)
        store.upload(VERSION, "m/1")
        stores = Stores(StorageOptions(str(tmp_path / "cache"), settle_s=0.0, remote_period_s=0.0))
        assert stores.folders(f"{store.base}/m") == ("1",)
        stamp = stores.stamp(f"{store.base}/m/1")
        store.stop()
        with pytest.raises(ServableError, match=f"{store.base}/m/1") as caught:
            stores.bring(f"{store.base}/m/1")
        assert caught.value.code == "UNAVAILABLE"

        def is_noticed() -> bool:
            try:
                stores.folders(f"{store.base}/m")
            except OSError as error:
                return str(error).startswith(f"UNAVAILABLE: {store.base}/m")
            return False

        wait_until(is_noticed, "the listing fails")
        assert stores.stamp(f"{store.base}/m/1") == stamp
