//! One request and its answer: who sent it, what it is about, where its time went, how it ended.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::{Method, StatusCode};
use opentelemetry::Context;
use servable_core::progress::{Mark, Progress};
use servable_core::servable::Servable;
use servable_core::usage::{Api, Entrypoint};
use servable_core::{Code, Status};

use crate::access::Identity;
use crate::app::{App, Crowd};
use crate::body::{Made, Share};
use crate::edge::cut;
use crate::quota::{Full, Quota};

/// The other end of a connection, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// `None` for a Unix socket.
    pub(crate) remote: Option<IpAddr>,
    pub(crate) crowd: Crowd,
    /// The names of the client's certificate, which has been verified.
    pub(crate) names: Vec<String>,
}

/// A request on its way. What is found out about it is noted once, from whichever thread.
pub(crate) struct Exchange {
    pub(crate) connection: Arc<Connection>,
    pub(crate) share: Arc<Share>,
    pub(crate) entrypoint: Entrypoint,
    pub(crate) method: Method,
    /// The path of a gRPC method, or a REST target.
    pub(crate) target: String,
    pub(crate) progress: Arc<Progress>,
    trace_context: OnceLock<Context>,
    trace_id: OnceLock<String>,
    identity: OnceLock<Arc<Identity>>,
    api: OnceLock<Api>,
    model: OnceLock<String>,
    servable: OnceLock<Arc<Servable>>,
    signature: AtomicUsize,
    code: AtomicU16,
    http_status: AtomicU16,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// More of a model's name is not kept: clients choose it, and what is noted may wait for long.
const LONGEST_MODEL: usize = 1 << 10;
/// For a request that names no signature, or none that there is.
const NO_SIGNATURE: usize = usize::MAX;

impl Exchange {
    pub(crate) fn new(
        connection: Arc<Connection>,
        share: Arc<Share>,
        entrypoint: Entrypoint,
        method: Method,
        target: String,
    ) -> Self {
        Self {
            connection,
            share,
            entrypoint,
            method,
            target,
            progress: Arc::default(),
            trace_context: OnceLock::new(),
            trace_id: OnceLock::new(),
            identity: OnceLock::new(),
            api: OnceLock::new(),
            model: OnceLock::new(),
            servable: OnceLock::new(),
            signature: AtomicUsize::new(NO_SIGNATURE),
            // Nobody waits for an answer that never comes to be.
            code: AtomicU16::new(Code::Cancelled as u16),
            http_status: AtomicU16::new(0),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }

    /// What its headers said of its trace.
    pub(crate) fn continues(&self, context: Context) {
        let _ = self.trace_context.set(context);
    }

    pub(crate) fn trace_context(&self) -> Option<&Context> {
        self.trace_context.get()
    }

    pub(crate) fn belongs_to(&self, trace_id: String) {
        let _ = self.trace_id.set(trace_id);
    }

    /// Known once its spans have been made; `None` where none are.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        self.trace_id.get().map(String::as_str)
    }

    pub(crate) fn comes_from(&self, identity: Arc<Identity>) {
        let _ = self.identity.set(identity);
    }

    /// The name of who sent it, where that is known.
    pub(crate) fn caller(&self) -> Option<&str> {
        self.identity().and_then(Identity::known_name)
    }

    /// Who sent it; `None` if nobody has asked.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.get().map(|identity| &**identity)
    }

    pub(crate) fn asks(&self, api: Api) {
        let _ = self.api.set(api);
    }

    pub(crate) fn names(&self, model: &str) {
        self.model.get_or_init(|| cut(model, LONGEST_MODEL).into_owned());
    }

    pub(crate) fn finds(&self, servable: &Arc<Servable>) {
        self.servable.get_or_init(|| Arc::clone(servable));
    }

    /// Takes its place among the requests for its model, once. `UNAVAILABLE` if there are as many as there may be.
    pub(crate) fn takes_turn(&self, of_models: &Quota<String>) -> Result<(), Status> {
        let model = self.servable().map_or("", |servable| servable.name());
        self.share.take_turn(of_models, model).map_err(|Full| {
            Status::new(
                Code::Unavailable,
                format!("too many requests for {model} are at work (max_requests_per_model); try again later"),
            )
        })
    }

    /// The place of the signature among those of its servable.
    pub(crate) fn means(&self, signature: usize) {
        self.signature.store(signature, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.request_bytes.store(bytes as u64, Ordering::Relaxed);
        self.progress.reach(Mark::Received);
    }

    /// The answer is ready: so many bytes, or an error.
    pub(crate) fn ends(&self, outcome: Result<usize, Code>) {
        self.progress.reach(Mark::Encoded);
        let (code, bytes) = outcome.map_or_else(|code| (code, 0), |bytes| (Code::Ok, bytes));
        self.code.store(code as u16, Ordering::Relaxed);
        self.response_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn ends_as(&self, status: StatusCode) {
        self.http_status.store(status.as_u16(), Ordering::Relaxed);
    }

    pub(crate) fn api(&self) -> Option<Api> {
        self.api.get().copied()
    }

    /// The model that it names, whether there is one or not; empty if none. For those who keep count only: a long name is
    /// cut, and says so at its end, so that it is no other model's.
    pub(crate) fn model(&self) -> &str {
        self.model.get().map_or("", String::as_str)
    }

    pub(crate) fn servable(&self) -> Option<&Arc<Servable>> {
        self.servable.get()
    }

    pub(crate) fn signature(&self) -> Option<usize> {
        let signature = self.signature.load(Ordering::Relaxed);
        (signature != NO_SIGNATURE).then_some(signature)
    }

    pub(crate) fn code(&self) -> Code {
        Code::from_number(i32::from(self.code.load(Ordering::Relaxed)))
    }

    /// The number that HTTP has for how it ended; `None` over gRPC.
    pub(crate) fn http_status(&self) -> Option<u16> {
        Some(self.http_status.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }

    pub(crate) fn request_bytes(&self) -> usize {
        self.request_bytes.load(Ordering::Relaxed) as usize
    }

    /// What is to be held of its tensors while they are made.
    pub(crate) fn made(&self) -> Made<'_> {
        Made::of(&self.share, self.request_bytes())
    }

    pub(crate) fn response_bytes(&self) -> usize {
        self.response_bytes.load(Ordering::Relaxed) as usize
    }
}

/// Tells those who keep count when the request is done with, also when nobody waits for its answer any more.
pub(crate) struct Observed<'a> {
    pub(crate) app: &'a App,
    pub(crate) exchange: &'a Exchange,
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        self.app.observe(self.exchange);
    }
}
