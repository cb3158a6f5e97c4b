"""Whether models have become available: asked for by whoever configures them, answered by the manager."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from servable.errors import ServableError

__all__ = ["Failure", "Resolution"]


@dataclass(frozen=True)
class Failure:
    """A model that did not become available, and why."""

    name: str
    version: int | None
    """`None` if there is no version at all."""
    error: ServableError

    @property
    def log_fields(self) -> Mapping[str, object]:
        return {"model": self.name, "version": self.version}

    def __str__(self) -> str:
        version = "" if self.version is None else f" version: {self.version}"
        return f"{{{{name: {self.name}{version}}} due to error: {self.error.status}}}"


class Resolution:
    """Whether models have become available: one answer, some time. Waited for on any thread."""

    def __init__(self, names: Iterable[str], *, patient: bool, hasty: bool = False) -> None:
        self.names = tuple(names)
        self.patient = patient
        self.hasty = hasty
        self.failures: tuple[Failure, ...] = ()
        """What did not become available, once resolved."""
        self.open: dict[str, Failure | None] = dict.fromkeys(self.names)
        """For the manager: those that are not available yet, or have failed so far."""
        self._resolved = threading.Event()

    def wait(self, timeout_s: float | None = None) -> bool:
        """True once every model has a version that is AVAILABLE, or none left that may become so."""
        return self._resolved.wait(timeout_s)

    def resolve(self, failures: Iterable[Failure]) -> None:
        self.failures = tuple(failures)
        self._resolved.set()
