//! A tap on live requests: copies of those that a model answers, for as many as somebody has asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use servable_core::Status;

/// Off unless somebody waits for what it brings. While it is off, a request pays for one look at a flag.
#[derive(Default)]
pub(crate) struct Tap {
    is_on: AtomicBool,
    capture: Mutex<Option<Capture>>,
    /// Told when a capture is complete.
    complete: Condvar,
}

struct Capture {
    model: String,
    wanted: usize,
    /// Bytes that further records may take.
    room: usize,
    records: Vec<Vec<u8>>,
    is_complete: bool,
}

impl Tap {
    /// Whether a request of so many bytes of values for this model is worth a record.
    pub(crate) fn wants(&self, model: &str, bytes: usize) -> bool {
        if !self.is_on.load(Ordering::Relaxed) {
            return false;
        }
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(capture) = capture.as_mut().filter(|capture| capture.model == model) else { return false };
        if bytes > capture.room {
            self.end(capture);
        }
        !capture.is_complete
    }

    /// Takes the record of a request that has been answered. One that does not fit ends the capture.
    pub(crate) fn keep(&self, model: &str, record: Vec<u8>) {
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(capture) = capture.as_mut().filter(|capture| capture.model == model && !capture.is_complete) else {
            return;
        };
        if let Some(room) = capture.room.checked_sub(record.len()) {
            capture.room = room;
            capture.records.push(record);
        } else {
            self.end(capture);
        }
        if capture.records.len() >= capture.wanted {
            self.end(capture);
        }
    }

    fn end(&self, capture: &mut Capture) {
        self.is_on.store(false, Ordering::Relaxed);
        capture.is_complete = true;
        self.complete.notify_all();
    }

    /// Waits until so many requests have been answered or their records would take more than `room` bytes, the time is
    /// over, or `is_over` says so, which is asked every so often. `FAILED_PRECONDITION` while another capture goes on.
    pub(crate) fn capture(
        &self,
        model: &str,
        wanted: usize,
        room: usize,
        timeout: Duration,
        is_over: impl Fn() -> bool,
    ) -> Result<Vec<Vec<u8>>, Status> {
        const CHECK: Duration = Duration::from_millis(100);
        let end = Instant::now() + timeout;
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = &*capture {
            return Err(Status::failed_precondition(format!(
                "requests for model {} are being recorded; one recording goes on at a time",
                other.model
            )));
        }
        let is_complete = wanted == 0;
        *capture = Some(Capture { model: model.to_owned(), wanted, room, records: Vec::new(), is_complete });
        self.is_on.store(!is_complete, Ordering::Relaxed);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || capture.as_ref().is_none_or(|capture| capture.is_complete) || is_over() {
                break;
            }
            (capture, _) = self.complete.wait_timeout(capture, left.min(CHECK)).unwrap_or_else(PoisonError::into_inner);
        }
        self.is_on.store(false, Ordering::Relaxed);
        Ok(capture.take().map_or_else(Vec::new, |capture| capture.records))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// What a capture of requests for `m` brings while these records are offered.
    fn captured(wanted: usize, room: usize, records: &[&[u8]]) -> Vec<Vec<u8>> {
        let tap = Arc::new(Tap::default());
        let waiting = {
            let tap = Arc::clone(&tap);
            thread::spawn(move || tap.capture("m", wanted, room, LONG, || false).expect("nobody else records"))
        };
        while !tap.is_on.load(Ordering::Relaxed) && !waiting.is_finished() {
            thread::yield_now();
        }
        for record in records {
            assert!(!tap.wants("other", 1));
            if tap.wants("m", record.len()) {
                tap.keep("m", record.to_vec());
            }
        }
        assert!(!tap.wants("m", 1), "it is off again");
        waiting.join().expect("it ends")
    }

    #[test]
    fn as_many_records_come_as_were_wanted() {
        assert_eq!(captured(2, 100, &[b"a", b"b", b"c"]), [b"a", b"b"]);
        assert!(captured(0, 100, &[b"a"]).is_empty());
    }

    #[test]
    fn a_record_that_does_not_fit_ends_it() {
        assert_eq!(captured(9, 5, &[b"abc", b"def", b"g"]), [b"abc"]);
        assert!(captured(9, 0, &[b"abc"]).is_empty());
    }

    #[test]
    fn it_ends_with_its_time_or_the_server() {
        let tap = Tap::default();
        assert_eq!(tap.capture("m", 1, 1, Duration::ZERO, || false), Ok(vec![]));
        assert_eq!(tap.capture("m", 1, 1, LONG, || true), Ok(vec![]));
        assert!(!tap.wants("m", 0));
    }

    #[test]
    fn one_goes_on_at_a_time() {
        let tap = Arc::new(Tap::default());
        let (over, other) = (Arc::new(AtomicBool::new(false)), Arc::clone(&tap));
        let is_over = Arc::clone(&over);
        let waiting = thread::spawn(move || other.capture("m", 1, 1, LONG, || is_over.load(Ordering::Relaxed)));
        while !tap.is_on.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let refused = tap.capture("n", 1, 1, LONG, || false).expect_err("there is one");
        assert!(refused.message.contains("model m"), "{refused}");
        over.store(true, Ordering::Relaxed);
        assert_eq!(waiting.join().expect("it ends"), Ok(vec![]));
    }
}
