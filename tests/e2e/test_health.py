"""How a server tells how it is: while it starts, while it serves, while it goes; and what signals do to it."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.health_client import HealthClient
from tests.e2e.http2 import END_STREAM, INITIAL_WINDOW_SIZE, Http2, call, data, fields, headers, message
from tests.e2e.raw_client import Raw
from tests.e2e.rest_client import Answer, Rest
from tests.e2e.server import (
    DEADLINE_S,
    HALF_PLUS_TWO,
    MODELS,
    Model,
    ServerProcess,
    accepts,
    command,
    config_text,
    free_ports,
    run_to_end,
    serving,
    wait_until,
)
from tests.e2e.test_shutdown import begin_slow_rest, read_to_end

CHECK = fields("/grpc.health.v1.Health/Check")
WATCH = fields("/grpc.health.v1.Health/Watch")
PREDICT = {"instances": [2.0]}
VERSION = next(HALF_PLUS_TWO.iterdir())


def get(port: int, path: str, **headers: str) -> Answer:
    with Rest(port) as rest:
        return rest.get(path, **headers)


def probed(port: int, path: str) -> int:
    """The status of a page, for somebody with another address than all others here."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S, source_address=("127.0.0.2", 0))
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def is_let_in(port: int) -> bool:
    """Whether a connection is answered; one too many is closed, before or after its request was sent."""
    try:
        return get(port, "/livez").status == 200
    except (OSError, http.client.HTTPException):
        return False


def requests_at_work(monitoring: int) -> int:
    page = get(monitoring, "/metrics", Accept="text/plain").body.decode()
    (count,) = (int(line.split()[-1]) for line in page.splitlines() if line.startswith("servable_requests_in_flight "))
    return count


@contextmanager
def starting(folder: Path, models: list[Model], *flags: str) -> Iterator[tuple[ServerProcess, int, int]]:
    """A server that has been started, and its ports for monitoring and administration."""
    monitoring, admin = free_ports(2)
    config = folder / "models.config"
    config.write_text(config_text(models))
    ports = [f"--monitoring_port={monitoring}", "--monitoring_bind_host=127.0.0.1", f"--admin_port={admin}"]
    with ServerProcess([f"--model_config_file={config}", *ports, *flags], folder / "server.log") as server:
        server.wait_for(lambda: accepts(monitoring), "the monitoring port opens")
        yield server, monitoring, admin


def write_broken(base: Path) -> Path:
    (base / "1").mkdir(parents=True)
    (base / "1" / "saved_model.pb").write_bytes(b"this is no model")
    return base


def test_early_ports_tell_the_truth_until_the_main_ports_open(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    broken = write_broken(tmp_path / "bad")
    models = [Model("m", HALF_PLUS_TWO), Model("late", tmp_path / "late"), Model("bad", broken)]
    with (
        starting(tmp_path, models, "--max_num_load_retries=0") as (server, monitoring, admin),
        HealthClient(monitoring) as health,
    ):
        server.wait_for(lambda: b"model bad version 1: END: " in get(monitoring, "/readyz").body, "one has failed")
        server.wait_for(lambda: get(monitoring, "/readyz?verbose").json["available"] == 1, "one is there")
        assert get(monitoring, "/livez").status == 200
        answer = get(monitoring, "/readyz")
        assert answer.status == 503
        assert answer.body.startswith(b"starting\n")
        assert b"model late: NO_VERSION\n" in answer.body
        for report in (get(monitoring, "/readyz?verbose"), get(admin, "/readyz", Accept="application/json")):
            assert report.status == 503
            assert (report.json["ready"], report.json["phase"], report.json["models"]) == (False, "starting", 3)
            assert {model["name"] for model in report.json["unavailable"]} >= {"bad", "late"}
        assert get(monitoring, "/readyz/models/bad").status == 503
        assert get(monitoring, "/readyz/models/nobody").status == 404
        assert get(monitoring, "/metrics").status == get(monitoring, "/monitoring/prometheus/metrics").status == 200
        assert get(monitoring, "/v1/models/m").status == 404
        assert b'"m"' in get(admin, "/admin/v1/models").body, "the admin port works meanwhile"
        assert not accepts(server.rest_port)
        assert not accepts(server.grpc_port)

        assert health.check() == health.check("model/bad") == "NOT_SERVING"
        assert health.check("model/nobody") == "NOT_FOUND"
        everything, late, nobody = health.watch(), health.watch("model/late"), health.watch("model/nobody")
        assert (next(everything), next(late), next(nobody)) == ("NOT_SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")

        shutil.copytree(VERSION, broken / "1", dirs_exist_ok=True)
        server.wait_for(lambda: b"model bad" not in get(monitoring, "/readyz").body, "what was broken is tried again")
        shutil.copytree(VERSION, tmp_path / "late" / "1")
        server.wait_ready()
        assert (next(everything), next(late)) == ("SERVING", "SERVING")
        for port in (monitoring, admin, server.rest_port):
            assert get(port, "/readyz").body == b"ready\n"
            assert get(port, "/readyz/models/late").body == b"ready\n"
        for service in ("ModelService", "PredictionService", "tensorflow.serving.PredictionService", "model/m"):
            assert health.check(service) == "SERVING"


def test_the_main_port_knows_the_names_that_the_original_knows(tmp_path: Path) -> None:
    models = [Model("m", HALF_PLUS_TWO)]
    with (
        serving(models, tmp_path, "--enable_grpc_healthcheck_service") as server,
        HealthClient(server.grpc_port) as health,
    ):
        assert health.check("PredictionService") == health.check("model/m") == "SERVING"
        assert health.check("tensorflow.serving.PredictionService") == "NOT_FOUND"


def test_one_bad_model_does_not_take_the_server_out_of_service(tmp_path: Path) -> None:
    models = [Model("m", HALF_PLUS_TWO), Model("half/two", HALF_PLUS_TWO)]
    with (
        starting(tmp_path, models, "--max_num_load_retries=0") as (server, monitoring, admin),
        HealthClient(monitoring) as health,
    ):
        server.wait_ready()
        bad, gone = health.watch("model/bad"), health.watch("model/m")
        assert (next(bad), next(gone)) == ("SERVICE_UNKNOWN", "SERVING")
        with Rest(admin) as rest:
            config = {"name": "bad", "base_path": str(write_broken(tmp_path / "bad")), "model_platform": "tensorflow"}
            assert rest.send("PUT", "/admin/v1/models/bad?wait=false", config).status == 200
            assert rest.send("DELETE", "/admin/v1/models/m").status == 200
        assert next(bad) == "NOT_SERVING"
        assert next(gone) in ("NOT_SERVING", "SERVICE_UNKNOWN")

        one = "/readyz/models/bad?verbose"
        server.wait_for(lambda: get(monitoring, one).json["model"]["state"] == "END", "it has failed")
        answer = get(monitoring, one)
        assert answer.status == 503
        assert answer.json["model"]["version"] == 1
        assert answer.json["model"]["error"]
        assert get(monitoring, "/readyz/models/m").status == 404
        assert get(monitoring, "/readyz/models/half%2Ftwo").status == 200
        everything = get(server.rest_port, "/readyz")
        assert everything.status == 200
        assert everything.body.startswith(b"ready\nmodel bad version 1: END: ")
        assert health.check() == "SERVING"


def test_a_model_that_is_removed_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    models = [Model("m", HALF_PLUS_TWO), Model("empty", tmp_path / "empty")]
    with starting(tmp_path, models) as (server, monitoring, admin), Rest(admin) as rest:
        server.wait_for(lambda: b"model empty: NO_VERSION" in get(monitoring, "/readyz").body, "it is known")
        assert rest.send("DELETE", "/admin/v1/models/empty").status == 200
        server.wait_ready()


def test_load_balancers_get_time_to_notice_and_requests_time_to_finish(tmp_path: Path) -> None:
    models = [Model("slow", MODELS / "slow"), Model("m", HALF_PLUS_TWO)]
    flags = ("--drain_grace_seconds=2", "--drain_timeout_seconds=60")
    with (
        starting(tmp_path, models, *flags) as (server, monitoring, _),
        HealthClient(monitoring) as health,
        begin_slow_rest(server.wait_ready().rest_port, 5000) as connection,
    ):
        changes = health.watch()
        assert next(changes) == "SERVING"
        server.signal()
        assert next(changes) == "NOT_SERVING"
        with Rest(server.rest_port) as rest:
            assert rest.predict("m", PREDICT).status == 200, "new requests are still accepted"
            assert rest.get("/readyz").status == 503
        assert get(monitoring, "/readyz").body == b"draining\n"
        assert get(monitoring, "/readyz/models/m").status == 503
        assert health.check("model/m") == "NOT_SERVING"
        server.wait_for(lambda: not accepts(server.rest_port), "the grace period ends")
        assert get(monitoring, "/livez").status == 200
        assert get(monitoring, "/readyz").status == 503
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 OK\r\n")
        assert server.exit_code() == 0


def test_watchers_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with (
        starting(tmp_path, [Model("m", HALF_PLUS_TWO)], "--drain_timeout_seconds=600") as (server, monitoring, _),
        HealthClient(monitoring) as health,
        socket.create_connection(("127.0.0.1", monitoring)),
    ):
        changes = health.watch("model/m")
        assert next(changes) in ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
        server.wait_ready().signal()
        assert server.exit_code() == 0


def test_a_second_signal_ends_the_grace_period(tmp_path: Path) -> None:
    with serving([Model("m", HALF_PLUS_TWO)], tmp_path, "--drain_grace_seconds=600") as server:
        server.signal()
        server.wait_for(lambda: get(server.rest_port, "/readyz").status == 503, "it is not ready")
        server.signal(signal.SIGINT)
        assert server.exit_code() == 128 + signal.SIGINT


def test_watchers_and_probes_beyond_number_shut_nobody_out(tmp_path: Path) -> None:
    with starting(tmp_path, [Model("m", HALF_PLUS_TWO)]) as (server, monitoring, _):
        server.wait_ready()
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(Raw(monitoring)).send(b"GET /livez HTTP/1.1\r\nHost:")
            with Rest(server.rest_port) as rest:
                assert rest.predict("m", PREDICT).status == 200
            if sys.platform == "linux":  # where all of 127.0.0.0/8 is this machine
                assert [probed(monitoring, path) for path in ("/livez", "/readyz")] == [200, 200]
        server.wait_for(lambda: is_let_in(monitoring), "there is room again")


def test_watches_beyond_number_are_refused_and_nothing_else(tmp_path: Path) -> None:
    with starting(tmp_path, [Model("m", HALF_PLUS_TWO)]) as (server, monitoring, _), Http2(monitoring) as connection:
        server.wait_ready()
        streams = [connection.next_stream() for _ in range(300)]
        connection.flood(call(stream, b"", WATCH) for stream in streams)
        assert connection.answer(streams[-1])["grpc-status"] == "8"
        for path in ("/livez", "/readyz", "/readyz/models/m", "/metrics"):
            assert get(monitoring, path).status == 200
        with HealthClient(monitoring) as health:
            assert health.check() == "SERVING"
        assert not connection.is_ended(streams[0])


def test_pages_of_health_are_answered_however_much_is_asked(tmp_path: Path) -> None:
    """No answer can be sent, so that as many calls stay as there may be."""
    with (
        starting(tmp_path, [Model("m", HALF_PLUS_TWO)]) as (server, monitoring, _),
        Http2(monitoring, {INITIAL_WINDOW_SIZE: 0}) as connection,
    ):
        server.wait_ready()
        connection.flood(call(connection.next_stream(), b"", CHECK) for _ in range(300))
        connection.ping()
        server.wait_for(lambda: get(monitoring, "/metrics").status == 503, "there is no room")
        for path in ("/livez", "/readyz", "/readyz/models/m"):
            assert get(monitoring, path).status == 200


def test_probes_are_answered_while_requests_are_refused(tmp_path: Path) -> None:
    models = [Model("slow", MODELS / "slow")]
    with (
        starting(tmp_path, models, "--max_requests_in_flight=1") as (server, monitoring, _),
        HealthClient(monitoring) as health,
        begin_slow_rest(server.wait_ready().rest_port),
    ):
        server.wait_for(lambda: requests_at_work(monitoring) == 1, "the request is at work")
        assert get(server.rest_port, "/v1/models/slow").status == 503, "it has enough to do"
        for port in (monitoring, server.rest_port):
            assert get(port, "/livez").status == get(port, "/readyz").status == 200
        assert health.check() == "SERVING"


REFLECT = fields("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")


def check_in_parts(port: int) -> str:
    """The status of a check whose message comes later than its head."""
    with Http2(port) as connection:
        connection.send(headers(1, CHECK))
        connection.ping()
        connection.send(data(1, message(b""), END_STREAM))
        return connection.answer(1)["grpc-status"]


def test_calls_that_do_not_get_on_shut_nobody_out_at_another_door(tmp_path: Path) -> None:
    flags = ("--max_requests_in_flight=2", "--enable_grpc_healthcheck_service")
    with starting(tmp_path, [Model("m", HALF_PLUS_TWO)], *flags) as (server, monitoring, _):
        main = server.wait_ready().grpc_port
        for crowded, other, block in ((main, monitoring, CHECK), (monitoring, main, REFLECT)):
            with Http2(crowded) as connection:
                for _ in range(9):
                    connection.send(headers(connection.next_stream(), block))
                connection.ping()
                assert check_in_parts(other) == "0"


def test_ports_of_their_own_cannot_be_shared(tmp_path: Path) -> None:
    done = run_to_end("tensorflow_model_server", f"--model_base_path={tmp_path}", "--port=9", "--monitoring_port=9")
    assert done.returncode == 255
    assert "--monitoring_port and --port are both 9" in done.stdout


def test_a_hangup_has_the_configuration_file_read_again(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    with serving([Model("a", HALF_PLUS_TWO)], tmp_path) as server, Rest(server.rest_port) as rest:
        config.write_text(config_text([Model("a", HALF_PLUS_TWO), Model("b", HALF_PLUS_TWO)]))
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: list(rest.states("b").values()) == ["AVAILABLE"], "the new model is there")
        config.write_text("nonsense")
        complaint = "Failed to read ModelServerConfig file"
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: server.log.count(complaint) == 1, "whoever asks is told")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: server.log.count(complaint) == 2, "whoever asks again is told again")
        assert rest.predict("a", PREDICT).status == 200


def test_a_hangup_ends_a_server_that_has_no_file_to_read(tmp_path: Path) -> None:
    flags = [f"--model_base_path={HALF_PLUS_TWO}"]
    # What nohup makes its children ignore, theirs ignore too.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with ServerProcess(flags, tmp_path / "log") as server:
            server.wait_ready().signal(signal.SIGHUP)
            assert server.exit_code() == -signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def caught(pid: int) -> set[int]:
    """The signals that a process has handlers for."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_handlers_are_installed_while_models_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with starting(tmp_path, [Model("m", tmp_path / "empty")]) as (server, _, _):
        wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        server.wait_for(lambda: wanted <= caught(server.process.pid), "handlers are there")
        server.signal()
        assert server.exit_code() == 0


CONTAINER = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]


@pytest.mark.parametrize("signals", [1, 2])
def test_the_first_process_of_a_container_hears_signals(tmp_path: Path, signals: int) -> None:
    if shutil.which("unshare") is None or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us make a namespace of processes")
    (rest_port,) = free_ports(1)
    flags = ["--port=0", f"--rest_api_port={rest_port}", "--bind_host=127.0.0.1", f"--model_base_path={HALF_PLUS_TWO}"]
    flags += [f"--grpc_socket_path={tmp_path / 'socket'}", "--drain_grace_seconds=" + ("0" if signals == 1 else "600")]
    with (tmp_path / "log").open("wb") as log:
        outer = subprocess.Popen([*CONTAINER, command("tensorflow_model_server"), *flags], stdout=log, stderr=log)
        try:
            wait_until(lambda: accepts(rest_port), "the server opens its port")
            inner = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
            assert Path(f"/proc/{inner}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
            os.kill(inner, signal.SIGTERM)
            if signals == 2:
                wait_until(lambda: get(rest_port, "/readyz").status == 503, "the first signal is heard")
                os.kill(inner, signal.SIGTERM)
            assert outer.wait(DEADLINE_S) == (0 if signals == 1 else 128 + signal.SIGTERM)
        finally:
            outer.kill()
