//! Making gRPC calls over Unix sockets acceptable to our HTTP/2 library.
//!
//! Clients on gRPC's C core (Python's, C++'s, Ruby's) name the socket's path as the authority of a call, percent-encoded:
//! `tmp%2Ftfs.sock`. The library takes that for a malformed host and resets every call. Nobody here looks at the
//! authority, so this reader puts a plain character in the place of each `%` of it, before the library sees it.
//!
//! Only what those clients write is recognised: `:authority` as a literal name with a literal value, in a HEADERS frame.
//! All else passes as it is.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client of HTTP/2 begins with.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
/// The largest frame that we allow clients to send (HTTP/2's default); a larger one is passed on unseen.
const LARGEST_FRAME: usize = 16 << 10;
const NAME: &[u8] = b":authority";
/// A length below this stands in one byte, for a value that is not compressed.
const LONG_OR_COMPRESSED: u8 = 127;

/// A stream whose reader tidies up authorities.
pub(crate) struct TidyAuthority<S> {
    stream: S,
    /// Read, but neither looked at nor passed on: part of a frame.
    held: BytesMut,
    /// Looked at, ready to be passed on.
    ready: BytesMut,
    /// Bytes that follow and need no look.
    pass: usize,
}

impl<S> TidyAuthority<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, held: BytesMut::new(), ready: BytesMut::new(), pass: PREFACE.len() }
    }

    /// Moves what can be passed on from `held` to `ready`.
    fn advance(&mut self) {
        loop {
            let passing = self.pass.min(self.held.len());
            self.ready.unsplit(self.held.split_to(passing));
            self.pass -= passing;
            let Some(head) = self.held.get(..FRAME_HEAD_BYTES) else { return };
            let frame =
                FRAME_HEAD_BYTES + (usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]));
            if head[3] != HEADERS || frame > LARGEST_FRAME + FRAME_HEAD_BYTES {
                self.pass = frame;
                continue;
            }
            let Some(headers) = self.held.get_mut(FRAME_HEAD_BYTES..frame) else { return };
            tidy(headers);
            self.pass = frame;
        }
    }
}

impl<S: AsyncRead + Unpin> TidyAuthority<S> {
    /// Waits until all of the preface of HTTP/2 is there, or what cannot become one. It is passed on later.
    pub(crate) async fn begun(&mut self) -> io::Result<()> {
        while self.ready.len() < PREFACE.len() && PREFACE.starts_with(&self.ready) {
            if !poll_fn(|context| self.poll_fill(context)).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads what has come; false at the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut chunk = [0; 4096];
        let mut read = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        self.held.extend_from_slice(read.filled());
        self.advance();
        Poll::Ready(Ok(!read.filled().is_empty()))
    }
}

/// Replaces `%` in the value of a literal `:authority`.
fn tidy(headers: &mut [u8]) {
    let Some(found) = memmem::find(headers, NAME) else { return };
    let Some((length, rest)) = headers[found + NAME.len()..].split_first_mut() else { return };
    if *length < LONG_OR_COMPRESSED
        && let Some(value) = rest.get_mut(..usize::from(*length))
    {
        value.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TidyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ready.is_empty() {
            if !ready!(self.poll_fill(context))? {
                // A frame that broke off is of no use to anybody.
                return Poll::Ready(Ok(()));
            }
        }
        let count = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..count]);
        self.ready.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TidyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 4, 0, 0, 0, 1], payload].concat()
    }

    fn connection(authority: &[u8]) -> Vec<u8> {
        let length = [authority.len() as u8];
        let headers = [b"@\x05:path\x04/a%b@\x0a:authority".as_slice(), &length, authority, b"\x83\x86"].concat();
        let data = b":authority\x03a%b";
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, &[0; 6]), frame(HEADERS, &headers), frame(0, data)]
            .concat()
    }

    async fn passed_on(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        for piece in bytes.chunks(piece) {
            client.write_all(piece).await.expect("there is room");
        }
        drop(client);
        let mut passed = Vec::new();
        TidyAuthority::new(server).read_to_end(&mut passed).await.expect("no error");
        passed
    }

    #[tokio::test]
    async fn only_the_authority_is_changed() {
        let (before, after) = (connection(b"tmp%2Fa%2Fx.sock"), connection(b"tmp-2Fa-2Fx.sock"));
        for piece in [1, 7, before.len()] {
            assert_eq!(passed_on(&before, piece).await, after, "in pieces of {piece}");
        }
        let usual = connection(b"localhost:8500");
        assert_eq!(passed_on(&usual, 1000).await, usual);
    }

    #[tokio::test]
    async fn anything_may_come() {
        let mut bytes = connection(b"a%2Fb");
        for index in 24..bytes.len() {
            bytes[index] ^= 0xff;
            passed_on(&bytes, 5).await;
            passed_on(&bytes[..index], 5).await;
            bytes[index] ^= 0xff;
        }
    }
}
