"""What a server logs, for people and for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.e2e.server import HALF_PLUS_TWO, Model, ServerProcess, run_to_end, serving

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
OF_TENSORFLOW = r"WARNING: All log messages before absl|[IWEF]\d{4} |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: "
"""TensorFlow prints lines of its own, some of them whatever it is told."""


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if not re.match(OF_TENSORFLOW, line)]


def test_every_line_is_an_object_if_asked_for(tmp_path: Path) -> None:
    flags = [f"--model_base_path={HALF_PLUS_TWO}", "--model_name=m", "--log_format=json", "-enable_batching"]
    with ServerProcess(flags, tmp_path / "log", environment=QUIET) as server:
        server.wait_ready().stop()
    lines = lines_of(server.log)
    for line in lines:
        assert list(line)[:4] == ["time", "level", "logger", "message"], line
        assert re.fullmatch(TIME, line["time"])
        assert line["level"] in ("INFO", "WARNING")
        assert line["logger"].startswith("servable.")
    (loaded,) = [line for line in lines if line["message"].startswith("Successfully loaded servable version")]
    assert (loaded["model"], loaded["version"]) == ("m", 1)
    (misdashed,) = [line for line in lines if "unknown argument: -enable_batching" in line["message"]]
    assert misdashed["level"] == "WARNING"


def test_a_start_that_fails_is_an_object_too(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list { nonsense")
    done = run_to_end("tensorflow_model_server", "--log-format", "json", f"--model_config_file={config}")
    assert done.returncode == 255
    assert done.stdout == ""
    detail, failure = lines_of(done.stderr)
    assert detail["level"] == failure["level"] == "ERROR"
    assert "Error parsing text-format" in detail["message"]
    assert failure["message"].startswith("Failed to start server. Error: INVALID_ARGUMENT: ")


def test_flags_that_contradict_one_another_are_an_object_too() -> None:
    for flags in (["--port=x"], ["--port=0"], ["--nonsense"]):
        done = run_to_end("tensorflow_model_server", "--log_format=json", *flags)
        assert (done.returncode, done.stdout) == (255, "")
        (line,) = lines_of(done.stderr)
        assert line["level"] == "ERROR"
        assert line["message"]


def test_what_cannot_be_a_format_or_a_level_is_refused() -> None:
    for flag in ("--log_format=xml", "--log_level=loud"):
        done = run_to_end("tensorflow_model_server", "--model_base_path=/m", flag)
        assert done.returncode == 255
        assert "Failed to start server. Error: INVALID_ARGUMENT: " in done.stdout


def test_text_is_one_line_for_each_occurrence(tmp_path: Path) -> None:
    broken = tmp_path / "bad\nname"
    (broken / "1").mkdir(parents=True)
    flags = [f"--model_base_path={broken}", "--max_num_load_retries=0"]
    with ServerProcess(flags, tmp_path / "log", environment=QUIET) as server:
        assert server.exit_code() == 255
    lines = [line for line in server.log.splitlines() if "bad" in line]
    logged = [line for line in lines if re.match(rf"{TIME} (INFO|WARNING|ERROR) servable\.[a-z.]+: ", line)]
    assert any(
        " ERROR servable.models.manager: Servable {name: default version: 1} cannot be" in line for line in logged
    )
    assert all("bad\\nname" in line for line in logged)


def test_only_what_matters_is_logged_if_asked_for(tmp_path: Path) -> None:
    with serving([Model("m", HALF_PLUS_TWO)], tmp_path, "--log_level=warning") as server:
        server.stop()
    assert " INFO " not in re.sub(r"(?m)^(?!\d{4}-).*$", "", server.log)


def test_tensorflow_goes_by_its_own_variables(tmp_path: Path) -> None:
    counts = []
    for level in ("0", "3"):
        flags = [f"--model_base_path={HALF_PLUS_TWO}"]
        environment = {"TF_CPP_MIN_LOG_LEVEL": level}
        with ServerProcess(flags, tmp_path / f"log{level}", environment=environment) as server:
            server.wait_ready().stop()
        counts.append(len([line for line in server.log.splitlines() if not re.match(TIME, line)]))
    assert counts[0] > counts[1]
