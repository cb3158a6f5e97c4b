from __future__ import annotations

import pytest
from servable.config.model_config import Transition
from servable.models.policy import Action, Load, Unload, VersionSnapshot, next_action
from servable.types import State

NEW, LOADING, READY, UNLOADING, END = State.START, State.LOADING, State.AVAILABLE, State.UNLOADING, State.END


@pytest.mark.parametrize(
    ("aspired", "others", "action"),
    [
        ({}, {}, None),
        ({1: NEW}, {}, Load(1)),
        ({1: NEW, 2: NEW}, {}, Load(2)),
        ({1: NEW, 2: LOADING}, {}, Load(1)),
        ({1: READY}, {}, None),
        ({2: NEW}, {1: READY}, Load(2)),
        ({2: LOADING}, {1: READY}, None),
        ({2: READY}, {1: READY}, Unload(1)),
        ({2: READY}, {1: UNLOADING}, None),
        ({3: NEW}, {1: READY, 2: READY}, Unload(1)),
        ({3: NEW}, {1: UNLOADING, 2: READY}, Load(3)),
        ({43: READY, 44: NEW}, {42: READY}, Unload(42)),
        ({43: READY, 44: NEW}, {42: UNLOADING}, Load(44)),
        ({2: END}, {1: READY}, None),
        ({2: END}, {1: LOADING}, None),
        ({}, {1: READY, 2: READY}, Unload(1)),
        ({}, {1: UNLOADING, 2: READY}, Unload(2)),
        ({}, {1: LOADING}, None),
        ({1: NEW}, {2: READY}, Load(1)),
    ],
)
def test_next_action(aspired: dict[int, State], others: dict[int, State], action: Action | None) -> None:
    snapshots = [VersionSnapshot(version, state, True) for version, state in aspired.items()]
    snapshots += [VersionSnapshot(version, state, False) for version, state in others.items()]
    assert next_action(snapshots) == action
    assert next_action(snapshots[::-1]) == action


@pytest.mark.parametrize(
    ("aspired", "others", "action"),
    [
        ({}, {}, None),
        ({1: NEW}, {}, Load(1)),
        ({1: NEW, 2: NEW}, {}, Load(2)),
        ({1: READY}, {}, None),
        ({2: NEW}, {1: READY}, Load(2)),
        ({2: LOADING}, {1: READY}, None),
        ({2: END}, {1: READY}, None),
        ({2: NEW}, {1: UNLOADING}, Load(2)),
        ({2: NEW}, {1: END}, Load(2)),
        ({2: READY}, {1: READY}, Unload(1)),
        ({43: READY, 44: NEW}, {42: READY}, Unload(42)),
        ({}, {1: READY}, Unload(1)),
    ],
)
def test_next_action_that_preserves_resources(
    aspired: dict[int, State], others: dict[int, State], action: Action | None
) -> None:
    snapshots = [VersionSnapshot(version, state, True) for version, state in aspired.items()]
    snapshots += [VersionSnapshot(version, state, False) for version, state in others.items()]
    assert next_action(snapshots, Transition.RESOURCE_PRESERVING) == action
    assert next_action(snapshots[::-1], Transition.RESOURCE_PRESERVING) == action


def test_resources_are_given_back_when_what_replaces_them_can_be_loaded() -> None:
    old = VersionSnapshot(1, READY, False)
    for is_granted, action in ((False, None), (True, Unload(1))):
        new = VersionSnapshot(2, LOADING, True, is_granted=is_granted)
        assert next_action([old, new], Transition.RESOURCE_PRESERVING) == action


@pytest.mark.parametrize(
    ("snapshots", "action"),
    [
        ([VersionSnapshot(1, NEW, True, asked_for=False)], None),
        ([VersionSnapshot(1, NEW, True, asked_for=True), VersionSnapshot(2, NEW, True, asked_for=False)], Load(1)),
        ([VersionSnapshot(2, NEW, True, asked_for=False), VersionSnapshot(1, READY, False, asked_for=True)], Load(2)),
        ([VersionSnapshot(2, NEW, True, asked_for=False), VersionSnapshot(1, READY, True, asked_for=True)], None),
    ],
)
def test_what_is_loaded_on_demand_has_to_be_asked_for(snapshots: list[VersionSnapshot], action: Action | None) -> None:
    assert next_action(snapshots) == action
