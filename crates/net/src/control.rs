//! Calls from the network that the control plane answers.

use bytes::Bytes;
use prost::Message;
use servable_core::status::Asleep;
use servable_core::{Code, Status};
use servable_wire::messages::tensorflow::serving::ModelSpec;
use servable_wire::messages::tensorflow::serving::model_spec::VersionChoice;
use tokio::sync::oneshot;

use crate::app::App;

/// A call that waits for the control plane. Dropped without an answer, it fails.
pub struct ControlCall {
    /// The RPC's name, or verb and target of a REST request.
    pub method: String,
    /// The serialised request message, or the body.
    pub request: Bytes,
    answer: oneshot::Sender<Result<Bytes, Status>>,
}

impl ControlCall {
    /// The answer is lost if the caller has gone; nobody needs it then.
    pub fn answer(self, answer: Result<Bytes, Status>) {
        let _ = self.answer.send(answer);
    }
}

/// Tells the control plane that a request waits for a version, unless it is too busy to listen.
pub(crate) fn tell_load(app: &App, asleep: &Asleep) {
    let spec = ModelSpec {
        name: asleep.name.clone(),
        version_choice: Some(VersionChoice::Version(asleep.version)),
        ..ModelSpec::default()
    };
    let (answer, _) = oneshot::channel(); // the routes will tell
    let _ =
        app.control.try_send(ControlCall { method: "Load".to_owned(), request: spec.encode_to_vec().into(), answer });
}

/// What those who wait are told when the server drains.
pub(crate) fn stopping() -> Status {
    Status::new(Code::Unavailable, "the server is stopping")
}

/// Hands a call to the control plane and waits for its answer.
pub(crate) async fn ask(app: &App, method: &str, request: Bytes) -> Result<Bytes, Status> {
    let (answer, answered) = oneshot::channel();
    app.control
        .try_send(ControlCall { method: method.to_owned(), request, answer })
        .map_err(|_| Status::resource_exhausted(format!("too many {method} calls are waiting")))?;
    tokio::select! {
        answer = answered => {
            answer.unwrap_or_else(|_| Err(Status::internal(format!("{method} was dropped without an answer"))))
        }
        // It may wait for models that do not come; the drain must not wait for it.
        () = app.health.drained() => Err(stopping()),
    }
}
