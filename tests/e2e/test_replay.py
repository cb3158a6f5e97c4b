"""A log sent to a server again: the same answers, others, and none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tensorflow_serving.apis import prediction_log_pb2

from tests.e2e.server import ServerProcess, command, free_ports
from tests.e2e.test_request_log import config, files, logged, started
from tests.e2e.test_warmup import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    logged(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Any:
    server = started(folder, config("", name="other"))
    yield server.wait_ready()
    server.stop()


def replayed(file: Path, target: str, *flags: str) -> tuple[int, dict[str, Any]]:
    arguments = [command("servable"), "replay", str(file), f"--target={target}", "--json", *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def test_the_same_model_answers_the_same(folder: Path, server: ServerProcess) -> None:
    (file,) = files(folder)
    code, result = replayed(file, server.grpc_address, "--model=other", "--concurrency=3")
    assert (code, result["equal"], result["different"], result["failed"]) == (0, 5, 0, 0), result
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["max"]
    code, result = replayed(file, server.grpc_address, "--model=other", "--rate=100", "--limit=2")
    assert (code, result["equal"]) == (0, 2)


def test_differences_are_shown(folder: Path, server: ServerProcess, tmp_path: Path) -> None:
    (file,) = files(folder)
    record = next(iter(read_logs(file)))
    (name,) = record.predict_log.response.outputs
    record.predict_log.response.outputs[name].float_val[0] += 0.5
    changed = changed_file(tmp_path, record)
    code, result = replayed(changed, server.grpc_address, "--model=other")
    assert (code, result["different"], result["largest_deviation"]) == (1, 1, 0.5)
    assert result["differences"][0].startswith(f"request 1: {name}: values[0]")
    code, _ = replayed(changed, server.grpc_address, "--model=other", "--tolerance=0.6")
    assert code == 0
    record.predict_log.ClearField("response")
    code, result = replayed(changed_file(tmp_path, record), server.grpc_address, "--model=other")
    assert (code, result["unanswered"]) == (0, 1)


def test_failures_are_counted(folder: Path, server: ServerProcess) -> None:
    (file,) = files(folder)
    code, result = replayed(file, server.grpc_address)
    assert (code, result["failed"]) == (1, 5), "no model is called half there"
    (port,) = free_ports(1)
    assert replayed(file, f"127.0.0.1:{port}", "--limit=1")[1]["failed"] == 1


def read_logs(file: Path) -> list[Any]:
    from tests.e2e.test_warmup import read

    return read(file)


def changed_file(folder: Path, record: prediction_log_pb2.PredictionLog) -> Path:
    (folder / "assets.extra").mkdir(exist_ok=True)
    return write(folder, [record])
