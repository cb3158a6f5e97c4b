"""The one door to the compiled engine: everybody else imports its names from here."""

from servable._engine import (
    ControlCall,
    EngineError,
    Runtime,
    Servable,
    Server,
    decode_message,
    encode_json,
    encode_text,
    read_saved_model,
)

__all__ = [
    "ControlCall",
    "EngineError",
    "Runtime",
    "Servable",
    "Server",
    "decode_message",
    "encode_json",
    "encode_text",
    "read_saved_model",
]
