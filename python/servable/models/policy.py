"""The order of loading and unloading while a model's versions change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servable.config.model_config import Transition
from servable.types import State

__all__ = ["Action", "Load", "Unload", "VersionSnapshot", "next_action"]


@dataclass(frozen=True)
class VersionSnapshot:
    """One version of a model at a moment."""

    version: int
    state: State
    aspired: bool
    asked_for: bool = True
    """False: it is to be loaded with its first request, and there was none."""
    is_granted: bool = False
    """Being loaded: its files are here, and it has room, or will have once what is not wanted has gone."""


@dataclass(frozen=True)
class Load:
    version: int


@dataclass(frozen=True)
class Unload:
    version: int


Action = Load | Unload


def next_action(
    versions: Sequence[VersionSnapshot], transition: Transition = Transition.AVAILABILITY_PRESERVING
) -> Action | None:
    """Pick the one step that brings us nearer to the aspired versions, in the order that `transition` asks for.

    Pure: same snapshots, same answer. The manager calls it again after every state change.
    """
    if transition is Transition.RESOURCE_PRESERVING:
        return _unload_first(versions)
    return _load_first(versions)


def _load_first(versions: Sequence[VersionSnapshot]) -> Action | None:
    """At most one version that is no longer wanted is kept, and only until a wanted one is available."""
    surplus = _surplus(versions)
    wanted = [v for v in versions if v.aspired]
    is_served = any(v.state is State.AVAILABLE for v in wanted)
    if surplus and (not wanted or is_served or len(surplus) > 1):
        return Unload(min(surplus))
    # A model that is in use goes on being served: what replaces it need not be asked for.
    return _load(versions, unasked=bool(surplus))


def _unload_first(versions: Sequence[VersionSnapshot]) -> Action | None:
    """What is no longer wanted goes as soon as a wanted version is here that can then be loaded.

    The manager does not load those before all that is not wanted has gone.
    """
    surplus = _surplus(versions)
    wanted = [v for v in versions if v.aspired]
    if surplus and (not wanted or any(v.state is State.AVAILABLE or v.is_granted for v in wanted)):
        return Unload(min(surplus))
    return _load(versions, unasked=bool(surplus))


def _surplus(versions: Sequence[VersionSnapshot]) -> list[int]:
    return [v.version for v in versions if v.state is State.AVAILABLE and not v.aspired]


def _load(versions: Sequence[VersionSnapshot], *, unasked: bool) -> Load | None:
    fresh = [v.version for v in versions if v.aspired and v.state is State.START and (v.asked_for or unasked)]
    return Load(max(fresh)) if fresh else None
