//! `TensorProto`.

use std::sync::Arc;

use prost::Message;
use servable_core::{Code, DataType, Status, Tensor};
use servable_wire::fields::Malformed;
use servable_wire::messages::tensorflow::TensorProto;
use servable_wire::span::{Pieces, Span};
use servable_wire::tensor::{Form, TensorView, TensorWriter};

use super::memory::Bound;
use super::{LIMITS, check_message, cut, whole};

/// A byte of packed integers may be a value of eight; a byte of content may be an empty string, with a length and a place
/// of eight each. The constant: values that are filled in, and a little.
const BOUND: Bound = Bound { per_byte: 16, constant: LIMITS.max_repeated_bytes + (2 << 10) };

/// All that one may know of a tensor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) dtype: DataType,
    pub(crate) sizes: Vec<i64>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) strings: Vec<Vec<u8>>,
}

impl Contents {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Self {
            dtype: tensor.dtype(),
            sizes: tensor.shape().sizes().to_vec(),
            bytes: tensor.bytes().to_vec(),
            strings: strings(tensor),
        }
    }
}

pub(crate) fn strings(tensor: &Tensor) -> Vec<Vec<u8>> {
    tensor.string_values().map_or_else(Vec::new, |all| (0..all.len()).map(|index| all.get(index).into()).collect())
}

/// What became of bytes that are well formed.
pub(crate) type Outcome = Result<Contents, Status>;

/// Takes the tensor out of a view of it.
pub(crate) fn outcome(view: &TensorView<'_>, input: usize) -> Outcome {
    let tensor = BOUND.check(input, || view.to_tensor("x", &LIMITS));
    tensor.as_ref().map(Contents::of).map_err(Status::clone)
}

fn read(message: &Arc<Pieces>) -> Result<Outcome, Malformed> {
    let mut view = TensorView::default();
    BOUND.check(message.len(), || view.merge(Span::of(message)))?;
    Ok(outcome(&view, message.len()))
}

/// The same tensor, or refused all the same. One encoding may hold more than another: not both need be within the limits.
pub(crate) fn assert_agreement(ours: &Outcome, theirs: &TensorProto) {
    let again = read(&whole(&theirs.encode_to_vec())).expect("prost wrote it");
    let is_exhausted = |outcome: &Outcome| matches!(outcome, Err(status) if status.code == Code::ResourceExhausted);
    if !is_exhausted(ours) && !is_exhausted(&again) {
        assert_eq!(*ours, again, "prost reads {theirs:?}");
    }
}

/// Reads a tensor: alike in one piece and in many, alike to prost, and what was read can be written and read again.
///
/// Fields that no tensor needs are stepped over, so prost may refuse what is read here; never the other way round.
pub fn tensor_proto(data: &[u8]) {
    let ours = read(&whole(data));
    assert_eq!(ours, read(&cut(data)), "in one piece, and in many");
    if let Ok(theirs) = TensorProto::decode(data) {
        assert_agreement(ours.as_ref().expect("prost reads it"), &theirs);
    }
    match ours {
        Err(Malformed) => {}
        Ok(Err(status)) => check_message(&status),
        Ok(Ok(contents)) => check_writing(&contents, data),
    }
}

fn check_writing(contents: &Contents, data: &[u8]) {
    let message = whole(data);
    let mut view = TensorView::default();
    view.merge(Span::of(&message)).expect("it was read before");
    let tensor = view.to_tensor("x", &LIMITS).expect("it was read before");
    for form in [Form::Typed, Form::Content] {
        let writer = TensorWriter::new(&tensor, form);
        let mut written = Vec::new();
        writer.write(&mut written);
        assert_eq!(written.len(), writer.len(), "{form:?}");
        TensorProto::decode(&*written).expect("prost reads what was written");
        let again = read(&whole(&written)).expect("it was written just now");
        assert_eq!(again.as_ref(), Ok(contents), "{form:?}");
    }
}
