//! Server reflection: clients that know nothing ask which services there are, and how their messages look.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{FutureExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use servable_core::Status;
use servable_wire::reflect::DESCRIPTORS;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tonic::codegen::Service;
use tonic_reflection::server::{Builder, Error};

use crate::app::{App, Crowd, Waiting};
use crate::edge::edge_status;
use crate::framing::{GrpcResponse, answered};

/// A question is a name.
const LONGEST_QUESTION: usize = 16 << 10;
/// Bytes of questions that may wait because the answers to earlier ones are not taken.
const MOST_WAITING: usize = 64 << 10;
const USUAL_QUESTION: usize = 512;
/// How long a client may take for its next question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);

type Answer = Pin<Box<dyn Future<Output = GrpcResponse> + Send>>;
type Handler = Box<dyn Fn(Request<tonic::body::Body>) -> Answer + Send + Sync>;

/// Versions of the protocol: most clients still speak the older one.
#[derive(Clone, Copy)]
pub(crate) enum Version {
    V1,
    V1Alpha,
}

/// What answers, for each version.
pub(crate) struct Reflection {
    v1: Handler,
    v1alpha: Handler,
}

impl Reflection {
    /// Tells of these services, and of itself.
    pub(crate) fn new(services: &[&str]) -> Result<Self, Status> {
        let failed = |error: Error| Status::internal(format!("reflection cannot be set up: {error}"));
        let builder = |own: &str| {
            let builder = Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
            services.iter().chain([&own]).fold(builder, |builder, service| builder.with_service_name(*service))
        };
        let v1 = builder("grpc.reflection.v1.ServerReflection").build_v1().map_err(failed)?;
        let v1alpha = builder("grpc.reflection.v1alpha.ServerReflection").build_v1alpha().map_err(failed)?;
        Ok(Self {
            v1: handler(v1.max_decoding_message_size(LONGEST_QUESTION)),
            v1alpha: handler(v1alpha.max_decoding_message_size(LONGEST_QUESTION)),
        })
    }
}

/// Answers a stream of questions. It ends when none comes for long, when too many wait, and with the drain, which it must
/// not hold up.
pub(crate) async fn answer(
    app: &Arc<App>,
    crowd: Crowd,
    reflection: &Reflection,
    version: Version,
    request: Request<Incoming>,
) -> GrpcResponse {
    let listening = match app.waits(Waiting::Questions(crowd)) {
        Ok(listening) => listening,
        Err(status) => return answered(Err(edge_status(&status))),
    };
    let request = request.map(|body| {
        let (asked, waiting) = tokio::io::duplex(MOST_WAITING);
        tokio::spawn(read_questions(Arc::clone(app), body, asked));
        let frames = stream::unfold((waiting, listening), |(mut waiting, listening)| async {
            let mut data = BytesMut::with_capacity(USUAL_QUESTION);
            let count = waiting.read_buf(&mut data).await.ok()?;
            (count > 0).then(|| (Ok::<_, Infallible>(Frame::data(data.freeze())), (waiting, listening)))
        });
        tonic::body::Body::new(StreamBody::new(Box::pin(frames)))
    });
    let handler = match version {
        Version::V1 => &reflection.v1,
        Version::V1Alpha => &reflection.v1alpha,
    };
    handler(request).await
}

/// Reads questions as they come. Left where they are until they can be answered, they would fill the windows of their
/// connection, which are made for tensors.
async fn read_questions(app: Arc<App>, mut body: Incoming, mut asked: DuplexStream) {
    let mut drained = pin!(app.health.drained());
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(QUESTION_TIMEOUT, body.frame()) => frame,
            () = &mut drained => return,
            _ = asked.read_u8() => return, // nobody is left who answers
        };
        let Ok(Some(Ok(frame))) = frame else { return };
        let Ok(data) = frame.into_data() else { continue };
        // What does not fit at once does not fit.
        if !matches!(asked.write(&data).now_or_never(), Some(Ok(written)) if written == data.len()) {
            return;
        }
    }
}

fn handler<S>(service: S) -> Handler
where
    S: Service<Request<tonic::body::Body>, Response = GrpcResponse, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move { service.call(request).await.unwrap_or_else(|never| match never {}) })
    })
}
