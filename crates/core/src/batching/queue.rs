//! Queues of requests, and the threads that run their batches.
//!
//! ```text
//!   request -> Queue (one per servable and set of tensors) -> Pool (its free threads) -> Batch -> answers
//! ```
//!
//! Whoever changes something looks after what follows from it: a request that makes a batch possible starts a task on its
//! own network thread, which finds, once the other requests that have come in are queued too, what is to be run; a thread
//! that has run a batch looks for the next one. Brief batches are run where they are found.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::decide::{Backlog, Decision, Reason, Rules, Waiting, admit, admit_low, cut};
use super::merge::{check_output, concatenated, row_count};
use super::parameters::{Mode, Parameters, allowed_size};
use super::report::{Counters, QueueReport};
use super::tuning::RunTimes;
use crate::predict::Call;
use crate::servable::{Caller, Priority, QUEUEING, Room, RunOf, Servable, Stage, Terms, timed_out};
use crate::signature::{Endpoint, Signature};
use crate::status::{Code, Status};
use crate::tensor::Tensor;

/// Sets of tensors that requests may combine beyond those of the signatures; further ones are run on their own.
const MOST_COMBINATIONS: usize = 64;
/// Batching that tunes itself refuses what would have to wait for so many times the objective.
const HOPELESS: u32 = 10;

/// The moment, by the clock that tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Is told of what happens, from the threads where it does.
pub trait Observer: Send + Sync {
    /// A request of so many rows, with so many inputs, has joined a queue.
    fn joined(&self, rows: usize, inputs: usize);
    /// A batch has been run.
    fn ran(&self, facts: &BatchFacts<'_>);
}

/// An observer that does not look.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn joined(&self, _rows: usize, _inputs: usize) {}
    fn ran(&self, _facts: &BatchFacts<'_>) {}
}

/// A batch that has been run.
#[derive(Clone, Copy)]
pub struct BatchFacts<'a> {
    pub servable: &'a Servable,
    /// The signature that has its tensors, or the first one that was asked for.
    pub signature: &'a str,
    pub reason: Reason,
    /// How long each of its requests was in the queue.
    pub waits: &'a [Duration],
    pub rows: usize,
    /// With padding.
    pub padded_rows: usize,
    /// Rows that batches were cut at.
    pub limit: usize,
    /// Nothing for one that failed.
    pub times: Option<Times>,
}

/// How long the parts of a batch took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub concat: Duration,
    pub run: Duration,
    pub split: Duration,
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

    /// The pool that the parameters name; the first ones to do so say how many threads it has.
    fn pool(&self, parameters: &Parameters) -> Arc<Pool> {
        let mut pools = locked(&self.pools);
        if let Some(pool) = pools.get(&parameters.pool).and_then(Weak::upgrade) {
            return pool;
        }
        let pool = self.own_pool(parameters);
        pools.retain(|_, pool| pool.strong_count() > 0);
        pools.insert(Arc::clone(&parameters.pool), Arc::downgrade(&pool));
        pool
    }

    fn own_pool(&self, parameters: &Parameters) -> Arc<Pool> {
        let state =
            PoolState { free: parameters.threads.max(1), active: VecDeque::new(), alarm: None, is_looked_after: false };
        Arc::new(Pool { threads: self.threads.clone(), observer: Arc::clone(&self.observer), state: Mutex::new(state) })
    }
}

/// Threads that queues share, round robin.
struct Pool {
    threads: Handle,
    observer: Arc<dyn Observer>,
    /// Locked before the state of a queue, never after.
    state: Mutex<PoolState>,
}

struct PoolState {
    free: usize,
    /// Queues with requests in them; the next one to be served first.
    active: VecDeque<Arc<Queue>>,
    /// When somebody is going to look in any case.
    alarm: Option<Instant>,
    /// Somebody is going to look in a moment.
    is_looked_after: bool,
}

impl Pool {
    /// A batch that is to be run now. Sets the alarm if there is none yet, but going to be.
    fn take(self: &Arc<Self>) -> Option<Batch> {
        let now = now();
        let mut state = locked(&self.state);
        state.is_looked_after = false;
        if state.free == 0 {
            return None; // whoever is done next looks
        }
        let mut soonest: Option<Instant> = None;
        for _ in 0..state.active.len() {
            let queue = state.active.pop_front()?;
            let mut waiting = locked(&queue.state);
            match waiting.next(&queue, now) {
                Found::Batch(tasks, target, reason) => {
                    let has_more = !waiting.is_empty();
                    waiting.is_active = has_more;
                    drop(waiting);
                    if has_more {
                        state.active.push_back(Arc::clone(&queue));
                    }
                    state.free -= 1;
                    let slot = Slot(Arc::clone(self));
                    return Some(Batch { queue, tasks, target, reason, cut: now, slot });
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
                look_after(pool).await;
            });
        }
        None
    }
}

/// Runs what there is to be run, until there is nothing any more or others do it.
async fn look_after(pool: Arc<Pool>) {
    while let Some(batch) = pool.take() {
        let stage = batch.stage();
        if stage == Stage::Inline {
            batch.run(stage);
            // The answers go out first, and what has come in meanwhile joins.
            tokio::task::yield_now().await;
        } else {
            let next = Arc::clone(&pool);
            pool.threads.spawn_blocking(move || {
                let mut batch = Some((batch, stage));
                while let Some((due, stage)) = batch {
                    due.run(stage);
                    batch = next.take().map(|batch| {
                        let stage = batch.stage();
                        (batch, if stage == Stage::Inline { Stage::Aside } else { stage })
                    });
                }
            });
        }
    }
}

/// A thread of a pool, in use.
struct Slot(Arc<Pool>);

impl Drop for Slot {
    fn drop(&mut self) {
        locked(&self.0.state).free += 1;
        if std::thread::panicking() {
            self.0.threads.spawn(look_after(Arc::clone(&self.0)));
        }
    }
}

/// A request, or a piece of one, in a queue.
struct Task {
    servable: Arc<Servable>,
    /// In the order of the queue's inputs.
    inputs: SmallVec<[Tensor; 2]>,
    rows: usize,
    since: Instant,
    deadline: Option<Instant>,
    room: Arc<dyn Room>,
    /// Set when its batch is cut.
    has_begun: Arc<AtomicBool>,
    /// Closed when nobody waits any more.
    answer: oneshot::Sender<Result<Vec<Tensor>, Status>>,
}

impl Task {
    fn waiting(&self) -> Waiting {
        Waiting { rows: self.rows, since: self.since, deadline: self.deadline }
    }
}

/// Requests that feed and fetch the same tensors of a servable.
struct Queue {
    pool: Arc<Pool>,
    parameters: Arc<Parameters>,
    feeds: Vec<Endpoint>,
    fetches: Vec<Endpoint>,
    names: Names,
    /// The signature by whose run times it goes.
    signature: usize,
    /// Its outputs are not one row for each row of its inputs: requests are run on their own.
    is_unbatchable: AtomicBool,
    state: Mutex<QueueState>,
}

struct Names {
    inputs: Vec<String>,
    outputs: Vec<String>,
    signature: Option<String>,
}

struct QueueState {
    high: VecDeque<Task>,
    low: VecDeque<Task>,
    backlog: Backlog,
    low_rows: usize,
    /// It is among those that its pool goes through.
    is_active: bool,
    is_closing: bool,
    /// Rows that batches are cut at.
    limit: usize,
    times: RunTimes,
    counters: Counters,
}

enum Found {
    Batch(Vec<Task>, usize, Reason),
    /// Look again then.
    Later(Option<Instant>),
    Nothing,
}

impl QueueState {
    fn is_empty(&self) -> bool {
        self.high.is_empty() && self.low.is_empty()
    }

    fn rows(&self) -> usize {
        self.high.iter().chain(&self.low).map(|task| task.rows).sum()
    }

    /// The next batch of requests that somebody waits for, if it is time.
    fn next(&mut self, queue: &Queue, now: Instant) -> Found {
        while !self.is_empty() {
            let run_time = |rows| self.times.expected(rows);
            let rules = Rules {
                parameters: &queue.parameters,
                limit: self.limit,
                timeout: queue.timeout(),
                closing: self.is_closing,
                run_time: &run_time,
            };
            let (high, low) = (self.high.iter().map(Task::waiting), self.low.iter().map(Task::waiting));
            let (high, low, target, reason) = match cut(high, low, &rules, now) {
                Decision::Cut { high, low, target, reason } => (high, low, target, reason),
                Decision::Wait(due) => return Found::Later(due),
            };
            let mut tasks: Vec<Task> = self.high.drain(..high).collect();
            tasks.extend(self.low.drain(..low));
            self.count_anew();
            let cut_rows: usize = tasks.iter().map(|task| task.rows).sum();
            tasks = tasks.into_iter().filter_map(|task| self.alive(task, now)).collect();
            if tasks.is_empty() {
                continue;
            }
            let rows: usize = tasks.iter().map(|task| task.rows).sum();
            let target = if rows == cut_rows { target } else { queue.parameters.allowed_size(rows) };
            for task in &tasks {
                task.has_begun.store(true, Ordering::Release);
            }
            self.counters.cut(reason);
            return Found::Batch(tasks, target, reason);
        }
        Found::Nothing
    }

    /// The task, if somebody still waits for it.
    fn alive(&mut self, task: Task, now: Instant) -> Option<Task> {
        if task.answer.is_closed() {
            self.counters.cancelled += 1;
            return None;
        }
        if task.deadline.is_some_and(|deadline| deadline <= now) {
            self.counters.expired += 1;
            // Its client may have gone in this moment: nobody minds.
            let _ = task.answer.send(Err(waited_too_long()));
            return None;
        }
        Some(task)
    }

    fn count_anew(&mut self) {
        self.backlog = self.high.iter().fold(Backlog::EMPTY, |backlog, task| backlog.with(task.rows, self.limit));
        self.low_rows = self.low.iter().map(|task| task.rows).sum();
    }

    /// Takes out what nobody waits for any more.
    fn purge(&mut self) {
        let before = self.high.len() + self.low.len();
        self.high.retain(|task| !task.answer.is_closed());
        self.low.retain(|task| !task.answer.is_closed());
        self.counters.cancelled += (before - self.high.len() - self.low.len()) as u64;
        self.count_anew();
    }
}

/// What a request is told whose deadline passed before its batch was cut.
fn waited_too_long() -> Status {
    Status::resource_exhausted("Run() timeout exceeded while waiting in batching queue")
}

impl Queue {
    fn timeout(&self) -> Duration {
        match self.parameters.mode {
            Mode::Fixed => self.parameters.timeout,
            Mode::SelfTuning { .. } => Duration::ZERO,
        }
    }

    /// How many rows each piece of a request is to have, if there is room for it.
    fn admit(&self, state: &mut QueueState, priority: Priority, rows: usize) -> Result<Vec<usize>, Status> {
        let parameters = &self.parameters;
        match &parameters.low {
            Some(low) if priority == Priority::Low => admit_low(low, state.low_rows, rows).map(|()| vec![rows]),
            _ => {
                if let Mode::SelfTuning { objective: Some(objective) } = parameters.mode {
                    let batches = (state.backlog.batches - 1) as u32;
                    let wait = state.times.expected(state.limit).unwrap_or_default() * batches;
                    if wait > objective * HOPELESS {
                        let message = format!(
                            "The batch scheduling queue to which this task was submitted is full; a request would have \
                             to wait for about {} ms, which is more than {HOPELESS} times the objective of {} ms",
                            wait.as_millis(),
                            objective.as_millis()
                        );
                        return Err(Status::new(Code::Unavailable, message));
                    }
                }
                // Where sizes are learned, the bound on the queue is that of the largest batch.
                let (limit, backlog) = match parameters.mode {
                    Mode::Fixed => (state.limit, state.backlog),
                    Mode::SelfTuning { .. } => {
                        let waiting = (state.backlog.batches - 1) * state.limit + state.backlog.open_rows;
                        let batches = waiting / parameters.largest_batch + 1;
                        (parameters.largest_batch, Backlog { batches, open_rows: waiting % parameters.largest_batch })
                    }
                };
                admit(parameters, limit, backlog, rows)
            }
        }
    }

    /// Adds a request, in one piece or several, and sees to it that somebody looks if that changes something.
    fn join(
        self: &Arc<Self>,
        priority: Priority,
        rows: usize,
        tasks: impl FnOnce(&[usize]) -> Result<Vec<Task>, Status>,
    ) -> Result<(), Status> {
        let mut pool = locked(&self.pool.state);
        let mut state = locked(&self.state);
        let mut pieces = self.admit(&mut state, priority, rows);
        if pieces.as_ref().is_err_and(|status| status.code == Code::Unavailable) {
            state.purge();
            pieces = self.admit(&mut state, priority, rows);
        }
        let pieces = pieces.inspect_err(|_| state.counters.refused += 1)?;
        let tasks = tasks(&pieces)?;
        state.counters.requests += 1;
        state.counters.rows += rows as u64;
        let was_empty = state.is_empty();
        let has_deadline = tasks.iter().any(|task| task.deadline.is_some());
        let is_low = self.parameters.low.is_some() && priority == Priority::Low;
        for task in tasks {
            if is_low {
                state.low_rows += task.rows;
                state.low.push_back(task);
            } else {
                state.backlog = state.backlog.with(task.rows, state.limit);
                state.high.push_back(task);
            }
        }
        if !state.is_active {
            state.is_active = true;
            pool.active.push_back(Arc::clone(self));
        }
        // A request that finds others waiting changes nothing unless it makes the batch full, or hurries it.
        let changes = was_empty || state.backlog.batches > 1 || state.backlog.open_rows >= state.limit || is_low;
        let changes = changes || has_deadline || self.timeout().is_zero();
        if changes && pool.free > 0 && !pool.is_looked_after {
            pool.is_looked_after = true;
            drop((state, pool));
            // Behind all that is ready on this thread: what came in with this request joins its batch.
            tokio::spawn(look_after(Arc::clone(&self.pool)));
        }
        Ok(())
    }

    fn report(&self) -> QueueReport {
        let state = locked(&self.state);
        let Names { inputs, outputs, signature } = &self.names;
        QueueReport {
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            signature: signature.clone(),
            counters: state.counters.clone(),
            sizes: state.times.report(),
            queued_rows: state.rows(),
            limit: state.limit,
            timeout: self.timeout(),
            batches_at_once: self.parameters.threads,
        }
    }
}

/// Requests that are run as one.
struct Batch {
    queue: Arc<Queue>,
    tasks: Vec<Task>,
    /// Rows that it is filled up to.
    target: usize,
    reason: Reason,
    cut: Instant,
    slot: Slot,
}

impl Batch {
    fn stage(&self) -> Stage {
        let bytes = self.tasks.iter().flat_map(|task| &task.inputs).map(Tensor::value_bytes).sum();
        self.tasks.first().map_or(Stage::Pooled, |task| task.servable.stage(self.queue.signature, bytes))
    }

    /// Runs it in this thread, and answers all requests in it.
    fn run(self, stage: Stage) {
        let Self { queue, tasks, target, reason, cut, slot } = self;
        let Some(servable) = tasks.first().map(|task| Arc::clone(&task.servable)) else { return };
        let waits: SmallVec<[Duration; 16]> =
            tasks.iter().map(|task| cut.saturating_duration_since(task.since)).collect();
        let (requests, rows) = (tasks.len(), tasks.iter().map(|task| task.rows).sum::<usize>());
        let run = Run { queue: &queue, servable: &servable, stage };
        let mut times = Times::default();
        let (outcomes, has_failed): (Vec<_>, bool) = match run.together(&tasks, target, &mut times) {
            Ok(outputs) => {
                let start = Instant::now();
                let outcomes = parted(&tasks, &outputs);
                times.split = start.elapsed();
                (outcomes, false)
            }
            Err(failure) if requests == 1 => {
                (tasks.iter().map(|task| run.fallen_back(task, failure.clone())).collect(), true)
            }
            Err(_) => (tasks.iter().map(|task| run.alone(task)).collect(), true),
        };
        let padded_rows = target.max(rows);
        let times = (!has_failed).then_some(times);
        let limit = locked(&queue.state).learn(&queue, &waits, rows, padded_rows, times);
        drop(slot);
        for (task, outcome) in tasks.into_iter().zip(outcomes) {
            answer(task, outcome);
        }
        let signature = queue.names.signature.as_deref().unwrap_or_default();
        queue.pool.observer.ran(&BatchFacts {
            servable: &servable,
            signature,
            reason,
            waits: &waits,
            rows,
            padded_rows,
            limit,
            times,
        });
    }
}

/// How a batch is run.
struct Run<'a> {
    queue: &'a Queue,
    servable: &'a Servable,
    stage: Stage,
}

/// Why a batch has no answers.
#[derive(Clone)]
struct Failure {
    status: Status,
    /// It ran, but what came out is not one row for each row that went in.
    has_run: bool,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status, has_run: false }
    }
}

impl Run<'_> {
    /// The outputs of all requests as one, with a row for each of theirs.
    fn together(&self, tasks: &[Task], target: usize, times: &mut Times) -> Result<Vec<Tensor>, Failure> {
        let (queue, start) = (self.queue, Instant::now());
        let pads = queue.parameters.pads_lengths;
        let mut feeds = Vec::with_capacity(queue.feeds.len());
        let mut rows = target;
        for (index, endpoint) in queue.feeds.iter().enumerate() {
            let parts: SmallVec<[&Tensor; 16]> = tasks.iter().filter_map(|task| task.inputs.get(index)).collect();
            let name = queue.names.inputs.get(index).map_or("", String::as_str);
            match concatenated(name, &parts, target, pads) {
                Ok(tensor) => feeds.push((*endpoint, tensor)),
                // A request that cannot be filled up is run as it is.
                Err(_) if tasks.len() == 1 => {
                    feeds = queue.feeds.iter().copied().zip(tasks[0].inputs.iter().cloned()).collect();
                    rows = tasks[0].rows;
                    break;
                }
                Err(status) => return Err(status.into()),
            }
        }
        times.concat = start.elapsed();
        let deadlines = tasks.iter().map(|task| task.deadline).collect::<Option<SmallVec<[Instant; 16]>>>();
        let timeout = deadlines.and_then(|deadlines| deadlines.into_iter().max());
        let start = Instant::now();
        let outputs = self.session(&feeds, timeout)?;
        times.run = start.elapsed();
        outputs
            .iter()
            .try_for_each(|output| check_output(output, rows))
            .map_err(|status| Failure { status, has_run: true })?;
        Ok(outputs)
    }

    fn session(&self, feeds: &[(Endpoint, Tensor)], deadline: Option<Instant>) -> Result<Vec<Tensor>, Status> {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now()));
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(timed_out());
        }
        let bytes = feeds.iter().map(|(_, tensor)| tensor.value_bytes()).sum();
        let run = RunOf { signature: self.queue.signature, bytes, feeds, fetches: &self.queue.fetches };
        self.servable.run_tensors(&run, self.stage, timeout)
    }

    /// What a request gets that is run on its own.
    fn alone(&self, task: &Task) -> Result<Vec<Tensor>, Status> {
        let target = self.queue.parameters.allowed_size(task.rows);
        match self.together(std::slice::from_ref(task), target, &mut Times::default()) {
            Ok(outputs) => rows_of(&outputs, 0..task.rows),
            Err(failure) => self.fallen_back(task, failure),
        }
    }

    /// What a request gets that could not be run as a batch of its own.
    fn fallen_back(&self, task: &Task, failure: Failure) -> Result<Vec<Tensor>, Status> {
        if !(failure.has_run && self.queue.parameters.falls_back) {
            return Err(failure.status);
        }
        self.queue.is_unbatchable.store(true, Ordering::Relaxed);
        let feeds: Vec<_> = self.queue.feeds.iter().copied().zip(task.inputs.iter().cloned()).collect();
        self.session(&feeds, task.deadline)
    }
}

/// The rows of each request.
fn parted(tasks: &[Task], outputs: &[Tensor]) -> Vec<Result<Vec<Tensor>, Status>> {
    let mut start = 0;
    let part = |task: &Task| {
        let rows = start..start + task.rows;
        start = rows.end;
        rows_of(outputs, rows)
    };
    tasks.iter().map(part).collect()
}

fn rows_of(outputs: &[Tensor], rows: Range<usize>) -> Result<Vec<Tensor>, Status> {
    let part = |output: &Tensor| {
        output
            .rows(rows.clone())
            .ok_or_else(|| Status::internal("an output without the rows of its request: this is a bug"))
    };
    outputs.iter().map(part).collect()
}

fn answer(task: Task, outcome: Result<Vec<Tensor>, Status>) {
    let outcome = outcome.and_then(|tensors| {
        task.room.hold(tensors.iter().map(Tensor::value_bytes).sum())?;
        Ok(tensors)
    });
    // Whoever waited may have gone in this moment: nobody minds.
    let _ = task.answer.send(outcome);
}

impl QueueState {
    /// Takes note of a batch that has been run; of how long that took, if it succeeded. Gives the limit that it was cut by.
    fn learn(
        &mut self,
        queue: &Queue,
        waits: &[Duration],
        rows: usize,
        padded_rows: usize,
        times: Option<Times>,
    ) -> usize {
        let limit_before = self.limit;
        let counters = &mut self.counters;
        counters.batches += 1;
        counters.batched_rows += rows as u64;
        counters.padding_rows += (padded_rows - rows) as u64;
        counters.possible_rows += self.limit.max(rows) as u64;
        for wait in waits {
            counters.queue.note(*wait);
        }
        let Some(times) = times else {
            counters.failed_batches += 1;
            counters.retried += if waits.len() > 1 { waits.len() as u64 } else { 0 };
            return limit_before;
        };
        counters.concat.note(times.concat);
        counters.run.note(times.run);
        counters.split.note(times.split);
        self.times.record(padded_rows, times.run, now());
        let parameters = &queue.parameters;
        if let Mode::SelfTuning { objective } = parameters.mode {
            let best = self.times.best_size(objective, parameters.largest_batch, now());
            let allowed = parameters.allowed.iter().copied().rfind(|size| *size <= best);
            let limit = allowed.unwrap_or_else(|| allowed_size(&parameters.allowed, best));
            if limit != self.limit {
                self.limit = limit;
                self.count_anew();
            }
        }
        limit_before
    }
}

/// The batching of one servable.
pub struct Batching {
    parameters: Arc<Parameters>,
    queues: RwLock<HashMap<Key, Arc<Queue>>>,
    most_queues: OnceLock<usize>,
    is_closing: AtomicBool,
}

/// Feeds and fetches, each in ascending order.
type Key = (SmallVec<[Endpoint; 2]>, SmallVec<[Endpoint; 2]>);

impl Batching {
    pub fn new(parameters: Parameters) -> Self {
        Self {
            parameters: Arc::new(parameters),
            queues: RwLock::default(),
            most_queues: OnceLock::new(),
            is_closing: AtomicBool::new(false),
        }
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What its queues have done so far.
    pub fn report(&self) -> Vec<QueueReport> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<QueueReport> = queues.values().map(|queue| queue.report()).collect();
        reports.sort_by(|a, b| (&a.signature, &a.inputs, &a.outputs).cmp(&(&b.signature, &b.inputs, &b.outputs)));
        reports
    }

    /// From now on no request waits for others.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        for queue in self.queues.read().unwrap_or_else(PoisonError::into_inner).values() {
            locked(&queue.state).is_closing = true;
            queue.pool.threads.spawn(look_after(Arc::clone(&queue.pool)));
        }
    }

    /// Puts a call into its queue; `None` if it has to be run on its own. Takes the inputs out of the call.
    pub(crate) fn join<G>(
        &self,
        servable: &Arc<Servable>,
        call: &mut Call,
        caller: &Caller<G>,
        scheduler: &Scheduler,
    ) -> Result<Option<Joined>, Status> {
        let rows = match row_count(call.feeds.iter().map(|(_, tensor)| tensor)) {
            Ok(0) => return Ok(None),
            Err(_) if self.parameters.falls_back => return Ok(None),
            rows => rows?,
        };
        if self.parameters.falls_back && rows > self.parameters.largest_request {
            return Ok(None);
        }
        call.feeds.sort_unstable_by_key(|(endpoint, _)| *endpoint);
        let Some(queue) = self.queue(servable, call, scheduler) else { return Ok(None) };
        if queue.is_unbatchable.load(Ordering::Relaxed) {
            locked(&queue.state).counters.unbatched += 1;
            return Ok(None);
        }
        let inputs: SmallVec<[Tensor; 2]> = call.feeds.drain(..).map(|(_, tensor)| tensor).collect();
        let has_begun = Arc::new(AtomicBool::new(false));
        let mut answers = SmallVec::new();
        let since = now();
        queue.join(caller.terms.priority, rows, |pieces| {
            let mut start = 0;
            let task = |rows: &usize| {
                let (answer, waiting) = oneshot::channel();
                answers.push(waiting);
                let piece = start..start + rows;
                start = piece.end;
                let part = |input: &Tensor| {
                    input
                        .rows(piece.clone())
                        .ok_or_else(|| Status::internal("a request without its rows: this is a bug"))
                };
                Ok(Task {
                    servable: Arc::clone(servable),
                    inputs: inputs.iter().map(part).collect::<Result<_, Status>>()?,
                    rows: *rows,
                    since,
                    deadline: caller.terms.deadline,
                    room: Arc::clone(&caller.room),
                    has_begun: Arc::clone(&has_begun),
                    answer,
                })
            };
            pieces.iter().map(task).collect()
        })?;
        queue.pool.observer.joined(rows, inputs.len());
        Ok(Some(Joined { queue, fetches: std::mem::take(&mut call.fetches), answers, has_begun }))
    }

    /// The queue for the tensors of a call; `None` if there are too many queues already.
    fn queue(&self, servable: &Servable, call: &Call, scheduler: &Scheduler) -> Option<Arc<Queue>> {
        let mut fetches: SmallVec<[Endpoint; 2]> = call.fetches.iter().copied().collect();
        fetches.sort_unstable();
        fetches.dedup();
        let key: Key = (call.feeds.iter().map(|(endpoint, _)| *endpoint).collect(), fetches);
        let known = self.queues.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if known.is_some() {
            return known;
        }
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let most = *self.most_queues.get_or_init(|| servable.signatures().count() + MOST_COMBINATIONS);
        if queues.len() >= most && !queues.contains_key(&key) {
            return None;
        }
        let queue = queues.entry(key).or_insert_with_key(|(feeds, fetches)| {
            let parameters = &self.parameters;
            let (pool, limit) = match parameters.mode {
                Mode::Fixed => (scheduler.pool(parameters), parameters.largest_batch),
                Mode::SelfTuning { .. } => (scheduler.own_pool(parameters), 1),
            };
            Arc::new(Queue {
                pool,
                parameters: Arc::clone(parameters),
                names: Names::of(servable, feeds, fetches),
                feeds: feeds.to_vec(),
                fetches: fetches.to_vec(),
                signature: call.signature,
                is_unbatchable: AtomicBool::new(false),
                state: Mutex::new(QueueState {
                    high: VecDeque::new(),
                    low: VecDeque::new(),
                    backlog: Backlog::EMPTY,
                    low_rows: 0,
                    is_active: false,
                    is_closing: self.is_closing.load(Ordering::Acquire),
                    limit,
                    times: RunTimes::default(),
                    counters: Counters::default(),
                }),
            })
        });
        Some(Arc::clone(queue))
    }
}

impl Names {
    fn of(servable: &Servable, feeds: &[Endpoint], fetches: &[Endpoint]) -> Self {
        let all = || servable.signatures().flat_map(|signature| signature.inputs.iter().chain(&signature.outputs));
        let name = |endpoint: &Endpoint| {
            let slot = all().find(|slot| slot.endpoint.as_ref() == Ok(endpoint));
            slot.map_or_else(String::new, |slot| slot.tensor_name.clone())
        };
        let has = |signature: &&Signature| {
            let same = |slots: &[crate::Slot], endpoints: &[Endpoint]| {
                slots.iter().all(|slot| slot.endpoint.as_ref().is_ok_and(|endpoint| endpoints.contains(endpoint)))
                    && endpoints.iter().all(|endpoint| slots.iter().any(|slot| slot.endpoint.as_ref() == Ok(endpoint)))
            };
            same(&signature.inputs, feeds) && same(&signature.outputs, fetches)
        };
        Self {
            inputs: feeds.iter().map(name).collect(),
            outputs: fetches.iter().map(name).collect(),
            signature: servable.signatures().find(has).map(|signature| signature.name.clone()),
        }
    }
}

/// Where the answers to the pieces of a request come; mostly there is one.
type Answers = SmallVec<[oneshot::Receiver<Result<Vec<Tensor>, Status>>; 1]>;

/// A request in a queue. Dropped, it leaves the queue.
pub(crate) struct Joined {
    queue: Arc<Queue>,
    fetches: Vec<Endpoint>,
    answers: Answers,
    has_begun: Arc<AtomicBool>,
}

impl Joined {
    /// Waits for what the call fetches, in its order.
    pub(crate) async fn answer(
        self,
        Caller { terms: Terms { deadline, .. }, gone, .. }: Caller<impl Future<Output = ()>>,
    ) -> Result<Vec<Tensor>, Status> {
        let Self { queue, fetches, answers, has_begun } = self;
        let has_begun = || has_begun.load(Ordering::Acquire);
        let done = async {
            let mut pieces = pin!(all_of(answers));
            tokio::select! {
                biased;
                outcome = &mut pieces => return outcome,
                () = async { tokio::time::sleep(QUEUEING).await; gone.await } => {}
            }
            if has_begun() {
                return pieces.await;
            }
            Err(Status::new(Code::Cancelled, "the client went before its request was begun"))
        };
        let outputs = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), done)
                .await
                .unwrap_or_else(|_| Err(if has_begun() { timed_out() } else { waited_too_long() }))?,
            None => done.await?,
        };
        let output = |fetch| queue.fetches.binary_search(fetch).ok().and_then(|index| outputs.get(index).cloned());
        Ok(fetches.iter().filter_map(output).collect())
    }
}

/// Waits for all pieces of a request, and puts their rows together.
async fn all_of(answers: Answers) -> Result<Vec<Tensor>, Status> {
    let mut pieces: SmallVec<[Vec<Tensor>; 1]> = SmallVec::with_capacity(answers.len());
    for answer in answers {
        let lost = |_| Status::internal("running the model failed; the server's log says where");
        pieces.push(answer.await.map_err(lost)??);
    }
    if pieces.len() == 1 {
        return Ok(pieces.pop().unwrap_or_default());
    }
    let together = |output: usize| {
        let parts: Vec<&Tensor> = pieces.iter().filter_map(|piece| piece.get(output)).collect();
        let rows = parts.iter().filter_map(|part| part.row_count()).sum();
        concatenated("an output", &parts, rows, false)
    };
    (0..pieces.first().map_or(0, Vec::len)).map(together).collect()
}
