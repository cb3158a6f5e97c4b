//! Listeners: accepting connections, speaking HTTP on them, letting them finish.

use std::any::Any;
use std::convert::Infallible;
use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use servable_core::{Code, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};
use tokio::sync::{Semaphore, watch};

use crate::app::{App, Crowd, InFlight};
use crate::body::{Sent, Share};
use crate::exchange::Connection;
use crate::framing::GrpcResponse;
use crate::leave::{Farewell, Lifetime, Requests, Watcher, until_done};
use crate::peer::{Line, Peer, Watched};
use crate::quota::Quota;
use crate::rest::RestResponse;
use crate::shard::{Accepted, Shards, Stream};
use crate::stall::Stalls;
use crate::{grpc, probe, rest};

pub(crate) const DEFAULT_CONNECTIONS: usize = 10_000;
const BACKLOG: u32 = 1024;
/// After a failed accept, mostly for want of file descriptors: time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

// Windows large enough that one connection can use the whole of a local network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const CONCURRENT_STREAMS: u32 = 1024;
// A client that has vanished must not hold its connection for ever.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const HEADER_LIST_BYTES: u32 = 64 << 10;
/// Headers of a REST request, where there may be many. Room for so many makes each request cost a quarter more.
const MANY_HEADERS: usize = 512;
/// Lines that a head may have for the connection to do with the HTTP library's own room, for 100 headers.
const USUAL_LINES: usize = 90;

/// As much of a connection as is looked at before it is served.
pub(crate) const FIRST_BYTES: usize = 4 << 10;

/// Which protocol a listener speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Grpc,
    Rest,
    /// Either of them, as the client begins.
    Admin,
    Monitoring,
}

/// A listener that is bound but does not accept yet.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Bound {
    /// `UNAVAILABLE` names the address that cannot be had. Port 0 takes a free one.
    pub(crate) async fn tcp(address: &str) -> Result<Self, Status> {
        let refused = |error: io::Error| Status::new(Code::Unavailable, format!("cannot listen on {address}: {error}"));
        let mut resolved: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(refused)?.collect();
        // All of IPv6 takes IPv4 as well; where there is no IPv6, all of IPv4 is what was meant.
        let all = resolved.iter().find(|address| address.is_ipv6() && address.ip().is_unspecified()).copied();
        resolved.extend(all.map(|address| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))));
        let mut failure = io::Error::other("the name has no address");
        for address in resolved {
            match bind_tcp(address) {
                Ok(listener) => return Ok(Self::Tcp(listener)),
                Err(error) => failure = error,
            }
        }
        Err(refused(failure))
    }

    /// As [`tcp`](Self::tcp) for a socket in the file system; one that a dead server left behind is replaced. Nobody can
    /// connect before it has the mode that it should have.
    pub(crate) async fn unix(path: &str, mode: Option<u32>) -> Result<Self, Status> {
        let refused = |error: io::Error| Status::new(Code::Unavailable, format!("cannot listen on {path}: {error}"));
        if is_socket(Path::new(path)) {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(refused(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")));
            }
            std::fs::remove_file(path).map_err(refused)?;
        }
        let socket = UnixSocket::new_stream().map_err(refused)?;
        socket.bind(path).map_err(refused)?;
        if let Some(mode) = mode {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(refused)?;
        }
        let listener = socket.listen(BACKLOG).map_err(refused)?;
        Ok(Self::Unix(listener, PathBuf::from(path)))
    }

    /// The TCP port, the real one where 0 was asked for.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Self::Unix(..) => None,
        }
    }

    /// Accepts connections until `stopping` turns true; those that are open go on until they are done.
    pub(crate) async fn accept(self, acceptor: Acceptor, stopping: watch::Receiver<bool>) {
        match self {
            Self::Tcp(listener) => {
                let next = || async {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    stream.into_std().map(Stream::Tcp)
                };
                acceptor.accept_all(next, stopping).await;
            }
            Self::Unix(listener, path) => {
                let next = || async { listener.accept().await?.0.into_std().map(Stream::Unix) };
                acceptor.accept_all(next, stopping).await;
                // Gone already is as good.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// What happens to a listener's connections.
pub(crate) struct Acceptor {
    pub(crate) protocol: Protocol,
    pub(crate) shards: Arc<Shards>,
    pub(crate) farewell: Arc<Farewell>,
    /// Connections that may be open at a time, over all listeners.
    pub(crate) room: Arc<Semaphore>,
    /// Those that one client may have of them.
    pub(crate) per_client: Arc<Quota<Option<IpAddr>>>,
}

impl Acceptor {
    async fn accept_all<F>(&self, accept: impl Fn() -> F, mut stopping: watch::Receiver<bool>)
    where
        F: Future<Output = io::Result<Stream>>,
    {
        loop {
            let next = async {
                let (stream, turn) = loop {
                    let stream = accept().await?;
                    // One too many for its client is closed at once.
                    if let Ok(turn) = self.per_client.take(|| stream.client()) {
                        break (stream, turn);
                    }
                };
                // No room: this one waits, and further clients in the kernel's backlog.
                let permit = Arc::clone(&self.room).acquire_owned().await;
                Ok((stream, turn, permit.expect("the semaphore is never closed: this is a bug")))
            };
            let accepted: io::Result<_> = tokio::select! {
                accepted = next => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                Ok((stream, turn, permit)) => {
                    let (protocol, watcher) = (self.protocol, self.farewell.watcher());
                    self.shards.take(Accepted { stream, protocol, watcher, permit, turn });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // a restarted server must not wait for old connections to time out
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Serves gRPC on a connection until either side is done with it.
pub(crate) async fn serve_grpc<S, F, H>(stream: S, app: Arc<App>, connection: Connection, watcher: Watcher, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = GrpcResponse> + Send + 'static,
    H: Fn(Arc<App>, Arc<Connection>, Arc<Share>, Request<Incoming>) -> F + Copy + Send + 'static,
{
    let settings = app.settings.grpc.clone();
    // Whoever watches over the server for long is not sent away.
    let lifetime = if let Crowd::Watchers = connection.crowd { Lifetime::default() } else { settings.lifetime };
    let (client, stalls, requests) = (Arc::new(connection), Stalls::default(), Requests::default());
    let (sending, counted) = (stalls.clone(), lifetime.idle.map(|_| requests.clone()));
    let service = service_fn(move |request| {
        let (app, client, sending) = (Arc::clone(&app), Arc::clone(&client), sending.clone());
        let under_way = counted.as_ref().map(Requests::begin);
        // Boxed: the whole of a call's state is moved several times on its way into a task.
        Box::pin(async move {
            let (in_flight, room) = app.begin(&client);
            let handler = handle(app, client, in_flight.share(), request);
            let (in_flight, refused, panicked) = (in_flight.on(under_way), grpc::turned_away, grpc::panicked);
            Ok::<_, Infallible>(answer(in_flight, room, &sending, handler, refused, panicked).await)
        })
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.max_concurrent_streams.unwrap_or(CONCURRENT_STREAMS))
        .max_header_list_size(settings.max_metadata_bytes.unwrap_or(HEADER_LIST_BYTES))
        .keep_alive_interval(settings.keepalive_time.unwrap_or(PING_INTERVAL))
        .keep_alive_timeout(settings.keepalive_timeout.unwrap_or(PING_TIMEOUT))
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    until_done(connection, http2::Connection::graceful_shutdown, watcher, lifetime, &requests, &stalls).await;
}

/// Serves REST on a connection until either side is done with it.
pub(crate) async fn serve_rest<S, F, H>(stream: S, app: Arc<App>, connection: Connection, watcher: Watcher, handle: H)
where
    S: Line,
    F: Future<Output = RestResponse> + Send + 'static,
    H: Fn(Arc<App>, Arc<Connection>, Arc<Share>, Peer, Request<Incoming>) -> F + Copy + Send + 'static,
{
    let (client, stalls) = (Arc::new(connection), Stalls::default());
    let is_usual = has_usual_head(&stream);
    let header_timeout = app.settings.header_timeout();
    let (stream, peer) = Watched::new(stream, stalls.clone());
    let sending = stalls.clone();
    let service = service_fn(move |request| {
        let (app, client, peer, sending) = (Arc::clone(&app), Arc::clone(&client), peer.clone(), sending.clone());
        Box::pin(async move {
            let (in_flight, room) = app.begin(&client);
            let room = room.or_else(|full| if probe::is_for_page(&request) { Ok(()) } else { Err(full) });
            let handler = handle(app, client, in_flight.share(), peer, request);
            Ok::<_, Infallible>(answer(in_flight, room, &sending, handler, rest::error, rest::panicked).await)
        })
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout).half_close(true);
    if !is_usual {
        http.max_headers(MANY_HEADERS);
    }
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let (leave, lifetime) = (http1::Connection::graceful_shutdown, Lifetime::default());
    until_done(connection, leave, watcher, lifetime, &Requests::default(), &stalls).await;
}

/// Whether the head of a connection's first request is there as a whole, and has no more lines than most. Its further
/// requests will be like it: they come from the same client or proxy.
fn has_usual_head(stream: &impl Line) -> bool {
    let mut room = [0; FIRST_BYTES];
    let seen = stream.begun(&mut room);
    let head = memchr::memmem::find(seen, b"\r\n\r\n").map(|end| &seen[..end]);
    head.is_some_and(|head| memchr::memchr_iter(b'\n', head).count() <= USUAL_LINES)
}

/// The answer to a request, which is in flight until all of it is sent. One too many is refused before it is looked at.
async fn answer<B>(
    in_flight: InFlight,
    room: Result<(), Status>,
    stalls: &Stalls,
    handler: impl Future<Output = Response<B>>,
    refused: fn(&Status) -> Response<B>,
    panicked: fn() -> Response<B>,
) -> Response<Sent<B>> {
    let response = match room {
        Ok(()) => survive(handler, panicked).await,
        Err(status) => refused(&status),
    };
    Sent::of(response, in_flight, stalls)
}

/// A handler that panics costs its request, nothing else. The panic itself has been printed by then.
async fn survive<T>(handler: impl Future<Output = T>, instead: fn() -> T) -> T {
    let outcome: Result<T, Box<dyn Any + Send>> = AssertUnwindSafe(handler).catch_unwind().await;
    outcome.unwrap_or_else(|_| instead())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::client::conn::http2::{Builder, SendRequest};

    use super::*;
    use crate::app::Settings;
    use crate::framing::answered;
    use crate::leave::Farewell;
    use crate::server::Server;

    /// More than the client takes before somebody reads it.
    const LARGE_BYTES: usize = 8 << 20;
    const LONG: Duration = Duration::from_secs(1000);

    /// A connection to a server with a health service. The server has to stay.
    async fn connected<F, H>(handle: H) -> (Server, SendRequest<Full<Bytes>>)
    where
        F: Future<Output = GrpcResponse> + Send + 'static,
        H: Fn(Arc<App>, Arc<Connection>, Arc<Share>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    {
        let server = Server::new(Settings { health_service: true, ..Settings::default() }).expect("nothing is opened");
        let (app, (theirs, ours)) = (Arc::clone(&server.app), tokio::io::duplex(64 << 10));
        tokio::spawn(async move {
            let connection = Connection { remote: None, crowd: Crowd::Clients, names: Vec::new() };
            serve_grpc(ours, app, connection, Farewell::default().watcher(), handle).await;
        });
        let connecting = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(theirs));
        let (client, connection) = connecting.await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        (server, client)
    }

    async fn ask(client: &mut SendRequest<Full<Bytes>>, path: &str) -> hyper::Result<Response<Incoming>> {
        let question = Request::post(format!("http://here{path}")).body(Full::from(&[0; 5][..])).expect("it is valid");
        client.ready().await?;
        client.send_request(question).await
    }

    async fn large_answer(_: Arc<App>, _: Arc<Connection>, _: Arc<Share>, _: Request<Incoming>) -> GrpcResponse {
        answered(Ok(Bytes::from(vec![7; LARGE_BYTES])))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_quiet_costs_no_connection() {
        let (_server, mut client) = connected(grpc::handle).await;
        let mut watch = ask(&mut client, "/grpc.health.v1.Health/Watch").await.expect("it is answered");
        watch.frame().await.expect("it is told how the server is").expect("at once");
        let quiet = tokio::time::timeout(LONG, watch.frame()).await;
        assert!(quiet.is_err(), "it goes on, with nothing to tell: {quiet:?}");
        let check = ask(&mut client, "/grpc.health.v1.Health/Check").await.expect("so does its connection");
        assert_eq!(
            check.collect().await.expect("whole").trailers().map(|trailers| &trailers["grpc-status"] == "0"),
            Some(true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_costs_its_connection() {
        let (_server, mut client) = connected(large_answer).await;
        let answer = ask(&mut client, "/").await.expect("it begins");
        tokio::time::sleep(LONG).await;
        assert!(answer.collect().await.is_err(), "it was cut off");
        let (_server, mut client) = connected(large_answer).await;
        let answer = ask(&mut client, "/").await.expect("it begins");
        assert_eq!(answer.collect().await.expect("it is taken").to_bytes().len(), LARGE_BYTES);
    }

    #[tokio::test]
    async fn a_panic_is_answered() {
        async fn broken(number: u32) -> u32 {
            tokio::task::yield_now().await;
            assert!(number > 1, "on purpose");
            number
        }
        assert_eq!(survive(broken(1), || 0).await, 0);
        assert_eq!(survive(broken(2), || 0).await, 2);
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_had_is_named() {
        let Ok(first) = Bound::tcp("127.0.0.1:0").await else { panic!("a free port must be found") };
        let address = format!("127.0.0.1:{}", first.port().expect("TCP has one"));
        let Err(status) = Bound::tcp(&address).await else { panic!("{address} is taken") };
        assert_eq!(status.code, Code::Unavailable);
        assert!(status.message.contains(&address), "{status}");
    }
}
