//! Strings: escapes in, escapes out, base64.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::json::scan::{Scanner, plain_length};

/// Padding is judged before; what trailing bits say does not matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// What the text between two quotes stands for, appended to `out`. For text that has been scanned before.
pub(super) fn unescape(mut raw: &[u8], out: &mut Vec<u8>) {
    while let Some(escape) = memchr::memchr(b'\\', raw) {
        out.extend_from_slice(&raw[..escape]);
        let letter = raw.get(escape + 1).copied().unwrap_or(0);
        let mut end = escape + 2;
        match letter {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let mut code = hex4(raw, end);
                end += 4;
                if let 0xD800..=0xDBFF = code {
                    code = 0x10000 + ((code - 0xD800) << 10) + (hex4(raw, end + 2).wrapping_sub(0xDC00) & 0x3FF);
                    end += 6;
                }
                let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => out.push(other),
        }
        raw = raw.get(end..).unwrap_or_default();
    }
    out.extend_from_slice(raw);
}

fn hex4(raw: &[u8], at: usize) -> u32 {
    let digits = raw.get(at..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// What the text between two quotes stands for.
pub(super) fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    unescape(raw, &mut out);
    Cow::Owned(out)
}

/// The same as a `String`, for messages.
pub(super) fn readable(raw: &[u8]) -> String {
    String::from_utf8_lossy(&unescaped(raw)).into_owned()
}

/// A name in a message, which need not be longer than any that means something.
pub(super) fn shown(name: &str) -> Cow<'_, str> {
    const MOST_CHARACTERS: usize = 1024;
    match name.char_indices().nth(MOST_CHARACTERS) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}...", &name[..end])),
    }
}

/// Writes `string` with quotes. Bytes that are no UTF-8 pass as they are.
///
/// That makes such an answer broken JSON for strict readers, as it does in the original. Replacing the bytes would
/// please the reader and lose the data; a model that answers with bytes names its output `…_bytes`.
pub fn quote(string: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = string;
    loop {
        let plain = plain_length(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(special) = rest.get(plain).copied() else {
            break;
        };
        let letter = match special {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            b'"' | b'\\' => special,
            _ => b'u',
        };
        out.extend_from_slice(&[b'\\', letter]);
        if letter == b'u' {
            let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit & 15)];
            out.extend_from_slice(&[b'0', b'0', hex(special >> 4), hex(special)]);
        }
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

/// Writes bytes as a string in base64.
pub(super) fn quote_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    out.resize(start + length, b'=');
    let written = base64::engine::general_purpose::STANDARD.encode_slice(bytes, &mut out[start..]);
    out.truncate(start + written.expect("the encoded length is known; anything else is a bug"));
    out.push(b'"');
}

/// If `text` begins with an object whose only member is `b64`, a string: what stands between that string's quotes, and
/// the length of the object.
pub(super) fn base64_object(text: &[u8]) -> Option<(&[u8], usize)> {
    let mut scanner = Scanner::new(text);
    if !scanner.take(b'{') {
        return None;
    }
    scanner.whitespace();
    if *unescaped(scanner.member_name().ok()?) != *b"b64" || scanner.peek() != b'"' {
        return None;
    }
    let encoded = scanner.string().ok()?;
    scanner.whitespace();
    scanner.take(b'}').then(|| (encoded, scanner.at()))
}

/// Appends what base64 text (as it stands between quotes) encodes. `false`, and nothing appended, if it is none.
///
/// Lenient as clients have come to know it: blanks are skipped, padding is all there or not at all, and `.` pads too.
pub(super) fn decode_base64(raw: &[u8], out: &mut Vec<u8>) -> bool {
    let text = unescaped(raw);
    if decode_padded(&text, out) {
        return true;
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    if !text.iter().any(is_blank) {
        return false;
    }
    let solid: Vec<u8> = text.iter().copied().filter(|byte| !is_blank(byte)).collect();
    decode_padded(&solid, out)
}

fn decode_padded(text: &[u8], out: &mut Vec<u8>) -> bool {
    let pads = text.iter().rev().take_while(|byte| matches!(byte, b'=' | b'.')).count();
    if pads > 2 || (pads > 0 && !text.len().is_multiple_of(4)) {
        return false;
    }
    let symbols = &text[..text.len() - pads];
    let start = out.len();
    out.resize(start + base64::decoded_len_estimate(symbols.len()), 0);
    let decoded = BASE64.decode_slice(symbols, &mut out[start..]);
    out.truncate(start + decoded.as_ref().copied().unwrap_or(0));
    decoded.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_what_they_stand_for() {
        for (raw, wanted) in [
            ("plain", "plain"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"h\u00e9llo \u20AC\ud83d\ude00!", "héllo €😀!"),
            (r"a\u0000b", "a\0b"),
        ] {
            assert_eq!(*unescaped(raw.as_bytes()), *wanted.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn quoting_escapes_no_more_than_it_must() {
        let mut out = Vec::new();
        quote("a\"b\\c/\u{1}\u{1f}\u{7f}\n\r\t\u{8}\u{c}é".as_bytes(), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "\"a\\\"b\\\\c/\\u0001\\u001F\u{7f}\\n\\r\\t\\b\\fé\"");
    }

    #[test]
    fn base64_is_read_leniently() {
        for (text, wanted) in [
            ("", Some("")),
            ("aGVsbG8=", Some("hello")),
            ("aGVsbG8", Some("hello")),
            ("aGVsbG8.", Some("hello")),
            ("YR==", Some("a")),
            (" aG k=\\n", Some("hi")),
            ("aGVsbG8==", None),
            ("aGV_", None),
            ("aG=k", None),
            ("a", None),
            ("YQ=", None),
            ("====", None),
            ("aGk\u{e9}", None),
            ("\\/w==", Some("\u{fffd}")),
        ] {
            let mut out = Vec::new();
            let decoded = decode_base64(text.as_bytes(), &mut out).then(|| String::from_utf8_lossy(&out));
            assert_eq!(decoded.as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_base64_object_has_one_member() {
        assert_eq!(base64_object(br#"{ "b64" : "aGk=" },2"#), Some((&b"aGk="[..], 18)));
        assert_eq!(base64_object(br#"{"b\u00364":"x"}"#), Some((&b"x"[..], 16)));
        for text in [r#"{"b64":5}"#, r#"{"b64":"a","b64":"a"}"#, r#"{"b64":"a","z":1}"#, "{}", r#""b64""#] {
            assert_eq!(base64_object(text.as_bytes()), None, "{text}");
        }
    }
}
