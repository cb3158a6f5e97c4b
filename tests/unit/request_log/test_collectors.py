"""Collectors: what every one has to do, and how files are rotated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import pytest
from servable.engine import RecordReader
from servable.errors import InvalidArgumentError, ServableError
from servable.request_log.collector import Collector, make_collector
from servable.request_log.file import FileCollector
from servable.types import RequestLogOptions

SPOOL = "/not used"
RECORDS = [b"one", b"two" * 100, b"three"]


def read(folder: Path) -> list[bytes]:
    return [record for path in sorted(folder.glob("*.tfrecord")) for record in RecordReader(str(path))]


@pytest.fixture(params=["file", "fsspec"])
def collector(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Collector]:
    prefix = f"{tmp_path}/log/m" if request.param == "file" else f"local://{tmp_path}/log/m"

    def make() -> Collector:
        return make_collector("m", request.param, prefix, RequestLogOptions(f"{tmp_path}/spool", file_bytes=200))

    return make


def test_what_was_taken_is_there_in_the_end(collector: Callable[[], Collector], tmp_path: Path) -> None:
    one = collector()
    one.write(RECORDS[:1])
    one.tend()
    one.write(RECORDS[1:])
    one.close()
    assert read(tmp_path / "log") == RECORDS
    assert len(list((tmp_path / "log").iterdir())) == 3, "none has more than 200 bytes, unless for one record"


def test_servers_may_share_a_prefix(collector: Callable[[], Collector], tmp_path: Path) -> None:
    both = [collector(), collector()]
    for one in both:
        one.write(RECORDS)
    for one in both:
        one.close()
    assert sorted(read(tmp_path / "log")) == sorted(2 * RECORDS)


def test_nothing_is_written_for_nothing(collector: Callable[[], Collector], tmp_path: Path) -> None:
    one = collector()
    one.tend()
    one.close()
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_old_files_go_and_those_of_others_stay(tmp_path: Path) -> None:
    other = FileCollector(f"{tmp_path}/m.v2", RequestLogOptions(SPOOL, file_bytes=1))
    other.write(RECORDS)
    other.close()
    own = FileCollector(f"{tmp_path}/m", RequestLogOptions(SPOOL, file_bytes=1, keep_bytes=50))
    own.write([f"record {number}".encode() for number in range(20)])
    own.close()
    kept = [path.name for path in tmp_path.iterdir() if path.name.startswith("m.2")]
    assert 1 <= len(kept) <= 2
    assert len(list(tmp_path.glob("m.v2.*"))) == 3


def test_a_file_that_is_not_finished_is_not_a_log(tmp_path: Path) -> None:
    one = FileCollector(f"{tmp_path}/m", RequestLogOptions(SPOOL))
    one.write(RECORDS)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    one.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".tfrecord"]


def test_files_reach_other_stores(tmp_path: Path) -> None:
    one = make_collector("m", "fsspec", "memory://logs/m", RequestLogOptions(str(tmp_path)))
    one.write(RECORDS)
    one.close()
    (path,) = fsspec.filesystem("memory").glob("/logs/m.*.tfrecord")
    assert path


@pytest.mark.parametrize(
    ("kind", "prefix", "words"),
    [
        ("", "/p", "type is missing; there are: file, fsspec"),
        ("odd", "/p", "type odd is unknown; there are: file, fsspec; --request_log_collector registers others"),
        ("no.such.module:Class", "/p", "type no.such.module:Class is unknown"),
        ("file", "", "filename_prefix is missing"),
        ("file", "relative", "filename_prefix relative cannot be used"),
        ("fsspec", "/p", "it is no URL"),
        ("fsspec", "simplecache::s3://bucket/p", "it names several stores"),
        ("fsspec", "s3://bucket/p::reference://", "it names several stores"),
        ("fsspec", "reference://p", "the stores that are known: s3://"),
    ],
)
def test_what_cannot_be_is_refused(kind: str, prefix: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"Model m: logging_config.*{words}"):
        make_collector("m", kind, prefix, RequestLogOptions(SPOOL))


@pytest.mark.parametrize(
    ("kind", "prefix", "is_allowed"),
    [
        ("file", "/var/log/m", True),
        ("file", "/var/logs/m", False),
        ("file", "/var/log/../m", False),
        ("fsspec", "s3://bucket/logs/m", True),
        ("fsspec", "s3://bucket/logs/%2E%2e/m", False),
        ("fsspec", "s3://bucket-of-others/logs/m", False),
        ("fsspec", "zip://archive/m", True),
        ("fsspec", "zip://archive/m::s3://bucket/logs/m", False),
    ],
)
def test_roots_bound_where_records_go(kind: str, prefix: str, is_allowed: bool) -> None:
    options = RequestLogOptions(SPOOL, roots=("/var/log", "s3://bucket/", "zip://archive"))
    expected: Any = (
        nullcontext() if is_allowed else pytest.raises(InvalidArgumentError, match="Model m: logging_config")
    )
    with expected:
        make_collector("m", kind, prefix, options)


def dying(kind: str, prefix: str, spool: Path) -> subprocess.Popen[bytes]:
    """A process with a collector that has written the records and half of another one, and has not closed it."""
    script = f"""
import sys, time
from pathlib import Path
from servable.request_log.collector import make_collector
from servable.types import RequestLogOptions

one = make_collector("m", {kind!r}, {prefix!r}, RequestLogOptions({str(spool)!r}))
one.write({RECORDS!r})
(path,) = Path({str(spool.parent)!r}).rglob("*.part")
with open(path, "ab") as file:
    file.write(b"\\x05\\0\\0\\0\\0\\0\\0\\0half a record")
print("written", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


@pytest.mark.parametrize("kind", ["file", "fsspec"])
def test_what_a_killed_server_wrote_is_kept_by_the_next(kind: str, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    prefix = f"{tmp_path}/log/m" if kind == "file" else f"local://{tmp_path}/log/m"
    with dying(kind, prefix, spool) as process:
        one = make_collector("m", kind, prefix, RequestLogOptions(str(spool)))
        one.tend()
        assert not read(tmp_path / "log"), "it is alive, and goes on writing"
        assert len(list(tmp_path.rglob("*.part"))) == 1
        one.close()
        process.kill()
    two = make_collector("m", kind, prefix, RequestLogOptions(str(spool)))
    two.tend()
    assert read(tmp_path / "log") == RECORDS, "half a record is none"
    two.close()
    assert not list(tmp_path.rglob("*.part"))
    assert not list(spool.rglob("*"))


def test_unfinished_files_without_a_record_and_those_of_others(tmp_path: Path) -> None:
    name = "20260101T000000Z-01234567-000000.tfrecord.part"
    (tmp_path / f"m.{name}").write_bytes(b"not a record, but long enough for the header of one")
    (tmp_path / f"m.v2.{name}").write_bytes(b"")
    one = FileCollector(f"{tmp_path}/m", RequestLogOptions(SPOOL))
    one.tend()
    assert [path.name for path in tmp_path.iterdir()] == [f"m.v2.{name}"]


def test_what_a_store_does_not_take_in_the_end_is_left_for_the_next(tmp_path: Path) -> None:
    options = RequestLogOptions(f"{tmp_path}/spool")
    (tmp_path / "log").write_text("no folder")
    one = make_collector("m", "fsspec", f"local://{tmp_path}/log/m", options)
    one.write(RECORDS)
    with pytest.raises(OSError, match="log"):
        one.close()
    (tmp_path / "log").unlink()
    two = make_collector("m", "fsspec", f"local://{tmp_path}/log/m", options)
    two.tend()
    two.close()
    assert read(tmp_path / "log") == RECORDS
    assert not list((tmp_path / "spool").iterdir())


def test_what_waits_for_a_store_is_bounded_and_for_the_servers_user_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no folder")
    spool = tmp_path / "not there" / "spool"
    one = make_collector("m", "fsspec", f"local://{tmp_path}/log/m", RequestLogOptions(str(spool), spool_bytes=1000))
    for _ in range(13):
        one.write([b"record" * 10])
    with pytest.raises(ServableError, match="988 bytes wait to be uploaded") as raised:
        one.write([b"record" * 10])
    assert raised.value.code == "RESOURCE_EXHAUSTED"
    assert sum(path.stat().st_size for path in spool.rglob("*") if path.is_file()) == 988
    assert spool.stat().st_mode & 0o777 == 0o700
    (tmp_path / "log").unlink()
    one.tend()
    one.write([b"record" * 10])
    one.close()
