"""Which handler answers which call: the table of everything that the network leaves to the control plane."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Protocol

from servable.config.codec import Codec
from servable.control import rest
from servable.control.admin import SERVICE, Admin
from servable.control.answers import Handler, Wait
from servable.control.profiling import SERVICE as PROFILER
from servable.control.profiling import Profiling
from servable.models.reload import Reloader, answer_reload
from servable.types import ModelRoutes
from servable.warmup.recording import Capturing

__all__ = ["find_handler"]


class Serving(Capturing, Protocol):
    """What the engine's `Server` does for those who call."""

    def metrics_page(self) -> str: ...


def find_handler(
    reloader: Reloader,
    routes: Callable[[], Mapping[str, ModelRoutes]],
    ask_for: Callable[[str, int], None],
    server: Serving,
    codec: Codec,
    profiling: Profiling,
) -> Callable[[str], Handler]:
    """A function from the method of a call to its handler. It raises `ServableError` for methods that there are not."""
    admin = Admin(reloader, routes, server, codec)
    answer = functools.partial(answer_reload, reloader=reloader, codec=codec, metrics_page=server.metrics_page)
    reload = Handler(answer, Wait.MODELS)
    load = Handler(functools.partial(_load, ask_for=ask_for, codec=codec), Wait.NOTHING)

    def find(method: str) -> Handler:
        if method == "Load":
            return load
        if method == "HandleReloadConfigRequest":
            return reload
        service, slash, name = method.partition("/")
        if service == PROFILER:
            return Handler(functools.partial(profiling.answer, name), Wait.MODELS)
        return admin.rpc(name) if slash and service == SERVICE else rest.find(method, admin)

    return find


def _load(request: bytes, ask_for: Callable[[str, int], None], codec: Codec) -> bytes:
    """Pass it on that a request waits for a version."""
    spec = json.loads(codec.decode_message("tensorflow.serving.ModelSpec", request))
    ask_for(spec["name"], spec.get("version", 0))
    return b""
