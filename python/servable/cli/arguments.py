"""What the commands for running servers have in common: how arguments are read and failures told."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from servable.errors import FlagError, ServableError

__all__ = ["Parser", "run", "show"]

FAILED = 255
SERVER = "127.0.0.1:8502"


class Parser(argparse.ArgumentParser):
    """Raises `FlagError` where argparse would end the process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise FlagError(f"{message}\n{self.format_usage().rstrip()}")

    def add_server(self) -> None:
        self.add_argument(
            "--server",
            default=os.environ.get("SERVABLE_ADMIN") or SERVER,
            metavar="HOST:PORT",
            help="admin port of the server (default: $SERVABLE_ADMIN, else %(default)s)",
        )
        self.add_credentials()

    def add_credentials(self) -> None:
        self.add_argument("--api_key_file", metavar="FILE", help="a key or token to send along (see docs/security.md)")
        self.add_argument(
            "--ca_file", metavar="FILE", help="connect over TLS to a server whose certificate this has signed"
        )
        self.add_argument("--certificate_file", metavar="FILE", help="a certificate to show over TLS")
        self.add_argument("--key_file", metavar="FILE", help="its private key (default: in the same file)")

    def add_json(self) -> None:
        self.add_argument("--json", action="store_true", help="print JSON")


def run(parser: Parser, arguments: Sequence[str]) -> int:
    """Do what the arguments ask for. Returns the exit code.

    Each subcommand has an `act`, which takes the parsed arguments and returns the exit code.
    """
    try:
        options = parser.parse_args(arguments)
        return int(options.act(options))
    except SystemExit as end:  # --help has been printed
        return int(end.code or 0)
    except ServableError as error:
        print(error.message if isinstance(error, FlagError) else error.status, file=sys.stderr)
        return FAILED


def show(options: argparse.Namespace, value: Any, text: Callable[[], Sequence[str]]) -> None:
    """Print a value as JSON if that is wanted, else for people."""
    print(json.dumps(value, indent=2) if options.json else "\n".join(text()))
