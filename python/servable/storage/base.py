"""The contract of a store: what it says about versions, and how it hands one over as a folder on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Brought", "Store", "nothing"]


def nothing() -> None:
    """What there is to release of a version that lies on this machine anyway."""


@dataclass(frozen=True)
class Brought:
    """A version as a complete folder on this machine."""

    folder: str
    size_bytes: int
    """Of all files in it, those in subfolders too."""
    release: Callable[[], None] = nothing
    """To be called when the version is not used any more: a copy may then be removed. Harmless if repeated."""


class Store(Protocol):
    """A kind of place where versions lie. Methods are called from any thread, several at a time."""

    def folders(self, base_path: str) -> Sequence[str]:
        """The names of all that lies directly in `base_path`; which of them are versions is for others to say.

        Called once per scan for each model, so it has to be quick: a slow store answers with what it knew last.
        `OSError` if the base path cannot be read.
        """

    def bring(self, path: str) -> Brought:
        """Make the version at `path` a folder on this machine; waits for a download.

        `IncompleteError` if it is not all there yet, another `ServableError` if it cannot be had. A path on this
        machine that is missing or no folder is handed over as it is: what is wrong with it is for the platform to say.
        """

    def stamp(self, path: str) -> str:
        """A text that changes when anything below `path` does: names, sizes, times. Empty if nothing is there.

        Raises nothing: a store that does not answer has not changed, as far as anybody knows.
        """
