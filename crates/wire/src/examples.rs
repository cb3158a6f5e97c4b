//! Requests over `tensorflow.Example`s: `ClassificationRequest`, `RegressionRequest`, `MultiInferenceRequest`.
//!
//! Examples stay bytes. They are walked once, to see that they are examples, since a request with bytes that are none
//! does not parse.

use std::borrow::Cow;
use std::sync::Arc;

use servable_core::tensor::PackedStrings;
use servable_core::{Limits, Shape, Status, Tensor};
use smallvec::SmallVec;

use crate::fields::{Field, Fields, Malformed};
use crate::predict::SpecView;
use crate::span::{PLACE_BYTES, Pieces, PlacedStrings, Span};

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

/// Lists of examples that a request may have, which are to be merged. Writers of protobuf make one.
const MOST_LISTS: usize = 16;

/// The `Input` of a request, in place: its examples are looked for again when they are wanted, since there may be many.
#[derive(Clone, Debug, Default)]
pub struct ExamplesView<'a> {
    /// The number of the field that lists are in, which says whether they may have a context.
    kind: u32,
    lists: SmallVec<[Span<'a>; 1]>,
    /// Of the context that all examples share.
    context_bytes: usize,
    count: usize,
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
    pub tasks: Vec<(SpecView<'a>, Cow<'a, str>)>,
    pub input: ExamplesView<'a>,
}

impl<'a> TaskView<'a> {
    pub fn read(message: &'a Arc<Pieces>) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(Span::of(message)) {
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
    pub fn read(message: &'a Arc<Pieces>) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(Span::of(message)) {
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

fn read_task(message: Span<'_>) -> Result<(SpecView<'_>, Cow<'_, str>), Malformed> {
    let (mut spec, mut method) = (SpecView::default(), Cow::Borrowed(""));
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
    pub fn count(&self) -> usize {
        self.count
    }

    /// Further lists of the same kind are appended; one of the other kind replaces what there was.
    fn merge(&mut self, message: Span<'a>) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            let (kind, list) = match field? {
                (kind @ (number::EXAMPLE_LIST | number::EXAMPLE_LIST_WITH_CONTEXT), value) => (kind, value.bytes()?),
                _ => continue,
            };
            if self.kind != kind {
                *self = Self { kind, ..Self::default() };
            }
            if self.lists.len() == MOST_LISTS {
                return Err(Malformed);
            }
            self.lists.push(list);
            for field in Fields::of(list) {
                match field? {
                    (number::EXAMPLES, value) => {
                        check_example(value.bytes()?)?;
                        self.count += 1;
                    }
                    (number::CONTEXT, value) if kind == number::EXAMPLE_LIST_WITH_CONTEXT => {
                        let context = value.bytes()?;
                        check_example(context)?;
                        self.context_bytes += context.len();
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// One string per example. A shared context goes before each: by the rules of protobuf a feature that both have is
    /// the example's.
    pub fn to_tensor(&self, limits: &Limits) -> Result<Tensor, Status> {
        self.to_tensor_within(limits, &mut |_| Ok(()))
    }

    /// As [`to_tensor`](Self::to_tensor). `room` is asked for bytes of memory before they are taken.
    pub fn to_tensor_within(
        &self,
        limits: &Limits,
        room: &mut impl FnMut(usize) -> Result<(), Status>,
    ) -> Result<Tensor, Status> {
        check_size(self.count, self.context_bytes, limits)?;
        if self.context_bytes > 0 {
            let strings = self.count * (self.context_bytes + size_of::<usize>());
            room(strings + self.listed_bytes())?;
            return self.with_context();
        }
        room(self.count * PLACE_BYTES)?;
        let mut places = Vec::with_capacity(self.count);
        for example in self.parts(number::EXAMPLES) {
            places.push(example?.place().ok_or(Malformed)?);
        }
        let message = self.lists.first().map(Span::message).unwrap_or_default();
        Tensor::strings(list_shape(self.count)?, Arc::new(PlacedStrings { message, places }))
    }

    fn with_context(&self) -> Result<Tensor, Status> {
        let mut context = Vec::new();
        for part in self.parts(number::CONTEXT) {
            part?.chunks().for_each(|chunk| context.extend_from_slice(chunk));
        }
        let mut strings = PackedStrings::default();
        strings.bytes.reserve(context.len() * self.count + self.listed_bytes());
        strings.ends.reserve(self.count);
        for example in self.parts(number::EXAMPLES) {
            strings.bytes.extend_from_slice(&context);
            example?.chunks().for_each(|chunk| strings.bytes.extend_from_slice(chunk));
            strings.end();
        }
        Tensor::strings(list_shape(self.count)?, Arc::new(strings))
    }

    fn listed_bytes(&self) -> usize {
        self.lists.iter().map(Span::len).sum()
    }

    fn parts(&self, wanted: u32) -> impl Iterator<Item = Result<Span<'a>, Malformed>> {
        self.lists.iter().flat_map(move |list| submessages(*list, wanted))
    }
}

pub(crate) fn list_shape(count: usize) -> Result<Shape, Status> {
    Shape::new([count as i64]).ok_or_else(|| Status::internal("a count is a shape: this is a bug"))
}

/// Whether so many examples may be made, each with a context of so many bytes.
pub(crate) fn check_size(count: usize, context: usize, limits: &Limits) -> Result<(), Status> {
    if count > limits.max_tensor_elements {
        return Err(Status::resource_exhausted(format!(
            "there are {count} examples; this server takes at most {} (max_tensor_elements)",
            limits.max_tensor_elements
        )));
    }
    let repeated = context.saturating_mul(count);
    if repeated > limits.max_repeated_bytes {
        return Err(Status::resource_exhausted(format!(
            "the context of {context} bytes for each of {count} examples makes {repeated}; this server fills in at most {} \
             (max_repeated_bytes)",
            limits.max_repeated_bytes
        )));
    }
    Ok(())
}

/// Whether these bytes are an example: features by name, each a list of bytes, floats or integers.
fn check_example(example: Span<'_>) -> Result<(), Malformed> {
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
    Ok(())
}

fn check_feature(feature: Span<'_>) -> Result<(), Malformed> {
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
fn submessages(message: Span<'_>, wanted: u32) -> impl Iterator<Item = Result<Span<'_>, Malformed>> {
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
            let bytes = Arc::new(Pieces::from(b"\x0a\0".repeat(count)));
            let request = MultiView::read(&bytes).expect("well formed");
            (request.tasks.len(), request.check_tasks().is_ok())
        };
        assert_eq!(check(MOST_TASKS), (MOST_TASKS, true));
        assert_eq!(check(1000 * MOST_TASKS), (MOST_TASKS + 1, false));
    }

    #[test]
    fn room_is_asked_for_before_contexts_are_repeated() {
        let part = |key: u8, bytes: &[u8]| [&[key, bytes.len() as u8], bytes].concat();
        let context = part(0x0a, &part(0x0a, &part(0x0a, &[b'x'; 50])));
        for (context, wanted) in [(&context[..], 20 * context.len()), (&[], 20 * PLACE_BYTES)] {
            let list = [part(0x0a, b"").repeat(20), part(0x12, context)].concat();
            let request = Arc::new(Pieces::from(part(0x12, &part(0x12, &list))));
            let input = TaskView::read(&request).expect("well formed").input;
            let limits = Limits::default();
            let refused = input.to_tensor_within(&limits, &mut |bytes| {
                assert!(bytes >= wanted, "{bytes}");
                Err(Status::resource_exhausted("no room"))
            });
            assert_eq!(refused.expect_err("no room").message, "no room");
            assert_eq!(input.to_tensor(&limits).expect("there is room").value_bytes(), 20 * context.len());
        }
    }

    #[test]
    fn what_is_no_example_does_not_parse() {
        let request = |example: &[u8]| {
            let list = [&[0x0a, example.len() as u8], example].concat();
            let input = [&[0x0a, list.len() as u8], &list[..]].concat();
            TaskView::read(&Arc::new(Pieces::from([&[0x12, input.len() as u8], &input[..]].concat()))).is_ok()
        };
        let float = b"\x0a\x0d\x0a\x0b\x0a\x01x\x12\x06\x12\x04\x0a\x02\0\0";
        assert!(request(b""));
        assert!(!request(b"\x0a\x03\x0a\x01\xff"), "a feature cut short");
        assert!(!request(float), "a float of two bytes");
    }
}
