"""`servable serve`: from flags to a running server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from servable.config.flags import help_text, misdashed, parse
from servable.config.model_config import ModelConfig
from servable.config.options import Value
from servable.config.server_config import config_from
from servable.errors import FlagError, ServableError

if TYPE_CHECKING:
    from servable.server import Ports

__all__ = ["serve", "version_text"]

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
        print(error.message, file=sys.stderr)
        return FAILED
    if flags.get("help"):
        print(help_text(usage))
        return 0
    if flags.get("version"):
        print(version_text())
        return 0
    for argument in misdashed(arguments):
        print(f"unknown argument: {argument}. Flags begin with two dashes: -{argument}", flush=True)
    _log_to_stderr()
    try:
        config = config_from(flags, models)
    except ServableError as error:
        print(f"Failed to start server. Error: {error.status}")
        return FAILED
    from servable.server import run

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


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
