"""TLS and mutual TLS on all ports, certificates that change, and what is wrong with them."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from servable.engine import write_records
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, prediction_log_pb2

from tests.e2e.certificates import Authority, Issued
from tests.e2e.grpc_client import predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import DEADLINE_S, HALF_PLUS_TWO, ServerProcess, free_ports, run_to_end, wait_until

MODEL = (f"--model_base_path={HALF_PLUS_TWO}", "--model_name=half_plus_two")
QUICKLY = "--tls_reload_wait_seconds=0.05"
STATUS = "/v1/models/half_plus_two"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def trusting(authority: Authority, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if client:
        context.load_cert_chain(*client)
    return context


def get(port: int, path: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE_S, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def post(port: int, path: str, body: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE_S, context=context)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def versions(address: str, credentials: grpc.ChannelCredentials) -> list[int]:
    """The versions of the model, asked for over gRPC."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if address.startswith("unix:"):
        options.append(("grpc.ssl_target_name_override", "localhost"))  # type: ignore[arg-type]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "half_plus_two"
        response = stub.GetModelStatus(request, timeout=DEADLINE_S)
        return [status.version for status in response.model_version_status]


def credentials(authority: Authority, client: Issued | None = None) -> grpc.ChannelCredentials:
    if client is None:
        return grpc.ssl_channel_credentials(authority.certificate)
    return grpc.ssl_channel_credentials(authority.certificate, client.key, client.certificate)


def flags(certificate: Path, key: Path, *others: str) -> Sequence[str]:
    return [*MODEL, f"--tls_certificate_file={certificate}", f"--tls_key_file={key}", *others]


def serial(port: int, authority: Authority) -> int:
    """Which certificate the server shows."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
        trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        shown = secured.getpeercert()
        assert shown
        return int(str(shown["serialNumber"]), 16)


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue("server").write(folder, "server")
    (admin,) = free_ports(1)
    with ServerProcess(flags(*issued, f"--admin_port={admin}"), folder / "log") as process:
        process.admin_port = admin  # type: ignore[attr-defined]
        yield process.wait_ready()


def test_grpc_and_rest_are_served_over_tls(server: ServerProcess, authority: Authority) -> None:
    assert versions(server.grpc_address, credentials(authority))
    assert get(server.rest_port, STATUS, trusting(authority))[0] == 200
    large = '{"instances": [' + ",".join(["1.0"] * 100_000) + "]}"
    status, body = post(server.rest_port, f"{STATUS}:predict", large, trusting(authority))
    assert (status, body.count(b"2.5")) == (200, 100_000)


def test_one_connection_takes_many_requests(server: ServerProcess, authority: Authority) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", server.rest_port, context=trusting(authority))
    for _ in range(20):
        connection.request("POST", f"{STATUS}:predict", '{"instances": [1.0]}')
        assert connection.getresponse().read()
    connection.close()


def test_the_admin_port_has_tls_for_both_protocols(server: ServerProcess, authority: Authority, tmp_path: Path) -> None:
    port = server.admin_port  # type: ignore[attr-defined]
    assert get(port, "/admin/v1/models", trusting(authority))[0] == 200
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials(authority)) as channel:
        ask: Any = channel.unary_unary("/servable.admin.v1.Admin/ListModels")
        answer = ask(b"", timeout=DEADLINE_S)
        assert b"half_plus_two" in answer
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.certificate)
    listed = run_to_end("servable", "models", "list", f"--server=127.0.0.1:{port}", f"--ca_file={ca}")
    assert listed.returncode == 0, listed.stderr
    assert "half_plus_two" in listed.stdout


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100])
@pytest.mark.parametrize("port", ["grpc_port", "rest_port", "admin_port"])
def test_what_is_no_tls_is_closed(server: ServerProcess, port: str, greeting: bytes) -> None:
    with socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=DEADLINE_S) as plain:
        plain.sendall(greeting)
        answer = b""
        try:
            while more := plain.recv(1000):
                answer += more
        except ConnectionResetError:
            pass
    assert b"HTTP" not in answer


def test_a_client_that_never_shakes_hands_holds_up_nothing(server: ServerProcess, authority: Authority) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port)) as idle:
        idle.sendall(b"\x16\x03")
        assert get(server.rest_port, STATUS, trusting(authority))[0] == 200


def test_with_mutual_tls_clients_need_a_certificate(authority: Authority, tmp_path: Path) -> None:
    clients, strangers = Authority("clients"), Authority("strangers")
    ca = tmp_path / "clients.crt"
    ca.write_bytes(clients.certificate)
    good, bad = clients.issue("client"), strangers.issue("client")
    issued = authority.issue("server").write(tmp_path, "server")
    with ServerProcess(flags(*issued, f"--tls_client_ca_file={ca}"), tmp_path / "log") as server:
        server.wait_ready()
        assert versions(server.grpc_address, credentials(authority, good))
        context = trusting(authority, good.write(tmp_path, "good"))
        assert get(server.rest_port, STATUS, context)[0] == 200
        for client in (None, bad):
            with pytest.raises(grpc.RpcError):
                versions(server.grpc_address, credentials(authority, client))
            context = trusting(authority, client.write(tmp_path, "bad") if client else None)
            with pytest.raises((ssl.SSLError, OSError)):
                get(server.rest_port, STATUS, context)


def test_commands_show_a_certificate_to_a_server_that_wants_one(authority: Authority, tmp_path: Path) -> None:
    clients = Authority("clients")
    client_ca, server_ca = tmp_path / "clients.crt", tmp_path / "servers.crt"
    client_ca.write_bytes(clients.certificate)
    server_ca.write_bytes(authority.certificate)
    certificate, key = clients.issue("client").write(tmp_path, "client")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    log = tmp_path / "requests.tfrecord"
    request = prediction_log_pb2.PredictionLog()
    request.predict_log.request.CopyFrom(predict_request("half_plus_two", {"x": [1.0]}))
    write_records(str(log), [request.SerializeToString()])
    issued = authority.issue("server").write(tmp_path, "server")
    (admin,) = free_ports(1)
    arguments = flags(*issued, f"--tls_client_ca_file={client_ca}", f"--admin_port={admin}")
    with ServerProcess(arguments, tmp_path / "log") as server:
        server.wait_ready()
        ca = f"--ca_file={server_ca}"
        shown = f"--certificate_file={certificate}", f"--key_file={key}"
        for command in (
            ("models", "list", f"--server=127.0.0.1:{admin}"),
            ("replay", str(log), f"--target={server.grpc_address}"),
        ):
            without = run_to_end("servable", *command, ca)
            assert without.returncode != 0
            for way in (shown, (f"--certificate_file={both}",)):
                done = run_to_end("servable", *command, ca, *way)
                assert done.returncode == 0, done.stderr + done.stdout
            wrong = run_to_end("servable", *command, ca, f"--certificate_file={certificate}", f"--key_file={issued[1]}")
            assert wrong.returncode == 255
            assert f"--key_file={issued[1]}: no certificate with its key can be read" in wrong.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--key_file=k"], "--key_file needs --certificate_file"),
        (["--certificate_file=c"], "--certificate_file needs --ca_file"),
        (["--ca_file=/missing"], "--ca_file=/missing: no certificates can be read"),
    ],
)
def test_commands_say_what_is_missing_for_tls(given: Sequence[str], words: str) -> None:
    listed = run_to_end("servable", "models", "list", *given)
    assert (listed.returncode, words in listed.stderr) == (255, True)


def test_a_changed_certificate_is_used_and_a_bad_one_is_not(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("first")
    certificate, key = issued.write(tmp_path, "server")
    with ServerProcess(flags(certificate, key, QUICKLY), tmp_path / "log") as server:
        server.wait_ready()
        first = serial(server.rest_port, authority)
        kept = http.client.HTTPSConnection("127.0.0.1", server.rest_port, context=trusting(authority))
        kept.request("GET", STATUS)
        assert kept.getresponse().read()
        certificate.write_bytes(b"no certificate")
        server.wait_for(lambda: f"{certificate}: there is no PEM block" in server.log, "the bad file is named")
        assert serial(server.rest_port, authority) == first
        authority.issue("second").write(tmp_path, "server")
        server.wait_for(lambda: serial(server.rest_port, authority) != first, "the new one is shown")
        assert versions(server.grpc_address, credentials(authority))
        kept.request("GET", STATUS)  # connections that are open go on
        assert kept.getresponse().read()
        kept.close()
        assert server.log.count("there is no PEM block") == 1


def refused(folder: Path, *flags: str) -> str:
    """What a server says that does not start."""
    with ServerProcess([*MODEL, *flags], folder / "log") as server:
        assert server.exit_code() == 255
        return server.log


def test_a_bad_file_ends_the_start_and_is_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server").write(tmp_path, "server")
    _, other = authority.issue("other").write(tmp_path, "other")
    empty, missing = tmp_path / "empty", tmp_path / "missing"
    empty.write_text("")
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")
    cases = [
        (
            certificate,
            other,
            None,
            f"INVALID_ARGUMENT: {other}: the key does not match the certificate in {certificate}",
        ),
        (empty, key, None, f"INVALID_ARGUMENT: {empty}: there is no PEM block with a certificate in it"),
        (broken, key, None, f"INVALID_ARGUMENT: {broken}: its PEM is malformed"),
        (certificate, empty, None, f"INVALID_ARGUMENT: {empty}: there is no PEM block with a private key in it"),
        (certificate, certificate, None, f"{certificate}: there is no PEM block with a private key in it"),
        (certificate, key, empty, f"INVALID_ARGUMENT: {empty}: there is no PEM block with a certificate in it"),
        (missing, key, None, f"NOT_FOUND: {missing}"),
    ]
    for chain, private, ca, message in cases:
        given = [f"--tls_certificate_file={chain}", f"--tls_key_file={private}"]
        assert message in refused(tmp_path, *given, *([f"--tls_client_ca_file={ca}"] if ca else []))


def ssl_config(folder: Path, server: Issued, authority: Authority | None) -> Path:
    """A file as TensorFlow Serving takes it."""

    def quoted(pem: bytes) -> str:
        return '"' + pem.decode().replace("\n", "\\n") + '"'

    lines = [f"server_key: {quoted(server.key)}", f"server_cert: {quoted(server.certificate)}"]
    if authority:
        lines += [f"custom_ca: {quoted(authority.certificate)}", "client_verify: true"]
    path = folder / "ssl.config"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("verifies", [False, True])
def test_the_original_file_secures_grpc_and_not_rest(verifies: bool, authority: Authority, tmp_path: Path) -> None:
    client = authority.issue("client")
    config = ssl_config(tmp_path, authority.issue("server"), authority if verifies else None)
    path = tmp_path / "socket"
    given = [*MODEL, f"--ssl_config_file={config}", f"--grpc_socket_path={path}"]
    with ServerProcess(given, tmp_path / "log") as server, Rest(server.rest_port) as rest:
        server.wait_ready()
        assert rest.get(STATUS).status == 200
        for address in (server.grpc_address, f"unix:{path}"):
            assert versions(address, credentials(authority, client))
            if verifies:
                with pytest.raises(grpc.RpcError):
                    versions(address, credentials(authority))
            else:
                assert versions(address, credentials(authority))


def test_a_malformed_original_file_ends_the_start(authority: Authority, tmp_path: Path) -> None:
    config = tmp_path / "ssl.config"
    config.write_text("nonsense: 1")
    log = refused(tmp_path, f"--ssl_config_file={config}")
    assert f"INVALID_ARGUMENT: Invalid protobuf file: '{config}'" in log
    assert "Error parsing text-format tensorflow.serving.SSLConfig" in log
    mixed = Issued(authority.issue("a").certificate, authority.issue("b").key)
    config = ssl_config(tmp_path, mixed, None)
    message = f"server_key in {config}: the key does not match the certificate in server_cert in {config}"
    assert message in refused(tmp_path, f"--ssl_config_file={config}")


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_the_socket_has_the_mode_that_is_asked_for(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    given = [*MODEL, f"--grpc_socket_path={path}", f"--grpc_socket_mode=0{mode:o}"]
    with ServerProcess(given, tmp_path / "log") as server:
        server.wait_ready()
        wait_until(path.exists, "the socket is there")
        assert stat.S_IMODE(os.stat(path).st_mode) == mode
