"""The container's entrypoint, run without a container: which command it makes, and that signals arrive."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.rest_client import Rest
from tests.e2e.server import DEADLINE_S, HALF_PLUS_TWO, REPOSITORY, accepts, free_ports, wait_until

ENTRYPOINT = REPOSITORY / "deploy" / "docker" / "entrypoint.sh"
HEALTHCHECK = REPOSITORY / "deploy" / "docker" / "healthcheck.py"
PORTS = ["--port=8500", "--rest_api_port=8501"]

FAKE = """#!{python}
import json, os, signal, sys
def end(*_):
    os.write(1, b"stopped\\n")
    os._exit({code})
signal.signal(signal.SIGTERM, end)
print(json.dumps([os.getpid(), *sys.argv[1:]]), flush=True)
if "--wait" in sys.argv:
    signal.pause()
sys.exit({code})
"""


def environment(folder: Path, variables: Mapping[str, str], code: int = 0) -> dict[str, str]:
    """An environment in which `tensorflow_model_server` says what it was given."""
    fake = folder / "bin" / "tensorflow_model_server"
    fake.parent.mkdir()
    fake.write_text(FAKE.format(python=sys.executable, code=code))
    fake.chmod(0o755)
    return {"PATH": f"{fake.parent}:/usr/bin:/bin", **variables}


@pytest.mark.parametrize(
    ("variables", "arguments", "expected"),
    [
        ({}, [], ["--model_name=model", "--model_base_path=/models/model"]),
        ({"MODEL_NAME": "ranker"}, [], ["--model_name=ranker", "--model_base_path=/models/ranker"]),
        (
            {"MODEL_NAME": "a b", "MODEL_BASE_PATH": "/my models/*"},
            ["--a=b c", "", "*"],
            ["--model_name=a b", "--model_base_path=/my models/*/a b", "--a=b c", "", "*"],
        ),
        (
            {"MODEL_BASE_PATH": "s3://bucket/models"},
            ["--port=9"],
            ["--model_name=model", "--model_base_path=s3://bucket/models/model", "--port=9"],
        ),
        (
            {"TENSORFLOW_INTRA_OP_PARALLELISM": "3", "TENSORFLOW_INTER_OP_PARALLELISM": "4"},
            ["--tensorflow_intra_op_parallelism=5"],
            [
                "--model_name=model",
                "--model_base_path=/models/model",
                "--tensorflow_intra_op_parallelism=3",
                "--tensorflow_inter_op_parallelism=4",
                "--tensorflow_intra_op_parallelism=5",
            ],
        ),
        (
            {"TENSORFLOW_INTRA_OP_PARALLELISM": ""},
            [],
            ["--model_name=model", "--model_base_path=/models/model"],
        ),
    ],
)
def test_what_is_given_comes_after_what_the_image_sets(
    variables: Mapping[str, str], arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [ENTRYPOINT, *arguments],
        env=environment(tmp_path, variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    _, *given = json.loads(done.stdout)
    assert given == [*PORTS, *expected]


@pytest.mark.parametrize("code", [0, 7])
def test_the_server_takes_the_place_of_the_script_and_gets_its_signals(code: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [ENTRYPOINT, "--wait"], env=environment(tmp_path, {}, code), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        number, *_ = json.loads(process.stdout.readline())
        assert number == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == code
        assert process.stdout.read() == "stopped\n"


def test_a_real_server_answers_is_healthy_and_ends_with_0(tmp_path: Path) -> None:
    shutil.copytree(HALF_PLUS_TWO, tmp_path / "half plus two")
    grpc_port, rest_port = free_ports(2)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "MODEL_NAME": "half plus two", "MODEL_BASE_PATH": str(tmp_path)}
    flags = [f"--port={grpc_port}", f"--rest_api_port={rest_port}", "--bind_host=127.0.0.1"]

    def health() -> int:
        url = f"http://127.0.0.1:{rest_port}/readyz"
        command = [sys.executable, str(HEALTHCHECK)]
        done = subprocess.run(command, env={**os.environ, "HEALTH_URL": url}, capture_output=True, check=False)
        return done.returncode

    assert health() == 1
    with subprocess.Popen([ENTRYPOINT, *flags], env=variables, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: accepts(rest_port) or process.poll() is not None, "the server opens its ports")
            assert health() == 0
            with Rest(rest_port) as client:
                assert client.predict("half%20plus%20two", {"instances": [1.0]}).json == {"predictions": [2.5]}
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


@pytest.fixture(params=["Dockerfile", "Dockerfile.gpu"])
def instructions(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what they are given."""
    text = (ENTRYPOINT.parent / request.param).read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    parts = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, rest) for name, rest in parts]


def test_the_image_is_what_people_expect(instructions: list[tuple[str, str]]) -> None:
    known = {"ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL"}
    assert {name for name, _ in instructions} <= known | {"USER", "WORKDIR"}
    bases = [rest for name, rest in instructions if name == "FROM"]
    last = instructions[max(index for index, (name, _) in enumerate(instructions) if name == "FROM") :]
    final = dict(last)
    assert final["EXPOSE"] == "8500 8501"
    assert final["USER"] == "10001:10001"
    assert json.loads(final["ENTRYPOINT"]) == ["/usr/bin/tf_serving_entrypoint.sh"]
    environment = " ".join(rest for name, rest in last if name == "ENV")
    assert {"MODEL_NAME=model", "MODEL_BASE_PATH=/models"} <= set(environment.split())
    check = json.loads(final["HEALTHCHECK"].partition("CMD ")[2])
    assert check[0].endswith("/python")
    versions = dict(rest.split("=", 1) for name, rest in instructions if name == "ARG")
    for base in bases:
        tag = re.sub(r"\$\{(\w+)\}", lambda found: versions[found[1]], base).split(" AS ")[0].partition(":")[2]
        assert re.fullmatch(r"\d+\.\d+\.\d+-slim-\w+", tag), f"{base} is not pinned"


def test_what_is_copied_exists_and_reaches_the_build(instructions: list[tuple[str, str]]) -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [rest.split() for name, rest in instructions if name == "COPY" and "--from=" not in rest]
    sources = [word for words in copied for word in words[:-1] if not word.startswith("--")]
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), f"{source} is ignored"
