//! How this server and its models are: decided from its phase and the table of routes, told to whoever asks or watches.

use std::fmt::Write;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use servable_core::routes::{ModelRoutes, Routes, VersionStatus};
use servable_wire::json::quote;
use tokio::sync::watch;

use crate::app::{App, Crowd};
use crate::edge::cut;

/// Names of `HealthCheckRequest.service` that stand for the server, as the original knows them.
const SERVICES: [&str; 3] = ["", "ModelService", "PredictionService"];
/// The full names, which the original does not know.
const FULL_NAMES: [&str; 2] = ["tensorflow.serving.ModelService", "tensorflow.serving.PredictionService"];
/// With a model's name behind it, the service that stands for this model.
const MODEL_PREFIX: &str = "model/";

/// Models that are told of by name, and bytes of what is told of each: a page is for people and small parsers.
const MOST_LISTED: usize = 100;
const LONGEST_NAME: usize = 256;
const LONGEST_REASON: usize = 512;

/// How far the server is; it only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    /// The first models are not there yet.
    Starting,
    Ready,
    /// Not ready any more, so that clients go elsewhere; requests are answered as before.
    Leaving,
    /// Only requests in flight are finished.
    Draining,
    /// Nothing is left but to close.
    Ended,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Leaving | Self::Draining | Self::Ended => "draining",
        }
    }
}

/// Where somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Main,
    Admin,
    Monitoring,
}

impl Door {
    /// When whoever watches there has to go.
    pub(crate) fn closes(self) -> Phase {
        if self == Self::Monitoring { Phase::Ended } else { Phase::Draining }
    }

    pub(crate) fn crowd(self) -> Crowd {
        if self == Self::Monitoring { Crowd::Watchers } else { Crowd::Clients }
    }
}

/// The phase, for all who have to know.
#[derive(Debug)]
pub(crate) struct Health(watch::Sender<Phase>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Health {
    /// Goes on to this phase, unless it is past it.
    pub(crate) fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let is_news = *phase < to;
            if is_news {
                *phase = to;
            }
            is_news
        });
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until this server drains.
    pub(crate) async fn drained(&self) {
        self.reached(Phase::Draining).await;
    }

    pub(crate) async fn reached(&self, aim: Phase) {
        // The sender is our own, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|phase| *phase >= aim).await;
    }
}

/// What is known of a service, numbered as `HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Standing {
    Serving = 1,
    NotServing = 2,
    Unknown = 3,
}

/// How a service is. A model serves when requests for it are answered: it has a version, and the main ports are open.
pub(crate) fn standing(door: Door, phase: Phase, routes: &Routes, service: &str) -> Standing {
    let is_full_name = door != Door::Main && FULL_NAMES.contains(&service);
    let is_there = if is_full_name || SERVICES.contains(&service) {
        true
    } else {
        let model = service.strip_prefix(MODEL_PREFIX).and_then(|name| configured(routes, name));
        let Some(model) = model else { return Standing::Unknown };
        is_available(model)
    };
    if is_there && phase == Phase::Ready { Standing::Serving } else { Standing::NotServing }
}

/// How a service is: at once, and again whenever that changes. Ends when this door closes.
pub(crate) fn changes(app: Arc<App>, service: String, door: Door) -> impl Stream<Item = Standing> + Send + 'static {
    let phases = app.health.0.subscribe();
    stream::unfold((app, phases, service, None), move |(app, mut phases, service, told)| async move {
        loop {
            let mut changed = Box::pin(app.routes.changed());
            changed.as_mut().enable();
            let phase = *phases.borrow_and_update();
            let now = standing(door, phase, &app.routes.current(), &service);
            if told != Some(now) {
                drop(changed);
                return Some((now, (app, phases, service, Some(now))));
            }
            if phase >= door.closes() {
                return None;
            }
            tokio::select! {
                () = changed => {}
                changed = phases.changed() => changed.ok()?,
            }
        }
    })
}

/// A model that is to be served at the moment.
fn configured<'a>(routes: &'a Routes, name: &str) -> Option<&'a ModelRoutes> {
    routes.models.get(name).filter(|model| model.configured)
}

/// Whether requests are answered by one of its versions, if need be after it was loaded for them.
fn is_available(model: &ModelRoutes) -> bool {
    let answers =
        |version: &VersionStatus| version.servable.is_some() || (version.on_demand && version.error.is_none());
    model.versions.values().any(answers)
}

/// One model's health.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ModelReport {
    name: String,
    is_available: bool,
    /// The newest version.
    version: Option<i64>,
    state: &'static str,
    /// What went wrong with that, if anything did.
    error: String,
}

impl ModelReport {
    fn of(name: &str, model: &ModelRoutes) -> Self {
        let newest = model.versions.last_key_value();
        let error = newest.map_or_else(String::new, |(_, version)| match &version.error {
            Some(error) => error.to_string(),
            None => version.remark.clone(),
        });
        Self {
            name: cut(name, LONGEST_NAME).into_owned(),
            is_available: is_available(model),
            version: newest.map(|(version, _)| *version),
            state: newest.map_or("NO_VERSION", |(_, version)| version.state.name()),
            error: cut(&error, LONGEST_REASON).into_owned(),
        }
    }

    fn line(&self) -> String {
        let version = self.version.map_or_else(String::new, |version| format!(" version {version}"));
        let separator = if self.error.is_empty() { "" } else { ": " };
        format!("model {}{version}: {}{separator}{}\n", self.name, self.state, self.error.replace('\n', " "))
    }

    fn json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\": ");
        quote(self.name.as_bytes(), out);
        let version = self.version.map_or_else(|| "null".to_owned(), |version| version.to_string());
        out.extend_from_slice(
            format!(", \"version\": {version}, \"state\": \"{}\", \"error\": ", self.state).as_bytes(),
        );
        quote(self.error.as_bytes(), out);
        out.push(b'}');
    }
}

/// The whole server's health. One bad model does not take it out of service, but is told of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    phase: Phase,
    configured: usize,
    available: usize,
    /// The first of those that are not available, by name.
    unavailable: Vec<ModelReport>,
}

impl Report {
    pub(crate) fn of(phase: Phase, routes: &Routes) -> Self {
        let models: Vec<_> = routes.models.iter().filter(|(_, model)| model.configured).collect();
        let mut unavailable: Vec<_> = models.iter().filter(|(_, model)| !is_available(model)).collect();
        let available = models.len() - unavailable.len();
        unavailable.sort_unstable_by_key(|(name, _)| *name);
        Self {
            phase,
            configured: models.len(),
            available,
            unavailable: unavailable
                .iter()
                .take(MOST_LISTED)
                .map(|(name, model)| ModelReport::of(name, model))
                .collect(),
        }
    }

    /// Says how models are, and not why: reasons name paths, and are for those who may know.
    pub(crate) fn without_reasons(mut self) -> Self {
        self.unavailable.iter_mut().for_each(|model| model.error.clear());
        self
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    fn left_out(&self) -> usize {
        self.configured - self.available - self.unavailable.len()
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.phase.name());
        text.extend(self.unavailable.iter().map(ModelReport::line));
        if self.left_out() > 0 {
            let _ = writeln!(text, "and {} more models", self.left_out());
        }
        text.into_bytes()
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        let mut out = format!(
            "{{\"ready\": {}, \"phase\": \"{}\", \"models\": {}, \"available\": {}, \"unavailable\": [",
            self.is_ready(),
            self.phase.name(),
            self.configured,
            self.available
        )
        .into_bytes();
        for (index, model) in self.unavailable.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"" } else { b", " });
            model.json(&mut out);
        }
        out.extend_from_slice(format!("], \"left_out\": {}}}", self.left_out()).as_bytes());
        out
    }
}

/// The health of one model, and whether requests for it are answered. `None` for one that is not configured.
pub(crate) struct OneModel {
    phase: Phase,
    model: ModelReport,
}

impl OneModel {
    pub(crate) fn of(phase: Phase, routes: &Routes, name: &str) -> Option<Self> {
        configured(routes, name).map(|model| Self { phase, model: ModelReport::of(name, model) })
    }

    /// As that of a whole report.
    pub(crate) fn without_reasons(mut self) -> Self {
        self.model.error.clear();
        self
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.model.is_available && self.phase == Phase::Ready
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        let phase = if self.phase == Phase::Ready && !self.is_ready() { "not ready" } else { self.phase.name() };
        let line = if self.is_ready() { String::new() } else { self.model.line() };
        format!("{phase}\n{line}").into_bytes()
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        let mut out =
            format!("{{\"ready\": {}, \"phase\": \"{}\", \"model\": ", self.is_ready(), self.phase.name()).into_bytes();
        self.model.json(&mut out);
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use servable_core::routes::State;
    use servable_core::{Code, Status};

    use super::*;

    fn model(versions: &[(i64, State, Option<Status>, bool)]) -> ModelRoutes {
        let versions: BTreeMap<_, _> = versions
            .iter()
            .map(|(version, state, error, on_demand)| {
                let status = VersionStatus {
                    state: *state,
                    error: error.clone(),
                    servable: None,
                    on_demand: *on_demand,
                    memory_bytes: 0,
                    remark: String::new(),
                };
                (*version, status)
            })
            .collect();
        ModelRoutes { versions, configured: true, ..ModelRoutes::default() }
    }

    fn routes() -> Routes {
        let failed = Some(Status::new(Code::Internal, "no\nop"));
        Routes::new(HashMap::from([
            ("lazy".to_owned(), model(&[(1, State::Start, None, true)])),
            ("slow".to_owned(), model(&[(2, State::End, None, false), (3, State::Loading, None, false)])),
            ("bad".to_owned(), model(&[(1, State::End, failed, false)])),
            ("empty".to_owned(), model(&[])),
            ("gone".to_owned(), ModelRoutes { configured: false, ..model(&[(1, State::End, None, false)]) }),
        ]))
    }

    #[test]
    fn a_service_is_as_its_models_and_the_phase() {
        use Standing::{NotServing, Serving, Unknown};
        let cases = [
            (Phase::Starting, "", NotServing),
            (Phase::Ready, "", Serving),
            (Phase::Leaving, "", NotServing),
            (Phase::Draining, "PredictionService", NotServing),
            (Phase::Ready, "tensorflow.serving.ModelService", Unknown),
            (Phase::Ready, "tensorflow.serving", Unknown),
            (Phase::Starting, "model/lazy", NotServing),
            (Phase::Ready, "model/lazy", Serving),
            (Phase::Ready, "model/slow", NotServing),
            (Phase::Ready, "model/bad", NotServing),
            (Phase::Ready, "model/empty", NotServing),
            (Phase::Ready, "model/gone", Unknown),
            (Phase::Ready, "model/", Unknown),
            (Phase::Ready, "lazy", Unknown),
            (Phase::Leaving, "model/lazy", NotServing),
        ];
        for (phase, service, wanted) in cases {
            assert_eq!(standing(Door::Main, phase, &routes(), service), wanted, "{phase:?} {service}");
        }
        for door in [Door::Admin, Door::Monitoring] {
            let full_name = "tensorflow.serving.ModelService";
            assert_eq!(standing(door, Phase::Ready, &routes(), full_name), Serving);
        }
    }

    #[test]
    fn reasons_are_told() {
        let report = Report::of(Phase::Starting, &routes());
        let text = "starting\nmodel bad version 1: END: INTERNAL: no op\nmodel empty: NO_VERSION\n\
                    model slow version 3: LOADING\n";
        assert_eq!(String::from_utf8(report.text()).as_deref(), Ok(text));
        let json = String::from_utf8(report.json()).expect("it is text");
        let wanted = "{\"ready\": false, \"phase\": \"starting\", \"models\": 4, \"available\": 1, \"unavailable\": [";
        assert!(json.starts_with(wanted), "{json}");
        assert!(json.contains("\"error\": \"INTERNAL: no\\nop\"}"), "{json}");
        assert!(Report::of(Phase::Ready, &routes()).is_ready(), "one bad model is not the server's end");
    }

    #[test]
    fn one_model_is_told_of() {
        let told = |phase, name: &str| {
            let one = OneModel::of(phase, &routes(), name)?;
            Some((one.is_ready(), String::from_utf8(one.text()).expect("it is text")))
        };
        assert_eq!(told(Phase::Ready, "lazy"), Some((true, "ready\n".to_owned())));
        assert_eq!(told(Phase::Ready, "empty"), Some((false, "not ready\nmodel empty: NO_VERSION\n".to_owned())));
        let starting = "starting\nmodel lazy version 1: START\n".to_owned();
        assert_eq!(told(Phase::Starting, "lazy"), Some((false, starting)));
        assert_eq!(told(Phase::Ready, "gone"), None);
        assert_eq!(told(Phase::Ready, "x"), None);
    }

    #[test]
    fn a_report_is_bounded() {
        let failed = || model(&[(1, State::End, Some(Status::internal("x".repeat(1 << 20))), false)]);
        let models = (0..1000).map(|number| (format!("{number:0>1000}"), failed())).collect();
        let report = Report::of(Phase::Starting, &Routes::new(models));
        assert_eq!(report.left_out(), 900);
        assert!(report.text().len() < 100 * 1024 && report.json().len() < 100 * 1024);
    }

    #[tokio::test]
    async fn phases_only_go_forward() {
        let health = Health::default();
        health.advance(Phase::Draining);
        health.advance(Phase::Ready);
        assert_eq!(health.phase(), Phase::Draining);
        health.drained().await;
    }
}
