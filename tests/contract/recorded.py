"""Recorded traffic of TensorFlow Serving: reading the cases, sending their requests, comparing the answers.

A case file holds servers (flags and files), and cases: steps with a request and the answer it got. The server's folder
and the models' folder stand as `${RUN}` and `${MODELS}` in it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

Json = dict[str, Any]
CASES = Path(__file__).with_name("cases")
ANSWER_WITHIN_S = 30.0
LONG_ANSWER = 20_000
"""Bytes; of longer answers the recordings keep a digest."""
COMPARED_HEADERS = (
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "allow",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
)

PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
MESSAGES: Mapping[str, tuple[str, str, str]] = {
    PREDICTION + "Predict": ("predict_pb2", "PredictRequest", "PredictResponse"),
    PREDICTION + "Classify": ("classification_pb2", "ClassificationRequest", "ClassificationResponse"),
    PREDICTION + "Regress": ("regression_pb2", "RegressionRequest", "RegressionResponse"),
    PREDICTION + "MultiInference": ("inference_pb2", "MultiInferenceRequest", "MultiInferenceResponse"),
    PREDICTION + "GetModelMetadata": ("get_model_metadata_pb2", "GetModelMetadataRequest", "GetModelMetadataResponse"),
    MODEL + "GetModelStatus": ("get_model_status_pb2", "GetModelStatusRequest", "GetModelStatusResponse"),
    MODEL + "HandleReloadConfigRequest": ("model_management_pb2", "ReloadConfigRequest", "ReloadConfigResponse"),
}
VALUE_FIELDS: Mapping[int, tuple[str, str]] = {
    1: ("float_val", "<f4"),
    2: ("double_val", "<f8"),
    3: ("int_val", "<i4"),
    4: ("int_val", "u1"),
    5: ("int_val", "<i2"),
    6: ("int_val", "i1"),
    8: ("scomplex_val", "<f4"),
    9: ("int64_val", "<i8"),
    10: ("bool_val", "?"),
    14: ("half_val", "<u2"),
    17: ("int_val", "<u2"),
    18: ("dcomplex_val", "<f8"),
    19: ("half_val", "<u2"),
    22: ("uint32_val", "<u4"),
    23: ("uint64_val", "<u8"),
}
"""TensorFlow's data type number to the field that holds its values, and their type in NumPy's words."""
DT_STRING = 7


@dataclasses.dataclass(frozen=True)
class Client:
    """What sends the requests of a case, and where to."""

    rest_port: int
    channel: grpc.Channel
    places: Mapping[str, str]
    """What stands for `${RUN}`, `${MODELS}` and the like."""

    def fill(self, value: Any) -> Any:
        return replaced(value, list(self.places.items()))

    def masked(self, answer: Json) -> Json:
        return dict(replaced(answer, [(real, name) for name, real in self.places.items()]))

    def run(self, step: Json) -> Json | None:
        """Does a step; what was seen, or nothing where there is nothing to see."""
        if "wait" in step:
            self.wait(step["wait"])
            return None
        if "concurrent" in step:
            with ThreadPoolExecutor(len(step["concurrent"])) as pool:
                return self.masked({"answers": list(pool.map(self.send, step["concurrent"]))})
        return self.masked(self.send(step))

    def send(self, step: Json) -> Json:
        step = self.fill(step)
        return send_rest(self.rest_port, step["rest"]) if "rest" in step else send_grpc(self.channel, step["grpc"])

    def wait(self, wait: Json) -> None:
        """Repeats a request until its answer contains a text, white space and quotes aside."""

        def plain(text: str) -> str:
            return re.sub(r"[\s\\\"]", "", text)

        end = time.monotonic() + ANSWER_WITHIN_S
        while plain(wait["contains"]) not in plain(json.dumps(self.send(wait["request"]))):
            assert time.monotonic() < end, f"{wait['contains']} did not come"
            time.sleep(0.05)


def replaced(value: Any, pairs: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for old, new in pairs:
            value = value.replace(old, new)
        return value
    if isinstance(value, list):
        return [replaced(item, pairs) for item in value]
    if isinstance(value, dict):
        return {replaced(key, pairs): replaced(item, pairs) for key, item in value.items()}
    return value


# --- REST: a plain socket, so that the bytes are those of the recording ----------------------------------------------


def send_rest(port: int, request: Json) -> Json:
    with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN_S) as connection:
        connection.sendall(rest_bytes(request))
        with connection.makefile("rb") as stream:
            return rest_answer(stream.readline, stream.read, request)


def rest_bytes(request: Json) -> bytes:
    if "raw" in request or "raw_base64" in request:
        return body_bytes(request, "raw")
    body, headers = body_bytes(request, "body"), [tuple(header) for header in request.get("headers", [])]
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        headers.insert(0, ("Host", "localhost"))
    if "content-length" not in names and (body or request["method"] == "POST"):
        headers.append(("Content-Length", str(len(body))))
    head = f"{request['method']} {request['path']} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
    return head.encode("utf-8", "surrogateescape") + body


def body_bytes(request: Json, key: str) -> bytes:
    if key + "_base64" in request:
        return base64.b64decode(request[key + "_base64"])
    if key + "_repeat" in request:
        return b"".join(text.encode() * times for text, times in request[key + "_repeat"])
    return str(request.get(key, "")).encode()


def rest_answer(read_line: Callable[[], bytes], read: Callable[[int], bytes], request: Json) -> Json:
    status = int(read_line().split(b" ")[1])
    headers = {}
    while line := read_line().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = read(int(headers.get("content-length", 0))) if request.get("method") != "HEAD" else b""
    if keep := request.get("keep_lines"):
        body = b"\n".join(sorted(line for line in body.split(b"\n") if re.search(keep.encode(), line)))
    return {"status": status, "headers": headers, **body_text(body)}


def body_text(body: bytes) -> Json:
    if len(body) > LONG_ANSWER:
        digest = hashlib.sha256(json.dumps(json.loads(body), sort_keys=True).encode()).hexdigest()
        return {"body_digest": {"json_sha256": digest, "head": body[:200].decode("latin-1")}}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


# --- gRPC ------------------------------------------------------------------------------------------------------------


def message_types(method: str) -> tuple[type[Message], type[Message]] | None:
    if method not in MESSAGES:
        return None
    module, request, response = MESSAGES[method]
    loaded = importlib.import_module("tensorflow_serving.apis." + module)
    return getattr(loaded, request), getattr(loaded, response)


def send_grpc(channel: grpc.Channel, request: Json) -> Json:
    method, limit = request["method"], request.get("deadline_s", ANSWER_WITHIN_S)
    try:
        if request.get("stream"):  # only the first message of the answer
            stream: Any = channel.stream_stream(method)
            calls = stream(iter([grpc_bytes(request)]), timeout=limit)
            answer = next(calls)
            calls.cancel()
        else:
            unary: Any = channel.unary_unary(method)
            answer = unary(grpc_bytes(request), timeout=limit)
    except grpc.RpcError as failure:
        call: Any = failure
        return {"code": call.code().name, "message": call.details()}
    return {"code": "OK", "message": "", **decoded(method, answer)}


def grpc_bytes(request: Json) -> bytes:
    if "request_base64" in request:
        return base64.b64decode(request["request_base64"])
    types = message_types(request["method"])
    assert types
    message: Any = json_format.ParseDict(request.get("request", {}), types[0]())
    if fill := request.get("fill"):  # a tensor too large to write down
        message.inputs[fill["input"]].tensor_content = base64.b64decode(fill["unit_base64"]) * fill["count"]
    return bytes(message.SerializeToString(deterministic=True))


def decoded(method: str, answer: bytes) -> Json:
    types = message_types(method)
    if types is None:
        return {"response_base64": base64.b64encode(answer).decode()}
    try:
        message: Any = types[1].FromString(answer)
    except DecodeError:
        return {"response_base64": base64.b64encode(answer).decode()}
    tensors = {}
    if hasattr(message, "outputs"):
        tensors = {"tensors": {name: tensor_values(value) for name, value in sorted(message.outputs.items())}}
    if len(answer) > LONG_ANSWER:
        return {"response_digest": True, **tensors}
    return {"response": json_format.MessageToDict(message, preserving_proto_field_name=True), **tensors}


def tensor_values(proto: Any) -> Json:
    """A tensor as plain values; strings as base64, half and bfloat16 as bit patterns."""
    dtype = type(proto).DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number[proto.dtype].name
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype == DT_STRING:
        strings = strings_of(proto, int(np.prod(shape, dtype=np.int64)))
        values: list[Any] = [base64.b64encode(string).decode() for string in strings]
        raw = json.dumps(values).encode()
    elif proto.dtype in VALUE_FIELDS:
        field, kind = VALUE_FIELDS[proto.dtype]
        wide = {"f": kind, "u": "<u8"}.get(np.dtype(kind).kind, "<i8")
        content = proto.tensor_content
        array = np.frombuffer(content, kind) if content else np.array(list(getattr(proto, field)), wide).astype(kind)
        values, raw = array.tolist(), array.tobytes()
        if array.dtype.kind == "f":
            values = [value if np.isfinite(value) else str(value) for value in (float(str(item)) for item in array)]
    else:
        return {"dtype": dtype, "shape": shape}
    if len(values) <= 64:
        return {"dtype": dtype, "shape": shape, "values": values}
    digest = hashlib.sha256(raw).hexdigest()
    return {"dtype": dtype, "shape": shape, "values_sha256": digest, "first": values[:4], "last": values[-4:]}


def strings_of(proto: Any, count: int) -> list[bytes]:
    """The strings of a tensor, also where they stand in `tensor_content`: all lengths, then all bytes."""
    if not proto.tensor_content:
        return list(proto.string_val)
    content, at, lengths = proto.tensor_content, 0, []
    for _ in range(count):
        length = shift = 0
        while True:
            byte, at = content[at], at + 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        lengths.append(length)
    strings = []
    for length in lengths:
        strings.append(content[at : at + length])
        at += length
    return strings


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Number:
    """A JSON number that remembers how it was written."""

    text: str
    integral: bool

    def same_as(self, other: Number, literally: bool) -> bool:
        if literally:
            return self.text == other.text
        if self.integral != other.integral:
            return False
        if self.integral:
            return int(self.text) == int(other.text)
        mine, its = (float(text.replace("Infinity", "inf")) for text in (self.text, other.text))
        return mine == its or (mine != mine and its != its) or abs(mine - its) <= 1e-6 * max(abs(mine), abs(its))


def parsed(text: str) -> Any:
    return json.loads(
        text,
        parse_int=lambda text: Number(text, True),
        parse_float=lambda text: Number(text, False),
        parse_constant=lambda text: Number(text, False),
    )


def differences(want: Any, got: Any, literally: bool = False, at: str = "$") -> list[str]:
    """What differs between two JSON values, as sentences."""
    if isinstance(want, Number) and isinstance(got, Number):
        return [] if want.same_as(got, literally) else [f"{at}: want {want.text}, got {got.text}"]
    if type(want) is not type(got):
        return [f"{at}: want {want!r:.200}, got {got!r:.200}"]
    if isinstance(want, dict):
        found = [f"{at}: {key} is on one side only" for key in want.keys() ^ got.keys()]
        for key in want.keys() & got.keys():
            found += differences(want[key], got[key], literally, f"{at}.{key}")
        return found
    if isinstance(want, list):
        if len(want) != len(got):
            return [f"{at}: want {len(want)} items, got {len(got)}"]
        return [
            line
            for index, (mine, its) in enumerate(zip(want, got, strict=True))
            for line in differences(mine, its, literally, f"{at}[{index}]")
        ]
    return [] if want == got else [f"{at}: want {want!r:.200}, got {got!r:.200}"]


def message_differences(rule: Any, want: str, got: str) -> list[str]:
    """Error texts: `exact`, `code-only`, or {starts|ends|contains: text or texts}."""
    if rule == "code-only":
        return [] if got or not want else ["the error has no text"]
    if isinstance(rule, dict):
        ((how, texts),) = rule.items()
        test = {"starts": str.startswith, "ends": str.endswith, "contains": str.__contains__}[how]
        texts = [texts] if isinstance(texts, str) else texts
        return [f"the text must {how.rstrip('s')} {text!r}, got {got!r:.300}" for text in texts if not test(got, text)]
    return [] if want == got else [f"text: want {want!r:.300}, got {got!r:.300}"]


def compare(want: Json | None, got: Json | None, match: Json) -> list[str]:
    """What differs between a recorded answer and a fresh one."""
    if want is None or got is None:
        return []
    if "answers" in want:
        pairs = list(zip(want["answers"], got["answers"], strict=True))
        return [line for mine, its in pairs for line in compare(mine, its, match)]
    if "status" in want:
        return compare_rest(want, got, match)
    return compare_grpc(want, got, match)


def compare_rest(want: Json, got: Json, match: Json) -> list[str]:
    found = [] if want["status"] == got["status"] else [f"status: want {want['status']}, got {got['status']}"]
    for name in match.get("headers", COMPARED_HEADERS):
        if want["headers"].get(name) != got["headers"].get(name):
            found.append(f"header {name}: want {want['headers'].get(name)!r}, got {got['headers'].get(name)!r}")
    rule, body = match.get("body", "json"), want.get("body", "")
    if rule == "ignore":
        return found
    if rule == "exact" or "body" not in want:
        keys = ("body", "body_digest", "body_base64")
        return found + [f"{key}: want {want.get(key)!r:.300}, got {got.get(key)!r:.300}" for key in keys
                        if want.get(key) != got.get(key)]  # fmt: skip
    if isinstance(rule, dict):
        return found + message_differences(rule, body, got.get("body", ""))
    if not body:
        return found + ([] if not got.get("body") else [f"body: want none, got {got['body']!r:.300}"])
    wanted, seen = parsed(body), parsed(got.get("body", ""))
    if isinstance(wanted, dict) and set(wanted) == {"error"} == set(seen):
        return found + message_differences(match.get("error", "exact"), wanted["error"], seen["error"])
    return found + differences(wanted, seen, rule == "text")


def compare_grpc(want: Json, got: Json, match: Json) -> list[str]:
    if want["code"] != got["code"]:
        return [f"code: want {want['code']} {want['message']!r:.300}, got {got['code']} {got['message']!r:.300}"]
    if want["code"] != "OK":
        return message_differences(match.get("error", "exact"), want["message"], got["message"] or "")
    if match.get("body") == "ignore":
        return []
    unordered = match.get("unordered", [])

    def kept(answer: Json) -> Any:
        keys = ("response", "response_base64", "response_digest", *(["tensors"] if "response_digest" in answer else []))
        return parsed(json.dumps(sorted_lists({key: answer[key] for key in keys if key in answer}, unordered)))

    return differences(kept(want), kept(got))


def sorted_lists(value: Any, keys: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: sorted(item, key=json.dumps) if key in keys and isinstance(item, list) else sorted_lists(item, keys)
            for key, item in value.items()
        }
    return [sorted_lists(item, keys) for item in value] if isinstance(value, list) else value
