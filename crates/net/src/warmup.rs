//! Warm-up: requests that a version answers before anybody can reach it, read from records of a file.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use servable_core::examples::Task;
use servable_core::predict::Call;
use servable_core::servable::Servable;
use servable_core::usage::Api;
use servable_core::{Limits, Status};
use servable_wire::examples::{MultiView, TaskView};
use servable_wire::fields::Malformed;
use servable_wire::log::{Kind, Logged};
use servable_wire::predict::PredictView;
use servable_wire::span::Pieces;

use crate::app::{Planned, Settings};
use crate::grpc::bind_to;
use crate::inference::{checked_tasks, no_task};

/// Records are part of the model, which is trusted; these keep a mistake in one from taking all memory.
const LIMITS: Limits = Limits { max_tensor_elements: 1 << 31, max_repeated_bytes: 1 << 31, ..Limits::DEFAULT };

/// Why a record did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarmupError {
    /// It is no `PredictionLog`.
    Malformed,
    Failed(Status),
}

impl From<Malformed> for WarmupError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Status> for WarmupError {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// How warm-up requests are run.
#[derive(Clone, Copy, Debug)]
pub struct Warmup {
    pub iterations: u32,
    pub check_method_names: bool,
}

impl Warmup {
    /// Runs the request in a serialised `PredictionLog`, in this thread from start to end. Which model and version it names
    /// does not matter. A record without a request does nothing.
    pub fn run(self, servable: &Arc<Servable>, record: &Bytes) -> Result<(), WarmupError> {
        let (kind, request) = match Logged::read(record)? {
            Logged::Request(kind, request) => (kind, request),
            Logged::Other(log) => {
                return Err(Status::unimplemented(format!("Unsupported log_type for warmup: {log}")).into());
            }
            Logged::Nothing => return Ok(()),
        };
        let prepared = self.prepare(servable, kind, &request)?;
        let api = match kind {
            Kind::Predict => Api::Predict,
            Kind::Classify => Api::Classify,
            Kind::Regress => Api::Regress,
            Kind::MultiInference => Api::MultiInference,
        };
        for _ in 0..self.iterations {
            let begin = Instant::now();
            match &prepared {
                Prepared::Call(call) => drop(servable.run_here(call)?),
                Prepared::Tasks(planned) => planned.run_here()?,
            }
            servable.usage().warmed_up(api, begin.elapsed());
        }
        Ok(())
    }

    fn prepare(self, servable: &Arc<Servable>, kind: Kind, request: &Arc<Pieces>) -> Result<Prepared, WarmupError> {
        let settings = Settings { check_method_names: self.check_method_names, limits: LIMITS, ..Settings::default() };
        let task = match kind {
            Kind::Predict => {
                let request = PredictView::read(request)?;
                request.check_names()?;
                return Ok(Prepared::Call(bind_to(servable, request, &settings, |_| Ok(()))?));
            }
            Kind::MultiInference => {
                let request = MultiView::read(request)?;
                let tasks = checked_tasks(servable, &request, &settings)?;
                if tasks.is_empty() {
                    return Err(no_task().into());
                }
                let examples = request.input.to_tensor(&LIMITS)?;
                return Ok(Prepared::Tasks(Planned::new(servable, &tasks, &examples)?));
            }
            Kind::Classify => Task::Classify,
            Kind::Regress => Task::Regress,
        };
        let request = TaskView::read(request)?;
        let name = request.spec.as_ref().map_or("", |spec| &spec.signature_name);
        let signature = settings.task_signature(servable, name, task)?;
        Ok(Prepared::Tasks(Planned::new(servable, &[(task, signature)], &request.input.to_tensor(&LIMITS)?)?))
    }
}

/// A request that fits its signature.
enum Prepared {
    Call(Call),
    Tasks(Planned),
}
