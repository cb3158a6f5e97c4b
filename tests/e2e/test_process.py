"""What the serving process is made of: TensorFlow's libraries, and nothing of its Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.grpc_client import Grpc, predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import ServerProcess

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
