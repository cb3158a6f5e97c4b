//! The Python module `servable._engine`. What crosses is in `python/servable/_engine.pyi`, and nothing else does.

#![allow(clippy::needless_pass_by_value, reason = "Python's arguments arrive as values")]

mod batching;
mod error;
mod messages;
mod records;
mod runtime;
mod security;
mod server;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _engine {
    use super::{Bound, PyModule, PyResult, error};

    #[pymodule_export]
    use super::messages::{decode_message, encode_json, encode_text, read_saved_model};
    #[pymodule_export]
    use super::records::{RecordReader, describe_record, frame_records, make_records, write_records};
    #[pymodule_export]
    use super::runtime::{Runtime, Servable, release_memory};
    #[pymodule_export]
    use super::server::{ControlCall, Server, log_panics};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        error::add_to(module)
    }
}
