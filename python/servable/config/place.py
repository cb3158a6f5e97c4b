"""Where in a configuration file its models are, as far as that is easy to tell."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Lines", "Place"]


class Lines:
    """Of the entries of a `ModelServerConfig` in protobuf text. The text is looked through when somebody asks."""

    def __init__(self, text: str, count: int) -> None:
        self._text = text
        self._count = count

    def of(self, index: int, field: str) -> int | None:
        """The line of a field of an entry, or of the entry itself."""
        if not self._blocks:
            return None
        start, end = self._blocks[index]
        found = re.compile(rf"\b{field}\b\s*[:{{<]").search(self._text, start, end)
        return self._text.count("\n", 0, found.start() if found else start) + 1

    @functools.cached_property
    def _blocks(self) -> Sequence[tuple[int, int]]:
        blocks = list(_blocks(self._text))
        return blocks if len(blocks) == self._count else []


@dataclass(frozen=True)
class Place:
    """Where an entry is."""

    path: str
    lines: Lines
    index: int

    def of(self, field: str) -> str:
        """Of a field, for people."""
        line = self.lines.of(self.index, field)
        return f"{self.path}, field {field}" if line is None else f"{self.path}:{line}, field {field}"


_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}<>]|\w+""")


def _blocks(text: str) -> Iterable[tuple[int, int]]:
    """Where each `config { ... }` of the list begins and ends."""
    depth, word, start = 0, (0, ""), 0
    for token in _TOKEN.finditer(text):
        symbol = token[0]
        if symbol in ("{", "<"):
            depth += 1
            if depth == 2:  # entries may also stand in one list
                start = word[0] if word[1] == "config" else token.start()
        elif symbol in ("}", ">"):
            if depth == 2:
                yield start, token.end()
            depth -= 1
        elif symbol[0] not in "#\"'":
            word = (token.start(), symbol)
