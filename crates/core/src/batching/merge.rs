//! From the tensors of several requests to those of one batch, and back. Each byte is copied once on the way in, and
//! stays where it is on the way out.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::dtype::DataType;
use crate::status::Status;
use crate::tensor::{AlignedBytes, Shape, StringArray, Tensor, Values, aligned_bytes};

/// Dimensions that padding knows; the first is that of the rows.
const PADDED_RANKS: Range<usize> = 1..7;
/// Padding may make tensors so many times as large as they are, or so large in any case: a short row beside a long one
/// and a single wide one could ask for any amount of memory together.
const LARGEST_GROWTH: usize = 8;
const ALWAYS_ALLOWED: usize = 16 << 20;
/// Rows that fill a batch up to an allowed size may make it so large in any case.
const FILLING_ALLOWED: usize = 1 << 30;

/// How many rows a request has: those of each of its inputs.
pub(super) fn row_count<'a>(inputs: impl Iterator<Item = &'a Tensor>) -> Result<usize, Status> {
    let mut count = None;
    for input in inputs {
        let rows = input
            .row_count()
            .ok_or_else(|| Status::invalid_argument("Batching Run() input tensors must have at least one dimension"))?;
        if count.is_some_and(|count| count != rows) {
            return Err(Status::invalid_argument("Batching Run() input tensors must have equal 0th-dimension size"));
        }
        count = Some(rows);
    }
    count.ok_or_else(|| Status::invalid_argument("Batching Run() must have at least one input tensor"))
}

/// Puts the tensors of several requests for the input `name` behind one another, and repeats the first row of the last
/// one until there are `target` rows.
///
/// With `pads`, shorter rows are filled up with the first value of their tensor. `FAILED_PRECONDITION` or
/// `INVALID_ARGUMENT` if they do not fit together.
pub(super) fn concatenated(name: &str, parts: &[&Tensor], target: usize, pads: bool) -> Result<Tensor, Status> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Err(Status::internal("a batch of no requests: this is a bug"));
    };
    let rows: usize = parts.iter().filter_map(|part| part.row_count()).sum();
    if parts.len() == 1 && rows == target {
        return Ok((*first).clone());
    }
    if parts.iter().any(|part| part.dtype() != first.dtype() || part.shape().rank() != first.shape().rank()) {
        return Err(different(name));
    }
    let inner = inner_sizes(name, parts, pads)?;
    let shape = Shape::new(std::iter::once(target as i64).chain(inner.iter().copied()));
    let shape = shape.ok_or_else(|| too_large(name))?;
    // Before anything is made: what padding adds to each request adds up.
    let given: usize = parts.iter().map(|part| part.memory_bytes()).sum();
    let element = first.dtype().size().unwrap_or(STRING_COST);
    let inner_elements = shape.elements() / target.max(1);
    let bytes = |rows: usize| rows.saturating_mul(inner_elements).saturating_mul(element);
    check_growth(name, given, bytes(rows), ALWAYS_ALLOWED)?;
    check_growth(name, bytes(rows), bytes(target), FILLING_ALLOWED)?;
    let padded;
    let parts = if parts.iter().any(|part| part.shape().sizes()[1..] != inner) {
        padded = parts.iter().map(|part| padded_to(name, part, &inner)).collect::<Result<Vec<_>, _>>()?;
        padded.iter().collect()
    } else {
        Cow::Borrowed(parts)
    };
    let last = parts.last().unwrap_or(last);
    match first.dtype() {
        DataType::String => {
            let mut joined = JoinedStrings::default();
            parts.iter().filter_map(|part| string_values(part)).for_each(|strings| joined.push(strings));
            joined.repeat_last(inner_elements, target - rows);
            Tensor::strings(shape, Arc::new(joined))
        }
        dtype => {
            let size = dtype.size().and_then(|size| size.checked_mul(shape.elements()));
            let size = size.ok_or_else(|| too_large(name))?;
            let mut bytes = aligned_bytes(size);
            parts.iter().for_each(|part| bytes.extend_from_slice(part.bytes()));
            let row = size / target.max(1);
            (rows..target).for_each(|_| bytes.extend_from_slice(&last.bytes()[..row]));
            Tensor::fixed(dtype, shape, Arc::new(bytes))
        }
    }
}

/// The sizes of all dimensions but the first, once the tensors are as large as the largest of them.
fn inner_sizes(name: &str, parts: &[&Tensor], pads: bool) -> Result<Vec<i64>, Status> {
    let mut inner = parts[0].shape().sizes()[1..].to_vec();
    for part in &parts[1..] {
        let sizes = &part.shape().sizes()[1..];
        if sizes == inner {
            continue;
        }
        if !pads {
            return Err(different(name));
        }
        if !PADDED_RANKS.contains(&part.shape().rank()) {
            return Err(Status::invalid_argument("Only tensors with rank from 1 to 6 can be padded."));
        }
        inner.iter_mut().zip(sizes).for_each(|(size, other)| *size = (*size).max(*other));
    }
    Ok(inner)
}

/// The tensor with rows of these sizes; what it lacks is its own first value.
fn padded_to(name: &str, tensor: &Tensor, inner: &[i64]) -> Result<Tensor, Status> {
    let sizes = tensor.shape().sizes();
    if &sizes[1..] == inner {
        return Ok(tensor.clone());
    }
    if tensor.shape().elements() == 0 {
        return Err(Status::invalid_argument("Got empty tensor in batch of non-empty tensors."));
    }
    let shape = Shape::new(sizes[..1].iter().chain(inner).copied()).ok_or_else(|| too_large(name))?;
    let from: Vec<usize> = sizes.iter().map(|size| *size as usize).collect();
    let to: Vec<usize> = shape.sizes().iter().map(|size| *size as usize).collect();
    match tensor.values() {
        Values::Fixed(values) => {
            let values = (**values).as_ref();
            let element = values.len() / tensor.shape().elements();
            let size = shape.elements().checked_mul(element).ok_or_else(|| too_large(name))?;
            let mut bytes = aligned_bytes(size);
            let fill = &values[..element];
            pad(&from, &to, &mut |run| match run {
                Run::Own(elements) => {
                    bytes.extend_from_slice(&values[elements.start * element..elements.end * element]);
                }
                Run::Fill(count) => (0..count).for_each(|_| bytes.extend_from_slice(fill)),
            });
            Tensor::fixed(tensor.dtype(), shape, Arc::<AlignedBytes>::new(bytes))
        }
        Values::Strings(strings) => {
            let mut places = Vec::with_capacity(shape.elements());
            pad(&from, &to, &mut |run| match run {
                Run::Own(elements) => places.extend(elements),
                Run::Fill(count) => places.extend(std::iter::repeat_n(0, count)),
            });
            Tensor::strings(shape, Arc::new(ChosenStrings { strings: Arc::clone(strings), places }))
        }
    }
}

/// What a string takes at least where TensorFlow keeps it.
const STRING_COST: usize = 32;

/// A stretch of padded values.
enum Run {
    /// Elements of the tensor itself.
    Own(Range<usize>),
    Fill(usize),
}

/// Says, in row-major order of the `to` sizes, where its values come from. Each size is at least that of `from`.
fn pad(from: &[usize], to: &[usize], emit: &mut impl FnMut(Run)) {
    fn walk(from: &[usize], to: &[usize], start: usize, emit: &mut impl FnMut(Run)) {
        let (Some((&own, inner_from)), Some((&all, inner_to))) = (from.split_first(), to.split_first()) else {
            return emit(Run::Own(start..start + 1));
        };
        let missing = (all - own) * inner_to.iter().product::<usize>();
        if inner_from == inner_to {
            let step: usize = inner_from.iter().product();
            emit(Run::Own(start..start + own * step));
        } else {
            let step: usize = inner_from.iter().product();
            (0..own).for_each(|row| walk(inner_from, inner_to, start + row * step, emit));
        }
        if missing > 0 {
            emit(Run::Fill(missing));
        }
    }
    walk(from, to, 0, emit);
}

fn check_growth(name: &str, given: usize, wanted: usize, allowed: usize) -> Result<(), Status> {
    if wanted > given.saturating_mul(LARGEST_GROWTH).max(allowed) { Err(too_large(name)) } else { Ok(()) }
}

fn different(name: &str) -> Status {
    Status::failed_precondition(format!(
        "Tensors with name '{name}' from different tasks have different shapes and padding is turned off. Set \
         pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal dimensions \
         starting with the first dim."
    ))
}

fn too_large(name: &str) -> Status {
    Status::resource_exhausted(format!(
        "Padding the tensors with name '{name}' would make them more than {LARGEST_GROWTH} times as large as they are"
    ))
}

fn string_values(tensor: &Tensor) -> Option<&Arc<dyn StringArray>> {
    match tensor.values() {
        Values::Strings(strings) => Some(strings),
        Values::Fixed(_) => None,
    }
}

/// The strings of several tensors, in order, where they are.
#[derive(Default)]
struct JoinedStrings {
    parts: Vec<Arc<dyn StringArray>>,
    /// Where each part ends, counted over all of them.
    ends: Vec<usize>,
    /// The row that fills the batch up, by its length, and how often it comes at the end.
    filling: usize,
    repeats: usize,
}

impl JoinedStrings {
    fn push(&mut self, strings: &Arc<dyn StringArray>) {
        let end = self.ends.last().copied().unwrap_or(0) + strings.len();
        self.parts.push(Arc::clone(strings));
        self.ends.push(end);
    }

    fn repeat_last(&mut self, row: usize, repeats: usize) {
        (self.filling, self.repeats) = (row, repeats);
    }

    /// In which part, and where in it.
    fn place(&self, index: usize) -> (usize, usize) {
        let own = self.ends.last().copied().unwrap_or(0);
        if index >= own {
            return (self.parts.len() - 1, (index - own) % self.filling);
        }
        let part = self.ends.partition_point(|end| *end <= index);
        (part, index - if part == 0 { 0 } else { self.ends[part - 1] })
    }
}

impl StringArray for JoinedStrings {
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0) + self.filling * self.repeats
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        let (part, index) = self.place(index);
        self.parts[part].get(index)
    }

    fn length(&self, index: usize) -> usize {
        let (part, index) = self.place(index);
        self.parts[part].length(index)
    }
}

/// Strings of others, in an order of their own.
struct ChosenStrings {
    strings: Arc<dyn StringArray>,
    places: Vec<usize>,
}

impl StringArray for ChosenStrings {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        self.strings.get(self.places[index])
    }

    fn length(&self, index: usize) -> usize {
        self.strings.length(self.places[index])
    }
}

/// Checks that an output of a batch can be given back row by row.
pub(super) fn check_output(output: &Tensor, target: usize) -> Result<(), Status> {
    match output.row_count() {
        None => Err(Status::failed_precondition("Batched output tensor has 0 dimensions")),
        Some(rows) if rows != target => Err(Status::failed_precondition(
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors",
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(sizes: &[i64], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::fixed(DataType::Float, Shape::new(sizes.iter().copied()).expect("valid"), Arc::new(bytes))
            .expect("fits")
    }

    fn strings(sizes: &[i64], values: &[&'static str]) -> Tensor {
        let values: Vec<bytes::Bytes> =
            values.iter().map(|value| bytes::Bytes::from_static(value.as_bytes())).collect();
        Tensor::strings(Shape::new(sizes.iter().copied()).expect("valid"), Arc::new(values)).expect("fits")
    }

    fn as_floats(tensor: &Tensor) -> Vec<f32> {
        tensor.bytes().as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
    }

    fn as_strings(tensor: &Tensor) -> Vec<String> {
        let values = tensor.string_values().expect("strings");
        let text = |index| {
            assert_eq!(values.length(index), values.get(index).len());
            String::from_utf8(values.get(index).into_owned()).expect("text")
        };
        (0..values.len()).map(text).collect()
    }

    #[test]
    fn rows_come_back_as_they_went_in() {
        let (one, two) = (floats(&[1, 2], &[1.0, 2.0]), floats(&[2, 2], &[3.0, 4.0, 5.0, 6.0]));
        let all = concatenated("x", &[&one, &two], 4, false).expect("fits");
        assert_eq!(all.shape().sizes(), [4, 2]);
        assert_eq!(as_floats(&all), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 3.0, 4.0], "filled with the last one's first row");
        assert_eq!(as_floats(&all.rows(1..3).expect("there")), as_floats(&two));
        assert!(all.rows(3..5).is_none() && floats(&[], &[1.0]).rows(0..1).is_none());
    }

    #[test]
    fn strings_stay_where_they_are() {
        let (one, two) = (strings(&[1, 2], &["a", "b"]), strings(&[2, 2], &["c", "", "e", "f"]));
        let all = concatenated("x", &[&one, &two], 5, false).expect("fits");
        assert_eq!(as_strings(&all), ["a", "b", "c", "", "e", "f", "c", "", "c", ""]);
        assert_eq!(as_strings(&all.rows(2..3).expect("there")), ["e", "f"]);
    }

    #[test]
    fn shorter_rows_are_filled_with_their_own_first_value() {
        let (one, two) = (floats(&[1, 2, 1], &[1.0, 2.0]), floats(&[1, 1, 3], &[7.0, 8.0, 9.0]));
        let all = concatenated("x", &[&one, &two], 2, true).expect("fits");
        assert_eq!(all.shape().sizes(), [2, 2, 3]);
        assert_eq!(as_floats(&all), [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 7.0, 8.0, 9.0, 7.0, 7.0, 7.0]);
        let (one, two) = (strings(&[1, 1], &["a"]), strings(&[1, 2], &["b", "c"]));
        assert_eq!(
            as_strings(&concatenated("x", &[&one, &two], 3, true).expect("fits")),
            ["a", "a", "b", "c", "b", "c"]
        );
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let told =
            |parts: &[&Tensor], pads| concatenated("x", parts, 2, pads).expect_err("unlike").message.into_owned();
        let (short, long) = (floats(&[1, 1], &[1.0]), floats(&[1, 2], &[1.0, 2.0]));
        assert!(told(&[&short, &long], false).starts_with("Tensors with name 'x' from different tasks"));
        assert!(told(&[&short, &floats(&[1], &[1.0])], true).starts_with("Tensors with name 'x'"));
        assert!(told(&[&floats(&[1, 0], &[]), &long], true).starts_with("Got empty tensor"));
        let deep = [floats(&[1, 1, 1, 1, 1, 1, 1], &[1.0]), floats(&[1, 1, 1, 1, 1, 1, 2], &[1.0, 2.0])];
        assert!(told(&[&deep[0], &deep[1]], true).starts_with("Only tensors with rank from 1 to 6"));
        let wide = floats(&[1, 1, 40_000], &vec![0.0; 40_000]);
        let high = floats(&[1, 40_000, 1], &vec![0.0; 40_000]);
        assert!(told(&[&wide, &high], true).contains("more than 8 times as large"));
        let (wide, narrow) = (floats(&[1, 400_000], &vec![0.0; 400_000]), floats(&[1, 1], &[0.0]));
        let many: Vec<&Tensor> = std::iter::once(&wide).chain(std::iter::repeat_n(&narrow, 99)).collect();
        let refused = concatenated("x", &many, 100, true).expect_err("160 MB of 2 MB");
        assert!(refused.message.contains("more than 8 times as large"));
    }

    #[test]
    fn requests_have_rows_that_can_be_counted() {
        let told = |inputs: &[Tensor]| row_count(inputs.iter()).expect_err("no rows").message.into_owned();
        assert_eq!(row_count([floats(&[2], &[1.0, 2.0]), strings(&[2, 0], &[])].iter()), Ok(2));
        assert!(told(&[]).contains("at least one input tensor"));
        assert!(told(&[floats(&[], &[1.0])]).contains("at least one dimension"));
        assert!(told(&[floats(&[1], &[1.0]), floats(&[2], &[1.0, 2.0])]).contains("equal 0th-dimension"));
    }
}
