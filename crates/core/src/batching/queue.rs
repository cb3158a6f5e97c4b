//! A queue: the requests that feed and fetch the same tensors of a servable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::arrivals::{Load, Returns};
use super::batch::Times;
use super::decide::{Backlog, Decision, Reason, Rules, Waiting, admit, admit_low, cut};
use super::parameters::{Mode, Parameters};
use super::pool::{Pool, locked, look_after, now};
use super::report::{Counters, QueueReport};
use super::tuning::{RunTimes, Sizes};
use crate::progress::Progress;
use crate::servable::{Priority, Room, Servable};
use crate::signature::{Endpoint, Signature};
use crate::status::{Code, Status};
use crate::tensor::Tensor;

/// Batching that tunes itself refuses what would have to wait for so many times the objective, and no less than this: load
/// comes in bursts, and a late answer is better than none.
const HOPELESS: u32 = 10;
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// A request, or a piece of one, in a queue.
pub(super) struct Task {
    pub(super) servable: Arc<Servable>,
    /// In the order of the queue's inputs.
    pub(super) inputs: SmallVec<[Tensor; 2]>,
    pub(super) rows: usize,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
    /// Set when its batch is cut.
    pub(super) has_begun: Arc<AtomicBool>,
    pub(super) progress: Arc<Progress>,
    /// Held until its batch has been run, also when nobody waits any more.
    pub(super) room: Arc<dyn Room>,
    /// Closed when nobody waits any more.
    pub(super) answer: oneshot::Sender<Result<Vec<Tensor>, Status>>,
}

impl Task {
    fn waiting(&self) -> Waiting {
        Waiting { rows: self.rows, since: self.since, deadline: self.deadline }
    }

    /// Gives back what it holds, then tells whoever waits, who may come again at once.
    pub(super) fn end(self, outcome: Result<Vec<Tensor>, Status>) {
        let Self { room, answer, .. } = self;
        drop(room);
        // Whoever waited may have gone in this moment: nobody minds.
        let _ = answer.send(outcome);
    }
}

/// Requests that feed and fetch the same tensors of a servable.
pub(super) struct Queue {
    pub(super) pool: Arc<Pool>,
    pub(super) parameters: Arc<Parameters>,
    pub(super) feeds: Vec<Endpoint>,
    pub(super) fetches: Vec<Endpoint>,
    pub(super) names: Names,
    /// The signature by whose run times it goes.
    pub(super) signature: usize,
    /// How often, of late, its outputs were not one row for each row of its inputs.
    pub(super) strikes: AtomicU32,
    pub(super) state: Mutex<QueueState>,
}

pub(super) struct Names {
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) signature: Option<String>,
}

pub(super) struct QueueState {
    pub(super) high: VecDeque<Task>,
    pub(super) low: VecDeque<Task>,
    /// What bounds the queue where sizes are fixed.
    pub(super) backlog: Backlog,
    pub(super) high_rows: usize,
    pub(super) low_rows: usize,
    /// It is among those that its pool goes through.
    pub(super) is_active: bool,
    pub(super) is_closing: bool,
    /// At how many rows batches are cut.
    pub(super) sizes: Sizes,
    pub(super) times: RunTimes,
    /// Of requests that are not of low priority.
    load: Load,
    returns: Returns,
    /// In batches that are running.
    running_rows: usize,
    pub(super) counters: Counters,
}

/// Batches that its pool may run at a time, and how many more than now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub(super) all: usize,
    pub(super) free: usize,
}

pub(super) enum Found {
    Batch {
        tasks: Vec<Task>,
        target: usize,
        limit: usize,
        reason: Reason,
    },
    /// Look again then.
    Later(Option<Instant>),
    Nothing,
}

impl QueueState {
    pub(super) fn new(limit: usize, is_closing: bool) -> Self {
        Self {
            high: VecDeque::new(),
            low: VecDeque::new(),
            backlog: Backlog::EMPTY,
            high_rows: 0,
            low_rows: 0,
            is_active: false,
            is_closing,
            sizes: Sizes::all(limit),
            times: RunTimes::default(),
            load: Load::default(),
            returns: Returns::default(),
            running_rows: 0,
            counters: Counters::default(),
        }
    }

    /// Takes note of a batch that has been run; of how long that took, if it succeeded.
    pub(super) fn learn(
        &mut self,
        queue: &Queue,
        waits: &[Duration],
        rows: usize,
        padded_rows: usize,
        limit: usize,
        times: Option<Times>,
    ) {
        self.running_rows = self.running_rows.saturating_sub(rows);
        let counters = &mut self.counters;
        counters.batches += 1;
        counters.batched_rows += rows as u64;
        counters.padding_rows += (padded_rows - rows) as u64;
        counters.possible_rows += limit.max(rows) as u64;
        for wait in waits {
            counters.queue.note(*wait);
        }
        let Some(times) = times else {
            counters.failed_batches += 1;
            counters.retried += if waits.len() > 1 { waits.len() as u64 } else { 0 };
            return;
        };
        counters.concat.note(times.concat);
        counters.run.note(times.run);
        counters.split.note(times.split);
        self.times.record(padded_rows, times.run, now());
        self.returns.answered(rows, times.run, now());
        let parameters = &queue.parameters;
        if let Mode::SelfTuning { objective } = parameters.mode {
            let sizes = self.times.sizes(objective, parameters.largest_batch, &parameters.allowed, now());
            self.sizes = sizes.map(|size| parameters.allowed_part(size));
        }
    }

    /// Rows that the next batch is cut at, if so many wait and so many batches may run.
    fn size(&self, queue: &Queue, waiting: usize, slots: Slots, now: Instant) -> usize {
        match queue.parameters.mode {
            Mode::Fixed => self.sizes.usual,
            Mode::SelfTuning { .. } => {
                let load = self.load(waiting, now);
                let size = self.times.size_for(waiting, slots.free, load, self.sizes, now);
                let taken = size.min(waiting);
                let balanced = self.times.balanced(taken, self.running_rows, slots.all);
                queue.parameters.allowed_part(if balanced < taken { balanced } else { size })
            }
        }
    }

    /// Rows that come in a second.
    fn load(&self, rows: usize, now: Instant) -> f64 {
        self.load.per_s(self.times.expected(rows).unwrap_or_default(), now)
    }

    /// Until when a batch that could run waits for those who are about to join it, where batching tunes itself.
    fn gathers_until(&self, queue: &Queue, slots: Slots, now: Instant) -> Option<Instant> {
        let Mode::SelfTuning { .. } = queue.parameters.mode else { return None };
        let (coming, until) = self.returns.awaited()?;
        (until > now && self.size(queue, self.high_rows + coming, slots, now) > self.high_rows).then_some(until)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.high.is_empty() && self.low.is_empty()
    }

    fn rows(&self) -> usize {
        self.high.iter().chain(&self.low).map(|task| task.rows).sum()
    }

    /// The next batch of requests that somebody waits for, if it is time; so many may run now.
    pub(super) fn next(&mut self, queue: &Queue, slots: Slots, now: Instant) -> Found {
        while !self.is_empty() {
            let run_time = |rows| self.times.expected(rows);
            let limit = self.size(queue, self.high_rows, slots, now);
            let rules = Rules {
                parameters: &queue.parameters,
                limit,
                timeout: queue.timeout(),
                not_before: self.gathers_until(queue, slots, now),
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
            self.load.count(self.times.expected(self.high_rows).unwrap_or_default(), now);
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
            self.running_rows = rows + if slots.free < slots.all { self.running_rows } else { 0 };
            self.counters.cut(reason);
            return Found::Batch { tasks, target, limit, reason };
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
            task.end(Err(waited_too_long()));
            return None;
        }
        Some(task)
    }

    fn count_anew(&mut self) {
        self.backlog = self.high.iter().fold(Backlog::EMPTY, |backlog, task| backlog.with(task.rows, self.sizes.usual));
        self.high_rows = self.high.iter().map(|task| task.rows).sum();
        self.low_rows = self.low.iter().map(|task| task.rows).sum();
    }

    /// Takes out what nobody waits for any more.
    pub(super) fn purge(&mut self) {
        let before = self.high.len() + self.low.len();
        self.high.retain(|task| !task.answer.is_closed());
        self.low.retain(|task| !task.answer.is_closed());
        let gone = before - self.high.len() - self.low.len();
        self.counters.cancelled += gone as u64;
        if gone > 0 {
            self.count_anew();
        }
    }
}

/// What a request is told whose deadline passed before its batch was cut.
pub(super) fn waited_too_long() -> Status {
    Status::resource_exhausted("Run() timeout exceeded while waiting in batching queue")
}

/// A queue whose outputs had the wrong rows so often has no batches any more.
const MOST_STRIKES: u32 = 4;

impl Queue {
    /// Requests are run on their own: its outputs are not one row for each row of its inputs.
    pub(super) fn is_unbatchable(&self) -> bool {
        self.parameters.falls_back && self.strikes.load(Ordering::Relaxed) >= MOST_STRIKES
    }

    fn timeout(&self) -> Duration {
        match self.parameters.mode {
            Mode::Fixed => self.parameters.timeout,
            Mode::SelfTuning { .. } => Duration::ZERO,
        }
    }

    /// How many rows each piece of a request is to have, if there is room for it.
    fn admit(
        &self,
        state: &mut QueueState,
        threads: usize,
        priority: Priority,
        rows: usize,
    ) -> Result<Vec<usize>, Status> {
        let parameters = &self.parameters;
        match &parameters.low {
            Some(low) if priority == Priority::Low => admit_low(low, state.low_rows, rows).map(|()| vec![rows]),
            _ => {
                if let Mode::SelfTuning { objective: Some(objective) } = parameters.mode {
                    let wait = state.times.time_for(state.high_rows / threads.max(1), now());
                    let most = objective.saturating_mul(HOPELESS).max(LEAST_PATIENCE);
                    if wait > most {
                        let message = format!(
                            "The batch scheduling queue to which this task was submitted is full; it would have to wait \
                             for about {} ms, where the objective of {} ms leaves at most {} ms",
                            wait.as_millis(),
                            objective.as_millis(),
                            most.as_millis()
                        );
                        return Err(Status::new(Code::Unavailable, message));
                    }
                }
                // Where sizes are learned, the bound on the queue is that of the largest batch.
                let (limit, backlog) = match parameters.mode {
                    Mode::Fixed => (state.sizes.usual, state.backlog),
                    Mode::SelfTuning { .. } => {
                        let waiting = state.high_rows;
                        let batches = waiting / parameters.largest_batch + 1;
                        (parameters.largest_batch, Backlog { batches, open_rows: waiting % parameters.largest_batch })
                    }
                };
                admit(parameters, limit, backlog, rows)
            }
        }
    }

    /// Adds a request, in one piece or several, and sees to it that somebody looks if that changes something.
    pub(super) fn join(
        self: &Arc<Self>,
        priority: Priority,
        rows: usize,
        tasks: impl FnOnce(&[usize]) -> Result<Vec<Task>, Status>,
    ) -> Result<(), Status> {
        let mut pool = locked(&self.pool.state);
        let mut state = locked(&self.state);
        let pieces = self.admit(&mut state, pool.size(), priority, rows).inspect_err(|status| {
            state.counters.refused += u64::from(status.code == Code::Unavailable);
        })?;
        let tasks = tasks(&pieces)?;
        pool.joined();
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
                state.high_rows += task.rows;
                state.load.joined(task.rows, task.since);
                state.returns.joined(task.rows, task.since);
                state.backlog = state.backlog.with(task.rows, state.sizes.usual);
                state.high.push_back(task);
            }
        }
        if !state.is_active {
            state.is_active = true;
            pool.active.push_back(Arc::clone(self));
        }
        // A request that finds others waiting changes nothing unless it makes the batch full, or hurries it.
        let changes = was_empty || state.backlog.batches > 1 || state.backlog.open_rows >= state.sizes.usual || is_low;
        let changes = changes || has_deadline || self.timeout().is_zero();
        if changes && pool.has_free_thread() && !pool.is_looked_after {
            pool.is_looked_after = true;
            drop((state, pool));
            // Behind all that is ready on this thread: what came in with this request joins its batch.
            tokio::spawn(look_after(Arc::clone(&self.pool)));
        }
        Ok(())
    }

    pub(super) fn report(&self) -> QueueReport {
        let batches_at_once = locked(&self.pool.state).usual_size();
        let state = locked(&self.state);
        let Names { inputs, outputs, signature } = &self.names;
        QueueReport {
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            signature: signature.clone(),
            counters: state.counters.clone(),
            sizes: state.times.report(),
            queued_rows: state.rows(),
            limit: state.size(self, state.high_rows, Slots { all: batches_at_once, free: batches_at_once }, now()),
            timeout: self.timeout(),
            batches_at_once,
        }
    }
}

impl Names {
    pub(super) fn of(servable: &Servable, feeds: &[Endpoint], fetches: &[Endpoint]) -> Self {
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
