"""What tests of several folders share: a server with models, and clients to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.grpc_client import Grpc
    from tests.e2e.rest_client import Rest
    from tests.e2e.server import ServerProcess

SERVED = (
    "big", "const", "dflt", "echo", "fail", "half", "keras", "lookup", "mm",
    "pair", "ranks", "slow", "tf1", "tf1_legacy", "total", "uneven",
)  # fmt: skip
"""Models that the shared server has besides half_plus_two and multi."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with half_plus_two and the models for tests; `multi` has three versions and two labels."""
    from tests.e2e.rest_client import Rest
    from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, serving

    models = [
        Model("half_plus_two", HALF_PLUS_TWO),
        Model("multi", MODELS / "multi", policy="all {}", labels={"stable": 1, "a:b c": 2}),
        Model("a/b", MODELS / "half"),
        *(Model(name, MODELS / name) for name in SERVED),
    ]
    folder = tmp_path_factory.mktemp("server")
    with serving(models, folder, "--allow_version_labels_for_unavailable_models") as running:
        with Rest(running.rest_port) as client:
            running.wait_for(lambda: client.states("multi") == dict.fromkeys("321", "AVAILABLE"), "all versions load")
        yield running


@pytest.fixture(scope="module")
def grpc(server: ServerProcess) -> Iterator[Grpc]:
    """A channel to the shared server."""
    from tests.e2e.grpc_client import Grpc

    with Grpc(server.grpc_address) as client:
        yield client


@pytest.fixture
def rest(server: ServerProcess) -> Iterator[Rest]:
    """A connection to the shared server."""
    from tests.e2e.rest_client import Rest

    with Rest(server.rest_port) as client:
        yield client
