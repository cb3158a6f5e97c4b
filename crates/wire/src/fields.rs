//! Reading a protobuf message field by field, in place.
//!
//! For the messages of every request, which are worth reading without building the whole message first: tensors go from
//! the wire to where they are used in one copy. The encoding itself is prost's.

use std::borrow::Cow;

use bytes::Buf;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use servable_core::Status;

use crate::span::Span;

/// One field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    Varint(u64),
    /// Four or eight little-endian bytes.
    Fixed(Span<'a>),
    /// A string, bytes, a message or packed values.
    Bytes(Span<'a>),
}

impl<'a> Field<'a> {
    pub fn bytes(self) -> Result<Span<'a>, Malformed> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    /// Text has to be UTF-8, as in any proto3 message. It is a name, and no name is as long as some would like it to be.
    pub fn text(self) -> Result<Cow<'a, str>, Malformed> {
        const LONGEST: usize = 1 << 20;
        let bytes = self.bytes()?;
        if bytes.len() > LONGEST {
            return Err(Malformed);
        }
        match bytes.joined() {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Malformed),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Malformed),
        }
    }

    pub fn varint(self) -> Result<u64, Malformed> {
        match self {
            Field::Varint(value) => Ok(value),
            _ => Err(Malformed),
        }
    }
}

/// The bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

/// What gRPC servers answer to bytes that do not parse.
impl From<Malformed> for Status {
    fn from(_: Malformed) -> Self {
        Status::internal("the request message does not parse as protobuf")
    }
}

/// The fields of a message, in the order of the wire; those of unknown groups are skipped.
#[derive(Clone)]
pub struct Fields<'a>(Span<'a>);

impl<'a> Fields<'a> {
    pub fn of(message: Span<'a>) -> Self {
        Self(message)
    }

    fn read(&mut self) -> Result<Option<(u32, Field<'a>)>, Malformed> {
        while !self.0.is_empty() {
            if let Some(brief) = self.read_brief() {
                return Ok(Some(brief));
            }
            let (number, wire_type) = decode_key(&mut self.0)?;
            let field = match wire_type {
                WireType::Varint => Field::Varint(decode_varint(&mut self.0)?),
                WireType::ThirtyTwoBit => Field::Fixed(self.take(4)?),
                WireType::SixtyFourBit => Field::Fixed(self.take(8)?),
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut self.0)?;
                    Field::Bytes(self.take(usize::try_from(length).map_err(|_| Malformed)?)?)
                }
                WireType::StartGroup | WireType::EndGroup => {
                    skip_field(wire_type, number, &mut self.0, DecodeContext::default())?;
                    continue;
                }
            };
            return Ok(Some((number, field)));
        }
        Ok(None)
    }

    /// The field that comes next, if a byte is enough for each of its key and its length or value, as for most fields of
    /// small messages; and if both are in one piece. Otherwise nothing is read.
    #[inline]
    fn read_brief(&mut self) -> Option<(u32, Field<'a>)> {
        const LAST: u8 = 0x7F;
        let [key @ 8..=LAST, value @ ..=LAST, ..] = *self.0.chunk() else { return None };
        let number = u32::from(key >> 3);
        match WireType::try_from(u64::from(key & 7)) {
            Ok(WireType::Varint) => {
                self.0.advance(2);
                Some((number, Field::Varint(u64::from(value))))
            }
            Ok(WireType::LengthDelimited) if self.0.len() - 2 >= usize::from(value) => {
                self.0.advance(2);
                Some((number, Field::Bytes(self.0.split_to(usize::from(value))?)))
            }
            _ => None,
        }
    }

    fn take(&mut self, length: usize) -> Result<Span<'a>, Malformed> {
        self.0.split_to(length).ok_or(Malformed)
    }

    /// Nothing is read any more.
    fn end(&mut self) {
        let _ = self.0.split_to(self.0.len());
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let outcome = self.read();
        if outcome.is_err() {
            self.end();
        }
        outcome.transpose()
    }
}
