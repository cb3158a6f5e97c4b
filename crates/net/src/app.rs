//! What all handlers share: the routes, the settings, the counters.

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::HeaderMap;
use servable_core::examples::{self, Computed, Plan, Task};
use servable_core::predict::{self, Call};
use servable_core::progress::Mark;
use servable_core::routes::{Choice, RouteTable};
use servable_core::servable::{Answer, Caller, Servable, Threads, aside, timed_out};
use servable_core::signature::DEFAULT_SIGNATURE;
use servable_core::status::Asleep;
use servable_core::usage::Api;
use servable_core::{Code, Limits, Signature, Status, Tensor};

use servable_wire::json::Dialect;
use servable_wire::log::{self, Circumstances, Kind};
use servable_wire::predict::{PredictWriter, Reply};
use servable_wire::tensor::Form;
use tokio::runtime::Handle;

use crate::access::{self, Access, Right};
use crate::access_log::{AccessLog, AccessLogSettings};
use crate::body::{Budget, Share};
use crate::control::{self, ControlCall};
use crate::exchange::{Connection, Exchange};
use crate::health::Health;
use crate::inference;
use crate::leave::{Lifetime, UnderWay};
use crate::load::Load;
use crate::metrics::{Metrics, Moment};
use crate::quota::{Full, Quota, client_at};
use crate::reflection::Reflection;
use crate::request_log::{RequestLog, Ticket};
use crate::tap::Tap;
use crate::tls::Tls;
use crate::trace::{TraceProtocol, Tracing};

const DEFAULT_REQUESTS_IN_FLIGHT: usize = 10_000;
/// How long a new connection may wait for its first bytes; clients open some in advance.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a client may take to send its request's head, or the first bytes of HTTP/2.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests that may be at work on the monitoring port, as many that watch, and as many that do not say yet what.
const MOST_PROBES: u64 = 256;
/// Those of clients that may watch, however few may be at work: they do no more than that.
const LEAST_WATCHES: u64 = 1000;
/// Streams of questions to reflection. Their answers are larger, and count for no budget.
const MOST_CONVERSATIONS: u64 = 128;

/// Bytes of JSON that are read in about a millisecond.
const BRIEF_WORK: usize = 256 << 10;
/// Tensors are copied this many times as fast as JSON is read.
pub(crate) const COPYING: usize = 16;
/// Bytes of JSON that a byte of values makes, when it is a part of a number.
pub(crate) const PRINTING: usize = 4;
/// How much a small compressed body may become.
pub(crate) const INFLATION: usize = 64;

/// What a request that is one too many is told.
fn overloaded() -> Status {
    Status::new(Code::Unavailable, "too many requests are at work (max_requests_in_flight); try again later")
}

/// What a request is told whose client has as many as it may.
fn client_overloaded() -> Status {
    Status::new(
        Code::Unavailable,
        "too many requests of this client are at work (max_requests_per_client); try again later",
    )
}

/// What a stream is told that is one too many of those that only listen.
fn too_many_listen() -> Status {
    Status::resource_exhausted("too many streams that ask for health or about services are open; try again later")
}

/// What to listen on and how to answer.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `host:port`; port 0 takes a free one.
    pub grpc_address: Option<String>,
    pub grpc_socket_path: Option<String>,
    /// Permissions of that socket; as the umask has it without.
    pub grpc_socket_mode: Option<u32>,
    pub rest_address: Option<String>,
    /// For gRPC and REST of those who manage models.
    pub admin_address: Option<String>,
    /// For gRPC and REST of those who watch over the server.
    pub monitoring_address: Option<String>,
    /// Longest run of a REST request.
    pub rest_timeout: Option<Duration>,
    pub cors: bool,
    pub check_method_names: bool,
    /// Predict answers over gRPC carry `tensor_content`.
    pub tensor_content: bool,
    pub health_service: bool,
    /// TensorFlow's profiler service is answered.
    pub profiler: bool,
    /// `SessionRun` is answered.
    pub session_service: bool,
    /// Requests may not name versions by label.
    pub refuses_labels: bool,
    /// The JSON of REST.
    pub dialect: Dialect,
    /// Answers are compressed for clients that understand it.
    pub compress_answers: bool,
    /// Where metrics are under TensorFlow Serving's names; no metrics at all without.
    pub metrics_path: Option<String>,
    /// Nobody has asked for metrics: they are there all the same.
    pub metrics_unasked: bool,
    pub access_log: Option<AccessLogSettings>,
    /// Traces are made, and sent like this.
    pub traces: Option<TraceProtocol>,
    /// Most runs at a time outside the network threads.
    pub max_threads: Option<usize>,
    pub max_connections: Option<usize>,
    /// Most connections, and most requests, that one address may have at a time.
    pub max_connections_per_client: Option<usize>,
    pub max_requests_per_client: Option<usize>,
    /// Most requests that may be at work for one model at a time.
    pub max_requests_per_model: Option<usize>,
    pub connection_idle_timeout: Option<Duration>,
    pub header_timeout: Option<Duration>,
    /// Most requests that may be at work at a time, whatever they wait for.
    pub max_requests_in_flight: Option<usize>,
    /// Bytes that request messages and bodies at work may take together.
    pub max_bytes_in_flight: Option<usize>,
    pub limits: Limits,
    pub grpc: GrpcSettings,
}

/// Settings of gRPC connections, where they are not to be the usual ones.
#[derive(Clone, Debug, Default)]
pub struct GrpcSettings {
    /// How often the client is asked whether it is still there.
    pub keepalive_time: Option<Duration>,
    pub keepalive_timeout: Option<Duration>,
    pub max_concurrent_streams: Option<u32>,
    pub max_metadata_bytes: Option<u32>,
    pub lifetime: Lifetime,
}

impl Settings {
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.connection_idle_timeout.unwrap_or(IDLE_TIMEOUT)
    }

    pub(crate) fn header_timeout(&self) -> Duration {
        self.header_timeout.unwrap_or(HEADER_TIMEOUT)
    }

    /// The signature that a request names, if it has what the task needs.
    pub(crate) fn task_signature<'a>(
        &self,
        servable: &'a Servable,
        name: &str,
        task: Task,
    ) -> Result<&'a Signature, Status> {
        let signature = servable.signature(name).ok_or_else(|| {
            let name = if name.is_empty() { DEFAULT_SIGNATURE } else { name };
            Status::invalid_argument(format!("No signature was found with the name: {name}"))
        })?;
        task.check(signature, self.check_method_names)?;
        Ok(signature)
    }

    pub(crate) fn check_method_name(&self, signature: &Signature) -> Result<(), Status> {
        if self.check_method_names { predict::check_method_name(signature) } else { Ok(()) }
    }
}

/// Who comes in on a port. Clients must not shut out those who watch over the server, nor the other way round; and a
/// drain waits for clients only.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crowd {
    Clients,
    Watchers,
}

/// What a request waits for that does not count as being at work meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    /// The rest of its message.
    Message,
    /// News of health: nobody has to say who they are.
    News(Crowd),
    /// To be told whose health is asked for.
    Name(Crowd),
    /// Further questions to reflection.
    Questions(Crowd),
}

/// Streams of one crowd that only listen.
#[derive(Default)]
pub(crate) struct Streams {
    watches: Gauge,
    names: Gauge,
    conversations: Gauge,
}

impl Streams {
    fn count(&self) -> u64 {
        self.watches.value() + self.names.value() + self.conversations.value()
    }
}

/// Shared by all handlers; never changes but for what is made to be changed from many threads.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) routes: RouteTable,
    pub(crate) health: Health,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reflection: Reflection,
    pub(crate) admin_reflection: Reflection,
    pub(crate) monitoring_reflection: Reflection,
    pub(crate) control: SyncSender<ControlCall>,
    pub(crate) tap: Tap,
    pub(crate) request_log: RequestLog,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) tracing: Option<Tracing>,
    pub(crate) tls: Tls,
    /// Without it everybody may do everything.
    pub(crate) access: OnceLock<ArcSwap<Access>>,
    pub(crate) connections: Gauge,
    pub(crate) load: Arc<Load>,
    /// Requests at work, by model and by client.
    pub(crate) of_models: Quota<String>,
    pub(crate) of_clients: Quota<Option<IpAddr>>,
    /// Those in flight that have not come yet; none on the monitoring port.
    pub(crate) arriving: Gauge,
    /// Those in flight that only listen.
    pub(crate) streams: Streams,
    pub(crate) requests: AtomicU64,
    /// Versions that the control plane has been asked to load by requests that wait for them.
    pub(crate) asked_for: Mutex<HashSet<(String, i64)>>,
    pub(crate) budget: Budget,
    /// Requests on the monitoring port, those that only listen, and room for them.
    pub(crate) probes: Arc<Load>,
    pub(crate) probe_streams: Streams,
    pub(crate) probe_budget: Budget,
    /// Where runs go that the network threads do not do themselves; there from the start on.
    pub(crate) threads: OnceLock<Threads>,
    /// Where large messages are read and written. Apart from the runs, which may wait for each other.
    pub(crate) workers: OnceLock<Handle>,
}

impl App {
    /// Whether there are more requests at work than there should be. Those that have not come yet, or only listen, do not
    /// count: anybody can open many that never come.
    pub(crate) fn is_overloaded(&self) -> bool {
        let waiting = self.arriving.value() + self.streams.count();
        self.load.at_work().saturating_sub(waiting) > self.most_requests()
    }

    /// Waits for a request to come. One that is there already need not wait.
    pub(crate) async fn arriving<T>(
        &self,
        waiting: Waiting,
        request: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut request = pin!(request);
        if let Some(outcome) = request.as_mut().now_or_never() {
            return outcome;
        }
        let _waiting = self.waits(waiting)?;
        request.await
    }

    /// Does not count as being at work for as long as the guard lives. Of each kind there may be so many: of requests that
    /// have not come, as many as there may be at work. None takes anything from the others.
    pub(crate) fn waits(&self, waiting: Waiting) -> Result<GaugeGuard, Status> {
        let (gauge, most, refusal): (_, _, fn() -> Status) = match waiting {
            Waiting::Message => (&self.arriving, self.most_requests(), overloaded),
            Waiting::News(Crowd::Clients) => {
                (&self.streams.watches, self.most_requests().max(LEAST_WATCHES), too_many_listen)
            }
            Waiting::News(Crowd::Watchers) => (&self.probe_streams.watches, MOST_PROBES, too_many_listen),
            Waiting::Name(Crowd::Clients) => {
                (&self.streams.names, self.most_requests().max(LEAST_WATCHES), too_many_listen)
            }
            Waiting::Name(Crowd::Watchers) => (&self.probe_streams.names, MOST_PROBES, too_many_listen),
            Waiting::Questions(Crowd::Clients) => (&self.streams.conversations, MOST_CONVERSATIONS, too_many_listen),
            Waiting::Questions(Crowd::Watchers) => {
                (&self.probe_streams.conversations, MOST_CONVERSATIONS, too_many_listen)
            }
        };
        let guard = gauge.enter();
        if gauge.value() > most { Err(refusal()) } else { Ok(guard) }
    }

    fn most_requests(&self) -> u64 {
        self.settings.max_requests_in_flight.unwrap_or(DEFAULT_REQUESTS_IN_FLIGHT) as u64
    }

    /// Finds out who sends a request, before anything of its body is read, and whether it may do such a thing at all.
    pub(crate) fn admit(&self, exchange: &Exchange, headers: &HeaderMap, right: Right) -> Result<(), Status> {
        let Some(access) = self.access.get() else { return Ok(()) };
        let identity = access.load().identify(headers, &exchange.connection.names)?;
        exchange.comes_from(Arc::clone(&identity));
        identity.check_kind(right)
    }

    /// Whether whoever sends a request may do this with a model, and be it one that there is not.
    pub(crate) fn allow(&self, exchange: &Exchange, right: Right, model: &str) -> Result<(), Status> {
        if self.access.get().is_none() {
            return Ok(());
        }
        match exchange.identity() {
            Some(identity) => identity.check(right, model),
            None => Err(access::not_admitted()),
        }
    }

    /// The servable for a request that may do this with it.
    pub(crate) fn resolve(
        &self,
        exchange: &Exchange,
        right: Right,
        name: &str,
        choice: &Choice,
    ) -> Result<Arc<Servable>, Status> {
        exchange.names(name);
        self.allow(exchange, right, name)?;
        let servable = self.routes.current().resolve(name, choice)?;
        exchange.finds(&servable);
        exchange.takes_turn(&self.of_models)?;
        Ok(servable)
    }

    /// A page of metrics, of this moment.
    pub(crate) fn metrics_page(&self, page: fn(&Metrics, &Moment<'_>) -> String) -> String {
        let moment = Moment {
            routes: &self.routes.current(),
            connections: self.connections.value(),
            in_flight: self.load.at_work(),
            bytes_in_flight: self.budget.held() as u64,
            spans: self.tracing.as_ref().map(Tracing::counts),
            lost_lines: self.access_log.as_ref().map(AccessLog::dropped),
        };
        page(&self.metrics, &moment)
    }

    /// Notes which trace a request belongs to.
    pub(crate) fn trace(&self, exchange: &Exchange, headers: &HeaderMap) {
        if let Some(tracing) = &self.tracing {
            exchange.continues(tracing.context(headers));
        }
    }

    /// Keeps count of a request that is done with.
    pub(crate) fn observe(&self, exchange: &Exchange) {
        match (exchange.servable(), exchange.api()) {
            (Some(servable), Some(api)) => {
                let series = servable.usage().of(exchange.signature(), api, exchange.entrypoint);
                let bytes = (exchange.request_bytes(), exchange.response_bytes());
                series.note(exchange.code(), &exchange.progress, bytes.0, bytes.1);
            }
            _ => self.metrics.refused(exchange, |model| self.routes.current().models.contains_key(model)),
        }
        if let Some(tracing) = &self.tracing {
            tracing.note(exchange);
        }
        if let Some(log) = &self.access_log {
            log.note(exchange);
        }
    }

    /// Notes a request on such a port, and says whether it is one too many.
    pub(crate) fn begin(&self, connection: &Connection) -> (InFlight, Result<(), Status>) {
        let (share, room) = match connection.crowd {
            Crowd::Clients => {
                self.requests.fetch_add(1, Ordering::Relaxed);
                let (place, turn) = (self.load.enter(), self.of_clients.take(|| connection.remote.map(client_at)));
                let room = match &turn {
                    _ if self.is_overloaded() => Err(overloaded()),
                    Err(Full) => Err(client_overloaded()),
                    Ok(_) => Ok(()),
                };
                (Share::placed(&self.budget, place, turn.ok()), room)
            }
            Crowd::Watchers => {
                let place = self.probes.enter();
                let is_full = self.probes.at_work().saturating_sub(self.probe_streams.count()) > MOST_PROBES;
                let room = if is_full { Err(overloaded()) } else { Ok(()) };
                (Share::placed(&self.probe_budget, place, None), room)
            }
        };
        (InFlight::new(Arc::new(share)), room)
    }

    /// Waits until a version is loaded, or is known not to be. Whoever waited tries its request again.
    pub(crate) async fn awaken(&self, asleep: &Asleep, deadline: Option<Instant>) -> Result<(), Status> {
        let awake = async {
            let mut asked = None;
            loop {
                let mut changed = pin!(self.routes.changed());
                changed.as_mut().enable();
                if !self.routes.current().is_asleep(&asleep.name, asleep.version) {
                    return Ok(());
                }
                // Said again after every change: the version may have been loaded, and unloaded for another one.
                asked = asked.or_else(|| Asking::alone(self, asleep));
                if asked.is_some() {
                    control::tell_load(self, asleep);
                }
                tokio::select! {
                    () = changed => {}
                    // Whoever asked may have gone, or found the control plane too busy to listen.
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                    () = self.health.drained() => return Err(control::stopping()),
                }
            }
        };
        match deadline {
            Some(deadline) => {
                tokio::time::timeout_at(deadline.into(), awake).await.unwrap_or_else(|_| Err(timed_out()))
            }
            None => awake.await,
        }
    }

    /// Does work that takes about as long as reading so many bytes of JSON. Much of it is done on another thread: the
    /// network thread has other requests. It is not begun after the deadline.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        deadline: Option<Instant>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        if bytes <= BRIEF_WORK {
            return Ok(work());
        }
        let workers = self.workers.get().ok_or_else(|| Status::internal("not started: this is a bug"))?;
        aside(workers, deadline, work).await
    }

    pub(crate) fn threads(&self) -> Result<&Threads, Status> {
        self.threads.get().ok_or_else(|| Status::internal("not started: this is a bug"))
    }

    /// Runs a call and checks that its answer may be sent.
    pub(crate) async fn run(
        &self,
        servable: Arc<Servable>,
        call: Call,
        api: Api,
        caller: Caller<impl Future<Output = ()>>,
    ) -> Result<Answer, Status> {
        caller.progress.reach(Mark::Decoded);
        // Tasks are recorded by those who know whether their results are as they should be.
        let recording = if api == Api::Predict {
            let request = || Some((Kind::Predict, predict_request(&servable, &call)));
            self.recording(servable.name(), call.input_bytes, request)
        } else {
            None
        };
        let answer = servable.run(call, caller, self.threads()?).await?;
        self.check_output(answer.value_bytes())?;
        if let Some(recording) = recording {
            let (bytes, signature) = (answer.value_bytes(), &answer.signature().name);
            self.record(recording, answer.servable(), signature, bytes, || predict_response(&answer));
        }
        Ok(answer)
    }

    /// What is kept of a request until it is answered; nothing if nobody wants to have it.
    fn recording(
        &self,
        model: &str,
        bytes: usize,
        request: impl FnOnce() -> Option<(Kind, Vec<u8>)>,
    ) -> Option<Recording> {
        let is_tapped = self.tap.wants(model, bytes);
        let ticket = self.request_log.sample(model, bytes).unwrap_or_else(|lost| {
            self.metrics.not_logged(model, lost.reason(), 1);
            None
        });
        if !is_tapped && ticket.is_none() {
            return None;
        }
        let (kind, request) = request()?;
        Some(Recording { kind, request, is_tapped, ticket })
    }

    /// Records a request that has been answered, with about so many bytes. The answer is made only if it is wanted.
    fn record(
        &self,
        recording: Recording,
        servable: &Servable,
        signature_name: &str,
        bytes: usize,
        response: impl FnOnce() -> Vec<u8>,
    ) {
        let Recording { kind, request, is_tapped, ticket } = recording;
        let model = servable.name();
        if let Some(mut ticket) = ticket {
            let outcome = ticket.expect(request.len().saturating_add(bytes)).and_then(|()| {
                let circumstances = Circumstances {
                    model,
                    version: servable.version(),
                    signature_name,
                    sampling_rate: ticket.rate,
                    time: SystemTime::now(),
                };
                let record = log::answered(kind, &request, &response(), &circumstances);
                self.request_log.keep(ticket, model, record)
            });
            if let Err(lost) = outcome {
                self.metrics.not_logged(model, lost.reason(), 1);
            }
        }
        if is_tapped {
            self.tap.keep(model, log::record(kind, &request.into()));
        }
    }

    /// `RESOURCE_EXHAUSTED` for an answer with more bytes of values than this server sends.
    pub(crate) fn check_output(&self, bytes: usize) -> Result<(), Status> {
        let most = self.settings.limits.max_output_bytes;
        if bytes > most {
            return Err(Status::resource_exhausted(format!(
                "the answer has {bytes} bytes of values; this server sends at most {most} (max_output_bytes)"
            )));
        }
        Ok(())
    }

    /// The signature that a request names, if it has what the task needs.
    pub(crate) fn task_signature<'a>(
        &self,
        servable: &'a Servable,
        name: &str,
        task: Task,
    ) -> Result<&'a Signature, Status> {
        self.settings.task_signature(servable, name, task)
    }

    /// Runs tasks as one call. What they computed comes in their order, with the names of their signatures.
    pub(crate) async fn run_tasks(
        &self,
        planned: Planned,
        caller: Caller<impl Future<Output = ()>>,
    ) -> Result<Vec<(String, Computed)>, Status> {
        let recording = self.recording(planned.servable.name(), planned.call.input_bytes, || planned.request());
        let Planned { servable, api, tasks, call, plan } = planned;
        if api == Api::MultiInference {
            let examples = call.feeds.first().and_then(|(_, examples)| examples.row_count());
            self.metrics.examples(servable.name(), examples.unwrap_or(0));
        }
        let answer = self.run(servable, call, api, caller).await?;
        let computed = plan.computed(&answer)?;
        let computed: Vec<_> = tasks.into_iter().map(|(_, signature)| signature).zip(computed).collect();
        if let Some(recording) = recording {
            let signature = computed.first().map_or("", |(signature, _)| signature);
            let (servable, bytes) = (answer.servable(), answer.value_bytes());
            self.record(recording, servable, signature, bytes, || inference::response(servable, api, &computed));
        }
        Ok(computed)
    }

    pub(crate) fn check_method_name(&self, signature: &Signature) -> Result<(), Status> {
        self.settings.check_method_name(signature)
    }
}

/// Tasks over the same examples that fit their signatures, ready to run.
pub(crate) struct Planned {
    pub(crate) servable: Arc<Servable>,
    api: Api,
    /// What to do with the signatures of which names.
    tasks: Vec<(Task, String)>,
    call: Call,
    plan: Plan,
}

impl Planned {
    pub(crate) fn new(
        servable: &Arc<Servable>,
        tasks: &[(Task, &Signature)],
        examples: &Tensor,
    ) -> Result<Self, Status> {
        let (call, plan) = examples::plan(tasks, examples)?;
        let api = match tasks {
            [(task, _)] => task.api(),
            _ => Api::MultiInference,
        };
        let tasks = tasks.iter().map(|(task, signature)| (*task, signature.name.clone())).collect();
        Ok(Self { servable: Arc::clone(servable), api, tasks, call, plan })
    }

    /// The request that it was planned for, serialised.
    fn request(&self) -> Option<(Kind, Vec<u8>)> {
        let (model, (_, examples)) = (self.servable.name(), self.call.feeds.first()?); // all tasks are fed the same
        Some(match self.tasks.as_slice() {
            [(task, signature)] => ((*task).into(), log::task_request(model, signature, examples)),
            tasks => (Kind::MultiInference, log::tasks_request(model, tasks, examples)),
        })
    }

    /// Runs the tasks in this thread, for nobody but to have them run; their results are checked as they always are.
    pub(crate) fn run_here(&self) -> Result<(), Status> {
        self.plan.computed(&self.servable.run_here(&self.call)?).map(drop)
    }

    /// Bytes of memory that its tensors take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.call.memory_bytes
    }
}

/// How often those who wait for a version look whether the control plane knows of it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The one of those who wait for a version that asks for it.
struct Asking<'a> {
    app: &'a App,
    key: (String, i64),
}

impl<'a> Asking<'a> {
    /// `None` if somebody else does so.
    fn alone(app: &'a App, asleep: &Asleep) -> Option<Self> {
        let key = (asleep.name.clone(), asleep.version);
        let is_first = app.asked_for.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_first.then(|| Self { app, key })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.app.asked_for.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A call as a serialised `PredictRequest`, with the inputs that it left out.
fn predict_request(servable: &Servable, call: &Call) -> Vec<u8> {
    let signature = servable.signature_of(call);
    let inputs = signature.inputs.iter().map(|input| &*input.name).zip(call.feeds.iter().map(|(_, tensor)| tensor));
    let mut request = log::predict_request(servable.name(), &signature.name, inputs);
    if call.outputs.len() < signature.outputs.len() {
        let names = call.outputs.iter().filter_map(|output| signature.outputs.get(*output));
        log::append_output_filter(names.map(|slot| slot.name.as_str()), &mut request);
    }
    request
}

/// An answer as a serialised `PredictResponse`.
fn predict_response(answer: &Answer) -> Vec<u8> {
    let (servable, signature) = (answer.servable(), answer.signature());
    let (name, version) = (servable.name(), servable.version());
    let writer = PredictWriter::new(Reply::Predict, answer.outputs(), Form::Typed, name, version, &signature.name);
    let mut response = Vec::with_capacity(writer.len());
    writer.write(&mut response);
    response
}

/// A request that somebody wants to have when it is answered.
struct Recording {
    kind: Kind,
    request: Vec<u8>,
    is_tapped: bool,
    /// If it is to be logged.
    ticket: Option<Ticket>,
}

/// How many of something there are at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub(crate) fn enter(&self) -> GaugeGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self.clone())
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that somebody waits for. Its share stays for longer where a run goes on that nobody waits for any more.
pub(crate) struct InFlight {
    share: Arc<Share>,
    /// Its connection counts it until it is dropped.
    under_way: Option<UnderWay>,
}

impl InFlight {
    pub(crate) fn new(share: Arc<Share>) -> Self {
        Self { share, under_way: None }
    }

    pub(crate) fn share(&self) -> Arc<Share> {
        Arc::clone(&self.share)
    }

    /// Whether its answer holds a part of the budget.
    pub(crate) fn is_large(&self) -> bool {
        !self.share.is_empty()
    }

    /// The same, counted by its connection as well.
    pub(crate) fn on(mut self, under_way: Option<UnderWay>) -> Self {
        self.under_way = under_way;
        self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Alone, as nearly always, it is the last to have it.
        if Arc::strong_count(&self.share) > 1 {
            self.share.abandon();
        }
    }
}

/// One of them.
pub(crate) struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
