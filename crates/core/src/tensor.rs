//! A tensor: element type, shape and values in row-major order.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use smallvec::SmallVec;

use crate::dtype::DataType;
use crate::status::Status;

/// TensorFlow has no tensors of more dimensions than this.
pub const MAX_RANK: usize = 254;

/// What TensorFlow wants the values of a tensor aligned to; aligned values are fed without a copy.
pub const ALIGNMENT: usize = 64;

/// Growing memory for values, aligned as [`ALIGNMENT`] says.
pub type AlignedBytes = AVec<u8, ConstAlign<ALIGNMENT>>;

/// Empty aligned memory with room for `capacity` bytes.
pub fn aligned_bytes(capacity: usize) -> AlignedBytes {
    AVec::with_capacity(ALIGNMENT, capacity)
}

/// Sizes of the dimensions, outermost first; each at least 0. The product of those that are not 0 is within `i64`, for
/// an empty tensor too: a graph may drop the empty dimension and keep the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape(SmallVec<[i64; 4]>);

impl Shape {
    /// `None` if a size is negative, there are more than [`MAX_RANK`] or the number of elements overflows.
    pub fn new(sizes: impl IntoIterator<Item = i64>) -> Option<Self> {
        let sizes: SmallVec<[i64; 4]> = sizes.into_iter().take(MAX_RANK + 1).collect();
        if sizes.len() > MAX_RANK || sizes.iter().any(|size| *size < 0) {
            return None;
        }
        sizes.iter().filter(|size| **size != 0).try_fold(1_i64, |product, size| product.checked_mul(*size))?;
        Some(Self(sizes))
    }

    pub fn scalar() -> Self {
        Self::default()
    }

    pub fn sizes(&self) -> &[i64] {
        &self.0
    }

    pub fn rank(&self) -> usize {
        self.0.len()
    }

    pub fn elements(&self) -> usize {
        self.0.iter().product::<i64>() as usize
    }

    /// The elements that the dimensions of an empty tensor would have without the empty ones; else as many as there are.
    pub fn extent(&self) -> usize {
        self.0.iter().filter(|size| **size != 0).product::<i64>() as usize
    }
}

/// Written as TensorFlow writes shapes in messages: `[2,3]`, and `[]` for a scalar.
impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[")?;
        for (index, size) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(formatter, "{separator}{size}")?;
        }
        formatter.write_str("]")
    }
}

/// Byte strings by index, wherever they live.
pub trait StringArray: Send + Sync {
    fn len(&self) -> usize;

    /// The string at `index`, which must be below [`len`](Self::len). Owned only if it had to be put together.
    fn get(&self, index: usize) -> Cow<'_, [u8]>;

    /// How long the string at `index` is, which is known without putting it together.
    fn length(&self, index: usize) -> usize {
        self.get(index).len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Byte strings back to back: two allocations, however many there are.
#[derive(Clone, Debug, Default)]
pub struct PackedStrings {
    pub bytes: Vec<u8>,
    /// Where in `bytes` each string ends.
    pub ends: Vec<usize>,
}

impl PackedStrings {
    /// Ends the string that has been written to `bytes`.
    pub fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.end();
    }
}

impl StringArray for PackedStrings {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Cow::Borrowed(&self.bytes[start..self.ends[index]])
    }
}

impl StringArray for Vec<Bytes> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self[index])
    }
}

/// Some of the bytes of others, which stay where they are.
struct Part {
    whole: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &(*self.whole).as_ref()[self.range.clone()]
    }
}

/// Some of the strings of others, which stay where they are.
struct StringPart {
    whole: Arc<dyn StringArray>,
    range: Range<usize>,
}

impl StringArray for StringPart {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        assert!(index < self.len(), "string {index} of {}: this is a bug", self.len());
        self.whole.get(self.range.start + index)
    }

    fn length(&self, index: usize) -> usize {
        self.whole.length(self.range.start + index)
    }
}

/// The values of a tensor: shared, never changed, and borrowed from wherever they were made (a request, a session).
#[derive(Clone)]
pub enum Values {
    /// Little-endian elements, back to back.
    Fixed(Arc<dyn AsRef<[u8]> + Send + Sync>),
    Strings(Arc<dyn StringArray>),
}

/// A tensor whose values match its type and shape. Cloning shares the values.
#[derive(Clone)]
pub struct Tensor {
    dtype: DataType,
    shape: Shape,
    values: Values,
}

impl Tensor {
    /// Little-endian elements of a fixed-size type. The number of bytes must be elements times element size.
    pub fn fixed(dtype: DataType, shape: Shape, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Self, Status> {
        let wanted = dtype.size().and_then(|size| size.checked_mul(shape.elements()));
        let given = (*bytes).as_ref().len();
        if wanted == Some(given) {
            return Ok(Self { dtype, shape, values: Values::Fixed(bytes) });
        }
        Err(Status::internal(format!("a {dtype} tensor of shape {shape} cannot have {given} bytes of values")))
    }

    /// Byte strings, one per element of `shape`.
    pub fn strings(shape: Shape, strings: Arc<dyn StringArray>) -> Result<Self, Status> {
        if shape.elements() == strings.len() {
            return Ok(Self { dtype: DataType::String, shape, values: Values::Strings(strings) });
        }
        let given = strings.len();
        Err(Status::internal(format!("a string tensor of shape {shape} cannot have {given} values")))
    }

    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The raw elements; empty for a string tensor.
    pub fn bytes(&self) -> &[u8] {
        match &self.values {
            Values::Fixed(bytes) => (**bytes).as_ref(),
            Values::Strings(_) => &[],
        }
    }

    /// The strings of a string tensor.
    pub fn string_values(&self) -> Option<&dyn StringArray> {
        match &self.values {
            Values::Fixed(_) => None,
            Values::Strings(strings) => Some(&**strings),
        }
    }

    /// How many rows there are along the first dimension; `None` for a scalar.
    pub fn row_count(&self) -> Option<usize> {
        self.shape.sizes().first().map(|rows| *rows as usize)
    }

    /// Some of the rows; the values stay where they are. `None` for a scalar, or rows that it does not have.
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        let count = self.row_count()?;
        if rows.start > rows.end || rows.end > count {
            return None;
        }
        if rows.len() == count {
            return Some(self.clone());
        }
        let mut shape = self.shape.clone();
        shape.0[0] = rows.len() as i64;
        let range = |per_row: usize| rows.start * per_row..rows.end * per_row;
        let values = match &self.values {
            Values::Fixed(bytes) => {
                let per_row = (**bytes).as_ref().len() / count;
                Values::Fixed(Arc::new(Part { whole: Arc::clone(bytes), range: range(per_row) }))
            }
            Values::Strings(strings) => {
                let per_row = strings.len() / count;
                Values::Strings(Arc::new(StringPart { whole: Arc::clone(strings), range: range(per_row) }))
            }
        };
        Some(Self { dtype: self.dtype, shape, values })
    }

    /// Bytes that the values take, without per-element overhead.
    pub fn value_bytes(&self) -> usize {
        match &self.values {
            Values::Fixed(bytes) => (**bytes).as_ref().len(),
            Values::Strings(strings) => (0..strings.len()).map(|index| strings.length(index)).sum(),
        }
    }

    /// Bytes of memory that the tensor takes while it is fed: a string is where it came from and in a cell of TensorFlow's.
    pub fn memory_bytes(&self) -> usize {
        const CELL_BYTES: usize = 32;
        match self.string_values() {
            Some(strings) => 2 * self.value_bytes() + strings.len() * CELL_BYTES,
            None => self.value_bytes(),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tensor({} {})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_has_sane_sizes_only() {
        assert_eq!(Shape::new([2, 3]).expect("valid").elements(), 6);
        assert_eq!(Shape::new([]).expect("valid").elements(), 1);
        assert_eq!(Shape::new([5, 0]).expect("valid").elements(), 0);
        assert!(Shape::new([-1]).is_none());
        assert!(Shape::new([i64::MAX, 2]).is_none());
        assert!(Shape::new([0, i64::MAX, 2]).is_none(), "a sum over the first dimension would overflow");
        assert_eq!(Shape::new([0, 3, 2]).expect("valid").extent(), 6);
        assert!(Shape::new(vec![1; 254]).is_some());
        assert!(Shape::new(vec![1; 255]).is_none());
    }

    #[test]
    fn a_tensor_has_as_many_values_as_its_shape_says() {
        let shape = || Shape::new([2]).expect("valid");
        assert!(Tensor::fixed(DataType::Float, shape(), Arc::new(vec![0_u8; 8])).is_ok());
        assert!(Tensor::fixed(DataType::Float, shape(), Arc::new(vec![0_u8; 7])).is_err());
        assert!(Tensor::fixed(DataType::String, shape(), Arc::new(vec![0_u8; 8])).is_err());
        assert!(Tensor::strings(shape(), Arc::new(vec![Bytes::new()])).is_err());
    }
}
