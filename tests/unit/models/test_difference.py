from __future__ import annotations

from servable.config.model_config import All, Latest, ModelConfig
from servable.models.difference import Change, Difference, Present, differences

A = ModelConfig("a", "/a")


def folders(path: str) -> list[str]:
    if path == "/far":
        raise FileNotFoundError(path)
    return ["1", "2", "3"]


def compare(present: list[Present], *wanted: ModelConfig) -> list[Difference]:
    return differences(present, wanted, folders)


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
