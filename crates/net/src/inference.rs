//! gRPC calls over examples: Classify, Regress, MultiInference.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use servable_core::examples::{Computed, Task};
use servable_core::servable::{Caller, Servable};
use servable_core::signature::DEFAULT_SIGNATURE;
use servable_core::usage::Api;
use servable_core::{Signature, Status, Tensor};
use servable_wire::examples::{ExamplesView, MultiView, TaskView};
use servable_wire::messages::tensorflow::serving::inference_result::Result as TaskResult;
use servable_wire::messages::tensorflow::serving::model_spec::VersionChoice;
use servable_wire::messages::tensorflow::serving::{
    Class, ClassificationResponse, ClassificationResult, Classifications, InferenceResult, ModelSpec,
    MultiInferenceResponse, Regression, RegressionResponse, RegressionResult,
};
use servable_wire::predict::SpecView;

use crate::access::Right;
use crate::app::{App, Planned, Settings};
use crate::exchange::Exchange;
use crate::framing::framed_message;
use crate::grpc::{Received, missing_spec};

/// Answers Classify or Regress.
pub(crate) async fn run_task(app: Arc<App>, received: Received, task: Task) -> Result<Bytes, Status> {
    let Received { message, share, terms, exchange } = received;
    let (length, progress) = (message.len(), Arc::clone(&exchange.progress));
    let planned = {
        let app = Arc::clone(&app);
        move || plan_task(&app, &exchange, task, TaskView::read(&message)?)
    };
    let planned = app.work(length, terms.deadline, planned).await??;
    share.hold(planned.memory_bytes())?;
    let servable = Arc::clone(&planned.servable);
    let mut computed = app.run_tasks(planned, Caller::waiting(terms, share, progress)).await?;
    let (signature, computed) =
        computed.pop().ok_or_else(|| Status::internal("a task without a result: this is a bug"))?;
    let model_spec = Some(echoed(&servable, signature));
    match computed {
        Computed::Classes(classes) => {
            framed_message(&ClassificationResponse { result: Some(classification(classes)), model_spec })
        }
        Computed::Values(values) => {
            framed_message(&RegressionResponse { result: Some(regression(values)), model_spec })
        }
    }
}

fn plan_task(app: &App, exchange: &Exchange, task: Task, request: TaskView<'_>) -> Result<Planned, Status> {
    let spec = request.spec.ok_or_else(missing_spec)?;
    let servable = app.resolve(exchange, Right::Predict, &spec.name, &spec.choice)?;
    let signature = app.task_signature(&servable, &spec.signature_name, task)?;
    exchange.means(signature.index());
    Planned::new(&servable, &[(task, signature)], &examples(app, exchange, &request.input)?)
}

/// Answers MultiInference: all tasks in one run. The first one says which version of the model that is.
pub(crate) async fn run_tasks(app: Arc<App>, received: Received) -> Result<Bytes, Status> {
    let Received { message, share, terms, exchange } = received;
    let (length, progress) = (message.len(), Arc::clone(&exchange.progress));
    let planned = {
        let app = Arc::clone(&app);
        move || plan_tasks(&app, &exchange, &MultiView::read(&message)?)
    };
    let planned = app.work(length, terms.deadline, planned).await??;
    share.hold(planned.memory_bytes())?;
    let servable = Arc::clone(&planned.servable);
    let computed = app.run_tasks(planned, Caller::waiting(terms, share, progress)).await?;
    framed_message(&multi_response(&servable, computed))
}

fn plan_tasks(app: &App, exchange: &Exchange, request: &MultiView<'_>) -> Result<Planned, Status> {
    let (first, _) = request.tasks.first().ok_or_else(no_task)?;
    for (spec, _) in &request.tasks {
        app.allow(exchange, Right::Predict, &spec.name)?;
    }
    let servable = app.resolve(exchange, Right::Predict, &first.name, &first.choice)?;
    let tasks = checked_tasks(&servable, request, &app.settings)?;
    if let [(_, signature), ..] = tasks[..] {
        exchange.means(signature.index());
    }
    Planned::new(&servable, &tasks, &examples(app, exchange, &request.input)?)
}

/// The examples of a request, for which there has to be room before they are made.
fn examples(app: &App, exchange: &Exchange, input: &ExamplesView<'_>) -> Result<Tensor, Status> {
    let mut made = exchange.made();
    input.to_tensor_within(&app.settings.limits, &mut |bytes| made.add(bytes))
}

pub(crate) fn no_task() -> Status {
    Status::invalid_argument("ModelSpec has no name specified.")
}

/// What is to be done with which signature, in the order of checks that clients know.
pub(crate) fn checked_tasks<'a>(
    servable: &'a Servable,
    request: &MultiView<'_>,
    settings: &Settings,
) -> Result<Vec<(Task, &'a Signature)>, Status> {
    request.check_tasks()?;
    let mut seen = HashSet::new();
    let model = request.tasks.first().map_or("", |(spec, _)| &spec.name);
    let check = |(spec, method): &(SpecView<'_>, Cow<'_, str>)| {
        if spec.name.is_empty() {
            return Err(Status::invalid_argument("Found ModelSpec with an empty model name."));
        }
        if spec.name != model {
            return Err(Status::invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            ));
        }
        let name = if spec.signature_name.is_empty() { DEFAULT_SIGNATURE } else { &spec.signature_name };
        if !seen.insert(name.to_owned()) {
            return Err(Status::invalid_argument(format!("Duplicate evaluation of signature: {name}")));
        }
        let signature = servable
            .signature(name)
            .ok_or_else(|| Status::invalid_argument(format!("Requested signature not found in model graph: {name}")))?;
        let task = Task::from_method_name(method)
            .ok_or_else(|| Status::unimplemented(format!("Unsupported signature method_name: {method}")))?;
        task.check(signature, settings.check_method_names)?;
        Ok((task, signature))
    };
    request.tasks.iter().map(check).collect()
}

/// The message that answers such a request, serialised.
pub(crate) fn response(servable: &Servable, api: Api, computed: &[(String, Computed)]) -> Vec<u8> {
    if api == Api::MultiInference {
        return multi_response(servable, computed.to_vec()).encode_to_vec();
    }
    match computed.first() {
        Some((signature, Computed::Classes(classes))) => ClassificationResponse {
            result: Some(classification(classes.clone())),
            model_spec: Some(echoed(servable, signature.clone())),
        }
        .encode_to_vec(),
        Some((signature, Computed::Values(values))) => RegressionResponse {
            result: Some(regression(values.clone())),
            model_spec: Some(echoed(servable, signature.clone())),
        }
        .encode_to_vec(),
        None => Vec::new(),
    }
}

fn multi_response(servable: &Servable, computed: Vec<(String, Computed)>) -> MultiInferenceResponse {
    let results = computed.into_iter().map(|(signature, computed)| InferenceResult {
        model_spec: Some(echoed(servable, signature)),
        result: Some(match computed {
            Computed::Classes(classes) => TaskResult::ClassificationResult(classification(classes)),
            Computed::Values(values) => TaskResult::RegressionResult(regression(values)),
        }),
    });
    MultiInferenceResponse { results: results.collect() }
}

fn echoed(servable: &Servable, signature_name: String) -> ModelSpec {
    ModelSpec {
        name: servable.name().to_owned(),
        signature_name,
        version_choice: Some(VersionChoice::Version(servable.version())),
    }
}

/// Labels that are not UTF-8 cannot stand in a message: what is wrong in them is replaced.
fn classification(rows: Vec<Vec<servable_core::examples::Class>>) -> ClassificationResult {
    let class = |class: servable_core::examples::Class| Class {
        label: String::from_utf8(class.label)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        score: class.score,
    };
    let classifications = rows.into_iter().map(|row| Classifications { classes: row.into_iter().map(class).collect() });
    ClassificationResult { classifications: classifications.collect() }
}

fn regression(values: Vec<f32>) -> RegressionResult {
    RegressionResult { regressions: values.into_iter().map(|value| Regression { value }).collect() }
}
