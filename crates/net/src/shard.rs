//! Network threads: each owns its connections from accept to close.
//!
//! A connection's bytes, its calls and their brief runs all stay on one thread, so that no call is handed over, nobody is
//! woken and no lock is ever contended. Connections go to the thread that has the fewest.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper_util::server::graceful::Watcher;
use servable_core::Status;
use tokio::io::Interest;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::app::{App, Crowd, Gauge, GaugeGuard};
use crate::authority::TidyAuthority;
use crate::exchange::Connection;
use crate::health::Phase;
use crate::listen::{Protocol, serve_grpc, serve_rest};
use crate::{admin, grpc, probe, rest};

/// TensorFlow's kernels expect as much as a thread usually has.
pub(crate) const STACK_BYTES: usize = 8 << 20;
/// What is given to tasks that were cut off, so that they can leave in order.
const LAST_MOMENT: Duration = Duration::from_millis(200);
/// How long a connection may stay open before anything comes over it; clients open some in advance.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);
/// The same where connections are few; probes do not open any in advance.
const FIRST_BYTE_OF_PROBE: Duration = Duration::from_secs(10);

/// How long a client may take for the first bytes of HTTP/2.
const HELLO_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection on its way to the thread that will own it.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) protocol: Protocol,
    pub(crate) watcher: Watcher,
    /// Room for one connection, given back when it closes.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A connection and its share in its thread's count, which begins when it is handed over.
type Handed = (Accepted, GaugeGuard);

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// All network threads.
pub(crate) struct Shards(Vec<Shard>);

struct Shard {
    inbox: mpsc::UnboundedSender<Handed>,
    connections: Gauge,
    thread: JoinHandle<()>,
}

impl Shards {
    /// So many threads.
    pub(crate) fn start(app: &Arc<App>, count: usize) -> Result<Self, Status> {
        let failed = |error: io::Error| Status::internal(format!("network threads cannot be started: {error}"));
        let shards = (0..count).map(|_| Shard::start(app)).collect::<io::Result<_>>();
        shards.map(Self).map_err(failed)
    }

    /// Hands a connection to the thread that has the fewest. A thread that is gone drops it, which closes it.
    pub(crate) fn take(&self, accepted: Accepted) {
        if let Some(shard) = self.0.iter().min_by_key(|shard| shard.connections.value()) {
            let _ = shard.inbox.send((accepted, shard.connections.enter()));
        }
    }

    /// Ends all threads, and with them what is left of their connections. One that a run keeps busy ends after that.
    pub(crate) fn end(self) {
        let threads: Vec<_> = self.0.into_iter().map(|shard| shard.thread).collect(); // drops the inboxes
        let end = Instant::now() + LAST_MOMENT;
        while Instant::now() < end && !threads.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Shard {
    fn start(app: &Arc<App>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (inbox, accepted) = mpsc::unbounded_channel();
        let connections = Gauge::default();
        let work = {
            let app = Arc::clone(app);
            move || own_connections(&runtime, accepted, &app)
        };
        let thread = thread::Builder::new().name("servable-net".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Self { inbox, connections, thread })
    }
}

/// Serves what comes in until nothing can come any more.
fn own_connections(runtime: &Runtime, mut accepted: mpsc::UnboundedReceiver<Handed>, app: &Arc<App>) {
    runtime.block_on(async {
        while let Some((Accepted { stream, protocol, watcher, permit }, open)) = accepted.recv().await {
            let app = Arc::clone(app);
            tokio::spawn(async move {
                let _all = app.connections.enter();
                // A connection that breaks is the client's affair: it is not worth a word.
                let _ = serve(stream, &app, protocol, watcher).await;
                drop((open, permit));
            });
        }
    });
}

async fn serve(stream: Stream, app: &Arc<App>, protocol: Protocol, watcher: Watcher) -> io::Result<()> {
    match stream {
        Stream::Tcp(stream) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            // While clients are drained, those who watch over the server are answered.
            let end = if let Protocol::Monitoring = protocol { Phase::Ended } else { Phase::Draining };
            let crowd = if let Protocol::Monitoring = protocol { Crowd::Watchers } else { Crowd::Clients };
            let remote = stream.peer_addr().ok().map(|address| address.ip().to_canonical());
            let client = Connection { remote, crowd };
            if is_used(stream.readable(), app, end).await {
                let shared = Arc::clone(app);
                match protocol {
                    Protocol::Rest => serve_rest(stream, shared, client, watcher, rest::handle).await,
                    Protocol::Grpc => {
                        if greeting(&stream, app, end).await.is_some() {
                            serve_grpc(stream, shared, client, watcher, grpc::handle).await;
                        }
                    }
                    Protocol::Admin => match greeting(&stream, app, end).await {
                        Some(Greeting::Http2) => {
                            serve_grpc(stream, shared, client, watcher, admin::handle_grpc).await;
                        }
                        Some(Greeting::Other) => {
                            serve_rest(stream, shared, client, watcher, admin::handle_rest).await;
                        }
                        None => {}
                    },
                    Protocol::Monitoring => match greeting(&stream, app, end).await {
                        Some(Greeting::Http2) => {
                            serve_grpc(stream, shared, client, watcher, probe::handle_grpc).await;
                        }
                        Some(Greeting::Other) => {
                            serve_rest(stream, shared, client, watcher, probe::handle_rest).await;
                        }
                        None => {}
                    },
                }
            }
        }
        Stream::Unix(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            if is_used(stream.readable(), app, Phase::Draining).await {
                serve_grpc(
                    TidyAuthority::new(stream),
                    Arc::clone(app),
                    Connection { remote: None, crowd: Crowd::Clients },
                    watcher,
                    grpc::handle,
                )
                .await;
            }
        }
    }
    Ok(())
}

/// How a client begins.
enum Greeting {
    Http2,
    Other,
}

/// How a client begins; `None` if it stops in the midst of the preface of HTTP/2: no other timer runs until all of it is
/// there. It is only looked at here.
async fn greeting(stream: &tokio::net::TcpStream, app: &App, end: Phase) -> Option<Greeting> {
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let timeout = Instant::now() + HELLO_TIMEOUT;
    let mut pause = Duration::from_millis(1);
    let mut seen = [0; PREFACE.len()];
    loop {
        // Asked for first: once it is closed, nothing more will come than what is there now.
        let is_closed = !matches!(stream.ready(Interest::READABLE).await, Ok(ready) if !ready.is_read_closed());
        match stream.peek(&mut seen).await {
            Ok(_) if seen == *PREFACE => return Some(Greeting::Http2),
            Ok(count) if !PREFACE.starts_with(&seen[..count]) => return Some(Greeting::Other),
            Ok(1..) if !is_closed && Instant::now() < timeout => {}
            _ => return None,
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.health.reached(end) => return None,
        }
        pause = (2 * pause).min(Duration::from_secs(1));
    }
}

/// Waits for a connection's first byte; false if none came in time, or before the phase `end`, which it must not hold up.
async fn is_used(readable: impl Future<Output = io::Result<()>>, app: &App, end: Phase) -> bool {
    let timeout = if end == Phase::Ended { FIRST_BYTE_OF_PROBE } else { FIRST_BYTE_TIMEOUT };
    tokio::select! {
        readable = readable => readable.is_ok(),
        () = app.health.reached(end) => false,
        () = tokio::time::sleep(timeout) => false,
    }
}
