"""Lines of the log, each as people and programs read it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from servable.logs import LogFormat, LogLevel, say, set_up, wants_json

log = logging.getLogger("servable.test")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("servable")
    before = (root.handlers, root.level, ours.level, sys.excepthook, threading.excepthook)
    yield
    root.handlers, root.level, ours.level, sys.excepthook, threading.excepthook = before
    logging.captureWarnings(False)
    root.setLevel(root.level)  # levels are cached
    ours.setLevel(ours.level)


class Named:
    @property
    def log_fields(self) -> dict[str, object]:
        return {"model": "m", "version": 3}

    def __str__(self) -> str:
        return "m:3"


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_arguments_bring_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.JSON, LogLevel.INFO)
    log.info("Loading %s", Named())
    log.warning("a\nb %s", "c", extra={"model": "n"})
    log.debug("not this")
    first, second = printed(capsys)
    assert {name: first[name] for name in ("message", "model", "version")} == {
        "message": "Loading m:3",
        "model": "m",
        "version": 3,
    }
    assert (second["message"], second["model"], "version" in second) == ("a\nb c", "n", False)


def test_an_exception_is_one_string(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.JSON, LogLevel.INFO)
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("It failed")
    (line,) = printed(capsys)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: bad")


def test_what_nobody_catches_on_a_thread_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.JSON, LogLevel.ERROR)
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    (line,) = printed(capsys)
    assert (line["level"], "ZeroDivisionError" in line["exception"]) == ("ERROR", True)


def test_libraries_do_not_debug(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.TEXT, LogLevel.DEBUG)
    log.debug("ours")
    logging.getLogger("library").debug("theirs")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" DEBUG servable.test: ours")


def test_text_does_not_break_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.TEXT, LogLevel.INFO)
    log.info("a\r\nb")
    assert capsys.readouterr().err.endswith(" INFO servable.test: a\\r\\nb\n")


def test_what_scripts_look_for_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.TEXT, LogLevel.INFO)
    say("Failed", logging.ERROR)
    assert capsys.readouterr() == ("Failed\n", "")
    set_up(LogFormat.JSON, LogLevel.INFO)
    say("Failed", logging.ERROR)
    assert printed(capsys)[0]["message"] == "Failed"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--log_format=json"], True),
        (["--x", "--log-format", "json"], True),
        (["--log_format=text"], False),
        ([], False),
    ],
)
def test_json_is_wanted_before_flags_are_understood(arguments: list[str], wanted: bool) -> None:
    assert wants_json(arguments) is wanted
