from __future__ import annotations

import pytest
from servable.config.base_path import is_absolute, is_supported, local_path, place_of, scheme_of


@pytest.mark.parametrize(
    ("path", "scheme", "place", "local", "supported"),
    [
        ("/models", "", "", "/models", True),
        ("models", "", "", "models", False),
        ("", "", "", "", False),
        ("C:/models", "", "", "C:/models", False),
        ("file:///models/a b", "file", "", "/models/a b", True),
        ("file://host/models", "file", "host", "host/models", False),
        ("s3://bucket/models", "s3", "bucket", None, True),
        ("S3://bucket", "s3", "bucket", None, True),
        ("s3://", "s3", "", None, False),
        ("gs://bucket/a/b/", "gs", "bucket", None, True),
        ("abfs://box@account.dfs.core.windows.net/m", "abfs", "box@account.dfs.core.windows.net", None, True),
        ("hdfs://name:9000/m", "hdfs", "name:9000", None, True),
        ("https://host:8443/m", "https", "host:8443", None, True),
        ("ftp://host/m", "ftp", "host", None, False),
        ("http://host::reference:/m", "http", "host::reference:", None, False),
    ],
)
def test_what_a_base_path_is(path: str, scheme: str, place: str, local: str | None, supported: bool) -> None:
    assert scheme_of(path) == scheme
    assert is_supported(path) == supported
    assert local_path(path) == local
    if scheme:
        assert place_of(path) == place
    assert is_absolute(path) == (bool(scheme) or path.startswith("/"))
