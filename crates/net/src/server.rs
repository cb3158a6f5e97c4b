//! The engine's network side as a whole: started once, fed with routes, drained at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::server::graceful::GracefulShutdown;
use servable_core::batching::Scheduler;
use servable_core::routes::{RouteTable, Routes};
use servable_core::servable::Threads;
use servable_core::{Code, Status};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::access_log::AccessLog;
use crate::admin;
use crate::app::{App, Gauge, Settings};
use crate::body::Budget;
use crate::control::ControlCall;
use crate::grpc;
use crate::health::Health;
use crate::listen::{Acceptor, Bound, DEFAULT_CONNECTIONS, Protocol};
use crate::metrics::Metrics;
use crate::reflection::Reflection;
use crate::shard::{STACK_BYTES, Shards};
use crate::tap::Tap;

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

/// TCP ports that are listened on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub grpc: Option<u16>,
    pub rest: Option<u16>,
    pub admin: Option<u16>,
}

/// Counters of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    pub connections: u64,
    pub requests_in_flight: u64,
    pub requests_total: u64,
}

enum Phase {
    New,
    Running(Box<Running>),
    Stopped,
}

struct Running {
    /// Accepts connections and waits for their end; they themselves live in the shards.
    runtime: Runtime,
    /// Only its threads for blocking work are used.
    workers: Runtime,
    shards: Arc<Shards>,
    ports: Ports,
    stopping: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    graceful: Arc<GracefulShutdown>,
}

/// Listeners and the table of routes behind them. All methods may be called from any thread.
pub struct Server {
    app: Arc<App>,
    phase: Mutex<Phase>,
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
        let admin_reflection = Reflection::new(&[admin::SERVICE])?;
        let access_log = settings.access_log.as_ref().map(AccessLog::open).transpose()?;
        let app = App {
            settings,
            routes: RouteTable::default(),
            health: Health::default(),
            metrics,
            reflection,
            admin_reflection,
            control,
            tap: Tap::default(),
            access_log,
            connections: Gauge::default(),
            in_flight: Gauge::default(),
            arriving: Gauge::default(),
            requests: AtomicU64::new(0),
            asked_for: Mutex::default(),
            budget,
            threads: OnceLock::new(),
            workers: OnceLock::new(),
        };
        Ok(Self { app: Arc::new(app), phase: Mutex::new(Phase::New), calls: Mutex::new(calls) })
    }

    /// Replaces the whole table of routes.
    pub fn publish(&self, mut routes: Routes) {
        routes.refuses_labels = self.app.settings.refuses_labels;
        self.app.metrics.know(&routes);
        self.app.routes.publish(routes);
    }

    /// Opens the listeners, all of them or none. From then on the server is ready.
    pub fn start(&self) -> Result<Ports, Status> {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let Phase::New = *phase else {
            return Err(Status::failed_precondition("the server has been started before"));
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(self.app.settings.max_threads.unwrap_or_else(default_runs).max(1))
            .thread_stack_size(STACK_BYTES)
            .thread_name("servable-run")
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| Status::internal(format!("the accepting thread cannot be started: {error}")))?;
        let bound = runtime.block_on(self.bind())?;
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
        let shards = Arc::new(Shards::start(&self.app)?);
        let mut ports = Ports::default();
        let (stopping, _) = watch::channel(false);
        let graceful = Arc::new(GracefulShutdown::new());
        let room = self.app.settings.max_connections.unwrap_or(DEFAULT_CONNECTIONS).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(room));
        let mut listeners = Vec::with_capacity(bound.len());
        for (protocol, listener) in bound {
            match protocol {
                Protocol::Grpc => ports.grpc = ports.grpc.or(listener.port()),
                Protocol::Rest => ports.rest = listener.port(),
                Protocol::Admin => ports.admin = listener.port(),
            }
            let acceptor = Acceptor {
                protocol,
                shards: Arc::clone(&shards),
                graceful: Arc::clone(&graceful),
                room: Arc::clone(&room),
            };
            listeners.push(runtime.spawn(listener.accept(acceptor, stopping.subscribe())));
        }
        self.app.health.start();
        *phase = Phase::Running(Box::new(Running { runtime, workers, shards, ports, stopping, listeners, graceful }));
        Ok(ports)
    }

    async fn bind(&self) -> Result<Vec<(Protocol, Bound)>, Status> {
        let settings = &self.app.settings;
        let mut bound = Vec::new();
        if let Some(address) = &settings.grpc_address {
            bound.push((Protocol::Grpc, Bound::tcp(address).await?));
        }
        if let Some(path) = &settings.grpc_socket_path {
            bound.push((Protocol::Grpc, Bound::unix(path).await?));
        }
        if let Some(address) = &settings.rest_address {
            bound.push((Protocol::Rest, Bound::tcp(address).await?));
        }
        if let Some(address) = &settings.admin_address {
            bound.push((Protocol::Admin, Bound::tcp(address).await?));
        }
        Ok(bound)
    }

    /// What is listened on; nothing before the start.
    pub fn ports(&self) -> Ports {
        match &*self.phase.lock().unwrap_or_else(PoisonError::into_inner) {
            Phase::Running(running) => running.ports,
            _ => Ports::default(),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            connections: self.app.connections.value(),
            requests_in_flight: self.app.in_flight.value(),
            requests_total: self.app.requests.load(Ordering::Relaxed),
        }
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
        matches!(*self.phase.lock().unwrap_or_else(PoisonError::into_inner), Phase::Stopped)
    }

    /// Waits until no request has been in flight for so long.
    async fn idle(&self, quiet: Duration) {
        const CHECK: Duration = Duration::from_millis(5);
        let mut since = Instant::now();
        loop {
            if self.app.in_flight.value() > 0 {
                since = Instant::now();
            } else if since.elapsed() >= quiet {
                return;
            }
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Drains: not ready, no new connections, requests in flight finish. Whether all did before the deadline.
    pub fn stop(&self, deadline: Duration) -> bool {
        self.app.health.drain();
        let phase = std::mem::replace(&mut *self.phase.lock().unwrap_or_else(PoisonError::into_inner), Phase::Stopped);
        // Calls that still wait for the control plane are dropped, which answers them.
        let Phase::Running(running) = phase else {
            return true;
        };
        let Running { runtime, workers, shards, stopping, listeners, graceful, .. } = *running;
        let end = Instant::now() + deadline.min(LONGEST_WAIT);
        stopping.send_replace(true);
        let drained = runtime.block_on(async {
            let drain = async {
                for listener in listeners {
                    // A listener that panicked is closed as well.
                    let _ = listener.await;
                }
                let connections = async {
                    match Arc::into_inner(graceful) {
                        Some(graceful) => graceful.shutdown().await,
                        None => std::future::pending().await, // the listeners that shared it are gone: never
                    }
                };
                tokio::select! {
                    () = connections => self.idle(Duration::ZERO).await,
                    // A client that does not get on with its next request is not waited for.
                    () = self.idle(LAST_BYTES) => {}
                }
            };
            tokio::time::timeout(end.saturating_duration_since(Instant::now()), drain).await.is_ok()
        });
        runtime.shutdown_background();
        workers.shutdown_background();
        // The listeners are done by now, unless the deadline was shorter than that.
        if let Some(shards) = Arc::into_inner(shards) {
            shards.end();
        }
        if let Some(log) = &self.app.access_log {
            log.close();
        }
        drained
    }
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
