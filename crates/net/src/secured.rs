//! A connection over TLS, of which a first part may be looked at before it is served.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use crate::certificate;
use crate::peer::{Line, Peer};
use crate::tls;

/// What is read ahead of a client that is only looked after.
const AHEAD: usize = 1 << 10;

/// A stream behind a handshake.
pub(crate) struct Secured<S> {
    stream: TlsStream<S>,
    /// What has been read and not been given on.
    first: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secured<S> {
    /// Fails for a client that speaks no TLS, or shows no certificate where one is asked for.
    pub(crate) async fn accept(stream: S, config: Arc<ServerConfig>) -> io::Result<Self> {
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Self { stream, first: Vec::new() })
    }

    /// Whether the client has said that it is going to speak HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2)
    }

    /// The names of the client's certificate, which has been verified; none if it has shown none.
    pub(crate) fn client_names(&self) -> Vec<String> {
        let certificate = self.stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        certificate.map_or_else(Vec::new, certificate::names)
    }

    /// Waits until so many bytes have come, and takes no more than `most`. What was read is still there if it is cut off.
    pub(crate) async fn read_first(&mut self, least: usize, most: usize) -> io::Result<()> {
        let mut room = [0; AHEAD];
        while self.first.len() < least {
            let wanted = (most - self.first.len()).min(room.len());
            let count = self.stream.read(&mut room[..wanted]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.first.extend_from_slice(&room[..count]);
        }
        Ok(())
    }

    /// What has been read so far.
    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }
}

impl Line for Secured<TcpStream> {
    const KEEPS_BACK: bool = true;

    fn begun<'a>(&'a self, _: &'a mut [u8]) -> &'a [u8] {
        &self.first
    }

    /// A client that goes says so in TLS, so it is not enough to look at the socket: what comes has to be decrypted.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.first.len() < AHEAD {
            let mut room = [0; AHEAD];
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.first.extend_from_slice(buffer.filled()),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    fn peer(shared: Arc<Mutex<Self>>) -> Peer {
        Peer::Secured(shared)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
