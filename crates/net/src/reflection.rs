//! Server reflection: clients that know nothing ask which services there are, and how their messages look.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use http::Request;
use http_body_util::{BodyStream, StreamBody};
use hyper::body::Incoming;
use servable_core::Status;
use servable_wire::reflect::DESCRIPTORS;
use tonic::codegen::Service;
use tonic_reflection::server::{Builder, Error};

use crate::app::App;
use crate::framing::GrpcResponse;

type Answer = Pin<Box<dyn Future<Output = GrpcResponse> + Send>>;
type Service1 = Box<dyn Fn(Request<tonic::body::Body>) -> Answer + Send + Sync>;

/// Both versions of the protocol: most clients still speak the older one.
pub(crate) struct Reflection {
    v1: Service1,
    v1alpha: Service1,
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
        Ok(Self { v1: callable(v1), v1alpha: callable(v1alpha) })
    }

    /// Answers a stream of questions. It ends with the drain, which it must not hold up.
    pub(crate) async fn answer(app: Arc<App>, is_v1: bool, request: Request<Incoming>) -> GrpcResponse {
        let drained = {
            let app = Arc::clone(&app);
            async move { app.health.drained().await }
        };
        let request = request.map(|body| {
            let frames = BodyStream::new(body).take_until(Box::pin(drained));
            tonic::body::Body::new(StreamBody::new(frames))
        });
        let service = if is_v1 { &app.reflection.v1 } else { &app.reflection.v1alpha };
        service(request).await
    }
}

fn callable<S>(service: S) -> Service1
where
    S: Service<Request<tonic::body::Body>, Response = GrpcResponse, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move { service.call(request).await.unwrap_or_else(|never| match never {}) })
    })
}
