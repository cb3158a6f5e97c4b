"""The contract between the manager of models and the platforms that load them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["Loader"]


class Loader(Protocol):
    """Loads one version of a model. Made by a platform for one attempt.

    The manager calls `load` once, from a thread of its loading pool, while other loaders may be at work. Afterwards it
    owns the servable: it publishes it, and unloads it through `Servable.unload` when it is no longer wanted.
    """

    def load(self) -> Servable:
        """Wait until the version is loaded. `ServableError` if it cannot be; the manager may try again later."""
