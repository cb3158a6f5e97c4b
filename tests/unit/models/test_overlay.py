from __future__ import annotations

import json
from typing import Any

import pytest
from servable.config.model_config import All, ModelConfig, Specific, Transition
from servable.models.overlay import Overlay, overlay_from_json

A, B, C = ModelConfig("a", "/a"), ModelConfig("b", "/b", labels={"old": 1}), ModelConfig("c", "/c")
OTHER = ModelConfig("a", "/other")
FULL = ModelConfig(
    "f",
    "/f",
    policy=Specific((1, 2)),
    labels={"stable": 1},
    transition=Transition.RESOURCE_PRESERVING,
    lazy=False,
    pinned=True,
    logging={},
)


@pytest.mark.parametrize(
    ("overlay", "models"),
    [
        (Overlay(), (A, B)),
        (Overlay().with_model(C), (A, B, C)),
        (Overlay().with_model(OTHER), (OTHER, B)),
        (Overlay().with_model(OTHER).with_model(A), (A, B)),
        (Overlay().without_model("a", "ab"), (B,)),
        (Overlay().without_model("a", "ab").with_model(OTHER), (B, OTHER)),
        (Overlay().with_model(C).without_model("c", "ab"), (A, B)),
        (Overlay().with_label("b", "new", 2), (A, ModelConfig("b", "/b", labels={"old": 1, "new": 2}))),
        (Overlay().with_label("b", "old", None), (A, ModelConfig("b", "/b"))),
        (Overlay().with_label("b", "new", 2).with_model(B), (A, B)),  # an entry is whole
        (Overlay().with_model(C).with_label("c", "x", 1), (A, B, ModelConfig("c", "/c", labels={"x": 1}))),
    ],
)
def test_changes_lie_over_the_list(overlay: Overlay, models: tuple[ModelConfig, ...]) -> None:
    assert sorted(overlay.over((A, B)), key=lambda model: model.name) == sorted(models, key=lambda model: model.name)


def test_a_model_that_was_only_added_may_be_listed_later() -> None:
    assert Overlay().with_model(C).without_model("c", "ab").over((A, C)) == (A, C)


def test_what_is_removed_stays_so_whatever_the_list_becomes() -> None:
    overlay = Overlay().without_model("a", "a")
    assert overlay.over(()) == ()
    assert overlay.over((OTHER, B)) == (B,)


@pytest.mark.parametrize(
    "overlay",
    [
        Overlay(),
        Overlay().with_model(FULL).with_model(ModelConfig("all", "/all", policy=All())).without_model("a", "a"),
        Overlay().with_label("a", "x", 1).with_label("a", "y", None),
    ],
)
def test_an_overlay_survives_json(overlay: Overlay) -> None:
    assert overlay_from_json(json.loads(json.dumps(overlay.to_json()))) == overlay


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"models": [], "removed": []},
        {"models": 1, "removed": [], "labels": {}},
        {"models": [1], "removed": [], "labels": {}},
        {"models": [], "removed": [1], "labels": {}},
        {"models": [], "removed": [], "labels": {"a": {"x": "1"}}},
        {"models": [], "removed": [], "labels": []},
    ],
)
def test_other_json_is_no_overlay(fields: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        overlay_from_json(fields)
