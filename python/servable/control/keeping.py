"""Files that are read again while the server runs; what they say is handed on when it has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from servable.errors import MalformedFileError, ServableError

__all__ = ["Kept", "keep_reading"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Kept(Generic[T]):
    """What some files say, handed on. `title` is what they are called in the log; `refusals` is what `apply` raises."""

    def __init__(
        self, title: str, read: Callable[[], T], apply: Callable[[T], None], refusals: type[Exception]
    ) -> None:
        self._title = title
        self._read = read
        self._apply = apply
        self._refusals = refusals
        self._said: T | None = None
        self._complaint = ""

    def start(self) -> None:
        """Read and apply for the first time; errors are the caller's."""
        said = self._read()
        self._apply(said)
        self._said = said

    def look(self) -> None:
        """Apply what has changed. What is wrong, whatever that is, is logged once, and what was applied last stays."""
        complaint, bug = "", None
        try:
            said = self._read()
            if said != self._said:
                self._apply(said)
                self._said = said
                log.info("%s: what has changed is in use", self._title)
        except (ServableError, self._refusals) as error:
            detail = f" ({error.detail})" if isinstance(error, MalformedFileError) else ""
            complaint = f"{self._title}: {getattr(error, 'message', error)}{detail}; what was in use before stays"
        except Exception as error:
            bug = error
            complaint = f"{self._title}: {type(error).__name__}: {error}; what was in use before stays"
        if complaint and complaint != self._complaint:
            log.error(complaint, exc_info=bug)
        self._complaint = complaint


def keep_reading(kept: Sequence[Kept[T]], period_s: float, stopped: threading.Event) -> None:
    """Look once per period until `stopped`."""
    while not stopped.wait(period_s):
        for one in kept:
            one.look()
