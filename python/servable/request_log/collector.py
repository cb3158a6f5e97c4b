"""What takes the records of the request log, and which kinds there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

from servable.config.request_log import is_below
from servable.errors import InvalidArgumentError
from servable.types import RequestLogOptions

__all__ = ["COLLECTORS", "Collector", "Kind", "import_collectors", "make_collector"]


class Collector(Protocol):
    """Made as `Kind(filename_prefix, options)`, which may raise `ServableError`. That must not wait, and must change
    nothing: it happens while a list of models is checked, which may be refused, and which a stranger may have sent.

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
"""Import strings of our own, by type. Others are registered by the operator, and none comes from a list of models."""

Kind = Callable[[str, RequestLogOptions], Collector]


def import_collectors(registered: Mapping[str, str]) -> dict[str, Kind]:
    """What the import strings of `registered` stand for, by type. `InvalidArgumentError` names one that is wrong."""
    kinds: dict[str, Kind] = {}
    for kind, text in registered.items():
        if kind in COLLECTORS:
            raise InvalidArgumentError(
                f"--request_log_collector={kind}={text}: {kind} is one of our own; name it otherwise"
            )
        try:
            kinds[kind] = _imported(text)
        except Exception as error:  # whatever the operator's module raises
            raise InvalidArgumentError(
                f"--request_log_collector={kind}={text} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    return kinds


def _imported(text: str) -> Kind:
    module, _, name = text.partition(":")
    kind: Kind = getattr(import_module(module), name)
    return kind


def make_collector(
    model: str,
    kind: str,
    prefix: str,
    options: RequestLogOptions,
    registered: Mapping[str, Kind] = MappingProxyType({}),
) -> Collector:
    """The collector of such a type, of our own or `registered`. `InvalidArgumentError` names the model and the field
    that is wrong.

    What `kind` and `prefix` say may come from anybody who may change the list of models: neither is ever imported.
    """
    field = f"Model {model}: logging_config.log_collector_config"
    known = f"there are: {', '.join(sorted({*COLLECTORS, *registered}))}; --request_log_collector registers others"
    if not kind:
        raise InvalidArgumentError(f"{field}.type is missing; {known}")
    if kind not in COLLECTORS and kind not in registered:
        raise InvalidArgumentError(f"{field}.type {kind} is unknown; {known}")
    if not prefix:
        raise InvalidArgumentError(f"{field}.filename_prefix is missing")
    if options.roots and not is_below(prefix, options.roots):
        raise InvalidArgumentError(
            f"{field}.filename_prefix {prefix} is not below --request_log_root: {', '.join(options.roots)}"
        )
    make = registered[kind] if kind in registered else _imported(COLLECTORS[kind])
    try:
        return make(prefix, options)
    except Exception as error:
        raise InvalidArgumentError(f"{field}.filename_prefix {prefix} cannot be used: {error}") from error
