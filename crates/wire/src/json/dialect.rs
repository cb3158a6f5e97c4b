//! Which JSON is read and written: the original's, or what the standard says.

use crate::json::print;
use crate::json::text::{quote, quote_base64};

/// The original's JSON has bare words for numbers that are not finite, ignores what follows the first value, and lets
/// any bytes stand in strings. RFC 8259 has none of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    #[default]
    Original,
    Strict,
}

impl Dialect {
    #[inline]
    pub(super) fn float(self, value: f32, out: &mut Vec<u8>) {
        if self == Self::Strict && !value.is_finite() {
            return out.extend_from_slice(b"null");
        }
        print::float(value, out);
    }

    #[inline]
    pub(super) fn double(self, value: f64, out: &mut Vec<u8>) {
        if self == Self::Strict && !value.is_finite() {
            return out.extend_from_slice(b"null");
        }
        print::double(value, out);
    }

    /// A string; strictly, one that is no text is written as binary values are: `{"b64": …}`.
    pub(super) fn string(self, string: &[u8], out: &mut Vec<u8>) {
        if self == Self::Strict && std::str::from_utf8(string).is_err() {
            out.extend_from_slice(b"{\"b64\": ");
            quote_base64(string, out);
            return out.push(b'}');
        }
        quote(string, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictly_everything_is_json() {
        let written = |dialect: Dialect| {
            let mut out = Vec::new();
            dialect.float(f32::NAN, &mut out);
            dialect.double(f64::NEG_INFINITY, &mut out);
            dialect.double(1.5, &mut out);
            dialect.string(b"a\xff", &mut out);
            dialect.string("é".as_bytes(), &mut out);
            out
        };
        assert_eq!(written(Dialect::Original), b"NaN-Infinity1.5\"a\xff\"\"\xc3\xa9\"");
        assert_eq!(written(Dialect::Strict), b"nullnull1.5{\"b64\": \"Yf8=\"}\"\xc3\xa9\"");
    }
}
