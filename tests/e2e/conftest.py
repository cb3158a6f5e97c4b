"""Servers of the models in `tensorflow_models`, TensorFlow itself with the same models, and random numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.grpc_client import Grpc
from tests.e2e.random_tensors import SEED
from tests.e2e.rest_client import Rest
from tests.e2e.server import Model, ServerProcess, serving
from tests.e2e.tensorflow_models import Reference, write_all

LIMITS = ("--max_tensor_elements=4000000", "--max_repeated_bytes=1000000")
"""A random mistake may ask for more memory than the machine has."""


@pytest.fixture
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    """Numbers that depend on the seed and the test's name: a test does the same alone and among others."""
    print(f"to repeat this: SERVABLE_TEST_SEED={SEED}")
    return np.random.default_rng([SEED, zlib.crc32(request.node.name.encode())])


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def reference(model_paths: dict[str, Path]) -> Reference:
    return Reference(model_paths)


@pytest.fixture(scope="session")
def model_server(model_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = [Model(name, path) for name, path in model_paths.items()]
    with serving(models, tmp_path_factory.mktemp("models_server"), *LIMITS) as server:
        yield server


@pytest.fixture(scope="session")
def model_grpc(model_server: ServerProcess) -> Iterator[Grpc]:
    with Grpc(model_server.grpc_address) as client:
        yield client


@pytest.fixture
def model_rest(model_server: ServerProcess) -> Iterator[Rest]:
    with Rest(model_server.rest_port) as client:
        yield client


@pytest.fixture(scope="session")
def content_grpc(model_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grpc]:
    """A server that answers with `tensor_content`."""
    models = [Model(name, path) for name, path in model_paths.items()]
    folder = tmp_path_factory.mktemp("models_content")
    flags = (*LIMITS, "--enable_serialization_as_tensor_content")
    with serving(models, folder, *flags) as server, Grpc(server.grpc_address) as client:
        yield client
