"""Values that travel between the parts of the control plane, and across to the engine."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servable._engine import Servable


class State(enum.Enum):
    """Where a version stands, as `GetModelStatus` tells it."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True)
class VersionRoute:
    """One version of a model, as requests and status questions find it."""

    version: int
    state: str
    """Name of a `State`."""
    error_code: str = "OK"
    error_message: str = ""
    servable: Servable | None = None
    """There while requests may reach it."""
    on_demand: bool = False
    """A request for it is worth waiting: it is going to be loaded."""
    memory_bytes: int = 0
    """RAM that it is reckoned to take while it is loaded; 0 if that is not known."""
    remark: str = ""
    """Why it is not there yet, for people: what the last attempt came to."""


@dataclass(frozen=True)
class ModelRoutes:
    """All that is known of one model."""

    versions: Sequence[VersionRoute]
    labels: Mapping[str, int] = field(default_factory=dict)
    configured: bool = True
    """It is to be served; otherwise it was, and the state of its versions can still be asked for."""


@dataclass(frozen=True)
class SessionSpec:
    """How a SavedModel is to be loaded."""

    tags: Sequence[str] = ("serve",)
    config: bytes = b""
    """A serialised `tensorflow.ConfigProto`."""
    quiet: bool = True
    """Load on a thread of low priority. Not for sessions with thread pools of their own, which would inherit that."""


@dataclass(frozen=True)
class BatchingSpec:
    """How requests for a version are gathered into batches.

    Sizes are in rows, which are counted along the first dimension of every input.
    """

    pool: str
    """Versions that name the same pool share its threads."""
    threads: int
    """Batches that the pool runs at a time."""
    most_threads: int | None = None
    """`threads` is what to begin with, and what serves best is learned, up to this; None: nothing is learned."""
    max_batch_size: int = 1000
    """Largest request and, unless large ones are split, largest batch."""
    max_execution_batch_size: int = 1000
    """Largest batch where large requests are split."""
    batch_timeout_us: int = 0
    """Longest wait of a request for others to join it."""
    max_enqueued_batches: int = 10
    """Batches that may wait, the one that still grows among them."""
    allowed_batch_sizes: Sequence[int] = ()
    """Sizes that batches are filled up to, ascending; of any size if there are none."""
    pad_variable_length_inputs: bool = False
    split_large_batches: bool = False
    self_tuning: bool = False
    """Size and wait are learned; `max_batch_size` is a bound and `batch_timeout_us` does not matter."""
    latency_slo_ms: float | None = None
    """What 99 of 100 requests should take at most. For batching that tunes itself."""
    fallback: bool = False
    """What cannot be batched is run on its own instead of being refused."""
    padding_policy: str = "PAD_UP"
    mixed_priority_policy: str = "LOW_PRIORITY_PADDING_WITH_MAX_BATCH_SIZE"
    low_priority_max_batch_size: int = 0
    """Largest request of low priority; 0 if priorities do not matter."""
    low_priority_batch_timeout_us: int = 0
    low_priority_max_enqueued_batches: int = 0
    low_priority_allowed_batch_sizes: Sequence[int] = ()


@dataclass(frozen=True)
class WarmupOptions:
    """What versions are asked before anybody can reach them."""

    enabled: bool = True
    """Send the requests that a version brings along."""
    iterations: int = 1
    """How often each request is sent."""
    synthesize: bool = False
    """Make requests from the signatures of a version that brings none."""
    batch_sizes: tuple[int, ...] = (1,)
    """Sizes of the batches in requests that are made."""
    check_method_names: bool = False
    """As `ServerSpec` has it, for these requests."""
    threads: int = 1
    """Requests of a file that are sent at a time."""


@dataclass(frozen=True)
class RequestLogOptions:
    """Who takes the records of the request log, and how files of them are kept; 0 for no limit."""

    spool_folder: str
    """Where records wait until a store has them. Absolute; made when it is first needed."""
    spool_bytes: int = 256 << 20
    """What those of one prefix may take there."""
    file_bytes: int = 64 << 20
    """Size at which the next file is begun."""
    file_seconds: float = 3600
    """Age at which a file is finished."""
    keep_bytes: int = 1 << 30
    """What the finished files of one prefix may take together."""
    collectors: Mapping[str, str] = field(default_factory=dict)
    """Import strings of collectors by type, beside our own: those that may be named."""
    roots: tuple[str, ...] = ()
    """Folders and URLs below which records may go; none for anywhere."""


@dataclass(frozen=True)
class LimitSpec:
    """Hard limits on what the network may ask for; `None` where the engine's default is to hold."""

    max_message_bytes: int | None = None
    max_body_bytes: int | None = None
    max_decompressed_bytes: int | None = None
    max_json_depth: int | None = None
    max_tensor_elements: int | None = None
    max_repeated_bytes: int | None = None
    max_output_bytes: int | None = None
    max_connections: int | None = None
    max_connections_per_client: int | None = None
    """0 for no such limit, and so for the next two."""
    max_requests_per_client: int | None = None
    max_requests_per_model: int | None = None
    connection_idle_timeout_seconds: float | None = None
    header_timeout_seconds: float | None = None
    max_requests_in_flight: int | None = None
    max_bytes_in_flight: int | None = None


@dataclass(frozen=True)
class GrpcSpec:
    """Settings of gRPC connections; `None` where the engine's default is to hold."""

    keepalive_time_ms: int | None = None
    """How often to ask whether the client is still there."""
    keepalive_timeout_ms: int | None = None
    max_concurrent_streams: int | None = None
    max_metadata_bytes: int | None = None
    max_age_ms: int | None = None
    """A connection of this age is told to end, ..."""
    max_age_grace_ms: int | None = None
    """... and is closed when so much more time has passed. `None`: when its requests are done."""
    max_idle_ms: int | None = None
    """So long without a request, and a connection is told to end."""


@dataclass(frozen=True)
class ServerSpec:
    """What the engine listens on and how it answers."""

    grpc_address: str | None = None
    """`host:port`; port 0 takes a free one."""
    grpc_socket_path: str | None = None
    grpc_socket_mode: int | None = None
    """Permissions of that socket; `None` leaves them to the umask."""
    rest_address: str | None = None
    admin_address: str | None = None
    monitoring_address: str | None = None
    rest_timeout_ms: int | None = 30_000
    """Longest run of a REST request; `None` for no limit."""
    cors: bool = False
    check_method_names: bool = False
    tensor_content: bool = False
    """Predict answers over gRPC carry `tensor_content` instead of typed values."""
    health_service: bool = False
    profiler: bool = False
    """TensorFlow's profiler service is answered."""
    session_service: bool = False
    """`SessionRun` is answered."""
    allow_labels: bool = True
    """Requests may name versions by label."""
    strict_json: bool = False
    """REST reads and writes RFC 8259 rather than the original's JSON."""
    compress_answers: bool = False
    metrics_path: str | None = None
    """Where metrics are under TensorFlow Serving's names; no metrics at all without."""
    metrics_unasked: bool = False
    """No file asks for metrics: they are there, but for requests that do not say what they accept."""
    access_log: str | None = None
    """File for a line per request, `-` for the standard output; `None` for no such lines."""
    access_log_json: bool = False
    """The lines are objects of JSON."""
    traces: str | None = None
    """Traces are made and sent by OTLP, over `grpc` or `http/protobuf`; `None` for no traces."""
    max_threads: int | None = None
    """Most runs at a time outside the network threads; `None` for the engine's default."""
    limits: LimitSpec = field(default_factory=LimitSpec)
    grpc: GrpcSpec = field(default_factory=GrpcSpec)


@dataclass(frozen=True)
class Pem:
    """The content of a file with a key or certificates, or of a part of a file."""

    name: str
    """What it is called in errors."""
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class TlsSpec:
    """How a listener secures its connections."""

    certificate: Pem
    """The server's certificate, and those between it and its root."""
    key: Pem
    client_ca: Pem | None = None
    """Clients have to show a certificate that one of these has signed."""


@dataclass(frozen=True)
class TlsSpecs:
    """How all listeners secure their connections; those without TLS take plain ones."""

    grpc: TlsSpec | None = None
    grpc_socket: TlsSpec | None = None
    rest: TlsSpec | None = None
    admin: TlsSpec | None = None


@dataclass(frozen=True)
class TokenSpec:
    """JSON Web Tokens that name callers."""

    algorithm: str
    key_kind: str
    """`public_key`, `jwks` or `secret`."""
    key: Pem
    issuer: str
    audience: str
    caller_claim: str = "sub"
    caller_prefix: str = ""
    """What comes before the name that a token has."""
    leeway_s: float = 60.0


@dataclass(frozen=True)
class RuleSpec:
    """What some callers may do with some models."""

    callers: Sequence[str]
    rights: Sequence[str]
    models: Sequence[str]


@dataclass(frozen=True)
class AccessSpec:
    """Who may do what; what no rule allows is refused."""

    api_keys: Sequence[tuple[str, str]] = ()
    """SHA-256 of keys in hex, and whose they are."""
    certificates: Sequence[tuple[str, str]] = ()
    """`CN=` or `DNS=` with a name, and whose it is."""
    tokens: Sequence[TokenSpec] = ()
    rules: Sequence[RuleSpec] = ()
