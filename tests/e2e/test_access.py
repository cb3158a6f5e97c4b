"""Every way in, tried by those who may and those who may not."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
    session_service_pb2,
)

from tests.e2e.certificates import Authority
from tests.e2e.health_client import HealthClient
from tests.e2e.rest_client import Rest
from tests.e2e.server import (
    DEADLINE_S,
    HALF_PLUS_TWO,
    Model,
    ServerProcess,
    accepts,
    config_text,
    free_ports,
    run_to_end,
    serving,
)

SECRET = b"0123456789abcdef0123456789abcdef"
QUICKLY = "--tls_reload_wait_seconds=0.05"

# Names of callers are their keys.
RULES = """
rule { caller: "predictor" may: PREDICT model: "open" model: "rank-*" }
rule { caller: "reader" may: READ model: "open" }
rule { caller: "reloader" may: RELOAD model: "*" }
rule { caller: "admin" may: ADMIN model: "*" }
rule { caller: "profiler" may: PROFILE model: "*" }
rule { caller: "jwt-me" may: [PREDICT, READ] model: "open" }
"""
CALLERS = ("predictor", "reader", "reloader", "admin", "profiler")


def keys(*callers: str) -> str:
    digests = {caller: hashlib.sha256(caller.encode()).hexdigest() for caller in callers}
    return "".join(f'api_key {{ caller: "{caller}" sha256: "{digest}" }}\n' for caller, digest in digests.items())


JWT = """jwt { algorithm: HS256 secret_file: "secret" issuer: "us" audience: "servable" caller_prefix: "jwt-" }\n"""


class Secured:
    """A server with access rules, and its clients."""

    def __init__(self, process: ServerProcess, admin_port: int, socket_path: str = "") -> None:
        self.process = process
        self.admin_port = admin_port
        self.socket_path = socket_path

    def call(
        self, method: str, request: Any, headers: Mapping[str, str], *, admin: bool = False, socket: bool = False
    ) -> str:
        """The status of a call over gRPC."""
        port = self.admin_port if admin else self.process.grpc_port
        address = f"unix:{self.socket_path}" if socket else f"127.0.0.1:{port}"
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            send: Any = channel.unary_unary(method)
            data = request if isinstance(request, bytes) else request.SerializeToString()
            try:
                send(data, metadata=tuple(headers.items()), timeout=DEADLINE_S)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

    def get(self, method: str, path: str, headers: Mapping[str, str], body: Any = None, *, admin: bool = False) -> int:
        """The status of a REST request."""
        with Rest(self.admin_port if admin else self.process.rest_port) as rest:
            answer = rest.send(method, path, body, headers)
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
        return answer.status


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("access")
    (folder / "secret").write_bytes(SECRET)
    access = folder / "access.config"
    access.write_text(keys(*CALLERS) + JWT + RULES)
    models = [Model("open", HALF_PLUS_TWO), Model("closed", HALF_PLUS_TWO)]
    (admin,) = free_ports(1)
    flags = [f"--access_config_file={access}", f"--admin_port={admin}", "--enable_session_service"]
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has to be
        path = f"{short}/socket"
        flags += [f"--grpc_socket_path={path}", "--enable_grpc_healthcheck_service"]
        with serving(models, folder, *flags) as process:
            yield Secured(process, admin, path)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def named(request: Any, model: str) -> Any:
    request.model_spec.name = model
    return request


def multi(*models: str) -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest()
    for model in models:
        request.tasks.add(method_name="tensorflow/serving/classify").model_spec.name = model
    return request


def metadata(model: str) -> Any:
    return named(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]), model)


PROFILER = "/tensorflow.ProfilerService/"
PREDICTION = "/tensorflow.serving.PredictionService/"
MODELS = "/tensorflow.serving.ModelService/"
GRPC: dict[str, tuple[str, Callable[[str], Any]]] = {
    f"{PREDICTION}Predict": ("predictor", lambda model: named(predict_pb2.PredictRequest(), model)),
    f"{PREDICTION}Classify": ("predictor", lambda model: named(classification_pb2.ClassificationRequest(), model)),
    f"{PREDICTION}Regress": ("predictor", lambda model: named(regression_pb2.RegressionRequest(), model)),
    f"{PREDICTION}MultiInference": ("predictor", multi),
    "/tensorflow.serving.SessionService/SessionRun": (
        "predictor",
        lambda model: named(session_service_pb2.SessionRunRequest(), model),
    ),
    f"{PREDICTION}GetModelMetadata": ("reader", metadata),
    f"{MODELS}GetModelStatus": ("reader", lambda model: named(get_model_status_pb2.GetModelStatusRequest(), model)),
}
REST: list[tuple[str, str, str]] = [
    ("predictor", "POST", "/v1/models/{}:predict"),
    ("predictor", "POST", "/v1/models/{}:classify"),
    ("predictor", "POST", "/v1/models/{}:regress"),
    ("predictor", "POST", "/v1/models/{}/versions/123:predict"),
    ("predictor", "POST", "/v1/models/{}/labels/stable:predict"),
    ("reader", "GET", "/v1/models/{}"),
    ("reader", "GET", "/v1/models/{}/versions/123"),
    ("reader", "GET", "/v1/models/{}/metadata"),
    ("reader", "GET", "/v1/models/{}/versions/123/metadata"),
]
ADMIN_REST = [
    ("GET", "/admin/v1/models"),
    ("GET", "/admin/v1/models/open"),
    ("PUT", "/admin/v1/models/new"),
    ("DELETE", "/admin/v1/models/open"),
    ("PUT", "/admin/v1/models/open/labels/x"),
    ("DELETE", "/admin/v1/models/open/labels/x"),
    ("GET", "/admin/v1/models/open/batching"),
    ("POST", "/admin/v1/models/open:record"),
    ("GET", "/admin/v1/nothing"),
]
ADMIN_RPCS = ["ListModels", "GetModel", "AddModel", "RemoveModel", "SetLabel", "RemoveLabel", "RecordRequests"]
WRONG = [bearer("wrong"), {"x-api-key": "wrong"}, {"authorization": "Basic cHJlZGljdG9yOg=="}, bearer("")]
MODEL_NAMES = ("open", "closed", "none")


@pytest.mark.parametrize("method", GRPC)
def test_grpc_methods_are_for_those_with_the_right(server: Secured, method: str) -> None:
    owner, request = GRPC[method]
    for model in MODEL_NAMES:
        for headers in ({}, *WRONG):
            assert server.call(method, request(model), headers) == "UNAUTHENTICATED"
        for caller in set(CALLERS) - {owner}:
            assert server.call(method, request(model), bearer(caller)) == "PERMISSION_DENIED"
    for headers in (bearer(owner), {"x-api-key": owner}):
        assert server.call(method, request("open"), headers) not in ("UNAUTHENTICATED", "PERMISSION_DENIED")
    # Whether a model is there is nobody's business.
    for model in ("closed", "none", ""):
        assert server.call(method, request(model), bearer(owner)) == "PERMISSION_DENIED"


def test_the_unix_socket_is_no_way_round(server: Secured) -> None:
    profile = ("profiler", lambda model: b"")
    reload = ("reloader", lambda model: model_management_pb2.ReloadConfigRequest())
    methods = {**GRPC, f"{PROFILER}Profile": profile, f"{MODELS}HandleReloadConfigRequest": reload}
    for method, (owner, request) in methods.items():
        for headers in ({}, *WRONG):
            assert server.call(method, request("open"), headers, socket=True) == "UNAUTHENTICATED", method
        for caller in set(CALLERS) - {owner}:
            assert server.call(method, request("open"), bearer(caller), socket=True) == "PERMISSION_DENIED", method
        allowed = server.call(method, request("open"), bearer(owner), socket=True)
        assert allowed not in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE"), method


@pytest.mark.parametrize(
    ("name", "answer"), [("Profile", "INVALID_ARGUMENT"), ("Monitor", "UNIMPLEMENTED"), ("Terminate", "OK")]
)
def test_profiles_are_for_those_with_the_right(server: Secured, name: str, answer: str) -> None:
    for headers in ({}, *WRONG):
        assert server.call(f"{PROFILER}{name}", b"", headers) == "UNAUTHENTICATED"
    for caller in set(CALLERS) - {"profiler"}:
        assert server.call(f"{PROFILER}{name}", b"", bearer(caller)) == "PERMISSION_DENIED"
    assert server.call(f"{PROFILER}{name}", b"", bearer("profiler")) == answer  # of a profile of no time at all


def test_all_tasks_of_a_request_have_to_be_allowed(server: Secured) -> None:
    method = f"{PREDICTION}MultiInference"
    assert server.call(method, multi("open", "closed"), bearer("predictor")) == "PERMISSION_DENIED"
    assert server.call(method, multi("open", "rank-1"), bearer("predictor")) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("owner", "verb", "path"), REST)
def test_rest_paths_are_for_those_with_the_right(server: Secured, owner: str, verb: str, path: str) -> None:
    body = {"instances": [1.0]} if verb == "POST" else None
    for model in MODEL_NAMES:
        for headers in ({}, *WRONG):
            assert server.get(verb, path.format(model), headers, body) == 401
        for caller in set(CALLERS) - {owner}:
            assert server.get(verb, path.format(model), bearer(caller), body) == 403
    assert server.get(verb, path.format("open"), bearer(owner), body) not in (401, 403)
    for model in ("closed", "none"):
        assert server.get(verb, path.format(model), bearer(owner), body) == 403


@pytest.mark.parametrize(
    ("verb", "status"), [("HEAD", 400), ("PUT", 400), ("DELETE", 400), ("PATCH", 400), ("TRACE", 501), ("ODD", 501)]
)
@pytest.mark.parametrize("path", ["/v1/models/{}", "/v1/models/{}:predict", "/v1/models/{}/metadata"])
def test_other_verbs_are_no_way_round(server: Secured, verb: str, status: int, path: str) -> None:
    for model in MODEL_NAMES:
        for headers in ({}, *WRONG):
            assert server.get(verb, path.format(model), headers) == 401
        for caller in CALLERS:
            assert server.get(verb, path.format(model), bearer(caller)) == (status if caller == "predictor" else 403)


def test_reloads_are_for_those_with_the_right(server: Secured) -> None:
    method, request = f"{MODELS}HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest()
    for headers in ({}, *WRONG):
        assert server.call(method, request, headers) == "UNAUTHENTICATED"
    for caller in set(CALLERS) - {"reloader"}:
        assert server.call(method, request, bearer(caller)) == "PERMISSION_DENIED"
    assert server.call(method, request, bearer("reloader")) == "INVALID_ARGUMENT"  # there is no list in it


@pytest.mark.parametrize(("verb", "path"), ADMIN_REST)
def test_the_admin_port_is_for_administrators(server: Secured, verb: str, path: str) -> None:
    for headers in ({}, *WRONG):
        assert server.get(verb, path, headers, admin=True) == 401
    for caller in set(CALLERS) - {"admin"}:
        assert server.get(verb, path, bearer(caller), admin=True) == 403


def test_administrators_administrate(server: Secured, tmp_path: Path) -> None:
    assert server.get("GET", "/admin/v1/models", bearer("admin"), admin=True) == 200
    key = tmp_path / "key"
    key.write_text("admin\n")
    address = f"--server=127.0.0.1:{server.admin_port}"
    assert run_to_end("servable", "models", "list", address, f"--api_key_file={key}").returncode == 0
    assert "UNAUTHENTICATED" in run_to_end("servable", "models", "list", address).stderr


@pytest.mark.parametrize("rpc", ADMIN_RPCS)
def test_admin_calls_are_for_administrators(server: Secured, rpc: str) -> None:
    method = f"/servable.admin.v1.Admin/{rpc}"
    for headers in ({}, *WRONG):
        assert server.call(method, b"", headers, admin=True) == "UNAUTHENTICATED"
    for caller in set(CALLERS) - {"admin"}:
        assert server.call(method, b"", bearer(caller), admin=True) == "PERMISSION_DENIED"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_is_for_readers(server: Secured, version: str) -> None:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    question = b"\x3a\x00"  # list_services
    for admin, owner in ((False, "reader"), (True, "admin")):
        assert server.call(method, question, {}, admin=admin) == "UNAUTHENTICATED"
        assert server.call(method, question, bearer("reloader"), admin=admin) == "PERMISSION_DENIED"
        assert server.call(method, question, bearer(owner), admin=admin) == "OK"


def test_health_and_metrics_need_no_credentials(server: Secured) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert server.get("GET", path, {}) == 200
    assert server.call("/grpc.health.v1.Health/Check", b"", {}) == "OK"
    with HealthClient(server.process.grpc_port) as health:
        assert next(health.watch()) == "SERVING"
        assert next(health.watch("model/open")) == "SERVING"


def test_a_refused_body_is_not_waited_for(server: Secured) -> None:
    with Rest(server.process.rest_port) as rest:
        rest.connection.putrequest("POST", "/v1/models/open:predict")
        rest.connection.putheader("content-length", "1000000")
        rest.connection.endheaders()
        assert rest.connection.getresponse().status == 401


def test_the_access_log_names_callers(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    access = tmp_path / "access.config"
    access.write_text(keys(*CALLERS) + JWT + RULES)
    log = tmp_path / "access.log"
    (admin,) = free_ports(1)
    flags = (f"--access_config_file={access}", f"--admin_port={admin}", f"--access_log={log}", "--log_format=json")
    with serving([Model("open", HALF_PLUS_TWO)], tmp_path, *flags) as process:
        server = Secured(process, admin)
        body = {"instances": [1.0]}
        assert server.get("POST", "/v1/models/open:predict", bearer("predictor"), body) == 200
        assert server.get("POST", "/v1/models/open:predict", bearer("reader"), body) == 403
        assert server.get("GET", "/v1/models/open", {}) == 401
        assert server.get("GET", "/admin/v1/models", bearer("admin"), admin=True) == 200
    told = [json.loads(line) for line in log.read_text().splitlines()]
    callers = [(line.get("caller"), line["code"]) for line in told if line["target"] != "/"]
    assert callers[-4:] == [
        ("predictor", "OK"),
        ("reader", "PERMISSION_DENIED"),
        (None, "UNAUTHENTICATED"),
        ("admin", "OK"),
    ]


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(algorithm: str, sign: Callable[[bytes], bytes], **changes: Any) -> str:
    claims = {"iss": "us", "aud": "servable", "sub": "me", "exp": time.time() + 600} | changes
    header = {"alg": algorithm, "typ": "JWT"}
    message = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{message}.{encoded(sign(message.encode()))}"


def with_secret(message: bytes) -> bytes:
    import hmac

    return hmac.digest(SECRET, message, "sha256")


def test_tokens_name_callers(server: Secured) -> None:
    def status(secret: str) -> int:
        return server.get("GET", "/v1/models/open", bearer(secret))

    assert status(token("HS256", with_secret)) == 200
    assert status(token("HS256", with_secret, sub="other")) == 403
    assert status(token("HS256", with_secret, aud="other")) == 401
    assert status(token("HS256", with_secret, iss="other")) == 401
    assert status(token("HS256", with_secret, exp=time.time() - 600)) == 401
    assert status(token("none", lambda message: b"")) == 401
    assert status(token("HS256", lambda message: b"\0" * 32)) == 401


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def es256(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    def sign(message: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def test_all_kinds_of_keys_check_tokens(tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    ec_key, ed_key = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    set_key = rsa.generate_private_key(65537, 2048)
    numbers = set_key.public_key().public_numbers()
    for name, key in (("rsa", rsa_key), ("ec", ec_key), ("ed", ed_key)):
        (tmp_path / name).write_bytes(pem(key))
    jwk = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), "alg": "RS256", "use": "sig"}
    (tmp_path / "set").write_text(json.dumps({"keys": [jwk]}))
    kinds = [
        ("RS256", "public_key_file", "rsa"),
        ("ES256", "public_key_file", "ec"),
        ("EDDSA", "public_key_file", "ed"),
        ("RS256", "jwks_file", "set"),
    ]
    access = tmp_path / "access.config"
    access.write_text(
        "".join(
            f'jwt {{ algorithm: {algorithm} {field}: "{name}" issuer: "{name}" audience: "servable" }}\n'
            for algorithm, field, name in kinds
        )
        + 'rule { caller: "me" may: READ model: "*" }'
    )
    signs: list[tuple[str, str, Callable[[bytes], bytes]]] = [
        ("RS256", "rsa", lambda message: rsa_key.sign(message, padding.PKCS1v15(), hashes.SHA256())),
        ("ES256", "ec", es256(ec_key)),
        ("EdDSA", "ed", ed_key.sign),
        ("RS256", "set", lambda message: set_key.sign(message, padding.PKCS1v15(), hashes.SHA256())),
    ]
    with serving([Model("open", HALF_PLUS_TWO)], tmp_path, f"--access_config_file={access}") as process:
        secured = Secured(process, 0)
        for algorithm, issuer, sign in signs:
            good = token(algorithm, sign, iss=issuer)
            assert secured.get("GET", "/v1/models/open", bearer(good)) == 200, algorithm
            message, _, signed = good.rpartition(".")
            forged = f"{message}.{'B' if signed[0] == 'A' else 'A'}{signed[1:]}"
            assert secured.get("GET", "/v1/models/open", bearer(forged)) == 401, algorithm

        # A public key is no secret.
        def as_secret(message: bytes) -> bytes:
            import hmac

            return hmac.digest(pem(rsa_key), message, "sha256")

        assert secured.get("GET", "/v1/models/open", bearer(token("HS256", as_secret, iss="rsa"))) == 401


def test_certificates_name_callers(tmp_path: Path) -> None:
    import http.client
    import ssl

    authority = Authority()
    certificate, key = authority.issue("server").write(tmp_path, "server")
    ca, access = tmp_path / "ca.crt", tmp_path / "access.config"
    ca.write_bytes(authority.certificate)
    access.write_text(
        'certificate { caller: "by-subject" common_name: "batch" }\n'
        'certificate { caller: "by-dns" dns_name: "client.internal" }\n'
        'rule { caller: ["by-subject", "by-dns"] may: READ model: "open" }\n'
    )
    flags = [f"--tls_certificate_file={certificate}", f"--tls_key_file={key}", f"--tls_client_ca_file={ca}"]
    with serving([Model("open", HALF_PLUS_TWO)], tmp_path, *flags, f"--access_config_file={access}") as process:
        cases = [("batch", "a.internal", 200), ("b", "client.internal", 200), ("client.internal", "batch", 401)]
        for common_name, dns_name, expected in cases:
            issued = authority.issue(common_name, dns_name)
            context = ssl.create_default_context(cadata=authority.certificate.decode())
            context.load_cert_chain(*issued.write(tmp_path, "client"))
            connection = http.client.HTTPSConnection("127.0.0.1", process.rest_port, context=context)
            connection.request("GET", "/v1/models/open")
            assert connection.getresponse().status == expected
            connection.close()
            credentials = grpc.ssl_channel_credentials(authority.certificate, issued.key, issued.certificate)
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(process.grpc_address, credentials, options=options) as channel:
                ask: Any = channel.unary_unary(f"{MODELS}GetModelStatus")
                request = GRPC[f"{MODELS}GetModelStatus"][1]("open").SerializeToString()
                if expected == 200:
                    assert ask(request, timeout=DEADLINE_S)
                else:
                    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                        ask(request, timeout=DEADLINE_S)


def test_changed_rules_are_used_and_bad_ones_are_not(tmp_path: Path) -> None:
    access = tmp_path / "access.config"
    access.write_text(keys("ann") + 'rule { caller: "ann" may: READ model: "open" }')
    with serving([Model("open", HALF_PLUS_TWO)], tmp_path, f"--access_config_file={access}", QUICKLY) as process:
        secured = Secured(process, 0)
        assert secured.get("GET", "/v1/models/open", bearer("ann")) == 200
        access.write_text("nonsense")
        process.wait_for(lambda: f"Invalid protobuf file: '{access}'" in process.log, "the bad file is named")
        assert secured.get("GET", "/v1/models/open", bearer("ann")) == 200
        assert secured.get("GET", "/v1/models/open", {}) == 401
        access.write_text(keys("bob") + 'rule { caller: "bob" may: READ model: "open" }')
        process.wait_for(lambda: secured.get("GET", "/v1/models/open", bearer("bob")) == 200, "the new rules hold")
        assert secured.get("GET", "/v1/models/open", bearer("ann")) == 401


def test_changed_rules_are_used_before_the_first_models_are_there(tmp_path: Path) -> None:
    access = tmp_path / "access.config"
    rule = 'rule {{ caller: "{0}" may: ADMIN model: "*" }}'
    access.write_text(keys("ann") + rule.format("ann"))
    (tmp_path / "late").mkdir()
    config = tmp_path / "models.config"
    config.write_text(config_text([Model("late", tmp_path / "late")]))
    (admin,) = free_ports(1)
    flags = [f"--model_config_file={config}", f"--admin_port={admin}", f"--access_config_file={access}", QUICKLY]
    with ServerProcess(flags, tmp_path / "log") as process:
        secured = Secured(process, admin)

        def is_let_in(caller: str) -> bool:
            return accepts(admin) and secured.get("GET", "/admin/v1/models", bearer(caller), admin=True) == 200

        process.wait_for(lambda: is_let_in("ann"), "the admin port is there")
        access.write_text(keys("bob") + rule.format("bob"))
        process.wait_for(lambda: is_let_in("bob"), "the new rules hold")
        assert not is_let_in("ann")
        assert not process.is_open(), "the first model is still waited for"


def tells(rest: Rest, path: str, words: bytes) -> bool:
    return words in rest.get(path).body


@pytest.mark.parametrize("has_rules", [True, False])
def test_reasons_are_told_where_there_are_no_rules(has_rules: bool, tmp_path: Path) -> None:
    access = tmp_path / "access.config"
    access.write_text(keys("ann") + 'rule { caller: "ann" may: READ model: "*" }')
    (tmp_path / "bad" / "1").mkdir(parents=True)
    config = tmp_path / "models.config"
    config.write_text(config_text([Model("late", tmp_path / "late"), Model("bad", tmp_path / "bad")]))
    (tmp_path / "late").mkdir()
    admin, monitoring = free_ports(2)
    flags = [f"--model_config_file={config}", f"--admin_port={admin}", f"--monitoring_port={monitoring}"]
    flags += ["--max_num_load_retries=0", *([f"--access_config_file={access}"] if has_rules else [])]
    with ServerProcess(flags, tmp_path / "log") as process, ExitStack() as stack:
        process.wait_for(lambda: accepts(admin) and accepts(monitoring), "the early ports are there")
        for port in (admin, monitoring):
            rest = stack.enter_context(Rest(port))
            one = "/readyz/models/bad?verbose"
            process.wait_for(functools.partial(tells, rest, one, b'"END"'), "it has failed")
            assert (rest.get(one).json["model"]["error"] == "") == has_rules
            for path in ("/readyz", "/readyz?verbose", "/readyz/models/bad", one):
                assert (b"NOT_FOUND" not in rest.get(path).body) == has_rules, path
            assert b"model bad version 1: END" in rest.get("/readyz").body


class Asking:
    """A client with nothing to show that asks again and again, from before the server is there."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self.answers: list[str] = []
        self._ask = ask
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.answers.append(self._ask())

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(DEADLINE_S)


def over_http(port: int, path: str) -> str:
    """How an answer begins; what TLS says of somebody who does not speak it is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = connection.recv(len("HTTP/1.1 401"))
    except ConnectionError:
        return "none"
    return answer.decode() if answer.startswith(b"HTTP") else "none"


def over_grpc(address: str) -> str:
    method, request = f"{MODELS}GetModelStatus", named(get_model_status_pb2.GetModelStatusRequest(), "default")
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        send: Any = channel.unary_unary(method)
        try:
            send(request.SerializeToString(), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            return "none" if error.code() == grpc.StatusCode.UNAVAILABLE else str(error.code().name)
    return "OK"


@pytest.mark.parametrize("guard", ["access", "tls"])
def test_nobody_is_answered_before_it_is_known_who_may_ask(guard: str, tmp_path: Path) -> None:
    certificate, key = Authority().issue("server").write(tmp_path, "server")
    access = tmp_path / "access.config"
    access.write_text(keys("ann") + 'rule { caller: "ann" may: READ model: "*" }')
    (admin,) = free_ports(1)
    flags = [f"--model_base_path={HALF_PLUS_TWO}", f"--admin_port={admin}", "--tls_reload_wait_seconds=0"]
    guards = {
        "access": [f"--access_config_file={access}"],
        "tls": [f"--tls_certificate_file={certificate}", f"--tls_key_file={key}"],
    }
    # A pipe in the place of the file: whoever opens it waits for somebody to write to it.
    pipe = {"access": access, "tls": key}[guard]
    content = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    with ServerProcess([*flags, *guards[guard]], tmp_path / "log") as process, ExitStack() as stack:
        ways = [
            functools.partial(over_grpc, process.grpc_address),
            functools.partial(over_http, process.rest_port, "/v1/models/default"),
            functools.partial(over_http, admin, "/admin/v1/models"),
        ]
        asking = [stack.enter_context(Asking(way)) for way in ways]
        writing: list[int] = []

        def is_read() -> bool:
            with contextlib.suppress(OSError):  # nobody has opened it
                writing.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            return bool(writing)

        process.wait_for(is_read, "the server reads the file")
        with open(writing[0], "wb") as file:
            assert not any(accepts(port) for port in (process.grpc_port, process.rest_port, admin))
            file.write(content)
        process.wait_ready()
        before = [len(one.answers) for one in asking]
        told = lambda: all(len(one.answers) > count + 1 for one, count in zip(asking, before, strict=True))  # noqa: E731
        process.wait_for(told, "all have asked once more")
        answers = [set(one.answers) for one in asking]
    rest = {"none", "HTTP/1.1 401"}
    assert answers == ([{"none", "UNAUTHENTICATED"}, rest, rest] if guard == "access" else [{"none"}] * 3)


def test_a_bad_file_ends_the_start(tmp_path: Path) -> None:
    access = tmp_path / "access.config"
    access.write_text('rule { caller: "ann" may: READ model: "open" }')
    flags = [f"--model_base_path={HALF_PLUS_TWO}", f"--access_config_file={access}"]
    with ServerProcess(flags, tmp_path / "log") as process:
        assert process.exit_code() == 255
        assert f"INVALID_ARGUMENT: {access}: a rule names the caller 'ann'" in process.log


def test_a_start_that_fails_ends_while_rules_are_read_again(tmp_path: Path) -> None:
    access = tmp_path / "access.config"
    access.write_text(keys("ann") + 'rule { caller: "ann" may: READ model: "*" }')
    (tmp_path / "bad" / "1").mkdir(parents=True)
    flags = [f"--model_base_path={tmp_path / 'bad'}", f"--access_config_file={access}", "--max_num_load_retries=0"]
    with ServerProcess([*flags, "--tls_reload_wait_seconds=0.001"], tmp_path / "log") as process:
        assert process.exit_code() == 255
        assert "Failed to start server" in process.log
        assert "Traceback" not in process.log
        assert "Fatal" not in process.log


def test_a_refusal_says_whether_the_connection_can_be_used_again(server: Secured) -> None:
    body = b'{"instances": [1.0]}'
    head = f"POST /v1/models/open:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.process.rest_port), DEADLINE_S) as connection:
        for key, status in (("nobody", 401), ("reader", 403), ("predictor", 200)):
            connection.sendall(head + f"X-Api-Key: {key}\r\n\r\n".encode() + body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, answer.will_close) == (status, False)
            answer.read()
        connection.sendall(head + b"X-Api-Key: nobody\r\n\r\n")  # and its body does not come
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.will_close) == (401, True)
