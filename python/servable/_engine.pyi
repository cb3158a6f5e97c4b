"""The compiled engine: sockets, decoding, routing, running sessions, encoding.

Everything here is thread-safe. A method that waits lets other Python threads run meanwhile.
"""

from collections.abc import Mapping
from typing import final

from servable.types import ModelRoutes, ServerSpec, SessionSpec

__all__ = [
    "ControlCall",
    "EngineError",
    "Runtime",
    "Servable",
    "Server",
    "decode_message",
    "encode_json",
    "encode_text",
    "read_saved_model",
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

    def register_ops(self, library: str) -> None:
        """Load a library of custom ops (`TF_LoadLibrary`). Loading one twice does no harm."""

    def load(self, name: str, version: int, path: str, session: SessionSpec) -> Servable:
        """Load the SavedModel in the folder `path`. Waits; the work is done on a thread of low priority.

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
        """`HandleReloadConfigRequest`; from the admin port an RPC's full name, `servable.admin.v1.Admin/AddModel`, or
        a verb and a target, `PUT /admin/v1/models/m?wait=false`."""

    @property
    def request(self) -> bytes:
        """The serialised request message (`tensorflow.serving.ReloadConfigRequest`); JSON after a verb."""

    def reply(self, response: bytes) -> None: ...
    def fail(self, code: str, message: str) -> None: ...

@final
class Server:
    """The listeners and the table of routes behind them."""

    def __new__(cls, spec: ServerSpec) -> Server: ...
    def publish(self, models: Mapping[str, ModelRoutes]) -> None:
        """Replace the whole table of routes atomically. Requests in flight keep the servable they resolved."""

    def start(self) -> None:
        """Open the listeners. `EngineError` UNAVAILABLE names the address that cannot be had."""

    @property
    def grpc_port(self) -> int | None:
        """The TCP port that gRPC listens on, once started; the real one where the spec said 0."""

    @property
    def rest_port(self) -> int | None: ...
    @property
    def admin_port(self) -> int | None: ...
    def snapshot(self) -> Mapping[str, int]:
        """Counters of this moment: `connections`, `requests_in_flight`, `requests_total`."""

    def next_call(self, timeout_s: float) -> ControlCall | None:
        """The next call for the control plane; `None` after the timeout, and at once when the server has stopped."""

    def stop(self, deadline_s: float) -> bool:
        """Drain: not ready any more, no new connections, requests in flight finish. True if all did in time."""

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

def read_saved_model(path: str) -> str:
    """What the SavedModel in the folder `path` offers, as JSON, without TensorFlow.

    `{"meta_graphs": [{"tags": [...], "tensorflow_version": "...", "signatures": {name: {"method_name", "inputs":
    {name: {"dtype": "DT_FLOAT", "shape": [-1, 3] or null for unknown rank, "tensor": "x:0", "has_default": false}},
    "outputs": {...}}}}]}`. `EngineError` NOT_FOUND where there is no SavedModel, DATA_LOSS where it does not parse.
    """
