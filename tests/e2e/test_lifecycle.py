"""Versions that come and go while clients ask: nobody notices but by the answers."""

from __future__ import annotations

import itertools
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import grpc
import pytest
import tensorflow as tf

from tests.e2e.grpc_client import Grpc, code_of, details_of, predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import DEADLINE_S, HALF_PLUS_TWO, MODELS, Model, ServerProcess, config_text, serving, wait_until


def put(base: Path, version: int, source: int | None = None) -> None:
    """Let a version of `multi` appear as careful people do: copied elsewhere, then renamed into place.

    Its answers are x + source.
    """
    base.mkdir(exist_ok=True)
    aside = base.parent / f"{base.name}.incoming"
    shutil.copytree(MODELS / "multi" / str(source or version), aside)
    aside.rename(base / str(version))


def put_broken(base: Path, version: int, content: bytes | None = None) -> None:
    """Let a version appear whose SavedModel is missing, or is something else."""
    base.mkdir(exist_ok=True)
    aside = base.parent / f"{base.name}.incoming"
    aside.mkdir()
    if content is not None:
        (aside / "saved_model.pb").write_bytes(content)
    aside.rename(base / str(version))


class Load:
    """Clients that ask `model` all the time, over both protocols; each remembers what it was answered."""

    def __init__(self, server: ServerProcess, model: str) -> None:
        self.failures: list[str] = []
        self.answers: list[list[float]] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(ask,))
            for ask in [_grpc_client(server, model), _rest_client(server, model)] * 2
        ]

    def _run(self, client: Callable[[], tuple[Callable[[], float], Callable[[], None]]]) -> None:
        ask, close = client()
        answers: list[float] = []
        self.answers.append(answers)
        try:
            while not self._stopped.is_set():
                answers.append(ask())
        except Exception as error:
            self.failures.append(repr(error))
        finally:
            close()

    def wait_for(self, answer: float) -> None:
        """Wait until every client has been answered so."""
        wait_until(
            lambda: (
                bool(self.failures)
                or (len(self.answers) == len(self._threads) and all(a and a[-1] == answer for a in list(self.answers)))
            ),
            f"all clients get the answer {answer}",
        )
        assert not self.failures

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        assert not self.failures

    def changes(self) -> list[list[float]]:
        """What each client was answered, without repetitions."""
        return [[answer for answer, _ in itertools.groupby(answers)] for answers in self.answers]


def _grpc_client(server: ServerProcess, model: str) -> Callable[[], tuple[Callable[[], float], Callable[[], None]]]:
    def client() -> tuple[Callable[[], float], Callable[[], None]]:
        it = Grpc(server.grpc_address)
        request = predict_request(model, {"x": 0.0})
        return lambda: float(it.predict(request).outputs["y"].float_val[0]), it.close

    return client


def _rest_client(server: ServerProcess, model: str) -> Callable[[], tuple[Callable[[], float], Callable[[], None]]]:
    def client() -> tuple[Callable[[], float], Callable[[], None]]:
        it = Rest(server.rest_port)

        def ask() -> float:
            answer = it.predict(model, '{"inputs": 0}')
            assert answer.status == 200, answer
            return float(answer.json["outputs"])

        return ask, it.close

    return client


def test_versions_come_and_go_without_a_failed_request(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    with serving([Model("multi", base)], tmp_path) as server, Grpc(server.grpc_address) as client:
        with Load(server, "multi") as load:
            load.wait_for(1.0)
            put(base, 2)
            load.wait_for(2.0)
            server.wait_for(lambda: client.states("multi") == {2: "AVAILABLE", 1: "END"}, "the old version goes")
            assert client.status("multi", 1) == [(1, "END", 0, "")]
            put(base, 10, source=3)  # numbers count, not letters
            load.wait_for(3.0)
            (base / "10").rename(base / "10.off")
            load.wait_for(2.0)
            server.wait_for(
                lambda: client.states("multi") == {10: "END", 2: "AVAILABLE", 1: "END"}, "the former version is back"
            )
        assert load.changes() == [[1.0, 2.0, 3.0, 2.0]] * 4


def test_the_last_version_goes_when_its_folder_goes(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    with serving([Model("multi", base)], tmp_path) as server, Rest(server.rest_port) as rest:
        (base / "1").rename(base / "1.off")
        server.wait_for(lambda: rest.states("multi") == {"1": "END"}, "the version goes")
        assert rest.predict("multi", {"inputs": 0}).error == "Servable not found for request: Latest(multi)"
        (base / "1.off").rename(base / "1")
        server.wait_for(lambda: rest.states("multi") == {"1": "AVAILABLE"}, "the version comes back")
        assert rest.predict("multi", {"inputs": 0}).json == {"outputs": 1.0}


def test_a_broken_version_does_not_replace_a_good_one(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    flags = ["--max_num_load_retries=0"]
    with serving([Model("multi", base)], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        with Load(server, "multi") as load:
            put_broken(base, 2, b"no SavedModel")
            server.wait_for(lambda: client.states("multi").get(2) == "END", "the load fails")
            ((_, _, code, message),) = client.status("multi", 2)
            assert code != 0
            assert message
            put_broken(base, 3)
            server.wait_for(lambda: client.states("multi").get(3) == "END", "the load fails")
            ((_, _, code, message),) = client.status("multi", 3)
            assert code == tf.errors.NOT_FOUND
            assert str(base / "3") in message
            load.wait_for(1.0)
            put(base, 4, source=3)
            load.wait_for(3.0)
        assert load.changes() == [[1.0, 3.0]] * 4


@pytest.mark.parametrize("settle_s", [0, 1])
def test_a_version_without_its_variables_does_not_replace_a_good_one(settle_s: int, tmp_path: Path) -> None:
    """TensorFlow loads it, and then no request finds a variable."""
    base, aside = tmp_path / "counter", tmp_path / "aside"
    shutil.copytree(MODELS / "counter" / "1", base / "1")
    shutil.copytree(MODELS / "counter" / "1", aside)
    (aside / "variables").rename(tmp_path / "variables")
    flags = [f"--version_settle_seconds={settle_s}", "--load_retry_interval_micros=50000"]
    with serving([Model("counter", base)], tmp_path, *flags) as server, Rest(server.rest_port) as rest:
        aside.rename(base / "2")
        server.wait_for(lambda: "2 has no variables/variables.index" in server.log, "the variables are missed")
        assert rest.states("counter")["1"] == "AVAILABLE"
        (tmp_path / "variables").rename(base / "2" / "variables")
        server.wait_for(lambda: rest.states("counter") == {"1": "END", "2": "AVAILABLE"}, "the whole version is loaded")


def test_what_is_no_whole_model_does_not_replace_a_good_one_that_would_go_first(tmp_path: Path) -> None:
    base, aside = tmp_path / "counter", tmp_path / "aside"
    for folder in (base / "1", aside):
        shutil.copytree(MODELS / "counter" / "1", folder)
    shutil.rmtree(aside / "variables")
    flags = [
        *("--version_settle_seconds=0", "--version_transition=resource_preserving"),
        *("--load_retry_interval_micros=50000", "--max_num_load_retries=2"),
    ]
    with serving([Model("counter", base)], tmp_path, *flags) as server, Rest(server.rest_port) as rest:
        aside.rename(base / "2")
        server.wait_for(lambda: rest.states("counter").get("2") == "END", "the variables are missed")
        (base / "3").mkdir()
        server.wait_for(lambda: rest.states("counter").get("3") == "END", "the folder is found empty")
        assert rest.states("counter")["1"] == "AVAILABLE"


def test_a_load_that_failed_is_tried_again(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put(base, 1)
    flags = ["--max_num_load_retries=1000", "--load_retry_interval_micros=50000"]
    with serving([Model("multi", base)], tmp_path, *flags) as server, Rest(server.rest_port) as rest:
        put_broken(base, 2)
        server.wait_for(lambda: "Retrying of Loading servable" in server.log, "another attempt")
        assert rest.states("multi") == {"1": "AVAILABLE", "2": "LOADING"}
        shutil.copytree(MODELS / "multi" / "2", base / "2", dirs_exist_ok=True)
        server.wait_for(lambda: rest.states("multi") == {"2": "AVAILABLE", "1": "END"}, "the mended version loads")


@pytest.mark.parametrize("name", ["readme", "saved_model.pb"])
def test_a_first_version_that_is_no_model_ends_the_start(tmp_path: Path, name: str) -> None:
    version = tmp_path / "broken" / "1"
    version.mkdir(parents=True)
    (version / name).write_text("no model")
    flags = [f"--model_base_path={tmp_path / 'broken'}", "--model_name=broken", "--max_num_load_retries=0"]
    with ServerProcess(flags, tmp_path / "log") as server:
        assert server.process.wait(DEADLINE_S) == 255
        assert (
            "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: broken"
            in server.log
        )


def test_a_server_without_versions_waits_for_one(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    flags = [f"--model_base_path={base}", "--model_name=multi"]
    with ServerProcess(flags, tmp_path / "log") as server:
        server.wait_for(lambda: f"Could not find base path {base}" in server.log, "the base path is missed")
        assert not server.is_open()
        base.mkdir()
        server.wait_for(lambda: "No versions of servable multi found" in server.log, "versions are missed")
        assert not server.is_open()
        put(base, 2)
        server.wait_ready()
        with Rest(server.rest_port) as rest:
            assert rest.predict("multi", {"inputs": 0}).json == {"outputs": 2.0}


def test_a_first_version_that_does_not_load_ends_the_server(tmp_path: Path) -> None:
    base = tmp_path / "multi"
    put_broken(base, 1)
    flags = [f"--model_base_path={base}", "--model_name=multi", "--max_num_load_retries=0"]
    with ServerProcess(flags, tmp_path / "log") as server:
        assert server.exit_code() == 255
        assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available" in server.log
        assert "{name: multi version: 1} due to error: " in server.log


def test_a_missing_base_path_does_not_hurt_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name, 1)
    models = [Model("a", tmp_path / "a"), Model("b", tmp_path / "b")]
    with serving(models, tmp_path) as server, Rest(server.rest_port) as rest:
        (tmp_path / "a").rename(tmp_path / "a.off")
        put(tmp_path / "b", 2)
        server.wait_for(lambda: rest.states("b") == {"2": "AVAILABLE", "1": "END"}, "the other model moves on")
        assert "Could not find base path" in server.log
        assert rest.predict("a", {"inputs": 0}).json == {"outputs": 1.0}


def test_a_reload_changes_models_versions_and_labels(tmp_path: Path) -> None:
    multi = MODELS / "multi"
    with (
        serving([Model("m", multi, policy="specific { versions: 1 }")], tmp_path) as server,
        Grpc(server.grpc_address) as client,
        Load(server, "m") as load,
    ):
        load.wait_for(1.0)

        def ask(label: str) -> float:
            return float(client.predict(predict_request("m", {"x": 0.0}, label=label)).outputs["y"].float_val[0])

        def reload(policy: str, labels: dict[str, int]) -> None:
            client.reload(config_text([Model("m", multi, policy, labels)]))

        reload("specific { versions: 1 }", {"stable": 1})
        assert ask("stable") == 1.0

        with pytest.raises(grpc.RpcError) as raised:
            reload("specific { versions: 1 versions: 2 }", {"stable": 1, "canary": 2})
        assert code_of(raised.value) == "FAILED_PRECONDITION"
        assert "version 2 of model m" in details_of(raised.value)
        assert client.states("m") == {1: "AVAILABLE"}, "a reload that is refused changes nothing"

        reload("specific { versions: 1 versions: 2 }", {"stable": 1})
        server.wait_for(lambda: client.states("m") == {2: "AVAILABLE", 1: "AVAILABLE"}, "both versions are there")
        reload("specific { versions: 1 versions: 2 }", {"stable": 1, "canary": 2})
        assert (ask("stable"), ask("canary")) == (1.0, 2.0)
        reload("specific { versions: 1 versions: 2 }", {"stable": 2})
        assert ask("stable") == 2.0
        with pytest.raises(grpc.RpcError) as raised:
            ask("canary")
        assert details_of(raised.value) == "Unrecognized servable version label: canary"

        reload("latest { num_versions: 1 }", {"stable": 2})
        server.wait_for(lambda: client.states("m")[3] == "AVAILABLE", "the latest version is there")
        load.wait_for(3.0)


def test_a_reload_waits_for_new_models_and_lets_go_of_old_ones(tmp_path: Path) -> None:
    with (
        serving([Model("old", HALF_PLUS_TWO)], tmp_path, "--max_num_load_retries=0") as server,
        Grpc(server.grpc_address) as client,
    ):
        response = client.reload(config_text([Model("new", MODELS / "half"), Model("other", MODELS / "multi")]))
        assert response.status.error_code == 0
        assert client.states("new") == {7: "AVAILABLE"}
        assert client.states("other") == {3: "AVAILABLE"}
        server.wait_for(lambda: client.states("old") == {1: "END"}, "the old model goes")
        with pytest.raises(grpc.RpcError) as raised:
            client.predict(predict_request("old", {"x": [1.0]}))
        assert details_of(raised.value) == "Servable not found for request: Latest(old)"

        put_broken(tmp_path / "broken", 1)
        with pytest.raises(grpc.RpcError) as raised:
            client.reload(config_text([Model("new", MODELS / "half"), Model("broken", tmp_path / "broken")]))
        assert code_of(raised.value) == "UNKNOWN"
        assert "1 model(s) did not become available: {{{name: broken version: 1}" in details_of(raised.value)
        assert client.states("new") == {7: "AVAILABLE"}


@pytest.mark.parametrize(
    ("models", "code"),
    [
        ([Model("m", Path("relative"))], "INVALID_ARGUMENT"),
        ([Model("m", HALF_PLUS_TWO), Model("m", HALF_PLUS_TWO)], "INVALID_ARGUMENT"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(server: ServerProcess, models: list[Model], code: str) -> None:
    with Grpc(server.grpc_address) as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.reload(config_text(models))
        assert code_of(raised.value) == code
        assert client.states("half_plus_two") == {1: "AVAILABLE"}


def test_the_configuration_file_is_watched(tmp_path: Path) -> None:
    models = [Model("a", HALF_PLUS_TWO)]
    flags = ["--model_config_file_poll_wait_seconds=1"]
    with serving(models, tmp_path, *flags) as server, Rest(server.rest_port) as rest:
        config = tmp_path / "models.config"
        config.write_text("model_config_list { no such field }")
        server.wait_for(lambda: f"Invalid protobuf file: '{config}'" in server.log, "the mistake is noticed")
        assert rest.states("a") == {"1": "AVAILABLE"}
        config.write_text(config_text([Model("b", MODELS / "half")]))
        server.wait_for(lambda: rest.states("b") == {"7": "AVAILABLE"}, "the new model is there")
        server.wait_for(lambda: rest.states("a") == {"1": "END"}, "the old model goes")


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_wrong_path_in_the_configuration_file_can_be_mended_during_the_start(by_signal: bool, tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(config_text([Model("a", HALF_PLUS_TWO), Model("b", tmp_path / "hlaf")]))
    flags = [f"--model_config_file={config}", f"--model_config_file_poll_wait_seconds={0 if by_signal else 1}"]
    with ServerProcess(flags, tmp_path / "log") as server, Rest(server.rest_port) as rest:
        server.wait_for(lambda: f"Could not find base path {tmp_path}/hlaf" in server.log, "the base path is missed")
        assert not server.is_open()
        config.write_text(config_text([Model("a", HALF_PLUS_TWO), Model("b", MODELS / "half")]))
        if by_signal:
            server.signal(signal.SIGHUP)
        server.wait_ready()
        assert rest.states("b") == {"7": "AVAILABLE"}
