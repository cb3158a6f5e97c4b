"""Who takes the records of the request log, and where they may go: what the flags say of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from urllib.parse import unquote

from servable.config.base_path import is_absolute
from servable.errors import InvalidArgumentError

__all__ = ["collectors", "is_below", "roots"]

_REGISTERED = re.compile(r"(?P<type>[A-Za-z][\w-]*)=(?P<module>\w+(\.\w+)*:\w+)", re.ASCII)


def collectors(texts: Sequence[str]) -> dict[str, str]:
    """Import strings by type, from values of `--request_log_collector`."""
    found: dict[str, str] = {}
    for text in texts:
        registered = _REGISTERED.fullmatch(text)
        if registered is None:
            raise InvalidArgumentError(f"--request_log_collector={text}: it has to be NAME=package.module:Class")
        if registered["type"] in found:
            raise InvalidArgumentError(f"--request_log_collector={text}: {registered['type']} is there twice")
        found[registered["type"]] = registered["module"]
    return found


def roots(texts: Sequence[str]) -> tuple[str, ...]:
    """Values of `--request_log_root`."""
    for text in texts:
        if not is_absolute(text):
            raise InvalidArgumentError(f"--request_log_root={text}: it has to be an absolute path or a URL")
    return tuple(texts)


def is_below(prefix: str, roots: Collection[str]) -> bool:
    """Whether files with this prefix lie in one of the folders, as far as their names tell."""
    if ".." in unquote(prefix).split("/"):
        return False
    return any(prefix.startswith(f"{root.rstrip('/')}/") for root in roots)
