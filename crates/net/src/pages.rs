//! Pages for those who watch a server: whether it lives, whether it is ready, what it counts.

use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use servable_core::Status;

use crate::app::App;
use crate::health::Door;
use crate::metrics::{Metrics, Moment};
use crate::probe;
use crate::rest::{RestResponse, error, plain};

/// Where metrics are in Prometheus' own conventions.
const METRICS: &str = "/metrics";
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The page that a request asks for, if one is there. `target` is its path with the query.
pub(crate) async fn find(
    app: &Arc<App>,
    door: Door,
    request: &Request<Incoming>,
    target: &str,
) -> Option<RestResponse> {
    if let Some(page) = probe::page(app, request) {
        return Some(page);
    }
    let path = request.uri().path();
    let original = app.settings.metrics_path.as_ref()?;
    if path == original {
        // TensorFlow Serving has no page unless a file asks for it, and is taken at its word by whoever does not
        // say what to answer with. All that collect metrics say so.
        let is_asked = door == Door::Monitoring || !app.settings.metrics_unasked;
        if !is_asked && !request.headers().contains_key(header::ACCEPT) {
            return None;
        }
        if target != original {
            let text = format!("Unexpected path: {target}. Should be {original}");
            return Some(plain(StatusCode::BAD_REQUEST, &text));
        }
        return Some(metrics(app, Metrics::original_page).await.unwrap_or_else(|status| error(&status)));
    }
    if path != METRICS {
        return None;
    }
    let page = metrics(app, Metrics::page).await.map(|mut page| {
        page.headers_mut().insert(header::CONTENT_TYPE, PROMETHEUS);
        page
    });
    Some(page.unwrap_or_else(|status| error(&status)))
}

/// With many models it takes long to write one: never on a network thread.
async fn metrics(app: &Arc<App>, page: fn(&Metrics, &Moment<'_>) -> String) -> Result<RestResponse, Status> {
    let shared = Arc::clone(app);
    let text = app.work(usize::MAX, None, move || shared.metrics_page(page)).await?;
    Ok(plain(StatusCode::OK, &text))
}
