"""A server whose models lie in object stores, from its flags to its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, Model, ServerProcess, config_text, hiding, run_to_end
from tests.storage.object_stores import KINDS, ObjectStore, running

MULTI = MODELS / "multi"
FLAGS = ("--remote_poll_wait_seconds=0.5", "--max_num_load_retries=0")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    (tmp_path / "store").mkdir()
    with running(request.param, tmp_path / "store") as store:
        yield store


def serve(store: ObjectStore, folder: Path, *flags: str, log: str = "log") -> ServerProcess:
    return ServerProcess(
        [
            f"--model_base_path={store.base}/multi",
            "--model_name=multi",
            f"--model_cache_dir={folder}/cache",
            *FLAGS,
            *flags,
        ],
        folder / log,
        environment=store.environment,
    )


def wait_for_log(server: ServerProcess, text: str) -> None:
    server.wait_for(lambda: text in server.log, f"the log says {text}")


def copies(folder: Path) -> int:
    return len(list((folder / "cache").glob("*/manifest.json")))


def test_versions_in_a_store_come_and_go(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(MULTI / "1", "multi/1")
    with serve(store, tmp_path) as server:
        server.wait_ready()
        with Rest(server.rest_port) as rest:
            assert rest.predict("multi", {"inputs": 0}).json == {"outputs": 1.0}
            store.upload(MULTI / "2", "multi/2")
            server.wait_for(lambda: rest.states("multi") == {"2": "AVAILABLE", "1": "END"}, "the new version serves")
            assert rest.predict("multi", {"inputs": 0}).json == {"outputs": 2.0}
            for path in (MULTI / "2").rglob("*"):
                if path.is_file():
                    store.delete(f"multi/2/{path.relative_to(MULTI / '2')}")
            if not store.base.startswith("http"):  # there, an empty folder stays
                server.wait_for(lambda: rest.states("multi") == {"2": "END", "1": "AVAILABLE"}, "the old one is back")


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_two_servers_share_their_copies(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(MULTI / "1", "multi/1")
    with serve(store, tmp_path, log="1") as one, serve(store, tmp_path, log="2") as other:
        for server in (one.wait_ready(), other.wait_ready()):
            with Rest(server.rest_port) as rest:
                assert rest.predict("multi", {"inputs": 0}).json == {"outputs": 1.0}
    assert copies(tmp_path) == 1


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_store_that_goes_does_not_hurt_what_is_served(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(MULTI / "1", "multi/1")
    models = [Model("remote", Path("/")), Model("local", tmp_path / "local")]
    config = tmp_path / "models.config"
    config.write_text(config_text(models).replace("base_path: '/'", f"base_path: '{store.base}/multi'"))
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "1").symlink_to(MULTI / "1")
    flags = [f"--model_config_file={config}", f"--model_cache_dir={tmp_path}/cache", *FLAGS]
    with ServerProcess(flags, tmp_path / "log", environment=store.environment) as server:
        server.wait_ready()
        store.stop()
        with Rest(server.rest_port) as rest:
            wait_for_log(server, "Could not find base path s3://models/multi")
            (tmp_path / "local" / "2").symlink_to(MULTI / "2")
            server.wait_for(lambda: rest.states("local") == {"2": "AVAILABLE", "1": "END"}, "the other model moves on")
            assert rest.predict("remote", {"inputs": 0}).json == {"outputs": 1.0}


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_old_copies_go_when_the_cache_is_full(store: ObjectStore, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (MULTI / "1").rglob("*") if path.is_file())
    store.upload(MULTI / "1", "multi/1")
    with serve(store, tmp_path, f"--model_cache_bytes={size * 5 // 2}") as server:
        server.wait_ready()
        for version in (2, 3, 4):
            store.upload(MULTI / str(min(version, 3)), f"multi/{version}")
            wait_for_log(server, f"Done unloading servable version {{name: multi version: {version - 1}}}")
    assert copies(tmp_path) == 2


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_an_upload_that_is_not_finished_is_not_loaded(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(MULTI / "1", "multi/1")
    with serve(store, tmp_path, "--version_marker_file=DONE") as server:
        server.wait_for(lambda: "GET" in (tmp_path / "store" / "server.log").read_text(), "the store is asked")
        assert not server.is_open()
        store.put("multi/1/DONE", b"")
        server.wait_ready()


@pytest.mark.parametrize(
    ("base_path", "error"),
    [
        (
            "s3://bucket/m",
            "FAILED_PRECONDITION: s3://bucket/m cannot be read: s3:// needs packages that are not installed",
        ),
        ("ftp://host/m", "INVALID_ARGUMENT: Model default: cannot read ftp://host/m; a base path is an absolute path"),
    ],
)
def test_a_store_that_cannot_be_read_stops_the_start(base_path: str, error: str, tmp_path: Path) -> None:
    environment = hiding(tmp_path / "hidden", "s3fs")
    ended = run_to_end("tensorflow_model_server", f"--model_base_path={base_path}", environment=environment)
    assert ended.returncode == 255
    assert f"Failed to start server. Error: {error}" in ended.stdout
