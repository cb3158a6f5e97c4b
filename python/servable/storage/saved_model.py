"""What a SavedModel lacks that has not come as a whole: as far as the names of its files tell, and its graph."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import BinaryIO

__all__ = [
    "SAVED_MODEL_FILES",
    "VARIABLES_INDEX",
    "has_saved_model",
    "has_variables",
    "lacks_variables",
    "missing_part",
    "saves_variables",
]

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
"""A SavedModel has one of these."""

VARIABLES_INDEX = "variables/variables.index"

VARIABLE_OPS = (b"VarHandleOp", b"VariableV2", b"Variable")

META_GRAPHS, GRAPH, SAVER, NODE, OP = 2, 2, 3, 1, 2
"""Numbers of the fields that lead from a `SavedModel` to its ops."""


def has_saved_model(names: Collection[str]) -> bool:
    """Whether one of these files is the heart of a SavedModel."""
    return any(name in names for name in SAVED_MODEL_FILES)


def missing_part(names: Collection[str]) -> str | None:
    """What an incomplete SavedModel lacks, as far as names tell; `None` if nothing."""
    if not has_saved_model(names):
        return SAVED_MODEL_FILES[0]
    shards = [re.fullmatch(r"variables/variables\.data-([0-9]{5})-of-([0-9]{5})", name) for name in names]
    counts = {int(shard[2]) for shard in shards if shard}
    for count in counts:
        for index in range(count):
            name = f"variables/variables.data-{index:05}-of-{count:05}"
            if name not in names:
                return name
    has_index = VARIABLES_INDEX in names
    if has_index == bool(counts):
        return None
    return "variables/variables.data-*" if has_index else VARIABLES_INDEX


def has_variables(folder: str) -> bool:
    """Whether the values of variables are in `folder`, as far as TensorFlow looks."""
    return os.path.exists(os.path.join(folder, VARIABLES_INDEX))


def saves_variables(folder: str) -> bool:
    """Whether the graph in `folder` has variables that were saved; false if it cannot be read."""
    try:
        with open(os.path.join(folder, SAVED_MODEL_FILES[0]), "rb") as file:
            fields = _fields(file, os.fstat(file.fileno()).st_size)
            return any(number == META_GRAPHS and _has_saved_variables(file, end) for number, end in fields)
    except (OSError, ValueError):
        return False


def lacks_variables(folder: str) -> bool:
    """Whether the graph in `folder` has variables that were saved, but their values are not there.

    TensorFlow loads such a folder without complaint, and then fails with every request.
    """
    return not has_variables(folder) and saves_variables(folder)


def _has_saved_variables(file: BinaryIO, end: int) -> bool:
    parts = {number: (file.tell(), stop) for number, stop in _fields(file, end)}
    if SAVER not in parts or GRAPH not in parts:
        return False
    start, stop = parts[GRAPH]
    file.seek(start)
    return any(number == NODE and _op(file, node) in VARIABLE_OPS for number, node in _fields(file, stop))


def _op(file: BinaryIO, end: int) -> bytes:
    return next((file.read(stop - file.tell()) for number, stop in _fields(file, end) if number == OP), b"")


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and end of each field with a length, up to `end`; `file` then stands where its content begins.

    Contents are skipped rather than read: constants of a graph may be large. `ValueError` if it is no message.
    """
    position = file.tell()
    while position < end:
        file.seek(position)
        number, kind = divmod(_varint(file), 8)
        if kind not in (0, 1, 2, 5):
            raise ValueError("no message")
        size = {1: 8, 5: 4}.get(kind) or _varint(file)
        position = file.tell() + (size if kind else 0)
        if position > end:
            raise ValueError("cut short")
        if kind == 2:
            yield number, position


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while byte := file.read(1):
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value
    raise ValueError("cut short")
