//! What crosses the edges beside messages: statuses out, deadlines in.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use http::HeaderMap;
use servable_core::Status;
use servable_core::servable::Priority;

/// Longer messages are cut, as clients of TensorFlow Serving know it; trailers have to stay small.
const LONGEST_MESSAGE: usize = 1024;
const CUT: &str = "...TRUNCATED";

/// The status as gRPC has it.
pub(crate) fn edge_status(status: &Status) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(status.code as i32), cut(&status.message, LONGEST_MESSAGE))
}

/// A message of about so many bytes at most.
pub(crate) fn cut(message: &str, most: usize) -> Cow<'_, str> {
    if message.len() <= most {
        return Cow::Borrowed(message);
    }
    let end = (0..=most).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}{CUT}", &message[..end]))
}

/// Says `low` for a request that can wait, and may be refused, if that helps others.
const PRIORITY: &str = "servable-priority";

/// How urgent a request is.
pub(crate) fn priority(headers: &HeaderMap) -> Priority {
    match headers.get(PRIORITY) {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"low") => Priority::Low,
        _ => Priority::High,
    }
}

/// When a call has to be done that says so: `grpc-timeout` is up to eight digits and a unit.
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(timeout(headers.get("grpc-timeout")?.as_bytes())?)
}

fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        for good in ["1H", "10M", "99999999S", "400m", "5u", "7n"] {
            assert!(timeout(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", "S", "1", "123456789m", "-1m", "+1m", "1x", "1.5S"] {
            assert!(timeout(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn long_messages_are_cut() {
        let cut = |message: String| edge_status(&Status::internal(message)).message().to_owned();
        assert_eq!(cut("a".repeat(1024)).len(), 1024);
        assert_eq!(cut("a".repeat(1025)), format!("{}{CUT}", "a".repeat(1024)));
        assert_eq!(cut("é".repeat(600)).len(), 1024 + CUT.len());
        assert_eq!(cut(format!("a{}", "é".repeat(600))).len(), 1023 + CUT.len());
    }
}
