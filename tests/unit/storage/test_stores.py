from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from servable.config.base_path import REMOTE_SCHEMES
from servable.config.server_config import StorageOptions
from servable.errors import FailedPreconditionError, InvalidArgumentError
from servable.storage.filesystems import KINDS, open_filesystem
from servable.storage.stores import Stores


class Recorded:
    """Opens file systems that list one version, and remembers for what."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, uri: str) -> Any:
        self.opened.append(uri)
        return self

    def invalidate_cache(self) -> None: ...

    def ls(self, path: str, detail: bool) -> list[str]:
        return [f"{path.rstrip('/')}/7"]

    def _strip_protocol(self, path: str) -> str:
        return path


def stores(folder: Path, recorded: Recorded | None = None) -> Stores:
    return Stores(StorageOptions(str(folder / "cache")), open_filesystem=recorded or Recorded())


def test_every_scheme_that_configuration_allows_has_a_store() -> None:
    assert set(KINDS) == set(REMOTE_SCHEMES)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_local_paths_need_no_file_system_of_fsspec(prefix: str, tmp_path: Path) -> None:
    recorded = Recorded()
    (tmp_path / "1").mkdir()
    local = stores(tmp_path, recorded)
    assert local.folders(f"{prefix}{tmp_path}") == ("1",)
    assert local.stamp(f"{prefix}{tmp_path}/1") != ""
    assert recorded.opened == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("scheme", [scheme for scheme in REMOTE_SCHEMES if scheme != "hdfs"])
def test_uris_go_to_the_store_of_their_bucket(scheme: str, tmp_path: Path) -> None:
    recorded = Recorded()
    several = stores(tmp_path, recorded)
    for base_path in (f"{scheme}://a/m", f"{scheme}://a/n", f"{scheme}://b/m"):
        assert several.folders(base_path) == ("7",)
    assert recorded.opened == [f"{scheme}://a/m", f"{scheme}://b/m"]


def test_hdfs_goes_to_its_store_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", sys)
    assert stores(tmp_path).folders("hdfs://name:9000/m") == ("7",)


@pytest.mark.parametrize(
    ("base_path", "package", "extra"),
    [
        ("s3://bucket/m", "s3fs", "s3"),
        ("gs://bucket/m", "gcsfs", "gcs"),
        ("abfs://box/m", "adlfs", "azure"),
        ("hdfs://name/m", "pyarrow", "hdfs"),
        ("https://host/m", "aiohttp", "http"),
        ("s3://bucket/m", "fsspec", "s3"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    base_path: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for ask in (stores(tmp_path).check, stores(tmp_path).folders, stores(tmp_path).bring):
        with pytest.raises(FailedPreconditionError) as caught:
            ask(base_path)
        assert caught.value.message.startswith(f"{base_path} cannot be read: {base_path.partition(':')[0]}:// needs")
        assert caught.value.message.endswith(f"pip install 'servable[{extra}]'")
    assert stores(tmp_path).stamp(base_path) == ""


@pytest.mark.parametrize("base_path", ["ftp://host/m", "s3://", "relative", "file://host/m"])
def test_what_is_no_store_is_refused(base_path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        stores(tmp_path).check(base_path)


def test_what_users_choose_goes_before_what_we_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"read_timeout": 7}})
    opened = open_filesystem("s3://bucket/m")
    assert (opened.endpoint_url, opened.config_kwargs) == ("http://127.0.0.1:1", {"read_timeout": 7})
    monkeypatch.delitem(conf, "s3")
    assert open_filesystem("s3://bucket/m").config_kwargs["read_timeout"] == 30
