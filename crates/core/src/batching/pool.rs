//! Threads that queues share, and who looks what is to be run on them.
//!
//! Whoever changes something looks after what follows from it: a request that makes a batch possible starts a task on its
//! own network thread, which finds, once the other requests that have come in are queued too, what is to be run; a thread
//! that has run a batch looks for the next one. Brief batches are run where they are found.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::runtime::Handle;

use super::batch::{Batch, Observer};
use super::concurrency::Concurrency;
use super::parameters::Parameters;
use super::queue::{Found, Queue, Slots};
use crate::pace::Stage;

/// The moment, by the clock that tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pools of a server.
pub struct Scheduler {
    threads: Handle,
    observer: Arc<dyn Observer>,
    pools: Mutex<HashMap<Arc<str>, Weak<Pool>>>,
}

impl Scheduler {
    /// Batches that are not brief are run on blocking threads of `threads`.
    pub fn new(threads: Handle, observer: Arc<dyn Observer>) -> Self {
        Self { threads, observer, pools: Mutex::default() }
    }

    /// The pool that the parameters name. It has as many threads as the newest parameters say.
    pub(super) fn pool(&self, parameters: &Parameters) -> Arc<Pool> {
        let mut pools = locked(&self.pools);
        if let Some(pool) = pools.get(&parameters.pool).and_then(Weak::upgrade) {
            locked(&pool.state).resize(parameters.threads);
            return pool;
        }
        let pool = self.new_pool(parameters.threads, None);
        pools.retain(|_, pool| pool.strong_count() > 0);
        pools.insert(Arc::clone(&parameters.pool), Arc::downgrade(&pool));
        pool
    }

    /// A pool for one queue. How many threads serve that best may be learned.
    pub(super) fn own_pool(&self, parameters: &Parameters) -> Arc<Pool> {
        let Parameters { threads, most_threads, .. } = *parameters;
        self.new_pool(threads, most_threads.map(|most| Concurrency::new(threads, most, now())))
    }

    fn new_pool(&self, size: usize, learned: Option<Concurrency>) -> Arc<Pool> {
        let state =
            PoolState { size, learned, in_use: 0, active: VecDeque::new(), alarm: None, is_looked_after: false };
        Arc::new(Pool { threads: self.threads.clone(), observer: Arc::clone(&self.observer), state: Mutex::new(state) })
    }
}

/// Threads that queues share, round robin.
pub(super) struct Pool {
    pub(super) threads: Handle,
    pub(super) observer: Arc<dyn Observer>,
    /// Locked before the state of a queue, never after.
    pub(super) state: Mutex<PoolState>,
}

pub(super) struct PoolState {
    size: usize,
    /// In place of `size`.
    learned: Option<Concurrency>,
    in_use: usize,
    /// Queues with requests in them; the next one to be served first.
    pub(super) active: VecDeque<Arc<Queue>>,
    /// When somebody is going to look in any case.
    pub(super) alarm: Option<Instant>,
    /// Somebody is going to look in a moment.
    pub(super) is_looked_after: bool,
}

impl PoolState {
    pub(super) fn has_free_thread(&self) -> bool {
        self.in_use < self.size()
    }

    /// Batches that may run at a time.
    pub(super) fn size(&self) -> usize {
        self.learned.as_ref().map_or(self.size.max(1), Concurrency::number)
    }

    /// The same, but for trials of another number.
    pub(super) fn usual_size(&self) -> usize {
        self.learned.as_ref().map_or(self.size.max(1), Concurrency::usual)
    }

    /// A request has joined one of the queues.
    pub(super) fn joined(&mut self) {
        if let Some(learned) = &mut self.learned {
            learned.joined(self.in_use);
        }
    }

    fn resize(&mut self, size: usize) {
        self.size = size;
    }
}

impl Pool {
    /// A batch that is to be run now. Sets the alarm if there is none yet, but going to be.
    fn take(self: &Arc<Self>) -> Option<Batch> {
        let now = now();
        let mut state = locked(&self.state);
        state.is_looked_after = false;
        if !state.has_free_thread() {
            return None; // whoever is done next looks
        }
        let slots = Slots { all: state.size(), free: state.size().saturating_sub(state.in_use) };
        let mut soonest: Option<Instant> = None;
        for _ in 0..state.active.len() {
            let queue = state.active.pop_front()?;
            let mut waiting = locked(&queue.state);
            match waiting.next(&queue, slots, now) {
                Found::Batch { tasks, target, limit, reason } => {
                    let has_more = !waiting.is_empty();
                    waiting.is_active = has_more;
                    drop(waiting);
                    if has_more {
                        state.active.push_back(Arc::clone(&queue));
                    }
                    state.in_use += 1;
                    let slot = Slot(Arc::clone(self));
                    return Some(Batch { queue, tasks, target, limit, reason, cut: now, slot });
                }
                Found::Later(due) => {
                    soonest = soonest.into_iter().chain(due).min();
                    drop(waiting);
                    state.active.push_back(queue);
                }
                Found::Nothing => waiting.is_active = false,
            }
        }
        if let Some(due) = soonest
            && state.alarm.is_none_or(|alarm| due < alarm)
        {
            state.alarm = Some(due);
            let pool = Arc::clone(self);
            self.threads.spawn(async move {
                tokio::time::sleep_until(due.into()).await;
                {
                    let mut state = locked(&pool.state);
                    if state.alarm == Some(due) {
                        state.alarm = None;
                    }
                }
                look_aside(&pool);
            });
        }
        None
    }
}

/// Runs what there is to be run, until there is nothing any more or others do it. For network threads: brief batches are
/// run here.
pub(super) async fn look_after(pool: Arc<Pool>) {
    while let Some(batch) = pool.take() {
        if batch.stage() == Stage::Inline {
            batch.run(Stage::Inline);
            if locked(&pool.state).active.is_empty() {
                return; // whoever comes next looks
            }
            // The answers go out first, and what has come in meanwhile joins.
            tokio::task::yield_now().await;
        } else {
            run_aside(&pool, batch);
        }
    }
}

/// Has other threads run what there is to be run.
pub(super) fn look_aside(pool: &Arc<Pool>) {
    while let Some(batch) = pool.take() {
        run_aside(pool, batch);
    }
}

/// Queues up for a thread once for each batch: runs that are not batched want one as well.
fn run_aside(pool: &Arc<Pool>, batch: Batch) {
    let next = Arc::clone(pool);
    pool.threads.spawn_blocking(move || {
        let stage = match batch.stage() {
            Stage::Inline => Stage::Aside,
            stage => stage,
        };
        batch.run(stage);
        look_aside(&next);
    });
}

/// A thread of a pool, in use.
pub(super) struct Slot(Arc<Pool>);

impl Slot {
    /// Its batch has run, of requests that joined at these moments.
    pub(super) fn ran(&self, since: impl Iterator<Item = Instant>) {
        if let Some(learned) = &mut locked(&self.0.state).learned {
            let now = now();
            learned.ran(since.map(|since| now.saturating_duration_since(since)), now);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        locked(&self.0.state).in_use -= 1;
        if std::thread::panicking() {
            look_aside(&self.0);
        }
    }
}
