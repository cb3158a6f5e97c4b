//! Network threads: each owns its connections from accept to close.
//!
//! A connection's bytes, its calls and their brief runs all stay on one thread, so that no call is handed over, nobody is
//! woken and no lock is ever contended. Connections go to the thread that has the fewest.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use servable_core::Status;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_rustls::rustls::ServerConfig;

use crate::app::{App, Crowd, Gauge, GaugeGuard};
use crate::authority::{PREFACE, TidyAuthority};
use crate::exchange::Connection;
use crate::health::Phase;
use crate::leave::Watcher;
use crate::listen::{FIRST_BYTES, Protocol, serve_grpc, serve_rest};
use crate::quota::{Turn, client_at};
use crate::secured::Secured;
use crate::{admin, grpc, probe, rest};

/// TensorFlow's kernels expect as much as a thread usually has.
pub(crate) const STACK_BYTES: usize = 8 << 20;
/// What is given to tasks that were cut off, so that they can leave in order.
const LAST_MOMENT: Duration = Duration::from_millis(200);
/// How long a connection may stay open before anything comes over it where connections are few; probes do not open any
/// in advance.
const FIRST_BYTE_OF_PROBE: Duration = Duration::from_secs(10);

/// How long a client may take to agree on keys.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on its way to the thread that will own it.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) protocol: Protocol,
    pub(crate) watcher: Watcher,
    /// Room for one connection, given back when it closes.
    pub(crate) permit: OwnedSemaphorePermit,
    /// Its place among its client's.
    pub(crate) turn: Turn<Option<IpAddr>>,
}

/// A connection and its share in its thread's count, which begins when it is handed over.
type Handed = (Accepted, GaugeGuard);

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Whose it is; all who come over a Unix socket are one client.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| client_at(address.ip())),
            Self::Unix(_) => None,
        }
    }
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
        while let Some((Accepted { stream, protocol, watcher, permit, turn }, open)) = accepted.recv().await {
            let app = Arc::clone(app);
            tokio::spawn(async move {
                let _all = app.connections.enter();
                // A connection that breaks is the client's affair: it is not worth a word.
                let _ = serve(stream, &app, protocol, watcher).await;
                drop((open, permit, turn));
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
            let client = Connection { remote, crowd, names: Vec::new() };
            if !is_used(stream.readable(), app, end).await {
                return Ok(());
            }
            if let Some(config) = app.tls.of_port(protocol) {
                return serve_secured(stream, client, app, protocol, watcher, config).await;
            }
            let shared = Arc::clone(app);
            match protocol {
                Protocol::Rest => serve_rest(stream, shared, client, watcher, rest::handle).await,
                Protocol::Grpc => {
                    if greeting(&stream, app, end).await.is_some() {
                        serve_grpc(stream, shared, client, watcher, grpc::handle).await;
                    }
                }
                Protocol::Monitoring => match greeting(&stream, app, end).await {
                    Some(Greeting::Http2) => serve_grpc(stream, shared, client, watcher, probe::handle_grpc).await,
                    Some(Greeting::Other) => serve_rest(stream, shared, client, watcher, probe::handle_rest).await,
                    None => {}
                },
                Protocol::Admin => match greeting(&stream, app, end).await {
                    Some(Greeting::Http2) => serve_grpc(stream, shared, client, watcher, admin::handle_grpc).await,
                    Some(Greeting::Other) => serve_rest(stream, shared, client, watcher, admin::handle_rest).await,
                    None => {}
                },
            }
        }
        Stream::Unix(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            let client = Connection { remote: None, crowd: Crowd::Clients, names: Vec::new() };
            if !is_used(stream.readable(), app, Phase::Draining).await {
                return Ok(());
            }
            let shared = Arc::clone(app);
            match app.tls.of_socket() {
                None => {
                    let mut stream = TidyAuthority::new(stream);
                    if in_time(stream.begun(), app.settings.header_timeout(), app).await?.is_some() {
                        serve_grpc(stream, shared, client, watcher, grpc::handle).await;
                    }
                }
                Some(config) => {
                    let mut stream = secured(stream, config, app).await?;
                    let client = Connection { names: stream.client_names(), ..client };
                    if is_http2(&mut stream, app).await? {
                        serve_grpc(TidyAuthority::new(stream), shared, client, watcher, grpc::handle).await;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Serves a connection over TLS. Clients that say by ALPN what they speak are held to it.
async fn serve_secured(
    stream: tokio::net::TcpStream,
    client: Connection,
    app: &Arc<App>,
    protocol: Protocol,
    watcher: Watcher,
    config: Arc<ServerConfig>,
) -> io::Result<()> {
    let mut stream = secured(stream, config, app).await?;
    let client = Connection { names: stream.client_names(), ..client };
    let is_grpc = match protocol {
        Protocol::Grpc => true,
        Protocol::Rest => false,
        Protocol::Admin | Protocol::Monitoring => stream.speaks_http2(),
    };
    let shared = Arc::clone(app);
    if is_grpc {
        if is_http2(&mut stream, app).await? {
            match protocol {
                Protocol::Admin => serve_grpc(stream, shared, client, watcher, admin::handle_grpc).await,
                _ => serve_grpc(stream, shared, client, watcher, grpc::handle).await,
            }
        }
    } else if in_time(stream.read_first(1, FIRST_BYTES), app.settings.idle_timeout(), app).await?.is_some() {
        match protocol {
            Protocol::Admin => serve_rest(stream, shared, client, watcher, admin::handle_rest).await,
            _ => serve_rest(stream, shared, client, watcher, rest::handle).await,
        }
    }
    Ok(())
}

/// The stream behind the handshake. What is no TLS ends it at once, and so does whoever takes too long for it.
async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
    app: &App,
) -> io::Result<Secured<S>> {
    let accepted = in_time(Secured::accept(stream, config), HANDSHAKE_TIMEOUT, app).await?;
    accepted.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Whether a client begins as HTTP/2 does: no other timer runs until all of its preface is there.
async fn is_http2<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Secured<S>, app: &App) -> io::Result<bool> {
    if in_time(stream.read_first(1, PREFACE.len()), app.settings.idle_timeout(), app).await?.is_none() {
        return Ok(false);
    }
    let rest = stream.read_first(PREFACE.len(), PREFACE.len());
    Ok(in_time(rest, app.settings.header_timeout(), app).await?.is_some() && stream.first() == PREFACE)
}

/// What comes in time, and before the drain, which it must not hold up.
async fn in_time<T>(work: impl Future<Output = io::Result<T>>, limit: Duration, app: &App) -> io::Result<Option<T>> {
    tokio::select! {
        done = work => done.map(Some),
        () = app.health.drained() => Ok(None),
        () = tokio::time::sleep(limit) => Ok(None),
    }
}

/// How a client begins.
enum Greeting {
    Http2,
    Other,
}

/// How a client begins; `None` if it stops in the midst of the preface of HTTP/2: no other timer runs until all of it is
/// there. It is only looked at here.
async fn greeting(stream: &tokio::net::TcpStream, app: &App, end: Phase) -> Option<Greeting> {
    let timeout = Instant::now() + app.settings.header_timeout();
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
    let timeout = if end == Phase::Ended { FIRST_BYTE_OF_PROBE } else { app.settings.idle_timeout() };
    tokio::select! {
        readable = readable => readable.is_ok(),
        () = app.health.reached(end) => false,
        () = tokio::time::sleep(timeout) => false,
    }
}
