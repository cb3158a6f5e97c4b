//! A loaded version of a model: its signatures and the session that runs them.

use std::collections::HashMap;
use std::future::{Future, Pending, pending};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::batching::{Batching, Scheduler};
use crate::pace::{BRIEF, Pace, Stage};
use crate::predict::{Call, NamedRun};
use crate::progress::{Mark, Progress};
use crate::signature::{DEFAULT_SIGNATURE, Endpoint, Signature};
use crate::status::{Code, Status};
use crate::tensor::Tensor;
use crate::usage::Usage;

/// Which thread does the work of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The caller's own, from start to end: nothing is handed over, and nothing can interrupt it.
    Caller,
    /// The session's pool, while the caller waits, at most so long.
    Pool { timeout: Option<Duration> },
}

/// Where results have to find room that wait to be written. A run holds it until it is over, whether anybody still waits
/// for its results or not: what a request has of anything that is limited is given back with the last hold of its room.
pub trait Room: Send + Sync {
    /// Holds so many bytes in all, whatever it was before.
    fn hold(&self, bytes: usize) -> Result<(), Status>;
}

/// How much it matters that a request is answered soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    #[default]
    High,
    /// It can wait, and may be refused, if that helps others.
    Low,
}

/// The threads that runs are done on.
pub struct Threads {
    pub runs: Handle,
    pub batches: Scheduler,
}

/// By when, and how urgently, an answer is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    pub deadline: Option<Instant>,
    pub priority: Priority,
}

/// Who waits for a run.
pub struct Caller<G = Pending<()>> {
    pub terms: Terms,
    /// Done when nobody waits any more. One whose future is dropped instead has gone as well.
    pub gone: G,
    pub room: Arc<dyn Room>,
    /// Where it is noted how far the request has come.
    pub progress: Arc<Progress>,
}

impl Caller {
    /// One that waits until its deadline, and does not go but by dropping the future that it waits for.
    pub fn waiting(terms: Terms, room: Arc<dyn Room>, progress: Arc<Progress>) -> Self {
        Self { terms, gone: pending(), room, progress }
    }
}

/// Something that computes tensors from tensors. Called from many threads at once.
pub trait Session: Send + Sync {
    /// One tensor per fetch, in order. `feeds` and `fetches` are endpoints that this session has handed out.
    fn run(
        &self,
        feeds: &[(Endpoint, Tensor)],
        fetches: &[Endpoint],
        placement: Placement,
    ) -> Result<Vec<Tensor>, Status>;

    /// Runs a part of the graph that no signature describes, in the session's pool. `UNIMPLEMENTED` where there is none.
    fn run_named(&self, _run: &NamedRun, _timeout: Option<Duration>) -> Result<Vec<Tensor>, Status> {
        Err(Status::unimplemented("this model has no graph whose tensors could be named"))
    }
}

/// What a servable says of itself to those who ask for its metadata, encoded once.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// A serialised `tensorflow.serving.SignatureDefMap`.
    pub signature_map: Bytes,
    /// The same as JSON.
    pub json: String,
}

/// What a session is to run.
pub(crate) struct RunOf<'a> {
    /// The place of the signature that learns from it.
    pub(crate) signature: usize,
    /// Of the values of all feeds.
    pub(crate) bytes: usize,
    pub(crate) feeds: &'a [(Endpoint, Tensor)],
    pub(crate) fetches: &'a [Endpoint],
}

impl<'a> From<&'a Call> for RunOf<'a> {
    fn from(call: &'a Call) -> Self {
        Self { signature: call.signature, bytes: call.input_bytes, feeds: &call.feeds, fetches: &call.fetches }
    }
}

/// A version of a model, ready to run. Whoever holds an `Arc` of it keeps it loaded.
pub struct Servable {
    name: String,
    version: i64,
    description: Description,
    signatures: Vec<(Signature, Pace)>,
    by_name: HashMap<String, usize>,
    session: Box<dyn Session>,
    batching: Option<Batching>,
    waits_for_others: bool,
    used: LastUse,
    usage: Arc<Usage>,
}

impl Servable {
    pub fn new(
        name: String,
        version: i64,
        description: Description,
        signatures: Vec<Signature>,
        session: Box<dyn Session>,
    ) -> Self {
        let mut by_name = HashMap::with_capacity(signatures.len());
        let mut indexed = Vec::with_capacity(signatures.len());
        for (index, signature) in signatures.into_iter().enumerate() {
            by_name.insert(signature.name.clone(), index);
            indexed.push((Signature { index, ..signature }, Pace::default()));
        }
        let usage = Arc::new(Usage::new(indexed.iter().map(|(signature, _)| signature.name.clone()).collect()));
        let used = LastUse::default();
        used.note(Instant::now());
        Self {
            name,
            version,
            description,
            signatures: indexed,
            by_name,
            session,
            batching: None,
            waits_for_others: false,
            used,
            usage,
        }
    }

    /// The same, with requests gathered into batches.
    #[must_use]
    pub fn batched(self, batching: Batching) -> Self {
        Self { batching: Some(batching), ..self }
    }

    /// The same, with runs that wait for other runs: a network thread that did one would not get at the others.
    #[must_use]
    pub fn waiting_for_others(self) -> Self {
        Self { waits_for_others: true, ..self }
    }

    pub fn batching(&self) -> Option<&Batching> {
        self.batching.as_ref()
    }

    /// From now on no request waits for others: the servable is going to be unloaded.
    pub fn close(&self) {
        if let Some(batching) = &self.batching {
            batching.close();
        }
    }

    pub fn signatures(&self) -> impl Iterator<Item = &Signature> {
        self.signatures.iter().map(|(signature, _)| signature)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> i64 {
        self.version
    }

    /// How long ago the last run began, or the servable was made.
    pub fn idle(&self) -> Duration {
        self.used.elapsed()
    }

    /// What is done with it, which others may go on showing when it is gone.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The signature of this name; an empty one means `serving_default`.
    pub fn signature(&self, name: &str) -> Option<&Signature> {
        let name = if name.is_empty() { DEFAULT_SIGNATURE } else { name };
        self.by_name.get(name).map(|index| &self.signatures[*index].0)
    }

    /// The signature that a call was bound to.
    pub fn signature_of(&self, call: &Call) -> &Signature {
        &self.signatures[call.signature].0
    }

    /// Runs a bound call: together with others if this servable gathers them; otherwise in this thread if the signature is
    /// known to be brief, or on another one.
    ///
    /// A passed deadline is an error before the session sees the call. A call that nobody waits for any more, because
    /// its deadline has passed or its client has gone, is not begun.
    pub async fn run(
        self: Arc<Self>,
        mut call: Call,
        caller: Caller<impl Future<Output = ()>>,
        threads: &Threads,
    ) -> Result<Answer, Status> {
        if caller.terms.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(timed_out());
        }
        let signature = call.signature;
        let outputs = std::mem::take(&mut call.outputs);
        if let Some(batching) = &self.batching
            && let Some(joined) = batching.join(&self, &mut call, &caller, &threads.batches)?
        {
            let tensors = joined.answer(caller).await?;
            return Ok(Answer { servable: self, signature, outputs, tensors });
        }
        let tensors = match self.stage(signature, call.input_bytes) {
            Stage::Inline => {
                caller.progress.reach(Mark::Begun);
                let outcome = self.run_tensors(&RunOf::from(&call), Stage::Inline, None);
                caller.progress.reach(Mark::Ran);
                outcome
            }
            stage => Arc::clone(&self).run_elsewhere(call, stage, caller, &threads.runs).await,
        }?;
        Ok(Answer { servable: self, signature, outputs, tensors })
    }

    /// How a run with so many bytes of input is best done.
    pub(crate) fn stage(&self, signature: usize, input_bytes: usize) -> Stage {
        match self.signatures[signature].1.stage(input_bytes) {
            Stage::Inline if self.waits_for_others => Stage::Aside,
            stage => stage,
        }
    }

    /// Runs the session in this thread, or in its pool while this thread waits.
    pub(crate) fn run_tensors(
        &self,
        run: &RunOf<'_>,
        stage: Stage,
        timeout: Option<Duration>,
    ) -> Result<Vec<Tensor>, Status> {
        let start = Instant::now();
        self.used.note(start);
        let placement = if stage == Stage::Pooled { Placement::Pool { timeout } } else { Placement::Caller };
        let outcome = self.session.run(run.feeds, run.fetches, placement);
        // A run that failed says nothing of how long one takes that does not.
        if outcome.is_ok() || start.elapsed() >= BRIEF {
            self.signatures[run.signature].1.record(run.bytes, start.elapsed(), stage);
        }
        outcome
    }

    /// Runs a bound call in this thread, whatever is known of how long it takes. For calls that nobody waits for.
    ///
    /// The signature learns from it as from a run aside. A thread of low priority may take longer than the graph does,
    /// and never less: a signature may come out as less brief than it is, which is where every signature begins.
    pub fn run_here(self: &Arc<Self>, call: &Call) -> Result<Answer, Status> {
        let tensors = self.run_tensors(&call.into(), Stage::Aside, None)?;
        Ok(Answer { servable: Arc::clone(self), signature: call.signature, outputs: call.outputs.clone(), tensors })
    }

    async fn run_elsewhere(
        self: Arc<Self>,
        call: Call,
        stage: Stage,
        caller: Caller<impl Future<Output = ()>>,
        threads: &Handle,
    ) -> Result<Vec<Tensor>, Status> {
        let servable = Arc::clone(&self);
        let run = move |timeout| servable.run_tensors(&RunOf::from(&call), stage, timeout);
        self.begun_in_time(run, caller, threads).await
    }

    /// Runs a part of the graph by names, on one of `threads`. As with [`run`](Self::run), it is not begun too late.
    pub async fn run_named(
        self: Arc<Self>,
        run: NamedRun,
        caller: Caller<impl Future<Output = ()>>,
        threads: &Handle,
    ) -> Result<Vec<Tensor>, Status> {
        let servable = Arc::clone(&self);
        let run = move |timeout| {
            servable.used.note(Instant::now());
            servable.session.run_named(&run, timeout)
        };
        self.begun_in_time(run, caller, threads).await
    }

    /// Does a run on one of `threads`, unless its deadline has passed or its caller has gone by then. It gets the time
    /// that is left.
    async fn begun_in_time(
        &self,
        run: impl FnOnce(Option<Duration>) -> Result<Vec<Tensor>, Status> + Send + 'static,
        Caller { terms: Terms { deadline, .. }, gone, room, progress }: Caller<impl Future<Output = ()>>,
        threads: &Handle,
    ) -> Result<Vec<Tensor>, Status> {
        let work = move || {
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Err(timed_out());
            }
            progress.reach(Mark::Begun);
            let results = run(timeout)?;
            progress.reach(Mark::Ran);
            room.hold(results.iter().map(Tensor::value_bytes).sum())?;
            Ok(results)
        };
        let mut run = Queued::start(threads, work);
        let done = async {
            tokio::select! {
                biased;
                outcome = &mut run.thread => return outcome,
                () = left_waiting(gone) => {}
            }
            if run.take_back() { Ok(None) } else { (&mut run.thread).await }
        };
        let outcome = match deadline {
            // Whatever the run does at its deadline, the client need not wait for it.
            Some(deadline) => tokio::time::timeout_at(deadline.into(), done).await.map_err(|_| timed_out())?,
            None => done.await,
        };
        match outcome {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Err(Status::new(Code::Cancelled, "the client went before its request was begun")),
            Err(_) => Err(Status::internal(format!("running model {} failed; the server's log says where", self.name))),
        }
    }
}

/// When something was used last, to the millisecond.
#[derive(Debug, Default)]
struct LastUse(AtomicU64);

impl LastUse {
    /// Written at most once per millisecond: all network threads read what lies beside it.
    fn note(&self, now: Instant) {
        let now = Self::milliseconds(now);
        if self.0.load(Ordering::Relaxed) < now {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(Self::milliseconds(Instant::now()).saturating_sub(self.0.load(Ordering::Relaxed)))
    }

    fn milliseconds(moment: Instant) -> u64 {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        moment.saturating_duration_since(*BEGINNING).as_millis() as u64
    }
}

/// A run that has waited so long for its thread is not begun if its caller has gone. Before that, a caller that seems to
/// have gone may only have no more to say.
const QUEUEING: Duration = Duration::from_millis(100);

/// Done when a caller has gone who has been waiting for a while. A caller who stays costs no timer.
pub(crate) async fn left_waiting(gone: impl Future<Output = ()>) {
    let since = tokio::time::Instant::now();
    gone.await;
    tokio::time::sleep_until(since + QUEUEING).await;
}

/// Does work on one of `threads`, unless its deadline has passed or nobody waits for it any more by the time it could
/// begin.
pub async fn aside<T: Send + 'static>(
    threads: &Handle,
    deadline: Option<Instant>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let mut work = Queued::start(threads, work);
    let done = &mut work.thread;
    let outcome = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), done).await.map_err(|_| timed_out())?,
        None => done.await,
    };
    outcome
        .ok()
        .flatten()
        .ok_or_else(|| Status::internal("a part of the work for this request failed; the server's log says where"))
}

/// Work for another thread. What it holds is given back at once if it is dropped, or taken back, before it begins: the
/// thread may take long to find out that there is nothing to do.
struct Queued<F, T> {
    work: Arc<Mutex<Option<F>>>,
    thread: JoinHandle<Option<T>>,
}

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Queued<F, T> {
    fn start(threads: &Handle, work: F) -> Self {
        let work = Arc::new(Mutex::new(Some(work)));
        let queued = Arc::clone(&work);
        let thread = threads.spawn_blocking(move || {
            let work = queued.lock().unwrap_or_else(PoisonError::into_inner).take();
            work.map(|work| work())
        });
        Self { work, thread }
    }
}

impl<F, T> Queued<F, T> {
    /// Whether it had not begun; it never will then.
    fn take_back(&self) -> bool {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

impl<F, T> Drop for Queued<F, T> {
    fn drop(&mut self) {
        self.take_back();
        self.thread.abort();
    }
}

/// What a call computed. Keeps its servable loaded until the tensors have been written.
pub struct Answer {
    servable: Arc<Servable>,
    signature: usize,
    outputs: Vec<usize>,
    tensors: Vec<Tensor>,
}

impl Answer {
    pub fn servable(&self) -> &Servable {
        &self.servable
    }

    pub fn signature(&self) -> &Signature {
        &self.servable.signatures[self.signature].0
    }

    /// The outputs that were asked for, by their names in the signature.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let slots = &self.signature().outputs;
        self.outputs.iter().map(|output| slots[*output].name.as_str()).zip(&self.tensors)
    }

    /// One per fetch of the call, in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub fn value_bytes(&self) -> usize {
        self.tensors.iter().map(Tensor::value_bytes).sum()
    }
}

/// What a request is told whose deadline has passed.
pub fn timed_out() -> Status {
    Status::new(Code::DeadlineExceeded, "Timed out waiting for notification")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_gives_back_what_it_holds() {
        let threads = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("it starts");
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(());
        let (one, two, three) = (Arc::clone(&held), Arc::clone(&held), Arc::clone(&held));
        let busy = Queued::start(threads.handle(), move || {
            let _ = begun.recv();
            drop(one);
        });
        let late = Instant::now() + Duration::from_millis(1);
        let refused = aside(threads.handle(), Some(late), move || drop(two)).await.expect_err("the thread is busy");
        assert_eq!(refused.code, Code::DeadlineExceeded);
        let queued = Queued::start(threads.handle(), move || drop(three));
        assert_eq!(Arc::strong_count(&held), 3);
        assert!(queued.take_back() && !queued.take_back());
        assert_eq!(Arc::strong_count(&held), 2, "what the busy thread has is left");
        drop((begin, busy));
        assert!(aside(threads.handle(), None, || 7).await == Ok(7));
        threads.shutdown_background();
    }
}
