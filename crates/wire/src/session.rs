//! `SessionRunRequest`: tensors of the graph by name, whatever the signatures say.

use std::borrow::Cow;
use std::sync::Arc;

use servable_core::Status;

use crate::fields::{Fields, Malformed};
use crate::predict::{MOST_NAMES, SpecView, named_tensor, too_many_names};
use crate::span::{Pieces, Span};
use crate::tensor::TensorView;

mod number {
    pub(super) const SPEC: u32 = 1;
    pub(super) const FEED: u32 = 2;
    pub(super) const FETCH: u32 = 3;
    pub(super) const TARGET: u32 = 4;
    pub(super) const IS_ALIAS: u32 = 6;
}

/// A `SessionRunRequest` in place. Its `options` are ignored, as the protocol says.
#[derive(Debug, Default)]
pub struct SessionRunView<'a> {
    pub spec: Option<SpecView<'a>>,
    pub feeds: Vec<(Cow<'a, str>, TensorView<'a>)>,
    pub fetches: Vec<Cow<'a, str>>,
    pub targets: Vec<Cow<'a, str>>,
    /// Names are those of a signature.
    pub is_alias: bool,
    has_too_many: bool,
}

impl<'a> SessionRunView<'a> {
    pub fn read(message: &'a Arc<Pieces>) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(Span::of(message)) {
            let is_full = request.feeds.len() + request.fetches.len() + request.targets.len() >= MOST_NAMES;
            match field? {
                (number::SPEC, value) => request.spec.get_or_insert_default().merge(value.bytes()?)?,
                (number::FEED..=number::TARGET, _) if is_full => request.has_too_many = true,
                (number::FEED, value) => request.feeds.push(named_tensor(value)?),
                (number::FETCH, value) => request.fetches.push(value.text()?),
                (number::TARGET, value) => request.targets.push(value.text()?),
                (number::IS_ALIAS, value) => request.is_alias = value.varint()? != 0,
                _ => {}
            }
        }
        Ok(request)
    }

    /// `RESOURCE_EXHAUSTED` for a request that names more than any graph needs.
    pub fn check_names(&self) -> Result<(), Status> {
        if self.has_too_many { Err(too_many_names()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use servable_core::{DataType, Limits, Shape, Tensor};

    use super::*;
    use crate::messages::tensorflow::serving::{ModelSpec, SessionRunRequest, SessionRunResponse};
    use crate::messages::tensorflow::{NamedTensorProto, TensorProto};
    use crate::predict::{PredictWriter, Reply};
    use crate::tensor::Form;

    #[test]
    fn prost_writes_what_is_read() {
        let tensor = TensorProto { dtype: 1, float_val: vec![1.5], ..TensorProto::default() };
        let request = SessionRunRequest {
            model_spec: Some(ModelSpec { name: "m".into(), ..ModelSpec::default() }),
            feed: vec![NamedTensorProto { name: "x:0".into(), tensor: Some(tensor) }],
            fetch: vec!["y:0".into(), "z:1".into()],
            target: vec!["init".into()],
            tensor_name_is_alias: true,
            ..SessionRunRequest::default()
        };
        let message = Arc::new(Pieces::from(request.encode_to_vec()));
        let view = SessionRunView::read(&message).expect("well formed");
        assert_eq!(view.spec.as_ref().expect("it is there").name, "m");
        assert_eq!(
            (view.feeds[0].0.as_ref(), view.fetches.len(), view.targets.as_slice()),
            ("x:0", 2, &["init".into()][..])
        );
        assert_eq!(view.feeds[0].1.to_tensor("x:0", &Limits::default()).expect("valid").value_bytes(), 4);
        assert!(view.is_alias && view.check_names().is_ok());
    }

    #[test]
    fn prost_reads_what_is_written() {
        let values = Arc::new(1.5_f32.to_le_bytes());
        let tensor = Tensor::fixed(DataType::Float, Shape::scalar(), values).expect("sizes agree");
        let writer = PredictWriter::new(Reply::SessionRun, [("y:0", &tensor)].into_iter(), Form::Typed, "m", 7, "");
        let mut bytes = Vec::new();
        writer.write(&mut bytes);
        assert_eq!(bytes.len(), writer.len());
        let response = SessionRunResponse::decode(&*bytes).expect("well formed");
        assert_eq!(response.tensor[0].name, "y:0");
        assert_eq!(response.tensor[0].tensor.as_ref().expect("it is there").float_val, [1.5]);
        assert_eq!(response.model_spec.expect("it is there").name, "m");
    }

    #[test]
    fn a_flood_of_names_is_not_kept() {
        let message = Arc::new(Pieces::from(b"\x22\0".repeat(3 * MOST_NAMES)));
        let view = SessionRunView::read(&message).expect("well formed");
        assert_eq!((view.targets.len(), view.check_names().is_err()), (MOST_NAMES, true));
    }
}
