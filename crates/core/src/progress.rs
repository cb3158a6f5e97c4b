//! How far a request has come, for those who want to know where its time went.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::batching::Reason;

/// What a request gets done, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// All of it has come.
    Received,
    /// It is a call that fits a signature.
    Decoded,
    /// Its run has begun, or that of its batch.
    Begun,
    /// Its results are there.
    Ran,
    /// Its answer is ready to be sent.
    Encoded,
}

impl Mark {
    pub const ALL: [Self; 5] = [Self::Received, Self::Decoded, Self::Begun, Self::Ran, Self::Encoded];
}

/// The batch that a request was run in.
#[derive(Clone, Copy, Debug)]
pub struct BatchShare {
    pub requests: usize,
    pub rows: usize,
    pub padded_rows: usize,
    pub reason: Reason,
}

/// The marks of one request. Each is set by whoever does the step, from any thread; one that is set again moves.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    /// Nanoseconds since the beginning; 0 where it has not come so far.
    marks: [AtomicU64; Mark::ALL.len()],
    batch: OnceLock<BatchShare>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begin: Instant::now(), marks: Default::default(), batch: OnceLock::new() }
    }
}

impl Progress {
    /// When the request's head was there.
    pub fn begin(&self) -> Instant {
        self.begin
    }

    pub fn reach(&self, mark: Mark) {
        self.reach_at(mark, Instant::now());
    }

    pub fn reach_at(&self, mark: Mark, moment: Instant) {
        let nanoseconds = moment.saturating_duration_since(self.begin).as_nanos() as u64;
        self.marks[mark as usize].store(nanoseconds.max(1), Ordering::Relaxed);
    }

    /// How long after the beginning a mark was reached.
    pub fn at(&self, mark: Mark) -> Option<Duration> {
        match self.marks[mark as usize].load(Ordering::Relaxed) {
            0 => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        }
    }

    /// The time from one mark to another, if both were reached in this order.
    pub fn between(&self, from: Mark, to: Mark) -> Option<Duration> {
        self.at(to)?.checked_sub(self.at(from)?)
    }

    /// Says in which batch it was run; the first one counts, for a request that was split.
    pub fn share(&self, batch: BatchShare) {
        let _ = self.batch.set(batch);
    }

    pub fn batch(&self) -> Option<&BatchShare> {
        self.batch.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_between_marks_that_were_reached() {
        let progress = Progress::default();
        let later = |milliseconds| progress.begin() + Duration::from_millis(milliseconds);
        progress.reach_at(Mark::Received, progress.begin());
        progress.reach_at(Mark::Decoded, later(2));
        assert_eq!(progress.at(Mark::Received), Some(Duration::from_nanos(1)), "reached, though at once");
        assert_eq!(progress.between(Mark::Received, Mark::Decoded), Some(Duration::from_nanos(1_999_999)));
        assert_eq!(progress.between(Mark::Decoded, Mark::Received), None);
        assert_eq!(progress.between(Mark::Decoded, Mark::Ran), None);
    }
}
