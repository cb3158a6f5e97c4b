//! Whether the client of a connection is still there, while its request waits.
//!
//! HTTP/1.1 has no word for giving up: a client just closes, which looks as if it had no more to send. So such a request
//! is still answered if it is at work, but not begun if it was waiting: nobody needs an answer that comes too late.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::stall::Stalls;

/// A stream that others may look at. The lock is never contended: all that use it run on the connection's thread.
pub(crate) struct Watched {
    stream: Arc<Mutex<TcpStream>>,
    stalls: Stalls,
}

/// The client of a [`Watched`] stream.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Mutex<TcpStream>>);

impl Watched {
    /// What the client does not take is noted in `stalls`.
    pub(crate) fn new(stream: TcpStream, stalls: Stalls) -> (Self, Peer) {
        let stream = Arc::new(Mutex::new(stream));
        (Self { stream: Arc::clone(&stream), stalls }, Peer(stream))
    }

    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.stalls.wrote(outcome.is_pending());
        outcome
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Waits until the client has closed its side. One that has sent more is there, as far as can be told.
    pub(crate) async fn left(&self) {
        std::future::poll_fn(|context| {
            let mut byte = [0];
            let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match stream.poll_peek(context, &mut ReadBuf::new(&mut byte)) {
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
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
        Pin::new(&mut *self.stream()).poll_flush(context)
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

    async fn connected() -> (TcpStream, Watched, Peer) {
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
        assert!(futures_util::FutureExt::now_or_never(peer.left()).is_none(), "it is there");
        drop(client);
        peer.left().await;
    }
}
