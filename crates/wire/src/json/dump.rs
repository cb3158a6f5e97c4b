//! How messages show a value: indented, and only its beginning.

use crate::json::number::{self, Integral};
use crate::json::print;
use crate::json::scan::Scanner;
use crate::json::text;

/// No token starts beyond this.
const ENOUGH: usize = 256;
/// One token may be longer than that, but not as long as a request: answers to mistakes stay small.
const LONGEST: usize = 16 << 10;

/// An open bracket.
#[derive(Clone, Copy)]
struct Nest {
    is_object: bool,
    is_empty: bool,
}

/// The beginning of a value, from its text, as the original writes it into messages.
///
/// Stops after the token that makes it 256 bytes or more, and at a number that JSON cannot write.
pub fn dump(value_text: &[u8]) -> String {
    let mut out = Vec::new();
    write(&mut Scanner::new(value_text), &mut out);
    out.truncate(LONGEST);
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `None` where the dump ends before the value does. Open brackets take a byte each, so few can be open at a time.
fn write(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Option<()> {
    let mut nests: Vec<Nest> = Vec::new();
    loop {
        scanner.whitespace();
        if out.len() >= ENOUGH {
            return None;
        }
        match scanner.peek() {
            0 => return None,
            b',' => scanner.advance(1),
            b']' | b'}' => {
                scanner.advance(1);
                let nest = nests.pop()?;
                if nest.is_object && !nest.is_empty {
                    new_line(nests.len(), out);
                }
                out.push(if nest.is_object { b'}' } else { b']' });
                if nests.is_empty() {
                    return Some(());
                }
            }
            _ => {
                let depth = nests.len();
                if let Some(nest) = nests.last_mut() {
                    let is_first = std::mem::replace(&mut nest.is_empty, false);
                    if nest.is_object {
                        out.extend_from_slice(if is_first { b"" } else { b"," });
                        new_line(depth, out);
                        text::quote(&text::unescaped(scanner.member_name().ok()?), out);
                        if out.len() >= ENOUGH {
                            return None;
                        }
                        out.extend_from_slice(b": ");
                    } else {
                        out.extend_from_slice(if is_first { b"" } else { b", " });
                    }
                }
                let first = scanner.peek();
                if matches!(first, b'[' | b'{') {
                    scanner.advance(1);
                    nests.push(Nest { is_object: first == b'{', is_empty: true });
                    out.push(first);
                } else {
                    scalar(scanner, out)?;
                    if nests.is_empty() {
                        return Some(());
                    }
                }
            }
        }
    }
}

fn new_line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.resize(out.len() + 4 * depth, b' ');
}

fn scalar(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Option<()> {
    let start = scanner.at();
    if scanner.peek() == b'"' {
        let string = scanner.string().ok()?;
        text::quote(&text::unescaped(string), out);
        return Some(());
    }
    scanner.value(0).ok()?;
    let text = scanner.since(start);
    if let Some((Integral { negative, magnitude }, _)) = number::integral(text) {
        out.extend_from_slice(if negative { b"-" } else { b"" });
        print::unsigned(magnitude, out);
    } else if let Some((value, _)) = number::real(text) {
        value.is_finite().then(|| shortest(value, out))?;
    } else {
        out.extend_from_slice(text);
    }
    Some(())
}

/// The shortest digits that lead back to `value`, in positional notation up to 21 of them.
fn shortest(value: f64, out: &mut Vec<u8>) {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let point = exponent.parse::<i32>().unwrap_or(0) + 1;
    if value == 0.0 || (-5..=21).contains(&point) {
        let positional = format!("{value}");
        out.extend_from_slice(positional.as_bytes());
        out.extend_from_slice(if positional.contains('.') { b"" } else { b".0" });
        return;
    }
    out.extend_from_slice(mantissa.as_bytes());
    out.push(b'e');
    out.extend_from_slice(exponent.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_the_original_shows_them() {
        for (text, wanted) in [
            ("[1,2]", "[1, 2]"),
            ("[ ]", "[]"),
            ("{ }", "{}"),
            (
                r#"{"a":{"b":[{"c":1,"d":{}}]}}"#,
                "{\n    \"a\": {\n        \"b\": [{\n                \"c\": 1,\n                \"d\": {}\n            }]\n    }\n}",
            ),
            (r#""q\"\u00e9\u0001/""#, "\"q\\\"é\\u0001/\""),
            ("[true,false,null]", "[true, false, null]"),
            (
                "[-0,-0.0,-9223372036854775809,1e2,1e21,123e-7,1e-6,1e-7,1.5e300,18446744073709551615,0.1]",
                "[0, -0.0, -9223372036854776000.0, 100.0, 1e21, 0.0000123, 0.000001, 1e-7, 1.5e300, 18446744073709551615, 0.1]",
            ),
            ("123456789012345678901.0", "123456789012345680000.0"),
            ("[1,NaN,2]", "[1, "),
            ("NaN", ""),
        ] {
            assert_eq!(dump(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn a_long_value_is_cut_off_after_a_token() {
        let shown = dump(format!("[{}1]", "123456789,".repeat(50)).as_bytes());
        assert!(shown.ends_with("123456789"), "{shown}");
        assert_eq!(shown.len(), 1 + 11 * 23 + 9);
        assert!(dump("[".repeat(100_000).as_bytes()).len() <= 300);
    }
}
