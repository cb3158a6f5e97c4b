//! Who a verified certificate is for, and what a public key is made of: as much of DER as that takes.

use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The names of a certificate: `CN=` before those of its subject, `DNS=` before its DNS names.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let common = common_names(certificate.subject()).into_iter().map(|name| format!("CN={name}"));
    common.chain(certificate.valid_dns_names().map(|name| format!("DNS={name}"))).collect()
}

fn common_names(subject: &[u8]) -> Vec<String> {
    let name = |attribute: Element<'_>| {
        let mut parts = elements(attribute.content);
        let is_common = parts.next().is_some_and(|kind| kind.tag == OBJECT_IDENTIFIER && kind.content == COMMON_NAME);
        let value = parts.next().filter(|value| matches!(value.tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING))?;
        is_common.then(|| String::from_utf8(value.content.to_vec()).ok()).flatten()
    };
    let sets = elements(subject).filter(|set| set.tag == SET);
    sets.flat_map(|set| elements(set.content).filter(|attribute| attribute.tag == SEQUENCE)).filter_map(name).collect()
}

/// The bits of the key in a `SubjectPublicKeyInfo`; what kind of key it is must be known.
pub(crate) fn key_bits(info: &[u8]) -> Option<&[u8]> {
    let whole = elements(info).next().filter(|whole| whole.tag == SEQUENCE)?;
    let mut parts = elements(whole.content);
    parts.next().filter(|algorithm| algorithm.tag == SEQUENCE)?;
    let bits = parts.next().filter(|bits| bits.tag == BIT_STRING)?;
    bits.content.strip_prefix(&[0]) // no unused bits
}

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

/// The elements that lie one after another; ends where the bytes are none.
fn elements(mut rest: &[u8]) -> impl Iterator<Item = Element<'_>> {
    std::iter::from_fn(move || {
        let (&tag, after) = rest.split_first()?;
        let (&first, after) = after.split_first()?;
        let (length, after) = if first < 0x80 {
            (usize::from(first), after)
        } else {
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) {
                return None;
            }
            let (digits, after) = after.split_at_checked(count)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), after)
        };
        let (content, after) = after.split_at_checked(length)?;
        rest = after;
        Some(Element { tag, content })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_found() {
        let organisation = [SET, 9, SEQUENCE, 7, OBJECT_IDENTIFIER, 3, 0x55, 4, 10, UTF8_STRING, 0];
        let common = [SET, 11, SEQUENCE, 9, OBJECT_IDENTIFIER, 3, 0x55, 4, 3, UTF8_STRING, 2, b'm', b'e'];
        assert_eq!(common_names(&[organisation.as_slice(), &common].concat()), ["me"]);
        assert!(common_names(&organisation).is_empty());
        assert!(common_names(&common[..12]).is_empty(), "cut off");
        assert!(common_names(&[SET, 0x85, 1, 1, 1, 1, 1]).is_empty(), "no length");
    }

    #[test]
    fn the_bits_of_a_key_are_found() {
        assert_eq!(key_bits(&[SEQUENCE, 6, SEQUENCE, 0, BIT_STRING, 2, 0, 7]), Some(&[7][..]));
        assert_eq!(key_bits(&[SEQUENCE, 6, SEQUENCE, 0, BIT_STRING, 2, 1, 7]), None);
        assert_eq!(key_bits(&[]), None);
    }
}
