//! JSON Web Tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use servable_wire::token::{Expected, LONGEST_TOKEN, Token};

use super::memory::Bound;

/// An object with one member takes the room of eleven, and needs five bytes.
const BOUND: Bound = Bound { per_byte: 200, constant: 4 << 10 };

const EXPECTED: Expected<'static> =
    Expected { issuer: "us", audience: "servable", caller_claim: "sub", leeway_s: 10.0 };
const NOW_S: f64 = 900.0;

/// Reads a token, and one made of the two lines of the input: its header and its claims.
///
/// What is read is what is signed, to the letter, and nobody is named by claims that do not say all that they have to.
pub fn token(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        check_token(text);
    }
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let [header, claims] = [0; 2].map(|_| lines.next().unwrap_or_default());
    let text = format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let is_token = text.len() <= LONGEST_TOKEN
        && serde_json::from_slice::<Value>(header)
            .is_ok_and(|header| header.get("alg").is_some_and(Value::is_string) && header.get("crit").is_none());
    assert_eq!(check_token(&text), is_token, "{text}");
}

/// Whether it is one.
fn check_token(text: &str) -> bool {
    let read = BOUND.check(text.len(), || Token::read(text).map(|token| (token.claims(), token)));
    let Some((claims, token)) = read else {
        return false;
    };
    assert_eq!(format!("{}.{}", token.message, URL_SAFE_NO_PAD.encode(&token.signature)), text);
    let (header, middle) = token.message.split_once('.').expect("it has three parts");
    let object = |text: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    assert_eq!(object(header).expect("it was read").get("alg"), Some(&Value::from(token.algorithm.as_str())));
    if let Some(name) = claims.as_ref().and_then(|claims| claims.caller(&EXPECTED, NOW_S)) {
        let claims = object(middle).expect("it was read");
        let is = |name: &str, value: &str| claims[name].as_str() == Some(value);
        let is_for_us = claims["aud"].as_array().is_some_and(|many| many.contains(&Value::from(EXPECTED.audience)));
        assert!(is(EXPECTED.caller_claim, name) && !name.is_empty(), "{claims}");
        assert!(is("iss", EXPECTED.issuer) && (is("aud", EXPECTED.audience) || is_for_us), "{claims}");
        assert!(claims["exp"].as_f64().is_some_and(|end| end > NOW_S - EXPECTED.leeway_s), "{claims}");
        let begin = claims.get("nbf").map(|begin| begin.as_f64().unwrap_or(f64::INFINITY));
        assert!(begin.is_none_or(|begin| begin <= NOW_S + EXPECTED.leeway_s), "{claims}");
    }
    true
}
