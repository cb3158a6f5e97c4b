//! Reading over JSON text: where a token ends, and why it is none.

use smallvec::SmallVec;

use crate::json::dialect::Dialect;
use crate::json::number;

/// Why text is no JSON. The words are `RapidJSON`'s, which clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    DocumentEmpty,
    ValueInvalid,
    NameMissing,
    ColonMissing,
    MemberEndMissing,
    ElementEndMissing,
    HexDigit,
    Surrogate,
    Escape,
    QuoteMissing,
    NumberTooBig,
    FractionMissing,
    ExponentMissing,
    ValueAfter,
    Encoding,
    /// Ours: nesting beyond what the server allows.
    TooDeep,
}

impl Reason {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::DocumentEmpty => "The document is empty.",
            Self::ValueInvalid => "Invalid value.",
            Self::NameMissing => "Missing a name for object member.",
            Self::ColonMissing => "Missing a colon after a name of object member.",
            Self::MemberEndMissing => "Missing a comma or '}' after an object member.",
            Self::ElementEndMissing => "Missing a comma or ']' after an array element.",
            Self::HexDigit => "Incorrect hex digit after \\u escape in string.",
            Self::Surrogate => "The surrogate pair in string is invalid.",
            Self::Escape => "Invalid escape character in string.",
            Self::QuoteMissing => "Missing a closing quotation mark in string.",
            Self::NumberTooBig => "Number too big to be stored in double.",
            Self::FractionMissing => "Miss fraction part in number.",
            Self::ExponentMissing => "Miss exponent in number.",
            Self::ValueAfter => "The document root must not be followed by other values.",
            Self::Encoding => "Invalid encoding in string.",
            Self::TooDeep => "Nesting is too deep.",
        }
    }
}

/// A reason and the byte it was found at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) reason: Reason,
    pub(super) offset: usize,
}

type Scanned<T = ()> = Result<T, SyntaxError>;

/// What an open bracket was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nest {
    List,
    Object,
}

/// A place in JSON text that moves on token by token.
#[derive(Clone)]
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    dialect: Dialect,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self::of(text, Dialect::Original)
    }

    pub(super) fn of(text: &'a [u8], dialect: Dialect) -> Self {
        Self { text, at: 0, dialect }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.split_at_checked(self.at).map_or(&[], |(_, rest)| rest)
    }

    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The next byte; 0 at the end. NUL never stands in a document, since it ends one.
    #[inline]
    pub(super) fn peek(&self) -> u8 {
        self.ahead(self.at)
    }

    #[inline]
    fn ahead(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Steps over `byte` if it comes next.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == byte;
        self.at += usize::from(taken);
        taken
    }

    #[inline]
    pub(super) fn whitespace(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Steps over a comma, and the blanks around it, if one comes next.
    #[inline]
    pub(super) fn comma(&mut self) -> bool {
        // As most writers have it: a blank after the comma, or none.
        match self.next() {
            Some([b',', b' ', next]) if *next > b' ' => self.at += 2,
            Some([b',', next, _]) if *next > b' ' => self.at += 1,
            Some([b']', ..]) => return false,
            _ => return self.any_comma(),
        }
        true
    }

    fn any_comma(&mut self) -> bool {
        self.whitespace();
        let taken = self.take(b',');
        if taken {
            self.whitespace();
        }
        taken
    }

    /// The next bytes, if there are so many.
    #[inline]
    pub(super) fn next<const COUNT: usize>(&self) -> Option<&'a [u8; COUNT]> {
        self.text.get(self.at..)?.first_chunk()
    }

    fn error<T>(&self, reason: Reason) -> Scanned<T> {
        Err(SyntaxError { reason, offset: self.at })
    }

    /// Reads over one value and returns how many scalars it holds. `max_depth` counts the brackets it may open.
    pub(super) fn value(&mut self, max_depth: usize) -> Scanned<usize> {
        let mut outer: SmallVec<[Nest; 64]> = SmallVec::new();
        let mut inner: Option<Nest> = None;
        let mut scalars = 0;
        'value: loop {
            let first = self.peek();
            if matches!(first, b'[' | b'{') {
                if outer.len() + usize::from(inner.is_some()) >= max_depth {
                    return self.error(Reason::TooDeep);
                }
                if let Some(nest) = inner {
                    outer.push(nest);
                }
                self.at += 1;
                self.whitespace();
                if first == b'[' {
                    inner = Some(Nest::List);
                    if self.peek() != b']' {
                        continue 'value;
                    }
                } else {
                    inner = Some(Nest::Object);
                    if self.peek() != b'}' {
                        self.member_name()?;
                        continue 'value;
                    }
                }
                self.at += 1;
                inner = outer.pop();
            } else {
                self.scalar(first)?;
                scalars += 1;
            }
            while let Some(nest) = inner {
                self.whitespace();
                match (nest, self.peek()) {
                    (Nest::List, b',') => {
                        self.at += 1;
                        self.whitespace();
                        continue 'value;
                    }
                    (Nest::Object, b',') => {
                        self.at += 1;
                        self.whitespace();
                        self.member_name()?;
                        continue 'value;
                    }
                    (Nest::List, b']') | (Nest::Object, b'}') => {
                        self.at += 1;
                        inner = outer.pop();
                    }
                    (Nest::List, _) => return self.error(Reason::ElementEndMissing),
                    (Nest::Object, _) => return self.error(Reason::MemberEndMissing),
                }
            }
            return Ok(scalars);
        }
    }

    /// Reads `"name":` and the blanks after it; returns what stands between the quotes.
    pub(super) fn member_name(&mut self) -> Scanned<&'a [u8]> {
        if self.peek() != b'"' {
            return self.error(Reason::NameMissing);
        }
        let name = self.string()?;
        self.whitespace();
        if !self.take(b':') {
            return self.error(Reason::ColonMissing);
        }
        self.whitespace();
        Ok(name)
    }

    #[inline]
    fn scalar(&mut self, first: u8) -> Scanned {
        match first {
            b'0'..=b'9' | b'-' | b'N' | b'I' => self.number(),
            b'"' => self.string().map(|_| ()),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.error(Reason::ValueInvalid),
        }
    }

    /// Reads `word`, whose first byte is known to be there; an error stands where the text first differs.
    fn word(&mut self, word: &[u8]) -> Scanned {
        for letter in word {
            if !self.take(*letter) {
                return self.error(Reason::ValueInvalid);
            }
        }
        Ok(())
    }

    /// Reads over a string; returns what stands between the quotes, escapes and all.
    pub(super) fn string(&mut self) -> Scanned<&'a [u8]> {
        self.at += 1;
        let start = self.at;
        loop {
            self.at += plain_length(self.rest());
            match self.peek() {
                b'"' => {
                    let inner = self.since(start);
                    self.at += 1;
                    return Ok(inner);
                }
                b'\\' => self.escape()?,
                0 => return self.error(Reason::QuoteMissing),
                _ => return self.error(Reason::Escape),
            }
        }
    }

    /// Reads one escape, or the two that make a surrogate pair. Errors stand at its backslash.
    fn escape(&mut self) -> Scanned {
        let start = self.at;
        let fail = |reason| Err(SyntaxError { reason, offset: start });
        self.at += 2;
        match self.ahead(start + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => match self.hex4() {
                None => fail(Reason::HexDigit),
                Some(0xD800..=0xDBFF) => {
                    if !(self.take(b'\\') && self.take(b'u')) {
                        return fail(Reason::Surrogate);
                    }
                    match self.hex4() {
                        None => fail(Reason::HexDigit),
                        Some(0xDC00..=0xDFFF) => Ok(()),
                        Some(_) => fail(Reason::Surrogate),
                    }
                }
                // The original lets a lone low surrogate through and makes broken UTF-8 of it.
                Some(0xDC00..=0xDFFF) => fail(Reason::Surrogate),
                Some(_) => Ok(()),
            },
            _ => fail(Reason::Escape),
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let mut code = 0;
        for _ in 0..4 {
            code = code << 4 | char::from(self.peek()).to_digit(16)?;
            self.at += 1;
        }
        Some(code)
    }

    pub(super) fn number(&mut self) -> Scanned {
        let start = self.at;
        self.take(b'-');
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ if self.dialect == Dialect::Strict => return self.error(Reason::ValueInvalid),
            b'N' => return self.word(b"NaN"),
            b'I' => {
                self.word(b"Inf")?;
                return if self.peek() == b'i' { self.word(b"inity") } else { Ok(()) };
            }
            _ => return self.error(Reason::ValueInvalid),
        }
        let integer_length = self.at - start;
        if self.take(b'.') {
            if !self.peek().is_ascii_digit() {
                return self.error(Reason::FractionMissing);
            }
            self.digits();
        }
        let mut grows = false;
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            grows = !self.take(b'-');
            if grows {
                self.take(b'+');
            }
            if !self.peek().is_ascii_digit() {
                return self.error(Reason::ExponentMissing);
            }
            self.digits();
        }
        // The largest double has 309 digits; anything shorter without an exponent fits.
        if (grows || integer_length > 308)
            && number::real(self.since(start)).is_some_and(|(value, _)| value.is_infinite())
        {
            return Err(SyntaxError { reason: Reason::NumberTooBig, offset: start });
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) {
        self.at = number::digits_end(self.text, self.at);
    }
}

/// How many bytes may stand in a string as they are: up to a quote, a backslash or a control character.
pub(super) fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let mut length = 0;
    for word in text.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight; anything else is a bug"));
        // Sets the high bit of each byte that is zero, or below 0x20. A borrow can only mark bytes after a true match.
        let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | control) & HIGHS;
        if found != 0 {
            return length + found.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let tail = text.get(length..).unwrap_or_default();
    length + tail.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count()
}

/// The elements of a list, each as its text. For text that has been scanned before.
pub(super) struct Elements<'a>(Scanner<'a>);

impl<'a> Elements<'a> {
    pub(super) fn of(list: &'a [u8]) -> Self {
        Self(inside(list))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let value = next_value(&mut self.0);
        separator(&mut self.0);
        value
    }
}

/// The members of an object: what stands between the quotes of the name, and the value's text.
pub(super) struct Members<'a>(Scanner<'a>);

impl<'a> Members<'a> {
    pub(super) fn of(object: &'a [u8]) -> Self {
        Self(inside(object))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.member_name().ok()?;
        let value = next_value(&mut self.0)?;
        separator(&mut self.0);
        Some((name, value))
    }
}

fn inside(text: &[u8]) -> Scanner<'_> {
    let mut scanner = Scanner::new(text);
    scanner.advance(1);
    scanner.whitespace();
    scanner
}

fn next_value<'a>(scanner: &mut Scanner<'a>) -> Option<&'a [u8]> {
    let start = scanner.at();
    scanner.value(usize::MAX).ok()?;
    Some(scanner.since(start))
}

fn separator(scanner: &mut Scanner<'_>) {
    scanner.whitespace();
    if scanner.take(b',') {
        scanner.whitespace();
    }
}
