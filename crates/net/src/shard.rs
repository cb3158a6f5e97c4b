//! Network threads: each owns its connections from accept to close.
//!
//! A connection's bytes, its calls and their brief runs all stay on one thread, so that no call is handed over, nobody is
//! woken and no lock is ever contended. Connections go to the thread that has the fewest.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper_util::server::graceful::Watcher;
use servable_core::Status;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::app::{App, Gauge};
use crate::authority::TidyAuthority;
use crate::listen::{Protocol, serve_connection};

/// What is given to tasks that were cut off, so that they can leave in order.
const LAST_MOMENT: Duration = Duration::from_millis(200);
const DEFAULT_BLOCKING_THREADS: usize = 512;
/// How long a connection may stay open before anything comes over it; clients open some in advance.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);

/// A connection on its way to the thread that will own it.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) protocol: Protocol,
    pub(crate) watcher: Watcher,
    /// Room for one connection, given back when it closes.
    pub(crate) permit: OwnedSemaphorePermit,
}

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// All network threads.
pub(crate) struct Shards(Vec<Shard>);

struct Shard {
    inbox: mpsc::UnboundedSender<Accepted>,
    connections: Gauge,
    thread: JoinHandle<()>,
}

impl Shards {
    /// As many threads as the process may use cores.
    pub(crate) fn start(app: &Arc<App>) -> Result<Self, Status> {
        let failed = |error: io::Error| Status::internal(format!("network threads cannot be started: {error}"));
        let count = thread::available_parallelism().map_or(1, usize::from);
        let blocking = app.settings.max_threads.unwrap_or(DEFAULT_BLOCKING_THREADS).div_ceil(count).max(1);
        let shards = (0..count).map(|_| Shard::start(app, blocking)).collect::<io::Result<_>>();
        shards.map(Self).map_err(failed)
    }

    /// Hands a connection to the thread that has the fewest. A thread that is gone drops it, which closes it.
    pub(crate) fn take(&self, accepted: Accepted) {
        if let Some(shard) = self.0.iter().min_by_key(|shard| shard.connections.value()) {
            let _ = shard.inbox.send(accepted);
        }
    }

    /// Ends all threads, and with them what is left of their connections.
    pub(crate) fn end(self) {
        let threads: Vec<_> = self.0.into_iter().map(|shard| shard.thread).collect(); // drops the inboxes
        for thread in threads {
            // One that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

impl Shard {
    fn start(app: &Arc<App>, blocking_threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking_threads)
            .thread_name("servable-run")
            .build()?;
        let (inbox, accepted) = mpsc::unbounded_channel();
        let connections = Gauge::default();
        let work = {
            let (app, connections) = (Arc::clone(app), connections.clone());
            move || own_connections(runtime, accepted, &app, &connections)
        };
        let thread = thread::Builder::new().name("servable-net".to_owned()).spawn(work)?;
        Ok(Self { inbox, connections, thread })
    }
}

/// Serves what comes in until nothing can come any more.
fn own_connections(
    runtime: Runtime,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    app: &Arc<App>,
    connections: &Gauge,
) {
    runtime.block_on(async {
        while let Some(Accepted { stream, protocol, watcher, permit }) = accepted.recv().await {
            let (app, open) = (Arc::clone(app), (connections.enter(), permit));
            tokio::spawn(async move {
                let _all = app.connections.enter();
                // A connection that breaks is the client's affair: it is not worth a word.
                let _ = serve(stream, &app, protocol, watcher).await;
                drop(open);
            });
        }
    });
    runtime.shutdown_timeout(LAST_MOMENT);
}

async fn serve(stream: Stream, app: &Arc<App>, protocol: Protocol, watcher: Watcher) -> io::Result<()> {
    match stream {
        Stream::Tcp(stream) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            if is_used(stream.readable(), app).await {
                serve_connection(stream, Arc::clone(app), protocol, watcher).await;
            }
        }
        Stream::Unix(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            if is_used(stream.readable(), app).await {
                serve_connection(TidyAuthority::new(stream), Arc::clone(app), protocol, watcher).await;
            }
        }
    }
    Ok(())
}

/// Waits for a connection's first byte; false if none came in time, or before the drain, which it must not hold up.
async fn is_used(readable: impl Future<Output = io::Result<()>>, app: &App) -> bool {
    tokio::select! {
        readable = readable => readable.is_ok(),
        () = app.health.drained() => false,
        () = tokio::time::sleep(FIRST_BYTE_TIMEOUT) => false,
    }
}
