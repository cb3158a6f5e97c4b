//! The engine's network side as a whole: opened early for those who watch over it, started once, fed with routes, drained
//! at the end.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use servable_core::batching::Scheduler;
use servable_core::routes::{RouteTable, Routes};
use servable_core::servable::Threads;
use servable_core::{Code, Status};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::access::{Access, AccessSpec};
use crate::access_log::AccessLog;
use crate::admin;
use crate::app::{App, Gauge, Settings, Streams};
use crate::body::Budget;
use crate::control::ControlCall;
use crate::edge::cut;
use crate::grpc;
use crate::health::{Health, Phase};
use crate::leave::Farewell;
use crate::listen::{Acceptor, Bound, DEFAULT_CONNECTIONS, Protocol};
use crate::metrics::Metrics;
use crate::probe;
use crate::quota::Quota;
use crate::reflection::Reflection;
use crate::request_log::{LoggedRequest, RequestLog};
use crate::shard::{STACK_BYTES, Shards};
use crate::tap::Tap;
use crate::tls::{Tls, TlsSpecs};
use crate::trace::Tracing;

const DEFAULT_BYTES_IN_FLIGHT: usize = 2 << 30;
/// Runs at a time outside the network threads: more than there are cores, since some wait for others; not so many that
/// each takes memory and none gets on.
const RUNS_PER_CORE: usize = 4;
const LEAST_RUNS: usize = 16;
/// Calls that may wait for the control plane.
const WAITING_CALLS: usize = 64;
/// How often a wait for such a call looks whether the server has stopped.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// Beyond any wait that makes sense, and within what clocks can add up.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// What clients have, after the last request, to take its answer.
const LAST_BYTES: Duration = Duration::from_secs(3);
/// What those who watch over the server have to take their last answers.
const LAST_WATCHING: Duration = Duration::from_millis(500);
/// Connections of theirs, and of each of them: nobody keeps the others from looking.
const WATCHING_CONNECTIONS: usize = 256;
const WATCHING_CONNECTIONS_PER_CLIENT: usize = 64;
/// More of why a version failed is not told: each of many versions may have such a text.
const LONGEST_ERROR: usize = 4 << 10;

/// TCP ports that are listened on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub grpc: Option<u16>,
    pub rest: Option<u16>,
    pub admin: Option<u16>,
    pub monitoring: Option<u16>,
}

impl Ports {
    fn note(&mut self, protocol: Protocol, listener: &Bound) {
        let port = match protocol {
            Protocol::Grpc => &mut self.grpc,
            Protocol::Rest => &mut self.rest,
            Protocol::Admin => &mut self.admin,
            Protocol::Monitoring => &mut self.monitoring,
        };
        *port = port.or(listener.port());
    }
}

/// Counters of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    pub connections: u64,
    pub requests_in_flight: u64,
    pub requests_total: u64,
}

enum Stage {
    New,
    /// What opens early is open; the main ports are, too, if `has_started`.
    Running(Box<Running>),
    Stopped,
}

struct Running {
    /// Accepts connections and waits for their end; they themselves live in the shards.
    runtime: Runtime,
    /// Only its threads for blocking work are used.
    workers: Runtime,
    /// What opens early has a thread of its own, so that nothing that clients ask for keeps it from answering.
    early: Arc<Shards>,
    shards: Option<Arc<Shards>>,
    has_started: bool,
    ports: Ports,
    clients: Entrance,
    watchers: Entrance,
}

/// Listeners that close together, and their connections.
struct Entrance {
    stopping: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    farewell: Arc<Farewell>,
    /// Connections that may be open at a time.
    room: Arc<Semaphore>,
    /// Those of one client.
    per_client: Arc<Quota<Option<IpAddr>>>,
}

impl Entrance {
    fn new(connections: usize, per_client: Option<usize>) -> Self {
        Self {
            stopping: watch::Sender::new(false),
            listeners: Vec::new(),
            farewell: Arc::default(),
            room: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            per_client: Arc::new(Quota::new(per_client)),
        }
    }

    fn open(&mut self, runtime: &Runtime, protocol: Protocol, listener: Bound, shards: &Arc<Shards>) {
        let acceptor = Acceptor {
            protocol,
            shards: Arc::clone(shards),
            farewell: Arc::clone(&self.farewell),
            room: Arc::clone(&self.room),
            per_client: Arc::clone(&self.per_client),
        };
        self.listeners.push(runtime.spawn(listener.accept(acceptor, self.stopping.subscribe())));
    }

    /// Closes the listeners, and the connections as soon as their requests are done; waits for that.
    async fn close(self) {
        self.stopping.send_replace(true);
        for listener in self.listeners {
            // A listener that panicked is closed as well.
            let _ = listener.await;
        }
        self.farewell.say().await;
    }
}

/// Listeners and the table of routes behind them. All methods may be called from any thread.
pub struct Server {
    pub(crate) app: Arc<App>,
    stage: Mutex<Stage>,
    calls: Mutex<Receiver<ControlCall>>,
}

impl Server {
    /// Nothing is opened yet.
    pub fn new(settings: Settings) -> Result<Self, Status> {
        let metrics = Metrics::new().map(Arc::new);
        let metrics = metrics.map_err(|error| Status::internal(format!("metrics cannot be set up: {error}")))?;
        let budget = Budget::new(settings.max_bytes_in_flight.unwrap_or(DEFAULT_BYTES_IN_FLIGHT));
        let (control, calls) = mpsc::sync_channel(WAITING_CALLS);
        let reflection = Reflection::new(&grpc::services(&settings))?;
        let admin_reflection = Reflection::new(&[admin::SERVICE, probe::SERVICE])?;
        let monitoring_reflection = Reflection::new(&[probe::SERVICE])?;
        let access_log = settings.access_log.as_ref().map(AccessLog::open).transpose()?;
        let tracing = settings.traces.map(Tracing::start).transpose()?;
        let of_models = Quota::new(settings.max_requests_per_model);
        let of_clients = Quota::new(settings.max_requests_per_client);
        let app = App {
            settings,
            routes: RouteTable::default(),
            health: Health::default(),
            metrics,
            reflection,
            admin_reflection,
            monitoring_reflection,
            control,
            tap: Tap::default(),
            request_log: RequestLog::default(),
            access_log,
            tracing,
            tls: Tls::default(),
            access: OnceLock::new(),
            connections: Gauge::default(),
            load: Arc::default(),
            of_models,
            of_clients,
            arriving: Gauge::default(),
            streams: Streams::default(),
            requests: AtomicU64::new(0),
            asked_for: Mutex::default(),
            budget,
            probes: Arc::default(),
            probe_streams: Streams::default(),
            probe_budget: Budget::new(probe::BUDGET_BYTES),
            threads: OnceLock::new(),
            workers: OnceLock::new(),
        };
        Ok(Self { app: Arc::new(app), stage: Mutex::new(Stage::New), calls: Mutex::new(calls) })
    }

    /// Replaces the whole table of routes.
    pub fn publish(&self, mut routes: Routes) {
        routes.refuses_labels = self.app.settings.refuses_labels;
        let versions = routes.models.values_mut().flat_map(|model| model.versions.values_mut());
        for error in versions.filter_map(|version| version.error.as_mut()) {
            if let Cow::Owned(text) = cut(&error.message, LONGEST_ERROR) {
                error.message = text.into();
            }
        }
        self.app.metrics.know(&routes);
        self.app.routes.publish(routes);
    }

    /// What new connections are secured with: the whole of it, which replaces all that was. Before the start for those
    /// listeners that are not to be open to everybody even for a moment.
    ///
    /// `INVALID_ARGUMENT` says what is wrong with which file; then everything stays as it was.
    pub fn set_tls(&self, specs: &TlsSpecs) -> Result<(), Status> {
        self.app.tls.replace(specs)
    }

    /// Rules that new requests are judged by; as [`set_tls`](Self::set_tls) otherwise.
    pub fn set_access(&self, spec: &AccessSpec) -> Result<(), Status> {
        let access = Arc::new(Access::new(spec)?);
        self.app.access.get_or_init(|| ArcSwap::new(Arc::clone(&access))).store(access);
        Ok(())
    }

    /// Opens the listeners for those who watch over the server and manage its models, all of them or none. From then
    /// on it answers how it is. Once it is open this does nothing.
    pub fn open(&self) -> Result<Ports, Status> {
        let mut stage = self.stage();
        self.opened(&mut stage).map(|running| running.ports)
    }

    fn opened<'a>(&self, stage: &'a mut Stage) -> Result<&'a mut Running, Status> {
        if let Stage::New = stage {
            *stage = Stage::Running(Box::new(self.begin()?));
        }
        match stage {
            Stage::Running(running) => Ok(running),
            Stage::New | Stage::Stopped => Err(started_before()),
        }
    }

    fn begin(&self) -> Result<Running, Status> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(self.app.settings.max_threads.unwrap_or_else(default_runs).max(1))
            .thread_stack_size(STACK_BYTES)
            .thread_name("servable-run")
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| Status::internal(format!("the accepting thread cannot be started: {error}")))?;
        let bound = runtime.block_on(self.bind_early())?;
        self.app.threads.get_or_init(|| {
            let batches = Scheduler::new(runtime.handle().clone(), Arc::clone(&self.app.metrics) as _);
            Threads { runs: runtime.handle().clone(), batches }
        });
        let workers = Builder::new_current_thread()
            .max_blocking_threads(cores())
            .thread_name("servable-work")
            .build()
            .map_err(|error| Status::internal(format!("threads for large messages cannot be started: {error}")))?;
        self.app.workers.get_or_init(|| workers.handle().clone());
        let mut running = Running {
            runtime,
            workers,
            early: Arc::new(Shards::start(&self.app, 1)?),
            shards: None,
            has_started: false,
            ports: Ports::default(),
            clients: Entrance::new(
                self.app.settings.max_connections.unwrap_or(DEFAULT_CONNECTIONS),
                self.app.settings.max_connections_per_client,
            ),
            watchers: Entrance::new(WATCHING_CONNECTIONS, Some(WATCHING_CONNECTIONS_PER_CLIENT)),
        };
        for (protocol, listener) in bound {
            running.ports.note(protocol, &listener);
            let entrance =
                if let Protocol::Monitoring = protocol { &mut running.watchers } else { &mut running.clients };
            entrance.open(&running.runtime, protocol, listener, &running.early);
        }
        Ok(running)
    }

    /// Opens the main listeners, all of them or none, and before them those that [`open`](Self::open) has not. From
    /// then on the server is ready.
    pub fn start(&self) -> Result<Ports, Status> {
        let mut stage = self.stage();
        let running = self.opened(&mut stage)?;
        if running.has_started {
            return Err(started_before());
        }
        let bound = running.runtime.block_on(self.bind())?;
        let shards = Arc::new(Shards::start(&self.app, cores())?);
        for (protocol, listener) in bound {
            running.ports.note(protocol, &listener);
            running.clients.open(&running.runtime, protocol, listener, &shards);
        }
        running.shards = Some(shards);
        running.has_started = true;
        self.app.health.advance(Phase::Ready);
        Ok(running.ports)
    }

    async fn bind_early(&self) -> Result<Vec<(Protocol, Bound)>, Status> {
        let settings = &self.app.settings;
        let mut bound = Vec::new();
        if let Some(address) = &settings.monitoring_address {
            bound.push((Protocol::Monitoring, Bound::tcp(address).await?));
        }
        if let Some(address) = &settings.admin_address {
            bound.push((Protocol::Admin, Bound::tcp(address).await?));
        }
        Ok(bound)
    }

    async fn bind(&self) -> Result<Vec<(Protocol, Bound)>, Status> {
        let settings = &self.app.settings;
        let mut bound = Vec::new();
        if let Some(address) = &settings.grpc_address {
            bound.push((Protocol::Grpc, Bound::tcp(address).await?));
        }
        if let Some(path) = &settings.grpc_socket_path {
            bound.push((Protocol::Grpc, Bound::unix(path, settings.grpc_socket_mode).await?));
        }
        if let Some(address) = &settings.rest_address {
            bound.push((Protocol::Rest, Bound::tcp(address).await?));
        }
        Ok(bound)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is listened on; nothing before the start.
    pub fn ports(&self) -> Ports {
        match &*self.stage() {
            Stage::Running(running) => running.ports,
            _ => Ports::default(),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            connections: self.app.connections.value(),
            requests_in_flight: self.app.load.at_work(),
            requests_total: self.app.requests.load(Ordering::Relaxed),
        }
    }

    /// The page of metrics that TensorFlow Serving has, of this moment.
    pub fn metrics_page(&self) -> String {
        self.app.metrics_page(Metrics::original_page)
    }

    /// Counts the warm-up of the version in the folder `path`; it shows on the page of metrics.
    pub fn count_warmup(&self, path: &str, code: Code, records: u64, took: Duration) {
        self.app.metrics.warmed_up(path, code, records, took);
    }

    /// Waits for the next requests for a model that are answered, and gives them as serialised `PredictionLog`s: so many,
    /// or fewer if they take more bytes than this, the time is over or the server stops.
    ///
    /// `NOT_FOUND` for a model that is not configured, `FAILED_PRECONDITION` while requests are being captured.
    pub fn capture(
        &self,
        model: &str,
        count: usize,
        max_bytes: usize,
        timeout: Duration,
    ) -> Result<Vec<Vec<u8>>, Status> {
        if !self.app.routes.current().models.contains_key(model) {
            return Err(Status::not_found(format!("no model is called {model}")));
        }
        self.app.tap.capture(model, count, max_bytes, timeout.min(LONGEST_WAIT), || self.has_stopped())
    }

    /// Replaces what the request log takes: how much of the requests, from 0 to 1, by the names of the models.
    pub fn log_requests(&self, rates: HashMap<String, f64>) {
        self.app.request_log.configure(rates);
    }

    /// Waits for records of the request log. Nothing after the timeout, or once stopped and all have been fetched.
    pub fn next_log_records(&self, timeout: Duration) -> Vec<LoggedRequest> {
        self.app.request_log.next(timeout.min(LONGEST_WAIT), || self.has_stopped())
    }

    /// Counts records that a collector has brought where they belong, or refused with this code.
    pub fn count_logged(&self, model: &str, code: Code, records: u64) {
        self.app.metrics.logged(model, code, records);
    }

    /// Counts records that were lost.
    pub fn count_log_dropped(&self, model: &str, reason: &str, records: u64) {
        self.app.metrics.not_logged(model, reason, records);
    }

    /// Waits for the next call that the control plane has to answer; `None` after the timeout or once stopped.
    pub fn next_call(&self, timeout: Duration) -> Option<ControlCall> {
        let end = Instant::now() + timeout.min(LONGEST_WAIT);
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.has_stopped() {
            let left = end.saturating_duration_since(Instant::now());
            match calls.recv_timeout(left.min(STOP_CHECK)) {
                Ok(call) => return Some(call),
                Err(RecvTimeoutError::Timeout) if left > STOP_CHECK => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn has_stopped(&self) -> bool {
        matches!(*self.stage(), Stage::Stopped)
    }

    /// Waits until nobody has waited for a request for so long.
    async fn idle(&self, quiet: Duration) {
        const CHECK: Duration = Duration::from_millis(5);
        let mut since = Instant::now();
        loop {
            if self.app.load.waited_for() > 0 {
                since = Instant::now();
            } else if since.elapsed() >= quiet {
                return;
            }
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Not ready from now on, so that clients go elsewhere. Requests are answered as before.
    pub fn leave(&self) {
        self.app.health.advance(Phase::Leaving);
    }

    /// Drains: not ready, no new connections, requests in flight finish. Whether all did before the deadline. Those who
    /// watch over the server are answered until then.
    pub fn stop(&self, deadline: Duration) -> bool {
        self.app.health.advance(Phase::Draining);
        let stage = std::mem::replace(&mut *self.stage(), Stage::Stopped);
        // Calls that still wait for the control plane are dropped, which answers them.
        let Stage::Running(running) = stage else {
            return true;
        };
        let Running { runtime, workers, early, shards, clients, watchers, .. } = *running;
        let end = Instant::now() + deadline.min(LONGEST_WAIT);
        let drained = runtime.block_on(async {
            let drain = async {
                tokio::select! {
                    () = clients.close() => self.idle(Duration::ZERO).await,
                    // A client that does not get on with its next request is not waited for.
                    () = self.idle(LAST_BYTES) => {}
                }
            };
            let drained = tokio::time::timeout(end.saturating_duration_since(Instant::now()), drain).await.is_ok();
            self.app.health.advance(Phase::Ended);
            // What they were asked last is answered at once, or not at all.
            let _ = tokio::time::timeout(LAST_WATCHING.min(deadline), watchers.close()).await;
            drained
        });
        runtime.shutdown_background();
        workers.shutdown_background();
        // The listeners are done by now, unless the deadline was shorter than that.
        for shards in shards.into_iter().chain([early]) {
            if let Some(shards) = Arc::into_inner(shards) {
                shards.end();
            }
        }
        if let Some(tracing) = &self.app.tracing {
            tracing.close();
        }
        if let Some(log) = &self.app.access_log {
            log.close();
        }
        drained
    }
}

fn started_before() -> Status {
    Status::failed_precondition("the server has been started before")
}

fn default_runs() -> usize {
    (RUNS_PER_CORE * cores()).max(LEAST_RUNS)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// For those who forget to stop it: everything ends at once.
impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl From<Snapshot> for [(&'static str, u64); 3] {
    fn from(snapshot: Snapshot) -> Self {
        [
            ("connections", snapshot.connections),
            ("requests_in_flight", snapshot.requests_in_flight),
            ("requests_total", snapshot.requests_total),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use servable_core::routes::{ModelRoutes, State, VersionStatus};

    use super::*;

    #[test]
    fn why_versions_failed_is_told_in_short() {
        let version = VersionStatus {
            state: State::End,
            error: Some(Status::internal("x".repeat(1 << 20))),
            servable: None,
            on_demand: false,
            memory_bytes: 0,
            remark: String::new(),
        };
        let model =
            ModelRoutes { versions: BTreeMap::from([(1, version)]), configured: true, ..ModelRoutes::default() };
        let server = Server::new(Settings::default()).expect("nothing is opened");
        server.publish(Routes::new(HashMap::from([("m".to_owned(), model)])));
        let routes = server.app.routes.current();
        let told = routes.status("m", None).expect("it is there");
        let error = told[0].1.error.as_ref().expect("it failed");
        assert!(error.message.starts_with("xxx") && error.message.len() < LONGEST_ERROR + 100);
    }
}
