"""The protobuf functions that configuration needs; the engine module has them."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Codec"]


class Codec(Protocol):
    """`servable.engine`, or a fake in tests. Pure functions, called from any thread."""

    def encode_text(self, message: str, text: str) -> bytes:
        """Protobuf text format to bytes; `ValueError` with `line:column: reason` on bad text."""

    def encode_json(self, message: str, json: str) -> bytes:
        """Proto JSON to bytes."""

    def decode_message(self, message: str, data: bytes) -> str:
        """Bytes to proto JSON, with the field names of the .proto file."""
