//! Whether this server wants requests, for those who ask and those who watch.

use futures_util::stream::{self, Stream};
use tokio::sync::watch;

/// Names of `HealthCheckRequest.service` that are known, as TensorFlow Serving knows them.
const SERVICES: [&str; 3] = ["", "ModelService", "PredictionService"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Draining,
}

/// Ready from start to drain.
#[derive(Debug)]
pub(crate) struct Health(watch::Sender<Phase>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Health {
    pub(crate) fn start(&self) {
        self.0.send_replace(Phase::Ready);
    }

    pub(crate) fn drain(&self) {
        self.0.send_replace(Phase::Draining);
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.0.borrow() == Phase::Ready
    }

    /// Waits until this server drains.
    pub(crate) async fn drained(&self) {
        // The sender is our own, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|phase| *phase == Phase::Draining).await;
    }

    /// Whether this server is ready: at once, and again whenever that changes. Ends with the drain, which it must not
    /// hold up.
    pub(crate) fn changes(&self) -> impl Stream<Item = bool> + use<> {
        let first = Some((self.0.subscribe(), true));
        stream::unfold(first, |state| async {
            let (mut phases, is_first) = state?;
            if !is_first {
                phases.changed().await.ok()?;
            }
            let phase = *phases.borrow_and_update();
            Some((phase == Phase::Ready, (phase != Phase::Draining).then_some((phases, false))))
        })
    }

    pub(crate) fn knows(service: &str) -> bool {
        SERVICES.contains(&service)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn whoever_watches_is_told_until_the_drain() {
        let health = Health::default();
        let mut changes = pin!(health.changes());
        assert_eq!(changes.next().await, Some(false));
        health.start();
        assert_eq!(changes.next().await, Some(true));
        health.drain();
        assert_eq!(changes.next().await, Some(false));
        assert_eq!(changes.next().await, None);
        health.drained().await;
    }
}
