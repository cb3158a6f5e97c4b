//! Compression, both ways.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName};
use servable_core::Status;

use crate::body::Share;

const INFLATE_STEP: usize = 64 << 10;
/// Shorter answers are not worth compressing.
pub(crate) const WORTH_COMPRESSING: usize = 1 << 10;
/// How many times as long as reading JSON compressing takes, byte by byte.
pub(crate) const COMPRESSING: usize = 4;

/// Why compressed bytes do not become plain ones.
pub(crate) enum InflateError {
    Broken,
    TooLarge,
    /// The budget has no room left.
    NoRoom(Status),
}

/// All that a decompressor gives, up to `most` bytes. Room for it is held step by step: what a small body will become
/// is not known before.
///
/// The `length` compressed bytes stay until the end.
pub(crate) fn inflate(
    mut compressed: impl Read,
    length: usize,
    most: usize,
    share: &Share,
) -> Result<Bytes, InflateError> {
    let mut plain = Vec::new();
    loop {
        let step = plain.len().max(INFLATE_STEP).min(most.saturating_add(1) - plain.len());
        share.hold(length + plain.len() + step).map_err(InflateError::NoRoom)?;
        let read = compressed.by_ref().take(step as u64).read_to_end(&mut plain).map_err(|_| InflateError::Broken)?;
        if plain.len() > most {
            return Err(InflateError::TooLarge);
        }
        if read < step {
            return Ok(plain.into());
        }
    }
}

/// The same, compressed. Fast rather than small: what it saves is the network's time, what it costs is ours.
pub(crate) fn gzip(plain: &[u8]) -> Bytes {
    let room = Vec::with_capacity(plain.len() / 2);
    let mut encoder = GzEncoder::new(room, Compression::fast());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("memory takes what is written: this is a bug")
        .into()
}

/// Whether `gzip` stands in this header, which lists what a client understands, and not with a weight of 0.
pub(crate) fn accepts_gzip(headers: &HeaderMap, header: &HeaderName) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT_ENCODING;

    use super::*;

    #[test]
    fn what_a_client_accepts_is_read() {
        let accepts = |value: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, http::HeaderValue::from_static(value))]);
            accepts_gzip(&headers, &ACCEPT_ENCODING)
        };
        for good in ["gzip", "deflate, gzip", "br;q=1.0, GZIP;q=0.5", "gzip ; q=1"] {
            assert!(accepts(good), "{good}");
        }
        for bad in ["", "identity", "gzip;q=0", "gzip; q=0.0", "x-gzip", "gzip;q=much", "*"] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
