//! Who comes: how many rows in a second, and whether those who have been answered ask again.

use std::time::{Duration, Instant};

/// How far back the load is looked at: so many runs of a batch, and at least so long.
const RUNS: u32 = 8;
const MEMORY: Duration = Duration::from_millis(100);
/// Callers that ask again at once do so within this share of the time that a batch runs. Nobody waits for them where that is
/// less than timers can tell.
const AT_ONCE: f64 = 0.125;
const LEAST_WAIT: Duration = Duration::from_micros(500);
/// They are waited for if so many of those who were answered ask again, until so many of those are back.
const FAITHFUL: f64 = 0.5;
const NEARLY_ALL: f64 = 0.9;
/// How much the newest batch counts.
const WEIGHT: f64 = 0.1;

/// Rows that come in a second, of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    per_s: f64,
    /// Those not counted yet, and since when.
    rows: usize,
    since: Option<Instant>,
}

impl Load {
    pub(super) fn joined(&mut self, rows: usize, now: Instant) {
        self.since.get_or_insert(now);
        self.rows += rows;
    }

    /// Rows in a second, where what is older than a few runs hardly counts.
    pub(super) fn per_s(&self, run: Duration, now: Instant) -> f64 {
        let Some(since) = self.since else { return 0.0 };
        let passed_s = now.saturating_duration_since(since).as_secs_f64().max(1e-6);
        let memory_s = run.saturating_mul(RUNS).max(MEMORY).as_secs_f64();
        let weight = 1.0 - (-passed_s / memory_s).exp();
        self.per_s + weight * (self.rows as f64 / passed_s - self.per_s)
    }

    /// Counts what has come so far.
    pub(super) fn count(&mut self, run: Duration, now: Instant) {
        *self = Self { per_s: self.per_s(run, now), rows: 0, since: Some(now) };
    }
}

/// Callers that ask again as soon as they are answered: a batch that is cut before they have done so is smaller than it could
/// be, and so are all that follow it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returns {
    /// What share of the rows of a batch comes again at once.
    share: f64,
    last: Option<Answered>,
}

/// The last batch.
#[derive(Clone, Copy, Debug)]
struct Answered {
    at: Instant,
    rows: usize,
    /// How long it ran.
    run: Duration,
    /// Rows that have come at once since.
    returned: usize,
}

impl Answered {
    fn at_once(&self) -> Duration {
        self.run.mul_f64(AT_ONCE)
    }
}

impl Returns {
    pub(super) fn joined(&mut self, rows: usize, now: Instant) {
        if let Some(last) = &mut self.last
            && now.saturating_duration_since(last.at) <= last.at_once()
        {
            last.returned += rows;
        }
    }

    /// A batch of so many rows has run for so long.
    pub(super) fn answered(&mut self, rows: usize, run: Duration, now: Instant) {
        if let Some(last) = self.last {
            let share = (last.returned as f64 / last.rows.max(1) as f64).min(1.0);
            self.share += WEIGHT * (share - self.share);
        }
        self.last = Some(Answered { at: now, rows, run, returned: 0 });
    }

    /// How many rows are about to come, and until when they are waited for.
    pub(super) fn awaited(&self) -> Option<(usize, Instant)> {
        let last = self.last.filter(|last| self.share >= FAITHFUL && last.at_once() >= LEAST_WAIT)?;
        let expected = (last.rows as f64 * self.share * NEARLY_ALL) as usize;
        let missing = expected.saturating_sub(last.returned);
        (missing > 0).then(|| (missing, last.at + last.at_once()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: f64) -> Duration {
        Duration::from_secs_f64(count / 1e3)
    }

    #[test]
    fn load_is_that_of_late() {
        let (mut load, start) = (Load::default(), Instant::now());
        assert!(load.per_s(ms(1.0), start) < 1.0, "nobody has come");
        let mut now = start;
        for _ in 0..1000 {
            now += ms(1.0);
            load.joined(2, now);
            load.count(ms(1.0), now);
        }
        assert!((1900.0..2100.0).contains(&load.per_s(ms(1.0), now)), "{load:?}");
        assert!(load.per_s(ms(1.0), now + ms(1000.0)) < 10.0, "nobody comes any more");
        assert!(load.per_s(ms(500.0), now + ms(1000.0)) > 1000.0, "nobody for two runs of a batch");
    }

    /// Batches of callers who ask again after so many milliseconds, while others wait; returns the rows of the last one.
    fn last_batch(callers: u32, first: u32, thinking_ms: f64) -> u32 {
        let (mut returns, mut now, mut batch) = (Returns::default(), Instant::now(), first);
        for _ in 0..50 {
            let run = ms(16.0 + 0.25 * f64::from(batch));
            now += run;
            returns.answered(batch as usize, run, now);
            let (mut waiting, done, mut cut) = (callers - batch, now, None);
            for caller in 0..batch {
                if waiting > 0 && returns.awaited().is_none_or(|(_, until)| until <= now) {
                    cut.get_or_insert((waiting, now));
                }
                now = done + ms(thinking_ms + 0.01 * f64::from(caller));
                returns.joined(1, now);
                waiting += 1;
            }
            (batch, now) = cut.unwrap_or((waiting, now));
        }
        batch
    }

    #[test]
    fn those_who_ask_again_at_once_are_waited_for() {
        assert!(last_batch(64, 44, 0.2) >= 57, "{}", last_batch(64, 44, 0.2));
        assert_eq!(last_batch(64, 44, 10.0), 44, "they come too late to be waited for");
    }

    #[test]
    fn nobody_waits_longer_than_it_is_worth() {
        let (mut returns, start) = (Returns::default(), Instant::now());
        assert_eq!(returns.awaited(), None);
        let answer = |returns: &mut Returns, rows, run_ms, returning| {
            for _ in 0..50 {
                returns.answered(rows, ms(run_ms), start);
                returns.joined(returning, start);
            }
            returns.answered(rows, ms(run_ms), start);
        };
        answer(&mut returns, 20, 16.0, 20);
        assert_eq!(returns.awaited().map(|(_, until)| until), Some(start + ms(2.0)));
        returns.joined(18, start);
        assert_eq!(returns.awaited(), None, "nearly all are back");
        answer(&mut returns, 20, 16.0, 5);
        assert_eq!(returns.awaited(), None, "few come again");
        answer(&mut returns, 1, 16.0, 1);
        assert_eq!(returns.awaited(), None, "one that is alone");
        answer(&mut returns, 20, 1.0, 20);
        assert_eq!(returns.awaited(), None, "it would take longer to wait than to run");
    }
}
