//! `PredictRequest` and `PredictResponse`.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BufMut;
use servable_core::routes::Choice;
use servable_core::{Status, Tensor};

use crate::fields::{Field, Fields, Malformed};
use crate::span::{Pieces, Span};
use crate::tensor::{Form, TensorView, TensorWriter, delimited, start};

mod number {
    pub(super) const REQUEST_SPEC: u32 = 1;
    pub(super) const REQUEST_INPUTS: u32 = 2;
    pub(super) const REQUEST_FILTER: u32 = 3;
    pub(super) const RESPONSE_OUTPUTS: u32 = 1;
    pub(super) const RESPONSE_SPEC: u32 = 2;
    /// `SessionRunResponse.model_spec`.
    pub(super) const RAN_SPEC: u32 = 3;
    pub(super) const SPEC_NAME: u32 = 1;
    pub(super) const SPEC_VERSION: u32 = 2;
    pub(super) const SPEC_SIGNATURE: u32 = 3;
    pub(super) const SPEC_LABEL: u32 = 4;
    pub(super) const WRAPPED: u32 = 1;
    pub(super) const ENTRY_KEY: u32 = 1;
    pub(super) const ENTRY_VALUE: u32 = 2;
}

/// Inputs, and outputs asked for, that a request may name: far more than any signature has.
pub(crate) const MOST_NAMES: usize = 4096;

/// A `ModelSpec` in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecView<'a> {
    pub name: Cow<'a, str>,
    pub choice: Choice,
    /// Empty for `serving_default`.
    pub signature_name: Cow<'a, str>,
}

/// A `PredictRequest` in place; tensors are found, not yet read.
#[derive(Debug, Default)]
pub struct PredictView<'a> {
    pub spec: Option<SpecView<'a>>,
    pub inputs: Vec<(Cow<'a, str>, TensorView<'a>)>,
    pub output_filter: Vec<Cow<'a, str>>,
    /// Whether there were more names than anybody needs; those beyond were not kept.
    has_too_many: bool,
}

impl<'a> SpecView<'a> {
    pub(crate) fn merge(&mut self, message: Span<'a>) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (number::SPEC_NAME, value) => self.name = value.text()?,
                (number::SPEC_SIGNATURE, value) => self.signature_name = value.text()?,
                (number::SPEC_LABEL, value) => self.choice = Choice::Label(value.text()?.into_owned()),
                (number::SPEC_VERSION, value) => {
                    // A second one is merged with the first.
                    let mut version = if let Choice::Version(before) = self.choice { before } else { 0 };
                    for field in Fields::of(value.bytes()?) {
                        if let (number::WRAPPED, value) = field? {
                            version = value.varint()? as i64;
                        }
                    }
                    self.choice = Choice::Version(version);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> PredictView<'a> {
    pub fn read(message: &'a Arc<Pieces>) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(Span::of(message)) {
            match field? {
                (number::REQUEST_SPEC, value) => {
                    request.spec.get_or_insert_default().merge(value.bytes()?)?;
                }
                (number::REQUEST_INPUTS | number::REQUEST_FILTER, _) if request.is_full() => {
                    request.has_too_many = true;
                }
                (number::REQUEST_INPUTS, value) => request.inputs.push(named_tensor(value)?),
                (number::REQUEST_FILTER, value) => request.output_filter.push(value.text()?),
                _ => {}
            }
        }
        request.keep_last_of_each_name();
        Ok(request)
    }

    /// `RESOURCE_EXHAUSTED` for a request that names more inputs or outputs than any model has.
    pub fn check_names(&self) -> Result<(), Status> {
        if self.has_too_many {
            return Err(too_many_names());
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.inputs.len() + self.output_filter.len() >= MOST_NAMES
    }

    /// An entry of a map that stands on the wire twice counts as it stands last.
    fn keep_last_of_each_name(&mut self) {
        if self.inputs.len() > 1 {
            self.inputs.reverse();
            self.inputs.sort_by(|a, b| a.0.cmp(&b.0)); // stable: the last of each name comes first
            self.inputs.dedup_by(|later, first| later.0 == first.0);
        }
    }
}

/// An entry of a map of tensors, or a `NamedTensorProto`, which has the same fields.
pub(crate) fn named_tensor(entry: Field<'_>) -> Result<(Cow<'_, str>, TensorView<'_>), Malformed> {
    let mut name = Cow::Borrowed("");
    let mut tensor = TensorView::default();
    for field in Fields::of(entry.bytes()?) {
        match field? {
            (number::ENTRY_KEY, value) => name = value.text()?,
            (number::ENTRY_VALUE, value) => tensor.merge(value.bytes()?)?,
            _ => {}
        }
    }
    Ok((name, tensor))
}

pub(crate) fn too_many_names() -> Status {
    Status::resource_exhausted(format!(
        "the request names more than {MOST_NAMES} inputs and outputs, the most that this server takes"
    ))
}

/// Which message is written. They differ only in the number of the field that the spec has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Predict,
    /// A `SessionRunResponse`: its tensors have the names that they were asked for by.
    SessionRun,
}

/// A `PredictResponse` or its like to be written: measured first, then written in one go.
pub struct PredictWriter<'a> {
    spec: u32,
    outputs: Vec<(&'a str, TensorWriter<'a>)>,
    name: &'a str,
    version: i64,
    signature_name: &'a str,
    length: usize,
}

impl<'a> PredictWriter<'a> {
    pub fn new(
        reply: Reply,
        outputs: impl Iterator<Item = (&'a str, &'a Tensor)>,
        form: Form,
        name: &'a str,
        version: i64,
        signature_name: &'a str,
    ) -> Self {
        let outputs: Vec<_> = outputs.map(|(name, tensor)| (name, TensorWriter::new(tensor, form))).collect();
        let spec = match reply {
            Reply::Predict => number::RESPONSE_SPEC,
            Reply::SessionRun => number::RAN_SPEC,
        };
        let mut writer = Self { spec, outputs, name, version, signature_name, length: 0 };
        writer.length = delimited(spec, writer.spec_length())
            + writer
                .outputs
                .iter()
                .map(|(name, tensor)| delimited(number::RESPONSE_OUTPUTS, entry_length(name, tensor)))
                .sum::<usize>();
        writer
    }

    /// Bytes of the whole message.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        false // the model spec is always written
    }

    fn spec_length(&self) -> usize {
        delimited(number::SPEC_NAME, self.name.len())
            + delimited(number::SPEC_VERSION, self.wrapped_length())
            + delimited(number::SPEC_SIGNATURE, self.signature_name.len())
    }

    fn wrapped_length(&self) -> usize {
        if self.version == 0 { 0 } else { prost::encoding::int64::encoded_len(number::WRAPPED, &self.version) }
    }

    pub fn write(&self, buffer: &mut impl BufMut) {
        for (name, tensor) in &self.outputs {
            start(number::RESPONSE_OUTPUTS, entry_length(name, tensor), buffer);
            write_text(number::ENTRY_KEY, name, buffer);
            start(number::ENTRY_VALUE, tensor.len(), buffer);
            tensor.write(buffer);
        }
        start(self.spec, self.spec_length(), buffer);
        write_text(number::SPEC_NAME, self.name, buffer);
        start(number::SPEC_VERSION, self.wrapped_length(), buffer);
        if self.version != 0 {
            prost::encoding::int64::encode(number::WRAPPED, &self.version, buffer);
        }
        write_text(number::SPEC_SIGNATURE, self.signature_name, buffer);
    }
}

fn entry_length(name: &str, tensor: &TensorWriter<'_>) -> usize {
    delimited(number::ENTRY_KEY, name.len()) + delimited(number::ENTRY_VALUE, tensor.len())
}

fn write_text(field: u32, text: &str, buffer: &mut impl BufMut) {
    start(field, text.len(), buffer);
    buffer.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;
    use servable_core::{DataType, Limits, Shape};

    use super::*;
    use crate::messages::tensorflow::serving::{ModelSpec, PredictRequest, PredictResponse, model_spec::VersionChoice};
    use crate::messages::tensorflow::{TensorProto, TensorShapeProto, tensor_shape_proto::Dim};

    fn message(bytes: Vec<u8>) -> Arc<Pieces> {
        Arc::new(bytes.into())
    }

    fn two_floats() -> TensorProto {
        let tensor_shape =
            Some(TensorShapeProto { dim: vec![Dim { size: 2, name: String::new() }], unknown_rank: false });
        TensorProto { dtype: 1, tensor_shape, float_val: vec![1.0, 2.0], ..TensorProto::default() }
    }

    #[test]
    fn a_request_is_read_as_prost_wrote_it() {
        let request = PredictRequest {
            model_spec: Some(ModelSpec {
                name: "m".into(),
                signature_name: "s".into(),
                version_choice: Some(VersionChoice::Version(7)),
            }),
            inputs: [("x".to_owned(), two_floats()), ("a".to_owned(), two_floats())].into(),
            output_filter: vec!["y".into()],
            client_id: Some(b"someone".to_vec()),
            ..PredictRequest::default()
        };
        let bytes = message(request.encode_to_vec());
        let view = PredictView::read(&bytes).expect("well formed");
        let spec = SpecView { name: "m".into(), choice: Choice::Version(7), signature_name: "s".into() };
        assert_eq!(view.spec, Some(spec));
        assert_eq!(view.output_filter, ["y"]);
        let names: Vec<_> = view.inputs.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["a", "x"]);
        assert_eq!(view.inputs[1].1.to_tensor("x", &Limits::default()).expect("valid").value_bytes(), 8);
    }

    #[test]
    fn the_last_of_two_entries_counts() {
        let one = |value: f32| {
            let tensor = TensorProto { dtype: 1, float_val: vec![value], ..TensorProto::default() };
            PredictRequest { inputs: [("x".to_owned(), tensor)].into(), ..PredictRequest::default() }.encode_to_vec()
        };
        let bytes = message([one(1.0), one(2.0)].concat());
        let view = PredictView::read(&bytes).expect("well formed");
        assert_eq!(view.inputs.len(), 1);
        let tensor = view.inputs[0].1.to_tensor("x", &Limits::default()).expect("valid");
        assert_eq!(tensor.bytes(), 2.0_f32.to_le_bytes());
    }

    #[test]
    fn names_beyond_all_need_are_not_kept() {
        let view = |count: usize| {
            let bytes = message(b"\x12\0\x1a\0".repeat(count));
            let view = PredictView::read(&bytes).expect("well formed");
            (view.inputs.len() + view.output_filter.len(), view.check_names().is_ok())
        };
        assert_eq!(view(MOST_NAMES / 2), (MOST_NAMES / 2 + 1, true), "the inputs have one name");
        assert_eq!(view(MOST_NAMES), (MOST_NAMES / 2 + 1, false));
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        for bytes in [&b"\xff\xff\xff"[..], b"\x0a\x05ab", b"\x1a\x01\xff", b"\x0a\x03\x0a\x01\xff"] {
            assert!(PredictView::read(&message(bytes.to_vec())).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn prost_reads_the_response() {
        let values = Arc::new([1.5_f32, -2.0].map(f32::to_le_bytes).concat());
        let tensor = Tensor::fixed(DataType::Float, Shape::new([2]).expect("valid"), values).expect("sizes agree");
        for version in [0, 7, i64::MAX] {
            let writer =
                PredictWriter::new(Reply::Predict, [("y", &tensor)].into_iter(), Form::Typed, "m", version, "s");
            let mut bytes = Vec::new();
            writer.write(&mut bytes);
            assert_eq!(bytes.len(), writer.len());
            let response = PredictResponse::decode(&*bytes).expect("well formed");
            assert_eq!(response.outputs["y"].float_val, [1.5, -2.0]);
            let spec = response.model_spec.expect("always there");
            assert_eq!(spec.version_choice, Some(VersionChoice::Version(version)));
            assert_eq!((spec.name.as_str(), spec.signature_name.as_str()), ("m", "s"));
        }
    }
}
