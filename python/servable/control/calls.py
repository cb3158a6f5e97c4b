"""Which handler answers which call: the table of everything that the network leaves to the control plane."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from servable.config.codec import Codec
from servable.control import rest
from servable.control.admin import SERVICE, Admin
from servable.control.answers import Handler
from servable.models.reload import Reloader, answer_reload
from servable.types import ModelRoutes

__all__ = ["find_handler"]


def find_handler(
    reloader: Reloader, routes: Callable[[], Mapping[str, ModelRoutes]], codec: Codec
) -> Callable[[str], Handler]:
    """A function from the method of a call to its handler. It raises `ServableError` for methods that there are not."""
    admin = Admin(reloader, routes, codec)
    reload = Handler(functools.partial(answer_reload, reloader=reloader, codec=codec), may_wait=True)

    def find(method: str) -> Handler:
        if method == "HandleReloadConfigRequest":
            return reload
        service, slash, name = method.partition("/")
        return admin.rpc(name) if slash and service == SERVICE else rest.find(method, admin)

    return find
