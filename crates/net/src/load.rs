//! How many requests are at work. One whose client has gone is at work until its run is over, but nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The requests at work.
#[derive(Debug, Default)]
pub(crate) struct Load {
    at_work: AtomicU64,
    abandoned: AtomicU64,
}

impl Load {
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        Place { load: Arc::clone(self), is_abandoned: AtomicBool::new(false) }
    }

    pub(crate) fn at_work(&self) -> u64 {
        self.at_work.load(Ordering::Relaxed)
    }

    /// Those among them that somebody waits for.
    pub(crate) fn waited_for(&self) -> u64 {
        self.at_work().saturating_sub(self.abandoned.load(Ordering::Relaxed))
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Place {
    load: Arc<Load>,
    is_abandoned: AtomicBool,
}

impl Place {
    /// Nobody waits any more.
    pub(crate) fn abandon(&self) {
        if !self.is_abandoned.swap(true, Ordering::Relaxed) {
            self.load.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In this order: it never looks as if fewer were waited for than are.
        if *self.is_abandoned.get_mut() {
            self.load.abandoned.fetch_sub(1, Ordering::Release);
        }
        self.load.at_work.fetch_sub(1, Ordering::Release);
    }
}
