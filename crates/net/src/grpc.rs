//! The gRPC edge: paths to handlers, messages to calls.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use prost::Message;
use prost_types::Any;
use servable_core::examples::Task;
use servable_core::predict::{Call, bind};
use servable_core::routes::Choice;
use servable_core::servable::{Answer, Caller, Servable, Terms};
use servable_core::signature::DEFAULT_SIGNATURE;
use servable_core::usage::{Api, Entrypoint};
use servable_core::{Code, Signature, Slot, Status};
use servable_wire::fields::Malformed;
use servable_wire::messages::tensorflow::serving::model_spec::VersionChoice;
use servable_wire::messages::tensorflow::serving::{
    GetModelMetadataRequest, GetModelMetadataResponse, GetModelStatusRequest, GetModelStatusResponse, ModelSpec,
    ModelVersionStatus, StatusProto,
};
use servable_wire::predict::{PredictView, PredictWriter, Reply};
use servable_wire::span::{Pieces, Span};
use servable_wire::tensor::{Form, TensorView};

use crate::access::Right;
use crate::app::{App, COPYING, Settings, Waiting};
use crate::body::Share;
use crate::control;
use crate::edge::{deadline, edge_status, priority};
use crate::exchange::{Connection, Exchange, Observed};
use crate::framing::{GrpcResponse, answered, compressed, framed, framed_message, may_compress, read_message};
use crate::health::Door;
use crate::inference;
use crate::probe;
use crate::reflection::{self, Version};
use crate::session;

const SMALL_MESSAGE_BYTES: usize = 16 << 20;

const PROFILER: &str = "/tensorflow.ProfilerService/";

const SIGNATURE_DEF: &str = "signature_def";
const SIGNATURE_MAP_URL: &str = "type.googleapis.com/tensorflow.serving.SignatureDefMap";

/// A call whose message has not been read.
pub(crate) struct Opened {
    request: Request<Incoming>,
    deadline: Option<Instant>,
    exchange: Arc<Exchange>,
}

impl Opened {
    pub(crate) fn new(connection: Arc<Connection>, share: Arc<Share>, request: Request<Incoming>) -> Self {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let exchange = Arc::new(Exchange::new(connection, share, Entrypoint::Grpc, method, path));
        Self { deadline: deadline(request.headers()), request, exchange }
    }

    /// The call, and what is known of it, which outlives it.
    pub(crate) fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// Whether whoever sends it may do such a thing at all.
    pub(crate) fn admit(&self, app: &App, right: Right) -> Result<(), Status> {
        app.admit(&self.exchange, self.request.headers(), right)
    }

    pub(crate) fn into_request(self) -> Request<Incoming> {
        self.request
    }

    fn asking(self, api: Api) -> Self {
        self.exchange.asks(api);
        self
    }
}

/// Answers one call.
pub(crate) async fn handle(
    app: Arc<App>,
    connection: Arc<Connection>,
    share: Arc<Share>,
    request: Request<Incoming>,
) -> GrpcResponse {
    let call = Opened::new(connection, share, request);
    let exchange = call.exchange();
    app.trace(&exchange, call.request.headers());
    let _observed = Observed { app: &app, exchange: &exchange };
    if let Some(right) = right_for(&exchange.target)
        && let Err(status) = call.admit(&app, right)
    {
        exchange.ends(Err(status.code));
        return edge_status(&status).into_http();
    }
    match exchange.target.as_str() {
        "/tensorflow.serving.PredictionService/Predict" => unary(&app, call.asking(Api::Predict), predict).await,
        "/tensorflow.serving.PredictionService/GetModelMetadata" => small_unary(&app, call, metadata).await,
        "/tensorflow.serving.PredictionService/Classify" => {
            unary(&app, call.asking(Api::Classify), |app, received| inference::run_task(app, received, Task::Classify))
                .await
        }
        "/tensorflow.serving.PredictionService/Regress" => {
            unary(&app, call.asking(Api::Regress), |app, received| inference::run_task(app, received, Task::Regress))
                .await
        }
        "/tensorflow.serving.PredictionService/MultiInference" => {
            unary(&app, call.asking(Api::MultiInference), inference::run_tasks).await
        }
        "/tensorflow.serving.ModelService/GetModelStatus" => small_unary(&app, call, model_status).await,
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest" => {
            let reload = |app, received| pass_on(app, received, "HandleReloadConfigRequest".to_owned());
            unary_up_to(SMALL_MESSAGE_BYTES, &app, call, reload).await
        }
        "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch" if app.settings.health_service => {
            let answer = probe::health(&app, call.request, Door::Main).await;
            let status = tonic::Status::from_header_map(answer.headers());
            exchange.ends(status.map_or(Ok(0), |status| Err(code_of(&status))));
            answer
        }
        path if app.settings.profiler && path.starts_with(PROFILER) => {
            let method = path.trim_start_matches('/').to_owned();
            unary_up_to(SMALL_MESSAGE_BYTES, &app, call, |app, received| pass_on(app, received, method.clone())).await
        }
        "/tensorflow.serving.SessionService/SessionRun" if app.settings.session_service => {
            unary(&app, call.asking(Api::SessionRun), session::run).await
        }
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => reflect(&app, call, Version::V1).await,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => reflect(&app, call, Version::V1Alpha).await,
        path => {
            let status = Status::unimplemented(format!("{path} is not served here"));
            exchange.ends(Err(status.code));
            edge_status(&status).into_http()
        }
    }
}

async fn reflect(app: &Arc<App>, call: Opened, version: Version) -> GrpcResponse {
    call.exchange.ends(Ok(0)); // it has begun well: what comes then is a conversation
    reflection::answer(app, call.exchange.connection.crowd, &app.reflection, version, call.request).await
}

fn code_of(status: &tonic::Status) -> Code {
    Code::from_number(status.code() as i32)
}

/// What a call needs; nothing for health, and for what there is not.
fn right_for(path: &str) -> Option<Right> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match (service, method) {
        (_, "HandleReloadConfigRequest") => Some(Right::Reload),
        ("tensorflow.ProfilerService", _) => Some(Right::Profile),
        ("tensorflow.serving.PredictionService", "GetModelMetadata")
        | (
            "tensorflow.serving.ModelService"
            | "grpc.reflection.v1.ServerReflection"
            | "grpc.reflection.v1alpha.ServerReflection",
            _,
        ) => Some(Right::Read),
        ("tensorflow.serving.PredictionService" | "tensorflow.serving.SessionService", _) => Some(Right::Predict),
        _ => None,
    }
}

/// The services that are answered, by their full names.
pub(crate) fn services(settings: &Settings) -> Vec<&'static str> {
    let optional = [
        (settings.health_service, probe::SERVICE),
        (settings.profiler, "tensorflow.ProfilerService"),
        (settings.session_service, "tensorflow.serving.SessionService"),
    ];
    let mut services = vec!["tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"];
    services.extend(optional.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name));
    services
}

/// What a call is answered that is refused before it is looked at.
pub(crate) fn turned_away(status: &Status) -> GrpcResponse {
    edge_status(status).into_http()
}

/// What a call that panicked is answered; the connection and its other calls live on.
pub(crate) fn panicked() -> GrpcResponse {
    edge_status(&Status::internal("the handler of this request failed; the server's log says where")).into_http()
}

pub(crate) fn refused(message: String) -> GrpcResponse {
    edge_status(&Status::unimplemented(message)).into_http()
}

/// The message of a call, what it holds of the budget, and how its answer is wanted.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) message: Arc<Pieces>,
    pub(crate) share: Arc<Share>,
    pub(crate) terms: Terms,
    pub(crate) exchange: Arc<Exchange>,
}

/// A call whose message is as large as its tensors.
async fn unary<F, R>(app: &Arc<App>, call: Opened, handler: F) -> GrpcResponse
where
    F: Fn(Arc<App>, Received) -> R + Send,
    R: Future<Output = Result<Bytes, Status>> + Send,
{
    unary_up_to(usize::MAX, app, call, handler).await
}

pub(crate) async fn unary_up_to<F, R>(most: usize, app: &Arc<App>, call: Opened, handler: F) -> GrpcResponse
where
    F: Fn(Arc<App>, Received) -> R + Send,
    R: Future<Output = Result<Bytes, Status>> + Send,
{
    let most = app.settings.limits.max_message_bytes.min(most);
    let compresses = may_compress(app, call.request.headers());
    let Opened { request, deadline, exchange } = call;
    let share = Arc::clone(&exchange.share);
    let terms = Terms { deadline, priority: priority(request.headers()) };
    let message = match read_message(app, Waiting::Message, request, &share, most, deadline).await {
        Ok(message) => message,
        Err(refusal) => {
            exchange.ends(Err(code_of(&refusal)));
            return answered(Err(refusal));
        }
    };
    exchange.received(message.len());
    let received = Received { message, share: Arc::clone(&share), terms, exchange: Arc::clone(&exchange) };
    let again = app.routes.current().has_on_demand.then(|| received.clone());
    let mut outcome = handler(Arc::clone(app), received).await;
    if let Some(again) = again {
        outcome = Box::pin(awaited(app, outcome, again, handler)).await;
    }
    if compresses && let Ok(message) = outcome {
        outcome = compressed(app, &share, message).await;
    }
    // Request and tensors are gone by now; the answer is there until the client has taken it.
    let outcome =
        outcome.and_then(|message| share.hold(message.len()).map(|()| message)).inspect_err(|_| share.give_back());
    exchange.ends(outcome.as_ref().map(Bytes::len).map_err(|status| status.code));
    answered(outcome.map_err(|status| edge_status(&status)))
}

/// The outcome of a call, tried again when the version that it needs has been loaded.
async fn awaited<F, R>(
    app: &Arc<App>,
    mut outcome: Result<Bytes, Status>,
    received: Received,
    handler: F,
) -> Result<Bytes, Status>
where
    F: Fn(Arc<App>, Received) -> R + Send,
    R: Future<Output = Result<Bytes, Status>> + Send,
{
    while let Err(Status { asleep: Some(asleep), .. }) = &outcome {
        app.awaken(asleep, received.terms.deadline).await?;
        outcome = handler(Arc::clone(app), received.clone()).await;
    }
    outcome
}

/// A call whose message holds names and numbers; decoded, they take many times the room.
async fn small_unary<M, O>(
    app: &Arc<App>,
    call: Opened,
    handler: fn(&App, &Exchange, &M) -> Result<O, Status>,
) -> GrpcResponse
where
    M: Message + Default,
    O: Message,
{
    let handler = |app: Arc<App>, Received { message, exchange, .. }: Received| async move {
        framed_message(&handler(&app, &exchange, &decode(&message)?)?)
    };
    unary_up_to(SMALL_MESSAGE_BYTES, app, call, handler).await
}

fn decode<M: Message + Default>(message: &Arc<Pieces>) -> Result<M, Status> {
    M::decode(Span::of(message)).map_err(|_| Malformed.into())
}

async fn predict(app: Arc<App>, received: Received) -> Result<Bytes, Status> {
    let Received { message, share, terms, exchange } = received;
    let (length, progress) = (message.len(), Arc::clone(&exchange.progress));
    let bound = {
        let app = Arc::clone(&app);
        move || bind_predict(&app, &exchange, PredictView::read(&message)?)
    };
    let (servable, call) = app.work(length / COPYING, terms.deadline, bound).await??;
    share.hold(call.memory_bytes)?;
    let answer =
        app.run(servable, call, Api::Predict, Caller::waiting(terms, Arc::clone(&share) as _, progress)).await?;
    let form = if app.settings.tensor_content { Form::Content } else { Form::Typed };
    app.work(answer.value_bytes() / COPYING, None, move || write_predict(&answer, form, &share)).await?
}

fn write_predict(answer: &Answer, form: Form, share: &Share) -> Result<Bytes, Status> {
    let (servable, signature) = (answer.servable(), answer.signature());
    let writer = PredictWriter::new(
        Reply::Predict,
        answer.outputs(),
        form,
        servable.name(),
        servable.version(),
        &signature.name,
    );
    share.hold(writer.len())?;
    framed(writer.len(), |buffer| writer.write(buffer))
}

fn bind_predict(app: &App, exchange: &Exchange, request: PredictView<'_>) -> Result<(Arc<Servable>, Call), Status> {
    if let Some(spec) = &request.spec {
        exchange.names(&spec.name);
    }
    request.check_names()?;
    let spec = request.spec.as_ref().ok_or_else(missing_spec)?;
    let servable = app.resolve(exchange, Right::Predict, &spec.name, &spec.choice)?;
    exchange.means(signature_named(&servable, &spec.signature_name)?.index());
    let mut made = exchange.made();
    let call = bind_to(&servable, request, &app.settings, |bytes| made.add(bytes))?;
    Ok((servable, call))
}

/// Matches a request against the signature that it names, whichever servable it was meant for. `room` is asked for what
/// tensors take before they are made.
pub(crate) fn bind_to(
    servable: &Servable,
    request: PredictView<'_>,
    settings: &Settings,
    mut room: impl FnMut(usize) -> Result<(), Status>,
) -> Result<Call, Status> {
    let signature = signature_named(servable, request.spec.as_ref().map_or("", |spec| &spec.signature_name))?;
    settings.check_method_name(signature)?;
    let limits = &settings.limits;
    let read = |slot: &Slot, view: TensorView<'_>| view.to_tensor_within(&slot.name, limits, &mut room);
    bind(signature, request.inputs, &request.output_filter, read)
}

/// The signature of this name; `FAILED_PRECONDITION` if there is none.
pub(crate) fn signature_named<'a>(servable: &'a Servable, name: &str) -> Result<&'a Signature, Status> {
    servable.signature(name).ok_or_else(|| {
        let name = if name.is_empty() { DEFAULT_SIGNATURE } else { name };
        Status::failed_precondition(format!("Serving signature key \"{name}\" not found."))
    })
}

pub(crate) fn missing_spec() -> Status {
    Status::invalid_argument("Missing ModelSpec")
}

fn metadata(
    app: &App,
    exchange: &Exchange,
    request: &GetModelMetadataRequest,
) -> Result<GetModelMetadataResponse, Status> {
    let spec = request.model_spec.as_ref().ok_or_else(missing_spec)?;
    if request.metadata_field.is_empty() {
        return Err(Status::invalid_argument("GetModelMetadataRequest must specify at least one metadata_field"));
    }
    if let Some(field) = request.metadata_field.iter().find(|field| *field != SIGNATURE_DEF) {
        return Err(Status::invalid_argument(format!("Metadata field {field} is not supported")));
    }
    let choice = match &spec.version_choice {
        None => Choice::Latest,
        Some(VersionChoice::Version(version)) => Choice::Version(*version),
        Some(VersionChoice::VersionLabel(label)) => Choice::Label(label.clone()),
    };
    let servable = app.resolve(exchange, Right::Read, &spec.name, &choice)?;
    let signatures =
        Any { type_url: SIGNATURE_MAP_URL.to_owned(), value: servable.description().signature_map.to_vec() };
    Ok(GetModelMetadataResponse {
        model_spec: Some(ModelSpec {
            name: spec.name.clone(),
            version_choice: Some(VersionChoice::Version(servable.version())),
            ..ModelSpec::default()
        }),
        metadata: [(SIGNATURE_DEF.to_owned(), signatures)].into(),
    })
}

fn model_status(
    app: &App,
    exchange: &Exchange,
    request: &GetModelStatusRequest,
) -> Result<GetModelStatusResponse, Status> {
    let spec = request.model_spec.as_ref().ok_or_else(missing_spec)?;
    exchange.names(&spec.name);
    app.allow(exchange, Right::Read, &spec.name)?;
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
    Ok(GetModelStatusResponse { model_version_status })
}

/// Lets the control plane answer.
pub(crate) async fn pass_on(app: Arc<App>, received: Received, method: String) -> Result<Bytes, Status> {
    let answer = control::ask(&app, &method, received.message.to_bytes()).await?;
    framed(answer.len(), |buffer| buffer.extend_from_slice(&answer))
}
