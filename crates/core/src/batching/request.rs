//! A servable's requests on their way into queues, and its answers on their way out.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::merge::{concatenated, row_count};
use super::parameters::{Mode, Parameters};
use super::pool::{Scheduler, locked, look_aside, now};
use super::queue::{Names, Queue, QueueState, Task, waited_too_long};
use super::report::QueueReport;
use crate::predict::Call;
use crate::servable::{Caller, Servable, Terms, left_waiting, timed_out};
use crate::signature::Endpoint;
use crate::status::{Code, Status};
use crate::tensor::Tensor;

/// Sets of tensors that requests may combine beyond those of the signatures; further ones are run on their own.
const MOST_COMBINATIONS: usize = 64;

/// The batching of one servable.
pub struct Batching {
    parameters: Arc<Parameters>,
    queues: RwLock<HashMap<Key, Arc<Queue>>>,
    is_closing: AtomicBool,
}

/// Feeds and fetches, each in ascending order.
type Key = (SmallVec<[Endpoint; 2]>, SmallVec<[Endpoint; 2]>);

impl Batching {
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters: Arc::new(parameters), queues: RwLock::default(), is_closing: AtomicBool::new(false) }
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
            look_aside(&queue.pool);
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
        if queue.is_unbatchable() {
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
                    has_begun: Arc::clone(&has_begun),
                    progress: Arc::clone(&caller.progress),
                    room: Arc::clone(&caller.room),
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
        let most = servable.signatures().count() + MOST_COMBINATIONS;
        let names = Names::of(servable, &key.0, &key.1);
        if queues.len() >= most && names.signature.is_none() && !queues.contains_key(&key) {
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
                names,
                feeds: feeds.to_vec(),
                fetches: fetches.to_vec(),
                signature: call.signature,
                strikes: AtomicU32::new(0),
                state: Mutex::new(QueueState::new(limit, self.is_closing.load(Ordering::Acquire))),
            })
        });
        Some(Arc::clone(queue))
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
        Caller { terms: Terms { deadline, .. }, gone, room, .. }: Caller<impl Future<Output = ()>>,
    ) -> Result<Vec<Tensor>, Status> {
        let Self { queue, fetches, answers, has_begun } = self;
        let _leaving = Leaving { queue: &queue, is_split: answers.len() > 1, has_begun: &has_begun };
        let has_begun = || has_begun.load(Ordering::Acquire);
        let done = async {
            let mut pieces = pin!(all_of(answers));
            tokio::select! {
                biased;
                outcome = &mut pieces => return outcome,
                () = left_waiting(gone) => {}
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
        room.hold(outputs.iter().map(Tensor::value_bytes).sum())?;
        let output = |fetch| queue.fetches.binary_search(fetch).ok().and_then(|index| outputs.get(index).cloned());
        Ok(fetches.iter().filter_map(output).collect())
    }
}

/// Takes a request out of its queue that nobody waits for any more, and with it what it holds.
struct Leaving<'a> {
    queue: &'a Queue,
    /// Some of its pieces may have begun, and others not.
    is_split: bool,
    has_begun: &'a AtomicBool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.is_split || !self.has_begun.load(Ordering::Acquire) {
            locked(&self.queue.state).purge();
        }
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
