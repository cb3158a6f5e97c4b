"""Three models change their versions all the time while everything goes wrong that can: nobody notices.

`make test` does a short form, `make soak` a long one (`SERVABLE_SOAK_SWAPS`). Every request has to succeed, and every
answer has to come from a version that was current at some time between question and answer.
"""

from __future__ import annotations

import functools
import http.server
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tensorflow as tf

from tests.e2e.grpc_client import Grpc, predict_request
from tests.e2e.random_tensors import SEED
from tests.e2e.rest_client import Rest
from tests.e2e.server import Model, ServerProcess, config_text, serving, wait_until

SWAPS = int(os.environ.get("SERVABLE_SOAK_SWAPS", "5"))
"""Changes of version for each of the models."""
SETTLE_S = 0.3
STALL_S = 1.5
"""A copy that stalls so long seems to be done."""
DISK_BYTES = 4 << 20

APPLIED = "Finished adding/updating models"
"""What the server logs when it has taken on a configuration."""

pytest.importorskip("aiohttp", reason="versions on a web server need servable[http], which `make install` brings")


class Numbered(tf.Module):  # type: ignore[misc]
    """A model whose answers are the number in a file of its own: any number of versions are made by copying. It has
    variables, without which it loads, but does not answer.
    """

    def __init__(self, asset: str) -> None:
        super().__init__()
        keys_and_values = tf.lookup.TextFileInitializer(asset, tf.string, 0, tf.int64, 1, delimiter=" ")
        self.table = tf.lookup.StaticHashTable(keys_and_values, -1)
        self.zeros = tf.Variable(tf.zeros([4096]))

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        number = tf.cast(self.table.lookup(tf.constant("version")), tf.float32)
        return {"y": number + tf.reduce_sum(self.zeros) + 0.0 * x}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    asset = folder / "version.txt"
    asset.write_text("version 0\n")
    model = Numbered(str(asset))
    tf.saved_model.save(model, str(folder / "model"), {"serving_default": model.__call__})
    return folder / "model"


@dataclass
class Current:
    """A stretch of time in which a version may have answered."""

    version: int
    since: float
    until: float = float("inf")


@dataclass
class Life:
    """A model, its folder, and which version was current when."""

    name: str
    base: Path
    stretches: list[Current] = field(default_factory=list)
    highest: int = 0

    def was_current(self, version: float, sent: float, received: float) -> bool:
        return any(
            stretch.version == version and stretch.since <= received and sent <= stretch.until
            for stretch in self.stretches
        )

    def begins(self, version: int) -> None:
        self.stretches.append(Current(version, time.monotonic()))

    def only(self, version: int) -> None:
        """From now on no other version answers."""
        for stretch in self.stretches:
            if stretch.version != version and stretch.until == float("inf"):
                stretch.until = time.monotonic()


@dataclass(frozen=True)
class Asked:
    """A request and its answer."""

    model: str
    sent: float
    received: float
    answer: float


class Clients:
    """Clients of both protocols that ask all models in turn, all the time."""

    def __init__(self, server: ServerProcess, names: list[str]) -> None:
        self.asked: list[Asked] = []
        self.failures: list[str] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(functools.partial(client, server), names))
            for client in (_grpc, _rest, _grpc, _rest)
        ]

    def _run(self, connect: Callable[[], AbstractContextManager[Callable[[str], float]]], names: list[str]) -> None:
        with connect() as ask:
            while not self._stopped.is_set():
                for name in names:
                    self._ask(ask, name)
                time.sleep(0.001)  # the server has other things to do as well

    def _ask(self, ask: Callable[[str], float], name: str) -> None:
        sent = time.monotonic()
        try:
            answer = ask(name)
        except Exception as error:
            self.failures.append(f"{name}: {error!r}")
        else:
            self.asked.append(Asked(name, sent, time.monotonic(), answer))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def _grpc(server: ServerProcess) -> Iterator[Callable[[str], float]]:
    with Grpc(server.grpc_address) as client:
        yield lambda name: float(client.predict(predict_request(name, {"x": 0.0})).outputs["y"].float_val[0])


@contextmanager
def _rest(server: ServerProcess) -> Iterator[Callable[[str], float]]:
    with Rest(server.rest_port) as client:

        def ask(name: str) -> float:
            answer = client.predict(name, '{"inputs": 0}')
            assert answer.status == 200, answer
            return float(answer.json["outputs"])

        yield ask


class Swapper:
    """Changes the versions of one model, and lets things go wrong on the way."""

    _config_lock = threading.Lock()
    """Held while the configuration, which all models share, is not as it should be."""

    def __init__(
        self,
        life: Life,
        template: Path,
        server: ServerProcess,
        config: Path,
        *,
        cache: Path | None,
        first: int,
        done: Counter[str],
    ) -> None:
        self.life = life
        self._template = template
        self._server = server
        self._config = config
        self._cache = cache
        self._first = first
        self._done = done
        self._random = random.Random(f"{SEED} {life.name}")

    def run(self) -> None:
        mishaps = [
            *([self.full_disk] if self._cache else []),
            *(self.nothing, self.config_garbage, self.config_gone, self.broken_model, self.half_a_model),
            *(self.late_variables, self.base_path_gone, self.roll_back),
        ]
        with Grpc(self._server.grpc_address) as client:
            self._client = client
            for number in range(SWAPS):
                # Each of them once, beginning somewhere else for each model, then any of them.
                index = (number + self._first) % len(mishaps)
                mishap = mishaps[index] if number < len(mishaps) else self._random.choice(mishaps)
                self._done[mishap.__name__] += 1
                mishap()

    # What may go wrong; each ends with a version that is newer than all before.

    def nothing(self) -> None:
        self.swap()

    def config_garbage(self) -> None:
        with self._config_lock:
            good = self._config.read_bytes()
            with self.logged("Failed to read ModelServerConfig file"):
                self._config.write_text("model_config_list { config { nmae: 'x' } ")
                self.swap()
            with self.logged(APPLIED):
                self._config.write_bytes(good)

    def config_gone(self) -> None:
        with self._config_lock:
            aside = self._config.with_suffix(".gone")
            with self.logged("PollFilesystemAndReloadConfig failed to ReloadConfig"):
                self._config.rename(aside)
                self.swap()
            with self.logged(APPLIED):
                aside.rename(self._config)

    def broken_model(self) -> None:
        broken = self.put(lambda folder: (folder / "saved_model.pb").write_bytes(b"\x08\x01garbage"), is_good=False)
        self.wait(lambda states: states.get(broken) in ("LOADING", "END"), "the broken version is tried")
        self.swap()

    def half_a_model(self) -> None:
        """A version is copied in place, file by file, in any order, and the copy stalls here and there."""
        self.life.highest += 1
        version = self.life.highest
        self.life.begins(version)
        target = self.life.base / str(version)
        sources = sorted(source for source in self._template.rglob("*") if source.is_file())
        for source in self._random.sample(sources, len(sources)):
            goal = target / source.relative_to(self._template)
            goal.parent.mkdir(parents=True, exist_ok=True)
            text = f"version {version}\n".encode() if goal.name == "version.txt" else source.read_bytes()
            pieces = [text[start : start + 4096] for start in range(0, len(text), 4096)]
            stall = self._random.choice([None, *range(len(pieces))])
            with goal.open("wb") as file:
                for index, piece in enumerate(pieces):
                    file.write(piece)
                    file.flush()
                    time.sleep(STALL_S if index == stall else 0.01)
        self.arrive(version)

    def late_variables(self) -> None:
        """A version appears that would load, but lacks its variables for a while."""
        aside = self.life.base.parent / f"{self.life.name}.variables"
        version = self.put(lambda folder: (folder / "variables").rename(aside))
        time.sleep(2 * STALL_S)  # somebody looks meanwhile
        aside.rename(self.life.base / str(version) / "variables")
        self.arrive(version)

    def base_path_gone(self) -> None:
        aside = self.life.base.with_suffix(".gone")
        self.life.base.rename(aside)
        time.sleep(1.2)  # longer than the period of a scan: it shall be noticed
        aside.rename(self.life.base)
        self.swap()

    def roll_back(self) -> None:
        """The newest version is taken away, and the one before serves again."""
        before = self.life.highest
        self.swap(keep=True)
        newest = self.life.base / str(self.life.highest)
        self.life.begins(before)
        newest.rename(newest.with_name(f"{newest.name}.off"))
        self.arrive(before)
        self.swap()
        shutil.rmtree(newest.with_name(f"{newest.name}.off"))

    def full_disk(self) -> None:
        """There is no room for a copy of the next version but in the place of older ones, until there is again."""
        assert self._cache is not None
        filler = self._cache.parent / "filler"
        with filler.open("wb") as file:
            room = os.statvfs(filler)
            file.write(bytes(max(0, room.f_bavail * room.f_frsize - 4096)))
        version = self.put()
        failed = f"{{name: {self.life.name} version: {version}}} failed: RESOURCE_EXHAUSTED: "
        self.wait(
            lambda states: states.get(version) == "AVAILABLE" or failed in self._server.log, "the full disk is noticed"
        )
        filler.unlink()
        self.arrive(version)

    # Steps.

    def swap(self, *, keep: bool = False) -> None:
        """A new version appears and takes over; older ones are removed, unless `keep`."""
        self.arrive(self.put(), keep=keep)

    def put(self, spoil: Callable[[Path], object] = lambda folder: None, *, is_good: bool = True) -> int:
        """Let the next version appear, as careful people do."""
        self.life.highest += 1
        version = self.life.highest
        aside = self.life.base.parent / f"{self.life.name}.incoming"
        shutil.copytree(self._template, aside)
        (aside / "assets" / "version.txt").write_text(f"version {version}\n")
        spoil(aside)
        if is_good:
            self.life.begins(version)
        aside.rename(self.life.base / str(version))
        return version

    def arrive(self, version: int, *, keep: bool = False) -> None:
        """Wait until this version is the only one that serves."""

        def has_arrived(states: dict[int, str]) -> bool:
            others = {state for number, state in states.items() if number != version}
            return states.get(version) == "AVAILABLE" and others <= {"END", "LOADING", "START"}

        self.wait(has_arrived, f"version {version} of {self.life.name} takes over")
        self.life.only(version)
        for folder in self.life.base.iterdir() if not keep else ():
            if folder.name.isdecimal() and int(folder.name) < version:
                shutil.rmtree(folder)

    @contextmanager
    def logged(self, text: str) -> Iterator[None]:
        """What is done here has the server log this text; waits until it has."""
        before = self._server.log.count(text)
        yield
        self._server.wait_for(lambda: self._server.log.count(text) > before, f"the server logs: {text}")

    def wait(self, condition: Callable[[dict[int, str]], bool], what: str) -> None:
        states = functools.partial(self._client.states, self.life.name)
        self._server.wait_for(lambda: condition(states()), f"{what}; the states are {states()}")


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A plain file server; gives its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """The folder of a file system of a few megabytes, if this user may mount one."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_disk_is_one_that_gets_full(small_disk: Path | None) -> None:
    """For the report: the test below goes without where there is none."""
    if small_disk is None:
        pytest.skip("no file system can be mounted here: the disk does not get full while versions change")


@pytest.mark.timeout(60 + 30 * SWAPS)
def test_no_request_is_lost_whatever_happens(template: Path, small_disk: Path | None, tmp_path: Path) -> None:
    lives = [Life(name, tmp_path / "models" / name) for name in ("one", "two", "remote")]
    done: Counter[str] = Counter()
    failures: list[BaseException] = []
    with web_server(tmp_path / "models") as address:
        cache = (small_disk or tmp_path) / "cache"
        models = [Model(life.name, life.base) for life in lives[:2]]
        remote = Model("remote", Path("REMOTE")).text().replace("REMOTE", f"{address}/remote")
        text = config_text(models).removesuffix("}\n") + remote + "}\n"
        for life in lives:
            life.base.mkdir(parents=True)
            shutil.copytree(template, life.base / "1")
            (life.base / "1" / "assets" / "version.txt").write_text("version 1\n")
            life.highest = 1
            life.begins(1)
        flags = [
            *("--model_config_file_poll_wait_seconds=1", f"--version_settle_seconds={SETTLE_S}"),
            *("--remote_poll_wait_seconds=0.5", f"--model_cache_dir={cache}", f"--model_cache_bytes={DISK_BYTES}"),
        ]
        with serving(text, tmp_path, *flags) as server:
            config = tmp_path / "models.config"
            swappers = [
                Swapper(life, template, server, config, cache=cache_of_it, first=first, done=done)
                for life, first, cache_of_it in zip(
                    lives, (0, 4, 0), (None, None, cache if small_disk else None), strict=True
                )
            ]

            def run(swapper: Swapper) -> None:
                try:
                    swapper.run()
                except BaseException as error:
                    failures.append(error)

            with Clients(server, [life.name for life in lives]) as clients:
                threads = [threading.Thread(target=run, args=(swapper,)) for swapper in swappers]
                for thread in threads:
                    thread.start()
                wait_until(lambda: not any(thread.is_alive() for thread in threads), "all swaps", 60.0 + 30.0 * SWAPS)
    if failures:
        raise failures[0]
    by_name = {life.name: life for life in lives}
    stray = [
        asked
        for asked in clients.asked
        if not by_name[asked.model].was_current(asked.answer, asked.sent, asked.received)
    ]
    versions = {(asked.model, asked.answer) for asked in clients.asked}
    print(f"{len(clients.asked):,} requests, {len(versions)} versions that answered; {dict(done)}")
    assert clients.failures == []
    assert stray == []
    assert len(versions) >= 3 * SWAPS
