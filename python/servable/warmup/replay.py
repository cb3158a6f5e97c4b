"""Warming a version up: the requests that it brings along, or requests made from its signatures, are sent to it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from typing import TYPE_CHECKING, Any, Protocol

from servable.config.codec import Codec
from servable.errors import InvalidArgumentError, ServableError
from servable.types import WarmupOptions
from servable.warmup.file import MOST_RECORDS, warmup_file
from servable.warmup.sizes import enlarged, outline, too_much
from servable.warmup.synthesis import MESSAGE, synthesize

if TYPE_CHECKING:
    from servable.engine import EngineError, Servable

__all__ = ["CountWarmup", "WarmUp", "count_nothing"]

log = logging.getLogger(__name__)

LONGEST_QUOTE = 1000
"""Bytes of a record that an error message quotes."""


class CountWarmup(Protocol):
    """Told of each warm-up that has ended: the version's folder, how, after how many records and what time."""

    def __call__(self, path: str, code: str, records: int, took_s: float) -> None: ...


def count_nothing(path: str, code: str, records: int, took_s: float) -> None:
    """For those who do not count."""


class WarmUp:
    """Sends warm-up requests to versions that have been loaded and that nobody else can reach yet.

    `read_records`, `describe_record`, `codec` and `engine_error` are the engine's.
    """

    def __init__(
        self,
        options: WarmupOptions,
        *,
        read_records: Callable[[str], Iterable[bytes]],
        describe_record: Callable[[bytes], str],
        codec: Codec,
        engine_error: type[EngineError],
        count: CountWarmup = count_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._read_records = read_records
        self._describe_record = describe_record
        self._codec = codec
        self._engine_error = engine_error
        self._count = count
        self._clock = clock

    def run(self, servable: Servable, folder: str, batch_sizes: Sequence[int] = ()) -> None:
        """Warm up the version loaded from `folder`. Waits; may be called from several threads at a time.

        `batch_sizes` are those that its batches are filled up to, if they are: requests of these sizes are sent too.
        `ServableError` if it brings requests and one of them fails, or their file is broken. Requests that are made
        here may fail: nobody knows what the model makes of zeros, or of more rows.
        """
        if not self._options.enabled:
            return
        path = warmup_file(folder)
        if os.path.exists(path):
            log.info("Starting to read warmup data for model at %s", path)
            records, took_s = self._counted(folder, self._replayed(servable, path))
            log.info(
                "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
                "Elapsed time (microseconds): %d.",
                *(path, records, took_s * 1e6),
            )
            if batch_sizes:
                self._enlarge(servable, path, batch_sizes)
            return
        log.info("No warmup data file found at %s", path)
        if self._options.synthesize:
            sizes = sorted({*self._options.batch_sizes, *batch_sizes})
            requests, took_s = self._counted(folder, self._tried(servable, folder, sizes))
            log.info("Warmed up %s with %d requests made from its signatures in %.3f s", folder, requests, took_s)

    def _counted(self, folder: str, requests: Iterable[None]) -> tuple[int, float]:
        """Go through requests, which are sent meanwhile. How many there were, and how long that took."""
        start = self._clock()
        sent, code = 0, "UNKNOWN"
        try:
            for _ in requests:
                sent += 1
            code = "OK"
        except ServableError as error:
            code = error.code
            raise
        finally:
            took_s = self._clock() - start
            self._count(folder, code, sent, took_s)
        return sent, took_s

    def _replayed(self, servable: Servable, path: str) -> Iterable[None]:
        """As many at a time as there are threads; the first that fails is the last to be begun."""
        with ThreadPoolExecutor(self._options.threads, "warmup") as threads:
            sent: set[Future[None]] = set()
            for number, record in enumerate(self._records(path), 1):
                sent.add(threads.submit(self._replay, servable, record, number, path))
                if len(sent) == self._options.threads or number > MOST_RECORDS:
                    done, sent = wait(sent, return_when=FIRST_COMPLETED)
                    yield from (one.result() for one in done)
                if number > MOST_RECORDS:
                    raise InvalidArgumentError(
                        f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {path}"
                    )
            yield from (one.result() for one in as_completed(sent))

    def _replay(self, servable: Servable, record: bytes, number: int, path: str) -> None:
        try:
            self._send(servable, record)
        except ValueError as error:
            quoted = record[:LONGEST_QUOTE].decode(errors="backslashreplace")
            raise InvalidArgumentError(f"Failed to parse warmup record: {quoted} from {path}") from error
        except self._engine_error as error:
            is_known = error.message.startswith("Unsupported log_type")
            place = "" if is_known else f"; this is what warm-up record {number} of {path} came to"
            raise ServableError(error.message + place, code=error.code) from error

    def _records(self, path: str) -> Iterable[bytes]:
        try:
            yield from self._read_records(path)
        except self._engine_error as error:
            hint = ". Please verify your warmup data is in TFRecord format." if error.code == "DATA_LOSS" else ""
            raise ServableError(error.message + hint, code=error.code) from error

    def _enlarge(self, servable: Servable, path: str, batch_sizes: Sequence[int]) -> None:
        """Send the first request of each signature in the file again, in larger sizes, each once. They are not counted
        as records.
        """
        seen: set[tuple[str, str]] = set()
        sent, start = 0, self._clock()
        for record in self._records(path):
            found = outline(json.loads(self._describe_record(record)), len(record))
            if found is None or (found.kind, found.signature) in seen:
                continue
            seen.add((found.kind, found.signature))
            larger = sorted(size for size in set(batch_sizes) if size > found.rows)
            request: Mapping[str, Any] = {}
            for size in larger:
                reason = too_much(found, len(record), size)
                if not reason:
                    request = request or json.loads(self._codec.decode_message(MESSAGE, record))
                    try:
                        self._send(servable, self._encoded(enlarged(request, found.rows, size, len(record))), once=True)
                    except self._engine_error as error:
                        reason = error.message.partition("\n")[0]
                if reason:
                    log.warning("No batch of %d for signature %s of %s: %s", size, found.signature, path, reason)
                    break
                sent += 1
        log.info("Warmed up with %d batches of requests from %s in %.3f s", sent, path, self._clock() - start)

    def _tried(self, servable: Servable, folder: str, batch_sizes: Sequence[int]) -> Iterable[None]:
        made, left_out = synthesize(json.loads(servable.signatures()), batch_sizes)
        for signature in left_out:
            log.warning("No warm-up request for signature %s of %s: %s", signature.signature, folder, signature.reason)
        refused: set[str] = set()
        for request in made:
            if request.signature in refused:
                continue
            try:
                self._send(servable, self._encoded(request.log))
            except self._engine_error as error:
                refused.add(request.signature)
                reason = error.message.partition("\n")[0]
                log.warning("No warm-up request for signature %s of %s: %s", request.signature, folder, reason)
            else:
                yield

    def _encoded(self, request: Mapping[str, Any]) -> bytes:
        return self._codec.encode_json(MESSAGE, json.dumps(request))

    def _send(self, servable: Servable, record: bytes, *, once: bool = False) -> None:
        servable.warm_up(record, 1 if once else self._options.iterations, self._options.check_method_names)
