//! One input on its way from text to tensor.

use std::sync::Arc;

use servable_core::dtype::DataType;
use servable_core::limits::Limits;
use servable_core::signature::Slot;
use servable_core::status::Status;
use servable_core::tensor::{AlignedBytes, PackedStrings, Shape, Tensor, aligned_bytes};

use crate::json::number::{self, Decimal};
use crate::json::scan::Scanner;
use crate::json::text;
use crate::json::walk::{Outline, Stop};

/// Types that JSON can express.
pub(super) fn is_convertible(dtype: DataType) -> bool {
    use DataType::{Bool, Double, Float, Int8, Int16, Int32, Int64, String, Uint8, Uint32, Uint64};
    matches!(dtype, Float | Double | Int8 | Int16 | Int32 | Int64 | Uint8 | Uint32 | Uint64 | Bool | String)
}

/// What messages call a type; `None` is one that this server does not know.
pub(super) fn type_name(dtype: Option<DataType>) -> &'static str {
    dtype.map_or("unknown", DataType::name)
}

/// Values so far: numbers or strings, as the type wants.
pub(super) struct Leaves {
    numbers: AlignedBytes,
    strings: PackedStrings,
}

impl Leaves {
    pub(super) fn new(dtype: Option<DataType>, expected: usize) -> Self {
        let size = dtype.filter(|dtype| is_convertible(*dtype)).and_then(DataType::size).unwrap_or(0);
        Self { numbers: aligned_bytes(expected.saturating_mul(size)), strings: PackedStrings::default() }
    }

    /// Converts the leaf that comes next. `false`, and nothing added, if the type has no such value.
    ///
    /// Text that nobody has looked at before is valid if this could; but not everything that is valid is converted then.
    // Inlined with constants, only one arm of the match is left.
    #[inline(always)]
    pub(super) fn push(&mut self, dtype: DataType, text: Text, scanner: &mut Scanner<'_>) -> bool {
        macro_rules! integer {
            ($read:ident as $type:ty) => {{
                let Some((number, length)) = number::integral(scanner.rest()) else {
                    return false;
                };
                // The original wraps what fits in int32 but not in the narrower type; nobody can want that.
                let Some(value) = number.$read().and_then(|value| <$type>::try_from(value).ok()) else {
                    return false;
                };
                scanner.advance(length);
                self.numbers.extend_from_slice(&value.to_le_bytes());
            }};
        }
        macro_rules! real {
            ($type:ty, $read:ident) => {{
                let value = if let Some(decimal) = Decimal::read(scanner.rest()) {
                    scanner.advance(decimal.length);
                    decimal.$read()
                } else if let Some((value, length)) = unusual_real(text, scanner.clone()) {
                    scanner.advance(length);
                    value as $type
                } else {
                    return false;
                };
                self.numbers.extend_from_slice(&value.to_le_bytes());
            }};
        }
        match dtype {
            DataType::Float => real!(f32, float),
            DataType::Double => real!(f64, double),
            DataType::Int8 => integer!(signed as i8),
            DataType::Int16 => integer!(signed as i16),
            DataType::Int32 => integer!(signed as i32),
            DataType::Int64 => integer!(signed as i64),
            DataType::Uint8 => integer!(unsigned as u8),
            DataType::Uint32 => integer!(unsigned as u32),
            DataType::Uint64 => integer!(unsigned as u64),
            DataType::Bool if text == Text::Valid => {
                let value = scanner.peek() == b't';
                if !value && scanner.peek() != b'f' {
                    return false;
                }
                scanner.advance(if value { 4 } else { 5 });
                self.numbers.push(u8::from(value));
            }
            DataType::String if text == Text::Valid || scanner.peek() == b'"' => return self.push_string(scanner),
            _ => return false,
        }
        true
    }

    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.strings.bytes.clear();
        self.strings.ends.clear();
    }

    fn push_string(&mut self, scanner: &mut Scanner<'_>) -> bool {
        let bytes = &mut self.strings.bytes;
        if scanner.peek() == b'"' {
            let Ok(raw) = scanner.string() else {
                return false;
            };
            text::unescape(raw, bytes);
        } else {
            let Some((encoded, length)) = text::base64_object(scanner.rest()) else {
                return false;
            };
            if !text::decode_base64(encoded, bytes) {
                return false;
            }
            scanner.advance(length);
        }
        self.strings.ends.push(bytes.len());
        true
    }
}

/// The number that comes next, and its length. In text that nobody has looked at before, none of those that are not finite.
// The scanner is a copy: one that is lent could not be kept in registers.
#[cold]
fn unusual_real(text: Text, mut scanner: Scanner<'_>) -> Option<(f64, usize)> {
    let mut number = scanner.rest();
    if text == Text::Unseen {
        let start = scanner.at();
        scanner.number().ok()?;
        number = scanner.since(start);
    }
    let (value, length) = number::real(number)?;
    (text == Text::Valid || value.is_finite()).then_some((value, length))
}

/// Whether text is known to be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Valid,
    Unseen,
}

/// The values of one input and the shape they agree on.
pub(super) struct Column<'a> {
    slot: &'a Slot,
    outline: Outline,
    leaves: Leaves,
    max_elements: usize,
}

impl<'a> Column<'a> {
    /// Makes room for as many elements as are `expected`.
    pub(super) fn new(slot: &'a Slot, expected: usize, limits: &Limits) -> Self {
        let max_elements = limits.max_tensor_elements;
        let leaves = Leaves::new(slot.dtype, expected.min(max_elements));
        Self { slot, outline: Outline::default(), leaves, max_elements }
    }

    /// Reads one value.
    #[inline]
    pub(super) fn read(&mut self, text: Text, scanner: &mut Scanner<'_>) -> Result<(), Stop> {
        match text {
            Text::Valid => self.read_as::<true>(scanner),
            Text::Unseen => self.read_as::<false>(scanner),
        }
    }

    fn read_as<const IS_VALID: bool>(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Stop> {
        let text = const { if IS_VALID { Text::Valid } else { Text::Unseen } };
        let Self { slot, outline, leaves, max_elements } = self;
        macro_rules! for_each {
            ($($dtype:ident)*) => {
                match slot.dtype {
                    $(Some(DataType::$dtype) => {
                        outline.walk(scanner, *max_elements, |scanner| leaves.push(DataType::$dtype, text, scanner))
                    })*
                    _ => outline.walk(scanner, *max_elements, |_| false),
                }
            };
        }
        for_each!(Float Double Int8 Int16 Int32 Int64 Uint8 Uint32 Uint64 Bool String)
    }

    /// How many lists are in one another.
    pub(super) fn depth(&self) -> usize {
        self.outline.sizes().len()
    }

    /// The tensor of all that was read; with `rows`, that many values were read and make up its first dimension.
    pub(super) fn finish(self, rows: Option<usize>) -> Result<(String, Tensor), Status> {
        let Self { slot, outline, leaves, .. } = self;
        let rows = rows.map(|rows| rows as i64);
        let shape = Shape::new(rows.into_iter().chain(outline.sizes().iter().copied()));
        let shape = shape.ok_or_else(|| tensor_parsing_error(slot))?;
        let tensor = match slot.dtype {
            Some(DataType::String) => Tensor::strings(shape, Arc::new(leaves.strings))?,
            Some(dtype) if dtype.size().is_some() => Tensor::fixed(dtype, shape, Arc::new(leaves.numbers))?,
            dtype => {
                let message = format!("Conversion of JSON Value: [] to type: {}", type_name(dtype));
                return Err(Status::unimplemented(message));
            }
        };
        Ok((slot.name.clone(), tensor))
    }

    /// What to answer to [`Stop::TooMany`].
    pub(super) fn too_many(&self) -> Status {
        Status::resource_exhausted(format!(
            "Input {} has more elements than the {} that max_tensor_elements allows",
            self.slot.name, self.max_elements
        ))
    }
}

/// What the original answers where a tensor cannot have the shape.
pub(super) fn tensor_parsing_error(slot: &Slot) -> Status {
    Status::invalid_argument(format!("tensor parsing error: {}", slot.name))
}
