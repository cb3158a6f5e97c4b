from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from servable.errors import IncompleteError, ServableError
from servable.storage.local import LocalStore, walk

from tests.e2e.server import MODELS
from tests.unit.fakes import FakeClock

NOW = 1_000_000.0


class Listed:
    """A local store with clocks of our own, and how often it has listed a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.store = LocalStore(clock=self.clock)
        self.count = 0
        monkeypatch.setattr(os, "listdir", self._listdir)

    def _listdir(self, path: str) -> list[str]:
        self.count += 1
        with os.scandir(path) as entries:
            return [entry.name for entry in entries]

    def at(self, seconds: float, path: Path) -> list[str]:
        self.clock.now = seconds
        return sorted(self.store.folders(str(path)))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Listed:
    return Listed(monkeypatch)


def test_everything_in_a_base_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").touch()
    (tmp_path / "3").symlink_to(tmp_path / "1")
    for base_path in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        assert sorted(LocalStore().folders(base_path)) == ["1", "2", "3"]


def test_an_unchanged_folder_is_listed_again_only_until_its_time_is_a_tick_old(listed: Listed, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    assert [listed.at(second, tmp_path) for second in (0, 1, 2, 3, 4, 5)] == [["1"]] * 6
    assert listed.count == 4


def test_a_change_is_seen_at_once(listed: Listed, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    assert [listed.at(second, tmp_path) for second in range(6)] == [["1"]] * 6
    (tmp_path / "2").mkdir()
    assert listed.at(6, tmp_path) == ["1", "2"]
    (tmp_path / "1").rmdir()
    assert listed.at(7, tmp_path) == ["2"]


def test_a_change_that_leaves_the_folders_time_alone_is_seen_while_the_time_is_young(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = os.stat(tmp_path)
    monkeypatch.setattr(os, "stat", lambda path: fixed)
    assert listed.at(0, tmp_path) == []
    (tmp_path / "1").mkdir()
    assert listed.at(1, tmp_path) == ["1"]


def test_a_folder_whose_time_never_changes_is_listed_now_and_then(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = os.stat(tmp_path)
    monkeypatch.setattr(os, "stat", lambda path: fixed)
    for second in (0, 3, 6):
        assert listed.at(second, tmp_path) == []
    (tmp_path / "1").mkdir()
    assert listed.at(9, tmp_path) == []
    assert listed.at(13, tmp_path) == ["1"]


def test_a_tool_that_sets_the_old_time_again_hides_nothing(listed: Listed, tmp_path: Path) -> None:
    os.utime(tmp_path, (1, 1))
    assert [listed.at(second, tmp_path) for second in (0, 3, 4)] == [[]] * 3
    (tmp_path / "1").mkdir()
    os.utime(tmp_path, (1, 1))
    assert listed.at(5, tmp_path) == ["1"]


def test_a_base_path_that_is_replaced_is_listed_anew(listed: Listed, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / f"{len(name)}{ord(name)}").mkdir(parents=True)
        os.utime(tmp_path / name, (1, 1))
    base = tmp_path / "base"
    base.symlink_to("a")
    for second in (0, 3, 4):
        assert listed.at(second, base) == ["197"]
    base.unlink()
    base.symlink_to("b")
    assert listed.at(5, base) == ["198"]


def test_a_missing_base_path_is_an_error_every_time(listed: Listed, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert listed.at(0, base) == []
    base.rmdir()
    for second in (1, 2):
        with pytest.raises(FileNotFoundError):
            listed.at(second, base)


class Settled:
    """A version folder, and a store that looks at it with clocks of our own."""

    def __init__(self, folder: Path, *, settle_s: float = 1.0, marker_file: str | None = None) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.clock = FakeClock()
        self.wall = FakeClock()
        self.wall.now = NOW
        self.store = LocalStore(settle_s=settle_s, marker_file=marker_file, clock=self.clock, now=self.wall)

    def write(self, name: str, size: int = 1, *, age_s: float) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x" * size)
        self.age(age_s)

    def age(self, age_s: float) -> None:
        """Everything in the folder was written so long ago."""
        for path in [*self.folder.rglob("*"), self.folder]:
            os.utime(path, (NOW - age_s, NOW - age_s))

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds

    def is_complete(self) -> bool:
        try:
            return self.store.bring(str(self.folder)).folder == str(self.folder)
        except IncompleteError:
            return False


def test_an_old_version_is_taken_at_once(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", 10, age_s=5)
    version.write("assets/words", 3, age_s=5)
    brought = version.store.bring(str(version.folder))
    assert (brought.folder, brought.size_bytes) == (str(version.folder), 13)
    brought.release()
    brought.release()


def test_an_old_folder_that_is_renamed_into_place_is_taken_at_once(tmp_path: Path) -> None:
    version = Settled(tmp_path / "incoming")
    version.write("saved_model.pb", age_s=5)
    version.folder = version.folder.rename(tmp_path / "1")
    assert version.is_complete()


def test_a_folder_that_is_being_copied_is_waited_for(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", age_s=0)
    with pytest.raises(IncompleteError, match="is still changing") as caught:
        version.store.bring(str(version.folder))
    assert (caught.value.code, caught.value.retry_after_s) == ("UNAVAILABLE", 0.5)
    version.pass_time(0.9)
    assert not version.is_complete()
    version.write("assets/words", age_s=-0.9)
    version.pass_time(0.9)
    assert not version.is_complete()
    version.pass_time(0.2)
    assert version.is_complete()


def test_a_file_without_a_new_time_is_noticed_by_its_folder(tmp_path: Path) -> None:
    """Tools that copy times along, such as `cp -a`, set those of folders when they have filled them."""
    version = Settled(tmp_path / "1")
    version.write("variables/variables.index", age_s=1000)
    os.utime(version.folder / "variables", (NOW, NOW))
    assert not version.is_complete()


def test_times_from_a_clock_that_is_ahead_do_not_matter(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", age_s=-3600)
    assert not version.is_complete()
    version.pass_time(1)
    assert version.is_complete()


def test_a_folder_that_always_changes_is_taken_after_a_minute_if_it_holds_a_model(tmp_path: Path) -> None:
    with_model, without = Settled(tmp_path / "1"), Settled(tmp_path / "2")
    with_model.write("saved_model.pb", age_s=0)
    for half_second in range(121):
        for version in (with_model, without):
            version.write("log", half_second, age_s=-half_second / 2)
            assert version.is_complete() == (version is with_model and half_second == 120)
            version.pass_time(0.5)


def test_a_model_without_all_its_shards_is_waited_for(tmp_path: Path) -> None:
    """A copy may stall between two files for longer than it takes to settle."""
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", age_s=2)
    version.write("variables/variables.data-00000-of-00002", age_s=2)
    with pytest.raises(IncompleteError, match=r"has no variables/variables\.data-00001-of-00002 yet"):
        version.store.bring(str(version.folder))
    version.write("variables/variables.data-00001-of-00002", age_s=2)
    with pytest.raises(IncompleteError, match=r"has no variables/variables\.index yet"):
        version.store.bring(str(version.folder))
    version.write("variables/variables.index", age_s=2)
    assert version.is_complete()


def test_a_model_whose_graph_has_variables_is_waited_for_until_they_come(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    shutil.copytree(MODELS / "counter" / "1", version.folder, dirs_exist_ok=True)
    (version.folder / "variables").rename(tmp_path / "variables")
    version.age(2)
    with pytest.raises(IncompleteError, match=r"has no variables/variables\.index yet"):
        version.store.bring(str(version.folder))
    (tmp_path / "variables").rename(version.folder / "variables")
    version.age(2)
    assert version.is_complete()


def test_a_model_without_variables_is_taken_at_once(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    shutil.copytree(MODELS / "odd" / "1", version.folder, dirs_exist_ok=True)
    (version.folder / "variables").mkdir()  # as TensorFlow 1 leaves it
    version.age(2)
    assert version.is_complete()


def test_an_odd_folder_is_taken_when_it_has_stood_still_for_a_minute(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", age_s=0)
    version.write("variables/variables.index", age_s=0)
    version.pass_time(50)
    assert not version.is_complete()
    version.write("log", age_s=-50)
    version.pass_time(50)
    assert not version.is_complete()
    version.pass_time(10)
    assert version.is_complete()


def test_a_copy_that_takes_longer_than_a_minute_is_waited_for(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", age_s=0)
    for second in range(200):
        version.write("variables/variables.data-00000-of-00001", second, age_s=-second)
        assert not version.is_complete()
        version.pass_time(1)


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, "PERMISSION_DENIED"), (errno.ESTALE, "UNAVAILABLE")])
def test_a_folder_that_cannot_be_read_is_not_complete(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Settled(tmp_path / "1")
    version.write("saved_model.pb", age_s=5)
    version.write("variables/variables.index", age_s=5)
    version.write("variables/variables.data-00000-of-00001", age_s=5)
    scan = os.scandir

    def failing(path: str) -> object:
        if path.endswith("variables"):
            raise OSError(number, os.strerror(number), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(ServableError, match=f"variables; {os.strerror(number)}") as caught:
        version.store.bring(str(version.folder))
    assert caught.value.code == code
    monkeypatch.undo()
    assert version.is_complete()


def test_without_settling_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1", settle_s=0)
    version.write("saved_model.pb", age_s=0)
    assert version.is_complete()


def test_a_marker_is_all_that_counts_where_one_is_required(tmp_path: Path) -> None:
    version = Settled(tmp_path / "1", marker_file="DONE")
    version.write("saved_model.pb", age_s=5000)
    assert not version.is_complete()
    version.write("DONE", age_s=0)
    assert version.is_complete()


@pytest.mark.parametrize("path", ["missing", "7", "missing/7", "7/1"])
def test_what_is_no_folder_is_left_to_the_platform(path: str, tmp_path: Path) -> None:
    (tmp_path / "7").touch()
    store = LocalStore(marker_file="DONE")
    assert store.bring(str(tmp_path / path)).folder == str(tmp_path / path)
    assert store.stamp(str(tmp_path / path)) == ""


def test_a_stamp_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"abc")
    (folder / "variables" / "a").write_bytes(b"abc")
    store = LocalStore()
    stamps = [store.stamp(str(folder)), store.stamp(f"file://{folder}")]
    assert stamps[0] == stamps[1] != ""
    (folder / "variables" / "b").touch()
    stamps.append(store.stamp(str(folder)))
    (folder / "variables" / "b").write_bytes(b"x")
    stamps.append(store.stamp(str(folder)))
    os.utime(folder / "saved_model.pb", (1, 1))
    stamps.append(store.stamp(str(folder)))
    (folder / "variables" / "b").unlink()
    stamps.append(store.stamp(str(folder)))
    shutil.rmtree(folder)
    stamps.append(store.stamp(str(folder)))
    assert len(set(stamps)) == 6
    assert stamps[-1] == ""


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "weights").write_bytes(b"12345")
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "variables").symlink_to(tmp_path / "real")
    (folder / "again").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    tree = walk(str(folder))
    assert tree.names == {"variables/weights"}
    assert tree.size_bytes == 5
