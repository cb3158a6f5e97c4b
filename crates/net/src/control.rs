//! Calls from the network that the control plane answers.

use bytes::Bytes;
use servable_core::{Code, Status};
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
        () = app.health.drained() => Err(Status::new(Code::Unavailable, "the server is stopping")),
    }
}
