"""The order of loading and unloading: a model stays available while its versions change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servable.types import State

__all__ = ["Action", "Load", "Unload", "VersionSnapshot", "next_action"]


@dataclass(frozen=True)
class VersionSnapshot:
    """One version of a model at a moment."""

    version: int
    state: State
    aspired: bool


@dataclass(frozen=True)
class Load:
    version: int


@dataclass(frozen=True)
class Unload:
    version: int


Action = Load | Unload


def next_action(versions: Sequence[VersionSnapshot]) -> Action | None:
    """Pick the one step that brings us nearer to the aspired versions without losing availability.

    Pure: same snapshots, same answer. The manager calls it again after every state change. At most one version that
    is no longer wanted is kept, and only until a wanted one is available.
    """
    surplus = [v.version for v in versions if v.state is State.AVAILABLE and not v.aspired]
    wanted = [v for v in versions if v.aspired]
    is_served = any(v.state is State.AVAILABLE for v in wanted)
    if surplus and (not wanted or is_served or len(surplus) > 1):
        return Unload(min(surplus))
    fresh = [v.version for v in wanted if v.state is State.START]
    return Load(max(fresh)) if fresh else None
