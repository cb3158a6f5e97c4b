"""Every option of the server, declared once: flags, help and reference page are derived from this table."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["OPTIONS", "Group", "Kind", "Option", "Support", "Value"]

Value = bool | int | float | str | tuple[str, ...] | None

INT32_MAX = 2**31 - 1


class Kind(enum.Enum):
    """The type of an option's value, as usage texts print it."""

    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT = "float"
    STRING = "string"
    LIST = "string, repeatable"


class Group(enum.Enum):
    """Where an option stands in the help."""

    NETWORK = "Network"
    SECURITY = "Security"
    MODELS = "Models and versions"
    STORAGE = "Where versions lie"
    TENSORFLOW = "Loading and TensorFlow"
    BEHAVIOUR = "Behaviour and monitoring"
    LIMITS = "Limits"
    BATCHING = "Batching"
    COMMAND = "This command"


class Support(enum.Enum):
    """What servable does with an option."""

    FULL = "full"
    WITHOUT_EFFECT = "accepted with any value: what it asks for has no meaning here"


@dataclass(frozen=True)
class Option:
    """One option. `default` is what holds if it is not given; `None` if that is decided elsewhere."""

    name: str
    kind: Kind
    default: Value
    group: Group
    sentence: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    support: Support = Support.FULL


def _network() -> tuple[Option, ...]:
    group = Group.NETWORK

    def port(name: str, default: int, sentence: str) -> Option:
        return Option(name, Kind.INT32, default, group, sentence, at_least=0, at_most=65535)

    return (
        port("port", 8500, "TCP port for gRPC; 0 for none."),
        port("rest_api_port", 0, "TCP port for REST and metrics; 0 for none."),
        Option("grpc_socket_path", Kind.STRING, "", group, "Listen for gRPC on this Unix socket as well."),
        Option(
            "bind_host",
            Kind.STRING,
            "",
            group,
            "Address to listen on. If empty, gRPC listens on 0.0.0.0 and REST on [::] (IPv4 and IPv6).",
        ),
        port("admin_port", 0, "TCP port for adding, removing and labelling models, over REST and gRPC; 0 for none."),
        Option(
            "admin_bind_host",
            Kind.STRING,
            "127.0.0.1",
            group,
            "Address of the admin port. Whoever reaches it decides what is served, unless tls_client_ca_file or "
            "access_config_file protects it.",
        ),
        port(
            "monitoring_port",
            0,
            "TCP port for health and metrics, over REST and gRPC, open while models are still loaded; 0 for none.",
        ),
        Option("monitoring_bind_host", Kind.STRING, "", group, "Address of the monitoring port; all if empty."),
        Option(
            "rest_api_timeout_in_ms",
            Kind.INT32,
            30_000,
            group,
            "Longest run of a REST request; no limit if 0 or less.",
            unit="ms",
        ),
        Option("rest_api_enable_cors_support", Kind.BOOL, False, group, "Add CORS headers to REST answers."),
        Option(
            "rest_api_strict_json",
            Kind.BOOL,
            False,
            group,
            "Read and write standard JSON only: no bare NaN or Infinity (null in answers), nothing after the first "
            "value, strings in UTF-8 (others are {'b64': ...} in answers).",
        ),
        Option(
            "enable_response_compression",
            Kind.BOOL,
            False,
            group,
            "Compress answers with gzip for clients that accept it, over REST and gRPC.",
        ),
        Option(
            "grpc_max_threads",
            Kind.INT32,
            0,
            group,
            "Most runs at a time outside the network threads; 0 leaves it to the engine.",
            at_least=0,
        ),
        Option(
            "enable_grpc_healthcheck_service", Kind.BOOL, False, group, "Answer grpc.health.v1.Health on the gRPC port."
        ),
        Option(
            "enable_session_service",
            Kind.BOOL,
            False,
            group,
            "Answer SessionService.SessionRun, which runs any part of a model's graph: for trusted clients only.",
        ),
        Option(
            "drain_grace_seconds",
            Kind.FLOAT,
            0.0,
            group,
            "How long requests are still accepted after SIGTERM or SIGINT, while /readyz and health checks already say "
            "no: as long as load balancers take to notice.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "drain_timeout_seconds",
            Kind.FLOAT,
            30.0,
            group,
            "How long requests in flight may take to finish after SIGTERM or SIGINT.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "rest_api_num_threads",
            Kind.INT32,
            None,
            group,
            "REST shares the engine's network threads; a number of HTTP threads has no meaning here.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "enable_profiler",
            Kind.BOOL,
            True,
            group,
            "Answer TensorFlow's profiler client on the gRPC port. Whoever reaches it can slow the server down.",
        ),
        Option(
            "grpc_channel_arguments",
            Kind.STRING,
            "",
            group,
            "Arguments of gRPC connections, name=value separated by commas. Those with an effect: "
            "grpc.keepalive_time_ms, grpc.keepalive_timeout_ms, grpc.max_concurrent_streams, grpc.max_metadata_size, "
            "grpc.max_connection_age_ms, grpc.max_connection_age_grace_ms, grpc.max_connection_idle_ms, "
            "and grpc.max_receive_message_length unless max_message_bytes is given; the log names others.",
        ),
        Option(
            "grpc_socket_mode",
            Kind.STRING,
            "",
            group,
            "Permissions of the Unix socket, in octal, such as 0660; if empty, the umask decides.",
        ),
    )


def _security() -> tuple[Option, ...]:
    group = Group.SECURITY
    return (
        Option(
            "ssl_config_file",
            Kind.STRING,
            "",
            group,
            "TLS for gRPC alone, its Unix socket included: a file with an SSLConfig, which holds key and certificates.",
        ),
        Option(
            "use_alts_credentials", Kind.BOOL, False, group, "Google ALTS, which is not supported: only false is taken."
        ),
        Option(
            "tls_certificate_file",
            Kind.STRING,
            "",
            group,
            "TLS for gRPC, REST and the admin port: a PEM file with the certificate and those between it and its root.",
        ),
        Option("tls_key_file", Kind.STRING, "", group, "PEM file with the private key of tls_certificate_file."),
        Option(
            "tls_client_ca_file",
            Kind.STRING,
            "",
            group,
            "Mutual TLS: clients have to show a certificate that one of those in this PEM file has signed.",
        ),
        Option(
            "tls_reload_wait_seconds",
            Kind.FLOAT,
            10.0,
            group,
            "How often to look whether the files of certificates, keys and access have changed; 0 for never.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "access_config_file",
            Kind.STRING,
            "",
            group,
            "Who may do what: a file with a servable.AccessConfig. Without it everybody may do everything.",
        ),
    )


def _models() -> tuple[Option, ...]:
    group = Group.MODELS
    return (
        Option("model_name", Kind.STRING, "default", group, "Name of the one model; see model_base_path."),
        Option(
            "model_base_path",
            Kind.STRING,
            "",
            group,
            "Absolute path, or URI (s3://bucket/model) of the folder that holds the one model's version folders.",
        ),
        Option(
            "model_config_file",
            Kind.STRING,
            "",
            group,
            "File with a ModelServerConfig (protobuf text) to serve many models; takes precedence over model_name and "
            "model_base_path.",
        ),
        Option(
            "model_config_file_poll_wait_seconds",
            Kind.INT32,
            0,
            group,
            "Read model_config_file again this often; never if 0 or less.",
            unit="s",
        ),
        Option(
            "file_system_poll_wait_seconds",
            Kind.INT32,
            1,
            group,
            "Look for new versions this often; 0: at start-up and reloads only, less: never.",
            unit="s",
        ),
        Option(
            "allow_version_labels_for_unavailable_models",
            Kind.BOOL,
            False,
            group,
            "A new label may point at a version that is not available (yet).",
        ),
        Option(
            "force_allow_any_version_labels_for_unavailable_models",
            Kind.BOOL,
            False,
            group,
            "Any label may point at a version that is not available (yet).",
        ),
        Option("allow_version_labels", Kind.BOOL, True, group, "Versions may have labels."),
        Option(
            "model_config_list_root_dir",
            Kind.STRING,
            "",
            group,
            "Folder, or URI, that relative base paths are relative to. Without it base paths have to be absolute.",
        ),
        Option(
            "model_state_file",
            Kind.STRING,
            "",
            group,
            "File in which what the admin port has changed survives a restart; it is made when it is needed. For one "
            "server only.",
        ),
        Option(
            "servable_state_waiter_timeout_seconds",
            Kind.FLOAT,
            0.0,
            group,
            "Longest wait for the first models; the server ends if they are not available by then. 0 for no limit.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "num_load_threads",
            Kind.INT32,
            0,
            group,
            "Versions loaded at a time once the server is up; 0 means 1.",
            at_least=0,
        ),
        Option("num_unload_threads", Kind.INT32, 0, group, "Versions unloaded at a time; 0 means 1.", at_least=0),
        Option("max_num_load_retries", Kind.INT32, 5, group, "Further attempts after a load has failed.", at_least=0),
        Option(
            "load_retry_interval_micros",
            Kind.INT64,
            60_000_000,
            group,
            "Longest time between attempts to load; the first is a sixteenth of it, the next ones double. None if 0 or "
            "less.",
            unit="µs",
        ),
        Option(
            "version_transition",
            Kind.STRING,
            "availability_preserving",
            group,
            "availability_preserving: a new version is loaded before the old one is unloaded; resource_preserving: "
            "after that. A model's configuration may say otherwise.",
        ),
        Option(
            "lazy_loading",
            Kind.BOOL,
            False,
            group,
            "Load a version with its first request, and unload the least recently used one when memory is short. A "
            "model's configuration may say otherwise.",
        ),
        Option(
            "total_model_memory_limit_bytes",
            Kind.INT64,
            0,
            group,
            "Most memory that all versions may take together, by estimate (1.2 times their files); 0 for no limit.",
            unit="bytes",
            at_least=0,
        ),
        Option(
            "check_available_memory",
            Kind.BOOL,
            True,
            group,
            "Refuse to load a version that takes more than the free memory of the machine or the container.",
        ),
        Option(
            "memory_release_seconds",
            Kind.FLOAT,
            60.0,
            group,
            "How often to give memory that requests have freed back to the system; 0: only after an unload.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "servable_versions_always_present",
            Kind.BOOL,
            False,
            group,
            "Go on serving what is loaded when a base path has no versions any more.",
        ),
        Option(
            "fail_if_zero_versions_at_startup",
            Kind.BOOL,
            False,
            group,
            "End at start-up if a model has no version, rather than wait for one.",
        ),
        Option(
            "flush_filesystem_caches",
            Kind.BOOL,
            True,
            group,
            "There is no file system cache of ours to flush.",
            support=Support.WITHOUT_EFFECT,
        ),
    )


def _storage() -> tuple[Option, ...]:
    group = Group.STORAGE
    return (
        Option(
            "model_cache_dir",
            Kind.STRING,
            "",
            group,
            "Folder for copies of versions that lie in object stores; servers may share it. If empty, servable/models "
            "in $XDG_CACHE_HOME or ~/.cache.",
        ),
        Option(
            "model_cache_bytes",
            Kind.INT64,
            0,
            group,
            "Most that all copies may take together; 0: no limit of their own, but those that are not in use go when "
            "less than a tenth of the disk would stay free.",
            unit="bytes",
            at_least=0,
        ),
        Option(
            "version_marker_file",
            Kind.STRING,
            "",
            group,
            "A version counts when it has a file of this name, and not before. If empty, it counts when it has stood "
            "still; see version_settle_seconds.",
        ),
        Option(
            "version_settle_seconds",
            Kind.FLOAT,
            1.0,
            group,
            "How long a version's files have to stand still before it is loaded; 0: it is loaded as soon as it is "
            "there.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "remote_poll_wait_seconds",
            Kind.FLOAT,
            30.0,
            group,
            "List an object store for new versions at most this often.",
            unit="s",
            at_least=0,
            at_most=1_000_000,
        ),
    )


def _tensorflow() -> tuple[Option, ...]:
    group = Group.TENSORFLOW

    def threads(name: str, sentence: str) -> Option:
        return Option(name, Kind.INT64, 0, group, sentence, at_least=0, at_most=INT32_MAX)

    return (
        Option("saved_model_tags", Kind.STRING, "serve", group, "Tags of the graph to load, separated by commas."),
        Option(
            "custom_op_library",
            Kind.LIST,
            (),
            group,
            "Library of custom ops to load before any model. The op libraries of installed packages such as "
            "tensorflow-text are found without it.",
        ),
        Option(
            "tensorflow_session_config_file",
            Kind.STRING,
            "",
            group,
            "File with a tensorflow.ConfigProto (protobuf text) for every session. What a flag sets, the flag decides.",
        ),
        threads(
            "tensorflow_session_parallelism", "Threads inside ops and between ops, both; 0 leaves it to TensorFlow."
        ),
        threads("tensorflow_intra_op_parallelism", "Threads inside an op; 0 leaves it to TensorFlow."),
        threads("tensorflow_inter_op_parallelism", "Ops that run at a time; 0 leaves it to TensorFlow."),
        Option(
            "per_process_gpu_memory_fraction",
            Kind.FLOAT,
            0.0,
            group,
            "Share of GPU memory to take; 0 leaves it to TensorFlow.",
            at_least=0,
            at_most=1,
        ),
        Option(
            "enable_model_warmup",
            Kind.BOOL,
            True,
            group,
            "Send the requests in assets.extra/tf_serving_warmup_requests to a version before it is available.",
        ),
        Option(
            "num_request_iterations_for_warmup",
            Kind.INT32,
            0,
            group,
            "How often to send each warm-up request; once if 0 or less.",
        ),
        Option(
            "synthesize_warmup",
            Kind.BOOL,
            False,
            group,
            "Make warm-up requests of zeros from the signatures of versions that bring none. Requests that the model "
            "refuses are left out.",
        ),
        Option(
            "synthesize_warmup_batch_sizes",
            Kind.STRING,
            "1",
            group,
            "Batch sizes of the requests that synthesize_warmup makes, separated by commas; allowed_batch_sizes of a "
            "version's batching come on top.",
        ),
        Option(
            "remove_unused_fields_from_bundle_metagraph",
            Kind.BOOL,
            True,
            group,
            "Of a graph's description nothing but the signatures is ever kept.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "prefer_tflite_model",
            Kind.BOOL,
            False,
            group,
            "A model.tflite is not looked at: the SavedModel beside it is served.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "num_tflite_pools",
            Kind.INT32,
            None,
            group,
            "There are no TensorFlow Lite interpreters: see prefer_tflite_model.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "num_tflite_interpreters_per_pool",
            Kind.INT32,
            1,
            group,
            "There are no TensorFlow Lite interpreters: see prefer_tflite_model.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "mixed_precision",
            Kind.STRING,
            "",
            group,
            "bfloat16: TensorFlow computes in bfloat16 with oneDNN where that is precise enough. Anything else has no "
            "effect.",
        ),
        Option(
            "xla_cpu_compilation_enabled",
            Kind.BOOL,
            False,
            group,
            "Functions that a model marks for XLA are always compiled, and others are not: there is nothing to allow.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "xla_gpu_compilation_enabled",
            Kind.BOOL,
            False,
            group,
            "Functions that a model marks for XLA are always compiled, and others are not: there is nothing to allow.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "skip_initialize_tpu",
            Kind.BOOL,
            False,
            group,
            "TensorFlow as it is installed here drives no TPUs, and none is initialised.",
            support=Support.WITHOUT_EFFECT,
        ),
        Option(
            "platform_config_file",
            Kind.STRING,
            "",
            group,
            "File with a PlatformConfigMap (protobuf text): the platforms that models may name, and how each loads. "
            "Flags about sessions, warm-up and batching are ignored then.",
        ),
        Option(
            "thread_pool_factory_config_file",
            Kind.STRING,
            "",
            group,
            "File with a ThreadPoolFactoryConfig (protobuf text). There are no factories of thread pools, here or in "
            "TensorFlow Serving's own server: only an empty one is accepted.",
        ),
    )


def _behaviour() -> tuple[Option, ...]:
    group = Group.BEHAVIOUR
    return (
        Option(
            "enable_signature_method_name_check",
            Kind.BOOL,
            False,
            group,
            "Refuse a call whose method differs from the signature's method name.",
        ),
        Option(
            "enable_serialization_as_tensor_content",
            Kind.BOOL,
            False,
            group,
            "Predict answers over gRPC carry tensor_content instead of typed values.",
        ),
        Option(
            "monitoring_config_file",
            Kind.STRING,
            "",
            group,
            "File with a MonitoringConfig (protobuf text): whether there are metrics, and where. Without it they are "
            "at /metrics and /monitoring/prometheus/metrics.",
        ),
        Option(
            "access_log",
            Kind.STRING,
            "",
            group,
            "Write a line for each request to this file; - for the standard output. A file that is moved away is made "
            "anew.",
        ),
        Option(
            "request_log_file_bytes",
            Kind.INT64,
            64 << 20,
            group,
            "Size at which a model's logging_config begins another file; 0 for any size.",
            at_least=0,
        ),
        Option(
            "request_log_file_seconds",
            Kind.INT64,
            3600,
            group,
            "Age at which a file of the request log is finished; 0 for any age.",
            at_least=0,
        ),
        Option(
            "request_log_keep_bytes",
            Kind.INT64,
            1 << 30,
            group,
            "What the files of one prefix of the request log may take; the oldest are removed. 0 for no limit.",
            at_least=0,
        ),
        Option(
            "request_log_spool_dir",
            Kind.STRING,
            "",
            group,
            "Folder for records of the request log that wait to be uploaded; servers may share it. If empty, "
            "servable/request-log in $XDG_CACHE_HOME or ~/.cache.",
        ),
        Option(
            "request_log_spool_bytes",
            Kind.INT64,
            256 << 20,
            group,
            "What records of one prefix that wait to be uploaded may take; further ones are lost. 0 for no limit.",
            unit="bytes",
            at_least=0,
        ),
        Option(
            "request_log_collector",
            Kind.LIST,
            (),
            group,
            "A type of log_collector_config beside file and fsspec, as NAME=package.module:Class. Lists of models name "
            "types, and never anything to import.",
        ),
        Option(
            "request_log_root",
            Kind.LIST,
            (),
            group,
            "Folder or URL below which every filename_prefix of a logging_config has to be. Without it records may go "
            "to any folder that the server may write, and to any store that it reads.",
        ),
        Option("log_format", Kind.STRING, "text", group, "How the log is written: text, or json for an object a line."),
        Option(
            "log_level",
            Kind.STRING,
            "info",
            group,
            "The least that is logged: debug, info, warning or error. TensorFlow's own lines go by "
            "TF_CPP_MIN_LOG_LEVEL.",
        ),
    )


def _batching() -> tuple[Option, ...]:
    group = Group.BATCHING
    return (
        Option(
            "enable_batching",
            Kind.BOOL,
            False,
            group,
            "Gather requests into batches, which TensorFlow runs at once.",
        ),
        Option(
            "batching_parameters_file",
            Kind.STRING,
            "",
            group,
            "File with BatchingParameters (protobuf text) for enable_batching; if empty, their defaults hold.",
        ),
        Option(
            "enable_per_model_batching_parameters",
            Kind.BOOL,
            False,
            group,
            "With enable_batching: a version is batched as the file batching_params.pbtxt in its folder says, and not "
            "at all without one. Of batching_parameters_file only name and size of the thread pool count then.",
        ),
        Option(
            "latency_slo_ms",
            Kind.FLOAT,
            0.0,
            group,
            "What 99 of 100 requests should take at most; 0 for no such goal. Switches batching on for all models, "
            "which then finds sizes and waits by itself; the max_batch_size of batching_parameters_file is a bound.",
            unit="ms",
            at_least=0,
            at_most=1_000_000,
        ),
        Option(
            "unbatched_fallback",
            Kind.BOOL,
            False,
            group,
            "Run on its own what cannot be batched, such as a scalar input, instead of refusing it. With batching that "
            "tunes itself that is always so.",
        ),
    )


def _limits() -> tuple[Option, ...]:
    def limit(name: str, sentence: str, unit: str = "") -> Option:
        return Option(name, Kind.INT64, None, Group.LIMITS, sentence, unit, at_least=1)

    def count(name: str, sentence: str) -> Option:
        return Option(name, Kind.INT64, 0, Group.LIMITS, sentence, at_least=0, at_most=INT32_MAX)

    def seconds(name: str, default: float, sentence: str) -> Option:
        return Option(name, Kind.FLOAT, default, Group.LIMITS, sentence, "s", at_least=0.001, at_most=1_000_000)

    return (
        limit("max_message_bytes", "Largest gRPC request, decompressed.", "bytes"),
        limit("max_body_bytes", "Largest REST body as it comes over the wire.", "bytes"),
        limit("max_decompressed_bytes", "Largest REST body after gunzip.", "bytes"),
        limit("max_json_depth", "Deepest nesting of a JSON body."),
        limit("max_tensor_elements", "Most elements of one tensor of a request."),
        limit(
            "max_repeated_bytes",
            "Most bytes that one tensor of a gRPC request may gain by repeating its last value.",
            "bytes",
        ),
        limit("max_output_bytes", "Largest answer.", "bytes"),
        limit("max_connections", "Most connections at a time."),
        count(
            "max_connections_per_client",
            "Most connections of one client, which is an IP address, a /64 network of IPv6 or the Unix socket; 0 for "
            "no such limit. One more is closed at once.",
        ),
        count(
            "max_requests_per_client",
            "Most requests of one client at work at a time; 0 for no such limit. One more is refused as UNAVAILABLE.",
        ),
        count(
            "max_requests_per_model",
            "Most requests for one model at work at a time; 0 for no such limit. One more is refused as UNAVAILABLE.",
        ),
        seconds("connection_idle_timeout_seconds", 600.0, "How long a new connection may wait for its first bytes."),
        seconds(
            "header_timeout_seconds",
            60.0,
            "How long a client may take to send the head of a REST request, its further ones counted from the last "
            "answer; or the first bytes of HTTP/2.",
        ),
        limit("max_requests_in_flight", "Most requests at work at a time; one more is refused as UNAVAILABLE."),
        limit("max_bytes_in_flight", "Most bytes that all larger requests at work may take together.", "bytes"),
    )


def _command() -> tuple[Option, ...]:
    return (
        Option("version", Kind.BOOL, False, Group.COMMAND, "Print the versions and exit."),
        Option("help", Kind.BOOL, False, Group.COMMAND, "Print this help and exit."),
    )


OPTIONS: tuple[Option, ...] = (
    *_network(),
    *_security(),
    *_models(),
    *_storage(),
    *_tensorflow(),
    *_behaviour(),
    *_batching(),
    *_limits(),
    *_command(),
)
