//! Whether the client of a connection is still there, while its request waits.
//!
//! HTTP/1.1 has no word for giving up: a client just closes, which looks as if it had no more to send. So such a request
//! is still answered if it is at work, but not begun if it was waiting: nobody needs an answer that comes too late.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::secured::Secured;
use crate::stall::Stalls;

/// A stream whose client's going can be seen.
pub(crate) trait Line: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// What is written may wait for a flush, which then has to wait for the client.
    const KEEPS_BACK: bool;

    /// What has come of the first request, to be read later; at most as much as `room` holds.
    fn begun<'a>(&'a self, room: &'a mut [u8]) -> &'a [u8];

    /// Ready once the client has closed its side. One that has sent more is there, as far as can be told.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()>;

    fn peer(shared: Arc<Mutex<Self>>) -> Peer;
}

/// A stream that others may look at. The lock is never contended: all that use it run on the connection's thread.
pub(crate) struct Watched<S> {
    stream: Arc<Mutex<S>>,
    stalls: Stalls,
}

/// The client of a [`Watched`] stream.
#[derive(Clone)]
pub(crate) enum Peer {
    Plain(Arc<Mutex<TcpStream>>),
    Secured(Arc<Mutex<Secured<TcpStream>>>),
}

impl<S: Line> Watched<S> {
    /// What the client does not take is noted in `stalls`.
    pub(crate) fn new(stream: S, stalls: Stalls) -> (Self, Peer) {
        let stream = Arc::new(Mutex::new(stream));
        (Self { stream: Arc::clone(&stream), stalls }, S::peer(stream))
    }

    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.stalls.wrote(outcome.is_pending());
        outcome
    }

    fn stream(&self) -> MutexGuard<'_, S> {
        locked(&self.stream)
    }
}

fn locked<S>(stream: &Mutex<S>) -> MutexGuard<'_, S> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// Waits until the client has closed its side.
    pub(crate) async fn left(&self) {
        std::future::poll_fn(|context| match self {
            Self::Plain(stream) => locked(stream).poll_left(context),
            Self::Secured(stream) => locked(stream).poll_left(context),
        })
        .await;
    }
}

impl Line for TcpStream {
    const KEEPS_BACK: bool = false;

    fn begun<'a>(&'a self, room: &'a mut [u8]) -> &'a [u8] {
        let count = self.peek(room).now_or_never().and_then(Result::ok).unwrap_or(0);
        &room[..count]
    }

    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        match self.poll_peek(context, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    fn peer(shared: Arc<Mutex<Self>>) -> Peer {
        Peer::Plain(shared)
    }
}

impl<S: Line> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_read(context, buffer)
    }
}

impl<S: Line> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut *self.stream()).poll_write(context, data);
        self.wrote(outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut *self.stream()).poll_write_vectored(context, data);
        self.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut *self.stream()).poll_flush(context);
        if S::KEEPS_BACK {
            self.stalls.wrote(outcome.is_pending());
        }
        outcome
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, Watched<TcpStream>, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is there");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).await.expect("it listens");
        let (stream, peer) = Watched::new(listener.accept().await.expect("it was connected to").0, Stalls::default());
        (client, stream, peer)
    }

    #[tokio::test]
    async fn a_client_that_closes_has_left() {
        let (mut client, mut stream, peer) = connected().await;
        client.write_all(b"ab").await.expect("it is read");
        let mut read = [0; 2];
        stream.read_exact(&mut read).await.expect("it was written");
        assert!(peer.left().now_or_never().is_none(), "it is there");
        drop(client);
        peer.left().await;
    }
}
