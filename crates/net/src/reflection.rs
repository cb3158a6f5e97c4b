//! Server reflection: clients that know nothing ask which services there are, and how their messages look.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use servable_core::Status;
use servable_wire::reflect::DESCRIPTORS;
use tonic::codegen::Service;
use tonic_reflection::server::{Builder, Error};

use crate::app::{App, Crowd};
use crate::edge::edge_status;
use crate::framing::{GrpcResponse, answered};

/// A question is a name.
const LONGEST_QUESTION: usize = 16 << 10;
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

/// Answers a stream of questions. It ends when none comes for long, and with the drain, which it must not hold up.
pub(crate) async fn answer(
    app: &Arc<App>,
    crowd: Crowd,
    reflection: &Reflection,
    version: Version,
    request: Request<Incoming>,
) -> GrpcResponse {
    let listening = match app.listening(crowd) {
        Ok(listening) => listening,
        Err(status) => return answered(Err(edge_status(&status))),
    };
    let drained = {
        let app = Arc::clone(app);
        Box::pin(async move { app.health.drained().await })
    };
    let request = request.map(|body| {
        let frames = stream::unfold((body, listening), |(mut body, listening)| async {
            let frame = tokio::time::timeout(QUESTION_TIMEOUT, body.frame()).await.ok()??;
            Some((frame, (body, listening)))
        });
        tonic::body::Body::new(StreamBody::new(Box::pin(frames.take_until(drained))))
    });
    let handler = match version {
        Version::V1 => &reflection.v1,
        Version::V1Alpha => &reflection.v1alpha,
    };
    handler(request).await
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
