//! Bytes of a message where the network left them: in one piece, or in several.
//!
//! A large message comes in many frames. Reading it across them saves the copy that joining them would take.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use servable_core::tensor::StringArray;
use smallvec::SmallVec;

/// A whole message. Its pieces are never empty.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    pieces: SmallVec<[Bytes; 1]>,
    /// Where in the message each piece ends.
    ends: SmallVec<[usize; 1]>,
}

impl Pieces {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.ends.push(self.len() + piece.len());
            self.pieces.push(piece);
        }
    }

    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The message in one piece, joined if it is not.
    pub fn to_bytes(&self) -> Bytes {
        match self.pieces.as_slice() {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// What lies at `start`. A string across pieces is joined.
    fn slice(&self, start: usize, length: usize) -> Cow<'_, [u8]> {
        if length == 0 {
            return Cow::Borrowed(&[]);
        }
        let index = self.ends.partition_point(|end| *end <= start);
        let offset = start - if index == 0 { 0 } else { self.ends[index - 1] };
        let first = &self.pieces[index][offset..];
        if let Some(whole) = first.get(..length) {
            return Cow::Borrowed(whole);
        }
        let mut joined = Vec::with_capacity(length);
        joined.extend_from_slice(first);
        for piece in &self.pieces[index + 1..] {
            joined.extend_from_slice(&piece[..piece.len().min(length - joined.len())]);
            if joined.len() == length {
                break;
            }
        }
        Cow::Owned(joined)
    }
}

impl<B: Into<Bytes>> From<B> for Pieces {
    fn from(bytes: B) -> Self {
        let mut pieces = Self::default();
        pieces.push(bytes.into());
        pieces
    }
}

/// A part of a message, read from its front.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    message: &'a Arc<Pieces>,
    /// What is left of the piece that is being read; empty only at the end.
    first: &'a [u8],
    /// The piece after that.
    next: usize,
    /// Where in the message the span starts.
    start: usize,
    length: usize,
}

impl<'a> Span<'a> {
    pub fn of(message: &'a Arc<Pieces>) -> Self {
        let first = message.pieces.first().map_or(&[][..], |piece| piece);
        Self { message, first, next: 1, start: 0, length: message.len() }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first bytes, which are taken away; `None` if there are fewer.
    pub(crate) fn split_to(&mut self, length: usize) -> Option<Self> {
        if length > self.length {
            return None;
        }
        let first = self.first.get(..length).unwrap_or(self.first);
        let taken = Self { first, length, ..*self };
        self.advance(length);
        Some(taken)
    }

    /// All bytes, in order, as they lie.
    pub fn chunks(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let chunk = rest.first;
            rest.advance(chunk.len());
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    /// All bytes; joined if they lie in several pieces.
    pub fn joined(self) -> Cow<'a, [u8]> {
        if self.first.len() == self.length {
            return Cow::Borrowed(self.first);
        }
        let mut joined = Vec::with_capacity(self.length);
        for chunk in self.chunks() {
            joined.extend_from_slice(chunk);
        }
        Cow::Owned(joined)
    }

    /// `None` for a place that a message of gRPC cannot have, since its length is announced in 32 bits.
    pub(crate) fn place(&self) -> Option<Place> {
        Some(Place { start: self.start.try_into().ok()?, length: self.length.try_into().ok()? })
    }

    pub(crate) fn message(&self) -> Arc<Pieces> {
        Arc::clone(self.message)
    }
}

impl Buf for Span<'_> {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.first
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.length, "{count} bytes of {}: this is a bug", self.length);
        self.start += count;
        self.length -= count;
        let mut left = count;
        while left >= self.first.len() && self.length + left > self.first.len() {
            left -= self.first.len();
            let piece = &self.message.pieces[self.next];
            self.first = &piece[..piece.len().min(self.length + left)];
            self.next += 1;
        }
        self.first = &self.first[left..];
    }
}

/// Where in its message a string lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    start: u32,
    length: u32,
}

/// What a string of a tensor takes beside its own bytes.
pub(crate) const PLACE_BYTES: usize = size_of::<Place>();

/// Strings that stay in the message that brought them.
pub(crate) struct PlacedStrings {
    pub(crate) message: Arc<Pieces>,
    pub(crate) places: Vec<Place>,
}

impl StringArray for PlacedStrings {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn length(&self, index: usize) -> usize {
        self.places[index].length as usize
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        let Place { start, length } = self.places[index];
        self.message.slice(start as usize, length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(texts: &[&'static str]) -> Arc<Pieces> {
        let mut pieces = Pieces::default();
        for text in texts {
            pieces.push(Bytes::from_static(text.as_bytes()));
        }
        Arc::new(pieces)
    }

    #[test]
    fn a_span_is_read_across_pieces() {
        let message = pieces(&["ab", "", "cdef", "g"]);
        let mut span = Span::of(&message);
        assert_eq!((span.len(), span.chunk()), (7, &b"ab"[..]));
        let head = span.split_to(3).expect("there are more");
        assert_eq!((&*head.joined(), head.chunks().count()), (&b"abc"[..], 2));
        assert_eq!((&*span.joined(), span.chunk()), (&b"defg"[..], &b"def"[..]));
        assert!(span.split_to(5).is_none());
        let middle = span.split_to(3).expect("there are as many");
        assert!(matches!(middle.joined(), Cow::Borrowed(b"def")), "nothing to join");
        assert_eq!(&*span.joined(), b"g");
        span.advance(1);
        assert!(span.is_empty() && span.chunk().is_empty() && span.chunks().next().is_none());
        assert_eq!(span.split_to(0).expect("nothing is there").len(), 0);
    }

    #[test]
    fn a_part_ends_where_it_ends() {
        let message = pieces(&["abc", "def", "ghi"]);
        for start in 0..9 {
            for length in 0..=9 - start {
                let mut span = Span::of(&message);
                span.advance(start);
                let mut part = span.split_to(length).expect("there are as many");
                assert_eq!(&*part.joined(), &b"abcdefghi"[start..start + length]);
                let mut read = Vec::new();
                while part.has_remaining() {
                    read.push(part.get_u8());
                }
                assert_eq!(read, &b"abcdefghi"[start..start + length]);
                assert_eq!(&*message.slice(start, length), &b"abcdefghi"[start..start + length]);
            }
        }
    }

    #[test]
    fn nothing_is_a_message_too() {
        let message = pieces(&[]);
        let mut span = Span::of(&message);
        assert!(span.is_empty() && span.split_to(1).is_none() && span.split_to(0).is_some());
        assert_eq!(message.to_bytes(), Bytes::new());
        assert_eq!(pieces(&["a", "b"]).to_bytes(), Bytes::from_static(b"ab"));
    }
}
