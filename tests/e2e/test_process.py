"""What the serving process is made of: TensorFlow's libraries, and nothing of its Python."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from tests.e2e.grpc_client import Grpc, predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import HALF_PLUS_TWO, ServerProcess
from tests.e2e.siege import MIB, memory_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def mapped(server: ServerProcess) -> set[str]:
    """The names of the files that are mapped into the memory of a process."""
    lines = Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]).name for line in lines if len(line.split(maxsplit=5)) == 6}


def test_the_serving_process_never_imports_tensorflows_python(server: ServerProcess, grpc: Grpc, rest: Rest) -> None:
    for name in ("half", "lookup", "keras", "tf1_legacy"):
        assert rest.get(f"/v1/models/{name}/metadata").status == 200
    assert rest.predict("half", {"instances": [1]}).json == {"predictions": [2.5]}
    assert grpc.predict(predict_request("half", {"x": [1.0]})).outputs["y"].float_val[0] == 2.5
    files = mapped(server)
    assert "libtensorflow_cc.so.2" in files
    assert "_engine.abi3.so" in files
    assert not [name for name in files if "pywrap" in name or "numpy" in name or "_multiarray" in name]


def test_a_server_that_is_done_with_its_requests_holds_no_connections(server: ServerProcess) -> None:
    def sockets() -> int:
        links = []
        for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
            try:
                links.append(str(entry.readlink()))
            except FileNotFoundError:  # closed in the meantime
                continue
        return sum(link.startswith("socket:") for link in links)

    with Rest(server.rest_port) as client:
        client.get("/livez")
        before = sockets()
        for _ in range(50):
            with Rest(server.rest_port) as another:
                another.get("/livez")
        server.wait_for(lambda: sockets() <= before, "the connections are closed")


def test_memory_that_requests_needed_goes_back_without_an_unload(tmp_path: Path) -> None:
    """Without it, glibc keeps some 40 MB of what these requests take."""

    def ask(times: int, numbers: int) -> None:
        with Rest(server.rest_port) as client:
            for _ in range(times):
                assert client.predict("default", {"instances": [1.0] * numbers}).status == 200

    flags = [f"--model_base_path={HALF_PLUS_TWO}", "--memory_release_seconds=0.2"]
    with ServerProcess(flags, tmp_path / "log") as server:
        server.wait_ready()
        ask(5, 10)
        before = memory_bytes(server)
        clients = [threading.Thread(target=ask, args=(4, 200_000)) for _ in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        server.wait_for(lambda: memory_bytes(server) < before + 20 * MIB, "memory has gone back")
