//! Answers that a client does not take: they hold memory and count as in flight, so they may not do so for ever.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long nothing of what there is to send may go on.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one large answer may stand while others go on: behind a proxy, one client of many may be slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
const CHECK: Duration = Duration::from_secs(5);

/// What a connection has to send, and when that last went on.
#[derive(Clone)]
pub(crate) struct Stalls(Arc<Shared>);

struct Shared {
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
    unsent: AtomicU64,
    /// The socket takes no more.
    is_blocked: AtomicBool,
    /// Large answers, and when each last went on.
    large: Mutex<HashMap<u64, Instant>>,
    begun: Notify,
}

impl Default for Stalls {
    fn default() -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            last: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
            large: Mutex::default(),
            begun: Notify::new(),
        }))
    }
}

impl Shared {
    fn large(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl Stalls {
    /// Notes an answer.
    pub(crate) fn begin(&self, is_large: bool) -> Sending {
        let large = is_large.then(|| {
            let mut large = self.0.large();
            let number = large.keys().max().map_or(0, |last| last + 1);
            large.insert(number, Instant::now());
            number
        });
        self.0.touch();
        if self.0.unsent.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.begun.notify_one();
        }
        Sending { stalls: self.clone(), large }
    }

    /// Notes whether the socket took what it was given.
    pub(crate) fn wrote(&self, is_blocked: bool) {
        if is_blocked && !self.0.is_blocked.swap(true, Ordering::Relaxed) {
            self.0.touch();
            self.0.begun.notify_one();
        } else if !is_blocked && self.0.is_blocked.load(Ordering::Relaxed) {
            self.0.is_blocked.store(false, Ordering::Relaxed);
        }
    }

    /// Waits until the client has taken nothing for too long.
    pub(crate) async fn too_long(&self) {
        let shared = &self.0;
        loop {
            if shared.unsent.load(Ordering::Relaxed) == 0 && !shared.is_blocked.load(Ordering::Relaxed) {
                shared.begun.notified().await;
                continue;
            }
            let last = shared.start + Duration::from_millis(shared.last.load(Ordering::Relaxed));
            let oldest = shared.large().values().min().copied();
            if last.elapsed() >= SILENCE_TIMEOUT || oldest.is_some_and(|oldest| oldest.elapsed() >= ANSWER_TIMEOUT) {
                return;
            }
            tokio::time::sleep(CHECK).await;
        }
    }
}

/// An answer that is being sent.
pub(crate) struct Sending {
    stalls: Stalls,
    large: Option<u64>,
}

impl Sending {
    pub(crate) fn goes_on(&self) {
        self.stalls.0.touch();
        if let Some(number) = self.large {
            self.stalls.0.large().insert(number, Instant::now());
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stalls.0.touch();
        self.stalls.0.unsent.fetch_sub(1, Ordering::Relaxed);
        if let Some(number) = self.large {
            self.stalls.0.large().remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a stall is noticed within so many seconds, in which answers go on every now and then.
    async fn stalls_within(stalls: &Stalls, seconds: u64, going_on: &[&Sending]) -> bool {
        let pass = async {
            for _ in 0..seconds / 10 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                for answer in going_on {
                    answer.goes_on();
                }
            }
        };
        tokio::select! { biased; () = stalls.too_long() => true, () = pass => false }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_are_noticed() {
        let stalls = Stalls::default();
        assert!(!stalls_within(&stalls, 1000, &[]).await, "there is none");
        let (small, large) = (stalls.begin(false), stalls.begin(true));
        assert!(!stalls_within(&stalls, 1000, &[&small, &large]).await, "both go on");
        assert!(!stalls_within(&stalls, 50, &[]).await);
        assert!(stalls_within(&stalls, 100, &[]).await, "neither does");
        small.goes_on();
        assert!(!stalls_within(&stalls, 100, &[&small]).await, "one of many is slow");
        assert!(stalls_within(&stalls, 400, &[&small]).await, "that is too slow");
        drop(large);
        assert!(!stalls_within(&stalls, 1000, &[&small]).await);
        drop(small);
        assert!(!stalls_within(&stalls, 1000, &[]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_is_noticed() {
        let stalls = Stalls::default();
        stalls.wrote(true);
        assert!(stalls_within(&stalls, 100, &[]).await);
        stalls.wrote(false);
        assert!(!stalls_within(&stalls, 1000, &[]).await);
    }
}
