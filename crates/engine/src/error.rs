//! Statuses as Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use servable_core::Status;

create_exception!(
    servable._engine,
    EngineError,
    PyException,
    "Something failed inside the engine. `args` is `(code name, message)`."
);

/// Exceptions made here cannot have properties of their own, so they get them from Python.
pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let python = module.py();
    let class = python.get_type::<EngineError>();
    let property = python.import("builtins")?.getattr("property")?;
    for (name, getter) in [("code", c"lambda self: self.args[0]"), ("message", c"lambda self: self.args[1]")] {
        class.setattr(name, property.call1((python.eval(getter, None, None)?,))?)?;
    }
    class.setattr("__str__", python.eval(c"lambda self: f'{self.args[0]}: {self.args[1]}'", None, None)?)?;
    module.add("EngineError", class)
}

pub(crate) fn raised(status: Status) -> PyErr {
    EngineError::new_err((status.code.name(), status.message.into_owned()))
}
