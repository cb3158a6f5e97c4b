//! What is done with a servable, counted where it happens: one table for each of its signatures and each way to reach it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::progress::{Mark, Progress};
use crate::status::Code;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    Predict,
    Classify,
    Regress,
    MultiInference,
    SessionRun,
}

impl Api {
    pub const ALL: [Self; 5] = [Self::Predict, Self::Classify, Self::Regress, Self::MultiInference, Self::SessionRun];

    /// What it is called in a REST target.
    pub fn verb(self) -> &'static str {
        ["predict", "classify", "regress", "", ""][self as usize]
    }

    /// Whether TensorFlow Serving counts it.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Predict | Self::Classify | Self::Regress)
    }

    /// Its name, as TensorFlow Serving's metrics have it.
    pub fn name(self) -> &'static str {
        ["Predict", "Classify", "Regress", "MultiInference", "SessionRun"][self as usize]
    }
}

/// Where a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entrypoint {
    Grpc,
    Rest,
}

impl Entrypoint {
    pub const ALL: [Self; 2] = [Self::Grpc, Self::Rest];

    pub fn name(self) -> &'static str {
        ["GRPC", "REST"][self as usize]
    }
}

/// Limits of buckets: 10 µs, and each 1.8 times the one before. Those of TensorFlow Serving.
const LIMITS: usize = 33;

/// How often durations were how long.
#[derive(Debug)]
pub struct Histogram {
    /// One more than there are limits: the last one has all that is longer.
    buckets: [AtomicU64; LIMITS + 1],
    nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; LIMITS + 1], nanoseconds: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn note(&self, took: Duration) {
        let microseconds = took.as_secs_f64() * 1e6;
        let bucket = HistogramSum::limits().partition_point(|limit| *limit < microseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Adds what has been counted so far to a sum.
    pub fn add_to(&self, sum: &mut HistogramSum) {
        for (bucket, counted) in sum.buckets.iter_mut().zip(&self.buckets) {
            *bucket += counted.load(Ordering::Relaxed);
        }
        sum.nanoseconds += self.nanoseconds.load(Ordering::Relaxed);
    }
}

/// Counts of one moment, of one [`Histogram`] or several.
#[derive(Clone, Debug)]
pub struct HistogramSum {
    buckets: [u64; LIMITS + 1],
    nanoseconds: u64,
}

impl Default for HistogramSum {
    fn default() -> Self {
        Self { buckets: [0; LIMITS + 1], nanoseconds: 0 }
    }
}

impl HistogramSum {
    /// The limits in microseconds.
    pub fn limits() -> &'static [f64; LIMITS] {
        static MICROSECONDS: OnceLock<[f64; LIMITS]> = OnceLock::new();
        MICROSECONDS.get_or_init(|| {
            let mut limit = 10.0;
            [(); LIMITS].map(|()| {
                let this = limit;
                limit *= 1.8;
                this
            })
        })
    }

    /// Not longer than a limit each, for every limit: they only grow.
    pub fn cumulative(&self) -> [u64; LIMITS] {
        let mut count = 0;
        let mut cumulative = [0; LIMITS];
        for (sum, bucket) in cumulative.iter_mut().zip(self.buckets) {
            count += bucket;
            *sum = count;
        }
        cumulative
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn seconds(&self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }

    pub fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.nanoseconds += other.nanoseconds;
    }
}

/// Parts of a request's time, with the marks that they lie between.
pub const STAGES: [(&str, Mark, Mark); 4] = [
    ("decode", Mark::Received, Mark::Decoded),
    ("queue", Mark::Decoded, Mark::Begun),
    ("run", Mark::Begun, Mark::Ran),
    ("encode", Mark::Ran, Mark::Encoded),
];

/// Requests for one signature that came in one way.
#[derive(Debug, Default)]
pub struct Series {
    codes: [AtomicU64; Code::COUNT],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    /// From the last byte of a request to the first of its answer, of those that succeeded.
    latency: Histogram,
    /// Waiting for a run, and the run.
    runtime: Histogram,
    stages: [Histogram; STAGES.len()],
}

impl Series {
    /// Counts a request that has been answered.
    pub fn note(&self, code: Code, progress: &Progress, request_bytes: usize, response_bytes: usize) {
        self.codes[code as usize].fetch_add(1, Ordering::Relaxed);
        self.request_bytes.fetch_add(request_bytes as u64, Ordering::Relaxed);
        self.response_bytes.fetch_add(response_bytes as u64, Ordering::Relaxed);
        if code == Code::Ok
            && let Some(took) = progress.between(Mark::Received, Mark::Encoded)
        {
            self.latency.note(took);
        }
        if let Some(took) = progress.between(Mark::Decoded, Mark::Ran) {
            self.runtime.note(took);
        }
        for (stage, (_, from, to)) in self.stages.iter().zip(STAGES) {
            if let Some(took) = progress.between(from, to) {
                stage.note(took);
            }
        }
    }

    /// Adds what has been counted so far to a sum.
    pub fn add_to(&self, sum: &mut SeriesSum) {
        for (code, counted) in sum.codes.iter_mut().zip(&self.codes) {
            *code += counted.load(Ordering::Relaxed);
        }
        sum.request_bytes += self.request_bytes.load(Ordering::Relaxed);
        sum.response_bytes += self.response_bytes.load(Ordering::Relaxed);
        self.latency.add_to(&mut sum.latency);
        self.runtime.add_to(&mut sum.runtime);
        for (stage, counted) in sum.stages.iter_mut().zip(&self.stages) {
            counted.add_to(stage);
        }
    }
}

/// Counts of one moment, of one [`Series`] or several.
#[derive(Clone, Debug, Default)]
pub struct SeriesSum {
    codes: [u64; Code::COUNT],
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub latency: HistogramSum,
    pub runtime: HistogramSum,
    /// In the order of [`STAGES`].
    pub stages: [HistogramSum; STAGES.len()],
}

impl SeriesSum {
    /// How many were answered with which code, of codes that there were.
    pub fn codes(&self) -> impl Iterator<Item = (Code, u64)> {
        let counted = self.codes.into_iter().enumerate().filter(|(_, count)| *count > 0);
        counted.map(|(code, count)| (Code::from_number(code as i32), count))
    }

    pub fn add(&mut self, other: &Self) {
        for (code, more) in self.codes.iter_mut().zip(other.codes) {
            *code += more;
        }
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.latency.add(&other.latency);
        self.runtime.add(&other.runtime);
        for (stage, more) in self.stages.iter_mut().zip(&other.stages) {
            stage.add(more);
        }
    }
}

/// Ways to reach a signature.
const WAYS: usize = Api::ALL.len() * Entrypoint::ALL.len();

/// All tables of a servable. One that nothing was counted in takes no room.
#[derive(Debug)]
pub struct Usage {
    names: Vec<String>,
    series: Vec<[OnceLock<Box<Series>>; WAYS]>,
    /// Runs of warm-up requests, by what they ask for.
    warmup: [OnceLock<Box<Histogram>>; Api::ALL.len()],
}

impl Usage {
    /// For signatures of these names, in their order, and for requests that are for none of them.
    pub fn new(mut names: Vec<String>) -> Self {
        names.push(String::new());
        let series = names.iter().map(|_| [const { OnceLock::new() }; WAYS]).collect();
        Self { names, series, warmup: [const { OnceLock::new() }; Api::ALL.len()] }
    }

    /// Counts a run of a warm-up request: no client's, so it is in no table of theirs.
    pub fn warmed_up(&self, api: Api, took: Duration) {
        self.warmup[api as usize].get_or_init(Box::default).note(took);
    }

    /// Runs of warm-up requests, if there were any.
    pub fn warmup(&self) -> impl Iterator<Item = (Api, &Histogram)> {
        Api::ALL.into_iter().zip(&self.warmup).filter_map(|(api, runs)| Some((api, &**runs.get()?)))
    }

    /// Where requests for a signature are counted that come in this way; `None` for those without one.
    pub fn of(&self, signature: Option<usize>, api: Api, entrypoint: Entrypoint) -> &Series {
        let way = api as usize * Entrypoint::ALL.len() + entrypoint as usize;
        let last = self.series.len() - 1;
        self.series[signature.map_or(last, |signature| signature.min(last))][way].get_or_init(Box::default)
    }

    /// All that something was counted in, with the names of their signatures.
    pub fn all(&self) -> impl Iterator<Item = (&str, Api, Entrypoint, &Series)> {
        let ways = || Api::ALL.into_iter().flat_map(|api| Entrypoint::ALL.map(|entrypoint| (api, entrypoint)));
        self.names.iter().zip(&self.series).flat_map(move |(name, series)| {
            let used = ways().zip(series).filter_map(|(way, series)| Some((way, series.get()?)));
            used.map(|((api, entrypoint), series)| (name.as_str(), api, entrypoint, &**series))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let durations = Histogram::default();
        for microseconds in [0, 10, 11, 18, 19] {
            durations.note(Duration::from_micros(microseconds));
        }
        durations.note(Duration::from_secs(1 << 20));
        let mut sum = HistogramSum::default();
        durations.add_to(&mut sum);
        assert_eq!(sum.cumulative()[..4], [2, 4, 5, 5]);
        assert_eq!((sum.count(), sum.cumulative()[LIMITS - 1]), (6, 5));
        let other = sum.clone();
        sum.add(&other);
        assert_eq!((sum.count(), sum.cumulative()[0]), (12, 4));
    }

    #[test]
    fn a_request_counts_in_its_own_table() {
        let usage = Usage::new(vec!["a".to_owned(), "b".to_owned()]);
        let progress = Progress::default();
        for (step, mark) in Mark::ALL.into_iter().enumerate() {
            progress.reach_at(mark, progress.begin() + Duration::from_millis(1 + step as u64));
        }
        let series = usage.of(Some(1), Api::Classify, Entrypoint::Rest);
        series.note(Code::Ok, &progress, 10, 20);
        series.note(Code::Internal, &Progress::default(), 1, 0);
        let all: Vec<_> = usage.all().collect();
        let [("b", Api::Classify, Entrypoint::Rest, series)] = all[..] else { panic!("{all:?}") };
        let mut sum = SeriesSum::default();
        series.add_to(&mut sum);
        assert_eq!(sum.codes().collect::<Vec<_>>(), [(Code::Ok, 1), (Code::Internal, 1)]);
        assert_eq!((sum.request_bytes, sum.response_bytes), (11, 20));
        assert_eq!((sum.latency.count(), sum.runtime.count()), (1, 1));
        assert!((sum.latency.seconds() - 0.004).abs() < 1e-9 && (sum.stages[3].seconds() - 0.001).abs() < 1e-9);
    }
}
