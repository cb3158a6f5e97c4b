//! `PredictRequest`, and `SessionRunRequest`, which is much the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use servable_core::predict::bind;
use servable_core::routes::Choice;
use servable_core::{DataType, Status};
use servable_wire::fields::{Fields, Malformed};
use servable_wire::messages::tensorflow::serving::{
    ModelSpec, PredictRequest, SessionRunRequest, model_spec::VersionChoice,
};
use servable_wire::predict::{PredictView, SpecView};
use servable_wire::session::SessionRunView;
use servable_wire::span::{Pieces, Span};
use servable_wire::tensor::TensorView;

use super::json::signature;
use super::memory::Bound;
use super::tensor::{Outcome, assert_agreement, outcome};
use super::{LIMITS, cut, whole};

/// Names are found in place; text that is cut is joined. The constant: an input of two bytes takes the room of a view, but
/// at most 4096 of them do, in a list that doubles as it grows.
const BOUND: Bound = Bound { per_byte: 4, constant: 5 << 18 };

/// Encodings of one tensor that are merged; a request with more is refused.
const MOST_ENCODINGS: usize = 16;

/// Which servable a request is for: name, version and signature.
pub(crate) type Spec = (String, Choice, String);

pub(crate) fn spec(view: &SpecView<'_>) -> Spec {
    (view.name.to_string(), view.choice.clone(), view.signature_name.to_string())
}

pub(crate) fn prost_spec(spec: ModelSpec) -> Spec {
    let choice = match spec.version_choice {
        None => Choice::Latest,
        Some(VersionChoice::Version(version)) => Choice::Version(version),
        Some(VersionChoice::VersionLabel(label)) => Choice::Label(label),
    };
    (spec.name, choice, spec.signature_name)
}

#[derive(Debug, PartialEq)]
struct Request {
    spec: Option<Spec>,
    inputs: BTreeMap<String, Outcome>,
    output_filter: Vec<String>,
    names: Result<(), Status>,
}

fn read(message: &Arc<Pieces>) -> Result<Request, Malformed> {
    let view = BOUND.check(message.len(), || PredictView::read(message))?;
    // One at a time: the limits are for each.
    let inputs = view.inputs.iter().map(|(name, tensor)| (name.to_string(), outcome(tensor, message.len()))).collect();
    let request = Request {
        spec: view.spec.as_ref().map(spec),
        inputs,
        output_filter: view.output_filter.iter().map(ToString::to_string).collect(),
        names: view.check_names(),
    };
    let signature = signature(&[("a", DataType::Float), ("x", DataType::String)]);
    // Whether it fits the signature is not the question here, only that it is one that can be asked.
    let _ = bind(&signature, view.inputs, &view.output_filter, |slot, tensor| tensor.to_tensor(&slot.name, &LIMITS));
    Ok(request)
}

/// Reads a request: alike in one piece and in many, and alike to prost.
///
/// Two differences are meant: of too many names not all are kept, and a tensor in too many encodings is refused.
pub fn predict_request(data: &[u8]) {
    let ours = read(&whole(data));
    assert_eq!(ours, read(&cut(data)), "in one piece, and in many");
    let Ok(theirs) = PredictRequest::decode(data) else {
        return;
    };
    if most_encodings(data) > MOST_ENCODINGS {
        return;
    }
    let ours = ours.expect("prost reads it");
    assert_eq!(ours.spec, theirs.model_spec.map(prost_spec));
    if ours.names.is_err() {
        return;
    }
    assert_eq!(ours.output_filter, theirs.output_filter);
    assert_eq!(ours.inputs.len(), theirs.inputs.len());
    for (name, tensor) in &theirs.inputs {
        assert_agreement(ours.inputs.get(name).expect("an input that prost finds"), tensor);
    }
}

#[derive(Debug, PartialEq)]
struct Run {
    spec: Option<Spec>,
    feeds: Vec<(String, Outcome)>,
    fetches: Vec<String>,
    targets: Vec<String>,
    is_alias: bool,
    names: Result<(), Status>,
}

fn read_run(message: &Arc<Pieces>) -> Result<Run, Malformed> {
    let view = BOUND.check(message.len(), || SessionRunView::read(message))?;
    let feed = |(name, tensor): &(Cow<'_, str>, TensorView<'_>)| (name.to_string(), outcome(tensor, message.len()));
    Ok(Run {
        spec: view.spec.as_ref().map(spec),
        feeds: view.feeds.iter().map(feed).collect(),
        fetches: view.fetches.iter().map(ToString::to_string).collect(),
        targets: view.targets.iter().map(ToString::to_string).collect(),
        is_alias: view.is_alias,
        names: view.check_names(),
    })
}

/// Reads a request to run a part of a graph: alike in one piece and in many, and alike to prost but for the differences
/// that requests to predict have.
pub fn session_run(data: &[u8]) {
    let ours = read_run(&whole(data));
    assert_eq!(ours, read_run(&cut(data)), "in one piece, and in many");
    let Ok(theirs) = SessionRunRequest::decode(data) else {
        return;
    };
    if most_encodings(data) > MOST_ENCODINGS {
        return;
    }
    let ours = ours.expect("prost reads it");
    assert_eq!((ours.spec, ours.is_alias), (theirs.model_spec.map(prost_spec), theirs.tensor_name_is_alias));
    if ours.names.is_err() {
        return;
    }
    assert_eq!((ours.fetches, ours.targets), (theirs.fetch, theirs.target));
    assert_eq!(ours.feeds.len(), theirs.feed.len());
    for ((name, tensor), theirs) in ours.feeds.iter().zip(theirs.feed) {
        assert_eq!(*name, theirs.name);
        assert_agreement(tensor, &theirs.tensor.unwrap_or_default());
    }
}

/// How many values the entry of an input or a feed has, where it has most.
fn most_encodings(data: &[u8]) -> usize {
    let (inputs, value) = (2, 2);
    let message = whole(data);
    let count = |entry: Span<'_>| {
        Fields::of(entry).filter(|field| matches!(field, Ok((number, _)) if *number == value)).count()
    };
    let entries = Fields::of(Span::of(&message)).filter_map(|field| match field {
        Ok((number, entry)) if number == inputs => entry.bytes().ok(),
        _ => None,
    });
    entries.map(count).max().unwrap_or(0)
}
