from __future__ import annotations

from collections.abc import Collection

import pytest
from servable.config.model_config import All, Latest, ModelConfig
from servable.errors import InvalidArgumentError
from servable.models.difference import Change, Difference, Present, Server, differences

A = ModelConfig("a", "/a")


def folders(path: str) -> list[str]:
    if path == "/far":
        raise FileNotFoundError(path)
    return ["1", "2", "3"]


def compare(present: list[Present], *wanted: ModelConfig, removed: Collection[str] = ()) -> list[Difference]:
    return differences(Server(present, removed), wanted, folders)


def test_the_same_list_changes_nothing() -> None:
    assert compare([Present(A, is_added=False, available=[3])], A) == []


def test_models_come_and_go_with_their_versions() -> None:
    added, removed = compare([Present(ModelConfig("b", "/b"), is_added=False, available=[3, 2])], A)
    assert (added.name, added.change, added.loads) == ("a", Change.ADDED, (3,))
    assert added.fields["base_path"] == (None, "/a")
    assert removed == Difference("b", Change.REMOVED, unloads=(2, 3))


def test_fields_change() -> None:
    (changed,) = compare([Present(A, is_added=False, available=[3])], ModelConfig("a", "/a", policy=Latest(2)))
    assert changed.change is Change.CHANGED
    assert changed.fields == {"model_version_policy": (None, {"latest": {"num_versions": 2}})}
    assert (changed.loads, changed.unloads) == ((2,), ())
    (changed,) = compare([Present(ModelConfig("a", "/a", policy=All()), is_added=False, available=[1, 2, 3])], A)
    assert (changed.loads, changed.unloads) == ((), (1, 2))


def test_what_the_admin_port_added_is_kept() -> None:
    assert compare([Present(A, is_added=True)]) == [Difference("a", Change.KEPT)]
    assert compare([Present(A, is_added=True)], A) == []
    (kept,) = compare([Present(A, is_added=True)], ModelConfig("a", "/other"))
    assert (kept.change, kept.fields) == (Change.KEPT, {"base_path": ("/a", "/other")})


def test_a_folder_that_is_elsewhere_leaves_versions_open() -> None:
    (added,) = compare([], ModelConfig("a", "/far"))
    assert added.loads == ()


def test_what_the_admin_port_removed_stays_away() -> None:
    assert compare([], A, removed=["a"]) == [Difference("a", Change.KEPT_OUT)]
    assert compare([], removed=["a"]) == []
    (added,) = compare([], A, removed=["b"])
    assert added.change is Change.ADDED


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([A, A], "Illegal to list model a multiple times in config list"),
        ([ModelConfig("a", "/a", "own")], "Illegal to change a model's platform"),
        ([ModelConfig("b", "/b", "tensorfow")], "Model b requests unsupported platform tensorfow"),
        ([ModelConfig("b", "b")], "Expected model b to have an absolute path or URI"),
    ],
    ids=["twice", "other platform", "unknown platform", "relative path"],
)
def test_a_list_that_the_server_would_refuse_has_no_differences(wanted: list[ModelConfig], message: str) -> None:
    present = [Present(A, is_added=False), Present(ModelConfig("c", "/c", "own"), is_added=False)]
    with pytest.raises(InvalidArgumentError, match=message):
        compare(present, *wanted)


def test_a_platform_of_the_server_may_be_named() -> None:
    present = [Present(ModelConfig("c", "/c", "own"), is_added=True)]
    (kept, added) = compare(present, ModelConfig("c", "/c"), ModelConfig("d", "/d", "own"))
    assert (kept.change, added.change) == (Change.KEPT, Change.ADDED), "the platform of what is kept does not change"
