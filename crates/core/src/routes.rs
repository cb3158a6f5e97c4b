//! Which servable answers a request: an immutable table, replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::servable::Servable;
use crate::status::{Code, Status};

const LABELS_REFUSED: &str = "ModelSpec has 'version_label' set, but it is not currently allowed by the server.";

/// Which version a request wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The highest one that is loaded.
    #[default]
    Latest,
    Version(i64),
    Label(String),
}

/// Whom a request is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec {
    pub name: String,
    pub choice: Choice,
    /// Empty for `serving_default`.
    pub signature_name: String,
}

/// Where a version stands, numbered as `ModelVersionStatus.State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum State {
    Start = 10,
    Loading = 20,
    Available = 30,
    Unloading = 40,
    End = 50,
}

const STATES: [(State, &str); 5] = [
    (State::Start, "START"),
    (State::Loading, "LOADING"),
    (State::Available, "AVAILABLE"),
    (State::Unloading, "UNLOADING"),
    (State::End, "END"),
];

impl State {
    pub fn from_name(name: &str) -> Option<Self> {
        STATES.iter().find(|(_, known)| *known == name).map(|(state, _)| *state)
    }

    pub fn name(self) -> &'static str {
        STATES[self as usize / 10 - 1].1
    }
}

/// What is known of one version.
#[derive(Clone)]
pub struct VersionStatus {
    pub state: State,
    /// Why it ended, if something went wrong.
    pub error: Option<Status>,
    /// There while requests may reach it.
    pub servable: Option<Arc<Servable>>,
    /// It is loaded when it is asked for.
    pub on_demand: bool,
    /// What it is reckoned to take; 0 if that is not known.
    pub memory_bytes: u64,
    /// Why it is not there yet; for people.
    pub remark: String,
}

impl VersionStatus {
    /// The servable of this version of a model. `None` if there is none and none is to be expected.
    ///
    /// A version that is asleep is an error that says so; one that did not wake up tells why.
    fn awake(&self, name: &str, version: i64) -> Option<Result<Arc<Servable>, Status>> {
        match (&self.servable, &self.error) {
            (Some(servable), _) => Some(Ok(Arc::clone(servable))),
            (None, Some(error)) if self.on_demand => Some(Err(Status::new(
                Code::Unavailable,
                format!("Servable {{name: {name} version: {version}}} could not be loaded: {error}"),
            ))),
            (None, None) if self.on_demand => Some(Err(Status::asleep(name, version))),
            _ => None,
        }
    }
}

#[derive(Clone, Default)]
pub struct ModelRoutes {
    pub versions: BTreeMap<i64, VersionStatus>,
    pub labels: HashMap<String, i64>,
    /// It is to be served; otherwise it was, and its versions' states can still be asked for.
    pub configured: bool,
}

/// The table of one moment.
#[derive(Clone, Default)]
pub struct Routes {
    pub models: HashMap<String, ModelRoutes>,
    /// Whether requests may have to wait for a version to be loaded.
    pub has_on_demand: bool,
    /// Requests may not name versions by label.
    pub refuses_labels: bool,
}

impl Routes {
    pub fn new(models: HashMap<String, ModelRoutes>) -> Self {
        let has_on_demand = models.values().any(|model| model.versions.values().any(|version| version.on_demand));
        Self { models, has_on_demand, refuses_labels: false }
    }

    /// The servable for a request; the `Arc` keeps it loaded until the request is done.
    ///
    /// `INVALID_ARGUMENT` for an empty name or unknown label, `NOT_FOUND` where nothing is loaded. `UNAVAILABLE` where
    /// something is loaded on demand: the status tells what.
    pub fn resolve(&self, name: &str, choice: &Choice) -> Result<Arc<Servable>, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("ModelSpec has no name specified."));
        }
        let model = self.models.get(name);
        let version = match choice {
            Choice::Latest => {
                let known = model.into_iter().flat_map(|model| model.versions.iter().rev());
                let mut refusal = None;
                for outcome in known.filter_map(|(version, status)| status.awake(name, *version)) {
                    match outcome {
                        // One that could not be loaded: an older one that can answer does so.
                        Err(status) if status.asleep.is_none() => refusal = refusal.or(Some(status)),
                        outcome => return outcome,
                    }
                }
                return Err(refusal
                    .unwrap_or_else(|| Status::not_found(format!("Servable not found for request: Latest({name})"))));
            }
            Choice::Version(version) => *version,
            Choice::Label(_) if self.refuses_labels => {
                return Err(Status::invalid_argument(LABELS_REFUSED));
            }
            Choice::Label(label) => *model
                .and_then(|model| model.labels.get(label))
                .ok_or_else(|| Status::invalid_argument(format!("Unrecognized servable version label: {label}")))?,
        };
        model.and_then(|model| model.versions.get(&version)?.awake(name, version)).unwrap_or_else(|| {
            Err(Status::not_found(format!("Servable not found for request: Specific({name}, {version})")))
        })
    }

    /// Whether a version still has to be loaded for those who wait for it.
    pub fn is_asleep(&self, name: &str, version: i64) -> bool {
        let status = self.models.get(name).and_then(|model| model.versions.get(&version));
        status.is_some_and(|status| status.on_demand && status.servable.is_none() && status.error.is_none())
    }

    /// What is known of one version, or of all, newest first. `NOT_FOUND` if that is nothing.
    pub fn status(&self, name: &str, version: Option<i64>) -> Result<Vec<(i64, &VersionStatus)>, Status> {
        let versions = self.models.get(name).map(|model| &model.versions);
        if let Some(version) = version {
            let known = versions.and_then(|versions| versions.get(&version));
            return known
                .map(|status| vec![(version, status)])
                .ok_or_else(|| Status::not_found(format!("Could not find version {version} of model {name}")));
        }
        match versions {
            Some(versions) if !versions.is_empty() => {
                Ok(versions.iter().rev().map(|(version, status)| (*version, status)).collect())
            }
            _ => Err(Status::not_found(format!("Could not find any versions of model {name}"))),
        }
    }
}

/// The table in force. Readers never wait; a replaced table lives until its last reader is done.
#[derive(Default)]
pub struct RouteTable {
    routes: ArcSwap<Routes>,
    changed: Notify,
}

impl RouteTable {
    pub fn publish(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
        self.changed.notify_waiters();
    }

    /// Done when another table has been published since this was called.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub fn current(&self) -> impl std::ops::Deref<Target = Arc<Routes>> {
        self.routes.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servable::{Description, Placement, Session};
    use crate::signature::Endpoint;
    use crate::status::Code;
    use crate::tensor::Tensor;

    struct Nothing;

    impl Session for Nothing {
        fn run(&self, _: &[(Endpoint, Tensor)], _: &[Endpoint], _: Placement) -> Result<Vec<Tensor>, Status> {
            Ok(Vec::new())
        }
    }

    fn routes() -> Routes {
        let loaded = |version| VersionStatus {
            state: State::Available,
            error: None,
            on_demand: false,
            memory_bytes: 0,
            remark: String::new(),
            servable: Some(Arc::new(Servable::new(
                "m".into(),
                version,
                Description::default(),
                Vec::new(),
                Box::new(Nothing),
            ))),
        };
        let failed = VersionStatus {
            state: State::End,
            error: Some(Status::internal("broken")),
            servable: None,
            on_demand: false,
            memory_bytes: 0,
            remark: String::new(),
        };
        let versions = BTreeMap::from([(1, loaded(1)), (2, loaded(2)), (3, failed)]);
        let labels = HashMap::from([("stable".to_owned(), 1), ("gone".to_owned(), 3)]);
        Routes::new(HashMap::from([("m".to_owned(), ModelRoutes { versions, labels, configured: true })]))
    }

    #[test]
    fn requests_reach_the_version_they_ask_for() {
        let label = |label: &str| Choice::Label(label.to_owned());
        let cases = [
            ("m", Choice::Latest, Ok(2)),
            ("m", Choice::Version(1), Ok(1)),
            ("m", label("stable"), Ok(1)),
            ("m", Choice::Version(3), Err((Code::NotFound, "Servable not found for request: Specific(m, 3)"))),
            ("m", label("gone"), Err((Code::NotFound, "Servable not found for request: Specific(m, 3)"))),
            ("m", label("x"), Err((Code::InvalidArgument, "Unrecognized servable version label: x"))),
            ("n", label("x"), Err((Code::InvalidArgument, "Unrecognized servable version label: x"))),
            ("n", Choice::Latest, Err((Code::NotFound, "Servable not found for request: Latest(n)"))),
            ("", Choice::Latest, Err((Code::InvalidArgument, "ModelSpec has no name specified."))),
        ];
        let routes = routes();
        for (name, choice, wanted) in cases {
            let got = routes.resolve(name, &choice).map(|servable| servable.version());
            assert_eq!(got, wanted.map_err(|(code, message)| Status::new(code, message)), "{name} {choice:?}");
        }
    }

    #[test]
    fn labels_may_be_off() {
        let routes = Routes { refuses_labels: true, ..routes() };
        let refused = routes.resolve("m", &Choice::Label("stable".into())).map(|servable| servable.version());
        assert_eq!(refused, Err(Status::invalid_argument(LABELS_REFUSED)));
        assert!(routes.resolve("m", &Choice::Latest).is_ok());
    }

    #[test]
    fn status_tells_of_ended_versions_too() {
        let routes = routes();
        let all: Vec<i64> = routes.status("m", None).expect("known").iter().map(|(version, _)| *version).collect();
        assert_eq!(all, [3, 2, 1]);
        assert!(routes.status("m", Some(9)).is_err());
        assert!(routes.status("n", None).is_err());
    }

    #[test]
    fn a_request_in_flight_keeps_its_version() {
        let table = RouteTable::default();
        table.publish(routes());
        let held = table.current().resolve("m", &Choice::Latest).expect("loaded");
        table.publish(Routes::default());
        assert!(table.current().resolve("m", &Choice::Latest).is_err());
        assert_eq!(Arc::strong_count(&held), 1, "only the request holds it now");
    }
}
