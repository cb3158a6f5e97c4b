//! What is learned of a queue: how long batches of which size run, and what size serves best.

use std::time::{Duration, Instant};

/// Sizes are known by powers of two; the last class holds all that are larger.
const CLASSES: usize = 24;
/// How much the newest run counts, once there have been a few.
const WEIGHT: f64 = 0.1;
/// Runs before a class is trusted.
const ENOUGH: u64 = 4;
/// What was learned of a size that has not been used for so long is forgotten: the machine may have had other work.
const MEMORY: Duration = Duration::from_secs(30);
/// A request may have to wait for a batch that has just begun, before its own one runs.
const BATCHES_TO_WAIT_FOR: f64 = 2.0;
/// Deviations beyond the mean that a run is reckoned to take: about the slowest in a hundred.
const DEVIATIONS: f64 = 3.0;
/// A larger size has to bring so much more throughput to be worth its latency.
const WORTHWHILE: f64 = 1.03;
/// Rows a run of unknown size is tried with, as a multiple of the largest one known.
const GROWTH: usize = 2;

/// Run times of batches by their size.
#[derive(Clone, Debug, Default)]
pub(super) struct RunTimes {
    classes: [Class; CLASSES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    runs: u64,
    /// Runs that count, forgotten after a while.
    fresh: u64,
    mean_rows: f64,
    mean_s: f64,
    deviation_s: f64,
    last: Option<Instant>,
}

impl Class {
    fn is_known(&self, now: Instant) -> bool {
        self.fresh >= ENOUGH && self.last.is_some_and(|last| now.saturating_duration_since(last) <= MEMORY)
    }
}

/// Batches of about one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SizeReport {
    pub rows: f64,
    pub batches: u64,
    pub mean_run: Duration,
}

fn class_of(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(CLASSES - 1)
}

impl RunTimes {
    /// A batch of so many rows, padding among them, has run.
    pub(super) fn record(&mut self, rows: usize, took: Duration, now: Instant) {
        let class = &mut self.classes[class_of(rows)];
        if class.last.is_some_and(|last| now.saturating_duration_since(last) > MEMORY) {
            class.fresh = 0;
        }
        class.runs += 1;
        class.fresh += 1;
        class.last = Some(now);
        let weight = WEIGHT.max(1.0 / class.fresh as f64);
        let (rows, took) = (rows as f64, took.as_secs_f64());
        let off = if class.fresh == 1 { 0.0 } else { (took - class.mean_s).abs() };
        if class.fresh == 1 {
            (class.mean_rows, class.mean_s, class.deviation_s) = (rows, took, 0.0);
        }
        class.mean_rows += weight * (rows - class.mean_rows);
        class.mean_s += weight * (took - class.mean_s);
        class.deviation_s += weight * (off - class.deviation_s);
    }

    /// How long a batch of so many rows runs, on average. What is not known is reckoned from the nearest size that is:
    /// twice the rows take twice the time, half the rows as long.
    pub(super) fn expected(&self, rows: usize) -> Option<Duration> {
        let class = class_of(rows);
        let smaller = self.classes[..=class].iter().rev().find(|known| known.runs > 0);
        let known = smaller.or_else(|| self.classes[class..].iter().find(|known| known.runs > 0))?;
        Duration::try_from_secs_f64(known.mean_s * (rows as f64 / known.mean_rows).max(1.0)).ok()
    }

    /// How long so many rows take at the best rate that is known; no time while little is known.
    pub(super) fn time_for(&self, rows: usize, now: Instant) -> Duration {
        let known = self.classes.iter().filter(|class| class.is_known(now));
        let per_row_s = known.map(|class| class.mean_s / class.mean_rows).min_by(f64::total_cmp).unwrap_or(0.0);
        Duration::try_from_secs_f64(per_row_s * rows as f64).unwrap_or(Duration::MAX)
    }

    /// The rows that batches are cut at so that most requests are served without any of them taking too long.
    ///
    /// Without an objective, the size from which on larger ones bring nothing. Sizes are tried from small to large: a
    /// batch is never more than twice as large as those that are known.
    pub(super) fn best_size(&self, objective: Option<Duration>, most: usize, now: Instant) -> usize {
        let allowed_s = objective.map_or(f64::INFINITY, |objective| objective.as_secs_f64() / BATCHES_TO_WAIT_FOR);
        let (mut best, mut best_rate) = (1, 0.0);
        for (index, class) in self.classes.iter().enumerate() {
            let largest = (2_usize << index) - 1;
            if !class.is_known(now) {
                continue;
            }
            let slow_s = class.mean_s + DEVIATIONS * class.deviation_s;
            if slow_s > allowed_s {
                // Of this size some may still be in time: as many rows as the time allows, if time goes with rows.
                let fitting = (class.mean_rows * allowed_s / slow_s) as usize;
                best = best.max(fitting.min(largest));
                break;
            }
            let rate = class.mean_rows / class.mean_s.max(f64::MIN_POSITIVE);
            if rate >= best_rate * WORTHWHILE || best_rate == 0.0 {
                best_rate = rate;
                // The next size takes at most twice as long; tried only if that would be in time.
                let next = class.mean_s * GROWTH as f64 <= allowed_s;
                best = if next { largest + 1 } else { largest.min((class.mean_rows * allowed_s / slow_s) as usize) };
            }
        }
        best.clamp(1, most.max(1))
    }

    pub(super) fn report(&self) -> Vec<SizeReport> {
        let known = self.classes.iter().filter(|class| class.runs > 0);
        known
            .map(|class| SizeReport {
                rows: class.mean_rows,
                batches: class.runs,
                mean_run: Duration::try_from_secs_f64(class.mean_s).unwrap_or_default(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(sizes: &[usize], run_us: impl Fn(usize) -> u64) -> (RunTimes, Instant) {
        let (mut times, now) = (RunTimes::default(), Instant::now());
        for rows in sizes {
            for _ in 0..20 {
                times.record(*rows, Duration::from_micros(run_us(*rows)), now);
            }
        }
        (times, now)
    }

    const SIZES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

    #[test]
    fn sizes_grow_step_by_step() {
        let (times, now) = learned(&[], |_| 0);
        assert_eq!(times.best_size(None, 1000, now), 1);
        let constant = |_| 100;
        let (times, now) = learned(&SIZES[..1], constant);
        assert_eq!(times.best_size(None, 1000, now), 2);
        let (times, now) = learned(&SIZES[..4], constant);
        assert_eq!(times.best_size(None, 1000, now), 16);
        assert_eq!(times.best_size(None, 10, now), 10, "there is a bound");
    }

    #[test]
    fn size_does_not_grow_where_that_brings_nothing() {
        let (times, now) = learned(&SIZES, |rows| 100 * rows as u64);
        assert_eq!(times.best_size(None, 1000, now), 2);
        let (times, now) = learned(&SIZES, |rows| 1000 + 100 * rows.max(32) as u64 * if rows > 32 { 2 } else { 1 });
        assert_eq!(times.best_size(None, 1000, now), 64, "up to twice the last size that paid");
    }

    #[test]
    fn size_keeps_within_the_objective() {
        let (times, now) = learned(&SIZES, |rows| 1000 + 100 * rows as u64);
        let objective = |ms| Some(Duration::from_millis(ms));
        assert_eq!(times.best_size(objective(1000), 1000, now), 256);
        let size = times.best_size(objective(10), 1000, now);
        assert!((24..=48).contains(&size), "half the time is for the batch before: {size}");
        assert_eq!(times.best_size(objective(1), 1000, now), 1, "nothing can be in time");
    }

    #[test]
    fn what_was_learned_long_ago_is_learned_again() {
        let (times, now) = learned(&SIZES, |_| 100);
        assert_eq!(times.time_for(1280, now), Duration::from_millis(1));
        assert_eq!(times.best_size(None, 1000, now + MEMORY * 2), 1);
        assert_eq!(times.time_for(1280, now + MEMORY * 2), Duration::ZERO);
    }

    #[test]
    fn what_is_unknown_is_reckoned() {
        let (times, _) = learned(&[8], |_| 800);
        let expected = |rows| times.expected(rows).map(|time| time.as_micros());
        assert_eq!((expected(1), expected(8), expected(16)), (Some(800), Some(800), Some(1600)));
        assert_eq!(RunTimes::default().expected(1), None);
        assert_eq!(times.report(), [SizeReport { rows: 8.0, batches: 20, mean_run: Duration::from_micros(800) }]);
    }
}
