//! What is learned of a queue: how long batches of which size run, and what size serves best.

use std::time::{Duration, Instant};

/// Sizes are known by powers of two; the last class holds all that are larger.
const CLASSES: usize = 24;
/// How much the newest run counts, once there have been a few.
const WEIGHT: f64 = 0.1;
/// Runs before a class is trusted.
const ENOUGH: u64 = 4;
/// What was learned of a size that has not been used for so long counts only where nothing newer is known: the machine may
/// have had other work.
const MEMORY: Duration = Duration::from_secs(30);
/// A request may have to wait for a batch that has just begun, before its own one runs.
const BATCHES_TO_WAIT_FOR: f64 = 2.0;
/// Deviations beyond the mean that a run is reckoned to take: about the slowest in a hundred.
const DEVIATIONS: f64 = 3.0;
/// A larger size has to bring so much more throughput to be worth its latency.
const WORTHWHILE: f64 = 1.03;
/// What it has to bring to part requests that could run together.
const WORTH_PARTING: f64 = 1.1;
/// Time that a size is reckoned to take that is not known, as a multiple of that of the next smaller class.
const GROWTH: f64 = 2.0;
/// Sizes without gain that are tried before larger ones are taken to bring none either.
const TRIES: usize = 2;
/// No size is tried that may run longer than this.
const LONGEST_RUN: Duration = Duration::from_secs(1);

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

/// At how many rows batches are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// So that requests are answered within the objective, one batch after another.
    pub(super) usual: usize,
    /// So that as many as possible are answered.
    pub(super) greatest: usize,
    /// More waiting rows than this cannot be answered within the objective at the usual size.
    pub(super) patience_rows: usize,
}

impl Sizes {
    pub(super) fn all(rows: usize) -> Self {
        Self { usual: rows, greatest: rows, patience_rows: usize::MAX }
    }

    #[must_use]
    pub(super) fn map(self, change: impl Fn(usize) -> usize) -> Self {
        Self { usual: change(self.usual), greatest: change(self.greatest), ..self }
    }
}

impl Class {
    /// Rows in a second.
    fn rate(&self) -> f64 {
        self.mean_rows / self.mean_s.max(f64::MIN_POSITIVE)
    }

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

/// The largest size of a class.
fn largest_of(class: usize) -> usize {
    (2_usize << class) - 1
}

impl RunTimes {
    /// A batch of so many rows, padding among them, has run.
    pub(super) fn record(&mut self, rows: usize, took: Duration, now: Instant) {
        let class = &mut self.classes[class_of(rows)];
        if class.last.is_some_and(|last| now.saturating_duration_since(last) > MEMORY) {
            class.fresh = 0;
        }
        class.runs += 1;
        class.last = Some(now);
        if class.runs == 1 {
            // What a session does once for a new size would pass for the size's own time.
            (class.mean_rows, class.mean_s) = (rows as f64, took.as_secs_f64());
            return;
        }
        class.fresh += 1;
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

    /// How long a batch of so many rows runs, on average. What lies between two sizes that are known is reckoned from both;
    /// beyond them, twice the rows take twice the time, and half the rows as long.
    pub(super) fn expected(&self, rows: usize) -> Option<Duration> {
        let rows = rows as f64;
        let known = || self.classes.iter().filter(|known| known.runs > 0);
        let smaller = known().rfind(|known| known.mean_rows <= rows);
        let larger = known().find(|known| known.mean_rows > rows);
        let run_s = match (smaller, larger) {
            (Some(smaller), Some(larger)) => {
                let share = (rows - smaller.mean_rows) / (larger.mean_rows - smaller.mean_rows);
                smaller.mean_s + share * (larger.mean_s - smaller.mean_s)
            }
            (Some(smaller), None) => smaller.mean_s * rows / smaller.mean_rows,
            (None, Some(larger)) => larger.mean_s,
            (None, None) => return None,
        };
        Duration::try_from_secs_f64(run_s).ok()
    }

    /// How long so many rows take at the best rate that is known; no time while little is known.
    pub(super) fn time_for(&self, rows: usize, now: Instant) -> Duration {
        let per_row_s =
            self.known(now).map(|(_, class)| class.mean_s / class.mean_rows).min_by(f64::total_cmp).unwrap_or(0.0);
        Duration::try_from_secs_f64(per_row_s * rows as f64).unwrap_or(Duration::MAX)
    }

    /// The sizes that serve best, between 1 and `most`. Batches have `allowed` sizes, or any if there are none.
    pub(super) fn sizes(&self, objective: Option<Duration>, most: usize, allowed: &[usize], now: Instant) -> Sizes {
        let greatest = self.greatest(allowed, now).clamp(1, most.max(1));
        let Some(objective) = objective else {
            return Sizes { usual: greatest, greatest, patience_rows: usize::MAX };
        };
        let usual = self.within(objective, now).clamp(1, greatest);
        let class = self.known(now).filter(|(index, _)| *index <= class_of(usual)).last();
        let per_row_s = class.map_or(0.0, |(_, class)| class.mean_s / class.mean_rows);
        let patience_rows = if per_row_s > 0.0 { (objective.as_secs_f64() / per_row_s) as usize } else { usize::MAX };
        Sizes { usual, greatest, patience_rows }
    }

    /// The size for so many waiting rows, while so many batches may run: the one with which all together wait least, as far as
    /// that is known, those who come meanwhile among them; the usual one unless another is clearly better. Once they cannot
    /// be served in time any more, what serves most rows, and may have to be found out.
    pub(super) fn size_for(&self, waiting: usize, free: usize, load: f64, sizes: Sizes, now: Instant) -> usize {
        if waiting > sizes.patience_rows {
            return sizes.greatest;
        }
        // Without another size: how long so many take together is found out by letting them.
        let together = waiting.min(sizes.usual);
        if !self.known(now).any(|(index, _)| index == class_of(together)) {
            return sizes.usual;
        }
        let wait_s = |rows: usize| {
            let turns = waiting.div_ceil(rows.max(1)).div_ceil(free.max(1)) as f64;
            let run_s = self.expected(rows).map_or(f64::INFINITY, |time| time.as_secs_f64());
            let all_s = run_s * turns;
            waiting as f64 * f64::midpoint(run_s, all_s) + load * all_s * all_s / 2.0
        };
        let (mut best, mut best_s) = (sizes.usual, wait_s(together));
        for (index, _) in self.known(now) {
            let rows = largest_of(index).min(waiting).min(sizes.greatest);
            let worthwhile = if rows < together { WORTH_PARTING } else { WORTHWHILE };
            let wait_s = wait_s(rows) * if best == sizes.usual { worthwhile } else { 1.0 };
            if rows != together && wait_s < best_s {
                (best, best_s) = (rows, wait_s);
            }
        }
        best
    }

    /// How many of the rows that a batch may take it leaves to the next one, if others are running: as many as make both alike,
    /// where those that go gain more than those that stay lose. Otherwise a large batch and small ones beside it would take
    /// turns for ever.
    pub(super) fn balanced(&self, rows: usize, running: usize, batches: usize) -> usize {
        let share = (rows + running).div_ceil(batches.max(1)).max(1);
        let run_s = |rows: usize| self.expected(rows).map_or(0.0, |time| time.as_secs_f64());
        let gain = share as f64 * (run_s(rows) - run_s(share));
        let loss = rows.saturating_sub(share) as f64 * run_s(running) / 2.0;
        if running > 0 && share < rows && gain > loss { share } else { rows }
    }

    /// The classes that have been seen of late; where there are none, those that have been seen at all.
    fn known(&self, now: Instant) -> impl Iterator<Item = (usize, &Class)> {
        let is_fresh = self.classes.iter().any(|class| class.is_known(now));
        let is_known = move |class: &Class| if is_fresh { class.is_known(now) } else { class.runs >= ENOUGH };
        self.classes.iter().enumerate().filter(move |(_, class)| is_known(class))
    }

    /// The size of which most rows are served in a second. Larger ones than those known are tried, one after another, until
    /// they bring no more: one that does not may still be followed by one that does.
    fn greatest(&self, allowed: &[usize], now: Instant) -> usize {
        let (mut best, mut best_rate, mut in_vain) = (1, 0.0, 0);
        let mut last = None;
        for (index, class) in self.known(now) {
            let rate = class.rate();
            if rate >= best_rate * WORTHWHILE {
                (best, best_rate, in_vain) = (largest_of(index), rate, 0);
            } else {
                in_vain += 1;
            }
            last = Some((index, class));
        }
        let Some((index, class)) = last else { return best };
        if in_vain >= TRIES || class.mean_s * GROWTH > LONGEST_RUN.as_secs_f64() {
            return best;
        }
        // The end of the next class always has room for two requests of this one.
        let next = largest_of(index + 1);
        let larger = allowed.iter().copied().find(|size| *size > largest_of(index));
        if allowed.is_empty() { next } else { larger.unwrap_or(best) }
    }

    /// The largest size of which a request in a hundred at most takes longer than the objective.
    fn within(&self, objective: Duration, now: Instant) -> usize {
        let allowed_s = objective.as_secs_f64() / BATCHES_TO_WAIT_FOR;
        let mut best = 1;
        for (index, class) in self.known(now) {
            let largest = largest_of(index);
            let slow_s = class.mean_s + DEVIATIONS * class.deviation_s;
            // As many rows as the time allows, if time goes with rows.
            let fitting = (class.mean_rows * allowed_s / slow_s.max(f64::MIN_POSITIVE)) as usize;
            if slow_s > allowed_s {
                return best.max(fitting.min(largest));
            }
            // A size of the next class takes at most about twice as long; tried only if that would be in time.
            let is_next_in_time = slow_s * GROWTH <= allowed_s;
            best = if is_next_in_time { largest_of(index + 1).min(fitting) } else { largest.min(fitting) };
        }
        best
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

    fn greatest(times: &RunTimes, now: Instant) -> usize {
        times.sizes(None, 1000, &[], now).usual
    }

    #[test]
    fn sizes_grow_step_by_step() {
        let (times, now) = learned(&[], |_| 0);
        assert_eq!(greatest(&times, now), 1);
        let constant = |_| 100;
        let (times, now) = learned(&SIZES[..1], constant);
        assert_eq!(greatest(&times, now), 3);
        let (times, now) = learned(&SIZES[..4], constant);
        assert_eq!(greatest(&times, now), 31);
        assert_eq!(times.sizes(None, 10, &[], now).usual, 10, "there is a bound");
        assert_eq!(times.sizes(None, 1000, &[8, 64], now).usual, 64, "the next one that is allowed");
        let (times, now) = learned(&SIZES, |rows| 10_000 * rows as u64 / (1 + rows as u64 / 32));
        assert_eq!(greatest(&times, now), 511, "no size runs so long that the next might take a second");
        let (times, now) = learned(&[6], constant);
        assert_eq!(greatest(&times, now), 15, "requests of many rows are joined, too");
    }

    #[test]
    fn size_does_not_grow_where_that_brings_nothing() {
        let (times, now) = learned(&SIZES[..2], |rows| 100 * rows as u64);
        assert_eq!(greatest(&times, now), 7, "perhaps the next one brings something");
        let (times, now) = learned(&SIZES[..3], |rows| 100 * rows as u64);
        assert_eq!(greatest(&times, now), 1);
        let (times, now) = learned(&SIZES, |rows| if rows < 16 { 100 * rows as u64 } else { 1600 });
        assert_eq!(greatest(&times, now), 511, "a hill may lie behind a valley, if somebody has been there");
    }

    #[test]
    fn size_keeps_within_the_objective() {
        let (times, now) = learned(&SIZES, |rows| 1000 + 100 * rows as u64);
        let usual = |ms| times.sizes(Some(Duration::from_millis(ms)), 1000, &[], now).usual;
        assert_eq!(usual(1000), 511);
        assert!((24..=48).contains(&usual(10)), "half the time is for the batch before: {}", usual(10));
        assert_eq!(usual(1), 1, "nothing can be in time");
    }

    #[test]
    fn a_backlog_is_served_as_fast_as_can_be() {
        let (times, now) = learned(&SIZES, |rows| 1000 + 100 * rows as u64);
        let sizes = times.sizes(Some(Duration::from_millis(3)), 1000, &[], now);
        assert!(sizes.usual < 8 && sizes.greatest == 511, "{sizes:?}");
        let size_for = |waiting| times.size_for(waiting, 1, 0.0, sizes, now);
        assert_eq!(size_for(3), sizes.usual);
        assert_eq!((size_for(8), size_for(1000)), (8, sizes.greatest), "two batches of the usual size take longer");
        let (times, now) = learned(&SIZES, |rows| 100 * rows as u64);
        let sizes = times.sizes(Some(Duration::from_millis(3)), 1000, &[], now);
        assert_eq!(times.size_for(16, 1, 0.0, sizes, now), sizes.usual, "a larger size brings nothing");
    }

    /// One row in 5 ms, and any number from two on in 15 ms or a little more.
    fn learned_of_a_network() -> (RunTimes, Instant, Sizes) {
        let (times, now) = learned(&SIZES, |rows| if rows == 1 { 5_000 } else { 15_000 + 100 * rows as u64 });
        let sizes = times.sizes(None, 1000, &[], now);
        (times, now, sizes)
    }

    #[test]
    fn requests_are_joined_where_all_together_wait_less() {
        let (times, now, sizes) = learned_of_a_network();
        let cases = [
            ("one after the other is sooner", 2, 1, 50.0, 1),
            ("for three, too", 3, 1, 50.0, 1),
            ("not for many", 8, 1, 50.0, sizes.usual),
            ("those who come meanwhile would wait", 4, 1, 1000.0, sizes.usual),
            ("two at a time", 2, 2, 1000.0, 1),
            ("and two more after them", 4, 2, 50.0, 1),
        ];
        for (what, waiting, free, load, size) in cases {
            assert_eq!(times.size_for(waiting, free, load, sizes, now), size, "{what}");
        }
        let (times, now) = learned(&SIZES, |_| 1000);
        let sizes = times.sizes(None, 1000, &[], now);
        assert_eq!(times.size_for(2, 2, 0.0, sizes, now), sizes.usual, "both on their own bring nothing");
        let (times, now) = learned(&[1], |_| 1000);
        let sizes = times.sizes(None, 1000, &[], now);
        assert_eq!(times.size_for(2, 1, 0.0, sizes, now), sizes.usual, "it has to be found out");
    }

    #[test]
    fn a_large_batch_and_small_ones_become_alike() {
        let (times, _) = learned(&SIZES, |rows| 1000 + 100 * rows as u64);
        assert_eq!(times.balanced(56, 8, 2), 32);
        assert_eq!(times.balanced(56, 0, 2), 56, "nothing else is running");
        assert_eq!(times.balanced(30, 34, 2), 30, "it is the smaller one");
        assert_eq!(times.balanced(56, 8, 1), 56);
        let (times, _) = learned(&SIZES, |_| 1000);
        assert_eq!(times.balanced(56, 8, 2), 56, "nobody gains");
    }

    #[test]
    fn what_has_been_seen_of_late_goes_before_what_has_not() {
        let (mut times, now) = learned(&SIZES, |_| 100);
        assert_eq!(times.time_for(1280, now), Duration::from_millis(1));
        let later = now + MEMORY * 2;
        assert_eq!(greatest(&times, later), 511, "nothing is known that is newer");
        (0..20).for_each(|_| times.record(32, Duration::from_micros(100), later));
        assert_eq!(greatest(&times, later), 127, "small ones are not needed to know of larger ones");
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
