"""The commands as people type them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.e2e.server import DEMO, HALF_PLUS_TWO, MODELS, ServerProcess, free_ports, hiding, run_to_end

SERVERS = [("tensorflow_model_server",), ("servable", "serve")]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--prot=8500", "unknown argument: --prot=8500. Did you mean --port?"),
        ("--model_base_pth=/m", "unknown argument: --model_base_pth=/m. Did you mean --model_base_path?"),
        ("--noenable_profiler", "To switch it off: --enable_profiler=false"),
        ("-prot=1", "Flags begin with two dashes: --prot=1"),
        ("model", "unexpected argument: model"),
        ("--port=http", "Couldn't interpret value http for flag port. It takes a whole number of 32 bits."),
        ("--port=65536", "Value 65536 for flag port is out of range. It takes 0 to 65535."),
    ],
)
def test_a_flag_that_is_wrong_ends_with_255_and_a_hint(server: tuple[str, ...], flag: str, message: str) -> None:
    done = run_to_end(*server, flag)
    assert done.returncode == 255
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [*SERVERS, ("servable",)])
def test_versions(command: tuple[str, ...]) -> None:
    done = run_to_end(*command, "--version")
    assert done.returncode == 0
    servable, tensorflow = done.stdout.splitlines()
    assert servable.startswith("TensorFlow ModelServer: ")
    assert servable.endswith("+servable")
    assert tensorflow.startswith("TensorFlow Library: 2.")


@pytest.mark.parametrize("command", [*SERVERS, ("servable",), ("servable", "demo"), ("servable", "show")])
def test_help(command: tuple[str, ...]) -> None:
    done = run_to_end(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    if command in SERVERS:
        for flag in ("--port=8500", "--rest_api_port=0", "--model_config_file=", "--enable_batching"):
            assert flag in done.stdout


def failure_to_start(*flags: str) -> str:
    done = run_to_end("tensorflow_model_server", *flags)
    assert done.returncode == 255, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Failed to start server. Error: ")]
    return line.removeprefix("Failed to start server. Error: ")


def test_a_start_without_models_or_ports_says_what_is_missing() -> None:
    assert failure_to_start() == (
        "INVALID_ARGUMENT: Both server_options.model_base_path and server_options.model_config_file are empty!"
    )
    assert failure_to_start("--port=0", "--model_base_path=/m").startswith("INVALID_ARGUMENT: At least one of ")


def test_a_configuration_file_that_is_wrong_is_named_with_the_place(tmp_path: Path) -> None:
    missing = tmp_path / "missing.config"
    assert failure_to_start(f"--model_config_file={missing}") == f"NOT_FOUND: {missing}; No such file or directory"
    wrong = tmp_path / "wrong.config"
    wrong.write_text("model_config_list {\n  confg { name: 'm' }\n}\n")
    done = run_to_end("tensorflow_model_server", f"--model_config_file={wrong}")
    assert done.returncode == 255
    assert f"INVALID_ARGUMENT: Invalid protobuf file: '{wrong}'" in done.stdout
    assert "2:3: " in done.stderr
    assert "confg" in done.stderr


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [f"--port={port}", "--bind_host=127.0.0.1", f"--model_base_path={HALF_PLUS_TWO}"]
        assert failure_to_start(*flags).startswith(f"UNAVAILABLE: cannot listen on 127.0.0.1:{port}")


def test_one_port_for_both_protocols_leaves_rest_off(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    flags = [f"--port={port}", f"--rest_api_port={port}", f"--model_base_path={HALF_PLUS_TWO}"]
    with ServerProcess(flags, tmp_path / "log") as server:
        server.wait_for(lambda: f"Running gRPC ModelServer at 127.0.0.1:{port}" in server.log, "gRPC is there")
        assert f"REST is off: --rest_api_port and --port are both {port}" in server.log
        assert "Exporting HTTP/REST API" not in server.log


def test_show_prints_signatures_without_tensorflow(tmp_path: Path) -> None:
    environment = hiding(tmp_path / "hidden", "tensorflow", "numpy")
    done = run_to_end("servable", "show", str(DEMO / "models" / "half_plus_two"), environment=environment)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("    ")] == [
        ["in", "x", "float", "[?]"],
        ["out", "y", "float", "[?]"],
    ]
    assert "serving_default   tensorflow/serving/predict" in done.stdout


@pytest.mark.parametrize("path", sorted((MODELS).iterdir()), ids=lambda path: str(path.name))
def test_show_prints_json_of_any_model(path: Path) -> None:
    done = run_to_end("servable", "show", str(path), "--json")
    assert done.returncode == 0, done.stderr
    (graph,) = json.loads(done.stdout)["meta_graphs"]
    assert "serve" in graph["tags"]
    for signature in graph["signatures"].values():
        for tensors in (signature["inputs"], signature["outputs"]):
            assert all(tensor["dtype"].startswith("DT_") for tensor in tensors.values())


def test_show_prints_what_json_has() -> None:
    done = run_to_end("servable", "show", str(MODELS / "mm" / "1"), "--json")
    assert json.loads(done.stdout)["meta_graphs"][0]["signatures"]["serving_default"] == {
        "method_name": "tensorflow/serving/predict",
        "inputs": {"x": {"dtype": "DT_FLOAT", "shape": [-1, 3], "tensor": "serving_default_x:0", "has_default": False}},
        "outputs": {"y": {"dtype": "DT_FLOAT", "shape": [-1, 1], "tensor": "PartitionedCall:0", "has_default": False}},
    }
    defaults = json.loads(run_to_end("servable", "show", str(MODELS / "dflt"), "--json").stdout)
    inputs = defaults["meta_graphs"][0]["signatures"]["serving_default"]["inputs"]
    assert {name: tensor["has_default"] for name, tensor in inputs.items()} == {"k": True, "x": False}


def test_show_explains_what_cannot_be_shown(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"\xff\xff")
    for path, message in [
        (tmp_path / "missing", "NOT_FOUND: "),
        (tmp_path, "holds neither a SavedModel (saved_model.pb) nor version folders"),
        (tmp_path / "broken", "DATA_LOSS: "),
    ]:
        done = run_to_end("servable", "show", str(path))
        assert done.returncode == 255
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_serving_without_tensorflow_says_what_to_install(tmp_path: Path) -> None:
    environment = hiding(tmp_path / "hidden", "tensorflow")
    (port,) = free_ports(1)
    flags = [f"--port={port}", f"--model_base_path={HALF_PLUS_TWO}"]
    done = run_to_end("servable", "serve", *flags, environment=environment)
    assert done.returncode == 255
    assert "FAILED_PRECONDITION: TensorFlow is not installed: pip install 'servable[tensorflow-cpu]'" in done.stdout
