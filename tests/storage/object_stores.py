"""Real servers of object stores on loopback, each in a process of its own, behind one small door for tests.

    S3      moto_server; `make install` brings it
    GCS     fake-gcs-server: go install github.com/fsouza/fake-gcs-server@latest   (on PATH, or in ~/go/bin)
    Azure   Azurite: npm install --global azurite                                  (on PATH, or named by AZURITE)
    HTTP    python -m http.server

A test that needs a server which is not installed is skipped, but for S3's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import accepts, command, free_ports, wait_until

__all__ = ["KINDS", "ObjectStore", "running"]

AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # Azurite's own
)


@dataclass(frozen=True)
class ObjectStore:
    """A server, and a bucket in it."""

    base: str
    """URI of the bucket."""
    environment: Mapping[str, str]
    """What clients need to find the server, as their users would set it."""
    put: Callable[[str, bytes], None]
    """Write an object, by its name in the bucket."""
    delete: Callable[[str], None]
    stop: Callable[[], None]
    """Kill the server."""

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let clients in this process find the server."""
        from fsspec.config import conf, set_conf_env

        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        for protocol in ("gcs", "s3", "az"):
            monkeypatch.delitem(conf, protocol, raising=False)
        chosen: dict[str, dict[str, str]] = {}
        set_conf_env(chosen, dict(self.environment))
        for protocol, options in chosen.items():
            monkeypatch.setitem(conf, protocol, options)

    def upload(self, folder: Path, prefix: str) -> None:
        """Everything in a folder, `saved_model.pb` last as careful people do it."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "saved_model.pb"):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def running(kind: str, folder: Path) -> Iterator[ObjectStore]:
    """A server of this kind, whose files lie in `folder`; skips the test if it is not installed."""
    with KINDS[kind](folder) as store:
        yield store


@contextmanager
def _process(arguments: list[str], port: int, folder: Path) -> Iterator[Callable[[], None]]:
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )

    def stop() -> None:
        process.kill()
        process.wait()

    try:
        wait_until(lambda: accepts(port), f"{arguments[0]} listens")
        yield stop
    finally:
        stop()


def _installed(name: str, *folders: Path, variable: str = "") -> str:
    path = os.environ.get(variable) or shutil.which(
        name, path=os.pathsep.join([os.environ["PATH"], *map(str, folders)])
    )
    if path is None:
        pytest.skip(f"{name} is not installed; {Path(__file__).name} says how to")
    return path


@contextmanager
def _s3(folder: Path) -> Iterator[ObjectStore]:
    (port,) = free_ports(1)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with _process([command("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, folder) as stop:
        import s3fs

        client = s3fs.S3FileSystem(
            key="somebody",
            secret="secret",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            skip_instance_cache=True,
        )
        client.mkdir("models")
        yield _through_fsspec(client, "s3://models", environment, stop)


@contextmanager
def _gcs(folder: Path) -> Iterator[ObjectStore]:
    program = _installed("fake-gcs-server", Path.home() / "go" / "bin")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # as the store does, before the first import
    pytest.importorskip("gcsfs")
    from gcsfs.core import GCSFileSystem

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    arguments = [program, "-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory", f"-external-url={url}"]
    with _process(arguments, port, folder) as stop:
        client = GCSFileSystem(token="anon", endpoint_url=url, project="test", skip_instance_cache=True)
        client.mkdir("models")
        environment = {"FSSPEC_GCS_ENDPOINT_URL": url, "FSSPEC_GCS_TOKEN": "anon"}
        yield _through_fsspec(client, "gs://models", environment, stop)


@contextmanager
def _azure(folder: Path) -> Iterator[ObjectStore]:
    program = _installed("azurite-blob", variable="AZURITE")
    adlfs = pytest.importorskip("adlfs")
    (port,) = free_ports(1)
    arguments = [
        program,
        "--blobHost=127.0.0.1",
        f"--blobPort={port}",
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
    ]
    with _process(arguments, port, folder) as stop:
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{AZURITE_ACCOUNT};"
        )
        client = adlfs.AzureBlobFileSystem(connection_string=connection, skip_instance_cache=True)
        client.mkdir("models")
        environment = {"AZURE_STORAGE_CONNECTION_STRING": connection}
        yield _through_fsspec(client, "az://models", environment, stop)


@contextmanager
def _http(folder: Path) -> Iterator[ObjectStore]:
    (port,) = free_ports(1)
    root = folder / "www" / "models"
    root.mkdir(parents=True)
    arguments = [sys.executable, "-m", "http.server", "--bind=127.0.0.1", f"--directory={root.parent}", str(port)]

    def put(name: str, content: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    with _process(arguments, port, folder) as stop:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/models/").close()
        yield ObjectStore(f"http://127.0.0.1:{port}/models", {}, put, lambda name: (root / name).unlink(), stop)


def _through_fsspec(client: Any, base: str, environment: Mapping[str, str], stop: Callable[[], None]) -> ObjectStore:
    bucket = base.partition("://")[2]
    return ObjectStore(
        base=base,
        environment=environment,
        put=lambda name, content: client.pipe_file(f"{bucket}/{name}", content),
        delete=lambda name: client.rm_file(f"{bucket}/{name}"),
        stop=stop,
    )


KINDS = {"s3": _s3, "gcs": _gcs, "azure": _azure, "http": _http}
