"""Every recorded request gets the answer that TensorFlow Serving gave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.contract.recorded import CASES, Client, Json, compare, replaced
from tests.e2e.server import ServerProcess

MODELS = Path(__file__).parents[1] / "models"
GROUPS = {path.stem: json.loads(path.read_text()) for path in sorted(CASES.glob("*.json"))}


def all_cases() -> Iterator[object]:
    for group, content in GROUPS.items():
        for case in sorted(content["cases"], key=lambda case: str(case["server"])):
            yield pytest.param(group, case, id=f"{group}-{case['id']}")


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Client]]:
    """The client of a group's server; servers are started when first needed, one at a time."""
    current: dict[tuple[str, str], Client] = {}
    with ExitStack() as stack:

        def client(group: str, name: str) -> Client:
            if (group, name) not in current:
                stack.close()
                current.clear()
                run = tmp_path_factory.mktemp(f"{group}-{name}")
                current[group, name] = start(stack, GROUPS[group]["servers"][name], run)
            return current[group, name]

        yield client


def start(stack: ExitStack, setup: Json, run: Path) -> Client:
    places = {"${RUN}": str(run), "${MODELS}": str(MODELS)}
    for path, version in setup.get("stage", {}).items():
        shutil.copytree(MODELS / version, run / path)
    for path, text in setup.get("files", {}).items():
        (run / path).write_text(replaced(text, list(places.items())))
    flags = [replaced(flag, list(places.items())) for flag in setup["flags"]]
    server = stack.enter_context(ServerProcess(flags, run / "server.log"))
    server.wait_ready()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = stack.enter_context(grpc.insecure_channel(server.grpc_address, options=options))
    client = Client(server.rest_port, channel, places)
    for step in setup.get("prepare", []):
        client.run(step)
    return client


@pytest.mark.parametrize(("group", "case"), list(all_cases()))
def test_answers_as_recorded(clients: Callable[[str, str], Client], group: str, case: Json) -> None:
    client = clients(group, case["server"])
    for number, step in enumerate(case["steps"]):
        answer = client.run(step)
        if any(case.get(mark) for mark in ("accident", "crash", "hang")):
            continue  # what the original does there is nothing to rely on: an answer is enough
        found = compare(step.get("response"), answer, step.get("match", {}))
        assert not found, f"step {number}: {case['about']}\n" + "\n".join(found)
