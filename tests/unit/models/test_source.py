from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from servable.config.batching import BatchingParameters
from servable.config.model_config import All, Latest, ModelConfig, Policy, Specific
from servable.errors import ServableError
from servable.models.source import Aspired, FileSystemSource, VersionFolder, aspired, versions_in

from tests.e2e.server import wait_until


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("123", 123),
        ("00000123", 123),
        ("20240131173521", 20240131173521),
        ("9223372036854775807", 2**63 - 1),
        ("0", 0),
        ("+5", 5),
        (" 5", 5),
        ("5 ", 5),
        ("-1", None),
        ("1.5", None),
        ("v3", None),
        ("5.denied", None),
        ("0x10", None),
        ("1e3", None),
        ("1_0", None),
        ("٣", None),
        ("", None),
        ("9223372036854775808", None),
    ],
)
def test_what_counts_as_a_version(name: str, version: int | None) -> None:
    assert versions_in([name]) == ([] if version is None else [VersionFolder(version, name)])


@pytest.mark.parametrize(
    ("policy", "children", "expected"),
    [
        (Latest(), ["1", "9", "10"], ["10"]),
        (Latest(2), ["1", "9", "10"], ["10", "9"]),
        (Latest(5), ["1", "9"], ["9", "1"]),
        (Latest(0), ["1", "9"], ["9"]),
        (Latest(), ["1", "001"], ["1"]),
        (Latest(), [], []),
        (All(), ["9", "10", "1"], ["1", "10", "9"]),
        (All(), ["1", "001"], ["1"]),
        (Specific((2, 1)), ["1", "2", "3"], ["2", "1"]),
        (Specific((2, 2)), ["2"], ["2"]),
        (Specific((7, 1)), ["1", "2"], ["1"]),
        (Specific(()), ["1"], []),
    ],
)
def test_what_a_policy_picks(policy: Policy, children: list[str], expected: list[str]) -> None:
    assert [folder.name for folder in aspired(policy, versions_in(children))] == expected


class Disk:
    """Folders by path, and what was announced about them."""

    def __init__(self, folders: dict[str, list[str]]) -> None:
        self.folders = folders
        self.announced: list[dict[str, list[int]]] = []
        self.source = FileSystemSource(self._announce, folders=self._children)

    def _announce(self, models: Mapping[str, Sequence[Aspired]]) -> None:
        self.announced.append({name: [goal.version for goal in goals] for name, goals in models.items()})

    def _children(self, path: str) -> list[str]:
        if path not in self.folders:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.folders[path]


A, B = ModelConfig("a", "/a"), ModelConfig("b", "/b")


def test_the_announcement_carries_path_and_platform() -> None:
    seen: dict[str, Sequence[Aspired]] = {}
    source = FileSystemSource(seen.update, folders=lambda path: ["007"])
    source.replace([A])
    assert seen == {"a": [Aspired(7, "/a/007", "tensorflow")]}


def test_the_announcement_carries_how_a_model_is_batched() -> None:
    seen: dict[str, Sequence[Aspired]] = {}
    source = FileSystemSource(seen.update, folders=lambda path: ["1"])
    batching = BatchingParameters(max_batch_size=8)
    source.replace([replace(A, batching=batching)])
    assert seen == {"a": [Aspired(1, "/a/1", batching=batching)]}
    source.replace([A])
    assert seen == {"a": [Aspired(1, "/a/1")]}


def test_a_missing_base_path_concerns_its_own_model_only() -> None:
    disk = Disk({"/b": ["1"]})
    disk.source.replace([A, B])
    assert disk.announced == [{"b": [1]}]


def test_a_base_path_without_versions_means_to_serve_nothing() -> None:
    disk = Disk({"/a": ["x"]})
    disk.source.replace([A])
    assert disk.announced == [{"a": []}]


def test_a_model_that_is_gone_is_let_go_at_once() -> None:
    disk = Disk({"/a": ["1"], "/b": ["1"]})
    disk.source.replace([A, B])
    disk.source.replace([B])
    disk.source.scan()
    assert disk.announced == [{"a": [1], "b": [1]}, {"a": [], "b": [1]}, {"b": [1]}]


def test_a_remark_is_made_once_while_nothing_changes(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk({})
    with caplog.at_level(logging.WARNING):
        disk.source.replace([A])
        disk.source.scan()
        disk.folders["/a"] = []
        disk.source.scan()
        disk.source.scan()
        del disk.folders["/a"]
        disk.source.scan()
    assert [record.getMessage()[:24] for record in caplog.records] == [
        "Could not find base path",
        "No versions of servable ",
        "Could not find base path",
    ]


def test_missing_and_doubled_versions_are_remarked(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk({"/a": ["1", "01"]})
    with caplog.at_level(logging.WARNING):
        disk.source.replace([ModelConfig("a", "/a", policy=Specific((1, 2)))])
    assert "Version 1 of servable a is there twice: '1' is used, '01' is not" in caplog.text
    assert "Version 2 of servable a, which was requested to be served as a 'specific' version" in caplog.text


def test_a_source_that_is_off_announces_nothing_but_goodbyes() -> None:
    announced: list[Mapping[str, Sequence[Aspired]]] = []
    source = FileSystemSource(announced.append, folders=lambda path: ["1"], enabled=False)
    source.replace([A])
    source.scan()
    source.replace([])
    assert announced == [{"a": ()}]


def test_a_store_that_fails_concerns_its_own_model_only(caplog: pytest.LogCaptureFixture) -> None:
    def folders(path: str) -> list[str]:
        if path == "/a":
            raise ServableError("down", code="UNAVAILABLE")
        return ["1"]

    announced: list[Mapping[str, Sequence[Aspired]]] = []
    with caplog.at_level(logging.WARNING):
        FileSystemSource(announced.append, folders=folders).replace([A, B])
    assert announced == [{"b": [Aspired(1, "/b/1")]}]
    assert "Could not find base path /a for servable a with error down" in caplog.text


def test_a_path_that_cannot_be_one_concerns_its_own_model_only(caplog: pytest.LogCaptureFixture) -> None:
    announced: list[Mapping[str, Sequence[Aspired]]] = []
    source = FileSystemSource(announced.append, folders=lambda path: os.listdir("\0") if path == "/a" else ["1"])
    source.replace([A, B])
    assert announced == [{"b": [Aspired(1, "/b/1")]}]
    assert "Could not find base path /a for servable a with error embedded null byte" in caplog.text


def test_a_base_path_that_hangs_concerns_its_own_model_only(caplog: pytest.LogCaptureFixture) -> None:
    back = threading.Event()

    def folders(path: str) -> list[str]:
        if path == "/a":
            back.wait()
        return ["1"]

    announced: list[Mapping[str, Sequence[Aspired]]] = []
    source = FileSystemSource(announced.append, folders=folders, patience_s=0.05)
    source.replace([A, B])
    source.scan()
    assert announced == [{"b": [Aspired(1, "/b/1")]}] * 2
    assert caplog.text.count("Could not find base path /a for servable a with error it does not answer") == 1
    back.set()

    def is_found() -> bool:
        source.scan()
        return "a" in announced[-1]

    wait_until(is_found, "the base path answers again")


def test_versions_of_a_store_keep_its_uri() -> None:
    seen: dict[str, Sequence[Aspired]] = {}
    source = FileSystemSource(seen.update, folders=lambda path: ["7"])
    source.replace([ModelConfig("a", "s3://bucket/a"), ModelConfig("b", "s3://bucket/b/")])
    assert [goal.path for goals in seen.values() for goal in goals] == ["s3://bucket/a/7", "s3://bucket/b/7"]


def test_the_same_listing_is_judged_anew_after_a_reload() -> None:
    children = ("1", "2")
    announced: list[Mapping[str, Sequence[Aspired]]] = []
    source = FileSystemSource(announced.append, folders=lambda path: children)
    source.replace([A])
    source.scan()
    source.replace([ModelConfig("a", "/a", policy=All())])
    assert [[goal.version for goal in models["a"]] for models in announced] == [[2], [2], [1, 2]]
