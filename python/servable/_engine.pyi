"""The compiled engine: sockets, decoding, routing, running sessions, encoding.

Everything here is thread-safe. A method that waits lets other Python threads run meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import final

from servable.types import AccessSpec, BatchingSpec, ModelRoutes, ServerSpec, SessionSpec, TlsSpecs

__all__ = [
    "ControlCall",
    "EngineError",
    "RecordReader",
    "Runtime",
    "Servable",
    "Server",
    "decode_message",
    "describe_record",
    "encode_json",
    "encode_text",
    "frame_records",
    "log_panics",
    "make_records",
    "read_saved_model",
    "release_memory",
    "write_records",
]

class EngineError(Exception):
    """Something failed inside the engine, or inside TensorFlow. `args` is `(code name, message)`."""

    @property
    def code(self) -> str:
        """Canonical code name, such as `NOT_FOUND`."""

    @property
    def message(self) -> str: ...

@final
class Runtime:
    """TensorFlow's libraries, opened through the C API. One per process: opening again gives the same one."""

    @staticmethod
    def open(framework: str, library: str) -> Runtime:
        """Open the framework library (globally) and then the one with the C API, by their paths.

        `EngineError` FAILED_PRECONDITION if a file does not load or lacks a symbol.
        """

    @property
    def version(self) -> str:
        """TensorFlow's version, such as `2.21.0`."""

    def devices(self, config: bytes) -> list[tuple[str, int]]:
        """The kinds (`CPU`, `GPU`) and bytes of memory of the devices that TensorFlow found; it may take a second.

        `config` is the serialised `tensorflow.ConfigProto` of the sessions to come: the first one in a process decides
        how much of a device's memory is taken.
        """

    def register_ops(self, library: str) -> None:
        """Load a library of custom ops (`TF_LoadLibrary`). Loading one twice does no harm."""

    def load(
        self, name: str, version: int, path: str, session: SessionSpec, batching: BatchingSpec | None = None
    ) -> Servable:
        """Load the SavedModel in the folder `path`. Waits; the work is done on a thread of low priority.

        Without `batching`, requests are run one by one.
        `EngineError` with TensorFlow's code and message. An op that is not registered: NOT_FOUND, the message
        contains `Op type not registered '<op>'`.
        """

@final
class Servable:
    """A loaded version of a model."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def idle_s(self) -> float:
        """Seconds since its last run, or since it was loaded."""

    def signatures(self) -> str:
        """Its signatures as JSON, in the form that `read_saved_model` has for those of one meta graph."""

    def batching(self) -> str | None:
        """What batching did since it was loaded, as JSON; `None` if its requests are run one by one.

        `{"mode": "fixed" or "self_tuning", "latency_slo_ms": 20.0 or null, "queues": [...]}`, where a queue has what
        `BatchingQueue` in `servable_admin.proto` has, under the same names; its signature is null if it has none.
        """

    def warm_up(self, record: bytes, iterations: int = 1, check_method_names: bool = False) -> None:
        """Run the request in a serialised `tensorflow.serving.PredictionLog` so many times.

        Waits; the work is done on a thread of low priority, as loading is. Which model and version the request names
        does not matter; a record without a request does nothing. `ValueError` if the record does not parse;
        `EngineError` if the request fails, UNIMPLEMENTED if it is of a kind that is not run. Works before the servable
        is published, and until it is unloaded.
        """

    def unload(self, timeout_s: float | None) -> bool:
        """Give up this handle, wait for the requests that use the servable, then close it.

        Take it out of the published routes first. True once it is closed (also if it already was); false if the
        timeout passed first, and then it may be called again. The handle cannot be published after the first call.
        """

@final
class ControlCall:
    """A call from the network that the control plane has to answer. Dropped without an answer, it fails as INTERNAL."""

    @property
    def method(self) -> str:
        """`HandleReloadConfigRequest`; `Load`, when a request waits for a version that is not loaded; from the admin
        port an RPC's full name, `servable.admin.v1.Admin/AddModel`, or a verb and a target,
        `PUT /admin/v1/models/m?wait=false`."""

    @property
    def request(self) -> bytes:
        """The serialised request message: a `tensorflow.serving.ReloadConfigRequest`, a `.ModelSpec` for `Load`; JSON
        after a verb."""

    def reply(self, response: bytes) -> None: ...
    def fail(self, code: str, message: str) -> None: ...

@final
class Server:
    """The listeners and the table of routes behind them."""

    def __new__(cls, spec: ServerSpec) -> Server: ...
    def publish(self, models: Mapping[str, ModelRoutes]) -> None:
        """Replace the whole table of routes atomically. Requests in flight keep the servable they resolved."""

    def open(self) -> None:
        """Open the monitoring and the admin port, which tell how the server is from then on. Once is enough.

        `EngineError` UNAVAILABLE names the address that cannot be had.
        """

    def set_tls(self, specs: TlsSpecs) -> None:
        """Secure new connections with this from now on, before the start or later.

        `EngineError` INVALID_ARGUMENT says what is wrong with which file; then all stays as it was.
        """

    def set_access(self, spec: AccessSpec) -> None:
        """Let new requests be judged by these rules. Before the first call everybody may do everything.

        `EngineError` INVALID_ARGUMENT says what is wrong; then all stays as it was.
        """

    def start(self) -> None:
        """Open the main listeners, and what `open` has not been asked for. From then on the server is ready.

        `EngineError` as for `open`, and a failed start may be repeated; FAILED_PRECONDITION after a successful one.
        """

    @property
    def grpc_port(self) -> int | None:
        """The TCP port that gRPC listens on, once started; the real one where the spec said 0."""

    @property
    def rest_port(self) -> int | None: ...
    @property
    def admin_port(self) -> int | None: ...
    @property
    def monitoring_port(self) -> int | None: ...
    def snapshot(self) -> Mapping[str, int]:
        """Counters of this moment: `connections`, `requests_in_flight`, `requests_total`."""

    def metrics_page(self) -> str:
        """The page of metrics of this moment, as TensorFlow Serving has it."""

    def count_warmup(self, path: str, code: str, records: int, took_s: float) -> None:
        """Count the warm-up of the version in the folder `path`, for the page of metrics. `code` says how it ended."""

    def capture(self, model: str, count: int, max_bytes: int, timeout_s: float) -> list[bytes]:
        """Wait for the next requests that a model answers, and give them as serialised `PredictionLog`s.

        So many, or fewer if they would take more bytes than that, the time is over or the server stops. Requests that
        fail are left out. `EngineError` NOT_FOUND for a model that is not configured, FAILED_PRECONDITION while another
        capture goes on.
        """

    def log_requests(self, rates: Mapping[str, float]) -> None:
        """Log so much of the requests, from 0 to 1, for the models of these names, and of no others."""

    def next_log_records(self, timeout_s: float) -> list[tuple[str, bytes]]:
        """Models and serialised `PredictionLog`s of requests that were sampled and answered, about 4 MiB at most.

        None after the timeout, and at once when the server has stopped and all have been fetched. They wait in a queue
        of 64 MiB and 65,536 records; what does not fit there is dropped and counted.
        """

    def count_logged(self, model: str, code: str, records: int) -> None:
        """Count records that a collector has brought where they belong, or refused with this code."""

    def count_log_dropped(self, model: str, reason: str, records: int) -> None:
        """Count records that were lost."""

    def next_call(self, timeout_s: float) -> ControlCall | None:
        """The next call for the control plane; `None` after the timeout, and at once when the server has stopped."""

    def leave(self) -> None:
        """Not ready from now on, so that clients go elsewhere. Requests are answered as before."""

    def stop(self, deadline_s: float) -> bool:
        """Drain: not ready any more, no new connections, requests in flight finish. True if all did in time.

        The monitoring port answers until then.
        """

@final
class RecordReader:
    """The records of a TFRecord file, in order, each read when it is asked for.

    `EngineError` NOT_FOUND if there is no such file; later DATA_LOSS for what is no record, or is damaged, and that is
    the end then. A file that is shorter than the header of a record has none.
    """

    def __new__(cls, path: str) -> RecordReader: ...
    def __iter__(self) -> RecordReader: ...
    def __next__(self) -> bytes: ...

def write_records(path: str, records: Sequence[bytes]) -> None:
    """Write a TFRecord file, in place of what there is; its bytes are on the disk afterwards."""

def frame_records(records: Sequence[bytes]) -> bytes:
    """The records as they stand in a TFRecord file, one after the other."""

def describe_record(record: bytes) -> str:
    """What a serialised `tensorflow.serving.PredictionLog` asks for, as JSON.

    `{"kind": "predict", "signature": "serving_default", "inputs": {name: {"dtype": "DT_FLOAT", "shape": [1, 3]}}}`;
    with `"examples": 2` in place of inputs for `classify`, `regress` and `multi_inference`, whose signatures are joined
    with commas. Only the kind for `session_run`, `predict_streamed` and `none`. `ValueError` if it does not parse.
    """

def make_records(path: str, tags: Sequence[str], signature_name: str, bodies: Sequence[bytes]) -> list[bytes]:
    """Bodies of REST requests as serialised `PredictionLog`s, with the types that the SavedModel in `path` asks for.

    `instances` and `inputs` are for Predict, `examples` for what their signature is made for. `signature_name` counts
    for bodies that name none; empty, it means `serving_default`. `EngineError` says which body does not fit, and why.
    """

def log_panics(json: bool) -> None:
    """Let panics of the engine's threads be one line each on standard error, as text or JSON. For the whole process."""

def encode_text(message: str, text: str) -> bytes:
    """Protobuf text format to bytes. `message` is the full name, such as `tensorflow.serving.ModelServerConfig`.

    `ValueError` with `line:column: reason` on bad text; `KeyError` for an unknown message.
    """

def encode_json(message: str, json: str) -> bytes:
    """Proto JSON to bytes. `ValueError` with the reason on bad JSON."""

def decode_message(message: str, data: bytes) -> str:
    """Bytes to proto JSON, with the field names of the .proto file, 64-bit integers as numbers, defaults left out.

    `ValueError` if the bytes do not parse.
    """

def release_memory() -> None:
    """Gives memory that is free, and that the allocator would keep, back to the system."""

def read_saved_model(path: str) -> str:
    """What the SavedModel in the folder `path` offers, as JSON, without TensorFlow.

    `{"meta_graphs": [{"tags": [...], "tensorflow_version": "...", "signatures": {name: {"method_name", "inputs":
    {name: {"dtype": "DT_FLOAT", "shape": [-1, 3] or null for unknown rank, "tensor": "x:0", "has_default": false}},
    "outputs": {...}}}}]}`. `EngineError` NOT_FOUND where there is no SavedModel, DATA_LOSS where it does not parse.
    """
