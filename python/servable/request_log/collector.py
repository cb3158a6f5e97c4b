"""What takes the records of the request log, and which kinds there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from servable.errors import InvalidArgumentError
from servable.types import RequestLogOptions

__all__ = ["COLLECTORS", "Collector", "make_collector"]


class Collector(Protocol):
    """Made as `Kind(filename_prefix, options)`, which must not wait and may raise `ServableError`.

    Called from one thread. It may wait, and it may raise: what `write` was given is then counted as lost, and it is
    called again with the next records.
    """

    def write(self, records: Sequence[bytes]) -> None:
        """Take serialised `PredictionLog`s."""

    def tend(self) -> None:
        """Called about once a second, for what is due with time."""

    def waiting(self) -> int:
        """How many of the records that were taken are not yet where they belong: these do not count as written.

        Asked after each of the others. Records arrive in the order in which they were taken.
        """

    def close(self) -> None:
        """Finish: everything that was taken is where it belongs. What still waits then is counted as lost."""


COLLECTORS: Mapping[str, str] = {
    "file": "servable.request_log.file:FileCollector",
    "fsspec": "servable.request_log.remote:FsspecCollector",
}
"""Import strings by type; any other type is an import string itself."""


def make_collector(model: str, kind: str, prefix: str, options: RequestLogOptions) -> Collector:
    """The collector of such a type. `InvalidArgumentError` names the model and the field that is wrong."""
    field = f"Model {model}: logging_config.log_collector_config"
    known = ", ".join(sorted(COLLECTORS))
    if not kind:
        raise InvalidArgumentError(f"{field}.type is missing; there are: {known}, and package.module:Class")
    module, _, name = COLLECTORS.get(kind, kind).partition(":")
    if not name:
        raise InvalidArgumentError(f"{field}.type {kind} is unknown; there are: {known}, and package.module:Class")
    if not prefix:
        raise InvalidArgumentError(f"{field}.filename_prefix is missing")
    try:
        collector: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(f"{field}.type {kind} cannot be imported: {error}") from error
    try:
        made: Collector = collector(prefix, options)
    except Exception as error:
        raise InvalidArgumentError(f"{field}.filename_prefix {prefix} cannot be used: {error}") from error
    return made
