"""Makes the reference page of all flags, docs/flags.md, from the table in servable.config.options.

python tools/make_flag_reference.py            # write the page
python tools/make_flag_reference.py --check    # exit with 1 if the page is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from servable.config.options import OPTIONS, Group, Kind, Option, Support

PAGE = Path(__file__).resolve().parents[1] / "docs" / "flags.md"

INTRODUCTION = """\
# Flags

<!-- Made by tools/make_flag_reference.py from python/servable/config/options.py: change that, then run it. -->

Flags of `tensorflow_model_server` and `servable serve`; `servable demo` takes them too. Write `--name=value` or
`--name value`, with `_` or `-` in the name. A flag without a value switches a bool on. The last value of a flag counts,
unless it is repeatable. An unknown flag is an error. `int32` and `int64` are whole numbers of so many bits.
"""

WITHOUT_EFFECT = """\
## Accepted without effect

Flags of TensorFlow Serving that change nothing here. The log notes one that is given a value other than its default.
"""


def page() -> str:
    """The text of the page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    for group in Group:
        options = [option for option in OPTIONS if option.group is group and option.support is Support.FULL]
        if options:
            yield f"## {group.value}\n"
            if group is Group.LIMITS:
                yield "Defaults and what happens beyond a limit: [compatibility.md](compatibility.md#limits).\n"
            yield from _table(options)
    yield WITHOUT_EFFECT
    yield from _table(option for option in OPTIONS if option.support is Support.WITHOUT_EFFECT)


def _table(options: Iterable[Option]) -> Iterator[str]:
    yield "| Flag | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for option in options:
        yield f"| `--{option.name}` | {_kind(option)} | {_default(option)} | {_cell(option.sentence)} |"
    yield ""


def _kind(option: Option) -> str:
    parts = [option.kind.value]
    if option.unit:
        parts.append(option.unit)
    if option.at_most is not None:
        parts.append(f"{option.at_least} to {option.at_most}")
    elif option.at_least is not None:
        parts.append(f"{option.at_least} or more")
    return ", ".join(parts)


def _default(option: Option) -> str:
    if option.default is None:
        return "the engine's"
    if option.kind is Kind.BOOL:
        return str(option.default).lower()
    return str(option.default) if option.default not in ("", ()) else "none"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    text = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is stale: run python {sys.argv[0]}", file=sys.stderr)
        return 1
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
