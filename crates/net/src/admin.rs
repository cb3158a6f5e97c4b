//! The admin edge: what comes in on the admin port becomes calls for the control plane, which knows what they mean.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use servable_core::usage::Entrypoint;
use servable_core::{Code, Status};

use crate::access::Right;
use crate::app::{App, Waiting};
use crate::body::Share;
use crate::control;
use crate::edge::edge_status;
use crate::exchange::{Connection, Exchange, Observed};
use crate::framing::GrpcResponse;
use crate::grpc::{Opened, pass_on, refused, unary_up_to};
use crate::health::Door;
use crate::peer::Peer;
use crate::probe;
use crate::reflection::{self, Version};
use crate::rest::{JSON, RestResponse, error, read_body, response, target_text};

pub(crate) const SERVICE: &str = "servable.admin.v1.Admin";
const REST_PREFIX: &str = "/admin/v1/";
/// The name of an error's code, which is more than its HTTP status tells.
const CODE: HeaderName = HeaderName::from_static("servable-code");
/// What is said of a model is short.
const MOST_BYTES: usize = 4 << 20;

/// Answers one call.
pub(crate) async fn handle_grpc(
    app: Arc<App>,
    connection: Arc<Connection>,
    share: Arc<Share>,
    request: Request<Incoming>,
) -> GrpcResponse {
    if let Err(status) = check_origin(&request) {
        return edge_status(&status).into_http();
    }
    let path = request.uri().path().to_owned();
    if path.strip_prefix('/').and_then(|path| path.rsplit_once('/')).is_some_and(|(name, _)| name == probe::SERVICE) {
        return probe::health(&app, request, Door::Admin).await;
    }
    let call = Opened::new(connection, share, request);
    let exchange = call.exchange();
    let _observed = Observed { app: &app, exchange: &exchange };
    if let Err(status) = call.admit(&app, Right::Admin) {
        exchange.ends(Err(status.code));
        return edge_status(&status).into_http();
    }
    let version = match path.as_str() {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Some(Version::V1),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Some(Version::V1Alpha),
        _ => None,
    };
    if let Some(version) = version {
        exchange.ends(Ok(0)); // it has begun well: what comes then is a conversation
        return reflection::answer(
            &app,
            exchange.connection.crowd,
            &app.admin_reflection,
            version,
            call.into_request(),
        )
        .await;
    }
    let method = path.strip_prefix('/').unwrap_or_default();
    if method.rsplit_once('/').is_none_or(|(service, _)| service != SERVICE) {
        exchange.ends(Err(Code::Unimplemented));
        return refused(format!("{path} is not served on the admin port"));
    }
    let method = method.to_owned();
    unary_up_to(MOST_BYTES, &app, call, |app, received| pass_on(app, received, method.clone())).await
}

/// Answers one request.
pub(crate) async fn handle_rest(
    app: Arc<App>,
    connection: Arc<Connection>,
    share: Arc<Share>,
    _: Peer,
    request: Request<Incoming>,
) -> RestResponse {
    if let Some(page) = probe::page(&app, &request) {
        return page;
    }
    let exchange = Exchange::new(
        connection,
        Arc::clone(&share),
        Entrypoint::Rest,
        request.method().clone(),
        target_text(&request),
    );
    let _observed = Observed { app: &app, exchange: &exchange };
    let outcome = answer(&app, &exchange, &share, request).await;
    let outcome = outcome.and_then(|body| share.hold(body.len()).map(|()| body)).inspect_err(|_| share.give_back());
    exchange.ends(outcome.as_ref().map(Bytes::len).map_err(|status| status.code));
    let response = match outcome {
        Ok(body) => response(StatusCode::OK, JSON, body),
        Err(status) => {
            let mut response = error(&status);
            response.headers_mut().insert(CODE, HeaderValue::from_static(status.code.name()));
            if status.code == Code::Unimplemented {
                // Paths have verbs, unlike RPCs: this one does not have the verb that was asked for.
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            response
        }
    };
    exchange.ends_as(response.status());
    response
}

async fn answer(app: &App, exchange: &Exchange, share: &Share, request: Request<Incoming>) -> Result<Bytes, Status> {
    check_origin(&request)?;
    app.admit(exchange, request.headers(), Right::Admin)?;
    let target = target_text(&request);
    if !target.starts_with(REST_PREFIX) {
        return Err(Status::not_found(format!("nothing is at {target}; what the admin port has begins {REST_PREFIX}")));
    }
    let method = format!("{} {target}", request.method());
    let most = app.settings.limits.max_body_bytes.min(MOST_BYTES);
    let body = app.arriving(Waiting::Message, read_body(request.into_body(), most, share)).await?;
    control::ask(app, &method, body).await
}

/// A page in a browser may send requests to this machine, whoever made it. It cannot do so without naming its origin.
fn check_origin(request: &Request<Incoming>) -> Result<(), Status> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(Status::new(
            Code::PermissionDenied,
            "requests of web pages are refused: they have an Origin header",
        ));
    }
    Ok(())
}
