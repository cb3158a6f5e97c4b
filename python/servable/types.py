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


@dataclass(frozen=True)
class ModelRoutes:
    """All that is known of one model."""

    versions: Sequence[VersionRoute]
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionSpec:
    """How a SavedModel is to be loaded."""

    tags: Sequence[str] = ("serve",)
    config: bytes = b""
    """A serialised `tensorflow.ConfigProto`."""
    quiet: bool = True
    """Load on a thread of low priority. Not for sessions with thread pools of their own, which would inherit that."""


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
    max_requests_in_flight: int | None = None
    max_bytes_in_flight: int | None = None


@dataclass(frozen=True)
class ServerSpec:
    """What the engine listens on and how it answers."""

    grpc_address: str | None = None
    """`host:port`; port 0 takes a free one."""
    grpc_socket_path: str | None = None
    rest_address: str | None = None
    admin_address: str | None = None
    rest_timeout_ms: int | None = 30_000
    """Longest run of a REST request; `None` for no limit."""
    cors: bool = False
    check_method_names: bool = False
    tensor_content: bool = False
    """Predict answers over gRPC carry `tensor_content` instead of typed values."""
    health_service: bool = False
    session_service: bool = False
    """`SessionRun` is answered."""
    allow_labels: bool = True
    """Requests may name versions by label."""
    strict_json: bool = False
    """REST reads and writes RFC 8259 rather than the original's JSON."""
    compress_answers: bool = False
    metrics_path: str | None = None
    max_threads: int | None = None
    """Most runs at a time outside the network threads; `None` for the engine's default."""
    limits: LimitSpec = field(default_factory=LimitSpec)
