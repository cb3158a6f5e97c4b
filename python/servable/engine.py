"""The one door to the compiled engine: everybody else imports its names from here."""

from servable._engine import (
    ControlCall,
    EngineError,
    RecordReader,
    Runtime,
    Servable,
    Server,
    decode_message,
    describe_record,
    encode_json,
    encode_text,
    frame_records,
    log_panics,
    make_records,
    read_saved_model,
    release_memory,
    write_records,
)

__all__ = [
    "ControlCall",
    "EngineError",
    "RecordReader",
    "Runtime",
    "Servable",
    "Server",
    "decode_message",
    "describe_record",
    "encode_json",
    "encode_text",
    "frame_records",
    "log_panics",
    "make_records",
    "read_saved_model",
    "release_memory",
    "write_records",
]
