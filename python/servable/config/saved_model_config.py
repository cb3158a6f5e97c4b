"""What a SavedModel says about its own sessions: `tensorflow.serving.SavedModelConfig`, in its `assets.extra`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from servable.config.codec import Codec

__all__ = ["SavedModelConfig", "find", "overridden"]

MESSAGE = "tensorflow.serving.SavedModelConfig"
SESSION = "tensorflow.ConfigProto"
FOLDER = "assets.extra"
NAME = "saved_model_config"
KNOWN = "disable_meta_optimizer"


@dataclass(frozen=True)
class SavedModelConfig:
    """The overrides of one version."""

    disable_meta_optimizer: bool = False
    ignored: tuple[str, ...] = ()
    """What it asks for that is not done here."""


def find(version_folder: str, codec: Codec) -> SavedModelConfig | None:
    """What lies with a version, in binary (`.pb`) or text form (`.pbtxt`).

    `OSError` if it cannot be read, `ValueError` if it is malformed; `None` if there is nothing.
    """
    path = os.path.join(version_folder, FOLDER, NAME)
    try:
        with open(f"{path}.pb", "rb") as file:
            return _from_bytes(file.read(), codec)
    except FileNotFoundError:
        pass
    try:
        with open(f"{path}.pbtxt", encoding="utf-8") as file:
            return _from_bytes(codec.encode_text(MESSAGE, file.read()), codec)
    except FileNotFoundError:
        return None


def _from_bytes(data: bytes, codec: Codec) -> SavedModelConfig:
    fields: dict[str, Any] = json.loads(codec.decode_message(MESSAGE, data))
    overrides = fields.pop("session_overrides", {})
    return SavedModelConfig(overrides.pop(KNOWN, False), (*sorted(overrides), *sorted(fields)))


def overridden(session: bytes, config: SavedModelConfig, codec: Codec) -> bytes:
    """A serialised ConfigProto with the overrides of one version."""
    if not config.disable_meta_optimizer:
        return session
    fields = json.loads(codec.decode_message(SESSION, session))
    fields.setdefault("graph_options", {}).setdefault("rewrite_options", {})[KNOWN] = True
    return codec.encode_json(SESSION, json.dumps(fields))
