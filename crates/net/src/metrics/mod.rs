//! What a server counts, and the pages that show it: under TensorFlow Serving's names and units for the dashboards that
//! there are, and in Prometheus' own conventions.
//!
//! Requests are counted in their servables (`servable_core::usage`); here it is known which servables there are and were.

mod batching;
mod text;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, exponential_buckets};
use servable_core::Code;
use servable_core::batching::{BatchFacts, Observer};
use servable_core::progress::Mark;
use servable_core::routes::{Routes, State};
use servable_core::usage::{Api, Entrypoint, HistogramSum, STAGES, SeriesSum, Usage};

use self::batching::BatchingMetrics;
use self::text::{Style, Text};
use crate::exchange::Exchange;
use crate::trace::SpanCounts;

/// Names in requests that no model has: so many are counted by name, all further ones together.
const MOST_UNKNOWN_NAMES: usize = 100;
/// A longer one is counted with the others.
const LONGEST_UNKNOWN_NAME: usize = 256;
const OTHER_NAMES: &str = "(other)";
/// Paths, with statuses, that warm-up is counted for; the oldest makes room for a new one. Versions come and go for ever.
const MOST_WARMED_UP: usize = 100;
/// How long a version that is gone is shown: whoever collects has seen its last counts by then.
const EXPIRY: Duration = Duration::from_secs(600);

const REQUEST_COUNT: &str = ":tensorflow:serving:request_count";
const REQUEST_LATENCY: &str = ":tensorflow:serving:request_latency";
const RUNTIME_LATENCY: &str = ":tensorflow:serving:runtime_latency";
const EXAMPLE_COUNTS: &str = ":tensorflow:serving:request_example_counts";
const EXAMPLE_COUNT_TOTAL: &str = ":tensorflow:serving:request_example_count_total";
const WARMUP_LATENCY: &str = ":tensorflow:serving:model_warmup_latency";
const WARMUP_RECORDS: &str = ":tensorflow:serving:model_warmup_records_read";
const REQUEST_LOG_COUNT: &str = ":tensorflow:serving:request_log_count";
const REQUEST_LOG_DROPPED: &str = "servable_request_log_dropped_total";

/// Everything that is counted.
pub(crate) struct Metrics {
    /// Requests that found no servable, and those that need none.
    others: IntCounterVec,
    other_latency: HistogramVec,
    unknown_names: Mutex<HashSet<String>>,
    /// Examples of `MultiInference` requests.
    example_counts: HistogramVec,
    example_total: IntCounterVec,
    warmup_latency: HistogramVec,
    warmup_records: IntCounterVec,
    /// The labels that the two have, oldest first.
    warmed_up: Mutex<VecDeque<(String, Code)>>,
    request_log: IntCounterVec,
    request_log_dropped: IntCounterVec,
    batching: BatchingMetrics,
    servables: Mutex<Servables>,
    started: SystemTime,
}

/// A servable that is there, or was until not long ago.
struct Known {
    model: String,
    version: i64,
    usage: Arc<Usage>,
    gone: Option<Instant>,
}

/// Writes what one metric tells of a series that has these labels.
type Write<'a> = &'a dyn Fn(&mut Text, &str, &[(&str, &str)], &SeriesSum);

/// Counts as TensorFlow Serving has them, which knows of no versions.
type PerModel = BTreeMap<(String, Api, Entrypoint), SeriesSum>;

#[derive(Default)]
struct Servables {
    known: Vec<Known>,
    /// What was counted for servables that are shown no more, of models that there are.
    past: PerModel,
}

/// What else a page tells, of the moment when it is asked for.
pub(crate) struct Moment<'a> {
    pub(crate) routes: &'a Routes,
    pub(crate) connections: u64,
    pub(crate) in_flight: u64,
    pub(crate) bytes_in_flight: u64,
    /// If traces are made.
    pub(crate) spans: Option<&'a SpanCounts>,
    /// Of the access log, if there is one.
    pub(crate) lost_lines: Option<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        // Microseconds, in the buckets that dashboards for TensorFlow Serving expect.
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(exponential_buckets(10.0, 1.8, 33)?), labels)
        };
        Ok(Self {
            others: IntCounterVec::new(Opts::new(REQUEST_COUNT, "requests"), &["model_name", "status"])?,
            other_latency: histogram(REQUEST_LATENCY, "latency", &["model_name"])?,
            unknown_names: Mutex::default(),
            example_counts: HistogramVec::new(
                HistogramOpts::new(EXAMPLE_COUNTS, "examples of a request").buckets(exponential_buckets(1.0, 2.0, 15)?),
                &["model"],
            )?,
            example_total: IntCounterVec::new(Opts::new(EXAMPLE_COUNT_TOTAL, "examples"), &["model"])?,
            warmup_latency: histogram(WARMUP_LATENCY, "warm-up", &["model_path", "status"])?,
            warmup_records: IntCounterVec::new(Opts::new(WARMUP_RECORDS, "records"), &["model_path", "status"])?,
            warmed_up: Mutex::default(),
            request_log: IntCounterVec::new(
                Opts::new(REQUEST_LOG_COUNT, "logged requests"),
                &["model_name", "status_code"],
            )?,
            request_log_dropped: IntCounterVec::new(
                Opts::new(REQUEST_LOG_DROPPED, "Sampled requests that were not logged, by why."),
                &["model", "reason"],
            )?,
            batching: BatchingMetrics::new()?,
            servables: Mutex::default(),
            started: SystemTime::now(),
        })
    }

    /// Takes note of the servables that there are from now on.
    pub(crate) fn know(&self, routes: &Routes) {
        self.know_at(routes, Instant::now());
    }

    fn know_at(&self, routes: &Routes, now: Instant) {
        let mut servables = self.servables.lock().unwrap_or_else(PoisonError::into_inner);
        let all = routes.models.values().flat_map(|model| model.versions.values());
        let mut there: BTreeMap<*const Usage, _> = all
            .filter_map(|version| version.servable.as_ref())
            .map(|servable| (Arc::as_ptr(servable.usage()), servable))
            .collect();
        for known in &mut servables.known {
            match there.remove(&Arc::as_ptr(&known.usage)) {
                Some(_) => known.gone = None,
                None => known.gone = known.gone.or(Some(now)),
            }
        }
        servables.known.extend(there.into_values().map(|servable| Known {
            model: servable.name().to_owned(),
            version: servable.version(),
            usage: Arc::clone(servable.usage()),
            gone: None,
        }));
        self.expire(&mut servables, routes, now);
    }

    /// Forgets what has been gone for long. What TensorFlow Serving counts by model is kept as long as the model is.
    fn expire(&self, servables: &mut Servables, routes: &Routes, now: Instant) {
        let Servables { known, past } = servables;
        let is_over = |known: &mut Known| known.gone.is_some_and(|gone| now.duration_since(gone) >= EXPIRY);
        let expired: Vec<Known> = known.extract_if(.., is_over).collect();
        for Known { model, version, usage, .. } in expired {
            add_usage(past, &model, &usage);
            if !known.iter().any(|known| known.model == model && known.version == version) {
                self.batching.forget(&model, version);
            }
        }
        let is_gone = |model: &str| !routes.models.contains_key(model);
        past.retain(|(model, ..), _| !is_gone(model));
        // They cannot be missing; if they were, that would be as good.
        for [model, _] in text::counts(&self.example_total, ["model", ""]).into_keys() {
            if is_gone(&model) {
                let _ = self.example_counts.remove_label_values(&[&model]);
                let _ = self.example_total.remove_label_values(&[&model]);
            }
        }
        for (log, labels) in
            [(&self.request_log, ["model_name", "status_code"]), (&self.request_log_dropped, ["model", "reason"])]
        {
            for [model, other] in text::counts(log, labels).into_keys() {
                if is_gone(&model) {
                    let _ = log.remove_label_values(&[&model, &other]);
                }
            }
        }
        let unknown = self.unknown_names.lock().unwrap_or_else(PoisonError::into_inner);
        for [model, status] in text::counts(&self.others, ["model_name", "status"]).into_keys() {
            let stays = model.is_empty() || model == OTHER_NAMES || unknown.contains(&model);
            if !stays && is_gone(&model) {
                let _ = self.others.remove_label_values(&[&model, &status]);
                let _ = self.other_latency.remove_label_values(&[&model]);
            }
        }
    }

    /// Counts a request that found no servable, or needs none.
    ///
    /// As in TensorFlow Serving those over gRPC count that ask for a prediction, and all those over REST.
    pub(crate) fn refused(&self, exchange: &Exchange, is_known: impl FnOnce(&str) -> bool) {
        let counts = match exchange.entrypoint {
            Entrypoint::Rest => true,
            Entrypoint::Grpc => exchange.api().is_some_and(Api::is_counted),
        };
        if !counts {
            return;
        }
        let model = exchange.model();
        let model = if model.is_empty() || is_known(model) { model } else { self.bounded(model) };
        let code = exchange.code();
        self.others.with_label_values(&[model, code.name()]).inc();
        if code == Code::Ok
            && let Some(took) = exchange.progress.between(Mark::Received, Mark::Encoded)
        {
            self.other_latency.with_label_values(&[model]).observe(took.as_secs_f64() * 1e6);
        }
    }

    /// Counts the examples of a `MultiInference` request.
    pub(crate) fn examples(&self, model: &str, count: usize) {
        self.example_counts.with_label_values(&[model]).observe(count as f64);
        self.example_total.with_label_values(&[model]).inc_by(count as u64);
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
        self.warmup_latency.with_label_values(&labels).observe(took.as_secs_f64() * 1e6);
        self.warmup_records.with_label_values(&labels).inc_by(records);
    }

    /// So many records of a model's requests were given to a collector, with this outcome.
    pub(crate) fn logged(&self, model: &str, code: Code, records: u64) {
        self.request_log.with_label_values(&[model, code.name()]).inc_by(records);
    }

    /// So many sampled requests were not logged.
    pub(crate) fn not_logged(&self, model: &str, reason: &str, records: u64) {
        self.request_log_dropped.with_label_values(&[model, reason]).inc_by(records);
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

    /// All metrics in the manner of TensorFlow Serving, its own ones first: the type of each metric even without samples,
    /// braces always, the model's name first.
    pub(crate) fn original_page(&self, moment: &Moment<'_>) -> String {
        let mut text = Text::new(Style::Original);
        self.write_original(&mut text);
        self.write_own(&mut text, moment);
        text.finish()
    }

    /// Metrics in Prometheus' conventions.
    pub(crate) fn page(&self, moment: &Moment<'_>) -> String {
        let mut text = Text::new(Style::Own);
        self.write_own(&mut text, moment);
        text.finish()
    }

    fn write_original(&self, text: &mut Text) {
        let per_model = {
            let servables = self.servables.lock().unwrap_or_else(PoisonError::into_inner);
            let mut per_model = servables.past.clone();
            for known in &servables.known {
                add_usage(&mut per_model, &known.model, &known.usage);
            }
            per_model
        };
        for (name, collector) in self.batching.original() {
            text.collected(name, collector);
        }
        text.collected(WARMUP_LATENCY, &self.warmup_latency);
        text.collected(WARMUP_RECORDS, &self.warmup_records);
        text.collected(REQUEST_LOG_COUNT, &self.request_log);

        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for ((model, api, entrypoint), sum) in &per_model {
            if *entrypoint == Entrypoint::Rest || api.is_counted() {
                for (code, count) in sum.codes() {
                    *counts.entry((model, code.name())).or_default() += count;
                }
            }
        }
        let others = text::counts(&self.others, ["model_name", "status"]);
        for ([model, status], count) in &others {
            *counts.entry((model, status)).or_default() += count;
        }
        text.begin(REQUEST_COUNT, "counter", "requests");
        for ((model, status), count) in counts {
            text.sample(REQUEST_COUNT, &[("model_name", model), ("status", status)], count);
        }
        text.collected(EXAMPLE_COUNT_TOTAL, &self.example_total);
        text.collected(EXAMPLE_COUNTS, &self.example_counts);
        text.begin(REQUEST_LATENCY, "histogram", "latency");
        for ((model, api, entrypoint), sum) in &per_model {
            if sum.latency.count() > 0 && (*entrypoint == Entrypoint::Rest || api.is_counted()) {
                let name = if *entrypoint == Entrypoint::Rest { api.verb() } else { api.name() };
                let labels = [("model_name", model.as_str()), ("API", name), ("entrypoint", entrypoint.name())];
                text.microseconds(REQUEST_LATENCY, &labels, &sum.latency);
            }
        }
        text.samples(REQUEST_LATENCY, &self.other_latency, &[("API", ""), ("entrypoint", Entrypoint::Rest.name())]);
        text.begin(RUNTIME_LATENCY, "histogram", "run time");
        let mut runtime: BTreeMap<(&str, &str), HistogramSum> = BTreeMap::new();
        for ((model, api, _), sum) in per_model.iter().filter(|((_, api, _), _)| api.is_counted()) {
            runtime.entry((model, api.name())).or_default().add(&sum.runtime);
        }
        for ((model, api), sum) in runtime {
            text.microseconds(RUNTIME_LATENCY, &[("model_name", model), ("API", api), ("runtime", "TF1")], &sum);
        }
    }

    fn write_own(&self, text: &mut Text, moment: &Moment<'_>) {
        self.write_process(text, moment);
        write_versions(text, moment.routes);
        text.collected(REQUEST_LOG_DROPPED, &self.request_log_dropped);
        for (name, collector) in self.batching.own() {
            text.collected(name, collector);
        }
        let sums = {
            let mut servables = self.servables.lock().unwrap_or_else(PoisonError::into_inner);
            self.expire(&mut servables, moment.routes, Instant::now());
            let mut sums: BTreeMap<(String, i64, String, Api, Entrypoint), SeriesSum> = BTreeMap::new();
            for known in &servables.known {
                for (signature, api, entrypoint, series) in known.usage.all() {
                    let key = (known.model.clone(), known.version, signature.to_owned(), api, entrypoint);
                    series.add_to(sums.entry(key).or_default());
                }
            }
            sums
        };
        let mut each = |name: &str, kind: &str, help: &str, write: Write<'_>| {
            text.begin(name, kind, help);
            for ((model, version, signature, api, entrypoint), sum) in &sums {
                let version = version.to_string();
                let labels = [
                    ("model", model.as_str()),
                    ("version", &version),
                    ("signature", signature),
                    ("api", api.name()),
                    ("entrypoint", entrypoint.name()),
                ];
                write(text, name, &labels, sum);
            }
        };
        each(
            "servable_requests_total",
            "counter",
            "Requests that found their version, by how they ended.",
            &|text, name, labels, sum| {
                for (code, count) in sum.codes() {
                    let labels: Vec<_> = labels.iter().copied().chain([("code", code.name())]).collect();
                    text.sample(name, &labels, count);
                }
            },
        );
        each(
            "servable_request_duration_seconds",
            "histogram",
            "From the last byte of a request to its answer, of those that succeeded.",
            &|text, name, labels, sum| text.seconds(name, labels, &sum.latency),
        );
        each(
            "servable_request_stage_seconds",
            "histogram",
            "Where the time of requests goes: decode, queue, run, encode.",
            &|text, name, labels, sum| {
                for ((stage, ..), took) in STAGES.iter().zip(&sum.stages) {
                    let labels: Vec<_> = labels.iter().copied().chain([("stage", *stage)]).collect();
                    text.seconds(name, &labels, took);
                }
            },
        );
        each(
            "servable_request_bytes_total",
            "counter",
            "Bytes of request messages and bodies.",
            &|text, name, labels, sum| {
                text.sample(name, labels, sum.request_bytes);
            },
        );
        each("servable_response_bytes_total", "counter", "Bytes of answers.", &|text, name, labels, sum| {
            text.sample(name, labels, sum.response_bytes);
        });
        let name = "servable_other_requests_total";
        text.begin(name, "counter", "Requests that found no version to answer them, or need none.");
        for ([model, code], count) in text::counts(&self.others, ["model_name", "status"]) {
            text.sample(name, &[("model", &model), ("code", &code)], count);
        }
    }

    fn write_process(&self, text: &mut Text, moment: &Moment<'_>) {
        let gauge = |text: &mut Text, name: &str, help: &str, value: f64| {
            text.begin(name, "gauge", help);
            text.sample(name, &[], value);
        };
        let name = "servable_build_info";
        text.begin(name, "gauge", "The version of this server; always 1.");
        text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        gauge(text, "servable_connections", "Connections that are open.", moment.connections as f64);
        gauge(
            text,
            "servable_requests_in_flight",
            "Requests whose answers are not taken yet.",
            moment.in_flight as f64,
        );
        gauge(
            text,
            "servable_bytes_in_flight",
            "Bytes that requests in flight hold, of max_bytes_in_flight.",
            moment.bytes_in_flight as f64,
        );
        if let Some(spans) = moment.spans {
            let name = "servable_trace_spans_total";
            text.begin(
                name,
                "counter",
                "Spans that were made; of them those that were sent, and those that failed to be.",
            );
            for (state, count) in [("made", &spans.made), ("sent", &spans.sent), ("failed", &spans.failed)] {
                text.sample(name, &[("state", state)], count.load(Ordering::Relaxed));
            }
        }
        if let Some(lost) = moment.lost_lines {
            let name = "servable_access_log_dropped_total";
            text.begin(name, "counter", "Lines of the access log that could not be written.");
            text.sample(name, &[], lost);
        }
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge(text, "process_start_time_seconds", "When this process started.", started.as_secs_f64());
        if let Some(process) = Process::read() {
            gauge(text, "process_resident_memory_bytes", "Memory that is resident.", process.resident_bytes as f64);
            gauge(text, "process_virtual_memory_bytes", "Memory that is mapped.", process.virtual_bytes as f64);
            gauge(text, "process_open_fds", "File descriptors that are open.", process.open_files as f64);
            let name = "process_cpu_seconds_total";
            text.begin(name, "counter", "Processor time that was spent.");
            text.sample(name, &[], process.cpu_seconds);
        }
    }
}

impl Observer for Metrics {
    fn joined(&self, rows: usize, inputs: usize) {
        self.batching.joined(rows, inputs);
    }

    fn ran(&self, batch: &BatchFacts<'_>) {
        self.batching.ran(batch);
    }
}

fn write_versions(text: &mut Text, routes: &Routes) {
    let mut versions = BTreeMap::new();
    for (model, routes) in &routes.models {
        versions.extend(routes.versions.iter().map(|(version, status)| ((model.as_str(), *version), status)));
    }
    // One that has ended in order is of no interest any more; of one that could not be loaded somebody should know.
    versions.retain(|_, status| status.state != State::End || status.error.is_some());
    let name = "servable_version_state";
    text.begin(name, "gauge", "Where a version stands: 1 for the state that it is in. END is shown after errors only.");
    for ((model, version), status) in &versions {
        let version = version.to_string();
        text.sample(name, &[("model", model), ("version", &version), ("state", status.state.name())], 1);
    }
    let name = "servable_version_memory_bytes";
    text.begin(name, "gauge", "Memory that a version is estimated to take: 1.2 times its files.");
    for ((model, version), status) in versions.iter().filter(|(_, status)| status.memory_bytes > 0) {
        let version = version.to_string();
        text.sample(name, &[("model", model), ("version", &version)], status.memory_bytes);
    }
}

fn add_usage(per_model: &mut PerModel, model: &str, usage: &Usage) {
    for (_, api, entrypoint, series) in usage.all() {
        series.add_to(per_model.entry((model.to_owned(), api, entrypoint)).or_default());
    }
    // Run times know no entrypoint: either will do.
    for (api, runs) in usage.warmup() {
        runs.add_to(&mut per_model.entry((model.to_owned(), api, Entrypoint::Grpc)).or_default().runtime);
    }
}

/// What Linux tells of this process.
struct Process {
    resident_bytes: u64,
    virtual_bytes: u64,
    open_files: usize,
    cpu_seconds: f64,
}

impl Process {
    /// `None` where there is no /proc.
    fn read() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let kilobytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(Self {
            resident_bytes: kilobytes("VmRSS:")? << 10,
            virtual_bytes: kilobytes("VmSize:")? << 10,
            open_files: std::fs::read_dir("/proc/self/fd").ok()?.count(),
            cpu_seconds: spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::net::{IpAddr, Ipv4Addr};

    use http::Method;
    use servable_core::routes::{ModelRoutes, VersionStatus};
    use servable_core::servable::{Description, Placement, Servable, Session};
    use servable_core::{Endpoint, Signature, Status, Tensor};

    use super::*;
    use crate::app::Crowd;
    use crate::body::Share;
    use crate::exchange::Connection;

    struct Nothing;

    impl Session for Nothing {
        fn run(&self, _: &[(Endpoint, Tensor)], _: &[Endpoint], _: Placement) -> Result<Vec<Tensor>, Status> {
            Ok(Vec::new())
        }
    }

    fn servable(model: &str, version: i64) -> Arc<Servable> {
        let signature = Signature::new("serving_default".to_owned(), String::new(), Vec::new(), Vec::new());
        let description = Description::default();
        Arc::new(Servable::new(model.to_owned(), version, description, vec![signature], Box::new(Nothing)))
    }

    fn routes(servables: &[&Arc<Servable>]) -> Routes {
        let mut models: HashMap<String, ModelRoutes> = HashMap::new();
        for servable in servables {
            let status = VersionStatus {
                state: State::Available,
                error: None,
                servable: Some(Arc::clone(servable)),
                on_demand: false,
                remark: String::new(),
                memory_bytes: 12,
            };
            let versions = &mut models.entry(servable.name().to_owned()).or_default().versions;
            versions.extend(BTreeMap::from([(servable.version(), status)]));
        }
        Routes::new(models)
    }

    fn exchange(model: &str, api: Api, entrypoint: Entrypoint) -> Exchange {
        let connection = Arc::new(Connection {
            remote: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            crowd: Crowd::Clients,
            names: Vec::new(),
        });
        let exchange = Exchange::new(connection, Share::none(), entrypoint, Method::POST, String::new());
        exchange.asks(api);
        exchange.names(model);
        exchange
    }

    fn note(servable: &Servable, api: Api, entrypoint: Entrypoint) {
        let exchange = exchange(servable.name(), api, entrypoint);
        let later = |microseconds| exchange.progress.begin() + Duration::from_micros(microseconds);
        for (mark, at) in Mark::ALL.into_iter().zip([10, 12, 14, 16, 21]) {
            exchange.progress.reach_at(mark, later(at));
        }
        servable.usage().of(Some(0), api, entrypoint).note(Code::Ok, &exchange.progress, 3, 4);
    }

    fn pages(metrics: &Metrics, routes: &Routes) -> (String, String) {
        let moment =
            Moment { routes, connections: 1, in_flight: 2, bytes_in_flight: 3, spans: None, lost_lines: Some(0) };
        (metrics.original_page(&moment), metrics.page(&moment))
    }

    fn has(page: &str, line: &str) {
        assert!(page.lines().any(|have| have == line), "{line} is not in {page}");
    }

    #[test]
    fn made_up_names_are_bounded() {
        let metrics = Metrics::new().expect("names are valid");
        for number in 0..1000 {
            let exchange = exchange(&format!("m{number}"), Api::Predict, Entrypoint::Grpc);
            exchange.ends(Err(Code::NotFound));
            metrics.refused(&exchange, |_| false);
        }
        let (page, _) = pages(&metrics, &Routes::default());
        let count = page.lines().filter(|line| line.starts_with(REQUEST_COUNT) && line.contains("NOT_FOUND")).count();
        assert_eq!(count, MOST_UNKNOWN_NAMES + 1);
        has(&page, ":tensorflow:serving:request_count{model_name=\"(other)\",status=\"NOT_FOUND\"} 900");
    }

    #[test]
    fn warm_ups_are_counted_for_as_many_versions_as_matter() {
        let metrics = Metrics::new().expect("names are valid");
        metrics.warmed_up("/m/0", Code::Ok, 2, Duration::from_micros(11));
        metrics.warmed_up("/m/0", Code::Ok, 3, Duration::from_micros(11));
        let (page, _) = pages(&metrics, &Routes::default());
        has(&page, ":tensorflow:serving:model_warmup_records_read{model_path=\"/m/0\",status=\"OK\"} 5");
        has(&page, ":tensorflow:serving:model_warmup_latency_count{model_path=\"/m/0\",status=\"OK\"} 2");
        for version in 1..1000 {
            metrics.warmed_up(&format!("/m/{version}"), Code::DataLoss, 0, Duration::ZERO);
        }
        let (page, _) = pages(&metrics, &Routes::default());
        assert_eq!(page.matches("model_warmup_records_read{").count(), MOST_WARMED_UP);
        assert!(page.contains("\"/m/999\",status=\"DATA_LOSS\"") && !page.contains("/m/0"));
    }

    #[test]
    fn the_pages_look_as_dashboards_expect() {
        let metrics = Metrics::new().expect("names are valid");
        let servable = servable("m\"", 3);
        let routes = routes(&[&servable]);
        metrics.know(&routes);
        for name in [REQUEST_COUNT, REQUEST_LATENCY, RUNTIME_LATENCY, WARMUP_LATENCY] {
            let (page, _) = pages(&metrics, &routes);
            assert!(page.contains(&format!("# TYPE {name} ")), "types are there before the first request: {page}");
        }
        note(&servable, Api::Predict, Entrypoint::Rest);
        note(&servable, Api::Predict, Entrypoint::Grpc);
        note(&servable, Api::MultiInference, Entrypoint::Grpc);
        metrics.examples("m\"", 3);
        let (original, own) = pages(&metrics, &routes);
        has(&original, ":tensorflow:serving:request_example_count_total{model=\"m\\\"\"} 3");
        has(&original, ":tensorflow:serving:request_example_counts_bucket{model=\"m\\\"\",le=\"2\"} 0");
        let latency = "model_name=\"m\\\"\",API=\"predict\",entrypoint=\"REST\"";
        has(&original, ":tensorflow:serving:request_count{model_name=\"m\\\"\",status=\"OK\"} 2");
        has(&original, &format!(":tensorflow:serving:request_latency_bucket{{{latency},le=\"10\"}} 0"));
        has(&original, &format!(":tensorflow:serving:request_latency_bucket{{{latency},le=\"18\"}} 1"));
        has(&original, &format!(":tensorflow:serving:request_latency_sum{{{latency}}} 11"));
        let runtime = "model_name=\"m\\\"\",API=\"Predict\",runtime=\"TF1\"";
        has(&original, &format!(":tensorflow:serving:runtime_latency_count{{{runtime}}} 2"));
        servable.usage().warmed_up(Api::Predict, Duration::from_micros(5));
        servable.usage().warmed_up(Api::MultiInference, Duration::from_micros(5));
        let (warmed_up, unchanged) = pages(&metrics, &routes);
        has(&warmed_up, &format!(":tensorflow:serving:runtime_latency_count{{{runtime}}} 3"));
        let without_runs = |page: &str| page.lines().filter(|line| !line.contains("runtime_latency")).count();
        assert_eq!(without_runs(&warmed_up), without_runs(&original), "nothing else counts warm-up");
        assert_eq!(unchanged.lines().count(), own.lines().count());
        let labels = "model=\"m\\\"\",version=\"3\",signature=\"serving_default\",api=\"Predict\",entrypoint=\"GRPC\"";
        has(&own, &format!("servable_requests_total{{{labels},code=\"OK\"}} 1"));
        has(&own, &format!("servable_request_duration_seconds_count{{{labels}}} 1"));
        has(&own, &format!("servable_request_duration_seconds_bucket{{{labels},le=\"1e-05\"}} 0"));
        has(&own, &format!("servable_request_stage_seconds_count{{{labels},stage=\"queue\"}} 1"));
        has(&own, "servable_version_state{model=\"m\\\"\",version=\"3\",state=\"AVAILABLE\"} 1");
        has(&own, "servable_version_memory_bytes{model=\"m\\\"\",version=\"3\"} 12");
        has(&own, "servable_connections 1");
        assert!(!own.contains("tensorflow"), "{own}");
    }

    #[test]
    fn versions_are_shown_for_a_while_when_they_are_gone() {
        let metrics = Metrics::new().expect("names are valid");
        let (one, two) = (servable("m", 1), servable("m", 2));
        metrics.know(&routes(&[&one, &two]));
        note(&one, Api::Predict, Entrypoint::Grpc);
        note(&two, Api::Predict, Entrypoint::Grpc);
        let later = routes(&[&two]);
        let gone = Instant::now();
        metrics.know_at(&later, gone);
        let count = |version: i64| format!("servable_requests_total{{model=\"m\",version=\"{version}\"");
        assert!(pages(&metrics, &later).1.contains(&count(1)));
        metrics.know_at(&later, gone + EXPIRY);
        let (original, own) = pages(&metrics, &later);
        assert!(!own.contains(&count(1)) && own.contains(&count(2)), "{own}");
        has(&original, ":tensorflow:serving:request_count{model_name=\"m\",status=\"OK\"} 2");
        let none = Routes::default();
        metrics.know_at(&none, gone);
        metrics.know_at(&none, gone + EXPIRY);
        assert!(!pages(&metrics, &none).0.contains("model_name=\"m\""), "nothing is kept of models that are gone");
    }

    #[test]
    fn what_needs_no_version_is_forgotten_with_its_model() {
        let metrics = Metrics::new().expect("names are valid");
        let asked = |name: &str, code: Result<usize, Code>, is_known: bool| {
            let exchange = exchange(name, Api::Predict, Entrypoint::Rest);
            exchange.received(0);
            exchange.ends(code);
            metrics.refused(&exchange, |_| is_known);
        };
        let mut lines = Vec::new();
        for number in 0..1000 {
            let name = format!("m{number}");
            let there = routes(&[&servable(&name, 1)]);
            metrics.know(&there);
            asked(&name, Ok(3), true);
            asked(&name, Err(Code::NotFound), true);
            asked("made-up", Err(Code::NotFound), false);
            asked("", Err(Code::InvalidArgument), false);
            metrics.logged(&name, Code::Ok, 1);
            metrics.not_logged(&name, "queue_full", 1);
            metrics.know_at(&Routes::default(), Instant::now());
            metrics.know_at(&Routes::default(), Instant::now() + EXPIRY);
            lines.push(pages(&metrics, &Routes::default()).0.lines().count());
        }
        assert_eq!(lines.first(), lines.last(), "the page does not grow");
        let (original, own) = pages(&metrics, &Routes::default());
        assert!(!original.contains("\"m0\"") && !own.contains("\"m0\""), "{own}");
        has(&own, "servable_other_requests_total{model=\"made-up\",code=\"NOT_FOUND\"} 1000");
        has(&own, "servable_other_requests_total{model=\"\",code=\"INVALID_ARGUMENT\"} 1000");
    }
}
