//! Requests over `tensorflow.Example`s: `ClassificationRequest`, `RegressionRequest`, `MultiInferenceRequest`.
//!
//! Examples stay bytes. They are walked once, to see that they are examples, since a request with bytes that are none
//! does not parse.

use std::sync::Arc;

use servable_core::tensor::PackedStrings;
use servable_core::{Limits, Shape, Status, Tensor};

use crate::fields::{Field, Fields, Malformed};
use crate::predict::SpecView;

mod number {
    pub(super) const SPEC: u32 = 1;
    pub(super) const INPUT: u32 = 2;
    pub(super) const TASKS: u32 = 1;
    pub(super) const TASK_METHOD: u32 = 2;
    pub(super) const EXAMPLE_LIST: u32 = 1;
    pub(super) const EXAMPLE_LIST_WITH_CONTEXT: u32 = 2;
    pub(super) const EXAMPLES: u32 = 1;
    pub(super) const CONTEXT: u32 = 2;
    pub(super) const FEATURES: u32 = 1;
    pub(super) const FEATURE: u32 = 1;
    pub(super) const ENTRY_KEY: u32 = 1;
    pub(super) const ENTRY_VALUE: u32 = 2;
    pub(super) const LIST_VALUE: u32 = 1;
}

/// Tasks that one request may have: far more than any model has signatures.
const MOST_TASKS: usize = 4096;

/// The `Input` of a request, in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExamplesView<'a> {
    examples: Vec<&'a [u8]>,
    context: Vec<&'a [u8]>,
}

/// A `ClassificationRequest` or `RegressionRequest`, which have the same fields, in place.
#[derive(Debug, Default)]
pub struct TaskView<'a> {
    pub spec: Option<SpecView<'a>>,
    pub input: ExamplesView<'a>,
}

/// A `MultiInferenceRequest` in place.
#[derive(Debug, Default)]
pub struct MultiView<'a> {
    /// Method names, and whom each task is for.
    pub tasks: Vec<(SpecView<'a>, &'a str)>,
    pub input: ExamplesView<'a>,
}

impl<'a> TaskView<'a> {
    pub fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(message) {
            match field? {
                (number::SPEC, value) => request.spec.get_or_insert_default().merge(value.bytes()?)?,
                (number::INPUT, value) => request.input.merge(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(request)
    }
}

impl<'a> MultiView<'a> {
    pub fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(message) {
            match field? {
                (number::TASKS, _) if request.tasks.len() > MOST_TASKS => {}
                (number::TASKS, value) => request.tasks.push(read_task(value.bytes()?)?),
                (number::INPUT, value) => request.input.merge(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(request)
    }

    /// `RESOURCE_EXHAUSTED` for a request with more tasks than any model has signatures, which were not all kept.
    pub fn check_tasks(&self) -> Result<(), Status> {
        if self.tasks.len() > MOST_TASKS {
            let text = format!("the request has more than {MOST_TASKS} tasks, the most that this server takes");
            return Err(Status::resource_exhausted(text));
        }
        Ok(())
    }
}

fn read_task(message: &[u8]) -> Result<(SpecView<'_>, &str), Malformed> {
    let (mut spec, mut method) = (SpecView::default(), "");
    for field in Fields::of(message) {
        match field? {
            (number::SPEC, value) => spec.merge(value.bytes()?)?,
            (number::TASK_METHOD, value) => method = value.text()?,
            _ => {}
        }
    }
    Ok((spec, method))
}

impl<'a> ExamplesView<'a> {
    pub(crate) fn new(examples: Vec<&'a [u8]>, context: Option<&'a [u8]>) -> Self {
        Self { examples, context: context.into_iter().collect() }
    }

    /// The one kind of list or the other: whichever stands last replaces what there was.
    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            let (kind, list) = match field? {
                (kind @ (number::EXAMPLE_LIST | number::EXAMPLE_LIST_WITH_CONTEXT), value) => (kind, value.bytes()?),
                _ => continue,
            };
            let mut input = Self::default();
            for field in Fields::of(list) {
                match field? {
                    (number::EXAMPLES, value) => input.examples.push(checked_example(value)?),
                    (number::CONTEXT, value) if kind == number::EXAMPLE_LIST_WITH_CONTEXT => {
                        input.context.push(checked_example(value)?);
                    }
                    _ => {}
                }
            }
            *self = input;
        }
        Ok(())
    }

    /// One string per example. A shared context goes before each: by the rules of protobuf a feature that both have is
    /// the example's.
    pub fn to_tensor(&self, limits: &Limits) -> Result<Tensor, Status> {
        let context = self.context.concat();
        let count = self.examples.len();
        let repeated = context.len().saturating_mul(count);
        if count > limits.max_tensor_elements {
            return Err(Status::resource_exhausted(format!(
                "there are {count} examples; this server takes at most {} (max_tensor_elements)",
                limits.max_tensor_elements
            )));
        }
        if repeated > limits.max_repeated_bytes {
            return Err(Status::resource_exhausted(format!(
                "the context of {} bytes for each of {count} examples makes {repeated}; this server fills in at most {} \
                 (max_repeated_bytes)",
                context.len(),
                limits.max_repeated_bytes
            )));
        }
        let mut strings = PackedStrings::default();
        strings.bytes.reserve(repeated + self.examples.iter().map(|example| example.len()).sum::<usize>());
        for example in &self.examples {
            strings.bytes.extend_from_slice(&context);
            strings.push(example);
        }
        let shape = Shape::new([count as i64]).ok_or_else(|| Status::internal("a count is a shape: this is a bug"))?;
        Tensor::strings(shape, Arc::new(strings))
    }
}

/// The bytes of an example, if they are one: features by name, each a list of bytes, floats or integers.
fn checked_example(value: Field<'_>) -> Result<&[u8], Malformed> {
    let example = value.bytes()?;
    for features in submessages(example, number::FEATURES) {
        for entry in submessages(features?, number::FEATURE) {
            for field in Fields::of(entry?) {
                match field? {
                    (number::ENTRY_KEY, key) => drop(key.text()?),
                    (number::ENTRY_VALUE, feature) => check_feature(feature.bytes()?)?,
                    _ => {}
                }
            }
        }
    }
    Ok(example)
}

fn check_feature(feature: &[u8]) -> Result<(), Malformed> {
    const BYTES_LIST: u32 = 1;
    const FLOAT_LIST: u32 = 2;
    for field in Fields::of(feature) {
        let (kind, list) = match field? {
            (kind @ 1..=3, list) => (kind, list.bytes()?),
            _ => continue,
        };
        for field in Fields::of(list) {
            let (number::LIST_VALUE, value) = field? else { continue };
            match (kind, value) {
                (BYTES_LIST, Field::Bytes(_)) => {}
                (FLOAT_LIST, Field::Bytes(packed) | Field::Fixed(packed)) if packed.len() % 4 == 0 => {}
                (BYTES_LIST | FLOAT_LIST, _) | (_, Field::Fixed(_)) => return Err(Malformed),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The submessages in a field of this number.
fn submessages(message: &[u8], wanted: u32) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok((number, value)) if number == wanted => Some(value.bytes()),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_beyond_all_need_are_refused() {
        let check = |count: usize| {
            let bytes = b"\x0a\0".repeat(count);
            let request = MultiView::read(&bytes).expect("well formed");
            (request.tasks.len(), request.check_tasks().is_ok())
        };
        assert_eq!(check(MOST_TASKS), (MOST_TASKS, true));
        assert_eq!(check(1000 * MOST_TASKS), (MOST_TASKS + 1, false));
    }

    #[test]
    fn what_is_no_example_does_not_parse() {
        let request = |example: &[u8]| {
            let list = [&[0x0a, example.len() as u8], example].concat();
            let input = [&[0x0a, list.len() as u8], &list[..]].concat();
            [&[0x12, input.len() as u8], &input[..]].concat()
        };
        let float = b"\x0a\x0d\x0a\x0b\x0a\x01x\x12\x06\x12\x04\x0a\x02\0\0";
        assert!(TaskView::read(&request(b"")).is_ok());
        assert!(TaskView::read(&request(b"\x0a\x03\x0a\x01\xff")).is_err(), "a feature cut short");
        assert!(TaskView::read(&request(float)).is_err(), "a float of two bytes");
    }
}
