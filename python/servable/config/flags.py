"""Command-line flags: from arguments to values, with TensorFlow Serving's syntax and a little more tolerance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from servable.config.options import OPTIONS, Group, Kind, Option, Support, Value
from servable.errors import FlagError

__all__ = ["FlagValues", "help_text", "misdashed", "parse"]

FlagValues = Mapping[str, Value]
"""The flags that were given, by name. What is not in here was left to its default."""

_BY_NAME = {option.name: option for option in OPTIONS}
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_BITS = {Kind.INT32: 32, Kind.INT64: 64}
_RIGHT = {
    Kind.BOOL: "true, false, 1 or 0",
    Kind.INT32: "a whole number of 32 bits",
    Kind.INT64: "a whole number of 64 bits",
    Kind.FLOAT: "a number",
}


def parse(arguments: Sequence[str]) -> dict[str, Value]:
    """The values of the flags in `arguments`; the last one wins, repeatable ones add up.

    Written `--name=value` or `--name value`, with `_` or `-` in the name. `FlagError` for anything else but
    `misdashed` arguments.
    """
    values: dict[str, Value] = {}
    ignored = set(misdashed(arguments))
    rest = [argument for argument in reversed(arguments) if argument not in ignored]
    while rest:
        option, text = _split(rest.pop())
        if text is None:
            text = _following(option, rest)
        value = _value(option, text)
        before = values.get(option.name)
        values[option.name] = (*before, str(value)) if isinstance(before, tuple) else _first(option, value)
    return values


def misdashed(arguments: Sequence[str]) -> list[str]:
    """Flags with one dash, which TensorFlow Serving tells of and leaves out."""
    return [
        argument
        for argument in arguments
        if re.match("-[a-z]", argument) and argument[1:].partition("=")[0].replace("-", "_") in _BY_NAME
    ]


def _first(option: Option, value: Value) -> Value:
    return (str(value),) if option.kind is Kind.LIST else value


def _split(argument: str) -> tuple[Option, str | None]:
    if not argument.startswith("--") or argument == "--":
        hint = f" Flags begin with two dashes: -{argument}" if re.match("-[a-z]", argument) else ""
        raise FlagError(f"unexpected argument: {argument}.{hint}")
    name, equals, text = argument[2:].partition("=")
    option = _BY_NAME.get(name.replace("-", "_"))
    if option is None:
        raise FlagError(f"unknown argument: {argument}.{_hint(name.replace('-', '_'))}")
    return option, text if equals else None


def _hint(name: str) -> str:
    positive = _BY_NAME.get(name.removeprefix("no").removeprefix("_"))
    if name.startswith("no") and positive is not None and positive.kind is Kind.BOOL:
        return f" To switch it off: --{positive.name}=false"
    from difflib import get_close_matches

    nearest = get_close_matches(name, _BY_NAME, n=1)
    return f" Did you mean --{nearest[0]}?" if nearest else " --help lists the flags."


def _following(option: Option, rest: list[str]) -> str:
    """The value of a flag written without `=`: the next argument if it can be one."""
    if option.kind is Kind.BOOL:
        return rest.pop() if rest and rest[-1].lower() in _BOOLS else "true"
    if not rest or rest[-1].startswith("--"):
        raise FlagError(f"Flag --{option.name} needs a value: --{option.name}=<{option.kind.value}>")
    return rest.pop()


def _value(option: Option, text: str) -> Value:
    value = _interpret(option.kind, text)
    if value is None:
        raise FlagError(f"Couldn't interpret value {text} for flag {option.name}. It takes {_RIGHT[option.kind]}.")
    if isinstance(value, int | float) and not _is_in_range(option, value):
        raise FlagError(f"Value {text} for flag {option.name} is out of range. It takes {_range(option)}.")
    return value


def _interpret(kind: Kind, text: str) -> Value:
    if kind in _BITS:
        if not re.fullmatch(r"[ \t]*[+-]?[0-9]+[ \t]*", text):
            return None
        number, bits = int(text), _BITS[kind]
        return number if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None
    if kind is Kind.FLOAT:
        return float(text) if re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", text) else None
    return _BOOLS.get(text.lower()) if kind is Kind.BOOL else text


def _is_in_range(option: Option, value: float) -> bool:
    low, high = option.at_least, option.at_most
    return (low is None or low <= value) and (high is None or value <= high)


def _range(option: Option) -> str:
    if option.at_most is None:
        return f"{option.at_least} or more"
    return f"{option.at_least} to {option.at_most}"


def help_text(usage: str) -> str:
    """All flags with types, defaults and sentences, by group."""
    from textwrap import fill

    indent = " " * 6
    lines = [f"usage: {usage}"]
    for group in Group:
        supported = [option for option in OPTIONS if option.group is group and option.support is Support.FULL]
        lines += ["", f"{group.value}:"] if supported else []
        for option in supported:
            lines.append(
                f"  --{option.name}={_default(option)}  ({option.kind.value}{option.unit and ', '}{option.unit})"
            )
            lines.append(fill(option.sentence, 100, initial_indent=indent, subsequent_indent=indent))
    names = ", ".join(f"--{option.name}" for option in OPTIONS if option.support is Support.WITHOUT_EFFECT)
    lines += [
        "",
        "Flags of TensorFlow Serving that are accepted and have no effect:",
        fill(names, 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
    ]
    return "\n".join(lines)


def _default(option: Option) -> str:
    if option.default is None:
        return "<the engine's>"
    if isinstance(option.default, bool):
        return str(option.default).lower()
    if isinstance(option.default, int | float):
        return f"{option.default}"
    return f'"{option.default}"' if option.default else '""'
