//! The request log: samples of requests with their answers, queued for the control plane to write.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

/// Bytes that records may take until somebody fetches them.
const MOST_BYTES: usize = 64 << 20;
/// Records that may wait.
const MOST_RECORDS: usize = 65_536;
/// A larger record is not made.
const LARGEST_RECORD: usize = 16 << 20;
/// About as many bytes are fetched at a time.
const BATCH_BYTES: usize = 4 << 20;
/// What a record takes beside its tensors, about.
const OVERHEAD: usize = 256;

/// Why a sampled request is not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    QueueFull,
    TooLarge,
}

impl Lost {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
        }
    }
}

/// A record that waits to be written.
pub struct LoggedRequest {
    pub model: String,
    /// A serialised `PredictionLog`.
    pub record: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct RequestLog {
    /// How much of which model's requests; nothing while no model is logged.
    rates: ArcSwapOption<HashMap<String, f64>>,
    samples: AtomicU64,
    held: Arc<AtomicUsize>,
    queue: Mutex<VecDeque<(LoggedRequest, Room)>>,
    filled: Condvar,
}

/// Bytes of the queue, given back when it goes.
struct Room {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// Makes it this large, if there is so much.
    fn resize(&mut self, bytes: usize) -> Result<(), Lost> {
        if bytes > LARGEST_RECORD {
            return Err(Lost::TooLarge);
        }
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let enter = |held: usize| held.checked_add(more).filter(|held| *held <= MOST_BYTES);
            self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).map_err(|_| Lost::QueueFull)?;
        } else {
            self.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The place of a sampled request in the log.
pub(crate) struct Ticket {
    pub(crate) rate: f64,
    room: Room,
}

impl Ticket {
    /// Makes room for a record with so many bytes in its tensors.
    pub(crate) fn expect(&mut self, bytes: usize) -> Result<(), Lost> {
        self.room.resize(bytes.saturating_add(OVERHEAD))
    }
}

impl RequestLog {
    /// Replaces what is logged: the rates, from 0 to 1, by the names of the models.
    pub(crate) fn configure(&self, rates: HashMap<String, f64>) {
        self.rates.store(if rates.is_empty() { None } else { Some(Arc::new(rates)) });
    }

    /// A ticket if this request is one to log; an error if it is, and cannot be.
    pub(crate) fn sample(&self, model: &str, bytes: usize) -> Result<Option<Ticket>, Lost> {
        let rate = match &*self.rates.load() {
            None => return Ok(None),
            Some(rates) => rates.get(model).copied().unwrap_or(0.0),
        };
        if rate < 1.0 && self.uniform() >= rate {
            return Ok(None);
        }
        let mut ticket = Ticket { rate, room: Room { held: Arc::clone(&self.held), bytes: 0 } };
        ticket.expect(bytes)?;
        Ok(Some(ticket))
    }

    /// The next number of a sequence that looks like chance, from 0 up to 1 (`SplitMix64`).
    fn uniform(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.samples.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Queues a record.
    pub(crate) fn keep(&self, mut ticket: Ticket, model: &str, record: Vec<u8>) -> Result<(), Lost> {
        ticket.room.resize(record.len())?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= MOST_RECORDS {
            return Err(Lost::QueueFull);
        }
        queue.push_back((LoggedRequest { model: model.to_owned(), record }, ticket.room));
        self.filled.notify_one();
        Ok(())
    }

    /// The records that wait, or the first of them; waits for some until `is_over` says so, which is asked every so often.
    pub(crate) fn next(&self, timeout: Duration, is_over: impl Fn() -> bool) -> Vec<LoggedRequest> {
        const CHECK: Duration = Duration::from_millis(100);
        let end = Instant::now() + timeout;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || is_over() {
                return Vec::new();
            }
            (queue, _) = self.filled.wait_timeout(queue, left.min(CHECK)).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some((logged, _room)) = queue.pop_front()
        {
            bytes += logged.record.len();
            batch.push(logged);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logging(rate: f64) -> RequestLog {
        let log = RequestLog::default();
        log.configure(HashMap::from([("m".to_owned(), rate)]));
        log
    }

    #[test]
    fn as_much_is_sampled_as_was_asked_for() {
        let share = |rate: f64| {
            let log = logging(rate);
            (0..10_000).filter(|_| log.sample("m", 1).is_ok_and(|ticket| ticket.is_some())).count()
        };
        assert_eq!((share(0.0), share(-1.0), share(1.0), share(7.0)), (0, 0, 10_000, 10_000));
        assert!((2_000..3_000).contains(&share(0.25)));
        assert!(logging(1.0).sample("other", 1).is_ok_and(|ticket| ticket.is_none()));
        assert!(RequestLog::default().sample("m", 1).is_ok_and(|ticket| ticket.is_none()));
    }

    #[test]
    fn records_come_in_order_and_give_their_room_back() {
        let log = logging(1.0);
        for record in [b"a", b"b"] {
            let ticket = log.sample("m", 1).ok().flatten().expect("it is sampled");
            assert_eq!(log.keep(ticket, "m", record.to_vec()), Ok(()));
        }
        assert_eq!(log.held.load(Ordering::Relaxed), 2);
        let batch = log.next(Duration::ZERO, || false);
        assert!(batch.iter().map(|logged| &logged.record).eq([b"a", b"b"]));
        assert_eq!(log.held.load(Ordering::Relaxed), 0);
        assert!(log.next(Duration::from_secs(60), || true).is_empty());
    }

    #[test]
    fn the_queue_and_each_record_are_bounded() {
        let log = logging(1.0);
        assert_eq!(log.sample("m", LARGEST_RECORD).err(), Some(Lost::TooLarge));
        let most = MOST_BYTES / LARGEST_RECORD;
        let tickets: Vec<_> =
            (0..=most).map(|_| log.sample("m", LARGEST_RECORD - OVERHEAD)).take_while(Result::is_ok).collect();
        assert_eq!(tickets.len(), most);
        assert_eq!(log.sample("m", 0).err(), Some(Lost::QueueFull));
        drop(tickets);
        assert!(log.sample("m", 0).is_ok_and(|ticket| ticket.is_some()), "a request that fails gives its room back");
    }

    #[test]
    fn the_queue_is_bounded_by_count_as_well() {
        let log = logging(1.0);
        let keep = || log.keep(log.sample("m", 0).ok().flatten().expect("it is sampled"), "m", vec![0]);
        assert!((0..MOST_RECORDS).all(|_| keep() == Ok(())));
        assert_eq!(keep(), Err(Lost::QueueFull));
        assert_eq!(log.next(Duration::ZERO, || false).len(), MOST_RECORDS);
        assert_eq!(keep(), Ok(()));
    }
}
