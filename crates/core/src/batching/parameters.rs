//! How requests for a servable are gathered into batches. Sizes are in rows: the first dimension of every input.

use std::sync::Arc;
use std::time::Duration;

/// The parameters of one servable's batching; valid, which is checked where they are read.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Servables whose parameters name the same pool share its threads.
    pub pool: Arc<str>,
    /// Batches that the pool runs at a time.
    pub threads: usize,
    /// If there is one, `threads` is what a pool of one queue begins with, and what serves best is learned, up to this.
    pub most_threads: Option<usize>,
    pub largest_request: usize,
    /// The largest batch that is run, which is also what large requests are split into.
    pub largest_batch: usize,
    /// Longest wait for others to join.
    pub timeout: Duration,
    /// Batches that may wait, the one that still grows among them.
    pub most_batches: usize,
    /// Sizes that batches are filled up to, ascending; of any size if there are none.
    pub allowed: Vec<usize>,
    pub padding: PaddingPolicy,
    /// Shorter rows are filled up.
    pub pads_lengths: bool,
    /// Requests that are larger than a batch are spread over several.
    pub splits: bool,
    pub mode: Mode,
    /// What cannot be batched is run on its own; otherwise it is refused.
    pub falls_back: bool,
    pub low: Option<LowPriority>,
}

/// Who decides how large batches are and how long they wait for others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// The parameters.
    Fixed,
    /// What is learned from the run times. 99 of 100 requests should not take longer than the objective.
    SelfTuning { objective: Option<Duration> },
}

/// What is done about a batch that is about to run with a size that is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingPolicy {
    /// It is filled up to the next allowed size.
    #[default]
    PadUp,
    /// Only as many requests are run as make an allowed size; the others wait. Filled up if there is no such size.
    BatchDown,
    /// Whichever of the two takes less time for each request, as far as that is known.
    MinimizeCost,
}

/// What becomes of requests that can wait.
#[derive(Clone, Debug)]
pub struct LowPriority {
    pub largest_request: usize,
    pub timeout: Duration,
    pub most_batches: usize,
    pub allowed: Vec<usize>,
    pub mixing: Mixing,
}

/// Which requests of low priority ride with those of high priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixing {
    /// So many as fit the largest batch.
    UpToLargest,
    /// So many as fit the next allowed size.
    UpToAllowed,
    Never,
    /// All are in one queue, those of high priority first.
    Merged,
}

impl Parameters {
    /// For tests: one thread, room for two batches of so many rows, and nothing special.
    #[cfg(test)]
    pub(super) fn simple(rows: usize, timeout: Duration) -> Self {
        Self {
            pool: Arc::from("p"),
            threads: 1,
            most_threads: None,
            largest_request: rows,
            largest_batch: rows,
            timeout,
            most_batches: 2,
            allowed: Vec::new(),
            padding: PaddingPolicy::PadUp,
            pads_lengths: false,
            splits: false,
            mode: Mode::Fixed,
            falls_back: false,
            low: None,
        }
    }

    /// What batches of so many rows are filled up to.
    pub fn allowed_size(&self, rows: usize) -> usize {
        allowed_size(&self.allowed, rows)
    }

    /// The largest allowed size that is not larger; the smallest if all are.
    pub(super) fn allowed_part(&self, rows: usize) -> usize {
        let smaller = self.allowed.iter().copied().rfind(|size| *size <= rows);
        smaller.unwrap_or_else(|| self.allowed_size(rows))
    }
}

/// The first allowed size that holds so many rows; as many as there are if none does.
pub(super) fn allowed_size(allowed: &[usize], rows: usize) -> usize {
    allowed.iter().copied().find(|size| *size >= rows).unwrap_or(rows)
}
