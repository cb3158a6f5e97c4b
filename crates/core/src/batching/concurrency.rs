//! How many batches at a time serve best. It depends on the model, on the machine and on the load, so it is found out by
//! trying: spans with another number take turns with spans of the usual one, and are compared with their neighbours.

use std::time::{Duration, Instant};

/// A span lasts for so many batches, and for so many times as long as a request takes, within bounds.
const BATCHES: u32 = 20;
/// Batches at its begin that do not count: they serve what those before have left waiting.
const SETTLING: u32 = 10;
const TIMES_A_REQUEST: u32 = 20;
const SHORTEST: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(2);
/// Nothing is learned from a span that is longer, since little comes in, or batches take seconds.
const LONGEST: Duration = Duration::from_secs(30);
/// A span begins anew after a pause of so many times as long as a request takes.
const PAUSE: u32 = 20;
/// Another number is tried if it made a difference to so many of the requests: those that found no free place.
const CONTENDED: f64 = 0.25;
/// What a number has to gain to be worth a change, as the logarithm of `Span::power`.
const WORTHWHILE: f64 = 0.05;
/// Comparisons before a trial may end, and those after which it does.
const FEWEST: u32 = 4;
const MOST: u32 = 12;
/// A mean gain that ends a trial after so many comparisons: a trial costs those who come meanwhile, and is repeated.
const POOR: [f64; 3] = [f64::NEG_INFINITY, -0.2, 0.0];
/// A loss that ends it as soon as a few batches have run, if requests take so much longer besides: what piles up while too few
/// batches run has to be served afterwards.
const SEVERE: f64 = -0.2;
const FEW_BATCHES: u32 = 5;
const MUCH_LONGER: f64 = 1.25;
/// Nothing is compared with two spans of the usual number that differ by more.
const STEADY: f64 = 0.5;
/// Standard errors by which a gain has to be clear.
const CLEAR: f64 = 2.0;
/// Comparisons that came to nothing since the load has changed, before a trial ends.
const MOST_UNSTEADY: u32 = 3;
/// Between two trials: so long at first, twice as long after each one in vain, up to so long.
const SHORT_PAUSE: Duration = Duration::from_secs(4);
const LONG_PAUSE: Duration = Duration::from_secs(1024);
/// Before what has just been left is tried again.
const RETURN_PAUSE: Duration = Duration::from_secs(30);

/// Batches that a pool runs at a time, as they are learned.
#[derive(Debug)]
pub(super) struct Concurrency {
    most: usize,
    usual: usize,
    trial: Option<Trial>,
    /// Of trials with more, and with fewer.
    pauses: [Pause; 2],
    span: Option<Span>,
}

/// Another number, under trial.
#[derive(Debug)]
struct Trial {
    direction: Direction,
    number: usize,
    /// How the usual number did before it: its power, and how long requests took.
    before: f64,
    took: Duration,
    /// How it did, once it has had its turn and the usual number has another.
    during: Option<f64>,
    gains: Gains,
    unsteady: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    More = 0,
    Fewer = 1,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    length: Duration,
    end: Instant,
}

/// What has been seen since its begin.
#[derive(Debug)]
struct Span {
    begin: Instant,
    /// When the last batch had run.
    last: Instant,
    is_settled: bool,
    batches: u32,
    requests: u32,
    /// Of all requests together, from joining to their answers.
    took: Duration,
    joined: u32,
    /// Requests that found as many batches running as the pool may have, and half as many.
    found_full: u32,
    found_half_full: u32,
}

/// Gains of a number over the usual one: how many, their mean, and the sum of squares around it.
#[derive(Debug, Default)]
struct Gains {
    count: u32,
    mean: f64,
    squares: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    NoBetter,
    Unclear,
}

impl Concurrency {
    /// Begins with a usual number, and stays between one and the most.
    pub(super) fn new(usual: usize, most: usize, now: Instant) -> Self {
        let (most, pause) = (most.max(1), Pause::of(SHORT_PAUSE, now));
        Self { most, usual: usual.clamp(1, most), trial: None, pauses: [pause; 2], span: None }
    }

    /// How many batches may run at the moment.
    pub(super) fn number(&self) -> usize {
        match &self.trial {
            Some(trial) if trial.during.is_none() => trial.number,
            _ => self.usual,
        }
    }

    /// How many may run when no other number is tried.
    pub(super) fn usual(&self) -> usize {
        self.usual
    }

    /// A request has come, while so many batches are running.
    pub(super) fn joined(&mut self, running: usize) {
        let number = self.number();
        if let Some(span) = &mut self.span {
            span.joined += 1;
            span.found_full += u32::from(running >= number);
            span.found_half_full += u32::from(running * 2 >= number);
        }
    }

    /// A batch has run, whose requests took so long from joining on.
    pub(super) fn ran(&mut self, took: impl Iterator<Item = Duration>, now: Instant) {
        let Some(span) = &mut self.span else {
            self.span = Some(Span::from(now));
            return;
        };
        let is_pause = now.saturating_duration_since(span.last) > span.mean_took().saturating_mul(PAUSE).max(SHORTEST);
        span.last = now;
        if span.is_settled && is_pause {
            // Nobody has come for a while: what is seen says more about the load than about the number.
            self.span = Some(Span::from(now));
            return;
        }
        if now.saturating_duration_since(span.begin) > LONGEST {
            self.trial = None;
            self.span = Some(Span::from(now));
            return;
        }
        span.batches += 1;
        for time in took {
            span.requests += 1;
            span.took = span.took.saturating_add(time);
        }
        if let Some(trial) = &self.trial
            && trial.is_hopeless(span, now)
        {
            self.pauses[trial.direction as usize].double(now);
            self.trial = None;
            self.span = Some(Span::from(now));
        } else if !span.is_settled && span.batches >= SETTLING {
            self.span = Some(Span { is_settled: true, ..Span::from(now) });
        } else if span.is_settled
            && span.is_over(now)
            && let Some(span) = self.span.replace(Span::from(now))
        {
            self.learn(&span, now);
        }
    }

    fn learn(&mut self, span: &Span, now: Instant) {
        let power = span.power(now);
        let Some(trial) = &mut self.trial else {
            self.trial = self.next_trial(span, power, now);
            return;
        };
        let Some(during) = trial.during.take() else {
            trial.during = Some(power);
            return;
        };
        let before = std::mem::replace(&mut trial.before, power);
        trial.took = span.mean_took();
        // Where the usual number does otherwise than before, it is the load that has changed.
        if (power - before).abs() > STEADY {
            trial.unsteady += 1;
        } else {
            trial.gains.note(during - f64::midpoint(before, power));
        }
        let (direction, number) = (trial.direction, trial.number);
        let verdict = if trial.unsteady < MOST_UNSTEADY { trial.gains.verdict() } else { Verdict::NoBetter };
        match verdict {
            Verdict::Better => {
                self.usual = number;
                self.pauses = [Pause::of(SHORT_PAUSE, now); 2];
                self.pauses[direction.other() as usize].end = now + RETURN_PAUSE;
            }
            Verdict::NoBetter => self.pauses[direction as usize].double(now),
            Verdict::Unclear if span.is_contended(direction) => return,
            Verdict::Unclear => {}
        }
        self.trial = None;
    }

    fn next_trial(&self, span: &Span, before: f64, now: Instant) -> Option<Trial> {
        let candidates = [(Direction::More, (self.usual * 2).min(self.most)), (Direction::Fewer, self.usual / 2)];
        let (direction, number) = candidates.into_iter().find(|(direction, number)| {
            let is_another = *number > 0 && *number != self.usual;
            is_another && self.pauses[*direction as usize].end <= now && span.is_contended(*direction)
        })?;
        let (took, gains) = (span.mean_took(), Gains::default());
        Some(Trial { direction, number, before, took, during: None, gains, unsteady: 0 })
    }
}

impl Trial {
    /// Whether it is seen already that its number is not enough.
    fn is_hopeless(&self, span: &Span, now: Instant) -> bool {
        self.during.is_none()
            && span.batches >= FEW_BATCHES
            && span.mean_took() > self.took.mul_f64(MUCH_LONGER)
            && span.power(now) < self.before + SEVERE
    }
}

impl Direction {
    fn other(self) -> Self {
        match self {
            Self::More => Self::Fewer,
            Self::Fewer => Self::More,
        }
    }
}

impl Pause {
    fn of(length: Duration, now: Instant) -> Self {
        Self { length, end: now + length }
    }

    fn double(&mut self, now: Instant) {
        *self = Self::of((self.length * 2).min(LONG_PAUSE), now);
    }
}

impl Span {
    fn from(begin: Instant) -> Self {
        let took = Duration::ZERO;
        Self {
            begin,
            last: begin,
            is_settled: false,
            batches: 0,
            requests: 0,
            took,
            joined: 0,
            found_full: 0,
            found_half_full: 0,
        }
    }

    fn mean_took(&self) -> Duration {
        self.took / self.requests.max(1)
    }

    fn is_over(&self, now: Instant) -> bool {
        let long = self.mean_took().saturating_mul(TIMES_A_REQUEST).clamp(SHORTEST, LONG);
        self.batches >= BATCHES && now.saturating_duration_since(self.begin) >= long
    }

    /// The logarithm of answers per second, for each second that they took: what a server that is busy gains in throughput
    /// counts as much as what one that is not gains in latency (L. Kleinrock's power of a queue).
    fn power(&self, now: Instant) -> f64 {
        let length_s = now.saturating_duration_since(self.begin).as_secs_f64();
        let rate = f64::from(self.requests) / length_s.max(f64::MIN_POSITIVE);
        (rate / self.mean_took().as_secs_f64().max(1e-9)).ln()
    }

    /// Whether a number in this direction would have made a difference to many.
    fn is_contended(&self, direction: Direction) -> bool {
        let found = match direction {
            Direction::More => self.found_full,
            Direction::Fewer => self.found_half_full,
        };
        f64::from(found) >= CONTENDED * f64::from(self.joined.max(1))
    }
}

impl Gains {
    fn note(&mut self, gain: f64) {
        self.count += 1;
        let off = gain - self.mean;
        self.mean += off / f64::from(self.count);
        self.squares += off * (gain - self.mean);
    }

    fn verdict(&self) -> Verdict {
        if self.mean < POOR[(self.count as usize).min(POOR.len() - 1)] {
            return Verdict::NoBetter;
        }
        if self.count < FEWEST {
            return Verdict::Unclear;
        }
        let count = f64::from(self.count);
        let margin = CLEAR * (self.squares / (count - 1.0) / count).sqrt();
        if self.mean - margin > WORTHWHILE {
            Verdict::Better
        } else if self.mean + margin < WORTHWHILE || self.count >= MOST {
            Verdict::NoBetter
        } else {
            Verdict::Unclear
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What a load gets of so many batches at a time: answers per second, and how long they take.
    type Served = fn(usize) -> (f64, f64);

    struct Scene {
        concurrency: Concurrency,
        now: Instant,
        noise: u64,
        /// Seconds with each number.
        with: [f64; 17],
    }

    const REQUESTS: usize = 8;

    impl Scene {
        fn new(usual: usize, most: usize) -> Self {
            let now = Instant::now();
            Self { concurrency: Concurrency::new(usual, most, now), now, noise: 1, with: [0.0; 17] }
        }

        /// Batches of eight requests for a while; times vary by a third.
        fn serve(&mut self, seconds: f64, served: Served, is_busy: bool) -> usize {
            let end = self.now + Duration::from_secs_f64(seconds);
            while self.now < end {
                let number = self.concurrency.number();
                let (rate, took_s) = served(number);
                (0..REQUESTS).for_each(|_| self.concurrency.joined(if is_busy { number } else { 0 }));
                let step = REQUESTS as f64 / rate * self.vary();
                self.with[number] += step;
                self.now += Duration::from_secs_f64(step);
                let took = [(); REQUESTS].map(|()| Duration::from_secs_f64(took_s * self.vary()));
                self.concurrency.ran(took.into_iter(), self.now);
            }
            self.concurrency.usual
        }

        fn vary(&mut self) -> f64 {
            1.0 + (self.chance() - 0.5) / 1.5
        }

        /// Between 0 and 1.
        fn chance(&mut self) -> f64 {
            self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.noise >> 40) as f64 / f64::from(1 << 24)
        }

        /// Requests of a row at random times, whatever becomes of those before, as a share of what two batches at a time
        /// serve; more at a time share the two processors. Returns the time in seconds that 99 of 100 take at most.
        fn serve_what_comes(&mut self, seconds: f64, load: impl Fn(f64) -> f64, learns: bool) -> f64 {
            const ROW_S: f64 = 0.002;
            const LARGEST: usize = 32;
            let start = self.now;
            let (mut now_s, mut next_s) = (0.0_f64, 0.0_f64);
            let (mut waiting, mut running, mut took) = (VecDeque::new(), Vec::<(f64, Vec<f64>)>::new(), Vec::new());
            while now_s < seconds {
                let ends = running.iter().enumerate().min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
                if let Some((index, (end_s, _))) = ends.filter(|(_, (end_s, _))| *end_s <= next_s) {
                    now_s = *end_s;
                    let (_, batch) = running.swap_remove(index);
                    let times = batch.into_iter().map(|since_s: f64| now_s - since_s);
                    took.extend(times.clone());
                    if learns {
                        let now = start + Duration::from_secs_f64(now_s);
                        self.concurrency.ran(times.map(Duration::from_secs_f64), now);
                    }
                } else {
                    now_s = next_s;
                    self.concurrency.joined(running.len());
                    waiting.push_back(now_s);
                    next_s -= (1.0 - self.chance()).ln() * ROW_S / 2.0 / load(now_s);
                }
                while !waiting.is_empty() && running.len() < self.concurrency.number() {
                    let batch: Vec<f64> = waiting.drain(..waiting.len().min(LARGEST)).collect();
                    let share = (running.len() + 1).max(2) as f64 / 2.0;
                    let run_s = (0.0005 + ROW_S * batch.len() as f64) * share * (0.9 + self.chance() / 5.0);
                    running.push((now_s + run_s, batch));
                }
            }
            self.now = start + Duration::from_secs_f64(seconds);
            took.drain(..took.len() / 3);
            took.sort_by(f64::total_cmp);
            took[took.len() * 99 / 100]
        }
    }

    /// 64 in flight, and so much of the throughput of one batch at a time.
    fn saturated(gain: f64) -> (f64, f64) {
        (4000.0 * gain, 64.0 / (4000.0 * gain))
    }

    #[test]
    fn the_number_that_serves_best_is_found() {
        let cases: [(&str, usize, usize, Served, usize); 7] = [
            ("more is better", 1, 2, |number| saturated(if number > 1 { 1.2 } else { 1.0 }), 2),
            ("and more still", 1, 16, |number| saturated((number as f64).sqrt()), 16),
            ("up to a point", 1, 16, |number| saturated([0.0, 1.0, 1.3, 1.3, 1.5, 1.5][number.min(5)]), 4),
            ("more is worse", 1, 8, |number| saturated(1.0 / number as f64), 1),
            ("fewer is better", 8, 16, |number| saturated(1.0 / number as f64), 1),
            ("it is all the same", 4, 8, |_| saturated(1.0), 4),
            ("the same rate, sooner", 1, 2, |number| (2000.0, 0.02 / number as f64), 2),
        ];
        for (what, usual, most, served, best) in cases {
            let mut scene = Scene::new(usual, most);
            assert_eq!(scene.serve(300.0, served, true), best, "{what}");
            assert!(scene.with[best] > 200.0, "{what}: {:?} s with each number", scene.with);
        }
    }

    #[test]
    fn trials_do_not_cost_those_who_come_meanwhile() {
        type Load = fn(f64) -> f64;
        let cases: [(&str, Load); 5] = [
            ("light", |_| 0.4),
            ("more than one batch at a time can serve", |_| 0.7),
            ("heavy", |_| 0.8),
            ("short bursts", |now_s| if now_s % 2.0 < 1.0 { 0.9 } else { 0.1 }),
            ("long bursts", |now_s| if now_s % 6.0 < 3.0 { 0.72 } else { 0.08 }),
        ];
        for (what, load) in cases {
            let fixed_s = Scene::new(2, 2).serve_what_comes(600.0, load, false);
            let mut scene = Scene::new(2, 4);
            let learned_s = scene.serve_what_comes(600.0, load, true);
            assert!(learned_s < 1.3 * fixed_s, "{what}: {learned_s} s instead of {fixed_s} s");
        }
    }

    #[test]
    fn trials_in_vain_become_rare() {
        let mut scene = Scene::new(1, 2);
        scene.serve(3600.0, |number| saturated(1.0 / number as f64), true);
        assert!(scene.with[2] < 36.0, "{} s of an hour", scene.with[2]);
    }

    #[test]
    fn another_load_finds_another_number() {
        let mut scene = Scene::new(1, 2);
        assert_eq!(scene.serve(60.0, |number| saturated(number as f64), true), 2);
        assert_eq!(scene.serve(600.0, |number| saturated(1.0 / number as f64), true), 1);
    }

    #[test]
    fn nothing_is_tried_where_it_would_make_no_difference() {
        let mut scene = Scene::new(2, 16);
        assert_eq!(scene.serve(60.0, |number| saturated(number as f64), false), 2);
        assert!(scene.with.iter().enumerate().all(|(number, seconds)| number == 2 || *seconds == 0.0));
    }

    #[test]
    fn pauses_do_not_count() {
        let mut scene = Scene::new(1, 2);
        for _ in 0..60 {
            scene.serve(2.0, |number| saturated(number as f64), true);
            scene.now += Duration::from_secs(5);
        }
        assert_eq!(scene.concurrency.usual, 2);
    }

    #[test]
    fn a_trial_ends_where_there_is_no_load_any_more() {
        let mut scene = Scene::new(1, 2);
        while scene.concurrency.number() == 1 {
            scene.serve(0.01, |_| saturated(1.0), true);
        }
        scene.now += LONGEST * 2;
        scene.serve(0.01, |_| saturated(1.0), false);
        assert_eq!(scene.concurrency.number(), 1);
    }
}
