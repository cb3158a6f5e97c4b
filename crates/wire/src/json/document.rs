//! A request body: valid JSON, an object, and where its members lie.

use std::fmt::Write;

use servable_core::limits::Limits;
use servable_core::signature::Signature;
use servable_core::status::Status;

use crate::json::decode::{Early, Format};
use crate::json::dialect::Dialect;
use crate::json::dump::dump;
use crate::json::scan::{Reason, Scanner, SyntaxError};
use crate::json::text;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The value of a top-level member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) text: &'a [u8],
    /// How many scalars it holds: what to make room for.
    pub(super) scalars: usize,
}

/// A syntactically valid body. Of several members with the same name, the first counts.
#[derive(Debug)]
pub struct Document<'a> {
    /// The first value of the body; what follows it is ignored.
    text: &'a [u8],
    signature_name: Option<&'a [u8]>,
    pub(super) instances: Option<Member<'a>>,
    pub(super) inputs: Option<Member<'a>>,
    pub(super) examples: Option<Member<'a>>,
    pub(super) context: Option<Member<'a>>,
    pub(super) early: Option<Early<'a>>,
}

/// Signatures by name; the empty name is that of the default one.
pub type Signatures<'a> = &'a dyn Fn(&str) -> Option<&'a Signature>;

impl<'a> Document<'a> {
    /// Reads over the whole first value. `INVALID_ARGUMENT` says what is wrong with it, and at which byte.
    pub fn parse(body: &'a [u8], dialect: Dialect, limits: &Limits) -> Result<Self, Status> {
        Self::parse_for(body, dialect, limits, &|_| None)
    }

    /// The same, for one of these signatures, as far as they can be told by then. Lists of numbers are converted in the
    /// same pass, which saves those who send many of them half of the time.
    pub fn parse_for(
        body: &'a [u8],
        dialect: Dialect,
        limits: &Limits,
        signatures: Signatures<'a>,
    ) -> Result<Self, Status> {
        if body.is_empty() {
            return Err(Status::invalid_argument("JSON Parse error: The document is empty"));
        }
        // A NUL ends the text, wherever it stands.
        let end = memchr::memchr(0, body).unwrap_or(body.len());
        let mut scanner = Scanner::of(&body[..end], dialect);
        if body.starts_with(BYTE_ORDER_MARK) {
            scanner.advance(BYTE_ORDER_MARK.len());
        }
        scanner.whitespace();
        let start = scanner.at();
        let mut document = Self {
            text: &[],
            signature_name: None,
            instances: None,
            inputs: None,
            examples: None,
            context: None,
            early: None,
        };
        let is_object = scanner.peek() == b'{';
        let scanned = match scanner.peek() {
            b'{' if limits.max_json_depth > 0 => document.members(&mut scanner, limits, signatures),
            0 | b']' | b'}' | b',' | b':' => Err(SyntaxError { reason: Reason::DocumentEmpty, offset: start }),
            _ => scanner.value(limits.max_json_depth).map(|_| ()),
        };
        if let Err(error) = scanned {
            return Err(refusal(error, limits));
        }
        document.text = scanner.since(start);
        if dialect == Dialect::Strict {
            scanner.whitespace();
            check_strictly(body, scanner.at()).map_err(|error| refusal(error, limits))?;
        }
        if is_object { Ok(document) } else { Err(document.wrong("Is not object")) }
    }

    /// The signature that is asked for, if one is named. An empty name counts as none.
    pub fn signature_name(&self) -> Result<Option<String>, Status> {
        match self.signature_name {
            None => Ok(None),
            Some([b'"', inner @ .., b'"']) => Ok(Some(text::readable(inner)).filter(|name| !name.is_empty())),
            Some(_) => Err(self.wrong("not formatted correctly. 'signature_name' key must be a string value.")),
        }
    }

    /// Whether it is a body for classify or regress.
    pub fn has_examples(&self) -> bool {
        self.examples.is_some()
    }

    /// `INVALID_ARGUMENT` about the document as a whole.
    pub(super) fn wrong(&self, what: &str) -> Status {
        Status::invalid_argument(format!("JSON Value: {} {what}", dump(self.text)))
    }

    /// Reads the top-level object, which starts here.
    fn members(
        &mut self,
        scanner: &mut Scanner<'a>,
        limits: &Limits,
        signatures: Signatures<'a>,
    ) -> Result<(), SyntaxError> {
        let max_depth = limits.max_json_depth - 1;
        scanner.advance(1);
        scanner.whitespace();
        if scanner.take(b'}') {
            return Ok(());
        }
        loop {
            let name = scanner.member_name()?;
            let start = scanner.at();
            let scalars = match self.read_early(name, scanner, limits, signatures) {
                Some(after) => {
                    *scanner = after;
                    0
                }
                None => scanner.value(max_depth)?,
            };
            self.remember(name, Member { text: scanner.since(start), scalars }, signatures);
            scanner.whitespace();
            match scanner.peek() {
                b',' => scanner.advance(1),
                b'}' => {
                    scanner.advance(1);
                    return Ok(());
                }
                _ => return Err(SyntaxError { reason: Reason::MemberEndMissing, offset: scanner.at() }),
            }
            scanner.whitespace();
        }
    }

    /// Reads the inputs, if they come next. Returns where that ended; nothing if it could not.
    fn read_early(
        &mut self,
        name: &[u8],
        scanner: &Scanner<'a>,
        limits: &Limits,
        signatures: Signatures<'a>,
    ) -> Option<Scanner<'a>> {
        let format = match name {
            b"instances" => Format::Row,
            b"inputs" => Format::Column,
            _ => return None,
        };
        if self.instances.is_some() || self.inputs.is_some() {
            return None;
        }
        let signature = signatures(self.signature_name().ok()?.as_deref().unwrap_or_default())?;
        let mut ahead = scanner.clone();
        self.early = Early::read(format, &mut ahead, signature, limits, limits.max_json_depth - 1);
        self.early.is_some().then_some(ahead)
    }

    fn remember(&mut self, name: &[u8], member: Member<'a>, signatures: Signatures<'a>) {
        match &*text::unescaped(name) {
            b"signature_name" if self.signature_name.is_none() => {
                self.signature_name = Some(member.text);
                let named = self.signature_name().ok().and_then(|name| signatures(&name.unwrap_or_default()));
                // What was read for another one is of no use, and may be large.
                self.early.take_if(|early| !named.is_some_and(|named| early.is_for(named)));
            }
            b"instances" => _ = self.instances.get_or_insert(member),
            b"inputs" => _ = self.inputs.get_or_insert(member),
            b"examples" => _ = self.examples.get_or_insert(member),
            b"context" => _ = self.context.get_or_insert(member),
            _ => {}
        }
    }
}

/// What the standard asks for beyond the grammar: text in UTF-8, and nothing after the value, which ends here.
fn check_strictly(body: &[u8], end: usize) -> Result<(), SyntaxError> {
    if let Err(error) = std::str::from_utf8(body) {
        return Err(SyntaxError { reason: Reason::Encoding, offset: error.valid_up_to() });
    }
    if end < body.len() { Err(SyntaxError { reason: Reason::ValueAfter, offset: end }) } else { Ok(()) }
}

fn refusal(error: SyntaxError, limits: &Limits) -> Status {
    let SyntaxError { reason, offset } = error;
    let mut message = format!("JSON Parse error: {} at offset: {offset}", reason.text());
    if reason == Reason::TooDeep {
        _ = write!(message, ". max_json_depth is {}", limits.max_json_depth);
    }
    Status::invalid_argument(message)
}
