//! JSON Web Tokens as text: their parts, and what their claims say. Whether a signature is right is for others to find out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// Longer ones are not looked at.
pub const LONGEST_TOKEN: usize = 16 << 10;

/// A token of which nothing is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// As its header names it.
    pub algorithm: String,
    /// Of the key that has signed it, if it says so.
    pub key_id: Option<String>,
    /// What is signed.
    pub message: &'a str,
    pub signature: Vec<u8>,
    claims: &'a str,
}

impl<'a> Token<'a> {
    /// `None` for what is no token, and for one that has to be understood in another way (`crit`).
    pub fn read(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST_TOKEN {
            return None;
        }
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        let header = object(header)?;
        if header.contains_key("crit") {
            return None;
        }
        let word = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { algorithm: word("alg")?, key_id: word("kid"), message, signature, claims })
    }

    /// What it says, for whoever has found its signature right.
    pub fn claims(&self) -> Option<Claims> {
        object(self.claims).map(Claims)
    }
}

/// What claims have to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    /// The claim that names the caller.
    pub caller_claim: &'a str,
    pub leeway_s: f64,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Whom they name, if they say what they have to, at this moment.
    pub fn caller(&self, expected: &Expected<'_>, now_s: f64) -> Option<&str> {
        let Self(claims) = self;
        let is_for_us = match claims.get("aud")? {
            Value::String(one) => one == expected.audience,
            Value::Array(many) => many.iter().any(|one| one.as_str() == Some(expected.audience)),
            _ => false,
        };
        let begins = |begin: &Value| begin.as_f64().is_some_and(|begin| begin <= now_s + expected.leeway_s);
        let has_begun = claims.get("nbf").is_none_or(begins);
        let goes_on = claims.get("exp")?.as_f64()? > now_s - expected.leeway_s;
        let is_good = claims.get("iss")?.as_str()? == expected.issuer && is_for_us && has_begun && goes_on;
        let name = claims.get(expected.caller_claim)?.as_str()?;
        (is_good && !name.is_empty()).then_some(name)
    }
}

fn object(text: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}
