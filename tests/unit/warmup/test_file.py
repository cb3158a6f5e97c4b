from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from servable.errors import ServableError
from servable.warmup.file import warmup_file, write_file


def write(path: str, records: Sequence[bytes]) -> None:
    Path(path).write_bytes(b"".join(records))
    if b"fail" in records:
        raise ServableError("disk full")


def test_a_file_is_put_in_place(tmp_path: Path) -> None:
    path = warmup_file(str(tmp_path / "1"))
    write_file(path, [b"a", b"b"], force=False, write_records=write)
    assert path == str(tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests")
    assert Path(path).read_bytes() == b"ab"
    assert [child.name for child in Path(path).parent.iterdir()] == [Path(path).name]


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ServableError, match="--force") as caught:
        write_file(str(path), [b"new"], force=False, write_records=write)
    assert caught.value.code == "ALREADY_EXISTS"
    assert path.read_bytes() == b"old"
    write_file(str(path), [b"new"], force=True, write_records=write)
    assert path.read_bytes() == b"new"


def test_what_goes_wrong_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ServableError, match="disk full"):
        write_file(str(path), [b"fail"], force=True, write_records=write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
