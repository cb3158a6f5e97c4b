//! gRPC's framing: the one message of a call in, messages and a status out.
//!
//! A message stays in the frames that brought it, so that its tensors are the first and only copy of their values.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::{Stream, StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message;
use servable_core::servable::timed_out;
use servable_core::{Code, Status};
use servable_wire::span::{Pieces, Span};

use crate::app::{App, INFLATION, Waiting};
use crate::body::{Arrived, Patience, Share};
use crate::coding::{COMPRESSING, InflateError, WORTH_COMPRESSING, accepts_gzip, gzip, inflate};
use crate::edge::edge_status;

/// A message is preceded by a byte about its compression and four of length.
const PREFIX_BYTES: usize = 5;
const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;
/// Smaller frames are joined: each one that is kept also keeps the buffer that it was read into.
const SMALL_FRAME: usize = 8 << 10;
/// Room for joined frames.
const JOINED_BYTES: usize = 64 << 10;
/// Codings that requests may have.
const CODINGS: &str = "gzip,deflate,identity";

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

pub(crate) type GrpcResponse = Response<tonic::body::Body>;

#[derive(Clone, Copy)]
enum Coding {
    Gzip,
    Deflate,
}

/// The message of a call, of at most so many bytes.
pub(crate) async fn read_message(
    app: &App,
    waiting: Waiting,
    request: Request<Incoming>,
    share: &Arc<Share>,
    most: usize,
    deadline: Option<Instant>,
) -> Result<Arc<Pieces>, tonic::Status> {
    let coding = coding(request.headers())?;
    let reading = app.arriving(waiting, async {
        let (mut message, mut patience) = (Incomplete::new(share, most), Patience::default());
        let mut body = request.into_body();
        while let Some(data) = patience.wait(message.arrived.bytes(), next_data(&mut body)).await?? {
            message.push(data)?;
        }
        message.whole(coding)
    });
    let read = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), reading).await.unwrap_or_else(|_| Err(timed_out())),
        None => reading.await,
    };
    let outcome = match read {
        Ok((pieces, None)) => Ok(pieces),
        Ok((pieces, Some(coding))) => {
            let (length, share) = (pieces.len(), Arc::clone(share));
            let inflated =
                app.work(length * INFLATION, deadline, move || decompressed(pieces, coding, &share, most)).await;
            inflated.and_then(|inflated| inflated)
        }
        Err(status) => Err(status),
    };
    outcome.map(Arc::new).map_err(|status| edge_status(&status))
}

/// What `grpc-encoding` says, as far as it is understood here.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, tonic::Status> {
    let Some(name) = headers.get(GRPC_ENCODING) else { return Ok(None) };
    match name.as_bytes() {
        b"identity" => Ok(None),
        b"gzip" => Ok(Some(Coding::Gzip)),
        b"deflate" => Ok(Some(Coding::Deflate)),
        _ => {
            let text = format!("messages in the encoding {name:?} are not understood here; {CODINGS} are");
            let mut status = edge_status(&Status::unimplemented(text));
            let codings = tonic::metadata::MetadataValue::from_static(CODINGS);
            status.metadata_mut().insert("grpc-accept-encoding", codings);
            Err(status)
        }
    }
}

/// The next piece of a body.
async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Status> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(failure)) => {
                return Err(Status::new(Code::Cancelled, format!("the request message broke off: {failure}")));
            }
        }
    }
}

/// A message on its way in.
struct Incomplete<'a> {
    most: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_seen: usize,
    announced: usize,
    arrived: Arrived<'a>,
    pieces: Pieces,
    /// Small frames, to be joined.
    joined: BytesMut,
}

impl<'a> Incomplete<'a> {
    fn new(share: &'a Share, most: usize) -> Self {
        Self {
            most,
            prefix: [0; PREFIX_BYTES],
            prefix_seen: 0,
            announced: 0,
            arrived: Arrived::new(share),
            pieces: Pieces::default(),
            joined: BytesMut::new(),
        }
    }

    fn push(&mut self, mut data: Bytes) -> Result<(), Status> {
        if self.prefix_seen < PREFIX_BYTES {
            let missing = (PREFIX_BYTES - self.prefix_seen).min(data.len());
            data.split_to(missing).copy_to_slice(&mut self.prefix[self.prefix_seen..][..missing]);
            self.prefix_seen += missing;
            if self.prefix_seen < PREFIX_BYTES {
                return Ok(());
            }
            let [_, length @ ..] = self.prefix;
            self.announced = u32::from_be_bytes(length) as usize;
            if self.announced > self.most {
                return Err(Status::resource_exhausted(format!(
                    "the request message of {} bytes is larger than {}, the most that this server takes (max_message_bytes)",
                    self.announced, self.most
                )));
            }
        }
        if self.arrived.bytes() + data.len() > self.announced {
            return Err(Status::invalid_argument("a call of this method has one message"));
        }
        self.arrived.add(data.len(), self.announced)?;
        if data.len() >= SMALL_FRAME || data.len() == self.announced {
            self.keep_joined();
            self.pieces.push(data);
        } else {
            self.joined.extend_from_slice(&data);
            if self.joined.len() >= JOINED_BYTES {
                self.keep_joined();
            }
        }
        Ok(())
    }

    fn keep_joined(&mut self) {
        self.pieces.push(self.joined.split().freeze());
    }

    /// The message, and how it is compressed if it is.
    fn whole(mut self, coding: Option<Coding>) -> Result<(Pieces, Option<Coding>), Status> {
        let arrived = self.arrived.bytes();
        if self.prefix_seen < PREFIX_BYTES {
            return Err(Status::internal("the request ended before its message"));
        }
        if arrived < self.announced {
            return Err(Status::internal(format!(
                "the request ended after {arrived} of {} bytes of its message",
                self.announced
            )));
        }
        self.keep_joined();
        match (self.prefix[0], coding) {
            (PLAIN, _) => Ok((self.pieces, None)),
            (COMPRESSED, Some(coding)) => Ok((self.pieces, Some(coding))),
            (COMPRESSED, None) => {
                Err(Status::internal("the message is marked as compressed, but grpc-encoding does not say how"))
            }
            (flag, _) => Err(Status::internal(format!("the message begins with {flag}; 0 or 1 would be right"))),
        }
    }
}

fn decompressed(pieces: Pieces, coding: Coding, share: &Share, most: usize) -> Result<Pieces, Status> {
    let (length, pieces) = (pieces.len(), Arc::new(pieces));
    let compressed = Span::of(&pieces).reader();
    let plain = match coding {
        Coding::Gzip => inflate(MultiGzDecoder::new(compressed), length, most, share),
        Coding::Deflate => inflate(ZlibDecoder::new(compressed), length, most, share),
    };
    plain.map(Pieces::from).map_err(|failure| match failure {
        InflateError::Broken => Status::internal("the compressed request message cannot be decompressed"),
        InflateError::TooLarge => Status::resource_exhausted(format!(
            "the request message, decompressed, is larger than {most} bytes, the most that this server takes \
             (max_message_bytes)"
        )),
        InflateError::NoRoom(status) => status,
    })
}

/// A message of so many bytes with its prefix, written straight into its frame. `RESOURCE_EXHAUSTED` if its length cannot
/// be announced.
pub(crate) fn framed(length: usize, write: impl FnOnce(&mut BytesMut)) -> Result<Bytes, Status> {
    framed_as(PLAIN, length, write)
}

fn framed_as(flag: u8, length: usize, write: impl FnOnce(&mut BytesMut)) -> Result<Bytes, Status> {
    let announced = u32::try_from(length).map_err(|_| {
        Status::resource_exhausted(format!("the answer has {length} bytes; gRPC has messages of less than 4 GiB"))
    })?;
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(flag);
    buffer.put_u32(announced);
    write(&mut buffer);
    Ok(buffer.freeze())
}

pub(crate) fn framed_message(message: &impl Message) -> Result<Bytes, Status> {
    framed(message.encoded_len(), |buffer| message.encode_raw(buffer))
}

/// Whether the answer to a request may be compressed: this server has to be willing, and the client able.
pub(crate) fn may_compress(app: &App, headers: &HeaderMap) -> bool {
    app.settings.compress_answers && accepts_gzip(headers, &GRPC_ACCEPT_ENCODING)
}

/// A framed message, compressed.
pub(crate) async fn compressed(app: &App, share: &Share, message: Bytes) -> Result<Bytes, Status> {
    let length = message.len();
    if length < WORTH_COMPRESSING {
        return Ok(message);
    }
    share.hold(2 * length)?;
    let compress = move || {
        let packed = gzip(&message[PREFIX_BYTES..]);
        framed_as(COMPRESSED, packed.len(), |buffer| buffer.extend_from_slice(&packed))
    };
    app.work(length * COMPRESSING, None, compress).await?
}

/// The answer to a call: one message, or why there is none.
pub(crate) fn answered(outcome: Result<Bytes, tonic::Status>) -> GrpcResponse {
    match outcome {
        Ok(message) => {
            let is_compressed = message.first() == Some(&COMPRESSED);
            let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(all_is_well()))));
            let mut response = headed(tonic::body::Body::new(body));
            if is_compressed {
                response.headers_mut().insert(GRPC_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
        Err(status) => status.into_http(),
    }
}

/// The answer to a call that is told something again and again, until it has enough of it.
pub(crate) fn streamed(messages: impl Stream<Item = Bytes> + Send + 'static) -> GrpcResponse {
    let end = stream::once(std::future::ready(Frame::trailers(all_is_well())));
    let frames = messages.map(Frame::data).chain(end).map(Ok::<_, tonic::Status>);
    headed(tonic::body::Body::new(StreamBody::new(frames)))
}

/// The trailers of a call that went well.
fn all_is_well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

fn headed(body: tonic::body::Body) -> GrpcResponse {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;
    use crate::body::Budget;

    fn read(frames: &[&[u8]], coding: Option<Coding>, most: usize) -> Result<Bytes, Status> {
        let share = Share::of(&Budget::new(1 << 20));
        let mut message = Incomplete::new(&share, most);
        for frame in frames {
            message.push(Bytes::copy_from_slice(frame))?;
        }
        let pieces = match message.whole(coding)? {
            (pieces, None) => pieces,
            (pieces, Some(coding)) => decompressed(pieces, coding, &share, most)?,
        };
        Ok(pieces.to_bytes())
    }

    #[test]
    fn a_message_may_come_in_any_pieces() {
        let whole = b"\0\0\0\0\x03abc";
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let frames = [&whole[..first], &whole[first..second], &whole[second..]];
                assert_eq!(read(&frames, None, 3).expect("well formed"), &b"abc"[..]);
            }
        }
        let large = vec![7_u8; 3 * SMALL_FRAME];
        let prefix = [&[0][..], &(large.len() as u32).to_be_bytes()].concat();
        let (small, rest) = large.split_at(10);
        let frames = [&prefix, small, &rest[..SMALL_FRAME], &rest[SMALL_FRAME..]];
        assert_eq!(read(&frames, None, 1 << 20).expect("well formed"), large);
        assert_eq!(read(&[b"\0\0\0\0\0"], None, 0).expect("an empty message"), &b""[..]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let code = |frames: &[&[u8]], most: usize| read(frames, None, most).expect_err("no message").code;
        assert_eq!(code(&[], 9), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0"], 9), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0\x03ab"], 9), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0\x03abcd"], 9), Code::InvalidArgument);
        assert_eq!(code(&[b"\0\0\0\0\x03abc", b"\0\0\0\0\0"], 9), Code::InvalidArgument);
        assert_eq!(code(&[b"\0\0\0\0\x0a"], 9), Code::ResourceExhausted);
        assert_eq!(code(&[b"\0\xff\xff\xff\xff"], 9), Code::ResourceExhausted);
        assert_eq!(code(&[b"\x01\0\0\0\0"], 9), Code::Internal);
        assert_eq!(code(&[b"\x02\0\0\0\0"], 9), Code::Internal);
        let prefix = [&[0][..], &(2_u32 << 20).to_be_bytes()].concat();
        assert_eq!(code(&[&prefix], 1 << 30), Code::Internal, "it is only announced");
        assert_eq!(code(&[&prefix, &vec![0; 3 << 19]], 1 << 30), Code::ResourceExhausted, "beyond the budget");
    }

    #[test]
    fn messages_are_decompressed_within_the_limit() {
        let framed = |data: &[u8]| [&[1][..], &(data.len() as u32).to_be_bytes(), data].concat();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&[7; 1000]).expect("memory takes it");
        let gzip = framed(&gzip.finish().expect("memory takes it"));
        let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
        deflate.write_all(&[7; 1000]).expect("memory takes it");
        let deflate = framed(&deflate.finish().expect("memory takes it"));
        assert_eq!(read(&[&gzip], Some(Coding::Gzip), 1000).expect("well formed"), vec![7; 1000]);
        assert_eq!(read(&[&deflate], Some(Coding::Deflate), 1000).expect("well formed"), vec![7; 1000]);
        let code = |data: &[u8], coding, most| read(&[data], Some(coding), most).expect_err("refused").code;
        assert_eq!(code(&gzip, Coding::Gzip, 999), Code::ResourceExhausted);
        assert_eq!(code(&gzip, Coding::Deflate, 1000), Code::Internal);
        assert_eq!(code(&framed(b"no gzip"), Coding::Gzip, 1000), Code::Internal);
    }
}
