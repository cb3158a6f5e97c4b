"""A steady workload: many pictures through the digit detector, over REST and gRPC. Does it fail, does memory grow?

    python benches/steady.py [--pictures N] [--quick]

Pictures are variants of the demo's. They go over each protocol one after another, and then from eight clients at once.
Every answer has to be there, and the same for the same picture. CPU time is the server's, and beside it that of
TensorFlow alone for the same model and picture: what is left is what serving costs.

Needs Linux, TensorFlow, grpcio and matplotlib.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from harness import HERE, MODELS, OWN, PREDICT, Server, cpu_seconds, keep, machine, require, resident, serving
from servable import engine

MODEL = "yolo_digit"
VARIANTS = 100
MANY = 8
BARE_RUNS = 400


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One protocol with so many clients."""

    protocol: str
    clients: int
    pictures: int
    seconds: float
    server_us: float
    """CPU time for each picture."""
    bare_us: float
    """The same for TensorFlow alone."""
    resident_mb: float
    """After it."""

    @property
    def share(self) -> float:
        """Of a core, besides the model's own run time."""
        return (self.server_us - self.bare_us) / 1e6 * self.pictures / self.seconds


Ask = Callable[[int], bytes]
"""Sends a picture and returns the answer; raises if it is none."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Many pictures through the digit detector")
    parser.add_argument("--pictures", type=int, default=14_000, help="for each protocol and number of clients")
    parser.add_argument("--quick", action="store_true", help="few pictures: does it still work?")
    arguments = parser.parse_args()
    require(plots=True)
    count = 80 if arguments.quick else arguments.pictures
    pictures = variants()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "picture").write_bytes(pictures[0])
        bare = {clients: bare_cpu_us(scratch / "picture", clients) for clients in (1, MANY)}
        with serving("servable", OWN, {MODEL: MODELS / MODEL}, scratch) as server:
            protocols: dict[str, Callable[[], Ask]] = {
                "REST": lambda: rest_client(server, pictures),
                "gRPC": lambda: grpc_client(server, pictures),
            }
            for client in protocols.values():
                send(client, MANY, VARIANTS)
            before = resident(server.pid)
            outcomes = []
            for protocol, client in protocols.items():
                for clients in (1, MANY):
                    cpu, begin = cpu_seconds(server.pid), time.monotonic()
                    send(client, clients, count)
                    took, used = time.monotonic() - begin, cpu_seconds(server.pid) - cpu
                    outcomes.append(
                        Outcome(protocol, clients, count, took, used / count * 1e6, bare[clients], resident(server.pid))
                    )
    report(outcomes, before)
    return 0


def variants() -> list[bytes]:
    """The demo's picture, moved to the right by more and more pixels, as PNG files."""
    from matplotlib import image

    picture = image.imread(MODELS.parent / "digits.png")
    width = picture.shape[1]
    files = []
    for number in range(VARIANTS):
        columns = [(column - number) % width for column in range(width)]
        file = io.BytesIO()
        image.imsave(file, picture[:, columns], cmap="gray", vmin=0.0, vmax=1.0, format="png")
        files.append(file.getvalue())
    return files


def rest_client(server: Server, pictures: Sequence[bytes]) -> Ask:
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode() for picture in pictures]
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)

    def ask(number: int) -> bytes:
        connection.request("POST", f"/v1/models/{MODEL}:predict", bodies[number])
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK or b"detection_boxes" not in body:
            raise SystemExit(f"picture {number}: {answer.status} {body[:200]!r}")
        return body

    return ask


def grpc_client(server: Server, pictures: Sequence[bytes]) -> Ask:
    requests = [
        engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(request(picture))) for picture in pictures
    ]
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)])
    call: Callable[..., bytes] = channel.unary_unary(PREDICT)
    return lambda number: call(requests[number], timeout=60)


def request(picture: bytes) -> dict[str, object]:
    tensor = {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": 1}]},
        "string_val": [base64.b64encode(picture).decode()],
    }
    return {"model_spec": {"name": MODEL}, "inputs": {"image": tensor}}


def send(client: Callable[[], Ask], clients: int, count: int) -> None:
    """Raises if a picture is not answered, or not as it was before."""
    answers: dict[int, bytes] = {}
    failures: list[BaseException] = []

    def work(ask: Ask, first: int) -> None:
        try:
            for number in range(first, count, clients):
                variant = number % VARIANTS
                answer = ask(variant)
                if answers.setdefault(variant, answer) != answer:
                    raise SystemExit(f"picture {variant} is answered differently now")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client(), first)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def bare_cpu_us(picture: Path, threads: int) -> float:
    command = [sys.executable, str(HERE / "bare_tensorflow.py"), str(MODELS / MODEL / "1"), str(picture)]
    runs = f"{BARE_RUNS} {threads}\n"
    done = subprocess.run(
        command, input=runs * 2, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    seen = json.loads(done.stdout.splitlines()[1])  # the first was to warm up
    return float(seen["user_us"] + seen["system_us"])


def report(outcomes: Sequence[Outcome], before_mb: float) -> None:
    lines = [
        f"{machine()}. {VARIANTS} pictures again and again; no request failed. Resident before: {before_mb:,.0f} MB.",
        "",
        "| protocol | clients | pictures | pictures/s | CPU per picture | TensorFlow alone | share of a core besides "
        "| resident after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seen in outcomes:
        lines.append(
            f"| {seen.protocol} | {seen.clients} | {seen.pictures:,} | {seen.pictures / seen.seconds:,.0f} "
            f"| {seen.server_us:,.0f} µs | {seen.bare_us:,.0f} µs | {seen.share:.1%} | {seen.resident_mb:,.0f} MB |"
        )
    keep(
        "steady", "\n".join(lines), {"before_mb": before_mb, "outcomes": [dataclasses.asdict(one) for one in outcomes]}
    )


if __name__ == "__main__":
    sys.exit(main())
