"""The log on standard error: one line for each occurrence, for people or for programs.

What the levels mean: ERROR: somebody has to act. WARNING: we coped, take note. INFO: something you asked for has
happened. DEBUG: for us.
"""

from __future__ import annotations

import enum
import json
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from types import TracebackType

__all__ = ["LogFormat", "LogLevel", "say", "set_up", "wants_json"]

log = logging.getLogger(__name__)

KNOWN_FIELDS = ("model", "version")
"""What a record may say beside its message: with `extra`, or through the `log_fields` of one of its arguments."""


class LogFormat(enum.Enum):
    TEXT = "text"
    JSON = "json"


class LogLevel(enum.Enum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def set_up(form: LogFormat, level: LogLevel) -> None:
    """Log to standard error from now on, whoever has something to say: us, libraries, or what nobody has caught."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    number = logging.getLevelName(level.name)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.INFO))  # what libraries say when they are debugged is not for us
    logging.getLogger("servable").setLevel(number)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda failure: _uncaught(failure.exc_type, failure.exc_value, failure.exc_traceback)


def say(text: str, level: int) -> None:
    """Say what TensorFlow Serving prints to standard output: there, unless the log is JSON."""
    if any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers):
        log.log(level, text)
    else:
        print(text, flush=True)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, even if it cannot be understood otherwise."""
    line = " ".join(arguments).replace("_", "-")
    return "--log-format=json" in line or "--log-format json" in line


class _Text(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO servable.server: message`; an exception's trace follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (theirs)
        return _time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (theirs)
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        return super().formatMessage(record)


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message, known fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339."""
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: dict[str, object] = {}
    for argument in record.args if isinstance(record.args, tuple) else ():
        fields.update(getattr(argument, "log_fields", None) or {})
    fields.update({name: getattr(record, name) for name in KNOWN_FIELDS if hasattr(record, name)})
    return {name: fields[name] for name in KNOWN_FIELDS if fields.get(name) is not None}


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, SystemExit):
        log.error("Nobody has caught this: it is a bug", exc_info=(kind, error, trace))
