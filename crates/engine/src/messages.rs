//! Protobuf messages for the control plane: text, JSON and bytes; what a SavedModel says of itself.

use std::path::Path;

use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use servable_core::{Code, Status};
use servable_wire::reflect::{self, ReflectError};
use servable_wire::saved_model;

use crate::error::raised;

fn refused(error: ReflectError) -> PyErr {
    match error {
        ReflectError::UnknownMessage(name) => PyKeyError::new_err(name),
        ReflectError::Text(reason) => PyValueError::new_err(reason),
    }
}

#[pyfunction]
pub(crate) fn encode_text<'py>(python: Python<'py>, message: &str, text: &str) -> PyResult<Bound<'py, PyBytes>> {
    python.detach(|| reflect::encode_text(message, text)).map(|bytes| PyBytes::new(python, &bytes)).map_err(refused)
}

#[pyfunction]
pub(crate) fn encode_json<'py>(python: Python<'py>, message: &str, json: &str) -> PyResult<Bound<'py, PyBytes>> {
    python.detach(|| reflect::encode_json(message, json)).map(|bytes| PyBytes::new(python, &bytes)).map_err(refused)
}

#[pyfunction]
pub(crate) fn decode_message(python: Python<'_>, message: &str, data: &[u8]) -> PyResult<String> {
    python.detach(|| reflect::decode(message, data)).map_err(refused)
}

#[pyfunction]
pub(crate) fn read_saved_model(python: Python<'_>, path: &str) -> PyResult<String> {
    python.detach(|| summary(Path::new(path))).map_err(raised)
}

fn summary(folder: &Path) -> Result<String, Status> {
    saved_model::summary(&saved_model_bytes(folder)?).map(|summary| summary.to_string())
}

/// The `saved_model.pb` of a version folder.
pub(crate) fn saved_model_bytes(folder: &Path) -> Result<Vec<u8>, Status> {
    let file = folder.join("saved_model.pb");
    if !file.is_file() && folder.join("saved_model.pbtxt").is_file() {
        return Err(Status::unimplemented(format!(
            "{} holds a SavedModel in text form, which can be served but not shown",
            folder.display()
        )));
    }
    std::fs::read(&file).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Unknown };
        Status::new(code, format!("{} holds no SavedModel: saved_model.pb cannot be read: {error}", folder.display()))
    })
}
