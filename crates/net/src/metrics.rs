//! Counters under the names that TensorFlow Serving gives them, and the page that shows them.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, exponential_buckets};
use servable_core::batching::{BatchFacts, Observer};
use servable_core::{Code, Status};

/// Names in requests that no model has: so many are counted by name, all further ones together.
const MOST_UNKNOWN_NAMES: usize = 100;
/// A longer one is counted with the others.
const LONGEST_UNKNOWN_NAME: usize = 256;
const OTHER_NAMES: &str = "(other)";
/// Paths, with statuses, that warm-up is counted for; the oldest makes room for a new one. Versions come and go for ever.
const MOST_WARMED_UP: usize = 100;

const WARMUP_LATENCY: &str = ":tensorflow:serving:model_warmup_latency";
const WARMUP_RECORDS: &str = ":tensorflow:serving:model_warmup_records_read";

const QUEUING_LATENCY: &str = ":tensorflow:serving:batching_session:queuing_latency";
const WRAPPED_RUNS: &str = ":tensorflow:serving:batching_session:wrapped_run_count";
const INPUT_SIZE: &str = ":tensorflow:serving:batching_session:input_batch_size";
const PROCESSED_SIZE: &str = ":tensorflow:serving:batching_session:processed_batch_size";
const PADDING_SIZE: &str = ":tensorflow:serving:batching_session:padding_size";

/// Counters of requests, cheap enough for every request, and of warm-ups.
pub(crate) struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    runtime: HistogramVec,
    unknown_names: Mutex<HashSet<String>>,
    warmup_latency: HistogramVec,
    warmup_records: IntCounterVec,
    /// The labels that the two have, oldest first.
    warmed_up: Mutex<VecDeque<(String, Code)>>,
    batching: BatchingMetrics,
}

const BATCHES: &str = "servable_batches_total";
const BATCH_ROWS: &str = "servable_batch_rows";
const BATCH_FILL: &str = "servable_batch_fill_ratio";
const BATCH_PADDING: &str = "servable_batch_padding_rows_total";
const BATCH_STAGES: &str = "servable_batch_stage_seconds";

/// Batches. What the original tells is of all models together, and has its names and units; the rest is of each
/// signature, in Prometheus' own units.
struct BatchingMetrics {
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
    fn new() -> Result<Self, prometheus::Error> {
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
                &["model", "signature", "reason"],
            )?,
            rows: sizes(BATCH_ROWS, "rows of batches without padding", &["model", "signature"])?,
            fill: HistogramVec::new(
                HistogramOpts::new(BATCH_FILL, "rows of batches, of those that they could have had")
                    .buckets((1..=10).map(|tenths| f64::from(tenths) / 10.0).collect()),
                &["model", "signature"],
            )?,
            padding_rows: IntCounterVec::new(Opts::new(BATCH_PADDING, "rows of padding"), &["model", "signature"])?,
            stages: HistogramVec::new(
                HistogramOpts::new(BATCH_STAGES, "where the time of batches goes")
                    .buckets(exponential_buckets(20e-6, 2.0, 20)?),
                &["model", "signature", "stage"],
            )?,
        })
    }

    fn collectors(&self) -> [(&'static str, &'static str, &dyn Collector); 10] {
        [
            (QUEUING_LATENCY, "histogram", &self.queuing),
            (WRAPPED_RUNS, "counter", &self.runs),
            (INPUT_SIZE, "histogram", &self.input_size),
            (PROCESSED_SIZE, "histogram", &self.processed_size),
            (PADDING_SIZE, "histogram", &self.padding),
            (BATCHES, "counter", &self.batches),
            (BATCH_ROWS, "histogram", &self.rows),
            (BATCH_FILL, "histogram", &self.fill),
            (BATCH_PADDING, "counter", &self.padding_rows),
            (BATCH_STAGES, "histogram", &self.stages),
        ]
    }
}

impl Observer for Metrics {
    fn joined(&self, rows: usize, inputs: usize) {
        let sizes = self.batching.input_size.with_label_values::<&str>(&[]);
        (0..inputs).for_each(|_| sizes.observe(rows as f64));
    }

    fn ran(&self, batch: &BatchFacts<'_>) {
        let metrics = &self.batching;
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
        let labels = [batch.servable.name(), batch.signature];
        let [model, signature] = labels;
        metrics.batches.with_label_values(&[model, signature, batch.reason.name()]).inc();
        metrics.rows.with_label_values(&labels).observe(batch.rows as f64);
        metrics.fill.with_label_values(&labels).observe(batch.rows as f64 / batch.limit.max(batch.rows) as f64);
        metrics.padding_rows.with_label_values(&labels).inc_by((batch.padded_rows - batch.rows) as u64);
        let stage = |name: &str| metrics.stages.with_label_values(&[model, signature, name]);
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

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) api: &'static str,
    pub(crate) entrypoint: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        // Microseconds, in the buckets that dashboards for TensorFlow Serving expect.
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(exponential_buckets(10.0, 1.8, 33)?), labels)
        };
        Ok(Self {
            requests: IntCounterVec::new(
                Opts::new(":tensorflow:serving:request_count", "requests"),
                &["model_name", "status"],
            )?,
            latency: histogram(":tensorflow:serving:request_latency", "latency", &["model_name", "API", "entrypoint"])?,
            runtime: histogram(":tensorflow:serving:runtime_latency", "run time", &["model_name", "API", "runtime"])?,
            unknown_names: Mutex::default(),
            warmup_latency: histogram(WARMUP_LATENCY, "warm-up", &["model_path", "status"])?,
            warmup_records: IntCounterVec::new(Opts::new(WARMUP_RECORDS, "records"), &["model_path", "status"])?,
            warmed_up: Mutex::default(),
            batching: BatchingMetrics::new()?,
        })
    }

    /// A request has been answered.
    pub(crate) fn answered(
        &self,
        model: &str,
        is_known: bool,
        entry: Entry,
        outcome: Result<(), &Status>,
        took: Duration,
    ) {
        let code = outcome.map_or_else(|status| status.code, |()| Code::Ok);
        let model = if is_known { model } else { self.bounded(model) };
        self.requests.with_label_values(&[model, code.name()]).inc();
        if outcome.is_ok() {
            self.latency.with_label_values(&[model, entry.api, entry.entrypoint]).observe(microseconds(took));
        }
    }

    /// A session has run.
    pub(crate) fn ran(&self, model: &str, api: &str, took: Duration) {
        self.runtime.with_label_values(&[model, api, "TF1"]).observe(microseconds(took));
    }

    /// The version in this folder has been warmed up, or could not be.
    pub(crate) fn warmed_up(&self, path: &str, code: Code, records: u64, took: Duration) {
        let mut warmed_up = self.warmed_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !warmed_up.iter().any(|known| known.0 == path && known.1 == code) {
            warmed_up.push_back((path.to_owned(), code));
        }
        if warmed_up.len() > MOST_WARMED_UP
            && let Some((path, code)) = warmed_up.pop_front()
        {
            let labels = [&*path, code.name()];
            // They cannot be missing; if they were, that would be as good.
            let _ = self.warmup_latency.remove_label_values(&labels);
            let _ = self.warmup_records.remove_label_values(&labels);
        }
        let labels = [path, code.name()];
        self.warmup_latency.with_label_values(&labels).observe(microseconds(took));
        self.warmup_records.with_label_values(&labels).inc_by(records);
    }

    /// Whoever sends made-up names must not make the table of counters grow for ever.
    fn bounded<'a>(&self, model: &'a str) -> &'a str {
        if model.len() > LONGEST_UNKNOWN_NAME {
            return OTHER_NAMES;
        }
        let mut names = self.unknown_names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(model) {
            return model;
        }
        if names.len() >= MOST_UNKNOWN_NAMES {
            return OTHER_NAMES;
        }
        names.insert(model.to_owned());
        model
    }

    /// The page, in the manner of TensorFlow Serving: the type of each metric even without samples, braces always, the
    /// model's name first. The library's own encoder writes none of that.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        let collectors: [(&str, &str, &dyn Collector); 5] = [
            (":tensorflow:serving:request_count", "counter", &self.requests),
            (":tensorflow:serving:request_latency", "histogram", &self.latency),
            (":tensorflow:serving:runtime_latency", "histogram", &self.runtime),
            (WARMUP_LATENCY, "histogram", &self.warmup_latency),
            (WARMUP_RECORDS, "counter", &self.warmup_records),
        ];
        for (name, kind, collector) in collectors.into_iter().chain(self.batching.collectors()) {
            let _ = writeln!(page, "# TYPE {name} {kind}");
            collector.collect().iter().for_each(|family| write_family(&mut page, name, family));
        }
        page
    }
}

fn microseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

fn write_family(page: &mut String, name: &str, family: &MetricFamily) {
    for metric in family.get_metric() {
        let mut labels: Vec<&LabelPair> = metric.get_label().iter().collect();
        labels.sort_by_key(|label| (label.name() != "model_name", label.name()));
        let labels: Vec<String> =
            labels.iter().map(|label| format!("{}=\"{}\"", label.name(), escaped(label.value()))).collect();
        let labels = labels.join(",");
        if family.get_field_type() == MetricType::COUNTER {
            let _ = writeln!(page, "{name}{{{labels}}} {}", metric.get_counter().get_value());
            continue;
        }
        let histogram = metric.get_histogram();
        let count = histogram.get_sample_count();
        for bucket in histogram.get_bucket() {
            let limit = six_digits(bucket.upper_bound());
            let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{limit}\"}} {}", bucket.cumulative_count());
        }
        let _ = writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(page, "{name}_sum{{{labels}}} {}", six_digits(histogram.get_sample_sum()));
        let _ = writeln!(page, "{name}_count{{{labels}}} {count}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Six significant digits, as C++ streams print numbers.
fn six_digits(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    if (-5..6).contains(&exponent) {
        return trimmed(&format!("{value:.*}", usize::try_from(5 - exponent).unwrap_or(0)));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        let cases = [(10.0, "10"), (188.9568, "188.957"), (1_234_567.8, "1.23457e+06"), (0.0, "0"), (0.5, "0.5")];
        for (value, text) in cases {
            assert_eq!(six_digits(value), text);
        }
    }

    #[test]
    fn made_up_names_are_bounded() {
        let metrics = Metrics::new().expect("names are valid");
        let entry = Entry { api: "Predict", entrypoint: "GRPC" };
        for number in 0..1000 {
            let status = Status::not_found("no");
            metrics.answered(&format!("m{number}"), false, entry, Err(&status), Duration::ZERO);
        }
        let page = metrics.page();
        assert_eq!(page.lines().filter(|line| line.contains("NOT_FOUND")).count(), MOST_UNKNOWN_NAMES + 1);
        assert!(page.contains("model_name=\"(other)\",status=\"NOT_FOUND\"} 900"), "{page}");
    }

    #[test]
    fn warm_ups_are_counted_for_as_many_versions_as_matter() {
        let metrics = Metrics::new().expect("names are valid");
        metrics.warmed_up("/m/0", Code::Ok, 2, Duration::from_micros(11));
        metrics.warmed_up("/m/0", Code::Ok, 3, Duration::from_micros(11));
        let page = metrics.page();
        let line = ":tensorflow:serving:model_warmup_records_read{model_path=\"/m/0\",status=\"OK\"} 5";
        assert!(page.lines().any(|have| have == line), "{page}");
        let line = ":tensorflow:serving:model_warmup_latency_count{model_path=\"/m/0\",status=\"OK\"} 2";
        assert!(page.lines().any(|have| have == line), "{page}");
        for version in 1..1000 {
            metrics.warmed_up(&format!("/m/{version}"), Code::DataLoss, 0, Duration::ZERO);
        }
        let page = metrics.page();
        assert_eq!(page.matches("model_warmup_records_read{").count(), MOST_WARMED_UP);
        assert!(page.contains("\"/m/999\",status=\"DATA_LOSS\"") && !page.contains("/m/0"));
    }

    #[test]
    fn the_page_looks_as_dashboards_expect() {
        let metrics = Metrics::new().expect("names are valid");
        assert_eq!(metrics.page().lines().count(), 15, "types are there before the first request");
        metrics.answered("m\"", true, Entry { api: "predict", entrypoint: "REST" }, Ok(()), Duration::from_micros(11));
        let page = metrics.page();
        for line in [
            ":tensorflow:serving:request_count{model_name=\"m\\\"\",status=\"OK\"} 1",
            ":tensorflow:serving:request_latency_bucket{model_name=\"m\\\"\",API=\"predict\",entrypoint=\"REST\",le=\"10\"} 0",
            ":tensorflow:serving:request_latency_bucket{model_name=\"m\\\"\",API=\"predict\",entrypoint=\"REST\",le=\"18\"} 1",
            ":tensorflow:serving:request_latency_sum{model_name=\"m\\\"\",API=\"predict\",entrypoint=\"REST\"} 11",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is not in {page}");
        }
    }
}
