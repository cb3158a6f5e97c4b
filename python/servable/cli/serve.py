"""`servable serve`: from flags to a running server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from servable import logs
from servable.config.flags import help_text, misdashed, parse
from servable.config.model_config import ModelConfig
from servable.config.options import Value
from servable.config.server_config import config_from, log_options
from servable.errors import FlagError, ServableError

if TYPE_CHECKING:
    from servable.server import Ports

__all__ = ["serve", "version_text"]

log = logging.getLogger(__name__)

FAILED = 255

TENSORFLOW_PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-macos",
    "tensorflow-cpu-aws",
    "tensorflow-intel",
    "intel-tensorflow",
    "tf-nightly",
    "tf-nightly-cpu",
)


def serve(
    usage: str,
    arguments: Sequence[str],
    *,
    defaults: dict[str, Value] | None = None,
    models: Sequence[ModelConfig] = (),
    on_ready: Callable[[Ports], None] = lambda ports: None,
) -> int:
    """Run the server that `arguments` describe. Returns the exit code.

    `defaults` hold for flags that are not given, `models` are served if the flags name none.
    """
    try:
        flags = (defaults or {}) | parse(arguments)
    except FlagError as error:
        if logs.wants_json(arguments):
            logs.set_up(logs.LogFormat.JSON, logs.LogLevel.INFO)
            log.error(error.message)
        else:
            print(error.message, file=sys.stderr)
        return FAILED
    if flags.get("help"):
        print(help_text(usage))
        return 0
    if flags.get("version"):
        print(version_text())
        return 0
    try:
        options = log_options(flags)
        logs.set_up(options.format, options.level)
        for argument in misdashed(arguments):
            logs.say(f"unknown argument: {argument}. Flags begin with two dashes: -{argument}", logging.WARNING)
        config = config_from(flags, models)
    except ServableError as error:
        logs.say(f"Failed to start server. Error: {error.status}", logging.ERROR)
        return FAILED
    from servable import engine
    from servable.server import run

    engine.log_panics(options.format is logs.LogFormat.JSON)
    return run(config, on_ready)


def version_text() -> str:
    """Our version and that of the installed TensorFlow, on lines that begin as those of TensorFlow Serving."""
    from servable import __version__

    return f"TensorFlow ModelServer: {__version__}+servable\nTensorFlow Library: {_tensorflow_version()}"


def _tensorflow_version() -> str:
    from importlib import metadata

    for package in TENSORFLOW_PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"
