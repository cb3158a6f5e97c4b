//! What a queue has done, for those who want to know why.

use std::time::Duration;

use super::decide::Reason;
use super::tuning::SizeReport;

/// Durations by their size, with steps of a quarter: two digits of a percentile are right, which is what people read.
#[derive(Clone, Debug)]
pub struct Durations {
    counts: [u64; Self::STEPS],
    count: u64,
    total: Duration,
}

impl Durations {
    const STEPS: usize = 96;
    const GROWTH: f64 = 1.25;

    pub(super) fn note(&mut self, took: Duration) {
        let microseconds = took.as_secs_f64() * 1e6;
        let step = if microseconds < 1.0 { 0.0 } else { 1.0 + microseconds.log(Self::GROWTH).floor() };
        self.counts[(step as usize).min(Self::STEPS - 1)] += 1;
        self.count += 1;
        self.total = self.total.saturating_add(took);
    }

    pub fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total.as_secs_f64() * 1e6 / self.count as f64 }
    }

    /// The duration that this share of all did not exceed, in microseconds.
    pub fn percentile_us(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (step, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return Self::GROWTH.powi(step as i32);
            }
        }
        0.0
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: [0; Self::STEPS], count: 0, total: Duration::ZERO }
    }
}

/// Counters of a queue.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub requests: u64,
    pub rows: u64,
    pub batches: u64,
    pub batched_rows: u64,
    pub padding_rows: u64,
    /// Rows that the batches could have had.
    pub possible_rows: u64,
    cuts: [u64; Reason::ALL.len()],
    /// Requests for which there was no room.
    pub refused: u64,
    /// Requests whose deadline passed before their batch was cut.
    pub expired: u64,
    /// Requests whose client went before their batch was cut.
    pub cancelled: u64,
    pub failed_batches: u64,
    /// Requests that were run again, on their own, since their batch failed.
    pub retried: u64,
    /// Requests that were run on their own since they cannot be batched.
    pub unbatched: u64,
    pub queue: Durations,
    pub concat: Durations,
    pub run: Durations,
    pub split: Durations,
}

impl Counters {
    pub(super) fn cut(&mut self, reason: Reason) {
        self.cuts[reason as usize] += 1;
    }

    pub fn cuts(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.cuts)
    }

    /// How full batches were, from 0 to 1.
    pub fn fill(&self) -> f64 {
        if self.possible_rows == 0 { 0.0 } else { self.batched_rows as f64 / self.possible_rows as f64 }
    }
}

/// A queue at one moment.
#[derive(Clone, Debug)]
pub struct QueueReport {
    /// Names of tensors in the graph.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// The signature that has these inputs and outputs, if one does.
    pub signature: Option<String>,
    pub counters: Counters,
    pub sizes: Vec<SizeReport>,
    pub queued_rows: usize,
    /// What batches are cut at.
    pub limit: usize,
    pub timeout: Duration,
    pub batches_at_once: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_quarter() {
        let mut durations = Durations::default();
        assert!(durations.mean_us().abs() < f64::EPSILON && durations.percentile_us(0.5).abs() < f64::EPSILON);
        (1..=1000).for_each(|us| durations.note(Duration::from_micros(us)));
        assert!((durations.mean_us() - 500.5).abs() < 1e-6);
        for (share, is) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let told = durations.percentile_us(share);
            assert!(told >= is && told <= is * 1.25, "{share}: {told}");
        }
        durations.note(Duration::MAX);
        assert!(durations.percentile_us(1.0) > 1e9);
    }

    #[test]
    fn fill_is_what_batches_could_have_had() {
        let counters = Counters { batched_rows: 3, possible_rows: 4, ..Counters::default() };
        assert!((counters.fill() - 0.75).abs() < f64::EPSILON && Counters::default().fill().abs() < f64::EPSILON);
    }
}
