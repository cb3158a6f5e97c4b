"""`servable demo`: the bundled models, served, and requests to try on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from servable.cli.serve import serve
from servable.config.model_config import ModelConfig

if TYPE_CHECKING:
    from servable.server import Ports

__all__ = ["demo", "requests_to_try"]

FOLDER = Path(__file__).parent.parent / "demo"
MODELS = ("half_plus_two", "yolo_digit")
REST_PORT = 8501


def demo(arguments: Sequence[str]) -> int:
    """Serve the bundled models on the usual ports. `arguments` are flags of `servable serve`, which go before."""
    return serve(
        "servable demo [--flag=value ...]",
        arguments,
        defaults={"rest_api_port": REST_PORT},
        models=[ModelConfig(name, str(FOLDER / "models" / name)) for name in MODELS],
        on_ready=_print_requests,
    )


def _print_requests(ports: Ports) -> None:
    if ports.rest is not None:
        print(requests_to_try(f"http://localhost:{ports.rest}"), flush=True)


def requests_to_try(address: str) -> str:
    """Command lines for a shell, with a sentence each."""
    picture = FOLDER / "digits.png"
    return f"""
The server is up. In another terminal, try

  # x / 2 + 2, for each x
  curl -d '{{"instances": [1.0, 2.0, 5.0]}}' {address}/v1/models/half_plus_two:predict

  # find the digits in the picture {picture}
  printf '{{"instances": [{{"b64": "%s"}}]}}' "$(base64 < '{picture}' | tr -d '\\n')" |
    curl -d @- {address}/v1/models/yolo_digit:predict

  # what the models take and give
  curl {address}/v1/models/yolo_digit/metadata

Ctrl-C stops the server.
"""
