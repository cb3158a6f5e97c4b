from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servable.cli.demo import requests_to_try

PACKAGES = Path(__file__).parents[3] / "python"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command prints; none of these gets as far as the engine."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-m", "servable", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_versions_are_on_the_lines_that_scripts_look_for() -> None:
    for arguments in (["--version"], ["serve", "--version"]):
        done = run(*arguments)
        first, second = done.stdout.splitlines()
        assert done.returncode == 0
        assert first.startswith("TensorFlow ModelServer: ")
        assert second.startswith("TensorFlow Library: ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["serve", "--help"], ["demo", "--help"], ["show", "--help"], ["batching", "--help"]],
)
def test_help(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: servable")


@pytest.mark.parametrize(
    ("arguments", "stderr"),
    [
        (["serve", "--prot=1"], "unknown argument: --prot=1. Did you mean --port?"),
        (["serve", "--port=x"], "Couldn't interpret value x for flag port."),
        (["sevre"], "unknown command sevre"),
        (["show"], "usage: servable show"),
    ],
)
def test_a_command_line_that_is_wrong_exits_with_255(arguments: list[str], stderr: str) -> None:
    done = run(*arguments)
    assert done.returncode == 255
    assert stderr in done.stderr


def test_a_start_that_fails_says_so_on_stdout() -> None:
    done = run("serve")
    assert done.returncode == 255
    assert done.stdout == (
        "Failed to start server. Error: INVALID_ARGUMENT: "
        "Both server_options.model_base_path and server_options.model_config_file are empty!\n"
    )


def test_the_demo_offers_requests_for_its_address() -> None:
    text = requests_to_try("http://localhost:1234")
    assert text.count("http://localhost:1234/v1/models/") == 3
    assert """'{"instances": [1.0, 2.0, 5.0]}'""" in text
