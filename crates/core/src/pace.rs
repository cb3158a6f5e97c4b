//! How the next run of a signature is done, learned from how long those before it took.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// A run shorter than this costs less than handing it to another thread and back.
pub(crate) const BRIEF: Duration = Duration::from_micros(250);
/// A run in a network thread that took this long held up other requests.
const DISTURBING: Duration = Duration::from_millis(2);
/// What a hand-over costs, about: a disturbing run is made up for by as many brief ones as would have cost the same by being
/// handed over. Threads are interrupted for milliseconds on any busy machine, and requests should not pay for that twice.
const HAND_OVER: Duration = Duration::from_micros(8);
/// Longer graphs may gain from branches that run at the same time, and need a timeout that works.
const SHORT: Duration = Duration::from_millis(1);
/// Brief runs before a network thread is trusted with the next one.
const FIRST_PATIENCE: u32 = 8;
const LONGEST_PATIENCE: u32 = 1024;
/// Brief runs that are remembered: together they have saved as much time as disturbing ones may cost in a row, an eighth of
/// a second. With fewer, two interruptions by the system within a thirtieth of a second took a busy signature out of the
/// network threads, and all that waited for it onto others, which made it wait longer still.
const MOST_CREDIT: u32 = 16 << 10;
/// Brief runs that one longer run cancels out: a thread is interrupted now and then. What goes beyond the longest patience
/// pays by time.
const SETBACK: u32 = 8;
/// Run time grows with the input: only inputs up to this many times the largest seen to be brief count as brief.
const GROWTH: usize = 2;

/// How a signature's next run is done; each stage has to be earned in the one below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Handed to a blocking thread, the graph's operations to the session's pool.
    Pooled,
    /// Handed to a blocking thread, all operations in that thread: what the time measured there says is the graph's own.
    Aside,
    /// In the network thread that read the request.
    Inline,
}

/// Learns from the run times of one signature whether its runs are brief.
///
/// Counters only, read and written without order among threads: a stale value costs a hand-over, nothing else.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Brief runs to the signature's credit.
    credit: AtomicU32,
    patience: AtomicU32,
    largest_brief_input: AtomicUsize,
    /// Whether the last run was short enough to be tried without the pool.
    short: AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            credit: AtomicU32::new(0),
            patience: AtomicU32::new(FIRST_PATIENCE),
            largest_brief_input: AtomicUsize::new(0),
            short: AtomicBool::new(false),
        }
    }
}

impl Pace {
    pub(crate) fn stage(&self, input_bytes: usize) -> Stage {
        let trusted = self.credit.load(Ordering::Relaxed) >= self.patience.load(Ordering::Relaxed);
        if trusted && input_bytes <= self.largest_brief_input.load(Ordering::Relaxed).saturating_mul(GROWTH) {
            Stage::Inline
        } else if self.short.load(Ordering::Relaxed) {
            Stage::Aside
        } else {
            Stage::Pooled
        }
    }

    pub(crate) fn record(&self, input_bytes: usize, took: Duration, stage: Stage) {
        if stage != Stage::Inline || took >= BRIEF {
            self.short.store(took < SHORT, Ordering::Relaxed);
        }
        if stage == Stage::Pooled {
            return; // on a busy machine this is mostly the time of hand-overs
        }
        let credit = self.credit.load(Ordering::Relaxed);
        if took < BRIEF {
            if credit < MOST_CREDIT {
                self.credit.store(credit + 1, Ordering::Relaxed);
            }
            if input_bytes > self.largest_brief_input.load(Ordering::Relaxed) {
                self.largest_brief_input.store(input_bytes, Ordering::Relaxed);
            }
            return;
        }
        let cost = u32::try_from(took.as_micros() / HAND_OVER.as_micros()).unwrap_or(u32::MAX);
        if stage == Stage::Inline && took >= DISTURBING {
            let patience = self.patience.load(Ordering::Relaxed);
            if let Some(left) = credit.checked_sub(cost).filter(|left| *left >= patience) {
                self.credit.store(left, Ordering::Relaxed);
                return;
            }
            self.patience.store((patience * 2).min(LONGEST_PATIENCE), Ordering::Relaxed);
            self.credit.store(0, Ordering::Relaxed);
            self.largest_brief_input.store(0, Ordering::Relaxed);
        } else {
            let cost = if credit > LONGEST_PATIENCE { cost } else { SETBACK };
            self.credit.store(credit.saturating_sub(cost), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEF_RUN: Duration = Duration::from_micros(3);

    fn run(pace: &Pace, count: u32, took: Duration) {
        for _ in 0..count {
            pace.record(12, took, pace.stage(12));
        }
    }

    #[test]
    fn a_signature_has_to_earn_the_network_thread() {
        let pace = Pace::default();
        assert_eq!(pace.stage(12), Stage::Pooled);
        run(&pace, 1, BRIEF_RUN);
        assert_eq!(pace.stage(12), Stage::Aside);
        run(&pace, FIRST_PATIENCE - 1, BRIEF_RUN);
        assert_eq!(pace.stage(12), Stage::Aside);
        run(&pace, 1, BRIEF_RUN);
        assert_eq!(pace.stage(12), Stage::Inline);
        assert_eq!(pace.stage(24), Stage::Inline);
        assert_eq!(pace.stage(25), Stage::Aside, "a larger input may take longer");
    }

    #[test]
    fn a_disturbing_run_costs_trust() {
        let pace = Pace::default();
        run(&pace, FIRST_PATIENCE + 1, BRIEF_RUN);
        run(&pace, 1, Duration::from_millis(5));
        assert_eq!(pace.stage(12), Stage::Pooled);
        run(&pace, FIRST_PATIENCE + 1, BRIEF_RUN);
        assert_eq!(pace.stage(12), Stage::Aside, "twice the patience is needed now");
        run(&pace, FIRST_PATIENCE, BRIEF_RUN);
        assert_eq!(pace.stage(12), Stage::Inline);
    }

    #[test]
    fn an_interruption_now_and_then_does_not() {
        let pace = Pace::default();
        run(&pace, 100, BRIEF_RUN);
        run(&pace, 1, Duration::from_micros(900));
        assert_eq!(pace.stage(12), Stage::Inline);
        for _ in 0..100 {
            run(&pace, 600, BRIEF_RUN);
            run(&pace, 1, Duration::from_millis(4));
            assert_eq!(pace.stage(12), Stage::Inline, "handing 600 runs over would have cost more than these 4 ms");
        }
    }

    #[test]
    fn what_long_service_has_saved_is_not_forgotten() {
        let pace = Pace::default();
        run(&pace, 2 * MOST_CREDIT, BRIEF_RUN);
        run(&pace, 20, Duration::from_millis(5));
        assert_eq!(pace.stage(12), Stage::Inline, "the machine does something else");
        run(&pace, 10, Duration::from_millis(5));
        assert_ne!(pace.stage(12), Stage::Inline, "the graph has become slow");
        let pace = Pace::default();
        run(&pace, 2 * MOST_CREDIT, BRIEF_RUN);
        run(&pace, 200, Duration::from_micros(1900));
        assert_ne!(pace.stage(12), Stage::Inline, "a little slow is slow, too");
    }

    #[test]
    fn disturbing_runs_that_are_not_rare_cost_trust() {
        let pace = Pace::default();
        run(&pace, 1000, BRIEF_RUN);
        for _ in 0..3 {
            run(&pace, 100, BRIEF_RUN);
            run(&pace, 1, Duration::from_millis(4));
        }
        assert_ne!(pace.stage(12), Stage::Inline);
    }

    #[test]
    fn long_runs_stay_with_the_pool() {
        let pace = Pace::default();
        run(&pace, 100, Duration::from_millis(3));
        assert_eq!(pace.stage(12), Stage::Pooled);
        run(&pace, 100, Duration::from_micros(600));
        assert_eq!(pace.stage(12), Stage::Aside, "short, but not brief");
    }
}
