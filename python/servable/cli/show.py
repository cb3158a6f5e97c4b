"""`servable show`: what a SavedModel offers, without TensorFlow."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servable.cli.columns import aligned
from servable.errors import NotFoundError, ServableError, reading
from servable.models.source import versions_in
from servable.storage.saved_model import SAVED_MODEL_FILES

__all__ = ["as_text", "shape_text", "show", "version_folder"]

USAGE = "usage: servable show <folder of a model or of one of its versions> [--json]"
FAILED = 255


def show(arguments: Sequence[str]) -> int:
    """Print what the SavedModel in a folder offers. Returns the exit code."""
    paths = [argument for argument in arguments if not argument.startswith("-")]
    options = set(arguments) - set(paths)
    if "--help" in options:
        print(USAGE)
        return 0
    if len(paths) != 1 or not options <= {"--json"}:
        print(USAGE, file=sys.stderr)
        return FAILED
    from servable.engine import EngineError, read_saved_model

    try:
        folder = version_folder(paths[0])
        if folder != paths[0]:
            print(f"The newest version in {paths[0]} is {os.path.basename(folder)}.", file=sys.stderr)
        text = read_saved_model(folder)
    except (ServableError, EngineError) as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return FAILED
    description = json.loads(text)
    print(json.dumps(description, indent=2) if "--json" in options else as_text(description))
    return 0


def version_folder(path: str, children: Callable[[str], Sequence[str]] = os.listdir) -> str:
    """The folder with the SavedModel: `path`, or its subfolder with the highest version number."""
    if any(os.path.exists(os.path.join(path, name)) for name in SAVED_MODEL_FILES):
        return path
    try:
        versions = versions_in(children(path))
    except OSError as error:
        raise reading(path, error) from error
    if not versions:
        raise NotFoundError(f"{path} holds neither a SavedModel ({SAVED_MODEL_FILES[0]}) nor version folders (1, 2, …)")
    return os.path.join(path, max(versions, key=lambda folder: folder.version).name)


def as_text(description: Mapping[str, Any]) -> str:
    """The description of a SavedModel, aligned for people; without the signatures that only TensorFlow uses."""
    lines: list[str] = []
    for graph in description["meta_graphs"]:
        lines.append(f"tags: {', '.join(graph['tags'])}   (saved by TensorFlow {graph['tensorflow_version']})")
        signatures = graph["signatures"].items()
        for name, signature in sorted(item for item in signatures if not item[0].startswith("__saved_model_")):
            lines += ["", f"  {name}   {signature['method_name']}".rstrip()]
            lines += aligned([*_rows("in", signature["inputs"]), *_rows("out", signature["outputs"])], indent=4)
        lines.append("")
    return "\n".join(lines).rstrip()


def _rows(direction: str, tensors: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            direction if index == 0 else "",
            name,
            tensor["dtype"].removeprefix("DT_").lower(),
            shape_text(tensor["shape"]),
            "optional" if tensor.get("has_default") else "",
        )
        for index, (name, tensor) in enumerate(sorted(tensors.items()))
    ]


def shape_text(shape: Sequence[int] | None) -> str:
    """Sizes of dimensions as people write them."""
    if shape is None:
        return "any shape"
    return f"[{', '.join('?' if size < 0 else str(size) for size in shape)}]"
