"""The contract between the manager of models and the platforms that load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from servable.storage.base import nothing

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["Loader", "Prepared"]


class Loader(Protocol):
    """Loads one version of a model. Made by a platform for one attempt.

    The manager calls `load` once, from a thread of its loading pool, while other loaders may be at work. Afterwards it
    owns the servable: it publishes it, and unloads it through `Servable.unload` when it is no longer wanted.
    """

    def load(self) -> Servable:
        """Wait until the version is loaded. `ServableError` if it cannot be; the manager may try again later."""


@dataclass(frozen=True)
class Prepared:
    """A version that is all there and can be loaded."""

    loader: Loader
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes that it is going to take, by kind of memory: `ram`, `gpu`."""
    capacity: Mapping[str, int] = field(default_factory=dict)
    """Bytes that there are in all, as far as the platform knows."""
    release: Callable[[], None] = nothing
    """Called once when its files are not needed any more: after it was unloaded, or could not be loaded."""
