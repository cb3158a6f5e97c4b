//! Files of records, and what is in a record, for the control plane.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use servable_core::{Code, Status};
use servable_wire::{log, records, saved_model};

use crate::error::raised;
use crate::messages::saved_model_bytes;

/// The records of one file.
#[pyclass(frozen, module = "servable._engine")]
pub(crate) struct RecordReader {
    path: PathBuf,
    records: Mutex<records::RecordReader<BufReader<File>>>,
}

#[pymethods]
impl RecordReader {
    #[new]
    fn new(python: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let records = python.detach(|| opened(&path)).map_err(|error| raised(unusable(&path, &error)))?;
        Ok(Self { path, records: Mutex::new(records) })
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__<'py>(&self, python: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let next = python.detach(|| self.records.lock().unwrap_or_else(PoisonError::into_inner).next());
        let located =
            |status: Status| Status::new(status.code, format!("{} in {}", status.message, self.path.display()));
        next.transpose()
            .map(|record| record.map(|record| PyBytes::new(python, &record)))
            .map_err(|status| raised(located(status)))
    }
}

fn opened(path: &Path) -> io::Result<records::RecordReader<BufReader<File>>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(records::RecordReader::new(BufReader::new(file), length))
}

/// What is wrong with a file that cannot be opened or written.
fn unusable(path: &Path, error: &io::Error) -> Status {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ => Code::Unknown,
    };
    Status::new(code, format!("{}: {error}", path.display()))
}

#[pyfunction]
pub(crate) fn write_records(python: Python<'_>, path: PathBuf, records: Vec<PyBackedBytes>) -> PyResult<()> {
    let write = || {
        let mut file = BufWriter::new(File::create(&path)?);
        records.iter().try_for_each(|record| records::write_record(record, &mut file))?;
        file.flush()?;
        file.get_ref().sync_all()
    };
    python.detach(write).map_err(|error: io::Error| raised(unusable(&path, &error)))
}

#[pyfunction]
pub(crate) fn frame_records(python: Python<'_>, records: Vec<PyBackedBytes>) -> PyResult<Bound<'_, PyBytes>> {
    let frame = || {
        let mut framed = Vec::with_capacity(records.iter().map(|record| record.len() + 16).sum());
        records.iter().try_for_each(|record| records::write_record(record, &mut framed)).map(|()| framed)
    };
    Ok(PyBytes::new(python, &python.detach(frame)?))
}

#[pyfunction]
pub(crate) fn describe_record(python: Python<'_>, record: PyBackedBytes) -> PyResult<String> {
    let described = python.detach(|| log::describe(&Bytes::from_owner(record)));
    described.map(|value| value.to_string()).map_err(|_| PyValueError::new_err("the record is no PredictionLog"))
}

#[pyfunction]
pub(crate) fn make_records<'py>(
    python: Python<'py>,
    path: PathBuf,
    tags: Vec<String>,
    signature_name: &str,
    bodies: Vec<PyBackedBytes>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let make = || {
        let signatures = saved_model::unloaded_signatures(&saved_model_bytes(&path)?, &tags)?;
        let record = |(index, body): (usize, &PyBackedBytes)| {
            log::from_json(body, &signatures, signature_name)
                .map_err(|status| Status::new(status.code, format!("request {}: {}", index + 1, status.message)))
        };
        bodies.iter().enumerate().map(record).collect::<Result<Vec<_>, _>>()
    };
    let made = python.detach(make).map_err(raised)?;
    Ok(made.iter().map(|record| PyBytes::new(python, record)).collect())
}
