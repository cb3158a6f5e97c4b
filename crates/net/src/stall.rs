//! Answers that a client does not take: they hold memory, so they may not be held for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a client may take none of a large answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
const CHECK: Duration = Duration::from_secs(5);

/// The large answers that a connection sends, and when each last went on.
#[derive(Clone, Default)]
pub(crate) struct Stalls(Arc<Shared>);

#[derive(Default)]
struct Shared {
    sending: Mutex<HashMap<u64, Instant>>,
    begun: Notify,
}

impl Shared {
    fn sending(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them.
pub(crate) struct Sending {
    stalls: Stalls,
    number: u64,
}

impl Stalls {
    pub(crate) fn begin(&self) -> Sending {
        let mut sending = self.0.sending();
        let number = sending.keys().max().map_or(0, |last| last + 1);
        sending.insert(number, Instant::now());
        self.0.begun.notify_one();
        Sending { stalls: self.clone(), number }
    }

    /// Waits until an answer has not gone on for too long.
    pub(crate) async fn too_long(&self) {
        loop {
            let oldest = self.0.sending().values().min().copied();
            match oldest {
                Some(oldest) if oldest.elapsed() >= SEND_TIMEOUT => return,
                Some(_) => tokio::time::sleep(CHECK).await,
                None => self.0.begun.notified().await,
            }
        }
    }
}

impl Sending {
    pub(crate) fn goes_on(&self) {
        self.stalls.0.sending().insert(self.number, Instant::now());
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stalls.0.sending().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stalls_is_noticed() {
        let stalls = Stalls::default();
        let mut too_long = Box::pin(stalls.too_long());
        assert!((&mut too_long).now_or_never().is_none());
        let (first, second) = (stalls.begin(), stalls.begin());
        for _ in 0..3 {
            tokio::select! { () = &mut too_long => panic!("both go on"), () = pass(40) => {} }
            first.goes_on();
            second.goes_on();
        }
        drop(first);
        too_long.await;
        drop(second);
        let mut too_long = Box::pin(stalls.too_long());
        tokio::select! { () = &mut too_long => panic!("there is none"), () = pass(1000) => {} }
    }
}
