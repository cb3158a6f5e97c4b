"""A long run of everything at once, at a light load: does memory stay flat, and does every request get its due?

    python benches/soak.py [--minutes N] [--rate N] [--most-growth-mb N] [--quick]

Clients send good, bad, large and broken-off requests over gRPC and REST to a server of several models with batching,
with all that a server in production has switched on: TLS and API keys, some of them wrong; health streams that come and
go; a request log, an access log that is moved away, and traces for a collector that is there half of the time; metrics
and probes on a port of their own. Meanwhile an operator changes versions, adds and removes models through the admin
port, by a call and by the file, and renews certificates and keys; for the last fifth of the run no version is loaded
any more. Resident memory is sampled; after a warm-up of a fifth of the run, a line is fitted through the samples. Ends
with 1 if a request was not answered as it had to be, if something that is switched on did not do its work, if the
server did not end in order, or if that line rises by more than `--most-growth-mb`.

Lines of their own are fitted while versions are loaded and while they are not, so that what each load leaves behind can
be told from what requests leave behind.

Needs Linux, openssl, grpcio and matplotlib. The load is light so that it can run beside other work: what is measured is
memory, not speed. `RssAnon` is judged, the memory that is the process's own; pages of libraries come and go and are
nobody's.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import hashlib
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
from harness import MODELS, RESULTS, free_ports, keep, require
from servable import engine

TEST_MODELS = MODELS.parents[3] / "tests" / "models"
CLIENTS = 4
SAMPLE_S = 5.0
CHORE_S = 15.0
"""Between an operator's chores, each of which follows a change of a version."""
COLLECTOR_S = 60.0
"""For this long the collector of traces is there, and then gone."""
WATCHED = 8
"""Health streams that a client has open."""
WITHIN_S = 60.0
"""For an answer, and for a change of versions, on a busy machine."""
WARM_UP = 0.2
"""Share of the run that is not judged: caches fill, and as many ended versions gather as are remembered."""
QUIET = 0.2
"""Share of the run, its last, in which no version is loaded."""
KEPT_FAILURES = 20
LARGE_FLOATS = 250_000
SERVICES = "/tensorflow.serving"
LOGGED_SHARE = 0.1
LOG_FILE_BYTES = 4 << 20
LOG_KEEP_BYTES = 16 << 20
"""Of the request log: small, so that files are finished and removed all the time."""
ACCESS = """
rule { caller: ["client", "operator", "visitor"] may: [PREDICT, READ] model: "*" }
rule { caller: "reader" may: READ model: "*" }
rule { caller: "operator" may: [RELOAD, ADMIN] model: "*" }
"""
BATCHING = "max_batch_size { value: 32 } batch_timeout_micros { value: 1000 } max_enqueued_batches { value: 1000 }"


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the server held at a moment, in seconds since the start and MB."""

    at_s: float
    loads: int
    """Of versions, since the start."""
    own_mb: float
    resident_mb: float
    dirty_mb: float
    """Private pages that were written."""
    huge_mb: float
    """Of its own memory, what is in huge pages: each stays for whatever little of it is used."""
    data_mb: float
    """Address space for data: what malloc has asked for, used or not."""
    threads: int
    descriptors: int
    metrics_bytes: int
    request_log_bytes: int


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through samples: where and when it begins, and how steep it is."""

    first_mb: float
    mb_per_hour: float
    from_hour: float
    hours: float

    @property
    def growth_mb(self) -> float:
        return self.mb_per_hour * self.hours


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The line that is judged, its parts with and without loads, and what the former is for each load."""

    whole: Line
    loading: Line
    quiet: Line
    bytes_per_load: float


class WrongAnswerError(Exception):
    """A request was not answered as it had to be."""


class Collector:
    """Takes traces over OTLP while it listens."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.batches = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if self.path == "/v1/traces" and self.rfile.read(int(self.headers["content-length"])):
                    collector.batches += 1
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as listener:
            thread = threading.Thread(target=listener.serve_forever)
            thread.start()
            try:
                yield
            finally:
                listener.shutdown()
                thread.join()


class Server:
    """The server that is soaked, and the files that it reads and writes."""

    def __init__(self, scratch: Path, collector: Collector) -> None:
        self.grpc_port, self.rest_port, self.admin_port, self.monitoring_port = free_ports(4)
        self.changing = scratch / "changing"
        self.log = scratch / "server.log"
        self.access_log = scratch / "access.log"
        self.request_log = scratch / "requests"
        self.certificates = make_certificates(scratch)
        self.loads = 0
        self._scratch = scratch
        shutil.copytree(MODELS / "half_plus_two" / "1", self.changing / "1")
        self.write_models()
        self.write_credentials(0)
        (scratch / "monitoring.config").write_text("prometheus_config { enable: true }")
        (scratch / "batching.config").write_text(BATCHING)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("tensorflow_model_server")),
                    f"--port={self.grpc_port}",
                    f"--rest_api_port={self.rest_port}",
                    "--bind_host=127.0.0.1",
                    f"--admin_port={self.admin_port}",
                    f"--monitoring_port={self.monitoring_port}",
                    "--monitoring_bind_host=127.0.0.1",
                    f"--model_config_file={scratch / 'models.config'}",
                    f"--monitoring_config_file={scratch / 'monitoring.config'}",
                    f"--batching_parameters_file={scratch / 'batching.config'}",
                    "--enable_batching",
                    "--unbatched_fallback",
                    "--version_settle_seconds=0",
                    f"--tls_certificate_file={scratch / 'server.crt'}",
                    f"--tls_key_file={scratch / 'server.key'}",
                    f"--access_config_file={scratch / 'access.config'}",
                    "--tls_reload_wait_seconds=1",
                    "--enable_grpc_healthcheck_service",
                    f"--access_log={self.access_log}",
                    f"--request_log_file_bytes={LOG_FILE_BYTES}",
                    f"--request_log_keep_bytes={LOG_KEEP_BYTES}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
                    "OTEL_BSP_SCHEDULE_DELAY": "1000",
                },
            )

    def models(self, *further: str) -> str:
        """The list of models, and further ones, all of them the same."""
        logging = (
            f'logging_config {{ log_collector_config {{ type: "file" filename_prefix: "{self.request_log}/half" }} '
            f"sampling_config {{ sampling_rate: {LOGGED_SHARE} }} }}"
        )
        folders = {
            **{name: MODELS / name for name in ("half_plus_two", "yolo_digit")},
            **{name: TEST_MODELS / name for name in ("lookup", "slow", "fail")},
            "changing": self.changing,
            **dict.fromkeys(further, MODELS / "half_plus_two"),
        }
        entries = (
            f'config {{ name: "{name}" base_path: "{folder}" model_platform: "tensorflow" '
            f"{logging if name == 'half_plus_two' else ''} }}\n"
            for name, folder in folders.items()
        )
        return f"model_config_list {{\n{''.join(entries)}}}\n"

    def write_models(self, *further: str) -> None:
        (self._scratch / "models.config").write_text(self.models(*further))

    def write_credentials(self, turn: int) -> None:
        """The certificate and the visitor's key of this turn. Names of the other callers are their keys."""
        keys = {"client": "client", "reader": "reader", "operator": "operator", "visitor": visitor_key(turn)}
        lines = (
            f'api_key {{ caller: "{caller}" sha256: "{hashlib.sha256(key.encode()).hexdigest()}" }}\n'
            for caller, key in keys.items()
        )
        (self._scratch / "access.config").write_text("".join(lines) + ACCESS)
        (self._scratch / "server.crt").write_text(self.certificates[turn % 2])

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WITHIN_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise WrongAnswerError(f"{what}: not within {WITHIN_S} s; the server's code is {self.process.poll()}")
            time.sleep(0.05)

    def monitoring(self, path: str) -> str:
        """A page of the monitoring port, which has to be there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitoring_port}{path}", timeout=WITHIN_S) as answer:
            text: bytes = answer.read()
        return text.decode()

    def is_ready(self) -> bool:
        try:
            return self.monitoring("/readyz").startswith("ready")
        except OSError:
            return False

    def sample(self, at_s: float) -> Sample:
        """What it holds. It has to be alive and ready, and to count requests."""
        self.monitoring("/livez")
        self.monitoring("/readyz")
        page = self.monitoring("/monitoring/prometheus/metrics")
        if ":tensorflow:serving:request_count" not in page:
            raise WrongAnswerError("the metrics page lacks its counters")
        folder = Path(f"/proc/{self.process.pid}")
        text = (folder / "status").read_text() + (folder / "smaps_rollup").read_text()
        kilobytes = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+)", text)}
        return Sample(
            at_s=at_s,
            loads=self.loads,
            own_mb=kilobytes["RssAnon"] / 1024,
            resident_mb=kilobytes["VmRSS"] / 1024,
            dirty_mb=kilobytes["Private_Dirty"] / 1024,
            huge_mb=kilobytes["AnonHugePages"] / 1024,
            data_mb=kilobytes["VmData"] / 1024,
            threads=kilobytes["Threads"],
            descriptors=sum(1 for _ in (folder / "fd").iterdir()),
            metrics_bytes=len(page),
            request_log_bytes=self.request_log_bytes(),
        )

    def request_log_bytes(self) -> int:
        total = 0
        for file in self.request_log.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                total += file.stat().st_size
        return total

    def spans(self) -> dict[str, int]:
        """How many were made, sent, and lost."""
        page = self.monitoring("/metrics")
        return {state: int(count) for state, count in re.findall(r'trace_spans_total\{state="(\w+)"\} (\d+)', page)}

    def stop(self) -> int:
        """An orderly stop; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(2 * WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Connections:
    """One gRPC channel and one REST connection over TLS, and how requests go over them, with a caller's key."""

    def __init__(self, server: Server, key: str, rest_port: int) -> None:
        self._server = server
        self._key = key
        self._rest_port = rest_port
        trusted = "".join(server.certificates)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.load_verify_locations(cadata=trusted)
        self._credentials = grpc.ssl_channel_credentials(trusted.encode())
        self._lines = contextlib.ExitStack()
        self.renew()

    def renew(self) -> None:
        """Connections anew."""
        self._lines.close()
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        address, monitoring = (f"127.0.0.1:{port}" for port in (self._server.grpc_port, self._server.monitoring_port))
        self._channel = self._lines.enter_context(grpc.secure_channel(address, self._credentials, options))
        self._monitoring = self._lines.enter_context(grpc.insecure_channel(monitoring, options))
        self._rest = self._lines.enter_context(
            contextlib.closing(
                http.client.HTTPSConnection("127.0.0.1", self._rest_port, timeout=WITHIN_S, context=self.tls)
            )
        )

    def close(self) -> None:
        self._lines.close()

    def begin(self, method: str, message: bytes, key: str | None = None) -> grpc.Future[bytes]:
        """A call whose answer is not waited for."""
        stub: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"{SERVICES}.{method}")
        return stub.future(message, timeout=WITHIN_S, metadata=(("x-api-key", key or self._key),))

    def call(self, method: str, message: bytes, *codes: str, key: str | None = None) -> bytes:
        """Send a message, which has to fail with one of `codes` if there are any."""
        try:
            answer: bytes = self.begin(method, message, key).result()
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code().name in codes:
                return b""
            raise WrongAnswerError(repr(error)) from None
        if codes:
            raise WrongAnswerError(f"an answer rather than {' or '.join(codes)}")
        return answer

    def watch(self, model: str, *, over_monitoring: bool) -> Any:
        """A stream of a model's health."""
        channel = self._monitoring if over_monitoring else self._channel
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        name = f"model/{model}".encode()
        return watch(b"\x0a" + bytes([len(name)]) + name, timeout=WITHIN_S)

    def send(self, method: str, path: str, body: str | None, key: str | None = None) -> tuple[int, bytes]:
        """A REST request; gives status and body."""
        try:
            self._rest.request(method, path, body, {"authorization": f"Bearer {key or self._key}"})
            answer = self._rest.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._rest.close()
            raise WrongAnswerError(f"{method} {path}: {error!r}") from error
        if status in (401, 403):  # before the body was read: the connection may end
            self._rest.close()
        return status, text

    def exchange(
        self, method: str, path: str, body: str | None, status: int, part: bytes = b"", key: str | None = None
    ) -> bytes:
        """A REST request, which has to be answered with this status and this in the body."""
        code, text = self.send(method, path, body, key)
        if code != status or part not in text:
            raise WrongAnswerError(f"{method} {path}: {code} {text[:200]!r}")
        return text


class Client:
    """Connections that are renewed now and then, and the kinds of requests that go over them."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._picture = json.dumps(
            {"instances": [{"b64": base64.b64encode((MODELS.parent / "digits.png").read_bytes()).decode()}]}
        )
        self._long_list = json.dumps({"instances": [0.5] * 20_000})
        self._large = predict_large()
        self._connections = Connections(server, "client", server.rest_port)
        self._watched: deque[Any] = deque()
        # How often each, in parts.
        self._kinds: list[tuple[Callable[[], None], int]] = [
            (self.grpc_predict, 20),
            (self.rest_predict, 20),
            (self.changing_over_grpc, 12),
            (self.changing_over_rest, 12),
            (self.words, 6),
            (self.picture, 2),
            (self.slow, 4),
            (self.large_over_grpc, 2),
            (self.large_over_rest, 2),
            (self.metadata_and_status, 3),
            (self.health, 3),
            (self.unknown_model, 4),
            (self.wrong_input, 4),
            (self.failing_op, 4),
            (self.wrong_key, 4),
            (self.no_right, 4),
            (self.garbage, 4),
            (self.cancelled, 3),
            (self.broken_off, 3),
            (self.no_tls, 1),
            (self.renew, 1),
        ]

    def pick(self) -> Callable[[], None]:
        kinds, weights = zip(*self._kinds, strict=True)
        picked: Callable[[], None] = self._random.choices(kinds, weights)[0]
        return picked

    def renew(self) -> None:
        """Connections anew, and with them the streams on them."""
        self._connections.renew()
        self._watched.clear()

    def close(self) -> None:
        self._connections.close()

    # Good requests.

    def grpc_predict(self) -> None:
        self._call("Predict", predict("half_plus_two", [1.0, 2.0, 5.0]))

    def rest_predict(self) -> None:
        self._post("half_plus_two:predict", '{"instances": [1.0, 2.0, 5.0]}', 200, b"4.5")

    def changing_over_grpc(self) -> None:
        self._call("Predict", predict("changing", [1.0]))

    def changing_over_rest(self) -> None:
        self._post("changing:predict", '{"instances": [1.0]}', 200, b"2.5")

    def words(self) -> None:
        self._post("lookup:predict", '{"instances": ["a", "b", "nobody"]}', 200)

    def picture(self) -> None:
        self._post("yolo_digit:predict", self._picture, 200, b"detection_classes")

    def slow(self) -> None:
        self._post("slow:predict", '{"signature_name": "ms", "inputs": {"ms": 20, "x": [1.0]}}', 200)

    def large_over_grpc(self) -> None:
        if len(self._call("Predict", self._large)) < 4 * LARGE_FLOATS:
            raise WrongAnswerError("a large answer is too short")

    def large_over_rest(self) -> None:
        self._post("half_plus_two:predict", self._long_list, 200, b"2.25")

    def metadata_and_status(self) -> None:
        self._connections.exchange("GET", "/v1/models/yolo_digit/metadata", None, 200, b"signature_def")
        self._connections.exchange("GET", "/v1/models/changing", None, 200, b"AVAILABLE")
        self._connections.exchange("GET", "/metrics", None, 200, b"servable_requests_total")

    def health(self) -> None:
        """One stream more, and the oldest goes."""
        model, standing = self._random.choice([("half_plus_two", 1), ("changing", 1), ("nobody", 3)])
        stream = self._connections.watch(model, over_monitoring=self._random.random() < 0.5)
        if next(stream) != bytes([8, standing]):
            raise WrongAnswerError(f"the health of {model} is not {standing}")
        self._watched.append(stream)
        if len(self._watched) > WATCHED:
            self._watched.popleft().cancel()

    # Requests that have to be refused.

    def unknown_model(self) -> None:
        self._call("Predict", predict("nobody", [1.0]), "NOT_FOUND")
        self._post("nobody:predict", '{"instances": [1.0]}', 404, b"error")

    def wrong_input(self) -> None:
        self._call("Predict", predict("half_plus_two", [1.0], name="nothing"), "INVALID_ARGUMENT")
        self._post("half_plus_two:predict", '{"instances": ["text"]}', 400, b"error")

    def failing_op(self) -> None:
        self._post("fail:predict", '{"signature_name": "divide", "inputs": {"a": [1], "b": [0]}}', 400, b"error")

    def wrong_key(self) -> None:
        self._call("Predict", predict("half_plus_two", [1.0]), "UNAUTHENTICATED", key="wrong")
        self._post("half_plus_two:predict", '{"instances": [1.0]}', 401, b"error", key="wrong")

    def no_right(self) -> None:
        self._call("Predict", predict("half_plus_two", [1.0]), "PERMISSION_DENIED", key="reader")
        self._post("half_plus_two:predict", '{"instances": [1.0]}', 403, b"error", key="reader")

    def garbage(self) -> None:
        self._call("Predict", self._random.randbytes(200) + b"\xff", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND")
        self._post("half_plus_two:predict", '{"instances": [1.0, ', 400, b"error")

    # Clients that go.

    def cancelled(self) -> None:
        call = self._connections.begin("PredictionService/Predict", self._large)
        time.sleep(self._random.random() / 100)
        call.cancel()

    def broken_off(self) -> None:
        with self._line(is_rest := self._random.random() < 0.5) as plain:
            line = self._connections.tls.wrap_socket(plain, server_hostname="127.0.0.1")
            with line:
                if is_rest:
                    line.sendall(
                        b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nX-Api-Key: client\r\n"
                        b"Content-Length: 100000\r\n\r\n{"
                    )
                    line.sendall(b" " * self._random.randrange(50_000))
                else:
                    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x40")
                if self._random.random() < 0.5:  # a reset rather than an end
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def no_tls(self) -> None:
        with self._line(self._random.random() < 0.5) as line:
            line.sendall(b"GET /v1/models/half_plus_two HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                if b"200 OK" in line.recv(1 << 16):
                    raise WrongAnswerError("an answer without TLS")

    # How they are sent.

    def _line(self, is_rest: bool) -> socket.socket:
        port = self._server.rest_port if is_rest else self._server.grpc_port
        return socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)

    def _call(self, method: str, message: bytes, *codes: str, key: str | None = None) -> bytes:
        return self._connections.call(f"PredictionService/{method}", message, *codes, key=key)

    def _post(self, path: str, body: str, status: int, part: bytes = b"", key: str | None = None) -> None:
        self._connections.exchange("POST", f"/v1/models/{path}", body, status, part, key)


class Operator:
    """Changes what is served and who may ask, one thing after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._main = Connections(server, "operator", server.rest_port)
        self._admin = Connections(server, "operator", server.admin_port)
        self._version = 1
        self._turn = 0
        self._without_loads = cycle([self.renew_credentials, self.move_access_log])
        self._chores = cycle(
            [
                self.add_and_remove,
                self.reload_by_call,
                self.reload_by_file,
                self.renew_credentials,
                self.move_access_log,
            ]
        )

    def renew(self) -> None:
        """Connections anew: those that are idle for a minute are closed."""
        self._main.renew()
        self._admin.renew()

    def close(self) -> None:
        self._main.close()
        self._admin.close()

    def chores(self, *, with_loads: bool) -> Sequence[Callable[[], None]]:
        """What is to be done now."""
        return [self.change_version, next(self._chores)] if with_loads else [next(self._without_loads)]

    def change_version(self) -> None:
        """A new version appears and takes over; the old one goes."""
        changing = self._server.changing
        old, self._version = self._version, self._version + 1
        aside = changing.with_name("incoming")
        shutil.copytree(changing / str(old), aside)
        aside.rename(changing / str(self._version))
        wanted = {self._version: "AVAILABLE", old: "END"}
        self._server.wait_for(lambda: self._newest_states() == wanted, f"version {self._version} takes over")
        self._server.loads += 1
        shutil.rmtree(changing / str(old))

    def add_and_remove(self) -> None:
        """A model comes and goes through the admin port."""
        body = json.dumps({"base_path": str(MODELS / "half_plus_two"), "model_platform": "tensorflow"})
        self._admin.exchange("PUT", "/admin/v1/models/added", body, 200, b"AVAILABLE")
        self._is_served("added")
        self._admin.exchange("PUT", "/admin/v1/models/added", body, 403, key="client")
        self._admin.exchange("DELETE", "/admin/v1/models/added", None, 200)
        self._is_gone("added")

    def reload_by_call(self) -> None:
        """A model comes and goes with the list of a call."""
        self._reload("called")
        self._is_served("called")
        self._reload()
        self._is_gone("called")

    def reload_by_file(self) -> None:
        """A model comes and goes with the file."""
        self._server.write_models("filed")
        self._server.process.send_signal(signal.SIGHUP)
        self._is_served("filed")
        self._server.write_models()
        self._server.process.send_signal(signal.SIGHUP)
        self._is_gone("filed")

    def renew_credentials(self) -> None:
        """Another certificate, and another key for a visitor, whose old one is worth nothing then."""
        old, self._turn = self._turn, self._turn + 1
        self._server.write_credentials(self._turn)
        certificate = self._server.certificates[self._turn % 2].strip()
        address = ("127.0.0.1", self._server.rest_port)
        self._server.wait_for(
            lambda: ssl.get_server_certificate(address, timeout=WITHIN_S).strip() == certificate,
            "the new certificate is shown",
        )
        self._server.wait_for(lambda: self._predicted("changing", visitor_key(self._turn)) == 200, "the new key counts")
        self._main.exchange("GET", "/v1/models/changing", None, 401, key=visitor_key(old))

    def move_access_log(self) -> None:
        """As logrotate does. Clients see to it that there is something to write."""
        log = self._server.access_log
        aside = log.rename(log.with_suffix(".moved"))
        self._server.wait_for(log.exists, "the access log is made anew")
        if b":predict" not in aside.read_bytes():
            raise WrongAnswerError("the access log lacks requests")
        aside.unlink()

    def _newest_states(self) -> dict[int, str]:
        listed = json.loads(self._main.exchange("GET", "/v1/models/changing", None, 200))["model_version_status"]
        return {int(version["version"]): version["state"] for version in listed[:2]}

    def _reload(self, *further: str) -> None:
        config = json.loads(
            engine.decode_message(
                "tensorflow.serving.ModelServerConfig",
                engine.encode_text("tensorflow.serving.ModelServerConfig", self._server.models(*further)),
            )
        )
        message = engine.encode_json("tensorflow.serving.ReloadConfigRequest", json.dumps({"config": config}))
        answer = self._main.call("ModelService/HandleReloadConfigRequest", message)
        status = json.loads(engine.decode_message("tensorflow.serving.ReloadConfigResponse", answer))
        if status.get("status", {}).get("error_code", "OK") != "OK":
            raise WrongAnswerError(f"reload: {status}")

    def _predicted(self, model: str, key: str | None = None) -> int:
        return self._main.send("POST", f"/v1/models/{model}:predict", '{"instances": [1.0]}', key)[0]

    def _is_served(self, model: str) -> None:
        self._server.wait_for(lambda: self._predicted(model) == 200, f"{model} is served")
        self._server.loads += 1

    def _is_gone(self, model: str) -> None:
        self._server.wait_for(lambda: self._predicted(model) == 404, f"{model} is gone")


class Soak:
    """Clients, an operator, a collector and samples, each at its own pace, until the time is over."""

    def __init__(self, server: Server, collector: Collector, rate: float) -> None:
        self._server = server
        self._collector = collector
        self._rate = rate
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.messages: list[str] = []
        self.slowest_s = 0.0
        self.samples: list[Sample] = []
        self.chores: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        start = time.monotonic()
        threads = [threading.Thread(target=self._send, args=(seed,)) for seed in range(CLIENTS)]
        threads.append(threading.Thread(target=self._operate, args=(start, seconds)))
        threads.append(threading.Thread(target=self._collect, args=(seconds,)))
        for thread in threads:
            thread.start()
        try:
            while (at_s := time.monotonic() - start) < seconds:
                try:
                    self.samples.append(self._server.sample(at_s))
                except (OSError, WrongAnswerError) as error:
                    self._fails("sample", error)
                    if self._server.process.poll() is not None:
                        break
                time.sleep(min(SAMPLE_S, seconds / 60, seconds - at_s))
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _send(self, seed: int) -> None:
        client = Client(self._server, seed)
        pace = random.Random(seed)
        with contextlib.closing(client):
            while not self._stopped.wait(pace.expovariate(self._rate / CLIENTS)):
                request = client.pick()
                name, begin = request.__name__, time.monotonic()
                try:
                    request()
                except Exception as error:
                    self._fails(name, error)
                with self._lock:
                    self.sent[name] += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begin)

    def _operate(self, start: float, seconds: float) -> None:
        with contextlib.closing(Operator(self._server)) as operator:
            while not self._stopped.wait(min(CHORE_S, seconds / 20)):
                operator.renew()
                with_loads = time.monotonic() - start < (1 - QUIET) * seconds
                for chore in operator.chores(with_loads=with_loads):
                    try:
                        chore()
                    except Exception as error:
                        self._fails(chore.__name__, error)
                        return  # things are not what they should be: one failure says it
                    self.chores[chore.__name__] += 1

    def _collect(self, seconds: float) -> None:
        period_s = min(COLLECTOR_S, seconds / 10)
        while not self._stopped.is_set():
            try:
                with self._collector.listening():
                    self._stopped.wait(period_s)
            except OSError as error:
                self._fails("collector", error)
            self._stopped.wait(period_s)

    def _fails(self, name: str, error: Exception) -> None:
        with self._lock:
            self.failures[name] += 1
            if len(self.messages) < KEPT_FAILURES:
                self.messages.append(f"{name}: {error!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and answers over a long mixed run")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "60")))
    parser.add_argument("--rate", type=float, default=60.0, help="requests per second, of all clients together")
    parser.add_argument(
        "--most-growth-mb", type=float, default=20.0, help="of the fitted line, from its begin to its end"
    )
    parser.add_argument("--quick", action="store_true", help="a minute: does it still work?")
    arguments = parser.parse_args()
    require("openssl", plots=True)
    minutes = 1.0 if arguments.quick else arguments.minutes
    collector = Collector()
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch), collector) as server:
        soak = Soak(server, collector, arguments.rate)
        soak.run(60 * minutes)
        spans = server.spans() if server.process.poll() is None else {}
        code = server.stop()
        log = server.log.read_text(errors="replace")
    problems = [f"{name} failed {count} times" for name, count in soak.failures.items()] + soak.messages
    problems += shortcomings(soak, collector)
    if code != 0:
        problems.append(f"the server ended with {code}")
    if problems:  # at once: of a server that has gone there may be too few samples for a verdict
        print(*problems, "\nThe end of the server's log:", *log.splitlines()[-30:], "", sep="\n")
    verdict = judged(soak.samples, 60 * minutes)
    if verdict.whole.growth_mb > arguments.most_growth_mb:
        growth = verdict.whole.growth_mb
        problems.append(f"memory grew by {growth:.1f} MB, more than {arguments.most_growth_mb:g}")
    report(soak, verdict, spans, minutes, arguments.rate, arguments.most_growth_mb, problems)
    return 1 if problems else 0


@contextlib.contextmanager
def serving(scratch: Path, collector: Collector) -> Iterator[Server]:
    server = Server(scratch, collector)
    try:
        try:
            server.wait_for(server.is_ready, "the server comes up")
        except WrongAnswerError as error:
            raise SystemExit(f"{error}\n{server.log.read_text(errors='replace')}") from None
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def make_certificates(folder: Path) -> tuple[str, str]:
    """Two certificates for 127.0.0.1 that sign themselves, with one key, which stays in the folder."""
    key, certificate = folder / "server.key", folder / "made.crt"
    kind = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    subprocess.run(["openssl", "genpkey", *kind, "-out", str(key)], check=True, capture_output=True)

    def made(name: str) -> str:
        names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
        command = ["openssl", "req", "-x509", "-key", str(key), *names, "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        return certificate.read_text()

    return made("even"), made("odd")


def visitor_key(turn: int) -> str:
    return f"visitor-{turn}"


def predict(model: str, values: Sequence[float], name: str = "x") -> bytes:
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": len(values)}]}, "float_val": values}
    message = {"model_spec": {"name": model}, "inputs": {name: tensor}}
    return engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(message))


def predict_large() -> bytes:
    """A request of a megabyte, all of it sent."""
    content = base64.b64encode(struct.pack("<f", 0.5) * LARGE_FLOATS).decode()
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": LARGE_FLOATS}]}, "tensor_content": content}
    message = {"model_spec": {"name": "half_plus_two"}, "inputs": {"x": tensor}}
    return engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(message))


def judged(samples: Sequence[Sample], seconds: float) -> Verdict:
    """What memory did after the warm-up: on the whole, while versions were loaded, and afterwards."""
    warm = [sample for sample in samples if sample.at_s >= WARM_UP * seconds]
    loading = [sample for sample in warm if sample.at_s < (1 - QUIET) * seconds]
    quiet = warm[len(loading) :]
    line = fitted(loading)
    loads = loading[-1].loads - loading[0].loads
    return Verdict(fitted(warm), line, fitted(quiet), line.growth_mb * 1024 * 1024 / max(1, loads))


def fitted(samples: Sequence[Sample]) -> Line:
    """The line of least squares through the server's own memory."""
    if len(samples) < 2:
        raise SystemExit("too few samples for a line: the run was too short, or the server has gone")
    times = [sample.at_s / 3600 for sample in samples]
    sizes = [sample.own_mb for sample in samples]
    middle_time, middle_size = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((time - middle_time) ** 2 for time in times)
    both = sum((time - middle_time) * (size - middle_size) for time, size in zip(times, sizes, strict=True))
    slope = both / spread
    return Line(middle_size + slope * (times[0] - middle_time), slope, times[0], times[-1] - times[0])


def shortcomings(soak: Soak, collector: Collector) -> list[str]:
    """What was switched on and did not do its work, or took more than it may."""
    most = max((sample.request_log_bytes for sample in soak.samples), default=0)
    found = {
        "the collector got no spans": not collector.batches,
        "no request was logged": not most,
        f"the request log took {most:,} bytes": most > LOG_KEEP_BYTES + 2 * LOG_FILE_BYTES,
    }
    return [what for what, is_so in found.items() if is_so]


def report(
    soak: Soak,
    verdict: Verdict,
    spans: Mapping[str, int],
    minutes: float,
    rate: float,
    most_growth_mb: float,
    problems: Sequence[str],
) -> None:
    line = verdict.whole
    judged = [sample for sample in soak.samples if sample.at_s >= WARM_UP * 60 * minutes]
    sizes = [sample.own_mb for sample in judged]
    total = sum(soak.sent.values())
    rows = [
        ("minutes, of which not judged", f"{minutes:g}, {WARM_UP * minutes:g}"),
        ("requests", f"{total:,} ({total / (60 * minutes):.0f} per second)"),
        ("versions loaded, by changes and otherwise", f"{soak.samples[-1].loads}"),
        *((f"an operator's chore: {name}", f"{count}") for name, count in sorted(soak.chores.items())),
        ("requests that were not answered as they had to be", f"{sum(soak.failures.values())}"),
        ("slowest request", f"{soak.slowest_s:.2f} s"),
        ("own memory: fewest, most", f"{min(sizes):.1f} MB, {max(sizes):.1f} MB"),
        ("line through it", f"from {line.first_mb:.1f} MB, {line.mb_per_hour:+.1f} MB per hour"),
        ("growth of the line; bound", f"{line.growth_mb:+.1f} MB; {most_growth_mb:g} MB"),
        *(
            (f"while {what}", f"from {part.first_mb:.1f} MB, {part.mb_per_hour:+.1f} MB per hour")
            for what, part in (("versions are loaded", verdict.loading), ("none is", verdict.quiet))
        ),
        ("growth while versions are loaded, for each", f"{verdict.bytes_per_load:+,.0f} bytes"),
        ("in huge pages, first and last", f"{judged[0].huge_mb:.1f} MB, {judged[-1].huge_mb:.1f} MB"),
        ("address space for data, first and last", f"{judged[0].data_mb:,.0f} MB, {judged[-1].data_mb:,.0f} MB"),
        ("request log, most", f"{max(sample.request_log_bytes for sample in judged):,} bytes"),
        ("spans", ", ".join(f"{state} {count:,}" for state, count in spans.items())),
        ("threads, first and last", f"{judged[0].threads}, {judged[-1].threads}"),
        ("descriptors, first and last", f"{judged[0].descriptors}, {judged[-1].descriptors}"),
        ("metrics page, first and last", f"{judged[0].metrics_bytes:,}, {judged[-1].metrics_bytes:,} bytes"),
    ]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    table += ["", *(f"- {problem}" for problem in problems)] if problems else []
    keep(
        "soak",
        "\n".join(table),
        {
            "minutes": minutes,
            "rate": rate,
            "sent": soak.sent,
            "failures": soak.failures,
            "problems": problems,
            "chores": soak.chores,
            "spans": spans,
            "line": {**dataclasses.asdict(line), "growth_mb": line.growth_mb},
            "line_while_loading": dataclasses.asdict(verdict.loading),
            "line_while_quiet": dataclasses.asdict(verdict.quiet),
            "bytes_per_load": verdict.bytes_per_load,
            "samples": [dataclasses.asdict(sample) for sample in soak.samples],
        },
    )
    draw(soak.samples, verdict, RESULTS / "soak.svg")


def draw(samples: Sequence[Sample], verdict: Verdict, path: Path) -> None:
    """Memory over time, and the lines through what is judged."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "soak"})  # text stays text, ids stay
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    panel = figure.subplots()
    minutes = [sample.at_s / 60 for sample in samples]
    panel.plot(
        minutes, [sample.resident_mb for sample in samples], color="#999999", linewidth=1, label="resident (VmRSS)"
    )
    panel.plot(minutes, [sample.own_mb for sample in samples], color="#0072b2", linewidth=1, label="its own (RssAnon)")
    lines = [
        (verdict.whole, "#d55e00", "--", ""),
        (verdict.loading, "#009e73", ":", " while versions are loaded"),
        (verdict.quiet, "#cc79a7", ":", " while none is"),
    ]
    for line, color, style, when in lines:
        times = [60 * line.from_hour, 60 * (line.from_hour + line.hours)]
        ends = [line.first_mb, line.first_mb + line.growth_mb]
        label = f"{line.mb_per_hour:+.1f} MB per hour{when}"
        panel.plot(times, ends, color=color, linestyle=style, linewidth=1.5, label=label)
    panel.set(xlabel="minutes", ylabel="MB")
    panel.set_ylim(bottom=0)
    panel.set_xlim(left=0)
    panel.grid(which="major", color="#dddddd")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
