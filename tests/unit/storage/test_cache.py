"""The cache, from threads and from processes of its own."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from servable.errors import IncompleteError, ServableError
from servable.storage.base import Brought
from servable.storage.cache import Cache, Order, Space, excess_bytes

from tests.e2e.server import wait_until

ROOMY = Space(free_bytes=10**12, total_bytes=10**12)
SPAWN = multiprocessing.get_context("spawn")


def order(name: str, size: int = 10, fingerprint: str = "f") -> Order:
    return Order(f"s3://bucket/m/{name}", fingerprint, {"saved_model.pb": size, "variables/a": 0})


def write(folder: str, wanted: Order) -> Mapping[str, str]:
    """What a download does."""
    for name, size in wanted.sizes.items():
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    return dict.fromkeys(wanted.sizes, "sha")


class Downloads:
    """Downloads that are counted."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, wanted: Order) -> Callable[[str], Mapping[str, str]]:
        def download(folder: str) -> Mapping[str, str]:
            self.count += 1
            return write(folder, wanted)

        return download


def cache(folder: Path, limit_bytes: int | None = None, space: Space = ROOMY, wait_s: float = 30.0) -> Cache:
    return Cache(str(folder / "cache"), limit_bytes, space=lambda path: space, wait_s=wait_s)


def fetch(from_cache: Cache, name: str, size: int = 10) -> Brought:
    wanted = order(name, size)
    return from_cache.fetch(wanted, lambda folder: write(folder, wanted))


def kept(folder: Path) -> list[str]:
    """The names of the versions of which there are whole copies."""
    manifests = (folder / "cache").glob("*/manifest.json")
    return sorted(json.loads(path.read_text())["uri"].rpartition("/")[2] for path in manifests)


def used_at(brought: Brought, seconds: float) -> None:
    os.utime(Path(brought.folder).parent / "manifest.json", (seconds, seconds))


@pytest.mark.parametrize(
    ("needed", "used", "limit", "free", "expected"),
    [
        (10, 0, 100, 0, -90),
        (10, 90, 100, 0, 0),
        (10, 95, 100, 0, 5),
        (200, 0, 100, 0, 100),
        (10, 500, None, 1000, -890),
        (10, 500, None, 110, 0),
        (10, 500, None, 50, 60),
    ],
)
def test_how_much_has_to_go(needed: int, used: int, limit: int | None, free: int, expected: int) -> None:
    assert excess_bytes(needed, used, limit, Space(free, 1000)) == expected


def test_a_copy_is_made_once(tmp_path: Path) -> None:
    downloads, wanted = Downloads(), order("1")
    for one in (cache(tmp_path), cache(tmp_path)):
        brought = one.fetch(wanted, downloads.of(wanted))
        assert brought.size_bytes == 10
        assert sorted(str(path.relative_to(brought.folder)) for path in Path(brought.folder).rglob("*")) == [
            "saved_model.pb",
            "variables",
            "variables/a",
        ]
    assert downloads.count == 1
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    manifest = json.loads((Path(brought.folder).parent / "manifest.json").read_text())
    assert manifest == {
        "uri": "s3://bucket/m/1",
        "size_bytes": 10,
        "files": [
            {"name": "saved_model.pb", "size": 10, "sha256": "sha"},
            {"name": "variables/a", "size": 0, "sha256": "sha"},
        ],
    }
    assert sorted(path.name for path in Path(brought.folder).parent.iterdir()) == ["lock", "manifest.json", "model"]


def test_another_listing_is_another_copy(tmp_path: Path) -> None:
    one = cache(tmp_path)
    folders = set()
    for fingerprint in ("f", "g"):
        wanted = order("1", fingerprint=fingerprint)
        folders.add(one.fetch(wanted, Downloads().of(wanted)).folder)
    assert len(folders) == 2


def damage(folder: Path, how: str) -> None:
    file = folder / "saved_model.pb"
    if how == "truncated":
        file.write_bytes(b"xxx")
    elif how == "missing":
        file.unlink()
    elif how == "extra":
        (folder / "extra").touch()
    elif how == "link":
        file.unlink()
        file.symlink_to("/etc/hostname")
    else:
        (folder.parent / "manifest.json").write_text(how)


@pytest.mark.parametrize("how", ["truncated", "missing", "extra", "link", "{", "[]", "{}"])
def test_a_damaged_copy_is_made_anew(how: str, tmp_path: Path) -> None:
    downloads, wanted, one = Downloads(), order("1"), cache(tmp_path)
    brought = one.fetch(wanted, downloads.of(wanted))
    brought.release()
    damage(Path(brought.folder), how)
    again = one.fetch(wanted, downloads.of(wanted))
    assert downloads.count == 2
    assert Path(again.folder, "saved_model.pb").read_bytes() == b"x" * 10


def test_a_damaged_copy_that_is_in_use_stays_and_another_one_is_made(tmp_path: Path) -> None:
    one = cache(tmp_path)
    brought = fetch(one, "1")
    damage(Path(brought.folder), "truncated")
    again = fetch(one, "1")
    assert again.folder != brought.folder
    assert Path(again.folder, "saved_model.pb").read_bytes() == b"x" * 10
    assert Path(brought.folder, "saved_model.pb").read_bytes() == b"xxx"


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    one = cache(tmp_path, limit_bytes=30)
    for name, seconds in (("1", 300), ("2", 100), ("3", 200)):
        brought = fetch(one, name)
        brought.release()
        used_at(brought, seconds)
    fetch(one, "4")
    assert kept(tmp_path) == ["1", "3", "4"]
    fetch(one, "5", size=20)
    assert kept(tmp_path) == ["4", "5"]


def test_to_use_a_copy_makes_it_young(tmp_path: Path) -> None:
    one = cache(tmp_path, limit_bytes=20)
    for name in ("1", "2"):
        brought = fetch(one, name)
        brought.release()
        used_at(brought, float(name))
    fetch(one, "1").release()
    fetch(one, "3")
    assert kept(tmp_path) == ["1", "3"]


def test_what_is_in_use_never_goes(tmp_path: Path) -> None:
    first, second = cache(tmp_path, limit_bytes=20), cache(tmp_path, limit_bytes=20)
    pinned = fetch(first, "1")
    used_at(pinned, 1)
    twice = fetch(second, "1")
    fetch(first, "2").release()
    fetch(second, "3").release()
    assert kept(tmp_path) == ["1", "3"]
    with pytest.raises(ServableError) as caught:
        fetch(second, "4", size=15)
    assert caught.value.status == (
        f"RESOURCE_EXHAUSTED: s3://bucket/m/4 takes 15 bytes; the copies in {tmp_path / 'cache'} may take 20 together "
        "(--model_cache_bytes), of which 10 are in use"
    )
    assert kept(tmp_path) == ["1", "3"], "nothing is removed in vain"
    pinned.release()
    pinned.release()
    with pytest.raises(ServableError):
        fetch(second, "4", size=15)
    twice.release()
    fetch(second, "4", size=15)
    assert kept(tmp_path) == ["4"]


def test_what_is_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServableError, match="takes 21 bytes") as caught:
        fetch(cache(tmp_path, limit_bytes=20), "1", size=21)
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_without_a_limit_a_tenth_of_the_disk_stays_free_as_far_as_copies_can_help(tmp_path: Path) -> None:
    one = cache(tmp_path, space=Space(free_bytes=105, total_bytes=1000))
    fetch(one, "1").release()
    fetch(one, "2").release()
    assert kept(tmp_path) == ["2"]


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "cache" / "ranker" / "model"
    other.mkdir(parents=True)
    fetch(cache(tmp_path, limit_bytes=20), "1")
    assert other.exists()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_full_disk_costs_the_copies_that_nobody_uses(failures: int, tmp_path: Path) -> None:
    one, wanted = cache(tmp_path), order("4")
    fetch(one, "1").release()
    pinned = fetch(one, "2")
    attempts = 0

    def download(folder: str) -> Mapping[str, str]:
        nonlocal attempts
        attempts += 1
        assert list(Path(folder).iterdir()) == []
        Path(folder, "half").touch()
        if attempts <= failures:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Path(folder, "half").unlink()
        return write(folder, wanted)

    if failures == 1:
        one.fetch(wanted, download)
        assert kept(tmp_path) == ["2", "4"]
    else:
        with pytest.raises(ServableError, match=f"takes 10 bytes; the disk of {tmp_path}/cache has") as caught:
            one.fetch(wanted, download)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert kept(tmp_path) == ["2"]
        assert not list((tmp_path / "cache").glob("*/incoming"))
    assert attempts == 2
    assert Path(pinned.folder).exists()


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def download(folder: str) -> Mapping[str, str]:
        Path(folder, "half").touch()
        raise ServableError("the store has gone", code="UNAVAILABLE")

    with pytest.raises(ServableError, match="the store has gone"):
        cache(tmp_path).fetch(order("1"), download)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_what_is_not_what_was_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServableError, match="was announced") as caught:
        cache(tmp_path).fetch(order("1", size=10), lambda folder: write(folder, order("1", size=9)))
    assert caught.value.code == "UNAVAILABLE"
    assert kept(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ServableError, match=f"s3://bucket/m/1 cannot be kept in {tmp_path}/cache"):
        fetch(cache(tmp_path), "1")


def test_many_threads_make_one_copy(tmp_path: Path) -> None:
    downloads, wanted = Downloads(), order("1")
    caches = [cache(tmp_path) for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        brought = list(pool.map(lambda index: caches[index % 3].fetch(wanted, downloads.of(wanted)), range(12)))
    assert downloads.count == 1
    assert len({one.folder for one in brought}) == 1
    for one in brought:
        one.release()


def test_a_download_that_takes_long_is_waited_for_no_longer_than_that(tmp_path: Path) -> None:
    wanted, begun, go_on = order("1"), threading.Event(), threading.Event()

    def download(folder: str) -> Mapping[str, str]:
        begun.set()
        go_on.wait()
        return write(folder, wanted)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache(tmp_path).fetch, wanted, download)
        begun.wait()
        with pytest.raises(IncompleteError, match="being downloaded by another server"):
            cache(tmp_path, wait_s=0.1).fetch(wanted, download)
        go_on.set()
        assert slow.result().folder == cache(tmp_path).fetch(wanted, download).folder


def test_downloads_that_run_count(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def download(folder: str) -> Mapping[str, str]:
        begun.set()
        go_on.wait()
        return write(folder, order("1"))

    one = cache(tmp_path, limit_bytes=15)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.fetch, order("1"), download)
        begun.wait()
        with pytest.raises(ServableError, match="of which 10 are in use"):
            fetch(cache(tmp_path, limit_bytes=15), "2")
        go_on.set()
        slow.result()
    assert kept(tmp_path) == ["1"]


def _fetch_and_report(folder: Path, names: list[str], downloaded: str) -> None:
    """In a process of its own: fetch versions, and note each download in a file."""
    one = cache(folder, limit_bytes=35)
    for name in names:
        wanted = order(name)

        def download(into: str, wanted: Order = wanted, name: str = name) -> Mapping[str, str]:
            with open(downloaded, "a", encoding="utf-8") as file:
                file.write(f"{name}\n")
            return write(into, wanted)

        brought = one.fetch(wanted, download)
        assert Path(brought.folder, "saved_model.pb").read_bytes() == b"x" * 10
        brought.release()


def test_processes_share_copies(tmp_path: Path) -> None:
    downloaded = tmp_path / "downloaded"
    processes = [
        SPAWN.Process(target=_fetch_and_report, args=(tmp_path, ["1", "2", "3"], str(downloaded))) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(downloaded.read_text().split()) == ["1", "2", "3"]


def test_processes_that_crowd_one_another_out_get_whole_copies_nevertheless(tmp_path: Path) -> None:
    names = ["1", "2", "3", "4", "5", "6"]
    turns = [names, names[::-1], names[3:] + names[:3]]
    processes = [
        SPAWN.Process(target=_fetch_and_report, args=(tmp_path, turn * 5, str(tmp_path / "n"))) for turn in turns
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(kept(tmp_path)) <= 3


def _download_for_ever(folder: Path, begun: Event) -> None:
    def download(into: str) -> Mapping[str, str]:
        Path(into, "half").write_bytes(b"x" * 1000)
        begun.set()
        signal.pause()
        return {}

    cache(folder).fetch(order("1"), download)


def _hold(folder: Path, begun: Event) -> None:
    pinned = fetch(cache(folder), "1")
    begun.set()
    signal.pause()
    pinned.release()


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_server_that_is_killed_while_it_downloads_leaves_nothing_for_long(version: str, tmp_path: Path) -> None:
    begun = SPAWN.Event()
    process = SPAWN.Process(target=_download_for_ever, args=(tmp_path, begun))
    process.start()
    begun.wait()
    with pytest.raises(IncompleteError):
        cache(tmp_path, wait_s=0).fetch(order("1"), lambda folder: {})
    process.kill()
    process.join()
    (half,) = (tmp_path / "cache").glob("*/incoming/half")
    (half.parents[1] / "manifest.json.new").touch()
    fetch(cache(tmp_path), version)
    assert kept(tmp_path) == [version]
    assert len(list((tmp_path / "cache").iterdir())) == 2, "the copy, and the lock"


def test_what_another_server_uses_stays_until_that_server_has_gone(tmp_path: Path) -> None:
    begun = SPAWN.Event()
    process = SPAWN.Process(target=_hold, args=(tmp_path, begun))
    process.start()
    begun.wait()
    with pytest.raises(ServableError, match="of which 10 are in use"):
        fetch(cache(tmp_path, limit_bytes=15), "2")
    process.kill()
    process.join()
    wait_until(lambda: process.exitcode is not None, "the server has gone")
    fetch(cache(tmp_path, limit_bytes=15), "2")
    assert kept(tmp_path) == ["2"]
