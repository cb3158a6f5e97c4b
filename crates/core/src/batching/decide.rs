//! The decisions of batching, as functions from values to values: what joins, when a batch is cut, how it is split.

use std::time::{Duration, Instant};

use super::parameters::{LowPriority, Mixing, PaddingPolicy, Parameters, allowed_size};
use crate::status::{Code, Status};

/// A deadline is met if a batch is cut so long before it, beyond the time that it runs: timers are late by up to two
/// milliseconds, and then a thread has to take it over.
const MARGIN: Duration = Duration::from_millis(4);
/// One that is nearer is not met any more, whatever is done.
const LEAST_MARGIN: Duration = Duration::from_millis(1);

/// What waits in a queue, in batches of the largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    /// The one that still grows among them: there is always one.
    pub(super) batches: usize,
    pub(super) open_rows: usize,
}

impl Backlog {
    pub(super) const EMPTY: Self = Self { batches: 1, open_rows: 0 };

    /// What it is once a request of so many rows has joined, which never changes its place.
    pub(super) fn with(self, rows: usize, limit: usize) -> Self {
        if self.open_rows == 0 || self.open_rows + rows <= limit {
            Self { open_rows: self.open_rows + rows, ..self }
        } else {
            Self { batches: self.batches + 1, open_rows: rows }
        }
    }
}

/// How many rows each piece of a request has that joins the queue; one piece unless large requests are split.
///
/// `INVALID_ARGUMENT` if it is too large for any batch, `UNAVAILABLE` if the queue is full.
pub(super) fn admit(
    parameters: &Parameters,
    limit: usize,
    backlog: Backlog,
    rows: usize,
) -> Result<Vec<usize>, Status> {
    let (largest, most) = (parameters.largest_request, parameters.most_batches);
    let Backlog { batches, open_rows } = backlog;
    if rows > largest {
        return Err(Status::invalid_argument(format!(
            "Task size {rows} is larger than maximum input batch size {largest}"
        )));
    }
    let room = limit.saturating_sub(open_rows);
    if !parameters.splits {
        if rows > room && open_rows > 0 && batches >= most {
            return Err(Status::new(
                Code::Unavailable,
                format!(
                    "The batch scheduling queue to which this task was submitted is full; currently {batches} batches \
                     enqueued and max_enqueued_batches is {most}"
                ),
            ));
        }
        return Ok(vec![rows]);
    }
    let capacity = most.saturating_sub(batches).saturating_mul(limit).saturating_add(room);
    if rows > capacity {
        return Err(Status::new(
            Code::Unavailable,
            format!(
                "The batch scheduling queue to which this task was submitted is full; task size is {rows} but \
                 scheduling capacity is only {capacity} (num_enqueued_batches={batches}, max_enqueued_batches={most}, \
                 open_batch_size={open_rows}, max_execution_batch_size={limit})"
            ),
        ));
    }
    Ok(pieces(rows, room, limit))
}

/// The first piece fills what is left of a batch; all others but the last fill one of their own.
fn pieces(rows: usize, room: usize, limit: usize) -> Vec<usize> {
    if rows <= room {
        return vec![rows];
    }
    let mut pieces = Vec::with_capacity(rows / limit.max(1) + 2);
    pieces.extend((room > 0).then_some(room));
    let mut left = rows - room;
    while left > 0 {
        pieces.push(left.min(limit.max(1)));
        left -= left.min(limit.max(1));
    }
    pieces
}

/// `UNAVAILABLE` if a request of low priority is too large, or too many wait.
pub(super) fn admit_low(low: &LowPriority, waiting_rows: usize, rows: usize) -> Result<(), Status> {
    let most = low.largest_request;
    let refuse = |message| Err(Status::new(Code::Unavailable, message));
    if rows > most {
        return refuse(format!(
            "The low priority task queue to which this task was submitted has max_execution_batch_size={most} and the \
             task size is {rows}"
        ));
    }
    let capacity = most.saturating_mul(low.most_batches);
    if waiting_rows + rows > capacity {
        return refuse(format!(
            "The low priority task queue to which this task was submitted does not have the capacity to handle this \
             task; currently the low priority queue has {waiting_rows} rows enqueued of at most {capacity}, and the \
             task has {rows}"
        ));
    }
    Ok(())
}

/// A request in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) rows: usize,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
}

/// Why a batch was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is as large as batches get.
    Full,
    /// Its first request has waited long enough.
    Timeout,
    /// There was nothing to wait for: batches do not wait while a thread is free.
    Idle,
    /// A request would have missed its deadline.
    Deadline,
    /// The servable is being unloaded.
    Closed,
}

impl Reason {
    pub const ALL: [Self; 5] = [Self::Full, Self::Timeout, Self::Idle, Self::Deadline, Self::Closed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Timeout => "timeout",
            Self::Idle => "idle",
            Self::Deadline => "deadline",
            Self::Closed => "closed",
        }
    }
}

/// What a queue goes by at the moment.
pub(super) struct Rules<'a> {
    pub(super) parameters: &'a Parameters,
    /// Rows that make a batch full.
    pub(super) limit: usize,
    pub(super) timeout: Duration,
    /// A batch that is not full is not cut earlier, unless for a deadline.
    pub(super) not_before: Option<Instant>,
    /// Nothing waits any more.
    pub(super) closing: bool,
    /// How long a batch of so many rows runs, as far as that is known.
    pub(super) run_time: &'a dyn Fn(usize) -> Option<Duration>,
}

/// What to do about a queue, while there is a thread to run a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The first `high` and `low` requests make a batch, which is filled up to `target` rows.
    Cut { high: usize, low: usize, target: usize, reason: Reason },
    /// Look again at this moment, if there is one.
    Wait(Option<Instant>),
}

/// The requests at the head of a queue that fit one batch.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    count: usize,
    rows: usize,
    /// There are more, which do not fit.
    is_followed: bool,
    due: Option<(Instant, Reason)>,
}

impl Head {
    fn is_full(&self, limit: usize) -> bool {
        self.is_followed || self.rows >= limit
    }

    fn sooner(self, other: Self) -> Option<(Instant, Reason)> {
        [self.due, other.due].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}

fn head(waiting: impl Iterator<Item = Waiting>, rules: &Rules<'_>, limit: usize, timeout: Duration) -> Head {
    let mut head = Head::default();
    let sooner = |due: Instant, reason, head: &mut Head| {
        if head.due.is_none_or(|(known, _)| due < known) {
            head.due = Some((due, reason));
        }
    };
    let mut deadline = None;
    for one in waiting {
        if head.count > 0 && head.rows + one.rows > limit {
            head.is_followed = true;
            break;
        }
        head.count += 1;
        head.rows += one.rows;
        // Requests wait in the order in which they came: the first one's time is up first.
        if head.count == 1 && one.since.checked_add(timeout).is_some() {
            let due = rules.not_before.map_or(one.since + timeout, |moment| moment.max(one.since + timeout));
            sooner(due, if timeout.is_zero() { Reason::Idle } else { Reason::Timeout }, &mut head);
        }
        // One that could not be met from the beginning hurries nobody.
        let own = one.deadline.filter(|deadline| {
            let ahead = (rules.run_time)(one.rows).unwrap_or_default() + LEAST_MARGIN;
            one.since.checked_add(ahead).is_some_and(|done| done <= *deadline)
        });
        deadline = deadline.into_iter().chain(own).min();
    }
    if let Some(deadline) = deadline {
        let ahead = (rules.run_time)(head.rows).unwrap_or_default() + MARGIN;
        sooner(deadline.checked_sub(ahead).unwrap_or(deadline), Reason::Deadline, &mut head);
    }
    head
}

/// Whether a batch is to be cut, and of what.
pub(super) fn cut(
    high: impl Iterator<Item = Waiting> + Clone,
    low: impl Iterator<Item = Waiting> + Clone,
    rules: &Rules<'_>,
    now: Instant,
) -> Decision {
    let (parameters, limit) = (rules.parameters, rules.limit);
    let first = head(high.clone(), rules, limit, rules.timeout);
    let Some(preferences) = &parameters.low else {
        let Some(reason) = reason(first.is_full(limit), first.due, first.count, rules, now) else {
            return Decision::Wait(first.due.map(|(due, _)| due));
        };
        let (count, target) = sized(high, first, reason, rules);
        return Decision::Cut { high: count, low: 0, target, reason };
    };
    if preferences.mixing == Mixing::Merged {
        let rest = if first.is_followed { 0 } else { limit.saturating_sub(first.rows) };
        let second = head(low, rules, rest, rules.timeout);
        let second = if first.count > 0 { fitting(second, rest) } else { second };
        let due = first.sooner(second);
        let is_full = first.is_full(limit) || second.is_followed || first.rows + second.rows >= limit;
        let Some(reason) = reason(is_full, due, first.count + second.count, rules, now) else {
            return Decision::Wait(due.map(|(due, _)| due));
        };
        let target = parameters.allowed_size(first.rows + second.rows);
        return Decision::Cut { high: first.count, low: second.count, target, reason };
    }
    if first.count == 0 {
        let limit = preferences.largest_request;
        let own = head(low, rules, limit, preferences.timeout);
        let Some(reason) = reason(own.is_full(limit), own.due, own.count, rules, now) else {
            return Decision::Wait(own.due.map(|(due, _)| due));
        };
        let allowed = if preferences.allowed.is_empty() { &parameters.allowed } else { &preferences.allowed };
        return Decision::Cut { high: 0, low: own.count, target: allowed_size(allowed, own.rows), reason };
    }
    let Some(reason) = reason(first.is_full(limit), first.due, first.count, rules, now) else {
        return Decision::Wait(first.due.map(|(due, _)| due));
    };
    let room = match preferences.mixing {
        Mixing::UpToLargest => limit.saturating_sub(first.rows),
        Mixing::UpToAllowed => parameters.allowed_size(first.rows).saturating_sub(first.rows),
        Mixing::Never | Mixing::Merged => 0,
    };
    let riding = fitting(head(low, rules, room, preferences.timeout), room);
    if riding.count == 0 {
        let (count, target) = sized(high, first, reason, rules);
        return Decision::Cut { high: count, low: 0, target, reason };
    }
    let target = parameters.allowed_size(first.rows + riding.rows);
    Decision::Cut { high: first.count, low: riding.count, target, reason }
}

/// Nothing, if its first request alone is larger than the room.
fn fitting(head: Head, room: usize) -> Head {
    if head.rows > room { Head { is_followed: true, due: head.due, ..Head::default() } } else { head }
}

fn reason(
    is_full: bool,
    due: Option<(Instant, Reason)>,
    count: usize,
    rules: &Rules<'_>,
    now: Instant,
) -> Option<Reason> {
    if count == 0 {
        None
    } else if is_full {
        Some(Reason::Full)
    } else if rules.closing {
        Some(Reason::Closed)
    } else {
        due.filter(|(due, _)| *due <= now).map(|(_, reason)| reason)
    }
}

/// How many requests a batch takes that is not full, and to what it is filled up, as the policy for padding has it.
fn sized(waiting: impl Iterator<Item = Waiting>, head: Head, reason: Reason, rules: &Rules<'_>) -> (usize, usize) {
    let parameters = rules.parameters;
    let up = parameters.allowed_size(head.rows);
    let padded = (head.count, up);
    if up == head.rows || parameters.padding == PaddingPolicy::PadUp || reason == Reason::Full {
        return padded;
    }
    let Some(down) = parameters.allowed.iter().copied().rfind(|size| *size < head.rows) else { return padded };
    let (mut count, mut rows) = (0, 0);
    for one in waiting.take_while(|one| {
        let fits = rows + one.rows <= down;
        rows += if fits { one.rows } else { 0 };
        fits
    }) {
        debug_assert!(one.rows <= down);
        count += 1;
    }
    if rows != down {
        return padded; // the requests cannot be parted like that
    }
    if parameters.padding == PaddingPolicy::MinimizeCost {
        let cost = |size, rows: usize| (rules.run_time)(size).map(|time| time.as_secs_f64() / rows as f64);
        match (cost(up, head.rows), cost(down, rows)) {
            (Some(up), Some(down)) if down < up => {}
            _ => return padded,
        }
    }
    (count, down)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters::simple(10, Duration::from_millis(5))
    }

    fn low(mixing: Mixing) -> LowPriority {
        let timeout = Duration::from_millis(50);
        LowPriority { largest_request: 6, timeout, most_batches: 2, allowed: Vec::new(), mixing }
    }

    /// Requests of so many rows, one millisecond after another, seen so many milliseconds after the first.
    fn decide(parameters: &Parameters, high: &[usize], low: &[usize], after_ms: u64) -> Decision {
        decide_by(parameters, high, low, after_ms, None, &|_| None)
    }

    fn decide_by(
        parameters: &Parameters,
        high: &[usize],
        low: &[usize],
        after_ms: u64,
        deadline_ms: Option<u64>,
        run_time: &dyn Fn(usize) -> Option<Duration>,
    ) -> Decision {
        let start = epoch();
        let waiting = |rows: &[usize]| -> Vec<Waiting> {
            let one = |(index, rows): (usize, &usize)| Waiting {
                rows: *rows,
                since: start + Duration::from_millis(index as u64),
                deadline: deadline_ms.map(|after| start + Duration::from_millis(after)),
            };
            rows.iter().enumerate().map(one).collect()
        };
        let (high, low) = (waiting(high), waiting(low));
        let limit = parameters.largest_batch;
        let rules =
            Rules { parameters, limit, timeout: parameters.timeout, not_before: None, closing: false, run_time };
        let now = start + Duration::from_millis(after_ms);
        cut(high.iter().copied(), low.iter().copied(), &rules, now)
    }

    fn epoch() -> Instant {
        static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *EPOCH + Duration::from_secs(1)
    }

    fn taken(high: usize, target: usize, reason: Reason) -> Decision {
        Decision::Cut { high, low: 0, target, reason }
    }

    fn mixed(high: usize, low: usize, target: usize, reason: Reason) -> Decision {
        Decision::Cut { high, low, target, reason }
    }

    fn until(after_ms: u64) -> Decision {
        Decision::Wait(Some(epoch() + Duration::from_millis(after_ms)))
    }

    #[test]
    fn a_batch_is_cut_when_it_is_full_or_old() {
        let given = parameters();
        assert_eq!(decide(&given, &[], &[], 99), Decision::Wait(None));
        assert_eq!(decide(&given, &[1, 2], &[], 4), until(5));
        assert_eq!(decide(&given, &[1, 2], &[], 5), taken(2, 3, Reason::Timeout));
        assert_eq!(decide(&given, &[4, 6], &[], 1), taken(2, 10, Reason::Full));
        assert_eq!(decide(&given, &[4, 7], &[], 1), taken(1, 4, Reason::Full), "the next one does not fit");
        assert_eq!(decide(&given, &[4, 7, 1], &[], 99), taken(1, 4, Reason::Full), "nobody is overtaken");
        let eager = Parameters { timeout: Duration::ZERO, ..given };
        assert_eq!(decide(&eager, &[1, 2], &[], 0), taken(2, 3, Reason::Idle));
    }

    #[test]
    fn a_batch_is_cut_early_for_a_deadline() {
        let given = Parameters { timeout: Duration::from_secs(1), ..parameters() };
        let known = |_| Some(Duration::from_millis(30));
        assert_eq!(decide_by(&given, &[1], &[], 60, Some(100), &known), until(66));
        assert_eq!(decide_by(&given, &[1], &[], 66, Some(100), &known), taken(1, 1, Reason::Deadline));
        assert_eq!(decide_by(&given, &[1], &[], 1, Some(20), &known), until(1000), "it cannot be met in any case");
        assert_eq!(decide_by(&given, &[1], &[], 0, Some(32), &known), taken(1, 1, Reason::Deadline), "it just can");
    }

    #[test]
    fn sizes_are_those_that_are_allowed() {
        let allowed = Parameters { allowed: vec![2, 4, 10], ..parameters() };
        assert_eq!(decide(&allowed, &[1, 2], &[], 9), taken(2, 4, Reason::Timeout));
        let down = Parameters { padding: PaddingPolicy::BatchDown, ..allowed.clone() };
        assert_eq!(decide(&down, &[1, 1, 1], &[], 9), taken(2, 2, Reason::Timeout));
        assert_eq!(decide(&down, &[1, 2], &[], 9), taken(2, 4, Reason::Timeout), "the second is not parted");
        assert_eq!(decide(&down, &[1], &[], 9), taken(1, 2, Reason::Timeout), "nothing smaller is allowed");
        let cheapest = Parameters { padding: PaddingPolicy::MinimizeCost, ..allowed };
        assert_eq!(decide(&cheapest, &[1, 1, 1], &[], 9), taken(3, 4, Reason::Timeout), "nothing is known");
        let linear = |rows| Some(Duration::from_millis(rows as u64));
        assert_eq!(decide_by(&cheapest, &[1, 1, 1], &[], 9, None, &linear), taken(2, 2, Reason::Timeout));
        let constant = |_| Some(Duration::from_millis(1));
        assert_eq!(decide_by(&cheapest, &[1, 1, 1], &[], 9, None, &constant), taken(3, 4, Reason::Timeout));
    }

    #[test]
    fn requests_that_can_wait_ride_along() {
        let with = |mixing| Parameters { low: Some(low(mixing)), allowed: vec![4, 6, 10], ..parameters() };
        assert_eq!(decide(&with(Mixing::UpToLargest), &[3], &[2, 2, 2, 2], 9), mixed(1, 3, 10, Reason::Timeout));
        assert_eq!(decide(&with(Mixing::UpToAllowed), &[3], &[1, 2], 9), mixed(1, 1, 4, Reason::Timeout));
        assert_eq!(decide(&with(Mixing::UpToAllowed), &[3], &[2, 1], 9), taken(1, 4, Reason::Timeout));
        assert_eq!(decide(&with(Mixing::Never), &[3], &[2], 9), taken(1, 4, Reason::Timeout));
        assert_eq!(decide(&with(Mixing::Merged), &[3], &[6, 2], 1), mixed(1, 1, 10, Reason::Full));
        assert_eq!(decide(&with(Mixing::Merged), &[], &[1], 5), mixed(0, 1, 4, Reason::Timeout));
        assert_eq!(decide(&with(Mixing::Merged), &[], &[11], 0), mixed(0, 1, 11, Reason::Full), "larger than a batch");
    }

    #[test]
    fn requests_that_can_wait_have_batches_of_their_own() {
        let given = Parameters { low: Some(low(Mixing::UpToLargest)), ..parameters() };
        assert_eq!(decide(&given, &[], &[2, 2], 49), until(50));
        assert_eq!(decide(&given, &[], &[2, 2], 50), mixed(0, 2, 4, Reason::Timeout));
        assert_eq!(decide(&given, &[], &[2, 2, 3], 2), mixed(0, 2, 4, Reason::Full));
        assert_eq!(decide(&given, &[1], &[6], 2), until(5), "not while others wait");
    }

    #[test]
    fn a_full_queue_refuses() {
        let given = parameters();
        let admit = |batches, open_rows, rows| admit(&given, 10, Backlog { batches, open_rows }, rows);
        assert_eq!(admit(1, 0, 10), Ok(vec![10]));
        assert_eq!(admit(2, 3, 7), Ok(vec![7]), "what fits the last batch is always taken");
        assert_eq!(admit(1, 3, 8), Ok(vec![8]));
        let message = |outcome: Result<_, Status>| outcome.expect_err("refused").to_string();
        let full = message(admit(2, 3, 8));
        assert!(full.ends_with("currently 2 batches enqueued and max_enqueued_batches is 2"), "{full}");
        assert_eq!(
            message(admit(1, 0, 11)),
            "INVALID_ARGUMENT: Task size 11 is larger than maximum input batch size 10"
        );
        let backlog = [4, 7, 1].into_iter().fold(Backlog::EMPTY, |backlog, rows| backlog.with(rows, 10));
        assert_eq!(backlog, Backlog { batches: 2, open_rows: 8 });
    }

    #[test]
    fn a_large_request_is_split() {
        let given = Parameters { splits: true, largest_request: 100, most_batches: 3, ..parameters() };
        let admit = |batches, open_rows, rows| admit(&given, 10, Backlog { batches, open_rows }, rows);
        assert_eq!(admit(1, 6, 23), Ok(vec![4, 10, 9]));
        assert_eq!(admit(1, 10, 20), Ok(vec![10, 10]));
        assert_eq!(admit(1, 6, 4), Ok(vec![4]));
        let message = admit(2, 6, 15).expect_err("refused").to_string();
        assert!(
            message.contains("task size is 15 but scheduling capacity is only 14 (num_enqueued_batches=2"),
            "{message}"
        );
    }

    #[test]
    fn requests_that_can_wait_are_refused_first() {
        let low = low(Mixing::Never);
        assert_eq!(admit_low(&low, 6, 6), Ok(()));
        let message = |outcome: Result<_, Status>| outcome.expect_err("refused").to_string();
        assert!(message(admit_low(&low, 0, 7)).contains("max_execution_batch_size=6 and the task size is 7"));
        assert!(message(admit_low(&low, 7, 6)).contains("does not have the capacity to handle this task"));
    }
}
