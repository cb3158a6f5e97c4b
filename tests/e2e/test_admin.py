"""Models added, removed and labelled one by one, over REST, gRPC and the command line, and what a restart leaves."""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from servable.control.answers import MOST_WAITING

from tests.e2e.grpc_client import TIMEOUT_S, Grpc, code_of, details_of
from tests.e2e.raw_client import Raw
from tests.e2e.rest_client import Answer, Rest
from tests.e2e.server import (
    HALF_PLUS_TWO,
    MODELS,
    Model,
    ServerProcess,
    accepts,
    config_text,
    free_ports,
    run_to_end,
    wait_until,
)

MULTI = str(MODELS / "multi")


class Administered(ServerProcess):
    """A server with an admin port."""

    def __init__(self, flags: Sequence[str], log: Path) -> None:
        (self.admin_port,) = free_ports(1)
        super().__init__([f"--admin_port={self.admin_port}", "--max_num_load_retries=0", *flags], log)

    def admin(self, method: str, path: str = "", body: Any = None, **headers: str) -> Answer:
        with Rest(self.admin_port) as client:
            return client.send(method, f"/admin/v1/models{path}", body, headers)

    def add(self, name: str, base_path: str | Path, query: str = "", **fields: Any) -> Answer:
        return self.admin("PUT", f"/{quote(name, safe='')}{query}", {"base_path": str(base_path), **fields})

    def names(self) -> list[str]:
        return [model["config"]["name"] for model in self.admin("GET").json["models"]]

    def predict(self, model: str) -> Answer:
        with Rest(self.rest_port) as client:
            return client.predict(model, {"inputs": 0})


@contextmanager
def administered(folder: Path, *flags: str) -> Iterator[Administered]:
    server = Administered(flags, folder / "server.log")
    with server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administered]:
    with administered(tmp_path_factory.mktemp("admin")) as server:
        yield server


@pytest.fixture
def empty(shared: Administered) -> Administered:
    """The shared server, without models."""
    for name in shared.names():
        assert shared.admin("DELETE", f"/{quote(name, safe='')}").status == 200
    return shared


def test_a_model_comes_changes_and_goes(empty: Administered) -> None:
    added = empty.add("a/b c", MULTI, model_version_policy={"specific": {"versions": [1]}})
    assert added.status == 200
    assert empty.predict("a%2Fb%20c").json == {"outputs": 1.0}
    assert added.json == empty.admin("GET", "/a%2Fb%20c").json
    assert added.json == {
        "config": {
            "name": "a/b c",
            "base_path": MULTI,
            "model_platform": "tensorflow",
            "model_version_policy": {"specific": {"versions": [1]}},
        },
        "origin": "ADMIN",
        "versions": [{"version": 1, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}],
    }
    assert empty.add("a/b c", MULTI).json["versions"][0]["version"] == 3
    assert empty.predict("a%2Fb%20c").json == {"outputs": 3.0}
    assert empty.admin("DELETE", "/a%2Fb%20c").json == {}
    empty.wait_for(lambda: empty.predict("a%2Fb%20c").status == 404, "the model goes")
    assert empty.admin("DELETE", "/a%2Fb%20c").error == "Model a/b c is not configured"


def test_canary_promote_and_roll_back_by_labels(empty: Administered) -> None:
    empty.add("m", MULTI, model_version_policy={"specific": {"versions": [1]}})
    assert empty.admin("PUT", "/m/labels/stable", {"version": 1}).status == 200
    assert empty.predict("m/labels/stable").json == {"outputs": 1.0}
    refused = empty.admin("PUT", "/m/labels/canary", {"version": 2})
    assert (refused.status, refused.headers["servable-code"]) == (400, "FAILED_PRECONDITION")
    empty.add("m", MULTI, model_version_policy={"specific": {"versions": [1, 2]}}, version_labels={"stable": 1})
    empty.wait_for(lambda: len(available(empty, "m")) == 2, "both versions are there")
    empty.admin("PUT", "/m/labels/canary", {"version": 2})
    assert [empty.predict(f"m/labels/{label}").json["outputs"] for label in ("stable", "canary")] == [1.0, 2.0]
    empty.admin("PUT", "/m/labels/stable", {"version": 2})
    assert empty.predict("m/labels/stable").json == {"outputs": 2.0}
    empty.admin("PUT", "/m/labels/stable", {"version": 1})
    assert empty.predict("m/labels/stable").json == {"outputs": 1.0}
    empty.admin("DELETE", "/m/labels/canary")
    assert empty.predict("m/labels/canary").error == "Unrecognized servable version label: canary"


def available(server: Administered, name: str) -> list[int]:
    versions = server.admin("GET", f"/{name}").json["versions"]
    return [version["version"] for version in versions if version["state"] == "AVAILABLE"]


def test_one_bad_model_is_told_of_and_hurts_no_other(empty: Administered, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    empty.add("good", MULTI)
    broken = empty.add("broken", tmp_path)
    assert broken.status == 500
    assert broken.error.startswith("1 model(s) did not become available: {{{name: broken version: 1} due to error: ")
    (version,) = empty.admin("GET", "/broken").json["versions"]
    assert (version["state"], version["status"]["error_code"]) == ("END", "NOT_FOUND")
    assert "no version was found" in empty.add("missing", "/nowhere").error
    assert empty.add("missing", "/nowhere", "?wait=false").status == 200
    assert empty.predict("good").status == 200
    assert empty.names() == ["broken", "good", "missing"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("PUT", "/m", {"base_path": "m"}, 400, "Expected model m to have an absolute path or URI; got base_path()=m"),
        ("PUT", "/m", {"base_pth": "/m"}, 400, "unrecognized field name 'base_pth'"),
        ("PUT", "/m", {"base_path": 7}, 400, "The request does not fit: "),
        ("PUT", "/m", {"base_path": "/m", "model_platform": "caffe"}, 400, "requests unsupported platform caffe"),
        ("PUT", "/m", "{", 400, "The body is no JSON"),
        ("PUT", "/m", '{"base_path": "\\ud800"}', 400, "The request does not fit: "),
        ("PUT", "/m", '{"logging_config": ' + "[" * 900 + "]" * 900 + "}", 400, "The request does not fit: "),
        ("PUT", "/none/labels/x", {"version": 1}, 404, "Model none is not configured"),
        ("GET", "/none", None, 404, "Model none is not configured"),
        ("GET", "/a/b", None, 404, "Nothing is at"),
        ("POST", "", None, 405, "POST is not done with /admin/v1/models; it takes GET"),
        ("PATCH", "/m", None, 405, "it takes GET, PUT, DELETE"),
        ("PUT", "/m?wait=maybe", {"base_path": "/m"}, 400, "Expected wait to be true or false; got maybe"),
    ],
)
def test_requests_that_make_no_sense(
    empty: Administered, method: str, path: str, body: Any, status: int, error: str
) -> None:
    answer = empty.admin(method, path, body)
    assert answer.status == status
    assert error in answer.error
    assert empty.names() == []


def test_web_pages_are_refused(empty: Administered) -> None:
    for method, body in [("GET", None), ("PUT", {"base_path": MULTI}), ("DELETE", None)]:
        answer = empty.admin(method, "/m" if body else "", body, Origin="http://localhost:8080")
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    assert empty.names() == []


class Stub:
    """A client that knows no more than what reflection tells it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self._methods = pool.FindServiceByName("servable.admin.v1.Admin").methods_by_name

    def call(self, rpc: str, /, **fields: Any) -> Any:
        method = self._methods[rpc]
        call: Any = self._channel.unary_unary(
            f"/servable.admin.v1.Admin/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return call(message_factory.GetMessageClass(method.input_type)(**fields), timeout=TIMEOUT_S)


def test_the_same_over_grpc(empty: Administered) -> None:
    with Grpc(f"127.0.0.1:{empty.admin_port}") as client:
        stub = Stub(client.channel)
        added = stub.call("AddModel", config={"name": "m", "base_path": MULTI})
        assert (added.config.name, added.config.model_platform) == ("m", "tensorflow")
        assert (added.versions[0].version, added.versions[0].state) == (3, 30)
        labelled = stub.call("SetLabel", name="m", label="stable", version=3)
        assert dict(labelled.config.version_labels) == {"stable": 3}
        assert not stub.call("RemoveLabel", name="m", label="stable").config.version_labels
        assert [model.config.name for model in stub.call("ListModels").models] == ["m"]
        assert stub.call("GetModel", name="m").versions[0].version == 3
        stub.call("RemoveModel", name="m")
        mistakes: list[tuple[str, dict[str, Any], str]] = [
            ("GetModel", {"name": "m"}, "NOT_FOUND"),
            ("GetModel", {}, "INVALID_ARGUMENT"),
            ("AddModel", {}, "INVALID_ARGUMENT"),
            ("AddModel", {"config": {"name": "m", "base_path": "/nowhere"}}, "UNKNOWN"),
        ]
        for rpc, fields, code in mistakes:
            with pytest.raises(grpc.RpcError) as raised:
                stub.call(rpc, **fields)
            assert code_of(raised.value) == code
        assert "no version was found under its base path" in details_of(raised.value)


def test_the_admin_service_is_on_its_port_only(empty: Administered) -> None:
    with Grpc(empty.grpc_address) as client:
        call: Any = client.channel.unary_unary("/servable.admin.v1.Admin/ListModels")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=TIMEOUT_S)
        assert code_of(raised.value) == "UNIMPLEMENTED"
    with Rest(empty.rest_port) as rest:
        assert rest.get("/admin/v1/models").status == 404


def test_there_is_no_admin_port_unless_it_is_asked_for(tmp_path: Path) -> None:
    with ServerProcess([f"--model_base_path={HALF_PLUS_TWO}"], tmp_path / "log") as server:
        server.wait_ready()
        assert not accepts(8502)
        assert "Administration" not in server.log


def servable(server: Administered, *arguments: str) -> str:
    done = run_to_end("servable", *arguments, f"--server=127.0.0.1:{server.admin_port}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_by_commands(empty: Administered) -> None:
    assert servable(empty, "models", "list") == "No model is configured.\n"
    path = f"--base_path={MULTI}"
    added = servable(empty, "models", "add", "m", path, "--versions=1,2", "--label=stable=1", "--label=canary=2")
    assert "labels     canary=2, stable=1" in added
    assert servable(empty, "models", "label", "m", "stable", "2")
    assert "labels     stable=2" in servable(empty, "models", "label", "m", "canary", "--remove")
    assert "serves     the latest version" in servable(empty, "models", "add", "m", path)  # labels stay
    (listed,) = json.loads(servable(empty, "models", "list", "--json"))
    assert listed["config"]["version_labels"] == {"stable": 2}
    servable(empty, "models", "add", "late", "--base_path=/nowhere", "--no-wait", "--lazy", "--pinned", "--all")
    assert json.loads(servable(empty, "models", "status", "late", "--json"))["config"]["servable"] == {
        "loading": "LAZY",
        "pinned": True,
    }
    assert "is not served any more" in servable(empty, "models", "remove", "late")
    done = run_to_end(
        "servable", "models", "remove", "late", environment={"SERVABLE_ADMIN": f"127.0.0.1:{empty.admin_port}"}
    )
    assert (done.returncode, done.stderr) == (255, "NOT_FOUND: Model late is not configured\n")
    (free,) = free_ports(1)
    done = run_to_end("servable", "models", "list", f"--server=127.0.0.1:{free}")
    assert done.returncode == 255
    assert done.stderr.startswith(f"UNAVAILABLE: no answer from the admin port at 127.0.0.1:{free}: ")


def test_a_file_is_checked_and_compared(empty: Administered, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(config_text([Model("m", MODELS / "multi", "latest { num_versions: 2 }"), Model("n", Path("/no"))]))
    checked = run_to_end("servable", "config", "check", str(file))
    assert checked.returncode == 0
    assert f"{file}:10: warning: model n: field base_path: /no: No such file or directory" in checked.stdout
    assert run_to_end("servable", "config", "check", str(file), "--strict").returncode == 255
    empty.add("other", MULTI)
    compared = run_to_end("servable", "config", "diff", str(file), f"--server=127.0.0.1:{empty.admin_port}")
    assert compared.returncode == 1
    lines = compared.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "+ m",
        "+ n",
        "= other is kept as the admin port has it",
    ]
    assert "    loads 2, 3" in lines
    file.write_text("model_config_list { config { nome: 'x' } }")
    checked = run_to_end("servable", "config", "check", str(file))
    assert checked.returncode == 255
    assert "field 'nome' not found" in checked.stdout
    assert "did you mean 'name'?" in checked.stdout
    assert run_to_end("servable", "config", "check", str(tmp_path / "none")).returncode == 255


def test_a_comparison_tells_what_the_server_would_do(tmp_path: Path) -> None:
    """What was removed stays so; a list that would be refused is said to be refused, and where."""
    file, served = tmp_path / "models.config", [Model("m", MODELS / "multi"), Model("n", HALF_PLUS_TWO)]
    file.write_text(config_text(served))
    with administered(tmp_path, f"--model_config_file={file}") as server:
        diff = ("servable", "config", "diff", str(file), f"--server=127.0.0.1:{server.admin_port}")
        assert server.admin("DELETE", "/m").status == 200
        compared = run_to_end(*diff)
        assert (compared.returncode, compared.stdout) == (0, "= m stays removed, as the admin port has it\n")
        file.write_text(config_text([*served, Model("n", HALF_PLUS_TWO)]))
        refused = run_to_end(*diff)
        place = f"({file}:13, field name)"
        assert (refused.returncode, refused.stdout) == (255, "")
        assert refused.stderr == (f"INVALID_ARGUMENT: Illegal to list model n multiple times in config list {place}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: f"multiple times in config list {place}" in server.log, "the server says the same")
        file.write_text(config_text([Model("new", HALF_PLUS_TWO)]).replace("tensorflow", "tensorfow"))
        for command in (diff, ("servable", "config", "check", str(file))):
            done = run_to_end(*command)
            assert done.returncode == 255
            assert "requests unsupported platform tensorfow" in done.stdout + done.stderr


def test_a_check_is_told_what_the_server_is_told(tmp_path: Path) -> None:
    file, platforms = tmp_path / "models.config", tmp_path / "platforms.config"
    file.write_text('model_config_list { config { name: "m" base_path: "multi" model_platform: "own" } }')
    platforms.write_text(
        'platform_configs { key: "own" value { source_adapter_config { '
        "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] { } } } }"
    )
    flags = (f"--model_config_list_root_dir={MODELS}", f"--platform_config_file={platforms}")
    checked = run_to_end("servable", "config", "check", str(file), *flags)
    assert (checked.returncode, checked.stdout) == (0, f"{file}: nothing is wrong\n")
    for flag in flags:
        assert run_to_end("servable", "config", "check", str(file), flag).returncode == 255


RETRIES = ("--max_num_load_retries=1000000", "--load_retry_interval_micros=20000")
"""A version that cannot be loaded is loading until it can be."""


def test_a_slow_add_holds_up_nobody(tmp_path: Path) -> None:
    base = tmp_path / "slow"
    (base / "1").mkdir(parents=True)
    with administered(tmp_path, *RETRIES) as server:
        answers: list[Answer] = []
        slow = threading.Thread(target=lambda: answers.append(server.add("slow", base)))
        slow.start()
        server.wait_for(lambda: server.names() == ["slow"], "the slow model is configured")
        late = server.add("slow", base, "?timeout_ms=1")
        assert (late.status, late.headers["servable-code"]) == (504, "DEADLINE_EXCEEDED")
        assert server.add("quick", HALF_PLUS_TWO, "?wait=false").status == 200
        assert server.admin("DELETE", "/quick").status == 200

        def status() -> str:
            (version,) = server.admin("GET", "/slow").json["versions"]
            assert (version["state"], version["status"]["error_code"]) == ("LOADING", "OK")
            return str(version["status"]["error_message"])

        server.wait_for(lambda: status().startswith("NOT_FOUND: "), "its status tells what keeps it")
        assert not answers
        shutil.copytree(MODELS / "multi" / "1", base / "1", dirs_exist_ok=True)
        slow.join(TIMEOUT_S)
        assert answers[0].status == 200


def test_a_model_that_many_wait_for_can_be_removed(tmp_path: Path) -> None:
    base = tmp_path / "slow"
    (base / "1").mkdir(parents=True)
    with administered(tmp_path, *RETRIES) as server, ThreadPoolExecutor(MOST_WAITING + 1) as threads:
        answers = [threads.submit(server.add, "slow", base) for _ in range(MOST_WAITING + 1)]
        server.wait_for(lambda: any(answer.done() for answer in answers), "one finds no place to wait")
        server.wait_for(lambda: server.log.count("(Re-)adding model: slow") == MOST_WAITING, "the others wait")
        assert server.admin("PUT", "/slow/labels/x", {"version": 1}).headers["servable-code"] == "FAILED_PRECONDITION"
        assert server.admin("DELETE", "/slow").status == 200
        assert sorted(answer.result(TIMEOUT_S).status for answer in answers) == [429, *[500] * MOST_WAITING]


def test_a_stop_does_not_wait_for_a_waiting_add(tmp_path: Path) -> None:
    base = tmp_path / "slow"
    (base / "1").mkdir(parents=True)
    with administered(tmp_path, *RETRIES) as server:
        answers: list[Answer] = []
        waiting = threading.Thread(target=lambda: answers.append(server.add("slow", base)))
        waiting.start()
        server.wait_for(lambda: server.names() == ["slow"], "the model is configured")
        server.stop()
        waiting.join(TIMEOUT_S)
        assert answers[0].status == 503


def test_a_restart_keeps_what_was_changed(tmp_path: Path) -> None:
    config, state = tmp_path / "models.config", tmp_path / "state"
    config.write_text(config_text([Model("base", MODELS / "multi"), Model("gone", MODELS / "half")]))
    flags = (f"--model_config_file={config}", f"--model_state_file={state}")
    shutil.copytree(MODELS / "multi", tmp_path / "added")
    with administered(tmp_path, *flags) as server:
        server.add("added", tmp_path / "added")
        server.admin("PUT", "/added/labels/stable", {"version": 3})
        server.admin("PUT", "/base/labels/stable", {"version": 3})
        server.admin("DELETE", "/gone")
        server.signal(signal.SIGKILL)
        server.exit_code()
    with administered(tmp_path, *flags) as server:
        assert server.names() == ["added", "base"]
        for model in ("added", "base"):
            assert server.predict(f"{model}/labels/stable").json == {"outputs": 3.0}
    shutil.rmtree(tmp_path / "added")
    with administered(tmp_path, *flags) as server:
        assert "added through the admin port did not become available" in server.log
        assert server.predict("base").status == 200
        with Grpc(server.grpc_address) as client:
            client.reload(config_text([Model("gone", MODELS / "half")]))
        assert server.names() == ["gone"]
    with administered(tmp_path, *flags) as server:
        assert server.names() == ["base", "gone"]


def test_an_added_model_that_is_broken_does_not_hold_up_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(MODELS / "multi", tmp_path / "added")
    with administered(tmp_path, f"--model_state_file={state}") as server:
        server.add("added", tmp_path / "added")
    for version in (tmp_path / "added").iterdir():
        (version / "saved_model.pb").write_bytes(b"no SavedModel")
    retries = ("--max_num_load_retries=9", "--load_retry_interval_micros=3600000000")
    with administered(tmp_path, f"--model_state_file={state}", *retries) as server:
        assert "added through the admin port did not become available" in server.log
        assert server.names() == ["added"]


def test_the_watched_file_keeps_what_was_changed(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(config_text([Model("a", HALF_PLUS_TWO)]))
    flags = (f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1")
    with administered(tmp_path, *flags) as server:
        server.add("added", MULTI)
        server.admin("DELETE", "/a")
        config.write_text(config_text([Model("a", HALF_PLUS_TWO), Model("b", MODELS / "half")]))
        server.wait_for(lambda: server.names() == ["added", "b"], "the file is read again")


def test_a_damaged_state_file_ends_the_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("{")
    done = run_to_end("servable", "serve", "--port=0", "--grpc_socket_path=s", f"--model_state_file={state}")
    assert done.returncode == 255
    assert f"Error: DATA_LOSS: The model state file {state} cannot be understood: " in done.stdout
    assert "remove it to start with the configured models alone" in done.stdout


def add_until_it_ends(server: Administered, prefix: str, answered: list[str]) -> None:
    """Add models without end; `answered` gets the names of those that the server has said yes to."""
    for index in itertools.count():
        try:
            answer = server.add(f"{prefix}.{index}", "/nowhere", "?wait=false")
        except (OSError, http.client.HTTPException):
            return
        assert answer.status == 200
        answered.append(f"{prefix}.{index}")


def test_a_kill_at_any_moment_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    kept: set[str] = set()
    for run, count in enumerate([1, 7, 2, 11, 5]):
        with administered(tmp_path, f"--model_state_file={tmp_path / 'state'}") as server:
            kept_now = set(server.names())
            assert kept <= kept_now
            answered: list[str] = []
            adding = threading.Thread(target=add_until_it_ends, args=(server, f"m{run}", answered))
            adding.start()
            wait_until(functools.partial(is_as_long, answered, count), "models are added")
            server.signal(signal.SIGKILL)
            server.exit_code()
            adding.join(TIMEOUT_S)
            kept = kept_now | set(answered)
    with administered(tmp_path, f"--model_state_file={tmp_path / 'state'}") as server:
        assert kept <= set(server.names())


def is_as_long(names: list[str], count: int) -> bool:
    return len(names) >= count


GARBAGE = [
    b"\x00" * 100,
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    b"GET /admin/v1/models\r\n\r\n",
    b"PUT /admin/v1/models/m HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n",
    b"PUT /admin/v1/models/m HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /admin/v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
]


def is_answered(connection: Raw) -> bool:
    return connection.is_closed or bool(connection.received)


def test_attacks_are_the_attackers_affair(empty: Administered) -> None:
    slow = [Raw(empty.admin_port) for _ in range(50)]
    try:
        for index, connection in enumerate(slow):
            connection.send([b"", b"P", b"PRI *", b"PUT /admin/v1/models/m HTTP/1.1\r\nHo"][index % 4])
        for garbage in GARBAGE:
            connection = Raw(empty.admin_port)
            connection.send(garbage)
            connection.wait_for(functools.partial(is_answered, connection), "an answer or an end")
            connection.close()
        assert empty.names() == []
    finally:
        for connection in slow:
            connection.close()
