from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servable.config.access import read_access
from servable.errors import InvalidArgumentError
from servable.types import AccessSpec, RuleSpec

from tests.unit.fakes import FakeCodec

HASH = "0" * 64
KEY = {"caller": "ann", "sha256": HASH}
RULE = {"caller": ["ann"], "may": ["READ"], "model": ["m"]}
JWT = {"algorithm": "HS256", "secret_file": "secret", "issuer": "us", "audience": "a"}


def read(folder: Path, config: Any) -> AccessSpec:
    path = folder / "access.config"
    path.write_text(json.dumps(config))
    return read_access(str(path), FakeCodec())


def test_a_file_becomes_values(tmp_path: Path) -> None:
    certificates = [{"caller": "ann", "common_name": "a"}, {"caller": "bob", "dns_name": "b"}]
    spec = read(tmp_path, {"api_key": [KEY], "certificate": certificates, "rule": [RULE]})
    assert spec.api_keys == ((HASH, "ann"),)
    assert spec.certificates == (("CN=a", "ann"), ("DNS=b", "bob"))
    assert spec.rules == (RuleSpec(("ann",), ("READ",), ("m",)),)


def test_key_files_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (token,) = read(tmp_path, {"jwt": [JWT]}).tokens
    assert (token.key.content, token.key_kind, token.caller_claim, token.leeway_s) == (b"s", "secret", "sub", 60.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"api_key": [{**KEY, "sha256": "12"}]}, "64 hex digits"),
        ({"api_key": [{**KEY, "caller": "*"}]}, "needs a caller"),
        ({"api_key": [{**KEY, "caller": "anonymous"}]}, "needs a caller"),
        ({"api_key": [KEY, {**KEY, "caller": "bob"}]}, "is there twice"),
        ({"certificate": [{"caller": "ann"}]}, "common_name or a dns_name"),
        ({"rule": [RULE]}, "whom no key and no certificate makes known"),
        ({"api_key": [KEY], "rule": [{**RULE, "may": []}]}, "a rule needs caller, may and model"),
        ({"api_key": [KEY], "rule": [{**RULE, "model": ["a*b"]}]}, "only be the last character"),
        ({"api_key": [KEY], "rule": [{**RULE, "may": ["ADMIN"]}]}, "about all models"),
        ({"jwt": [{**JWT, "algorithm": ""}]}, "needs an algorithm"),
        ({"jwt": [{**JWT, "secret_file": ""}]}, "needs one of"),
        ({"jwt": [{**JWT, "audience": ""}]}, "needs an audience"),
    ],
)
def test_what_is_wrong_is_said(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        read(tmp_path, config)
