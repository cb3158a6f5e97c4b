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

/// What a connection has to send, and whether that goes on. Counters only, which somebody looks at now and then: every
/// answer passes here, and a look at the clock would be the dearest part of it.
#[derive(Clone, Default)]
pub(crate) struct Stalls(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Counts whatever goes on.
    progress: AtomicU64,
    unsent: AtomicU64,
    /// The socket takes no more.
    is_blocked: AtomicBool,
    /// Large answers, and when each last went on.
    large: Mutex<HashMap<u64, Instant>>,
    begun: Notify,
}

impl Shared {
    fn large(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) == 0 && !self.is_blocked.load(Ordering::Relaxed)
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
        self.0.goes_on();
        if self.0.unsent.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.begun.notify_one();
        }
        Sending { stalls: self.clone(), large }
    }

    /// Notes whether the socket took what it was given.
    pub(crate) fn wrote(&self, is_blocked: bool) {
        if !is_blocked {
            self.0.goes_on();
        }
        if self.0.is_blocked.swap(is_blocked, Ordering::Relaxed) != is_blocked && is_blocked {
            self.0.begun.notify_one();
        }
    }

    /// Waits until the client has taken nothing for too long.
    pub(crate) async fn too_long(&self) {
        let shared = &self.0;
        loop {
            if shared.is_idle() {
                shared.begun.notified().await;
            }
            let (mut seen, mut since) = (shared.progress.load(Ordering::Relaxed), Instant::now());
            while !shared.is_idle() {
                let oldest = shared.large().values().min().copied();
                if oldest.is_some_and(|oldest| oldest.elapsed() >= ANSWER_TIMEOUT) || since.elapsed() >= SILENCE_TIMEOUT
                {
                    return;
                }
                tokio::time::sleep(CHECK).await;
                let now = shared.progress.load(Ordering::Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
            }
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
        self.stalls.0.goes_on();
        if let Some(number) = self.large {
            self.stalls.0.large().insert(number, Instant::now());
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stalls.0.goes_on();
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
