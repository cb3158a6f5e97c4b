"""`servable warmup`: files of warm-up requests, shown, made and recorded."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from servable.cli.admin_client import AdminClient
from servable.cli.arguments import FAILED, Parser
from servable.cli.columns import aligned
from servable.cli.show import shape_text, version_folder
from servable.config.server_config import batch_sizes
from servable.errors import FlagError, InvalidArgumentError, NotFoundError, ServableError, reading
from servable.types import SessionSpec, WarmupOptions
from servable.warmup.file import MOST_RECORDS, warmup_file, write_file
from servable.warmup.recording import DEFAULT_COUNT, DEFAULT_SECONDS
from servable.warmup.synthesis import MESSAGE, synthesize

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["bodies_in", "warmup"]

USAGE = """\
usage: servable warmup show <file, or folder of a model or of one of its versions> [--json]
       servable warmup make <folder of a model or of one of its versions> [--from=<requests.jsonl>] [--signature=<name>]
           [--batch_sizes=1,8] [--saved_model_tags=serve] [--custom_op_library=<path>] [--unchecked]
           [--out=<file>] [--force]
       servable warmup record --model=<name> [--server=127.0.0.1:8502] [--count=100] [--seconds=60]
           [--out=<file>] [--force]

  show     list the requests in a file
  make     write requests into the newest version's assets.extra/tf_serving_warmup_requests, or to --out: zeros and
           empty strings for each signature, or the bodies of REST requests in a file, one a line. They are tried on
           the model, which takes TensorFlow, unless --unchecked says not to
  record   write the next requests that a running server answers; --server is its admin port"""

FILE_NAME = "tf_serving_warmup_requests"


def warmup(arguments: Sequence[str]) -> int:
    """Run one of the commands. Returns the exit code."""
    if not arguments or "--help" in arguments:
        print(USAGE)
        return 0
    name, *rest = arguments
    commands: Mapping[str, Callable[[Sequence[str]], None]] = {"show": _show, "make": _make, "record": _record}
    if name not in commands:
        print(f"servable warmup: unknown command {name}\n{USAGE}", file=sys.stderr)
        return FAILED
    from servable.engine import EngineError

    try:
        commands[name](rest)
    except FlagError as error:
        print(f"servable warmup {name}: {error.message.strip()}\n{USAGE}", file=sys.stderr)
        return FAILED
    except (ServableError, EngineError) as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return FAILED
    return 0


def _show(arguments: Sequence[str]) -> None:
    parser = Parser(add_help=False, usage=argparse.SUPPRESS)
    parser.add_argument("path")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    from servable.engine import RecordReader, describe_record

    path = options.path if os.path.isfile(options.path) else warmup_file(version_folder(options.path))
    described = []
    for number, record in enumerate(RecordReader(path), 1):
        try:
            described.append(json.loads(describe_record(record)))
        except ValueError as error:
            raise InvalidArgumentError(f"record {number} of {path}: {error}") from error
    print(json.dumps(described, indent=2) if options.json else _as_text(described))


def _as_text(described: Sequence[Mapping[str, Any]]) -> str:
    """Requests, aligned for people: one line for each input."""
    rows: list[tuple[str, ...]] = []
    for number, request in enumerate(described, 1):
        inputs = [
            (name, tensor["dtype"].removeprefix("DT_").lower(), shape_text(tensor["shape"]))
            for name, tensor in sorted(request.get("inputs", {}).items())
        ]
        if "examples" in request:
            inputs = [(f"examples: {request['examples']}", "", "")]
        head = (str(number), request["kind"], request.get("signature", ""))
        for index, cells in enumerate(inputs or [("", "", "")]):
            rows.append((*(head if index == 0 else ("", "", "")), *cells))
    return "\n".join(aligned(rows, indent=4)) if rows else "no requests"


def _make(arguments: Sequence[str]) -> None:
    parser = Parser(add_help=False, usage=argparse.SUPPRESS)
    parser.add_argument("folder")
    parser.add_argument("--from", dest="bodies")
    parser.add_argument("--signature", default="")
    parser.add_argument("--batch_sizes", default="1")
    parser.add_argument("--saved_model_tags", default="serve")
    parser.add_argument("--custom_op_library", action="append", default=[])
    parser.add_argument("--unchecked", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args(arguments)
    folder = version_folder(options.folder)
    tags = tuple(tag for tag in options.saved_model_tags.split(",") if tag)
    if options.bodies is None:
        sizes = batch_sizes("batch_sizes", options.batch_sizes)
        requests = _synthesized(folder, tags, sizes, options.signature)
    else:
        requests = _from_bodies(folder, tags, options.bodies, options.signature)
    if not options.unchecked:
        # What was asked for has to work; what was made up may be more than the model takes.
        servable = _loaded(folder, tags, options.custom_op_library)
        requests = _tried(servable, requests, may_fail=options.bodies is None)
    if not requests:
        raise InvalidArgumentError(f"no request could be made for {folder}")
    _write(options.out or warmup_file(folder), [record for _, record in requests], force=options.force)


def _synthesized(folder: str, tags: Sequence[str], sizes: Sequence[int], signature: str) -> list[tuple[str, bytes]]:
    """What requests are for, and themselves."""
    from servable.engine import encode_json, read_saved_model

    graphs = json.loads(read_saved_model(folder))["meta_graphs"]
    graph = next((graph for graph in graphs if set(graph["tags"]) == set(tags)), None)
    if graph is None:
        raise NotFoundError(f"the SavedModel in {folder} has no graph with the tags {', '.join(tags)}")
    signatures: Mapping[str, Any] = graph["signatures"]
    if signature and signature not in signatures:
        raise NotFoundError(f"there is no signature {signature}; there are {', '.join(sorted(signatures))}")
    if signature:
        signatures = {signature: signatures[signature]}
    made, left_out = synthesize(signatures, sizes)
    for one in left_out:
        print(f"Left out: signature {one.signature}: {one.reason}", file=sys.stderr)
    return [(f"signature {one.signature}", encode_json(MESSAGE, json.dumps(one.log))) for one in made]


def _from_bodies(folder: str, tags: Sequence[str], path: str, signature: str) -> list[tuple[str, bytes]]:
    from servable.engine import make_records

    try:
        with open(path, "rb") as file:
            bodies = bodies_in(file.read())
    except OSError as error:
        raise reading(path, error) from error
    records = make_records(folder, tags, signature, bodies)
    return [(f"request {number}", record) for number, record in enumerate(records, 1)]


def bodies_in(data: bytes) -> list[bytes]:
    """The bodies in a file: one, a JSON list of them, or one a line."""
    try:
        value = json.loads(data)
    except ValueError:
        return [line for line in data.splitlines() if line.strip()]
    return [json.dumps(body).encode() for body in value] if isinstance(value, list) else [data]


def _loaded(folder: str, tags: Sequence[str], op_libraries: Sequence[str]) -> Servable:
    from servable.platforms.base import PlatformSettings
    from servable.platforms.tensorflow import open_tensorflow

    settings = PlatformSettings(SessionSpec(tags), tuple(op_libraries), WarmupOptions(enabled=False))
    return open_tensorflow(settings).loader("", 1, folder).load()


def _tried(servable: Servable, requests: Sequence[tuple[str, bytes]], *, may_fail: bool) -> list[tuple[str, bytes]]:
    """The requests that the model answers. Of what it refuses one of, further ones are not tried."""
    from servable.engine import EngineError

    refused: set[str] = set()
    answered = []
    for what, record in requests:
        if what in refused:
            continue
        try:
            servable.warm_up(record)
            answered.append((what, record))
        except EngineError as error:
            if not may_fail:
                raise ServableError(f"{what}: {error.message}", code=error.code) from error
            refused.add(what)
            reason = error.message.partition("\n")[0]
            print(f"Left out: {what}: {reason}", file=sys.stderr)
    return answered


def _record(arguments: Sequence[str]) -> None:
    parser = Parser(add_help=False, usage=argparse.SUPPRESS)
    parser.add_server()
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=DEFAULT_COUNT)
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS)
    parser.add_argument("--out", default=FILE_NAME)
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args(arguments)
    print(f"Waiting for requests: {options.count} of them, or {options.seconds:g} s", file=sys.stderr)
    records = AdminClient.of(options).record(options.model, options.count, options.seconds)
    if not records:
        raise NotFoundError(f"nobody asked {options.model} anything within {options.seconds:g} s")
    _write(options.out, records, force=options.force)


def _write(path: str, records: Sequence[bytes], *, force: bool) -> None:
    from servable.engine import write_records

    if len(records) > MOST_RECORDS:
        raise InvalidArgumentError(f"there are {len(records)} requests; a version takes at most {MOST_RECORDS}")
    write_file(path, records, force=force, write_records=write_records)
    print(f"Wrote {path}, requests: {len(records)}")
