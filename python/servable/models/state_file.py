"""A file in which the changes of the admin port survive the end of the process."""

from __future__ import annotations

import contextlib
import json
import os

from servable.config.codec import Codec
from servable.config.model_config import to_json
from servable.errors import NotFoundError, ServableError, reading
from servable.models.overlay import Overlay, overlay_from_json

__all__ = ["StateFile"]

FORMAT = 1
MESSAGE = "tensorflow.serving.ModelConfig"


class StateFile:
    """Holds one overlay. Written by one server only, one call at a time."""

    def __init__(self, path: str, codec: Codec) -> None:
        self._path = os.path.realpath(path)
        self._codec = codec

    def read(self) -> Overlay:
        """What was written last; nothing if there is no file yet. `ServableError` if it cannot be understood."""
        folder = os.path.dirname(self._path)
        if not os.path.isdir(folder):
            raise NotFoundError(f"The folder of the model state file {self._path} does not exist; make it")
        try:
            with open(self._path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return Overlay()
        except OSError as error:
            raise reading(self._path, error) from error
        except UnicodeDecodeError as error:
            raise self._damaged(str(error)) from error
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']}, this version knows {FORMAT}")
            overlay = overlay_from_json(fields)
            for model in overlay.models.values():
                self._codec.encode_json(MESSAGE, json.dumps(to_json(model)))
        except KeyError as error:
            raise self._damaged(f"{error} is missing") from error
        except (AttributeError, TypeError, ValueError, ServableError) as error:
            raise self._damaged(str(error)) from error
        return overlay

    def _damaged(self, reason: str) -> ServableError:
        return ServableError(
            f"The model state file {self._path} cannot be understood: {reason}. Put a good copy in its place, or "
            "remove it to start with the configured models alone",
            code="DATA_LOSS",
        )

    def write(self, overlay: Overlay) -> None:
        """Replace what is there, all or nothing: it is on the disk when this returns. `ServableError` if it is not."""
        text = json.dumps({"format": FORMAT, **overlay.to_json()}, indent=1)
        aside = f"{self._path}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)  # of a server that was killed while it wrote
            handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, self._path)
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ServableError(
                f"The model state file {self._path} cannot be written, so nothing was changed: {error.strerror}",
                code="INTERNAL",
            ) from error
