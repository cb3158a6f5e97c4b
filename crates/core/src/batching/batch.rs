//! A batch: its requests are run as one, and answered one by one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::decide::Reason;
use super::merge::{check_output, concatenated};
use super::pool::{Slot, locked, look_aside, now};
use super::queue::{Queue, Task};
use crate::pace::Stage;
use crate::progress::{BatchShare, Mark};
use crate::servable::{RunOf, Servable, timed_out};
use crate::signature::Endpoint;
use crate::status::Status;
use crate::tensor::Tensor;

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
    /// The signature that has just its tensors; empty if none has.
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

/// Requests that are run as one.
pub(super) struct Batch {
    pub(super) queue: Arc<Queue>,
    pub(super) tasks: Vec<Task>,
    /// Rows that it is filled up to.
    pub(super) target: usize,
    /// Rows that it was cut at.
    pub(super) limit: usize,
    pub(super) reason: Reason,
    pub(super) cut: Instant,
    pub(super) slot: Slot,
}

impl Batch {
    pub(super) fn stage(&self) -> Stage {
        let bytes: usize = self.tasks.iter().flat_map(|task| &task.inputs).map(Tensor::value_bytes).sum();
        let rows = self.tasks.iter().map(|task| task.rows).sum::<usize>().max(1);
        let padded = (bytes / rows).saturating_mul(self.target).max(bytes);
        self.tasks.first().map_or(Stage::Pooled, |task| task.servable.stage(self.queue.signature, padded))
    }

    /// Runs it in this thread, and answers all requests in it; if it fails, one by one, and not in a network thread.
    pub(super) fn run(self, stage: Stage) {
        let Self { queue, tasks, target, limit, reason, cut, slot } = self;
        let Some(servable) = tasks.first().map(|task| Arc::clone(&task.servable)) else { return };
        let waits: SmallVec<[Duration; 16]> =
            tasks.iter().map(|task| cut.saturating_duration_since(task.since)).collect();
        let (requests, rows) = (tasks.len(), tasks.iter().map(|task| task.rows).sum::<usize>());
        let padded_rows = target.max(rows);
        let begun = Instant::now();
        for task in &tasks {
            task.progress.reach_at(Mark::Begun, begun);
            task.progress.share(BatchShare { requests, rows, padded_rows, reason });
        }
        let mut times = Times::default();
        let outcome = Run { queue: &queue, servable: &servable, stage }.together(&tasks, target, &mut times);
        let start = Instant::now();
        let outcome = outcome.map(|outputs| parted(&tasks, &outputs));
        times.split = start.elapsed();
        let times = outcome.is_ok().then_some(times);
        locked(&queue.state).learn(&queue, &waits, rows, padded_rows, limit, times);
        match outcome {
            Ok(outcomes) => {
                queue.strikes.store(0, Ordering::Relaxed);
                slot.ran(tasks.iter().map(|task| task.since));
                drop(slot);
                for (task, outcome) in tasks.into_iter().zip(outcomes) {
                    answer(task, outcome);
                }
            }
            Err(failure) => {
                if failure.has_run {
                    queue.strikes.fetch_add(1, Ordering::Relaxed);
                }
                let (own, servable) = (Arc::clone(&queue), Arc::clone(&servable));
                let apart = move |stage| {
                    let run = Run { queue: &own, servable: &servable, stage };
                    for task in tasks.into_iter().filter(|task| !task.answer.is_closed()) {
                        let outcome =
                            if requests == 1 { run.fallen_back(&task, failure.clone()) } else { run.alone(&task) };
                        answer(task, outcome);
                    }
                    drop(slot);
                    Arc::clone(&own.pool)
                };
                if stage == Stage::Inline && requests > 1 {
                    queue.pool.threads.spawn_blocking(move || look_aside(&apart(Stage::Aside)));
                } else {
                    apart(stage);
                }
            }
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
    task.progress.reach(Mark::Ran);
    task.end(outcome);
}
