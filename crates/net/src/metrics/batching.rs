//! Counts of batches: those of TensorFlow Serving, of all models together, and our own, of each signature.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, exponential_buckets};
use servable_core::batching::{BatchFacts, Observer};

const QUEUING_LATENCY: &str = ":tensorflow:serving:batching_session:queuing_latency";
const WRAPPED_RUNS: &str = ":tensorflow:serving:batching_session:wrapped_run_count";
const INPUT_SIZE: &str = ":tensorflow:serving:batching_session:input_batch_size";
const PROCESSED_SIZE: &str = ":tensorflow:serving:batching_session:processed_batch_size";
const PADDING_SIZE: &str = ":tensorflow:serving:batching_session:padding_size";

const BATCHES: &str = "servable_batches_total";
const BATCH_ROWS: &str = "servable_batch_rows";
const BATCH_FILL: &str = "servable_batch_fill_ratio";
const BATCH_PADDING: &str = "servable_batch_padding_rows_total";
const BATCH_STAGES: &str = "servable_batch_stage_seconds";

/// Batches. What the original tells is of all models together, and has its names and units; the rest is of each
/// signature, in Prometheus' own units.
pub(super) struct BatchingMetrics {
    batches: IntCounterVec,
    rows: HistogramVec,
    fill: HistogramVec,
    padding_rows: IntCounterVec,
    stages: HistogramVec,
    queuing: HistogramVec,
    runs: IntCounterVec,
    input_size: HistogramVec,
    processed_size: HistogramVec,
    padding: HistogramVec,
}

impl BatchingMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let sizes = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(exponential_buckets(1.0, 2.0, 14)?), labels)
        };
        let micros =
            HistogramOpts::new(QUEUING_LATENCY, "time in queues").buckets(exponential_buckets(100.0, 1.2, 52)?);
        Ok(Self {
            // The label is there in the original as well, and always empty.
            queuing: HistogramVec::new(micros, &["thread_pool_name"])?,
            runs: IntCounterVec::new(Opts::new(WRAPPED_RUNS, "batches"), &[])?,
            input_size: sizes(INPUT_SIZE, "rows of requests, once for each input", &[])?,
            processed_size: sizes(PROCESSED_SIZE, "rows of batches with padding", &[])?,
            padding: sizes(PADDING_SIZE, "rows of padding", &["execution_batch_size"])?,
            batches: IntCounterVec::new(
                Opts::new(BATCHES, "batches by why they were cut"),
                &["model", "version", "signature", "reason"],
            )?,
            rows: sizes(BATCH_ROWS, "rows of batches without padding", &["model", "version", "signature"])?,
            fill: HistogramVec::new(
                HistogramOpts::new(BATCH_FILL, "rows of batches, of those that they could have had")
                    .buckets((1..=10).map(|tenths| f64::from(tenths) / 10.0).collect()),
                &["model", "version", "signature"],
            )?,
            padding_rows: IntCounterVec::new(
                Opts::new(BATCH_PADDING, "rows of padding"),
                &["model", "version", "signature"],
            )?,
            stages: HistogramVec::new(
                HistogramOpts::new(BATCH_STAGES, "where the time of batches goes")
                    .buckets(exponential_buckets(20e-6, 2.0, 20)?),
                &["model", "version", "signature", "stage"],
            )?,
        })
    }

    /// Those with the names and units of TensorFlow Serving.
    pub(super) fn original(&self) -> [(&'static str, &dyn Collector); 5] {
        [
            (INPUT_SIZE, &self.input_size),
            (PADDING_SIZE, &self.padding),
            (PROCESSED_SIZE, &self.processed_size),
            (QUEUING_LATENCY, &self.queuing),
            (WRAPPED_RUNS, &self.runs),
        ]
    }

    /// Those in Prometheus' own units, of each signature.
    pub(super) fn own(&self) -> [(&'static str, &dyn Collector); 5] {
        [
            (BATCH_FILL, &self.fill),
            (BATCH_PADDING, &self.padding_rows),
            (BATCH_ROWS, &self.rows),
            (BATCH_STAGES, &self.stages),
            (BATCHES, &self.batches),
        ]
    }

    /// Forgets a version.
    pub(super) fn forget(&self, model: &str, version: i64) {
        let version = version.to_string();
        forget(&self.fill, model, &version);
        forget(&self.padding_rows, model, &version);
        forget(&self.rows, model, &version);
        forget(&self.stages, model, &version);
        forget(&self.batches, model, &version);
    }
}

/// Removes all series of a version, whatever their other labels are.
fn forget<T: MetricVecBuilder>(metric: &MetricVec<T>, model: &str, version: &str) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if labels.get("model") == Some(&model) && labels.get("version") == Some(&version) {
                // It cannot be missing; if it were, that would be as good.
                let _ = metric.remove(&labels);
            }
        }
    }
}

impl Observer for BatchingMetrics {
    fn joined(&self, rows: usize, inputs: usize) {
        let sizes = self.input_size.with_label_values::<&str>(&[]);
        (0..inputs).for_each(|_| sizes.observe(rows as f64));
    }

    fn ran(&self, batch: &BatchFacts<'_>) {
        let metrics = self;
        let queuing = metrics.queuing.with_label_values(&[""]);
        for wait in batch.waits {
            queuing.observe(microseconds(*wait));
        }
        metrics.runs.with_label_values::<&str>(&[]).inc();
        metrics.processed_size.with_label_values::<&str>(&[]).observe(batch.padded_rows as f64);
        if batch.padded_rows <= MOST_LABELLED_ROWS {
            let padding = metrics.padding.with_label_values(&[&batch.padded_rows.to_string()]);
            padding.observe((batch.padded_rows - batch.rows) as f64);
        }
        let version = batch.servable.version().to_string();
        let labels = [batch.servable.name(), &version, batch.signature];
        let [model, version, signature] = labels;
        metrics.batches.with_label_values(&[model, version, signature, batch.reason.name()]).inc();
        metrics.rows.with_label_values(&labels).observe(batch.rows as f64);
        metrics.fill.with_label_values(&labels).observe(batch.rows as f64 / batch.limit.max(batch.rows) as f64);
        metrics.padding_rows.with_label_values(&labels).inc_by((batch.padded_rows - batch.rows) as u64);
        let stage = |name: &str| metrics.stages.with_label_values(&[model, version, signature, name]);
        let queue = stage("queue");
        for wait in batch.waits {
            queue.observe(wait.as_secs_f64());
        }
        if let Some(times) = batch.times {
            for (name, took) in [("concat", times.concat), ("run", times.run), ("split", times.split)] {
                stage(name).observe(took.as_secs_f64());
            }
        }
    }
}

/// Sizes of batches are labels up to this one: clients choose them.
const MOST_LABELLED_ROWS: usize = 4096;

fn microseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}
