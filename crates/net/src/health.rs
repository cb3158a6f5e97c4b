//! Whether this server wants requests, for those who ask and those who watch.

use tokio::sync::watch;

/// Names of `HealthCheckRequest.service` that are known, as TensorFlow Serving knows them.
const SERVICES: [&str; 3] = ["", "ModelService", "PredictionService"];

/// Ready from start to drain.
#[derive(Debug)]
pub(crate) struct Health(watch::Sender<bool>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Health {
    pub(crate) fn set_ready(&self, ready: bool) {
        self.0.send_replace(ready);
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    pub(crate) fn knows(service: &str) -> bool {
        SERVICES.contains(&service)
    }
}
