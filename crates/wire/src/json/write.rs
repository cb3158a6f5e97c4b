//! The answer to a predict request.

use servable_core::dtype::DataType;
use servable_core::status::Status;
use servable_core::tensor::{StringArray, Tensor};

use crate::json::decode::Format;
use crate::json::dialect::Dialect;
use crate::json::print;
use crate::json::text;

/// Outputs whose names end so hold bytes rather than text.
const BYTES_SUFFIX: &str = "_bytes";

/// Room per number; most need less.
const USUAL_NUMBER_LENGTH: usize = 13;

/// `{"predictions": [...]}` or `{"outputs": ...}`, as the request was.
///
/// White space is the original's too, so that answers can be compared byte by byte: rows have their lists on one line,
/// columns have a line for every element.
///
/// `INVALID_ARGUMENT` if an output cannot be split into rows or has a type that JSON has no values for;
/// `RESOURCE_EXHAUSTED` if the text would be longer than `max_output_bytes`.
pub fn write_predict(
    format: Format,
    dialect: Dialect,
    outputs: &[(&str, &Tensor)],
    max_output_bytes: usize,
) -> Result<Vec<u8>, Status> {
    let outputs: Vec<Output<'_>> = outputs.iter().map(|(name, tensor)| Output::new(name, tensor)).collect();
    let numbers: usize = outputs.iter().map(|output| output.tensor.shape().elements()).sum();
    let capacity = numbers.saturating_mul(USUAL_NUMBER_LENGTH).saturating_add(64);
    let text = Vec::with_capacity(capacity.min(max_output_bytes));
    let mut out = Answer { text, dialect, max_bytes: max_output_bytes, level: 1, lists: Lists::OnOneLine };
    match format {
        Format::Row => {
            let rows = common_rows(&outputs)?;
            out.text.extend_from_slice(b"{\n    \"predictions\": ");
            out.rows(&outputs, rows)?;
        }
        Format::Column => {
            out.lists = Lists::OnManyLines;
            out.text.extend_from_slice(b"{\n    \"outputs\": ");
            out.named(&outputs, |out, output| out.nested(output, output.tensor.shape().sizes(), 0))?;
        }
    }
    out.text.extend_from_slice(b"\n}");
    out.check()?;
    Ok(out.text)
}

struct Output<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    holds_bytes: bool,
}

impl<'a> Output<'a> {
    fn new(name: &'a str, tensor: &'a Tensor) -> Self {
        Self { name, tensor, holds_bytes: name.ends_with(BYTES_SUFFIX) }
    }
}

/// The first dimension, which all outputs must have.
fn common_rows(outputs: &[Output<'_>]) -> Result<usize, Status> {
    let mut common = None;
    for Output { name, tensor, .. } in outputs {
        let Some(rows) = tensor.shape().sizes().first().copied() else {
            return Err(Status::invalid_argument(format!("Tensor name: {name} has no shape information ")));
        };
        let expected = *common.get_or_insert(rows);
        if rows != expected {
            return Err(Status::invalid_argument(format!(
                "Tensor name: {name} has inconsistent batch size: {rows} expecting: {expected}"
            )));
        }
    }
    Ok(common.unwrap_or(0) as usize)
}

/// How lists are laid out; objects always take a line for every member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    OnOneLine,
    OnManyLines,
}

/// An answer in the making.
struct Answer {
    text: Vec<u8>,
    dialect: Dialect,
    max_bytes: usize,
    /// How deep what is being written stands.
    level: usize,
    lists: Lists,
}

impl Answer {
    #[inline]
    fn check(&self) -> Result<(), Status> {
        if self.text.len() > self.max_bytes {
            return Err(Status::resource_exhausted(format!(
                "The answer is longer than the {} bytes that max_output_bytes allows",
                self.max_bytes
            )));
        }
        Ok(())
    }

    /// Begins a line at the current level.
    #[inline]
    fn line(&mut self) {
        const INDENTED: &[u8; 65] = b"\n                                                                ";
        let spaces = 4 * self.level;
        self.text.extend_from_slice(&INDENTED[..=spaces.min(64)]);
        (64..spaces).for_each(|_| self.text.push(b' '));
    }

    /// `count` values with brackets round them and commas between.
    #[inline]
    fn list(
        &mut self,
        count: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        self.text.push(b'[');
        self.level += 1;
        for index in 0..count {
            match (self.lists, index) {
                (Lists::OnOneLine, 0) => {}
                (Lists::OnOneLine, _) => self.text.extend_from_slice(b", "),
                (Lists::OnManyLines, 0) => self.line(),
                (Lists::OnManyLines, _) => {
                    self.text.push(b',');
                    self.line();
                }
            }
            write(self, index)?;
            self.check()?;
        }
        self.level -= 1;
        if count > 0 && self.lists == Lists::OnManyLines {
            self.line();
        }
        self.text.push(b']');
        Ok(())
    }

    /// The list of predictions: its bracket stands on a line of its own, and so do those of objects in it.
    fn rows(&mut self, outputs: &[Output<'_>], rows: usize) -> Result<(), Status> {
        self.text.push(b'[');
        self.level += 1;
        for row in 0..rows {
            let separator: &[u8] = match (row, outputs.len()) {
                (0, _) => b"",
                (_, 1) => b", ",
                _ => b",",
            };
            self.text.extend_from_slice(separator);
            if outputs.len() != 1 {
                self.line();
            }
            self.named(outputs, |out, output| out.row(output, row))?;
            self.check()?;
        }
        self.level -= 1;
        if rows > 0 {
            self.line();
        }
        self.text.push(b']');
        Ok(())
    }

    /// An object with these members.
    fn object<T>(
        &mut self,
        members: impl Iterator<Item = T>,
        name: impl Fn(&T) -> &str,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Status>,
    ) -> Result<(), Status> {
        self.text.push(b'{');
        self.level += 1;
        let mut empty = true;
        for member in members {
            if !empty {
                self.text.push(b',');
            }
            empty = false;
            self.line();
            text::quote(name(&member).as_bytes(), &mut self.text);
            self.text.extend_from_slice(b": ");
            write(self, &member)?;
        }
        self.level -= 1;
        if !empty {
            self.line();
        }
        self.text.push(b'}');
        Ok(())
    }

    #[inline]
    fn list_or_one(
        &mut self,
        count: Option<usize>,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        match count {
            Some(count) => self.list(count, write),
            None => write(self, 0),
        }
    }

    /// The value of an only output, or an object of all.
    fn named(
        &mut self,
        outputs: &[Output<'_>],
        mut write: impl FnMut(&mut Self, &Output<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        match outputs {
            [only] => write(self, only),
            _ => self.object(outputs.iter(), |output| output.name, |out, output| write(out, output)),
        }
    }

    fn row(&mut self, output: &Output<'_>, row: usize) -> Result<(), Status> {
        let sizes = output.tensor.shape().sizes().get(1..).unwrap_or_default();
        self.nested(output, sizes, row * product(sizes))
    }

    /// The elements from `first` on, as lists of these sizes. Recursion ends with the rank, of which there is little.
    fn nested(&mut self, output: &Output<'_>, sizes: &[i64], first: usize) -> Result<(), Status> {
        match sizes {
            [] => self.leaves(output, first, None),
            [size] => self.leaves(output, first, Some(*size as usize)),
            [size, inner @ ..] => {
                let step = product(inner);
                self.list(*size as usize, |out, index| out.nested(output, inner, first + index * step))
            }
        }
    }

    /// A list of consecutive elements; without a `count`, a single one and no brackets.
    fn leaves(&mut self, output: &Output<'_>, first: usize, count: Option<usize>) -> Result<(), Status> {
        let (tensor, dialect) = (output.tensor, self.dialect);
        macro_rules! each {
            ($type:ty, |$value:ident, $text:ident| $write:expr) => {{
                let (elements, _) = tensor.bytes().as_chunks::<{ size_of::<$type>() }>();
                self.list_or_one(count, |out, index| {
                    let $value = <$type>::from_le_bytes(elements[first + index]);
                    let $text = &mut out.text;
                    $write;
                    Ok(())
                })
            }};
        }
        match tensor.dtype() {
            DataType::Float => each!(f32, |value, text| dialect.float(value, text)),
            DataType::Double => each!(f64, |value, text| dialect.double(value, text)),
            DataType::Int8 => each!(i8, |value, text| print::signed(value.into(), text)),
            DataType::Int16 => each!(i16, |value, text| print::signed(value.into(), text)),
            DataType::Int32 => each!(i32, |value, text| print::signed(value.into(), text)),
            DataType::Int64 => each!(i64, |value, text| print::signed(value, text)),
            DataType::Uint8 => each!(u8, |value, text| print::unsigned(value.into(), text)),
            DataType::Uint32 => each!(u32, |value, text| print::unsigned(value.into(), text)),
            DataType::Uint64 => each!(u64, |value, text| print::unsigned(value, text)),
            DataType::Bool => {
                each!(u8, |value, text| text.extend_from_slice(if value == 0 { b"false" } else { b"true" }))
            }
            DataType::String => {
                let strings: &dyn StringArray = tensor.string_values().unwrap_or(const { &Vec::new() });
                self.list_or_one(count, |out, index| {
                    let string = strings.get(first + index);
                    if output.holds_bytes {
                        return out.object(
                            std::iter::once("b64"),
                            |name| name,
                            |out, _| {
                                text::quote_base64(&string, &mut out.text);
                                Ok(())
                            },
                        );
                    }
                    dialect.string(&string, &mut out.text);
                    Ok(())
                })
            }
            // Without elements, there is nothing that could not be written.
            _ if count == Some(0) => self.list(0, |_, _| Ok(())),
            dtype => Err(Status::invalid_argument(format!("Failed to write JSON value for tensor type: {dtype}"))),
        }
    }
}

fn product(sizes: &[i64]) -> usize {
    sizes.iter().product::<i64>() as usize
}
