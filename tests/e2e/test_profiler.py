"""TensorFlow's own profiler client takes a profile of the server."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from .grpc_client import Grpc, code_of, predict_request
from .server import MODELS, Model, serving

CLIENT = """
import sys
import tensorflow as tf
tf.profiler.experimental.client.trace(sys.argv[1], sys.argv[2], 500, num_tracing_attempts=1)
"""


def test_the_profiler_client_gets_a_trace_of_requests(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    with serving([Model("half", MODELS / "half")], tmp_path) as server, Grpc(server.grpc_address) as client:
        is_done = threading.Event()

        def ask() -> None:
            while not is_done.is_set():
                client.predict(predict_request("half", {"x": [1.0]}))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            command = [sys.executable, "-c", CLIENT, f"grpc://{server.grpc_address}", str(folder)]
            subprocess.run(command, check=True, capture_output=True, timeout=90)
        finally:
            is_done.set()
            asking.join()
    (trace,) = folder.glob("plugins/profile/*/*.xplane.pb")
    assert b"/host:CPU" in trace.read_bytes()


@pytest.mark.parametrize(("flag", "code"), [("true", "INVALID_ARGUMENT"), ("false", "UNIMPLEMENTED")])
def test_the_service_can_be_switched_off(flag: str, code: str, tmp_path: Path) -> None:
    with (
        serving([Model("half", MODELS / "half")], tmp_path, f"--enable_profiler={flag}") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        profile: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/tensorflow.ProfilerService/Profile")
        with pytest.raises(grpc.RpcError) as caught:
            profile(b"", timeout=30)  # a profile of no time at all
    assert code_of(caught.value) == code
