//! `ClassificationRequest`, `RegressionRequest` and `MultiInferenceRequest`.

use std::sync::Arc;

use prost::Message;
use servable_core::{Code, Status};
use servable_wire::examples::{ExamplesView, MultiView, TaskView};
use servable_wire::fields::{Fields, Malformed};
use servable_wire::messages::tensorflow::Example;
use servable_wire::messages::tensorflow::serving::{
    ClassificationRequest, ExampleList, Input, MultiInferenceRequest, input::Kind,
};
use servable_wire::span::{Pieces, Span};

use super::memory::Bound;
use super::predict::{Spec, prost_spec, spec};
use super::tensor::strings;
use super::{LIMITS, check_message, cut, whole};

/// Lists that are to be merged; with more of them, a request does not parse.
const MOST_LISTS: usize = 16;

/// Examples are counted where they lie. The constant: places of that many lists, which double as they grow, and a little.
const TASK_BOUND: Bound = Bound { per_byte: 4, constant: 4 << 10 };

/// A task of two bytes takes the room of a view, but at most 4097 of them do, in a list that doubles as it grows.
const TASKS_BOUND: Bound = Bound { per_byte: 4, constant: 5 << 18 };

/// An example of two bytes takes a place of eight, in a list that doubles as it grows. The constant: a context that is
/// repeated, and a little.
const EXAMPLES_BOUND: Bound = Bound { per_byte: 14, constant: LIMITS.max_repeated_bytes + (2 << 10) };

/// Serialised examples, or why there are none.
type Outcome = Result<Vec<Vec<u8>>, Status>;

#[derive(Debug, PartialEq)]
struct Request {
    /// The one of a request for a task, or that of each task with its method.
    specs: Vec<(Spec, String)>,
    examples: Outcome,
}

fn outcome(view: &ExamplesView<'_>, message: usize) -> Outcome {
    let tensor = EXAMPLES_BOUND.check(message, || view.to_tensor(&LIMITS));
    if let Err(status) = &tensor {
        assert_eq!(status.code, Code::ResourceExhausted, "{status}");
        check_message(status);
    }
    tensor.as_ref().map(strings).map_err(Status::clone)
}

fn read_task(message: &Arc<Pieces>) -> Result<Request, Malformed> {
    let view = TASK_BOUND.check(message.len(), || TaskView::read(message))?;
    let specs = view.spec.iter().map(|own| (spec(own), String::new())).collect();
    Ok(Request { specs, examples: outcome(&view.input, message.len()) })
}

/// `None` for more tasks than are kept.
fn read_tasks(message: &Arc<Pieces>) -> Result<Option<Request>, Malformed> {
    let view = TASKS_BOUND.check(message.len(), || MultiView::read(message))?;
    if view.check_tasks().is_err() {
        return Ok(None);
    }
    let specs = view.tasks.iter().map(|(own, method)| (spec(own), method.to_string())).collect();
    Ok(Some(Request { specs, examples: outcome(&view.input, message.len()) }))
}

/// Reads requests of both kinds: alike in one piece and in many, and alike to prost.
///
/// Fields that nobody needs are stepped over, so prost may refuse what is read here; never the other way round.
pub fn example_requests(data: &[u8]) {
    let (task, tasks) = (read_task(&whole(data)), read_tasks(&whole(data)));
    assert_eq!(task, read_task(&cut(data)), "in one piece, and in many");
    assert_eq!(tasks, read_tasks(&cut(data)), "in one piece, and in many");
    if lists(data) > MOST_LISTS {
        return;
    }
    if let Ok(theirs) = ClassificationRequest::decode(data) {
        let ours = task.expect("prost reads it");
        let specs: Vec<_> = theirs.model_spec.into_iter().map(|spec| (prost_spec(spec), String::new())).collect();
        assert_eq!(ours.specs, specs);
        assert_agreement(&ours.examples, theirs.input);
    }
    if let Ok(theirs) = MultiInferenceRequest::decode(data)
        && let Some(ours) = tasks.expect("prost reads it")
    {
        let tasks = theirs.tasks.into_iter();
        let specs: Vec<_> =
            tasks.map(|task| (prost_spec(task.model_spec.unwrap_or_default()), task.method_name)).collect();
        assert_eq!(ours.specs, specs);
        assert_agreement(&ours.examples, theirs.input);
    }
}

/// How many lists of examples, of either kind, stand in all inputs together.
fn lists(data: &[u8]) -> usize {
    let (input, kinds) = (2, 1..=2);
    let message = whole(data);
    let inputs = Fields::of(Span::of(&message)).filter_map(|field| match field {
        Ok((number, value)) if number == input => value.bytes().ok(),
        _ => None,
    });
    inputs.flat_map(Fields::of).filter(|field| matches!(field, Ok((number, _)) if kinds.contains(number))).count()
}

/// The same examples, unless there are too many.
fn assert_agreement(ours: &Outcome, theirs: Option<Input>) {
    let Ok(ours) = ours else {
        return;
    };
    let (examples, context) = match theirs.and_then(|input| input.kind) {
        None => (Vec::new(), None),
        Some(Kind::ExampleList(list)) => (list.examples, None),
        Some(Kind::ExampleListWithContext(list)) => (list.examples, list.context),
    };
    let before = context.unwrap_or_default().encode_to_vec();
    let theirs: Vec<_> =
        examples.iter().map(|example| example_text(&[&*before, &example.encode_to_vec()].concat())).collect();
    let ours: Vec<_> = ours.iter().map(|example| example_text(example)).collect();
    assert_eq!(ours, theirs);
}

/// An example as text, where NaN is like NaN and features stand in order.
fn example_text(bytes: &[u8]) -> Vec<String> {
    let features = Example::decode(bytes).expect("an example").features.unwrap_or_default();
    let mut texts: Vec<_> = features.feature.iter().map(|feature| format!("{feature:?}")).collect();
    texts.sort();
    texts
}

/// Serialised examples go to the server as they are, and come out as they went in.
pub(crate) fn assert_examples(examples: &[Vec<u8>]) {
    let examples_of = |example: &Vec<u8>| Example::decode(&**example).expect("an example");
    let list = ExampleList { examples: examples.iter().map(examples_of).collect() };
    let input = Some(Input { kind: Some(Kind::ExampleList(list)) });
    let request = ClassificationRequest { model_spec: None, input: input.clone() };
    let read = read_task(&whole(&request.encode_to_vec())).expect("prost wrote it");
    assert_agreement(&read.examples, input);
}
