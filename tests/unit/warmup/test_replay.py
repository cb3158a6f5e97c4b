from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from servable.errors import ServableError
from servable.types import WarmupOptions
from servable.warmup import sizes
from servable.warmup.file import MOST_RECORDS, warmup_file
from servable.warmup.replay import WarmUp

from tests.unit.fakes import FakeClock, FakeCodec

if TYPE_CHECKING:
    from servable.engine import EngineError, Servable


class FakeEngineError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class FakeServable:
    """Refuses records that are no words, fails for some words, and for `bad8` with eight rows."""

    def __init__(self, *signatures: str, inputs: Mapping[str, Sequence[int]] | None = None) -> None:
        self._signatures = signatures
        self._inputs = {
            name: {"dtype": "DT_INT32", "shape": shape, "has_default": False} for name, shape in (inputs or {}).items()
        }
        self.answered: list[tuple[bytes, int, bool]] = []

    @property
    def shapes(self) -> list[list[int]]:
        """Of the input of each request."""
        requests = [json.loads(record)["predict_log"]["request"] for record, _, _ in self.answered]
        return [[dim["size"] for dim in request["inputs"]["x"]["tensor_shape"]["dim"]] for request in requests]

    def signatures(self) -> str:
        return json.dumps(
            {name: {"method_name": "", "inputs": self._inputs, "outputs": {}} for name in self._signatures}
        )

    def warm_up(self, record: bytes, iterations: int = 1, check_method_names: bool = False) -> None:
        if b"\xff" in record:
            raise ValueError("no PredictionLog")
        if b"bad" in record and (b"bad8" not in record or b'"size": 8' in record):
            raise FakeEngineError("OUT_OF_RANGE", "index 9\n\t[[node]]")
        if record == b"unsupported":
            raise FakeEngineError("UNIMPLEMENTED", "Unsupported log_type for warmup: 5")
        self.answered.append((record, iterations, check_method_names))


class World:
    def __init__(self, folder: Path, records: Iterable[bytes] | None = None, **options: Any) -> None:
        self.folder = folder
        self.path = warmup_file(str(folder))
        if records is not None:
            Path(self.path).parent.mkdir()
            Path(self.path).touch()
        self.counted: list[tuple[str, str, int, float]] = []
        clock = FakeClock()

        def read(path: str) -> Iterator[bytes]:
            assert path == self.path
            for record in records or ():
                if record == b"damaged":
                    raise FakeEngineError("DATA_LOSS", f"corrupted record at 7 in {path}")
                clock.now += 0.5
                yield record

        self.warm_up = WarmUp(
            WarmupOptions(**options),
            read_records=read,
            describe_record=lambda record: json.dumps(json.loads(record)["described"]),
            codec=FakeCodec(),
            engine_error=cast("type[EngineError]", FakeEngineError),
            count=lambda path, code, records, took_s: self.counted.append((path, code, records, took_s)),
            clock=clock,
        )

    def run(self, servable: FakeServable, batch_sizes: Sequence[int] = ()) -> None:
        self.warm_up.run(cast("Servable", servable), str(self.folder), batch_sizes)

    def error(self, servable: FakeServable) -> str:
        with pytest.raises(ServableError) as caught:
            self.run(servable)
        return caught.value.status


def test_records_are_sent_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world, servable = World(tmp_path, [b"a", b"b"], iterations=3, check_method_names=True), FakeServable()
    world.run(servable)
    assert servable.answered == [(b"a", 3, True), (b"b", 3, True)]
    assert world.counted == [(str(tmp_path), "OK", 2, 1.0)]
    assert caplog.messages == [
        f"Starting to read warmup data for model at {world.path}",
        f"Finished reading warmup data for model at {world.path}. Number of warmup records read: 2. "
        "Elapsed time (microseconds): 1000000.",
    ]


def test_a_version_without_a_file_is_as_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world, servable = World(tmp_path), FakeServable("s")
    world.run(servable)
    assert (servable.answered, world.counted) == ([], [])
    assert caplog.messages == [f"No warmup data file found at {world.path}"]


@pytest.mark.parametrize("records", [[b"a"], None])
def test_what_is_switched_off_sends_nothing(records: list[bytes] | None, tmp_path: Path) -> None:
    servable = FakeServable("s")
    World(tmp_path, records, enabled=False, synthesize=True).run(servable)
    assert servable.answered == []


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (b"bad", "OUT_OF_RANGE: index 9\n\t[[node]]; this is what warm-up record 2 of {path} came to"),
        (b"unsupported", "UNIMPLEMENTED: Unsupported log_type for warmup: 5"),
        (b"no\xff", "INVALID_ARGUMENT: Failed to parse warmup record: no\\xff from {path}"),
        (
            b"damaged",
            "DATA_LOSS: corrupted record at 7 in {path}. Please verify your warmup data is in TFRecord format.",
        ),
    ],
)
def test_a_record_that_fails_ends_it(record: bytes, status: str, tmp_path: Path) -> None:
    world, servable = World(tmp_path, [b"a", record, b"b"]), FakeServable()
    assert world.error(servable) == status.format(path=world.path)
    assert [answered for answered, _, _ in servable.answered] == [b"a"]
    assert [counted[:3] for counted in world.counted] == [(str(tmp_path), status.partition(":")[0], 1)]


def test_a_long_record_is_not_quoted_in_full(tmp_path: Path) -> None:
    world = World(tmp_path, [b"\xff" * 100_000])
    assert len(world.error(FakeServable())) < 5000


def test_one_record_too_many_is_sent_and_then_an_error(tmp_path: Path) -> None:
    world, servable = World(tmp_path, [b"a"] * (MOST_RECORDS + 5)), FakeServable()
    assert world.error(servable) == (
        f"INVALID_ARGUMENT: Number of warmup records exceeds the maximum (1000) at {world.path}"
    )
    assert len(servable.answered) == MOST_RECORDS + 1


def test_as_many_records_as_may_be(tmp_path: Path) -> None:
    servable = FakeServable()
    World(tmp_path, [b"a"] * MOST_RECORDS).run(servable)
    assert len(servable.answered) == MOST_RECORDS


def test_requests_are_made_where_there_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world, servable = World(tmp_path, synthesize=True, iterations=2), FakeServable("a", "bad", "c")
    world.run(servable)
    sent = [json.loads(record)["predict_log"]["request"]["model_spec"] for record, _, _ in servable.answered]
    assert sent == [{"signature_name": "a"}, {"signature_name": "c"}]
    assert [iterations for _, iterations, _ in servable.answered] == [2, 2]
    assert world.counted == [(str(tmp_path), "OK", 2, 0.0)]
    assert caplog.messages[1:] == [
        f"No warm-up request for signature bad of {tmp_path}: index 9",
        f"Warmed up {tmp_path} with 2 requests made from its signatures in 0.000 s",
    ]


def test_a_version_with_a_file_gets_nothing_else(tmp_path: Path) -> None:
    servable = FakeServable("s")
    World(tmp_path, [], synthesize=True).run(servable)
    assert servable.answered == []


def test_requests_are_made_in_the_sizes_of_batches_too(tmp_path: Path) -> None:
    world, servable = World(tmp_path, synthesize=True, batch_sizes=(1, 4)), FakeServable("s", inputs={"x": [-1, 3]})
    world.run(servable, (8, 4))
    assert servable.shapes == [[1, 3], [4, 3], [8, 3]]
    assert world.counted == [(str(tmp_path), "OK", 3, 0.0)]


def of_rows(rows: int, *, signature: str = "s", width: int = 3) -> bytes:
    """A record, for the fakes, of a request with so many rows."""
    described = {
        "kind": "predict",
        "signature": signature,
        "inputs": {"x": {"dtype": "DT_INT32", "shape": [rows, width]}},
    }
    tensor = {"dtype": "DT_INT32", "tensor_shape": {"dim": [{"size": rows}, {"size": width}]}}
    request = {"model_spec": {"signature_name": signature}, "inputs": {"x": tensor}}
    return json.dumps({"described": described, "predict_log": {"request": request}}).encode()


def test_requests_of_a_file_are_sent_again_in_the_sizes_of_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one of each signature, once, in sizes above its own, and not as records of the file."""
    caplog.set_level(logging.INFO)
    records = [of_rows(2), of_rows(1), of_rows(1, width=5), of_rows(1, signature="bad8")]
    world, servable = World(tmp_path, records, iterations=3), FakeServable()
    world.run(servable, (2, 4, 8))
    assert servable.shapes[:4] == [[2, 3], [1, 3], [1, 5], [1, 3]]
    assert servable.shapes[4:] == [[4, 3], [8, 3], [2, 3], [4, 3]]
    assert [iterations for _, iterations, _ in servable.answered] == [3] * 4 + [1] * 4
    assert [counted[1:3] for counted in world.counted] == [("OK", 4)]
    assert caplog.messages[2:] == [
        f"No batch of 8 for signature bad8 of {world.path}: index 9",
        f"Warmed up with 4 batches of requests from {world.path} in 2.000 s",
    ]


def test_no_request_is_sent_again_that_would_take_much_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    wide = sizes.MOST_TENSOR_BYTES // 4 // 5
    long = of_rows(1, signature="long")[:-1] + b', "more": "' + b"x" * sizes.MOST_BYTES + b'"}'
    world, servable = World(tmp_path, [of_rows(1, signature="wide", width=wide), long]), FakeServable()
    world.run(servable, (4, 5, 6, 8))
    assert servable.shapes[2:] == [[4, wide], [5, wide]]
    assert caplog.messages == [
        f"No batch of 6 for signature wide of {world.path}: it would take more than 128 MiB",
        f"No batch of 4 for signature long of {world.path}: the request takes more than 16 MiB",
    ]


def test_versions_without_such_sizes_get_their_requests_alone(tmp_path: Path) -> None:
    world, servable = World(tmp_path, [of_rows(2)]), FakeServable()
    world.run(servable)
    assert servable.shapes == [[2, 3]]


class Together(FakeServable):
    """Answers when so many requests are there at a time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._barrier = threading.Barrier(count, timeout=10)

    def warm_up(self, record: bytes, iterations: int = 1, check_method_names: bool = False) -> None:
        self._barrier.wait()
        super().warm_up(record, iterations, check_method_names)


def test_requests_are_sent_by_several_threads(tmp_path: Path) -> None:
    world, servable = World(tmp_path, [b"a", b"b", b"c", b"d"], threads=2), Together(2)
    world.run(servable)
    assert sorted(record for record, _, _ in servable.answered) == [b"a", b"b", b"c", b"d"]
    assert [counted[1:3] for counted in world.counted] == [("OK", 4)]


def test_the_first_of_several_that_fails_ends_it(tmp_path: Path) -> None:
    world, servable = World(tmp_path, [b"bad", b"a", *[b"b"] * 100], threads=2), FakeServable()
    assert "this is what warm-up record 1" in world.error(servable)
    assert len(servable.answered) < 10
    assert world.counted[0][1] == "OUT_OF_RANGE"
