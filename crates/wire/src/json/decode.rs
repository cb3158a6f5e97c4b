//! The inputs of a predict request: row by row (`instances`) or column by column (`inputs`).

use servable_core::limits::Limits;
use servable_core::signature::{Signature, Slot};
use servable_core::status::Status;
use servable_core::tensor::Tensor;

use crate::json::column::{Column, Text};
use crate::json::document::{Document, Member};
use crate::json::explain;
use crate::json::scan::{Members, Scanner};
use crate::json::text::{base64_object, unescaped};
use crate::json::walk::Stop;

/// How a request lays its values out, and so how it wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `instances`: one value, or one object with all inputs, per row of the batch.
    Row,
    /// `inputs`: whole tensors.
    Column,
}

/// Tensors by input name.
pub(super) type Named = Vec<(String, Tensor)>;

impl Document<'_> {
    /// The tensors of a predict request, typed as `signature` says and shaped as their text is.
    ///
    /// `INVALID_ARGUMENT` says which value does not fit, `UNIMPLEMENTED` which type JSON has no values for, and
    /// `RESOURCE_EXHAUSTED` which input has too many elements. Shapes are not held against the signature.
    pub fn inputs(&self, signature: &Signature, limits: &Limits) -> Result<(Format, Named), Status> {
        if signature.inputs.is_empty() {
            let name = self.signature_name()?.unwrap_or_else(|| "DEFAULT".to_owned());
            return Err(Status::invalid_argument(format!("Failed to get input map for signature: {name}")));
        }
        let early = self.early.as_ref().filter(|early| early.is_for(signature));
        match (self.instances, self.inputs) {
            (Some(_), Some(_)) => {
                Err(self.wrong("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "))
            }
            (Some(_), None) | (None, Some(_)) if let Some(early) = early => Ok((early.format, early.named.clone())),
            (Some(instances), None) => Ok((Format::Row, self.rows(instances, signature, limits)?)),
            (None, Some(inputs)) => Ok((Format::Column, columns(inputs, signature, limits)?)),
            (None, None) => Err(Status::invalid_argument("Missing 'inputs' or 'instances' key")),
        }
    }

    fn rows(&self, instances: Member<'_>, signature: &Signature, limits: &Limits) -> Result<Named, Status> {
        let mut scanner = Scanner::new(instances.text);
        if !scanner.take(b'[') {
            return Err(self.wrong("Expecting 'instances' to be an list/array"));
        }
        scanner.whitespace();
        if scanner.peek() == b']' {
            return Err(self.wrong("No values in 'instances' array"));
        }
        if is_named_inputs(scanner.rest()) {
            return object_rows(instances, signature, limits);
        }
        let [only] = &*signature.inputs else {
            return Err(Status::invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map",
            ));
        };
        // Rows that agree in shape are one list that does.
        whole(only, instances, limits, || explain::plain_rows(only, instances.text)).map(|input| vec![input])
    }
}

/// What was read in the first pass over a document.
#[derive(Debug)]
pub(super) struct Early<'a> {
    signature: &'a Signature,
    format: Format,
    named: Named,
}

impl<'a> Early<'a> {
    pub(super) fn is_for(&self, signature: &Signature) -> bool {
        std::ptr::eq(self.signature, signature)
    }

    /// Reads the value of `instances` or `inputs`, which nobody has looked at before, as the inputs of a signature. What is
    /// not as most requests are is left to later passes, which know what to say of it: then there is nothing, and the
    /// scanner is somewhere. `max_depth` counts the brackets that may be open at a time.
    pub(super) fn read(
        format: Format,
        scanner: &mut Scanner<'a>,
        signature: &'a Signature,
        limits: &Limits,
        max_depth: usize,
    ) -> Option<Self> {
        // Most numbers take more than this, and there is a blank between them.
        const BYTES_A_NUMBER: usize = 8;
        let expected = scanner.rest().len() / BYTES_A_NUMBER / signature.inputs.len().max(1);
        let mut columns: Vec<_> = signature.inputs.iter().map(|slot| Column::new(slot, expected, limits)).collect();
        let mut ahead = scanner.clone();
        let is_list = ahead.take(b'[');
        ahead.whitespace();
        let (rows, depth) = match (format, &mut *columns, ahead.peek()) {
            (Format::Column, _, b'{') if !is_list && is_named_inputs(ahead.rest()) => {
                read_object(Text::Unseen, scanner, signature, &mut columns, &mut vec![0; signature.inputs.len()], 0)
                    .ok()?;
                (None, 1)
            }
            (Format::Row, _, b'{') if is_list && is_named_inputs(ahead.rest()) => {
                let rows = read_object_rows(Text::Unseen, scanner, signature, &mut columns).ok()?;
                scanner.take(b']').then_some((Some(rows), 2))?
            }
            (_, [only], first) if is_list && first != b']' => {
                only.read(Text::Unseen, scanner).ok()?;
                (None, 0)
            }
            _ => return None,
        };
        if columns.iter().any(|column| depth + column.depth() > max_depth) {
            return None;
        }
        let named = columns.into_iter().map(|column| column.finish(rows)).collect::<Result<_, _>>().ok()?;
        Some(Self { signature, format, named })
    }
}

/// Whether an object starts here whose members are inputs, rather than one that stands for bytes.
pub(super) fn is_named_inputs(text: &[u8]) -> bool {
    text.first() == Some(&b'{') && base64_object(text).is_none()
}

/// Which input a member names, judged by what stands between the name's quotes.
pub(super) fn position(signature: &Signature, raw_name: &[u8]) -> Option<usize> {
    let name = unescaped(raw_name);
    signature.inputs.binary_search_by(|slot| slot.name.as_bytes().cmp(&name)).ok()
}

/// Reads a whole value as a tensor.
fn whole(
    slot: &Slot,
    value: Member<'_>,
    limits: &Limits,
    explain: impl FnOnce() -> Status,
) -> Result<(String, Tensor), Status> {
    let mut column = Column::new(slot, value.scalars, limits);
    match column.read(Text::Valid, &mut Scanner::new(value.text)) {
        Ok(()) => column.finish(None),
        Err(Stop::TooMany) => Err(column.too_many()),
        Err(Stop::Misfit) => Err(explain()),
    }
}

fn object_rows(instances: Member<'_>, signature: &Signature, limits: &Limits) -> Result<Named, Status> {
    let expected = instances.scalars / signature.inputs.len();
    let mut columns: Vec<Column<'_>> =
        signature.inputs.iter().map(|slot| Column::new(slot, expected, limits)).collect();
    match read_object_rows(Text::Valid, &mut Scanner::new(instances.text), signature, &mut columns) {
        Ok(rows) => columns.into_iter().map(|column| column.finish(Some(rows))).collect(),
        Err((Stop::TooMany, position)) => Err(columns[position].too_many()),
        Err((Stop::Misfit, _)) => Err(explain::object_rows(signature, instances.text)),
    }
}

/// Fills `columns`, which are the signature's inputs; returns how many rows there are, or who stopped it. The bracket that
/// ends the rows is not looked at.
fn read_object_rows(
    text: Text,
    scanner: &mut Scanner<'_>,
    signature: &Signature,
    columns: &mut [Column<'_>],
) -> Result<usize, (Stop, usize)> {
    let mut rows = 0;
    // For each column, how many rows have a value for it.
    let mut filled = vec![0; columns.len()];
    scanner.advance(1);
    loop {
        scanner.whitespace();
        read_object(text, scanner, signature, columns, &mut filled, rows)?;
        rows += 1;
        if !scanner.comma() {
            return Ok(rows);
        }
    }
}

/// Reads an object with a member for each of `columns`, which have so many rows already.
fn read_object(
    text: Text,
    scanner: &mut Scanner<'_>,
    signature: &Signature,
    columns: &mut [Column<'_>],
    filled: &mut [usize],
    rows: usize,
) -> Result<(), (Stop, usize)> {
    const MISFIT: (Stop, usize) = (Stop::Misfit, 0);
    if !scanner.take(b'{') {
        return Err(MISFIT);
    }
    scanner.whitespace();
    let mut missing = columns.len();
    let mut is_over = scanner.take(b'}');
    while !is_over {
        let name = scanner.member_name().map_err(|_| MISFIT)?;
        let position = position(signature, name).ok_or(MISFIT)?;
        if filled[position] <= rows {
            filled[position] = rows + 1;
            missing -= 1;
            columns[position].read(text, scanner).map_err(|stop| (stop, position))?;
        } else if text == Text::Valid {
            // The first of several members with one name counts.
            scanner.value(usize::MAX).map_err(|_| MISFIT)?;
        } else {
            return Err(MISFIT);
        }
        is_over = !scanner.comma();
        if is_over && !scanner.take(b'}') {
            return Err(MISFIT);
        }
    }
    if missing == 0 { Ok(()) } else { Err(MISFIT) }
}

fn columns(inputs: Member<'_>, signature: &Signature, limits: &Limits) -> Result<Named, Status> {
    if !is_named_inputs(inputs.text) {
        let [only] = &*signature.inputs else {
            return Err(Status::invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map",
            ));
        };
        return whole(only, inputs, limits, || explain::whole(only, inputs.text)).map(|input| vec![input]);
    }
    let mut values = vec![None; signature.inputs.len()];
    for (name, value) in Members::of(inputs.text) {
        if let Some(position) = position(signature, name) {
            _ = values[position].get_or_insert(value);
        }
    }
    // How many scalars belong to which input is not known; room for a share each is a fair start.
    let scalars = inputs.scalars / values.len();
    let mut named = Vec::with_capacity(values.len());
    for (slot, text) in signature.inputs.iter().zip(values) {
        let Some(text) = text else {
            let message = format!("Missing named input: {} in 'inputs' object.", slot.name);
            return Err(Status::invalid_argument(message));
        };
        named.push(whole(slot, Member { text, scalars }, limits, || explain::whole(slot, text))?);
    }
    Ok(named)
}
