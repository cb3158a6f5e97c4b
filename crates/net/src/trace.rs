//! Traces of requests for OpenTelemetry: a span for each, with the parts of its time, sent to a collector by threads of
//! their own. A collector that is slow, gone or mad costs spans, never requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status as SpanStatus, TraceContextExt, TraceState,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, SpanExporter,
    WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use servable_core::progress::Mark;
use servable_core::usage::{Entrypoint, STAGES};
use servable_core::{Code, Status};
use tokio::runtime::{Handle, Runtime};

use crate::edge::cut;
use crate::exchange::Exchange;

const SERVICE: &str = "servable";
/// How long the last spans may take at the end.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// A longer attribute is cut, for thousands of spans wait for a collector that is slow.
const LONGEST_ATTRIBUTE: usize = 1 << 10;
/// A longer one is left out, as the specification allows. It goes with each part of a request.
const LONGEST_TRACE_STATE: usize = 512;
/// More of a collector's answer is not read.
const LONGEST_ANSWER: usize = 1 << 20;

/// How spans reach the collector. Where it is, what is sampled and how much waits is said by the standard variables of the
/// environment (`OTEL_EXPORTER_OTLP_…`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`, `OTEL_RESOURCE_ATTRIBUTES`), which
/// OpenTelemetry's library reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceProtocol {
    Grpc,
    HttpProtobuf,
}

/// Makes spans of requests that are done with.
pub(crate) struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    counts: Arc<SpanCounts>,
    /// The collector's connections live on it.
    runtime: Option<Runtime>,
}

/// Spans by what became of them. Those that were made and neither sent nor refused wait, or were too many to wait.
#[derive(Debug, Default)]
pub(crate) struct SpanCounts {
    pub(crate) made: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Tracing {
    /// `INVALID_ARGUMENT` for an endpoint that makes no sense. Nothing is sent yet.
    pub(crate) fn start(protocol: TraceProtocol) -> Result<Self, Status> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("servable-trace")
            .enable_all()
            .build()
            .map_err(|error| Status::internal(format!("the thread for traces cannot be started: {error}")))?;
        let timeout = export_timeout(|name| std::env::var(name).ok());
        let exporter = {
            let _inside = runtime.enter();
            match protocol {
                TraceProtocol::Grpc => SpanExporter::builder().with_tonic().with_timeout(timeout).build(),
                TraceProtocol::HttpProtobuf => SpanExporter::builder()
                    .with_http()
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_http_client(Poster::new(runtime.handle().clone(), timeout))
                    .build(),
            }
        };
        let refused = |error| Status::invalid_argument(format!("traces cannot be exported as configured: {error}"));
        let counts = Arc::<SpanCounts>::default();
        let exporter = Counted { exporter: exporter.map_err(refused)?, counts: Arc::clone(&counts) };
        // A name in the environment goes before this one.
        let resource = Resource::builder();
        let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some()
            || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|text| text.contains("service.name="));
        let resource = if is_named { resource } else { resource.with_service_name(SERVICE) };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let tracer = provider.tracer(SERVICE);
        Ok(Self { provider, tracer, propagator: TraceContextPropagator::new(), counts, runtime: Some(runtime) })
    }

    /// What the headers of a request say of the trace that it belongs to.
    pub(crate) fn context(&self, headers: &HeaderMap) -> Context {
        let context = self.propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let parent = context.span().span_context().clone();
        if parent.trace_state().header().len() <= LONGEST_TRACE_STATE {
            return context;
        }
        let (trace, span, flags) = (parent.trace_id(), parent.span_id(), parent.trace_flags());
        context.with_remote_span_context(SpanContext::new(trace, span, flags, true, TraceState::NONE))
    }

    pub(crate) fn counts(&self) -> &SpanCounts {
        &self.counts
    }

    /// Makes the spans of a request, and tells it the id of its trace.
    pub(crate) fn note(&self, exchange: &Exchange) {
        let none = Context::new();
        let parent = exchange.trace_context().unwrap_or(&none);
        let end = SystemTime::now();
        let start = end.checked_sub(exchange.progress.begin().elapsed()).unwrap_or(end);
        let builder = SpanBuilder::from_name(name(exchange))
            .with_kind(SpanKind::Server)
            .with_start_time(start)
            .with_attributes(attributes(exchange));
        let mut span = builder.start_with_context(&self.tracer, parent);
        exchange.belongs_to(span.span_context().trace_id().to_string());
        if !span.span_context().is_sampled() {
            return;
        }
        if exchange.code() != Code::Ok {
            span.set_status(SpanStatus::error(exchange.code().name()));
        }
        let within = Context::new().with_remote_span_context(span.span_context().clone());
        let mut made = 1;
        for (stage, from, to) in STAGES {
            let (Some(began), Some(ended)) = (exchange.progress.at(from), exchange.progress.at(to)) else { continue };
            let mut attributes = Vec::new();
            if to == Mark::Ran
                && let Some(batch) = exchange.progress.batch()
            {
                attributes = vec![
                    KeyValue::new("servable.batch.requests", batch.requests as i64),
                    KeyValue::new("servable.batch.rows", batch.rows as i64),
                    KeyValue::new("servable.batch.padded_rows", batch.padded_rows as i64),
                    KeyValue::new("servable.batch.reason", batch.reason.name()),
                ];
            }
            let builder = SpanBuilder::from_name(stage).with_start_time(start + began).with_attributes(attributes);
            builder.start_with_context(&self.tracer, &within).end_with_timestamp(start + ended.max(began));
            made += 1;
        }
        span.end_with_timestamp(end);
        self.counts.made.fetch_add(made, Ordering::Relaxed);
    }

    /// Sends what waits, as far as that takes no longer than a moment.
    pub(crate) fn close(&self) {
        // Spans that are lost with a collector that does not listen are what has to be expected.
        let _ = self.provider.shutdown_with_timeout(LAST_SPANS);
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How long a collector may take. The library reads these variables as well, but not for a client of ours.
fn export_timeout(variable: impl Fn(&str) -> Option<String>) -> Duration {
    let milliseconds = |name| variable(name)?.trim().parse().ok();
    let given = milliseconds(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT).or_else(|| milliseconds(OTEL_EXPORTER_OTLP_TIMEOUT));
    given.map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis)
}

/// What a request is called: few names, whatever clients send.
fn name(exchange: &Exchange) -> String {
    match (exchange.entrypoint, exchange.api()) {
        (Entrypoint::Grpc, Some(_)) => exchange.target.trim_start_matches('/').to_owned(),
        (Entrypoint::Grpc, None) => "gRPC".to_owned(),
        (Entrypoint::Rest, Some(api)) => format!("{} /v1/models/{{model}}:{}", exchange.method, api.verb()),
        (Entrypoint::Rest, None) => known_method(&exchange.method).unwrap_or("HTTP").to_owned(),
    }
}

/// A method that HTTP has; `None` for one that a client has made up.
fn known_method(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::POST,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::TRACE,
        Method::CONNECT,
    ];
    known.contains(method).then(|| method.as_str())
}

/// What a client says, as an attribute.
fn said(name: &'static str, text: &str) -> KeyValue {
    KeyValue::new(name, cut(text, LONGEST_ATTRIBUTE).into_owned())
}

fn attributes(exchange: &Exchange) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(10);
    match exchange.entrypoint {
        Entrypoint::Grpc => {
            attributes.push(KeyValue::new("rpc.system", "grpc"));
            if let Some((service, method)) = exchange.target.trim_start_matches('/').rsplit_once('/') {
                attributes.push(said("rpc.service", service));
                attributes.push(said("rpc.method", method));
            }
            attributes.push(KeyValue::new("rpc.grpc.status_code", i64::from(exchange.code() as i32)));
        }
        Entrypoint::Rest => {
            let method = known_method(&exchange.method).unwrap_or("_OTHER");
            attributes.push(KeyValue::new("http.request.method", method.to_owned()));
            attributes.push(said("url.path", &exchange.target));
            if let Some(status) = exchange.http_status() {
                attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            }
        }
    }
    if let Some(remote) = exchange.connection.remote {
        attributes.push(KeyValue::new("client.address", remote.to_string()));
    }
    if !exchange.model().is_empty() {
        attributes.push(said("servable.model", exchange.model()));
    }
    if let Some(servable) = exchange.servable() {
        attributes.push(KeyValue::new("servable.version", servable.version()));
        if let Some(signature) = exchange.signature().and_then(|index| servable.signatures().nth(index)) {
            attributes.push(KeyValue::new("servable.signature", signature.name.clone()));
        }
    }
    attributes
}

/// An exporter whose spans are counted.
#[derive(Debug)]
struct Counted {
    exporter: SpanExporter,
    counts: Arc<SpanCounts>,
}

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let outcome = self.exporter.export(batch).await;
        let counter = if outcome.is_ok() { &self.counts.sent } else { &self.counts.failed };
        counter.fetch_add(count, Ordering::Relaxed);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// HTTP for the exporter, whose thread has no runtime of its own.
#[derive(Debug)]
struct Poster {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
}

impl Poster {
    fn new(runtime: Handle, timeout: Duration) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), runtime, timeout }
    }
}

#[async_trait::async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let timeout = self.timeout;
        self.runtime.spawn(async move { tokio::time::timeout(timeout, exchange).await? }).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_an_export_is_the_environments() {
        let timeout = |traces: &str, all: &str| {
            let variables = [("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", traces), ("OTEL_EXPORTER_OTLP_TIMEOUT", all)];
            let variable = |name: &str| variables.iter().find(|known| known.0 == name).map(|known| known.1.to_owned());
            export_timeout(variable).as_millis()
        };
        let cases = [("", "", 10_000), ("", "200", 200), ("300", "200", 300), ("x", "200", 200), ("", "-1", 10_000)];
        for (traces, all, expected) in cases {
            assert_eq!(timeout(traces, all), expected, "{traces} {all}");
        }
    }
}
