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
    /// Answers of which there is something to send.
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

    /// The number is like no other.
    fn goes_on(&self) -> u64 {
        self.progress.fetch_add(1, Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) == 0 && !self.is_blocked.load(Ordering::Relaxed)
    }
}

impl Stalls {
    /// Notes an answer.
    pub(crate) fn begin(&self, is_large: bool) -> Sending {
        let large = is_large.then(|| self.0.goes_on());
        let mut answer = Sending { stalls: self.clone(), large, is_unsent: false };
        answer.goes_on();
        answer
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
    /// Something of it is there that the client has not taken.
    is_unsent: bool,
}

impl Sending {
    /// The next part of it is to be sent.
    pub(crate) fn goes_on(&mut self) {
        let shared = &self.stalls.0;
        shared.goes_on();
        if let Some(number) = self.large {
            shared.large().insert(number, Instant::now());
        }
        if !std::mem::replace(&mut self.is_unsent, true) && shared.unsent.fetch_add(1, Ordering::Relaxed) == 0 {
            shared.begun.notify_one();
        }
    }

    /// The client has taken all that there is so far.
    pub(crate) fn rests(&mut self) {
        if !std::mem::take(&mut self.is_unsent) {
            return;
        }
        let shared = &self.stalls.0;
        shared.goes_on();
        shared.unsent.fetch_sub(1, Ordering::Relaxed);
        if let Some(number) = self.large {
            shared.large().remove(&number);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.rests();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a stall is noticed within so many seconds, in which answers go on every now and then.
    async fn stalls_within(stalls: &Stalls, seconds: u64, going_on: &mut [&mut Sending]) -> bool {
        let pass = async {
            for _ in 0..seconds / 10 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                for answer in &mut *going_on {
                    answer.goes_on();
                }
            }
        };
        tokio::select! { biased; () = stalls.too_long() => true, () = pass => false }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_are_noticed() {
        let stalls = Stalls::default();
        assert!(!stalls_within(&stalls, 1000, &mut []).await, "there is none");
        let (mut small, mut large) = (stalls.begin(false), stalls.begin(true));
        assert!(!stalls_within(&stalls, 1000, &mut [&mut small, &mut large]).await, "both go on");
        assert!(!stalls_within(&stalls, 50, &mut []).await);
        assert!(stalls_within(&stalls, 100, &mut []).await, "neither does");
        small.goes_on();
        assert!(!stalls_within(&stalls, 100, &mut [&mut small]).await, "one of many is slow");
        assert!(stalls_within(&stalls, 400, &mut [&mut small]).await, "that is too slow");
        large.rests();
        assert!(!stalls_within(&stalls, 1000, &mut [&mut small]).await, "there is nothing more of it yet");
        small.rests();
        assert!(!stalls_within(&stalls, 1000, &mut []).await, "nor of either");
        large.goes_on();
        assert!(stalls_within(&stalls, 100, &mut []).await, "now there is");
        drop(large);
        assert!(!stalls_within(&stalls, 1000, &mut [&mut small]).await);
        drop(small);
        assert!(!stalls_within(&stalls, 1000, &mut []).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_is_noticed() {
        let stalls = Stalls::default();
        stalls.wrote(true);
        assert!(stalls_within(&stalls, 100, &mut []).await);
        stalls.wrote(false);
        assert!(!stalls_within(&stalls, 1000, &mut []).await);
    }
}
