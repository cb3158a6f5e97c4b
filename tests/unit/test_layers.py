"""Imports go downwards, and only one module knows the compiled engine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "servable"

LAYERS = (
    {"__init__", "types", "errors", "engine", "logs"},
    {"config"},
    {"request_log", "storage", "warmup"},
    {"models", "platforms"},
    {"control"},
    {"server"},
    {"cli"},
    {"__main__"},
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part of the package that a dotted module name belongs to: `servable.config.flags` -> `config`."""
    return [*module.split("."), "__init__"][1]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of this package that a file imports, those for type checkers left out."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "servable")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "servable":
            assert node.level == 0
            if node.module == "servable":
                yield from (f"servable.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""
        else:
            yield from imports(node)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in RANKS, f"{own} has no layer; give it one in LAYERS"
    for module in imports(ast.parse(path.read_text())):
        other = part_of(module)
        if module == "servable._engine":
            assert own == "engine", f"{path.name} imports the compiled engine; only engine.py may"
        elif module != "servable.__version__" and other != own:
            assert RANKS[other] < RANKS[own], f"{own} imports {module}, which is not below it"


@pytest.mark.parametrize("part", ["config", "storage", "warmup", "models", "platforms", "control"])
def test_modules_below_the_server_load_without_the_engine(part: str) -> None:
    for path in (PACKAGE / part).rglob("*.py"):
        top_level = ast.Module(
            [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.FunctionDef)], []
        )
        assert "servable.engine" not in list(imports(top_level)), path
