//! The gRPC edge: paths to handlers, messages to calls, statuses to trailers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use futures_util::StreamExt;
use futures_util::future::{FutureExt, Map};
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use prost_types::Any;
use servable_core::examples::Task;
use servable_core::predict::{Call, bind};
use servable_core::routes::Choice;
use servable_core::servable::{Answer, Servable};
use servable_core::signature::DEFAULT_SIGNATURE;
use servable_core::{Code, Status};
use servable_wire::messages::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use servable_wire::messages::tensorflow::serving::model_spec::VersionChoice;
use servable_wire::messages::tensorflow::serving::{
    GetModelMetadataRequest, GetModelMetadataResponse, GetModelStatusRequest, GetModelStatusResponse, ModelSpec,
    ModelVersionStatus, StatusProto,
};
use servable_wire::predict::{PredictView, PredictWriter};
use servable_wire::tensor::Form;
use tonic::codec::{BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};

use crate::app::{self, App, PREDICT};
use crate::body::{OneMessage, Share};
use crate::control;
use crate::health::Health;
use crate::inference;
use crate::metrics::Entry;

/// Longer messages are cut, as clients of TensorFlow Serving know it; trailers have to stay small.
const LONGEST_MESSAGE: usize = 1024;
const CUT: &str = "...TRUNCATED";

const SMALL_MESSAGE_BYTES: usize = 16 << 20;

const SIGNATURE_DEF: &str = "signature_def";
const SIGNATURE_MAP_URL: &str = "type.googleapis.com/tensorflow.serving.SignatureDefMap";

pub(crate) type GrpcResponse = Response<tonic::body::Body>;

/// Answers one call.
pub(crate) async fn handle(app: Arc<App>, request: Request<Incoming>) -> GrpcResponse {
    let deadline = request.headers().get("grpc-timeout").and_then(|value| deadline(value.as_bytes()));
    let path = request.uri().path();
    if let Some(method) = path.strip_prefix("/tensorflow.serving.PredictionService/") {
        return match method {
            "Predict" => unary(&app, request, |app, message| predict(app, message, deadline)).await,
            "GetModelMetadata" => {
                small_unary(&app, request, |app, message| async move { metadata(&app, &message) }).await
            }
            "Classify" => {
                unary(&app, request, |app, message| inference::run_task(app, message, Task::Classify, deadline)).await
            }
            "Regress" => {
                unary(&app, request, |app, message| inference::run_task(app, message, Task::Regress, deadline)).await
            }
            "MultiInference" => unary(&app, request, |app, message| inference::run_tasks(app, message, deadline)).await,
            _ => refused(format!("PredictionService has no method {method}")),
        };
    }
    match path {
        "/tensorflow.serving.ModelService/GetModelStatus" => {
            small_unary(&app, request, |app, message| async move { model_status(&app, &message) }).await
        }
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest" => small_unary(&app, request, reload).await,
        "/grpc.health.v1.Health/Check" if app.settings.health_service => {
            small_unary(&app, request, |app, message| async move { check_health(&app, &message) }).await
        }
        "/grpc.health.v1.Health/Watch" if app.settings.health_service => {
            grpc(&app).server_streaming(WatchHealth(Arc::clone(&app)), request).await
        }
        _ => refused(format!("{path} is not served here")),
    }
}

/// What a call that is one too many is answered.
pub(crate) fn overloaded() -> GrpcResponse {
    edge_status(&app::overloaded()).into_http()
}

/// What a call that panicked is answered; the connection and its other calls live on.
pub(crate) fn panicked() -> GrpcResponse {
    edge_status(&Status::internal("the handler of this request failed; the server's log says where")).into_http()
}

fn refused(message: String) -> GrpcResponse {
    edge_status(&Status::unimplemented(message)).into_http()
}

/// The status as gRPC has it.
pub(crate) fn edge_status(status: &Status) -> tonic::Status {
    let code = tonic::Code::from_i32(status.code as i32);
    let message = &status.message;
    if message.len() <= LONGEST_MESSAGE {
        return tonic::Status::new(code, message.as_ref());
    }
    let end = (0..=LONGEST_MESSAGE).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    tonic::Status::new(code, format!("{}{CUT}", &message[..end]))
}

/// When a call with this `grpc-timeout` has to be done: up to eight digits and a unit.
fn deadline(timeout: &[u8]) -> Option<Instant> {
    let (unit, digits) = timeout.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let timeout = match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

fn grpc(app: &App) -> Grpc<Frames> {
    Grpc::new(Frames)
        .max_decoding_message_size(app.settings.limits.max_message_bytes)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
}

/// A call whose message is as large as its tensors.
async fn unary<F, R>(app: &Arc<App>, request: Request<Incoming>, handler: F) -> GrpcResponse
where
    F: FnOnce(Arc<App>, Bytes) -> R + Send,
    R: Future<Output = Result<Reply, Status>> + Send,
{
    unary_up_to(app.settings.limits.max_message_bytes, app, request, handler).await
}

/// A call whose message holds names and numbers; decoded, they take many times the room.
async fn small_unary<F, R>(app: &Arc<App>, request: Request<Incoming>, handler: F) -> GrpcResponse
where
    F: FnOnce(Arc<App>, Bytes) -> R + Send,
    R: Future<Output = Result<Reply, Status>> + Send,
{
    unary_up_to(app.settings.limits.max_message_bytes.min(SMALL_MESSAGE_BYTES), app, request, handler).await
}

async fn unary_up_to<F, R>(most: usize, app: &Arc<App>, request: Request<Incoming>, handler: F) -> GrpcResponse
where
    F: FnOnce(Arc<App>, Bytes) -> R + Send,
    R: Future<Output = Result<Reply, Status>> + Send,
{
    // Held until the answer is there: what the handler works on is still the message.
    let share = Arc::new(Share::of(&app.budget));
    let request = request.map(|body| OneMessage::new(body, Arc::clone(&share), most));
    grpc(app).unary(Unary(Some((handler, Arc::clone(app)))), request).await
}

/// A handler of one call, in the shape that tonic wants.
struct Unary<F>(Option<(F, Arc<App>)>);

type Outcome = Result<tonic::Response<Reply>, tonic::Status>;

fn translate(outcome: Result<Reply, Status>) -> Outcome {
    outcome.map(tonic::Response::new).map_err(|status| edge_status(&status))
}

impl<F, R> UnaryService<Bytes> for Unary<F>
where
    F: FnOnce(Arc<App>, Bytes) -> R + Send,
    R: Future<Output = Result<Reply, Status>> + Send,
{
    type Response = Reply;
    type Future = Map<R, fn(Result<Reply, Status>) -> Outcome>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (handler, app) = self.0.take().expect("tonic calls a unary handler once: else this is a bug");
        handler(app, request.into_inner()).map(translate)
    }
}

/// What goes back: a message ready to send, or one that is written straight into the connection's buffer.
pub(crate) enum Reply {
    Message(Bytes),
    Predict(Answer, Form),
}

/// Messages pass as bytes: what they mean is for the handlers.
#[derive(Clone, Copy, Debug, Default)]
struct Frames;

impl Codec for Frames {
    type Encode = Reply;
    type Decode = Bytes;
    type Encoder = Frames;
    type Decoder = Frames;

    fn encoder(&mut self) -> Frames {
        Frames
    }

    fn decoder(&mut self) -> Frames {
        Frames
    }
}

impl Encoder for Frames {
    type Item = Reply;
    type Error = tonic::Status;

    fn encode(&mut self, reply: Reply, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        match reply {
            Reply::Message(message) => buffer.put(message),
            Reply::Predict(answer, form) => {
                let (servable, signature) = (answer.servable(), answer.signature());
                let writer =
                    PredictWriter::new(answer.outputs(), form, servable.name(), servable.version(), &signature.name);
                buffer.reserve(writer.len());
                writer.write(buffer);
            }
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // Most messages are small, and larger ones reserve what they need.
        BufferSettings::new(512, 32 * 1024)
    }
}

impl Decoder for Frames {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        use bytes::Buf;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(512, 32 * 1024)
    }
}

async fn predict(app: Arc<App>, message: Bytes, deadline: Option<Instant>) -> Result<Reply, Status> {
    const ENTRY: Entry = Entry { api: PREDICT, entrypoint: "GRPC" };
    let start = Instant::now();
    let (model, bound) = match PredictView::read(&message) {
        Ok(request) => {
            let model = request.spec.as_ref().map_or_else(String::new, |spec| spec.name.to_owned());
            (model, bind_predict(&app, request))
        }
        Err(malformed) => (String::new(), Err(malformed.into())),
    };
    let outcome = match bound {
        Ok((servable, call)) => app.run(servable, call, PREDICT, deadline).await,
        Err(status) => Err(status),
    };
    app.count(&model, ENTRY, outcome.as_ref().map(|_| ()), start.elapsed());
    let form = if app.settings.tensor_content { Form::Content } else { Form::Typed };
    outcome.map(|answer| Reply::Predict(answer, form))
}

fn bind_predict(app: &App, request: PredictView<'_>) -> Result<(Arc<Servable>, Call), Status> {
    request.check_names()?;
    let spec = request.spec.ok_or_else(missing_spec)?;
    let servable = app.routes.current().resolve(spec.name, &spec.choice)?;
    let signature = servable.signature(spec.signature_name).ok_or_else(|| {
        let name = if spec.signature_name.is_empty() { DEFAULT_SIGNATURE } else { spec.signature_name };
        Status::failed_precondition(format!("Serving signature key \"{name}\" not found."))
    })?;
    app.check_method_name(signature)?;
    let limits = &app.settings.limits;
    let call =
        bind(signature, request.inputs, &request.output_filter, |slot, view| view.to_tensor(&slot.name, limits))?;
    Ok((servable, call))
}

pub(crate) fn missing_spec() -> Status {
    Status::invalid_argument("Missing ModelSpec")
}

fn decode<M: Message + Default>(message: &Bytes) -> Result<M, Status> {
    M::decode(message.clone()).map_err(|_| servable_wire::fields::Malformed.into())
}

fn metadata(app: &App, message: &Bytes) -> Result<Reply, Status> {
    let request: GetModelMetadataRequest = decode(message)?;
    let spec = request.model_spec.ok_or_else(missing_spec)?;
    if request.metadata_field.is_empty() {
        return Err(Status::invalid_argument("GetModelMetadataRequest must specify at least one metadata_field"));
    }
    if let Some(field) = request.metadata_field.iter().find(|field| *field != SIGNATURE_DEF) {
        return Err(Status::invalid_argument(format!("Metadata field {field} is not supported")));
    }
    let choice = match spec.version_choice {
        None => Choice::Latest,
        Some(VersionChoice::Version(version)) => Choice::Version(version),
        Some(VersionChoice::VersionLabel(label)) => Choice::Label(label),
    };
    let servable = app.routes.current().resolve(&spec.name, &choice)?;
    let signatures =
        Any { type_url: SIGNATURE_MAP_URL.to_owned(), value: servable.description().signature_map.to_vec() };
    let response = GetModelMetadataResponse {
        model_spec: Some(ModelSpec {
            name: spec.name,
            version_choice: Some(VersionChoice::Version(servable.version())),
            ..ModelSpec::default()
        }),
        metadata: [(SIGNATURE_DEF.to_owned(), signatures)].into(),
    };
    Ok(Reply::Message(response.encode_to_vec().into()))
}

fn model_status(app: &App, message: &Bytes) -> Result<Reply, Status> {
    let request: GetModelStatusRequest = decode(message)?;
    let spec = request.model_spec.ok_or_else(missing_spec)?;
    let version = match spec.version_choice {
        Some(VersionChoice::Version(version)) => Some(version),
        _ => None, // a label is no filter here
    };
    let routes = app.routes.current();
    let versions = routes.status(&spec.name, version)?;
    let model_version_status = versions
        .into_iter()
        .map(|(version, status)| ModelVersionStatus {
            version,
            state: status.state as i32,
            status: Some(StatusProto {
                error_code: status.error.as_ref().map_or(0, |error| error.code as i32),
                error_message: status.error.as_ref().map_or_else(String::new, |error| error.message.to_string()),
            }),
        })
        .collect();
    Ok(Reply::Message(GetModelStatusResponse { model_version_status }.encode_to_vec().into()))
}

async fn reload(app: Arc<App>, message: Bytes) -> Result<Reply, Status> {
    control::ask(&app, "HandleReloadConfigRequest", message).await.map(Reply::Message)
}

fn check_health(app: &App, message: &Bytes) -> Result<Reply, Status> {
    let request: HealthCheckRequest = decode(message)?;
    if !Health::knows(&request.service) {
        return Err(Status::new(Code::NotFound, format!("service {:?} is unknown", request.service)));
    }
    Ok(health_answer(app.health.is_ready()))
}

fn health_answer(ready: bool) -> Reply {
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;
    health_message(if ready { SERVING } else { NOT_SERVING })
}

fn health_message(status: i32) -> Reply {
    Reply::Message(HealthCheckResponse { status }.encode_to_vec().into())
}

/// Tells the health at once and again whenever it changes.
struct WatchHealth(Arc<App>);

type HealthStream = futures_util::stream::BoxStream<'static, Result<Reply, tonic::Status>>;

impl ServerStreamingService<Bytes> for WatchHealth {
    type Response = Reply;
    type ResponseStream = HealthStream;
    type Future = std::future::Ready<Result<tonic::Response<HealthStream>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        const SERVICE_UNKNOWN: i32 = 3;
        let answer =
            || {
                let request: HealthCheckRequest = decode(request.get_ref())?;
                let known = Health::knows(&request.service);
                let stream: HealthStream =
                    Box::pin(self.0.health.changes().map(move |ready| {
                        Ok(if known { health_answer(ready) } else { health_message(SERVICE_UNKNOWN) })
                    }));
                Ok(tonic::Response::new(stream))
            };
        std::future::ready(answer().map_err(|status: Status| edge_status(&status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        for good in ["1H", "10M", "99999999S", "400m", "5u", "7n"] {
            assert!(deadline(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", "S", "1", "123456789m", "-1m", "1x", "1.5S"] {
            assert!(deadline(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn long_messages_are_cut() {
        let cut = |message: String| edge_status(&Status::internal(message)).message().to_owned();
        assert_eq!(cut("a".repeat(1024)).len(), 1024);
        assert_eq!(cut("a".repeat(1025)), format!("{}{CUT}", "a".repeat(1024)));
        assert_eq!(cut("é".repeat(600)).len(), 1024 + CUT.len());
        assert_eq!(cut(format!("a{}", "é".repeat(600))).len(), 1023 + CUT.len());
    }
}
