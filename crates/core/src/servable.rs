//! A loaded version of a model: its signatures and the session that runs them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::predict::Call;
use crate::signature::{DEFAULT_SIGNATURE, Endpoint, Signature};
use crate::status::{Code, Status};
use crate::tensor::Tensor;

/// Which thread does the work of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The caller's own, from start to end: nothing is handed over, and nothing can interrupt it.
    Caller,
    /// The session's pool, while the caller waits, at most so long.
    Pool { timeout: Option<Duration> },
}

/// Something that computes tensors from tensors. Called from many threads at once.
pub trait Session: Send + Sync {
    /// One tensor per fetch, in order. `feeds` and `fetches` are endpoints that this session has handed out.
    fn run(
        &self,
        feeds: &[(Endpoint, Tensor)],
        fetches: &[Endpoint],
        placement: Placement,
    ) -> Result<Vec<Tensor>, Status>;
}

/// What a servable says of itself to those who ask for its metadata, encoded once.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// A serialised `tensorflow.serving.SignatureDefMap`.
    pub signature_map: Bytes,
    /// The same as JSON.
    pub json: String,
}

/// A version of a model, ready to run. Whoever holds an `Arc` of it keeps it loaded.
pub struct Servable {
    name: String,
    version: i64,
    description: Description,
    signatures: HashMap<String, (Signature, Pace)>,
    session: Box<dyn Session>,
}

impl Servable {
    pub fn new(
        name: String,
        version: i64,
        description: Description,
        signatures: Vec<Signature>,
        session: Box<dyn Session>,
    ) -> Self {
        let signatures =
            signatures.into_iter().map(|signature| (signature.name.clone(), (signature, Pace::default()))).collect();
        Self { name, version, description, signatures, session }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> i64 {
        self.version
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The signature of this name; an empty one means `serving_default`.
    pub fn signature(&self, name: &str) -> Option<&Signature> {
        self.signatures.get(effective_name(name)).map(|(signature, _)| signature)
    }

    /// Runs a bound call, in this thread if the signature is known to be brief, otherwise on a blocking one.
    ///
    /// A passed deadline is an error before the session sees the call.
    pub async fn run(self: Arc<Self>, call: Call, deadline: Option<Instant>) -> Result<Vec<Tensor>, Status> {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(timed_out());
        }
        let (_, pace) = self.signatures.get(&call.signature).ok_or_else(|| Status::internal("signature is gone"))?;
        if pace.is_brief(call.input_bytes) {
            return self.timed_run(&call, pace, Placement::Caller);
        }
        let servable = Arc::clone(&self);
        let work = move || {
            let (_, pace) = &servable.signatures[&call.signature];
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Err(timed_out());
            }
            servable.timed_run(&call, pace, Placement::Pool { timeout })
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(failure) => Err(Status::internal(format!("running model {} failed: {failure}", self.name))),
        }
    }

    fn timed_run(&self, call: &Call, pace: &Pace, placement: Placement) -> Result<Vec<Tensor>, Status> {
        let start = Instant::now();
        let outcome = self.session.run(&call.feeds, &call.fetches, placement);
        pace.record(call.input_bytes, start.elapsed(), placement);
        outcome
    }
}

fn effective_name(name: &str) -> &str {
    if name.is_empty() { DEFAULT_SIGNATURE } else { name }
}

fn timed_out() -> Status {
    Status::new(Code::DeadlineExceeded, "Timed out waiting for notification")
}

/// A run shorter than this costs less than handing it to another thread and back.
const BRIEF: Duration = Duration::from_micros(250);
/// A run in the caller's thread that took this long held up other requests.
const DISTURBING: Duration = Duration::from_millis(2);
/// Brief runs in a row before the caller's thread is trusted with the next one.
const FIRST_PATIENCE: u32 = 8;
const LONGEST_PATIENCE: u32 = 1024;
/// Run time grows with the input: only inputs up to this many times the largest seen to be brief count as brief.
const GROWTH: usize = 2;

/// Learns from the run times of one signature whether its runs are brief.
///
/// Counters only, read and written without order among threads: a stale value costs a hand-over, nothing else.
#[derive(Debug)]
struct Pace {
    brief_in_a_row: AtomicU32,
    patience: AtomicU32,
    largest_brief_input: AtomicUsize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            brief_in_a_row: AtomicU32::new(0),
            patience: AtomicU32::new(FIRST_PATIENCE),
            largest_brief_input: AtomicUsize::new(0),
        }
    }
}

impl Pace {
    fn is_brief(&self, input_bytes: usize) -> bool {
        self.brief_in_a_row.load(Ordering::Relaxed) >= self.patience.load(Ordering::Relaxed)
            && input_bytes <= self.largest_brief_input.load(Ordering::Relaxed).saturating_mul(GROWTH)
    }

    fn record(&self, input_bytes: usize, took: Duration, placement: Placement) {
        if took < BRIEF {
            if self.brief_in_a_row.load(Ordering::Relaxed) < LONGEST_PATIENCE {
                self.brief_in_a_row.fetch_add(1, Ordering::Relaxed);
            }
            if input_bytes > self.largest_brief_input.load(Ordering::Relaxed) {
                self.largest_brief_input.store(input_bytes, Ordering::Relaxed);
            }
            return;
        }
        let disturbed = placement == Placement::Caller && took >= DISTURBING;
        if disturbed || placement != Placement::Caller {
            self.brief_in_a_row.store(0, Ordering::Relaxed);
            self.largest_brief_input.store(0, Ordering::Relaxed);
        }
        if disturbed {
            let patience = self.patience.load(Ordering::Relaxed);
            self.patience.store((patience * 2).min(LONGEST_PATIENCE), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Placement = Placement::Pool { timeout: None };

    fn brief_runs(pace: &Pace, count: u32, placement: Placement) {
        for _ in 0..count {
            pace.record(12, Duration::from_micros(3), placement);
        }
    }

    #[test]
    fn a_signature_has_to_earn_the_callers_thread() {
        let pace = Pace::default();
        brief_runs(&pace, FIRST_PATIENCE - 1, POOL);
        assert!(!pace.is_brief(12));
        brief_runs(&pace, 1, POOL);
        assert!(pace.is_brief(12));
        assert!(pace.is_brief(24));
        assert!(!pace.is_brief(25), "a larger input may take longer");
    }

    #[test]
    fn a_disturbing_run_costs_trust() {
        let pace = Pace::default();
        brief_runs(&pace, FIRST_PATIENCE, POOL);
        pace.record(12, Duration::from_millis(5), Placement::Caller);
        brief_runs(&pace, FIRST_PATIENCE, POOL);
        assert!(!pace.is_brief(12), "twice the patience is needed now");
        brief_runs(&pace, FIRST_PATIENCE, POOL);
        assert!(pace.is_brief(12));
    }

    #[test]
    fn slow_runs_never_earn_it() {
        let pace = Pace::default();
        for _ in 0..100 {
            pace.record(12, Duration::from_millis(1), POOL);
        }
        assert!(!pace.is_brief(12));
    }
}
