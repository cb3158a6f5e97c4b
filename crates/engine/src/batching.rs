//! Batching as Python describes it, and what it did as JSON.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Value, json};
use servable_core::batching::{
    Batching, Durations, LowPriority, Mixing, Mode, PaddingPolicy, Parameters, QueueReport, SizeReport,
};

/// `servable.types.BatchingSpec`.
#[derive(FromPyObject)]
pub(crate) struct BatchingSpec {
    pool: String,
    threads: usize,
    most_threads: Option<usize>,
    max_batch_size: usize,
    max_execution_batch_size: usize,
    batch_timeout_us: u64,
    max_enqueued_batches: usize,
    allowed_batch_sizes: Vec<usize>,
    pad_variable_length_inputs: bool,
    split_large_batches: bool,
    self_tuning: bool,
    latency_slo_ms: Option<f64>,
    fallback: bool,
    padding_policy: String,
    mixed_priority_policy: String,
    low_priority_max_batch_size: usize,
    low_priority_batch_timeout_us: u64,
    low_priority_max_enqueued_batches: usize,
    low_priority_allowed_batch_sizes: Vec<usize>,
}

impl BatchingSpec {
    /// `ValueError` where the values cannot be.
    pub(crate) fn parameters(self) -> PyResult<Parameters> {
        let largest_batch = if self.split_large_batches { self.max_execution_batch_size } else { self.max_batch_size };
        if self.threads == 0 || self.max_batch_size == 0 || largest_batch == 0 || self.max_enqueued_batches == 0 {
            return Err(PyValueError::new_err("threads and sizes of batching have to be positive"));
        }
        let objective = match self.latency_slo_ms {
            None => None,
            Some(ms) => Some(
                Duration::try_from_secs_f64(ms / 1e3)
                    .map_err(|error| PyValueError::new_err(format!("latency_slo_ms cannot be {ms}: {error}")))?,
            ),
        };
        let low = (self.low_priority_max_batch_size > 0).then(|| {
            Ok::<_, PyErr>(LowPriority {
                largest_request: self.low_priority_max_batch_size,
                timeout: Duration::from_micros(self.low_priority_batch_timeout_us),
                most_batches: self.low_priority_max_enqueued_batches,
                allowed: self.low_priority_allowed_batch_sizes,
                mixing: mixing(&self.mixed_priority_policy)?,
            })
        });
        Ok(Parameters {
            pool: Arc::from(self.pool),
            threads: self.threads,
            most_threads: self.most_threads,
            largest_request: self.max_batch_size,
            largest_batch,
            timeout: Duration::from_micros(self.batch_timeout_us),
            most_batches: self.max_enqueued_batches,
            allowed: self.allowed_batch_sizes,
            padding: padding(&self.padding_policy)?,
            pads_lengths: self.pad_variable_length_inputs,
            splits: self.split_large_batches,
            mode: if self.self_tuning { Mode::SelfTuning { objective } } else { Mode::Fixed },
            falls_back: self.fallback,
            low: low.transpose()?,
        })
    }
}

fn padding(name: &str) -> PyResult<PaddingPolicy> {
    match name {
        "PAD_UP" => Ok(PaddingPolicy::PadUp),
        "BATCH_DOWN" => Ok(PaddingPolicy::BatchDown),
        "MINIMIZE_COST_PER_REQUEST" => Ok(PaddingPolicy::MinimizeCost),
        _ => Err(PyValueError::new_err(format!("{name:?} is no policy for padding"))),
    }
}

fn mixing(name: &str) -> PyResult<Mixing> {
    match name {
        "LOW_PRIORITY_PADDING_WITH_MAX_BATCH_SIZE" => Ok(Mixing::UpToLargest),
        "LOW_PRIORITY_PADDING_WITH_NEXT_ALLOWED_BATCH_SIZE" => Ok(Mixing::UpToAllowed),
        "PRIORITY_ISOLATION" => Ok(Mixing::Never),
        "PRIORITY_MERGE" => Ok(Mixing::Merged),
        _ => Err(PyValueError::new_err(format!("{name:?} is no policy for mixing priorities"))),
    }
}

/// What the batching of a servable did so far.
pub(crate) fn report(batching: &Batching) -> Value {
    let (mode, objective) = match batching.parameters().mode {
        Mode::Fixed => ("fixed", None),
        Mode::SelfTuning { objective } => ("self_tuning", objective),
    };
    json!({
        "mode": mode,
        "latency_slo_ms": objective.map(|objective| objective.as_secs_f64() * 1e3),
        "queues": batching.report().iter().map(queue).collect::<Vec<_>>(),
    })
}

fn queue(report: &QueueReport) -> Value {
    let counters = &report.counters;
    json!({
        "inputs": report.inputs,
        "outputs": report.outputs,
        "signature": report.signature,
        "requests": counters.requests,
        "rows": counters.rows,
        "batches": counters.batches,
        "padding_rows": counters.padding_rows,
        "cuts": counters.cuts().map(|(reason, count)| (reason.name().to_owned(), count.into())).collect::<serde_json::Map<_, _>>(),
        "fill": counters.fill(),
        "refused": counters.refused,
        "expired": counters.expired,
        "cancelled": counters.cancelled,
        "failed_batches": counters.failed_batches,
        "retried": counters.retried,
        "unbatched": counters.unbatched,
        "times_us": {
            "queue": times(&counters.queue),
            "concat": times(&counters.concat),
            "run": times(&counters.run),
            "split": times(&counters.split),
        },
        "sizes": report.sizes.iter().map(size).collect::<Vec<_>>(),
        "queued_rows": report.queued_rows,
        "batch_limit_rows": report.limit,
        "timeout_us": report.timeout.as_micros() as u64,
        "batches_at_once": report.batches_at_once,
    })
}

fn times(durations: &Durations) -> Value {
    json!({
        "mean": durations.mean_us(),
        "p50": durations.percentile_us(0.5),
        "p99": durations.percentile_us(0.99),
    })
}

fn size(size: &SizeReport) -> Value {
    json!({
        "rows": size.rows,
        "batches": size.batches,
        "mean_run_us": size.mean_run.as_secs_f64() * 1e6,
    })
}
