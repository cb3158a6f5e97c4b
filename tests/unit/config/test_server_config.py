from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from servable.config.batching import BatchingOptions, BatchingParameters, PlatformBatching
from servable.config.flags import parse
from servable.config.model_config import LabelRule, ModelConfig
from servable.config.monitoring_config import DEFAULT_PATH
from servable.config.server_config import Config, LogOptions, StorageOptions, config_from, log_options, read_files
from servable.errors import InvalidArgumentError, MalformedFileError, NotFoundError
from servable.logs import LogFormat, LogLevel
from servable.types import WarmupOptions

from tests.unit.fakes import FakeCodec


def config(*arguments: str) -> Config:
    return config_from(parse(["--model_base_path=/m", *arguments]))


def test_the_defaults_are_those_of_tensorflow_serving() -> None:
    made = config()
    assert made.server.grpc_address == "0.0.0.0:8500"
    assert made.server.rest_address is None
    assert made.server.rest_timeout_ms == 30_000
    assert made.models.fixed == (ModelConfig("default", "/m"),)
    assert made.models.scan_period_s == 1
    assert made.models.config_file_period_s is None
    assert (made.loading.retries, made.loading.retry_interval_s) == (5, 60)
    assert made.session.tags == ("serve",)
    assert made.errors == made.notes == ()


@pytest.mark.parametrize(
    ("arguments", "grpc", "rest"),
    [
        (["--rest_api_port=8501"], "0.0.0.0:8500", "[::]:8501"),
        (["--rest_api_port=8501", "--bind_host=127.0.0.1"], "127.0.0.1:8500", "127.0.0.1:8501"),
        (["--rest_api_port=8501", "--bind_host=::1"], "[::1]:8500", "[::1]:8501"),
        (["--port=0", "--grpc_socket_path=/s"], None, None),
    ],
)
def test_addresses(arguments: list[str], grpc: str | None, rest: str | None) -> None:
    server = config(*arguments).server
    assert (server.grpc_address, server.rest_address) == (grpc, rest)


def test_warm_up() -> None:
    assert config().warmup == WarmupOptions()
    flags = (
        "--enable_model_warmup=false --num_request_iterations_for_warmup=3 --enable_signature_method_name_check "
        "--synthesize_warmup --synthesize_warmup_batch_sizes=1,32"
    )
    assert config(*flags.split()).warmup == WarmupOptions(False, 3, True, (1, 32), True)
    assert config("--num_request_iterations_for_warmup=-1").warmup.iterations == 1


@pytest.mark.parametrize("text", ["", "0", "1,", "1;2", "-1", "1, 2", "9999999999"])
def test_batch_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--synthesize_warmup_batch_sizes takes numbers"):
        config(f"--synthesize_warmup_batch_sizes={text}")


def test_rest_is_off_on_the_port_of_grpc() -> None:
    made = config("--rest_api_port=8500")
    assert made.server.rest_address is None
    assert "REST is off" in made.errors[0]


def test_what_has_no_effect_is_noted_unless_it_is_the_default() -> None:
    assert [note.split()[0] for note in config("--rest_api_num_threads=4", "--enable_profiler").notes] == [
        "--rest_api_num_threads"
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"), [("0", (None, True)), ("-1", (None, False)), ("5", (5, True))], ids=str
)
def test_scan_period(arguments: str, expected: tuple[float | None, bool]) -> None:
    models = config(f"--file_system_poll_wait_seconds={arguments}").models
    assert (models.scan_period_s, models.scan) == expected


def test_zero_and_less_mean_no_limit_and_no_wait() -> None:
    made = config("--rest_api_timeout_in_ms=-1", "--load_retry_interval_micros=-5")
    assert made.server.rest_timeout_ms is None
    assert made.loading.retry_interval_s == 0


def test_where_copies_are_kept() -> None:
    def folder(**environment: str) -> str:
        return config_from(parse(["--model_base_path=/m"]), environment=environment).storage.cache_folder

    assert folder(XDG_CACHE_HOME="/c", HOME="/h") == "/c/servable/models"
    assert folder(XDG_CACHE_HOME="relative", HOME="/h") == "/h/.cache/servable/models"
    assert folder(HOME="/h") == "/h/.cache/servable/models"
    assert folder() == "/.cache/servable/models"
    assert config("--model_cache_dir=/d").storage.cache_folder == "/d"
    with pytest.raises(InvalidArgumentError, match="Expected an absolute path in --model_cache_dir; got d"):
        config("--model_cache_dir=d")


def test_where_records_wait_for_their_store() -> None:
    made = config_from(parse(["--model_base_path=/m"]), environment={"XDG_CACHE_HOME": "/c"}).request_log
    assert (made.spool_folder, made.spool_bytes) == ("/c/servable/request-log", 256 << 20)
    made = config("--request_log_spool_dir=/d", "--request_log_spool_bytes=5").request_log
    assert (made.spool_folder, made.spool_bytes) == ("/d", 5)
    with pytest.raises(InvalidArgumentError, match="Expected an absolute path in --request_log_spool_dir; got d"):
        config("--request_log_spool_dir=d")


def test_what_may_take_requests_and_where() -> None:
    made = config(
        *("--request_log_collector=a=b.c:D", "--request_log_collector=e=f:G"),
        *("--request_log_root=/var/log", "--request_log_root=s3://bucket/logs"),
    ).request_log
    assert made.collectors == {"a": "b.c:D", "e": "f:G"}
    assert made.roots == ("/var/log", "s3://bucket/logs")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--request_log_collector=b.c:D"], "has to be NAME=package.module:Class"),
        (["--request_log_collector=a=b.c"], "has to be NAME=package.module:Class"),
        (["--request_log_collector=a=b:C", "--request_log_collector=a=d:E"], "a is there twice"),
        (["--request_log_root=logs"], "has to be an absolute path or a URL"),
    ],
)
def test_what_cannot_take_requests_is_refused(flags: list[str], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        config(*flags)


def test_what_counts_as_complete() -> None:
    storage = config("--model_cache_dir=/d").storage
    assert storage == StorageOptions("/d", cache_bytes=None, marker_file=None, settle_s=1.0, remote_period_s=30.0)
    arguments = (
        "--model_cache_bytes=5 --version_marker_file=DONE --version_settle_seconds=0 --remote_poll_wait_seconds=3"
    )
    assert config("--model_cache_dir=/d", *arguments.split()).storage == StorageOptions("/d", 5, "DONE", 0.0, 3.0)


def test_limits_reach_the_engine() -> None:
    limits = config("--max_message_bytes=10", "--max_connections=3").server.limits
    assert (limits.max_message_bytes, limits.max_connections, limits.max_body_bytes) == (10, 3, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=0"], "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."),
        ([], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
    ],
)
def test_flags_that_contradict_one_another(arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        config_from(parse(arguments))
    assert caught.value.message == message


def test_models_passed_in_are_served_unless_flags_name_some() -> None:
    bundled = [ModelConfig("demo", "/demo")]
    assert config_from({}, bundled).models.fixed == tuple(bundled)
    assert config_from({"model_base_path": "/m"}, bundled).models.fixed == (ModelConfig("default", "/m"),)


def test_the_config_file_goes_before_the_single_model(tmp_path: Path) -> None:
    (tmp_path / "models").write_text(
        '{"model_config_list": {"config": [{"name": "a", "base_path": "/a", "model_platform": "tensorflow"}]}}'
    )
    files = read_files(config(f"--model_config_file={tmp_path}/models"), FakeCodec())
    assert files.models == (ModelConfig("a", "/a"),)


def test_a_missing_file_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="/no/such/file"):
        read_files(config("--model_config_file=/no/such/file"), FakeCodec())


def test_a_malformed_file_is_named_with_the_place_of_its_error(tmp_path: Path) -> None:
    path = tmp_path / "models"
    path.write_text("{")
    with pytest.raises(MalformedFileError) as caught:
        read_files(config(f"--model_config_file={path}"), FakeCodec())
    assert caught.value.message == f"Invalid protobuf file: '{path}'"
    assert caught.value.detail.startswith("Error parsing text-format tensorflow.serving.ModelServerConfig: 1:2:")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"prometheus_config": {"enable": true}}', "/monitoring/prometheus/metrics"),
        ('{"prometheus_config": {"enable": true, "path": "/m"}}', "/m"),
        ('{"prometheus_config": {"path": "/m"}}', None),
        ("{}", None),
    ],
)
def test_metrics_path(text: str, path: str | None, tmp_path: Path) -> None:
    (tmp_path / "monitoring").write_text(text)
    made = config("--rest_api_port=8501", f"--monitoring_config_file={tmp_path}/monitoring")
    assert read_files(made, FakeCodec()).metrics_path == path


def test_the_monitoring_file_is_not_read_without_rest() -> None:
    assert read_files(config("--monitoring_config_file=/no/such/file"), FakeCodec()).metrics_path == DEFAULT_PATH


def test_metrics_are_there_without_a_file() -> None:
    assert read_files(config(), FakeCodec()).metrics_path == DEFAULT_PATH


def test_the_admin_port_is_off_and_on_this_machine_only() -> None:
    assert config().server.admin_address is None
    assert config("--admin_port=8502").server.admin_address == "127.0.0.1:8502"
    assert config("--admin_port=8502", "--admin_bind_host=::").server.admin_address == "[::]:8502"
    assert config("--admin_port=8502", "--bind_host=10.0.0.1").server.admin_address == "127.0.0.1:8502"


@pytest.mark.parametrize("flag", ["--admin_port=8502", "--model_state_file=/s"])
def test_models_may_come_later_where_they_can(flag: str) -> None:
    assert config_from(parse([flag])).models.fixed == ()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ([], LabelRule.AVAILABLE),
        (["--allow_version_labels_for_unavailable_models"], LabelRule.NEW),
        (["--force_allow_any_version_labels_for_unavailable_models"], LabelRule.ANY),
        (["--allow_version_labels=false", "--allow_version_labels_for_unavailable_models"], LabelRule.NONE),
    ],
)
def test_label_rules(arguments: list[str], rule: LabelRule) -> None:
    made = config(*arguments)
    assert made.models.labels is rule
    assert made.server.allow_labels == (rule is not LabelRule.NONE)


@pytest.mark.parametrize("root", ["", "models"])
def test_the_root_of_base_paths_is_absolute(root: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        config(f"--model_config_list_root_dir={root}")
    expected = f"Expected non-empty absolute path or URI; got model_config_list_root_dir={root}"
    assert caught.value.message == expected
    assert config("--model_config_list_root_dir=gs://a").models.root == "gs://a"


def test_batching_is_off_unless_it_is_asked_for() -> None:
    assert config().batching == replace(BatchingOptions(), processors=config().batching.processors)
    flags = "--enable_batching --enable_per_model_batching_parameters --latency_slo_ms=20 --unbatched_fallback"
    made = config_from(parse(["--model_base_path=/m", *flags.split()]), processors=3)
    assert made.batching == BatchingOptions(True, None, True, 20.0, True, 3)
    assert config("--enable_batching").notes == ()


def test_parameters_of_versions_need_batching() -> None:
    made = config("--enable_per_model_batching_parameters")
    assert not made.batching.per_version
    assert made.notes == ("--enable_per_model_batching_parameters has no effect without --enable_batching",)


def test_the_file_of_batching_is_read(tmp_path: Path) -> None:
    file = tmp_path / "batching"
    flag = f"--batching_parameters_file={file}"
    with pytest.raises(InvalidArgumentError, match="is set without setting server_options"):
        config(flag)
    batched = config("--enable_batching", flag)
    with pytest.raises(NotFoundError):
        read_files(batched, FakeCodec())
    file.write_text('{"num_batch_threads": 0}')
    with pytest.raises(InvalidArgumentError, match="num_batch_threads must be positive; was 0"):
        read_files(batched, FakeCodec())
    file.write_text("max_batch")
    with pytest.raises(MalformedFileError):
        read_files(batched, FakeCodec())
    file.write_text('{"max_batch_size": 0, "num_batch_threads": 2}')
    assert read_files(batched, FakeCodec()).platforms["tensorflow"].batching == PlatformBatching(
        "tensorflow",
        batched.batching.processors,
        BatchingParameters(max_batch_size=0, num_batch_threads=2),
    )


def test_batching_of_a_platform_file(tmp_path: Path) -> None:
    file = tmp_path / "platforms"
    adapter = {
        "@type": "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig",
        "legacy_config": {"batching_parameters": {"max_batch_size": 8}, "enable_per_model_batching_params": True},
    }
    file.write_text(json.dumps({"platform_configs": {"mine": {"source_adapter_config": adapter}}}))
    flags = [f"--platform_config_file={file}", "--latency_slo_ms=5", "--unbatched_fallback"]
    made = config_from(parse(["--model_base_path=/m", *flags]), processors=3)
    assert [note.split()[0] for note in made.notes] == ["--latency_slo_ms", "--unbatched_fallback"]
    files = read_files(made, FakeCodec())
    expected = PlatformBatching("mine", 3, BatchingParameters(max_batch_size=8), per_version=True)
    assert files.platforms["mine"].batching == expected
    assert files.notes == ()


def test_a_platform_file_decides_what_flags_decide_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "platforms"
    adapter = {
        "@type": "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig",
        "legacy_config": {"saved_model_tags": ["gpu"], "batching_parameters": {}, "mixed_precision": "bfloat16"},
    }
    file.write_text(json.dumps({"platform_configs": {"mine": {"source_adapter_config": adapter}}}))
    made = config(
        f"--platform_config_file={file}",
        "--saved_model_tags=cpu",
        "--batching_parameters_file=/missing",
        "--tensorflow_session_config_file=/missing",
        "--custom_op_library=/ops",
    )
    assert [note.split()[0] for note in made.notes if "is ignored" in note] == [
        "--saved_model_tags",
        "--batching_parameters_file",
        "--tensorflow_session_config_file",
    ]
    files = read_files(made, FakeCodec())
    assert list(files.platforms) == ["mine"]
    assert files.platforms["mine"].session.tags == ("gpu",)
    assert files.notes == (f"{file}: mixed_precision of platform mine has no effect",)


def test_without_a_platform_file_there_is_one_platform() -> None:
    files = read_files(config("--saved_model_tags=a,b"), FakeCodec())
    assert {name: platform.session.tags for name, platform in files.platforms.items()} == {"tensorflow": ("a", "b")}


def test_the_monitoring_port_has_an_address_of_its_own() -> None:
    assert config().server.monitoring_address is None
    assert config("--monitoring_port=8503", "--bind_host=127.0.0.1").server.monitoring_address == "[::]:8503"
    made = config("--monitoring_port=8503", "--monitoring_bind_host=127.0.0.1", "--drain_grace_seconds=5")
    assert made.server.monitoring_address == "127.0.0.1:8503"
    assert made.drain_grace_s == 5.0


@pytest.mark.parametrize("flag", ["--port=9", "--rest_api_port=9", "--admin_port=9"])
def test_the_monitoring_port_is_not_shared(flag: str) -> None:
    with pytest.raises(InvalidArgumentError, match="are both 9"):
        config("--monitoring_port=9", flag)


def test_the_log_is_described_by_flags() -> None:
    assert log_options(parse([])) == LogOptions(LogFormat.TEXT, LogLevel.INFO)
    assert log_options(parse(["--log_format=json", "--log-level=error"])) == LogOptions(LogFormat.JSON, LogLevel.ERROR)
    with pytest.raises(InvalidArgumentError, match="text or json"):
        log_options(parse(["--log_format=xml"]))
