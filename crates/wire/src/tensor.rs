//! `TensorProto` to tensor and back: values are copied once, as memory wherever their encoding allows it.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len};
use servable_core::tensor::{AlignedBytes, MAX_RANK, PackedStrings, StringArray, aligned_bytes};
use servable_core::{DataType, Limits, Shape, Status, Tensor};
use smallvec::SmallVec;

use crate::fields::{Field, Fields, Malformed};
use crate::span::{PLACE_BYTES, PlacedStrings, Span};

mod number {
    pub(super) const DTYPE: u32 = 1;
    pub(super) const SHAPE: u32 = 2;
    pub(super) const CONTENT: u32 = 4;
    pub(super) const STRING_VAL: u32 = 8;
    /// Typed values of all kinds; what else may stand between is skipped by those who look for their own number.
    pub(super) const VALUES: std::ops::RangeInclusive<u32> = 5..=18;
    pub(super) const SHAPE_DIM: u32 = 2;
    pub(super) const DIM_SIZE: u32 = 1;
}

/// How the typed field of a data type holds its values.
#[derive(Clone, Copy)]
enum Encoding {
    /// Packed little-endian units of so many bytes: the values' own memory.
    Packed { unit: usize },
    /// The values' own memory as bytes.
    Raw,
    /// Varints of signed values.
    Signed,
    /// Varints of unsigned values.
    Unsigned,
    /// Varints that mean true unless they are 0.
    Truth,
}

/// The typed field of a fixed-size data type, and its encoding.
fn typed_field(dtype: DataType) -> Option<(u32, Encoding)> {
    Some(match dtype {
        DataType::Float => (5, Encoding::Packed { unit: 4 }),
        DataType::Double => (6, Encoding::Packed { unit: 8 }),
        DataType::Complex64 => (9, Encoding::Packed { unit: 4 }),
        DataType::Complex128 => (12, Encoding::Packed { unit: 8 }),
        DataType::Int32 | DataType::Int16 | DataType::Int8 | DataType::Qint8 | DataType::Qint16 | DataType::Qint32 => {
            (7, Encoding::Signed)
        }
        DataType::Int4 => (7, Encoding::Signed),
        DataType::Uint8 | DataType::Uint16 | DataType::Quint8 | DataType::Quint16 | DataType::Uint4 => {
            (7, Encoding::Unsigned)
        }
        DataType::Int64 => (10, Encoding::Signed),
        DataType::Bool => (11, Encoding::Truth),
        DataType::Half | DataType::Bfloat16 => (13, Encoding::Unsigned),
        DataType::Uint32 => (16, Encoding::Unsigned),
        DataType::Uint64 => (17, Encoding::Unsigned),
        DataType::Float8E5m2 | DataType::Float8E4m3fn => (18, Encoding::Raw),
        DataType::String | DataType::Resource | DataType::Variant => return None,
    })
}

/// Encodings of one tensor that a message may hold, which are to be merged. Writers of protobuf make one.
const MOST_ENCODINGS: usize = 16;

/// A `TensorProto` in place: its parts found, its values not yet read.
#[derive(Clone, Debug, Default)]
pub struct TensorView<'a> {
    dtype: i32,
    sizes: SmallVec<[i64; 4]>,
    content: Option<Span<'a>>,
    /// Where typed values are. A message may hold one value per field, so these are looked for only when asked for.
    encodings: SmallVec<[Span<'a>; 1]>,
}

impl<'a> TensorView<'a> {
    /// Takes the fields of another encoding of the same message: what protobuf calls merging.
    pub fn merge(&mut self, message: Span<'a>) -> Result<(), Malformed> {
        let mut has_values = false;
        for field in Fields::of(message) {
            match field? {
                (number::DTYPE, value) => self.dtype = value.varint()? as i32,
                (number::SHAPE, value) => self.merge_shape(value.bytes()?)?,
                (number::CONTENT, value) => self.content = Some(value.bytes()?),
                (number, _) if number::VALUES.contains(&number) => has_values = true,
                _ => {}
            }
        }
        if has_values {
            if self.encodings.len() == MOST_ENCODINGS {
                return Err(Malformed);
            }
            self.encodings.push(message);
        }
        Ok(())
    }

    /// The element type, if it is known, and the sizes of the dimensions, as they stand there: nothing is checked.
    pub fn declared(&self) -> (Option<DataType>, &[i64]) {
        (DataType::from_number(self.dtype), &self.sizes)
    }

    fn merge_shape(&mut self, message: Span<'a>) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            if let (number::SHAPE_DIM, value) = field? {
                let mut size = 0;
                for field in Fields::of(value.bytes()?) {
                    if let (number::DIM_SIZE, value) = field? {
                        size = value.varint()? as i64;
                    }
                }
                // One too many is enough to see that there are too many.
                if self.sizes.len() <= MAX_RANK {
                    self.sizes.push(size);
                }
            }
        }
        Ok(())
    }

    /// The tensor for the input called `name`.
    ///
    /// Fewer values than elements: the last one repeats; none: zeros; more: the rest is ignored. `INVALID_ARGUMENT` for
    /// what is no tensor, `RESOURCE_EXHAUSTED` for one beyond the limits.
    pub fn to_tensor(&self, name: &str, limits: &Limits) -> Result<Tensor, Status> {
        self.to_tensor_within(name, limits, &mut |_| Ok(()))
    }

    /// As [`to_tensor`](Self::to_tensor). `room` is asked for bytes of memory before they are taken: the message may stand
    /// for far more than it holds.
    pub fn to_tensor_within(
        &self,
        name: &str,
        limits: &Limits,
        room: &mut impl FnMut(usize) -> Result<(), Status>,
    ) -> Result<Tensor, Status> {
        let parse_error = || Status::invalid_argument(format!("tensor parsing error: {name}"));
        let dtype = DataType::from_number(self.dtype).ok_or_else(parse_error)?;
        let shape = Shape::new(self.sizes.iter().copied()).ok_or_else(parse_error)?;
        let (elements, extent) = (shape.elements(), shape.extent());
        if extent > limits.max_tensor_elements {
            return Err(Status::resource_exhausted(format!(
                "input {name} has {extent} elements; this server takes at most {} (max_tensor_elements)",
                limits.max_tensor_elements
            )));
        }
        let content = self.content.filter(|content| !content.is_empty());
        if dtype == DataType::String {
            let strings: Arc<dyn StringArray> = match content {
                _ if elements == 0 => Arc::new(PackedStrings::default()),
                // Every length takes a byte at least.
                Some(content) if elements > content.len() => return Err(parse_error()),
                Some(content) => {
                    room(elements * (size_of::<u32>() + PLACE_BYTES))?;
                    Arc::new(strings_of_content(content, elements).ok_or_else(parse_error)?)
                }
                None => self.typed_strings(name, elements, limits, room)?,
            };
            return Tensor::strings(shape, strings);
        }
        let (Some(size), Some((field, encoding))) = (dtype.size(), typed_field(dtype)) else {
            return Err(parse_error());
        };
        let bytes = match content {
            _ if elements == 0 => aligned_bytes(0),
            Some(content) if content.len() == elements * size => {
                room(content.len())?;
                let mut bytes = aligned_bytes(content.len());
                content.chunks().for_each(|chunk| bytes.extend_from_slice(chunk));
                if dtype == DataType::Bool && bytes.iter().any(|byte| *byte > 1) {
                    return Err(parse_error());
                }
                bytes
            }
            Some(_) => return Err(parse_error()),
            None => {
                let wanted = elements * size;
                let given = self.most_bytes(size, field, encoding)?;
                check_repeated(name, wanted.saturating_sub(given), limits)?;
                room(wanted)?;
                self.typed_values(wanted, size, field, encoding)?
            }
        };
        Tensor::fixed(dtype, shape, Arc::new(bytes))
    }

    /// The fields with this number, in order.
    fn values(&self, wanted: u32) -> impl Iterator<Item = Result<Field<'a>, Malformed>> {
        self.encodings.iter().flat_map(|message| Fields::of(*message)).filter_map(move |field| match field {
            Ok((number, value)) => (number == wanted).then_some(Ok(value)),
            Err(malformed) => Some(Err(malformed)),
        })
    }

    /// The values that there are take no more bytes than this.
    fn most_bytes(&self, size: usize, field: u32, encoding: Encoding) -> Result<usize, Malformed> {
        let mut values = 0_usize;
        for value in self.values(field) {
            values = values.saturating_add(most_values(value?, encoding, size));
        }
        Ok(values.saturating_mul(size))
    }

    fn typed_values(
        &self,
        wanted: usize,
        size: usize,
        field: u32,
        encoding: Encoding,
    ) -> Result<AlignedBytes, Malformed> {
        let mut bytes = aligned_bytes(wanted);
        for value in self.values(field) {
            append_values(&mut bytes, value?, encoding, size, wanted)?;
        }
        bytes.truncate(bytes.len() / size * size);
        repeat_last(&mut bytes, size, wanted);
        Ok(bytes)
    }

    fn typed_strings(
        &self,
        name: &str,
        elements: usize,
        limits: &Limits,
        room: &mut impl FnMut(usize) -> Result<(), Status>,
    ) -> Result<Arc<dyn StringArray>, Status> {
        // Every string takes two bytes at least.
        let most = elements.min(self.encodings.iter().map(Span::len).sum::<usize>() / 2);
        room(most * PLACE_BYTES)?;
        let mut places = Vec::with_capacity(most);
        let mut last = None;
        for value in self.values(number::STRING_VAL).take(elements) {
            let string = value?.bytes()?;
            places.push(string.place().ok_or(Malformed)?);
            last = Some(string);
        }
        let missing = elements - places.len();
        let last_length = last.map_or(0, |string| string.len());
        check_repeated(name, missing.saturating_mul(last_length + size_of::<usize>()), limits)?;
        room(missing * PLACE_BYTES)?;
        places.resize(elements, places.last().copied().unwrap_or_default());
        let message = self.encodings.first().map(Span::message).unwrap_or_default();
        Ok(Arc::new(PlacedStrings { message, places }))
    }
}

fn check_repeated(name: &str, repeated: usize, limits: &Limits) -> Result<(), Status> {
    if repeated <= limits.max_repeated_bytes {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "input {name} stands for {repeated} bytes of values that its message does not hold; this server fills in at most \
         {} (max_repeated_bytes)",
        limits.max_repeated_bytes
    )))
}

/// No chunk holds more values than this.
fn most_values(chunk: Field<'_>, encoding: Encoding, size: usize) -> usize {
    match (chunk, encoding) {
        (Field::Bytes(bytes), Encoding::Packed { .. }) => bytes.len() / size,
        (Field::Bytes(bytes), _) => bytes.len(),
        _ => 1,
    }
}

/// Appends the values of a chunk, until there are `wanted` bytes.
fn append_values(
    bytes: &mut AlignedBytes,
    chunk: Field<'_>,
    encoding: Encoding,
    size: usize,
    wanted: usize,
) -> Result<(), Malformed> {
    let room = wanted - bytes.len();
    match (encoding, chunk) {
        (Encoding::Packed { unit }, Field::Bytes(values)) if values.len() % unit == 0 => append(bytes, values, room),
        (Encoding::Packed { unit }, Field::Fixed(value)) if value.len() == unit => append(bytes, value, room),
        // The one field of values that is not repeated: the last one counts.
        (Encoding::Raw, Field::Bytes(values)) => {
            bytes.clear();
            append(bytes, values, wanted);
        }
        (Encoding::Signed | Encoding::Unsigned | Encoding::Truth, Field::Bytes(mut values)) => {
            while values.has_remaining() {
                let value = decode_varint(&mut values)?;
                if bytes.len() < wanted {
                    append_integer(bytes, value, encoding, size);
                }
            }
        }
        (Encoding::Signed | Encoding::Unsigned | Encoding::Truth, Field::Varint(value)) => {
            if room > 0 {
                append_integer(bytes, value, encoding, size);
            }
        }
        _ => return Err(Malformed),
    }
    Ok(())
}

/// Appends bytes as they lie, as far as there is room.
fn append(bytes: &mut AlignedBytes, values: Span<'_>, mut room: usize) {
    for chunk in values.chunks() {
        let fitting = chunk.len().min(room);
        bytes.extend_from_slice(&chunk[..fitting]);
        room -= fitting;
    }
}

/// The low bytes of the value: wider values wrap, as a narrowing conversion does in C.
fn append_integer(bytes: &mut AlignedBytes, value: u64, encoding: Encoding, size: usize) {
    let value = if matches!(encoding, Encoding::Truth) { u64::from(value != 0) } else { value };
    bytes.extend_from_slice(&value.to_le_bytes()[..size]);
}

/// Fills up with the last value, or with zeros where there is none.
fn repeat_last(bytes: &mut AlignedBytes, size: usize, wanted: usize) {
    if bytes.len() >= wanted {
        return;
    }
    let mut last = [0_u8; 16];
    if let Some(start) = bytes.len().checked_sub(size) {
        last[..size].copy_from_slice(&bytes[start..]);
    }
    if last[..size].iter().all(|byte| *byte == last[0]) {
        bytes.resize(wanted, last[0]);
        return;
    }
    let start = bytes.len();
    bytes.resize(wanted, 0);
    for value in bytes[start..].chunks_exact_mut(size) {
        value.copy_from_slice(&last[..size]);
    }
}

/// Strings in `tensor_content`: all lengths as varints, then all bytes. `None` unless they are exactly `elements`.
fn strings_of_content(content: Span<'_>, elements: usize) -> Option<PlacedStrings> {
    let mut rest = content;
    let mut lengths = Vec::with_capacity(elements);
    for _ in 0..elements {
        lengths.push(u32::try_from(decode_varint(&mut rest).ok()?).ok()?);
    }
    let places = lengths.into_iter().map(|length| rest.split_to(length as usize)?.place()).collect::<Option<_>>()?;
    rest.is_empty().then(|| PlacedStrings { message: rest.message(), places })
}

/// How an answer holds its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the typed field of the data type.
    Typed,
    /// In `tensor_content`.
    Content,
}

/// The parts of a `TensorProto` to be written, with its length.
pub struct TensorWriter<'a> {
    tensor: &'a Tensor,
    form: Form,
    shape_length: usize,
    /// Bytes inside the value field; for typed strings, which take a field each, of all those fields together.
    values_length: usize,
    length: usize,
}

impl<'a> TensorWriter<'a> {
    pub fn new(tensor: &'a Tensor, form: Form) -> Self {
        let shape_length =
            tensor.shape().sizes().iter().map(|size| delimited(number::SHAPE_DIM, dim_length(*size))).sum();
        let mut writer = Self { tensor, form, shape_length, values_length: 0, length: 0 };
        writer.values_length = writer.measure_values();
        writer.length = key_len(number::DTYPE)
            + encoded_len_varint(tensor.dtype() as u64)
            + delimited(number::SHAPE, shape_length)
            + writer.values_field_length();
        writer
    }

    /// Bytes of the whole message.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        false // a data type and a shape are always written
    }

    fn measure_values(&self) -> usize {
        let tensor = self.tensor;
        if let Some(strings) = tensor.string_values() {
            let lengths = (0..strings.len()).map(|index| strings.get(index).len());
            return match self.form {
                Form::Typed => lengths.map(|length| delimited(number::STRING_VAL, length)).sum(),
                Form::Content => lengths.map(|length| encoded_len_varint(length as u64) + length).sum(),
            };
        }
        let bytes = tensor.bytes();
        match (self.form, typed_field(tensor.dtype())) {
            (Form::Typed, Some((_, encoding @ (Encoding::Signed | Encoding::Unsigned | Encoding::Truth)))) => {
                integers(tensor, encoding).map(encoded_len_varint).sum()
            }
            _ => bytes.len(),
        }
    }

    fn values_field_length(&self) -> usize {
        let typed_strings = self.tensor.dtype() == DataType::String && self.form == Form::Typed;
        match self.values_length {
            0 => 0,
            length if typed_strings => length,
            length => delimited(self.values_field(), length),
        }
    }

    fn values_field(&self) -> u32 {
        match (self.form, typed_field(self.tensor.dtype())) {
            (Form::Typed, Some((field, _))) => field,
            _ => number::CONTENT,
        }
    }

    pub fn write(&self, buffer: &mut impl BufMut) {
        let tensor = self.tensor;
        encode_key(number::DTYPE, WireType::Varint, buffer);
        encode_varint(tensor.dtype() as u64, buffer);
        start(number::SHAPE, self.shape_length, buffer);
        for size in tensor.shape().sizes() {
            start(number::SHAPE_DIM, dim_length(*size), buffer);
            if *size != 0 {
                encode_key(number::DIM_SIZE, WireType::Varint, buffer);
                encode_varint(*size as u64, buffer);
            }
        }
        if self.values_length == 0 {
            return;
        }
        if let Some(strings) = tensor.string_values() {
            let all = || (0..strings.len()).map(|index| strings.get(index));
            if self.form == Form::Typed {
                for string in all() {
                    start(number::STRING_VAL, string.len(), buffer);
                    buffer.put_slice(&string);
                }
                return;
            }
            start(number::CONTENT, self.values_length, buffer);
            all().for_each(|string| encode_varint(string.len() as u64, buffer));
            all().for_each(|string| buffer.put_slice(&string));
            return;
        }
        start(self.values_field(), self.values_length, buffer);
        match (self.form, typed_field(tensor.dtype())) {
            (Form::Typed, Some((_, encoding @ (Encoding::Signed | Encoding::Unsigned | Encoding::Truth)))) => {
                integers(tensor, encoding).for_each(|value| encode_varint(value, buffer));
            }
            _ => buffer.put_slice(tensor.bytes()),
        }
    }
}

/// The values of an integer tensor, as the 64 bits that a varint encodes: negative ones with their sign extended.
fn integers(tensor: &Tensor, encoding: Encoding) -> impl Iterator<Item = u64> {
    let size = tensor.dtype().size().unwrap_or(1);
    let shift = 64 - 8 * size as u32;
    tensor.bytes().chunks_exact(size).map(move |value| {
        let mut wide = [0_u8; 8];
        wide[..size].copy_from_slice(value);
        let bits = u64::from_le_bytes(wide);
        match encoding {
            Encoding::Signed => (((bits << shift) as i64) >> shift) as u64,
            _ => bits,
        }
    })
}

fn dim_length(size: i64) -> usize {
    if size == 0 { 0 } else { key_len(number::DIM_SIZE) + encoded_len_varint(size as u64) }
}

/// Bytes of a length-delimited field with so many bytes inside.
pub(crate) fn delimited(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

/// Writes key and length of a length-delimited field.
pub(crate) fn start(field: u32, length: usize, buffer: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::messages::tensorflow::{TensorProto, TensorShapeProto, tensor_shape_proto::Dim};
    use crate::span::Pieces;

    fn proto(dtype: DataType, sizes: &[i64]) -> TensorProto {
        let dim = sizes.iter().map(|size| Dim { size: *size, name: String::new() }).collect();
        let tensor_shape = Some(TensorShapeProto { dim, unknown_rank: false });
        TensorProto { dtype: dtype as i32, tensor_shape, ..TensorProto::default() }
    }

    fn read(proto: &TensorProto) -> Result<Tensor, Status> {
        read_bytes(proto.encode_to_vec())
    }

    fn read_bytes(bytes: Vec<u8>) -> Result<Tensor, Status> {
        let message = Arc::new(Pieces::from(bytes));
        let mut view = TensorView::default();
        view.merge(Span::of(&message))?;
        view.to_tensor("x", &Limits::default())
    }

    fn floats(tensor: &Tensor) -> Vec<f32> {
        tensor.bytes().chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().expect("four bytes"))).collect()
    }

    #[test]
    fn values_are_cut_repeated_or_zero() {
        let with = |values: &[f32]| TensorProto { float_val: values.to_vec(), ..proto(DataType::Float, &[3]) };
        assert_eq!(floats(&read(&with(&[1.0, 2.0, 3.0, 4.0])).expect("valid")), [1.0, 2.0, 3.0]);
        assert_eq!(floats(&read(&with(&[1.0, 2.0])).expect("valid")), [1.0, 2.0, 2.0]);
        assert_eq!(floats(&read(&with(&[])).expect("valid")), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_boolean_is_true_unless_it_is_0() {
        let bytes = |values: &[u8]| [b"\x08\x0a\x12\x04\x12\x02\x08\x02", values].concat();
        let read = |values: &[u8]| read_bytes(bytes(values)).map(|tensor| tensor.bytes().to_vec());
        assert_eq!(read(b"\x5a\x03\x80\x02\x00"), Ok(vec![1, 0]), "packed: 256 and 0");
        assert_eq!(read(b"\x58\x02\x58\x00"), Ok(vec![1, 0]), "one by one: 2 and 0");
        assert_eq!(read(b"\x22\x02\x01\x00"), Ok(vec![1, 0]));
        assert_eq!(read(b"\x22\x02\x01\x02"), Err(Status::invalid_argument("tensor parsing error: x")));
    }

    #[test]
    fn every_type_comes_back_as_it_went() {
        for dtype in DataType::ALL.iter().filter(|dtype| dtype.size().is_some()) {
            let size = dtype.size().expect("filtered");
            let mut values = aligned_bytes(3 * size);
            let unit = if *dtype == DataType::Bool { 2 } else { 251 };
            (0..3 * size).for_each(|index| values.push(((index * 37 + 129) % unit) as u8));
            let shape = Shape::new([3, 1]).expect("valid");
            let tensor = Tensor::fixed(*dtype, shape, Arc::new(values)).expect("sizes agree");
            for form in [Form::Typed, Form::Content] {
                let writer = TensorWriter::new(&tensor, form);
                let mut bytes = Vec::new();
                writer.write(&mut bytes);
                assert_eq!(bytes.len(), writer.len(), "{dtype} {form:?}");
                TensorProto::decode(&*bytes).expect("prost reads it too");
                let again = read_bytes(bytes).expect("valid");
                assert_eq!(again.bytes(), tensor.bytes(), "{dtype} {form:?}");
                assert_eq!(again.shape(), tensor.shape());
            }
        }
    }

    #[test]
    fn strings_come_back_as_they_went() {
        let strings = vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"\xff\0")];
        let tensor = Tensor::strings(Shape::new([3]).expect("valid"), Arc::new(strings)).expect("counts agree");
        for form in [Form::Typed, Form::Content] {
            let writer = TensorWriter::new(&tensor, form);
            let mut bytes = Vec::new();
            writer.write(&mut bytes);
            assert_eq!(bytes.len(), writer.len());
            let again = read_bytes(bytes).expect("valid");
            let strings = again.string_values().expect("strings");
            assert_eq!((&*strings.get(0), &*strings.get(1), &*strings.get(2)), (&b"a"[..], &b""[..], &b"\xff\0"[..]));
        }
    }

    #[test]
    fn what_is_no_tensor_is_named() {
        let wrong = [
            TensorProto { dtype: 0, ..proto(DataType::Float, &[1]) },
            TensorProto { dtype: 77, ..proto(DataType::Float, &[1]) },
            proto(DataType::Resource, &[1]),
            proto(DataType::Float, &[-1]),
            proto(DataType::Float, &[i64::MAX, 4]),
            proto(DataType::Float, &[1; 255]),
            TensorProto { tensor_content: vec![0; 3], ..proto(DataType::Float, &[1]) },
            TensorProto { tensor_content: vec![0; 8], ..proto(DataType::Float, &[1]) },
            TensorProto { tensor_content: vec![1, 9, b'a'], ..proto(DataType::String, &[2]) },
            TensorProto { tensor_content: vec![1, b'a', b'b'], ..proto(DataType::String, &[1]) },
        ];
        for proto in wrong {
            let status = read(&proto).expect_err("no tensor");
            assert_eq!(status, Status::invalid_argument("tensor parsing error: x"));
        }
    }

    #[test]
    fn room_is_asked_for_before_it_is_taken() {
        let strings =
            |count: usize| TensorProto { string_val: vec![Vec::new(); count], ..proto(DataType::String, &[9]) };
        let lengths = TensorProto { tensor_content: vec![0; 9], ..proto(DataType::String, &[9]) };
        let cases = [
            (proto(DataType::Float, &[1 << 20]), 4 << 20),
            (TensorProto { int64_val: vec![1; 9], ..proto(DataType::Int64, &[9]) }, 9 * 8),
            (TensorProto { tensor_content: vec![0; 8], ..proto(DataType::Float, &[2]) }, 8),
            (proto(DataType::Float, &[0]), 0),
            (proto(DataType::String, &[1 << 20]), PLACE_BYTES << 20),
            (strings(9), 9 * PLACE_BYTES),
            (lengths, 9 * (4 + PLACE_BYTES)),
        ];
        for (proto, wanted) in cases {
            let message = Arc::new(Pieces::from(proto.encode_to_vec()));
            let mut view = TensorView::default();
            view.merge(Span::of(&message)).expect("well formed");
            let mut asked = 0;
            let read = view.to_tensor_within("x", &Limits::default(), &mut |bytes| {
                asked += bytes;
                Ok(())
            });
            assert!(read.is_ok() && asked >= wanted && asked <= wanted + 9 * PLACE_BYTES, "{asked} {wanted}");
            let refused = view.to_tensor_within("x", &Limits::default(), &mut |bytes| match bytes {
                0 => Ok(()),
                _ => Err(Status::resource_exhausted("no room")),
            });
            assert_eq!(refused.is_err(), wanted > 0);
        }
    }

    #[test]
    fn a_small_message_cannot_ask_for_much_memory() {
        let status = read(&proto(DataType::Double, &[1 << 27])).expect_err("a gigabyte of zeros");
        assert!(status.message.contains("max_repeated_bytes"), "{status}");
        let status = read(&proto(DataType::Uint8, &[1 << 40])).expect_err("beyond all limits");
        assert!(status.message.contains("max_tensor_elements"), "{status}");
    }
}
