//! The edges of health: what anybody may ask on every port, and all that the monitoring port has.

use std::sync::Arc;

use futures_util::StreamExt;
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use prost::Message;
use servable_core::{Code, Status};
use servable_wire::fields::Malformed;
use servable_wire::messages::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use servable_wire::span::Span;

use crate::app::{App, Waiting};
use crate::body::Share;
use crate::edge::{cut, deadline, edge_status};
use crate::exchange::Connection;
use crate::framing::{GrpcResponse, answered, framed_message, read_message, streamed};
use crate::grpc::refused;
use crate::health::{Door, OneModel, Report, Standing, changes, standing};
use crate::pages;
use crate::peer::Peer;
use crate::reflection::{self, Version};
use crate::rest::{JSON, RestResponse, plain, response, target_text};

pub(crate) const SERVICE: &str = "grpc.health.v1.Health";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// A question is a name.
const MOST_BYTES: usize = 16 << 10;
/// Room for such questions, apart from that for requests, which may be used up.
pub(crate) const BUDGET_BYTES: usize = 1 << 20;
const LONGEST_NAME: usize = 256;
const LIVE: &str = "/livez";
const READY: &str = "/readyz";
const MODELS: &str = "/readyz/models/";
const NOT_FOUND: &str = "Here are /livez, /readyz, /readyz/models/NAME, and pages of metrics such as /metrics.\n";

/// Answers one call on the monitoring port.
pub(crate) async fn handle_grpc(
    app: Arc<App>,
    connection: Arc<Connection>,
    _: Arc<Share>,
    request: Request<Incoming>,
) -> GrpcResponse {
    let version = match request.uri().path() {
        CHECK | WATCH => return health(&app, request, Door::Monitoring).await,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Version::V1,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Version::V1Alpha,
        path => return refused(format!("{path} is not served on the monitoring port")),
    };
    reflection::answer(&app, connection.crowd, &app.monitoring_reflection, version, request).await
}

/// Answers one request on the monitoring port.
pub(crate) async fn handle_rest(
    app: Arc<App>,
    _: Arc<Connection>,
    _: Arc<Share>,
    _: Peer,
    request: Request<Incoming>,
) -> RestResponse {
    let target = target_text(&request);
    match pages::find(&app, Door::Monitoring, &request, &target).await {
        Some(page) => page,
        None => plain(StatusCode::NOT_FOUND, NOT_FOUND),
    }
}

/// Whether a request asks for a page of health. It is answered however many are at work: it may be what decides whether
/// this server lives on. There are no more of these at a time than there may be connections.
pub(crate) fn is_for_page(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    matches!(path, LIVE | READY) || path.starts_with(MODELS)
}

/// The page of health at the path of a request; `None` if there is none.
pub(crate) fn page(app: &App, request: &Request<Incoming>) -> Option<RestResponse> {
    let answer = |is_ready: bool, text: &dyn Fn() -> Vec<u8>, json: &dyn Fn() -> Vec<u8>| {
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if wants_json(request) {
            response(status, JSON, json())
        } else {
            plain(status, &String::from_utf8_lossy(&text()))
        }
    };
    let (phase, routes) = (app.health.phase(), app.routes.current());
    // Nobody who asks here has to say who they are, so with rules of access nobody is told more than that.
    let hides_reasons = app.access.get().is_some();
    match request.uri().path() {
        LIVE => Some(plain(StatusCode::OK, "alive\n")),
        READY => {
            let report = Report::of(phase, &routes);
            let report = if hides_reasons { report.without_reasons() } else { report };
            Some(answer(report.is_ready(), &|| report.text(), &|| report.json()))
        }
        path => {
            let name = percent_decode_str(path.strip_prefix(MODELS)?).decode_utf8_lossy();
            let Some(model) = OneModel::of(phase, &routes, &name) else {
                let text = format!("model {} is not configured\n", cut(&name, LONGEST_NAME));
                return Some(plain(StatusCode::NOT_FOUND, &text));
            };
            let model = if hides_reasons { model.without_reasons() } else { model };
            Some(answer(model.is_ready(), &|| model.text(), &|| model.json()))
        }
    }
}

fn wants_json(request: &Request<Incoming>) -> bool {
    let is_verbose = |part: &str| part.split_once('=').map_or(part, |(name, _)| name) == "verbose";
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    request.uri().query().is_some_and(|query| query.split('&').any(is_verbose))
        || accepts.is_some_and(|accept| accept.contains("application/json"))
}

/// Answers Check and Watch of `grpc.health.v1`; a watcher hears of all that changes until the door closes.
pub(crate) async fn health(app: &Arc<App>, request: Request<Incoming>, door: Door) -> GrpcResponse {
    let is_watch = request.uri().path() == WATCH;
    let service = match read_service(app, Waiting::Name(door.crowd()), request).await {
        Ok(service) => service,
        Err(refusal) => return answered(Err(refusal)),
    };
    if !is_watch {
        return answered(check(app, door, &service).map_err(|status| edge_status(&status)));
    }
    let listening = match app.waits(Waiting::News(door.crowd())) {
        Ok(listening) => listening,
        Err(refusal) => return answered(Err(edge_status(&refusal))),
    };
    streamed(changes(Arc::clone(app), service, door).filter_map(move |standing| {
        let _ = &listening; // for as long as there may be something to tell
        std::future::ready(framed_message(&told(standing)).ok())
    }))
}

async fn read_service(app: &App, waiting: Waiting, request: Request<Incoming>) -> Result<String, tonic::Status> {
    let deadline = deadline(request.headers());
    let share = Arc::new(Share::of(&app.probe_budget));
    let message = read_message(app, waiting, request, &share, MOST_BYTES, deadline).await?;
    let request = HealthCheckRequest::decode(Span::of(&message));
    request.map(|request| request.service).map_err(|_| edge_status(&Malformed.into()))
}

fn check(app: &App, door: Door, service: &str) -> Result<bytes::Bytes, Status> {
    match standing(door, app.health.phase(), &app.routes.current(), service) {
        Standing::Unknown => Err(Status::new(Code::NotFound, format!("service {service:?} is unknown"))),
        known => framed_message(&told(known)),
    }
}

fn told(standing: Standing) -> HealthCheckResponse {
    HealthCheckResponse { status: standing as i32 }
}
