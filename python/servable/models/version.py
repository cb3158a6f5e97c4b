"""What the manager knows of one version of a model. Only the manager's thread changes it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servable.errors import ServableError
from servable.models.loader import Prepared
from servable.models.source import Aspired
from servable.types import State, VersionRoute

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["Phase", "Version"]

MOST_TEXT_BYTES = 4096
CUT = "...TRUNCATED"
"""What a longer text about a version ends with, as where TensorFlow Serving cuts."""


class Phase(enum.Enum):
    """How far a version is that is LOADING."""

    PREPARING = "its files are brought, or it waits for the next attempt"
    QUEUED = "it waits for memory"
    GRANTED = "it waits for versions of its model that are not wanted to go"
    LOADING = "it is being loaded"


@dataclass
class Version:
    """What the manager knows of one version."""

    name: str
    goal: Aspired
    state: State = State.START
    phase: Phase = Phase.PREPARING
    aspired: bool = True
    asked_for: bool = False
    evicted: bool = False
    attempts: int = 0
    alarm: float | None = None
    """When something is to happen: the next attempt, or the end of a failed lazy version's rest."""
    stamp: str = ""
    error: ServableError | None = None
    prepared: Prepared | None = None
    servable: Servable | None = None
    available_at: float = 0.0
    incomplete_since: float | None = None
    missing: ServableError | None = None
    """What its files lacked when they were looked at last."""

    @property
    def number(self) -> int:
        return self.goal.version

    @property
    def memory(self) -> Mapping[str, int]:
        return self.prepared.memory if self.prepared else {}

    @property
    def holds_memory(self) -> bool:
        """Whether it has memory, or is about to take some."""
        is_loading = self.state is State.LOADING and self.phase is Phase.LOADING
        return is_loading or self.state in (State.AVAILABLE, State.UNLOADING)

    def let_go(self) -> None:
        """Give back what it holds."""
        prepared, self.prepared, self.servable = self.prepared, None, None
        if prepared is not None:
            prepared.release()

    def end(self, error: ServableError | None) -> None:
        self.let_go()
        self.state, self.error, self.alarm = State.END, error, None

    def route(self, *, on_demand: bool) -> VersionRoute:
        """How requests and status questions find it; `on_demand` if its model is one whose requests wait."""
        error = self.error if self.state is State.END else None
        return VersionRoute(
            version=self.number,
            state=self.state.name,
            error_code=error.code if error else "OK",
            error_message=_cut(error.message) if error else "",
            servable=self.servable if self.state is State.AVAILABLE else None,
            on_demand=on_demand and self.aspired,
            memory_bytes=self.memory.get("ram", 0) if self.servable is not None else 0,
            remark=_cut(self._trouble) if self.state is State.LOADING else "",
        )

    @property
    def _trouble(self) -> str:
        """What keeps it from being loaded."""
        error = self.error or (self.missing if self.incomplete_since is not None else None)
        if error is None:
            return self.phase.value if self.phase in (Phase.QUEUED, Phase.GRANTED) else ""
        return error.status

    @property
    def log_fields(self) -> Mapping[str, object]:
        return {"model": self.name, "version": self.number}

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.number}}}"


def _cut(text: str) -> str:
    """Errors may quote files and graphs; what is published is kept, and crosses with every change of the table."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= MOST_TEXT_BYTES:
        return text
    return encoded[: MOST_TEXT_BYTES - len(CUT)].decode(errors="ignore") + CUT
