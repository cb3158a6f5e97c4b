//! The REST edge: targets and bodies to calls, statuses to numbers.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::FutureExt;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use servable_core::examples::Task;
use servable_core::predict::{Call, bind};
use servable_core::progress::Mark;
use servable_core::routes::Choice;
use servable_core::servable::{Caller, Servable, Terms};
use servable_core::signature::DEFAULT_SIGNATURE;
use servable_core::status::Asleep;
use servable_core::usage::{Api, Entrypoint};
use servable_core::{Code, Status, Tensor};
use servable_wire::json::{self, Document, Format};
use servable_wire::target::{self, Target, TargetError, Verb};

use crate::access::Right;
use crate::app::{App, INFLATION, PRINTING, Planned, Waiting};
use crate::body::{Arrived, Patience, Share};
use crate::coding::{COMPRESSING, InflateError, WORTH_COMPRESSING, accepts_gzip, gzip, inflate};
use crate::edge::{cut, priority};
use crate::exchange::{Connection, Exchange, Observed};
use crate::health::Door;
use crate::pages;
use crate::peer::Peer;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Seconds after which a request that is refused for want of room is worth another try.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html");

pub(crate) type RestResponse = Response<Full<Bytes>>;

/// Messages quote what was sent, which may be long; nobody reads more than this.
const LONGEST_MESSAGE: usize = 64 << 10;
/// Most room that is made on a declaration alone.
const BODY_ROOM: usize = 16 << 20;
/// Bodies from this size on are read for the signature that they are probably for.
const WORTH_GUESSING: usize = 4 << 10;

/// Answers one request.
pub(crate) async fn handle(
    app: Arc<App>,
    connection: Arc<Connection>,
    share: Arc<Share>,
    peer: Peer,
    request: Request<Incoming>,
) -> RestResponse {
    let target = target_text(&request);
    if let Some(page) = pages::find(&app, Door::Main, &request, &target).await {
        return page;
    }
    if !target::is_uri(&target) {
        return html(StatusCode::BAD_REQUEST);
    }
    if !target::is_api(&target) {
        return html(StatusCode::NOT_FOUND);
    }
    let cors = app.settings.cors;
    let compresses = app.settings.compress_answers;
    let exchange = Arc::new(Exchange::new(connection, share, Entrypoint::Rest, request.method().clone(), target));
    app.trace(&exchange, request.headers());
    let observed = Observed { app: &app, exchange: &exchange };
    let has_body = !request.body().is_end_stream();
    let mut response = answer(Arc::clone(&app), &peer, &exchange, request).await;
    exchange.ends_as(response.status());
    if has_body && exchange.progress.at(Mark::Received).is_none() {
        // Nobody reads what is still to come of it, so nothing can come after it.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    drop(observed);
    if compresses {
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if cors {
        let headers = response.headers_mut();
        let knows_callers = app.access.get().is_some();
        let allowed = if knows_callers { "Content-Type, Authorization, X-Api-Key" } else { "Content-Type" };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    }
    response
}

/// What a request that panicked is answered.
pub(crate) fn panicked() -> RestResponse {
    error(&Status::internal("the handler of this request failed; the server's log says where"))
}

/// Path and query as they came: that is what targets are matched against.
pub(crate) fn target_text(request: &Request<Incoming>) -> String {
    request.uri().path_and_query().map_or_else(String::new, |target| target.as_str().to_owned())
}

async fn answer(app: Arc<App>, peer: &Peer, exchange: &Arc<Exchange>, request: Request<Incoming>) -> RestResponse {
    let target = exchange.target.as_str();
    let malformed = |method: &Method| Status::invalid_argument(format!("Malformed request: {method} {target}"));
    let method = request.method().clone();
    let compresses = app.settings.compress_answers && accepts_gzip(request.headers(), &header::ACCEPT_ENCODING);
    let share = Arc::clone(&exchange.share);
    let right = if method == Method::GET { Right::Read } else { Right::Predict };
    if method != Method::OPTIONS
        && let Err(status) = app.admit(exchange, request.headers(), right)
    {
        skip_what_has_come(exchange, request.into_body());
        exchange.ends(Err(status.code));
        return error(&status);
    }
    let outcome = match method {
        Method::OPTIONS => {
            exchange.ends(Ok(0));
            return preflight(&request);
        }
        Method::POST => match target::parse_inference(target) {
            Ok(parsed) => {
                exchange.names(&parsed.name);
                if let Some(api) = api_of(parsed.verb) {
                    exchange.asks(api);
                }
                infer(&app, peer, exchange, parsed, &share, request).await
            }
            Err(refusal) => Err(target_status(refusal, malformed(&method))),
        },
        Method::GET => match target::parse_question(target) {
            Ok(parsed) => {
                exchange.names(&parsed.name);
                exchange.received(0);
                questioned(&app, peer, exchange, &parsed).await
            }
            Err(refusal) => Err(target_status(refusal, malformed(&method))),
        },
        Method::HEAD | Method::PUT | Method::DELETE | Method::PATCH => Err(malformed(&method)),
        _ => {
            exchange.ends(Err(Code::Unimplemented));
            return html(StatusCode::NOT_IMPLEMENTED);
        }
    };
    // Request and tensors are gone by now; the answer is there until the client has taken it.
    let outcome = outcome.and_then(|body| share.hold(body.len()).map(|()| body)).inspect_err(|_| share.give_back());
    exchange.ends(outcome.as_ref().map(Vec::len).map_err(|status| status.code));
    match outcome {
        Ok(body) if compresses && body.len() >= WORTH_COMPRESSING => compressed(&app, &share, body).await,
        Ok(body) => response(StatusCode::OK, JSON, body),
        Err(status) => error(&status),
    }
}

async fn compressed(app: &App, share: &Share, body: Vec<u8>) -> RestResponse {
    let length = body.len();
    let packed = match share.hold(2 * length) {
        Ok(()) => app.work(length * COMPRESSING, None, move || gzip(&body)).await,
        Err(refusal) => Err(refusal),
    };
    match packed.and_then(|packed| share.hold(packed.len()).map(|()| packed)) {
        Ok(packed) => {
            let mut response = response(StatusCode::OK, JSON, packed);
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        Err(status) => error(&status),
    }
}

fn api_of(verb: Verb) -> Option<Api> {
    match verb {
        Verb::Predict => Some(Api::Predict),
        Verb::Classify => Some(Api::Classify),
        Verb::Regress => Some(Api::Regress),
        Verb::Status | Verb::Metadata => None,
    }
}

fn target_status(refusal: TargetError, malformed: Status) -> Status {
    match refusal {
        TargetError::Malformed => malformed,
        TargetError::MissingName => Status::invalid_argument("Missing model name in request."),
        TargetError::Version(digits) => {
            Status::invalid_argument(format!("Failed to convert version: {digits} to numeric."))
        }
    }
}

/// The answer to a question, when the version that it is about has been loaded.
async fn questioned(app: &App, peer: &Peer, exchange: &Exchange, target: &Target) -> Result<Vec<u8>, Status> {
    let deadline = app.settings.rest_timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let outcome = question(app, exchange, target);
        let Err(Status { asleep: Some(asleep), .. }) = &outcome else { return outcome };
        awaken(app, peer, asleep, deadline).await?;
    }
}

/// Waits until a version is loaded, unless the client goes.
async fn awaken(app: &App, peer: &Peer, asleep: &Asleep, deadline: Option<Instant>) -> Result<(), Status> {
    tokio::select! {
        outcome = app.awaken(asleep, deadline) => outcome,
        () = peer.left() => Err(Status::new(Code::Cancelled, "the client went before its model was loaded")),
    }
}

/// Status and metadata.
fn question(app: &App, exchange: &Exchange, target: &Target) -> Result<Vec<u8>, Status> {
    if target.verb == Verb::Metadata {
        let servable = app.resolve(exchange, Right::Read, &target.name, &target.choice)?;
        return Ok(json::write_metadata(&target.name, servable.version(), &servable.description().json));
    }
    let version = match target.choice {
        Choice::Version(version) => Some(version),
        _ => None, // a label is no filter here
    };
    app.allow(exchange, Right::Read, &target.name)?;
    Ok(json::write_status(&app.routes.current().status(&target.name, version)?))
}

async fn infer(
    app: &Arc<App>,
    peer: &Peer,
    exchange: &Arc<Exchange>,
    target: Target,
    share: &Arc<Share>,
    request: Request<Incoming>,
) -> Result<Vec<u8>, Status> {
    if let Err(refusal) = app.allow(exchange, Right::Predict, &target.name) {
        skip_what_has_come(exchange, request.into_body());
        return Err(refusal);
    }
    let is_compressed = is_gzip(&request);
    let priority = priority(request.headers());
    let body = app
        .arriving(Waiting::Message, read_body(request.into_body(), app.settings.limits.max_body_bytes, share))
        .await?;
    exchange.received(body.len());
    let deadline = app.settings.rest_timeout.map(|timeout| Instant::now() + timeout);
    let body = if is_compressed { inflated(app, body, share, deadline).await? } else { body };
    let terms = Terms { deadline, priority };
    let again = app.routes.current().has_on_demand.then(|| (target.clone(), body.clone()));
    let mut outcome = computed(app, peer, exchange, target, body, share, terms).await;
    while let (Err(Status { asleep: Some(asleep), .. }), Some((target, body))) = (&outcome, &again) {
        awaken(app, peer, asleep, deadline).await?;
        outcome = Box::pin(computed(app, peer, exchange, target.clone(), body.clone(), share, terms)).await;
    }
    outcome
}

async fn computed(
    app: &Arc<App>,
    peer: &Peer,
    exchange: &Arc<Exchange>,
    target: Target,
    body: Bytes,
    share: &Arc<Share>,
    terms: Terms,
) -> Result<Vec<u8>, Status> {
    let progress = Arc::clone(&exchange.progress);
    let caller = Caller { terms, gone: peer.left(), room: Arc::clone(share) as _, progress };
    let task = match target.verb {
        Verb::Classify => Task::Classify,
        Verb::Regress => Task::Regress,
        _ => return predict(app, exchange, target, body, share, caller).await,
    };
    run_task(app, exchange, target, body, task, share, caller).await
}

async fn inflated(app: &App, body: Bytes, share: &Arc<Share>, deadline: Option<Instant>) -> Result<Bytes, Status> {
    let (most, share) = (app.settings.limits.max_decompressed_bytes, Arc::clone(share));
    app.work(body.len() * INFLATION, deadline, move || decompressed(&body, most, &share)).await?
}

async fn run_task(
    app: &Arc<App>,
    exchange: &Arc<Exchange>,
    target: Target,
    body: Bytes,
    task: Task,
    share: &Share,
    caller: Caller<impl Future<Output = ()>>,
) -> Result<Vec<u8>, Status> {
    let (length, shared, exchange) = (body.len(), Arc::clone(app), Arc::clone(exchange));
    let planned =
        app.work(length, caller.terms.deadline, move || read_task(&shared, &exchange, &target, &body, task)).await??;
    share.hold(planned.memory_bytes())?;
    let computed = app.run_tasks(planned, caller).await?;
    let (_, computed) = computed.first().ok_or_else(|| Status::internal("a task without a result: this is a bug"))?;
    Ok(json::write_computed(computed, app.settings.dialect))
}

fn read_task(app: &App, exchange: &Exchange, target: &Target, body: &[u8], task: Task) -> Result<Planned, Status> {
    let limits = &app.settings.limits;
    let document = Document::parse(body, app.settings.dialect, limits)?;
    let signature_name = document.signature_name()?.unwrap_or_default();
    let mut made = exchange.made();
    let examples = document.examples_within(limits, &mut |bytes| made.add(bytes))?;
    let servable = app.resolve(exchange, Right::Predict, &target.name, &target.choice)?;
    let signature = app.task_signature(&servable, &signature_name, task)?;
    exchange.means(signature.index());
    Planned::new(&servable, &[(task, signature)], &examples)
}

async fn predict(
    app: &Arc<App>,
    exchange: &Arc<Exchange>,
    target: Target,
    body: Bytes,
    share: &Share,
    caller: Caller<impl Future<Output = ()>>,
) -> Result<Vec<u8>, Status> {
    let (length, shared, exchange) = (body.len(), Arc::clone(app), Arc::clone(exchange));
    let (servable, call, format) =
        app.work(length, caller.terms.deadline, move || read_predict(&shared, &exchange, &target, &body)).await??;
    share.hold(call.memory_bytes)?;
    let answer = app.run(servable, call, Api::Predict, caller).await?;
    let bytes = answer.value_bytes();
    share.hold(bytes * PRINTING)?;
    let (dialect, most) = (app.settings.dialect, app.settings.limits.max_output_bytes);
    let write = move || {
        let named: Vec<(&str, &Tensor)> = answer.outputs().collect();
        json::write_predict(format, dialect, &named, most)
    };
    app.work(bytes * PRINTING, None, write).await?
}

fn read_predict(
    app: &App,
    exchange: &Exchange,
    target: &Target,
    body: &[u8],
) -> Result<(Arc<Servable>, Call, Format), Status> {
    let limits = &app.settings.limits;
    // Whom it is for counts only once it is known to be JSON; but a long one is read faster if that can be guessed.
    let is_long = body.len() >= WORTH_GUESSING;
    let guess = is_long.then(|| app.routes.current().resolve(&target.name, &target.choice).ok()).flatten();
    let signatures = |name: &str| guess.as_ref()?.signature(name);
    let document = Document::parse_for(body, app.settings.dialect, limits, &signatures)?;
    let signature_name = document.signature_name()?;
    let servable = app.resolve(exchange, Right::Predict, &target.name, &target.choice)?;
    let signature = servable.signature(signature_name.as_deref().unwrap_or_default()).ok_or_else(|| {
        let name = signature_name.as_deref().unwrap_or(DEFAULT_SIGNATURE);
        Status::invalid_argument(format!("Serving signature name: \"{name}\" not found in signature def"))
    })?;
    exchange.means(signature.index());
    let (format, inputs) = document.inputs(signature, limits)?;
    app.check_method_name(signature)?;
    let call = bind(signature, inputs, &[], |_, tensor| Ok(tensor))?;
    Ok((servable, call, format))
}

/// Any coding whose name contains `gzip`, in lower case.
fn is_gzip(request: &Request<Incoming>) -> bool {
    let coding = request.headers().get(header::CONTENT_ENCODING);
    coding.and_then(|coding| coding.to_str().ok()).is_some_and(|coding| coding.contains("gzip"))
}

/// Reads a body that nobody needs, if all of it is there, so that the connection can be used again. Those who have not said
/// who they are, or may not do what they want, are not waited for.
fn skip_what_has_come(exchange: &Exchange, body: Incoming) {
    const SMALL: usize = 64 << 10;
    if let Some(Ok(body)) = read_body(body, SMALL, &exchange.share).now_or_never() {
        exchange.received(body.len());
    }
}

/// The whole body. What it declares or turns out to be beyond the limit is refused, before room is made for it.
pub(crate) async fn read_body(mut body: Incoming, most: usize, share: &Share) -> Result<Bytes, Status> {
    let too_large = || {
        Status::resource_exhausted(format!(
            "the request body is larger than {most} bytes, the most that this server takes (max_body_bytes)"
        ))
    };
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > most {
        return Err(too_large());
    }
    let (mut arrived, mut patience) = (Arrived::new(share), Patience::default());
    let mut whole = Vec::new();
    loop {
        let Some(frame) = patience.wait(arrived.bytes(), body.frame()).await? else { return Ok(whole.into()) };
        let frame =
            frame.map_err(|failure| Status::new(Code::Cancelled, format!("the request body broke off: {failure}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if arrived.bytes() + data.len() > most {
            return Err(too_large());
        }
        arrived.add(data.len(), if declared > 0 { declared } else { most })?;
        if whole.is_empty() {
            if body.is_end_stream() {
                return Ok(data);
            }
            whole.reserve_exact(declared.min(BODY_ROOM).max(data.len()));
        }
        whole.extend_from_slice(&data);
    }
}

/// What does not decompress, or not within the limit, counts as empty: clients know the answer to that.
fn decompressed(body: &[u8], most: usize, share: &Share) -> Result<Bytes, Status> {
    inflate(MultiGzDecoder::new(body), body.len(), most, share).or_else(|failure| match failure {
        InflateError::Broken | InflateError::TooLarge => Ok(Bytes::new()),
        InflateError::NoRoom(status) => Err(status),
    })
}

/// Whether the origin may ask is nothing this server decides: browsers look at the CORS headers.
fn preflight(request: &Request<Incoming>) -> RestResponse {
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    let known = origin.contains("http://") || origin.contains("https://");
    response(if known { StatusCode::OK } else { StatusCode::BAD_REQUEST }, HTML, Vec::new())
}

/// The HTTP status of each canonical code: the one place that knows it.
fn http_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    StatusCode::from_u16(number).expect("every number above is a status")
}

pub(crate) fn error(status: &Status) -> RestResponse {
    let shown = Status::new(status.code, cut(&status.message, LONGEST_MESSAGE).into_owned());
    let mut response = response(http_status(status.code), JSON, json::write_error(&shown));
    if status.code == Code::Unauthenticated {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status.code == Code::Unavailable {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

pub(crate) fn plain(status: StatusCode, text: &str) -> RestResponse {
    response(status, PLAIN, text.as_bytes().to_vec())
}

/// The short page that stands for what never reached the API.
fn html(status: StatusCode) -> RestResponse {
    let reason = status.canonical_reason().unwrap_or_default();
    let number = status.as_u16();
    let page =
        format!("<HTML><HEAD>\n<TITLE>{number} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n");
    let mut response = response(status, HTML, page.into_bytes());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

pub(crate) fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> RestResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::body::Budget;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    #[test]
    fn bodies_are_decompressed_within_the_limit() {
        let share = Share::of(&Budget::new(8 << 20));
        let decompressed = |body: &[u8], most: usize| decompressed(body, most, &share).expect("there is room");
        assert_eq!(decompressed(&gzip(b"hello"), 5), &b"hello"[..]);
        assert_eq!(decompressed(&gzip(b"hello"), 4), &b""[..], "beyond the limit");
        assert_eq!(decompressed(b"hello", 5), &b""[..], "no gzip");
        let mut broken = gzip(b"hello");
        broken.truncate(broken.len() - 1);
        assert_eq!(decompressed(&broken, 5), &b""[..], "cut off");
        let bomb = gzip(&vec![0; 1 << 24]);
        assert!(bomb.len() < 1 << 17);
        assert_eq!(decompressed(&bomb, 1 << 20), &b""[..]);
        let large = gzip(&vec![0; 3 << 20]);
        assert_eq!(decompressed(&large, 3 << 20).len(), 3 << 20);
        let refused = super::decompressed(&large, 3 << 20, &Share::of(&Budget::new(1 << 20))).expect_err("no room");
        assert_eq!(refused.code, Code::ResourceExhausted);
    }
}
