"""The entry points: `servable <command>` and `tensorflow_model_server`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main", "tensorflow_model_server"]

USAGE = """\
usage: servable <command>

  serve --model_base_path=<folder>   serve models, with the flags of tensorflow_model_server
  show <folder>                      print the signatures of a SavedModel
  warmup show|make|record            files of requests that a version answers before it is served
  models <list|status|add|remove|label>
                                     see and change the models of a running server
  batching explain <model>           why batches of a running server are as they are, and what to change
  config <check|diff> <file>         check a model configuration file, or compare it with a running server
  replay <file>... --target=<host:port>
                                     send logged requests to a server and compare its answers
  demo                               serve two small models that come along, with requests to try

  --version                          print the versions
  --help                             print this; "servable serve --help" lists all flags"""

FAILED = 255


def main() -> NoReturn:
    """The command `servable`."""
    try:
        code = _command(sys.argv[1:])
    except BrokenPipeError:  # whoever reads what we print has seen enough
        code = 0
    _exit(code)


def tensorflow_model_server() -> NoReturn:
    """The command `tensorflow_model_server`: `servable serve` under the name that scripts know."""
    from servable.cli import serve

    _exit(serve.serve("tensorflow_model_server [--flag=value ...]", sys.argv[1:]))


def _command(arguments: Sequence[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name == "serve":
        from servable.cli import serve

        return serve.serve("servable serve [--flag=value ...]", rest)
    if name == "demo":
        from servable.cli import demo

        return demo.demo(rest)
    if name == "show":
        from servable.cli import show

        return show.show(rest)
    if name == "warmup":
        from servable.cli import warmup

        return warmup.warmup(rest)
    if name == "models":
        from servable.cli import models

        return models.models(rest)
    if name == "replay":
        from servable.cli import replay

        return replay.replay(rest)
    if name == "batching":
        from servable.cli import batching

        return batching.batching(rest)
    if name == "config":
        from servable.cli import config

        return config.config(rest)
    if name == "--version":
        from servable.cli import serve

        print(serve.version_text())
        return 0
    if name in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    print(f"servable: unknown command {name}\n{USAGE}", file=sys.stderr)
    return FAILED


def _exit(code: int) -> NoReturn:
    """End the process now. A load that TensorFlow has begun cannot be interrupted and would hold up an orderly exit."""
    import contextlib
    import os

    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
