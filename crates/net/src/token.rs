//! JSON Web Tokens: whether one is good, and whom it names.
//!
//! Written with ring alone, which TLS brings anyway: the algorithm is the configuration's, so that only comparing is left
//! of what makes libraries for tokens large. Nothing of a token is believed before its signature is.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde_json::Value;
use servable_core::Status;
use servable_wire::token::{Expected, Token};
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::certificate::key_bits;
use crate::tls::Pem;

/// As many keys as are tried for a token that names none.
const MOST_KEYS: usize = 16;
const LEAST_SECRET: usize = 32;

/// What a file with a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    PublicKey,
    KeySet,
    Secret,
}

/// Tokens that are accepted.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// `RS256`, `ES256`, `EDDSA` or `HS256`.
    pub algorithm: String,
    pub kind: KeyKind,
    pub key: Pem,
    pub issuer: String,
    pub audience: String,
    pub caller_claim: String,
    pub caller_prefix: String,
    pub leeway_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
    Hs256,
}

impl Algorithm {
    /// As tokens name it.
    fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }
}

struct Key {
    id: Option<String>,
    material: Material,
}

enum Material {
    Public(signature::UnparsedPublicKey<Vec<u8>>),
    Rsa(signature::RsaPublicKeyComponents<Vec<u8>>),
    Secret(hmac::Key),
}

impl Material {
    fn has_signed(&self, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Self::Public(key) => key.verify(message, signed).is_ok(),
            Self::Rsa(key) => key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed).is_ok(),
            Self::Secret(key) => hmac::verify(key, message, signed).is_ok(),
        }
    }
}

/// Tells good tokens from others.
pub(crate) struct Tokens {
    spec: TokenSpec,
    algorithm: Algorithm,
    keys: Vec<Key>,
}

impl Tokens {
    /// `INVALID_ARGUMENT` says what is wrong with the key.
    pub(crate) fn new(spec: &TokenSpec) -> Result<Self, Status> {
        let algorithm = match spec.algorithm.as_str() {
            "RS256" => Algorithm::Rs256,
            "ES256" => Algorithm::Es256,
            "EDDSA" => Algorithm::EdDsa,
            "HS256" => Algorithm::Hs256,
            other => return Err(Status::invalid_argument(format!("{other} is no algorithm of tokens"))),
        };
        let keys = match spec.kind {
            KeyKind::PublicKey => vec![Key { id: None, material: public_key(&spec.key, algorithm)? }],
            KeyKind::KeySet => key_set(&spec.key, algorithm)?,
            KeyKind::Secret => vec![Key { id: None, material: secret(&spec.key, algorithm)? }],
        };
        Ok(Self { spec: spec.clone(), algorithm, keys })
    }

    /// Whom a token names; `None` for one that is not good.
    pub(crate) fn caller(&self, token: &str) -> Option<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        self.caller_at(token, now.as_secs_f64())
    }

    fn caller_at(&self, text: &str, now_s: f64) -> Option<String> {
        let token = Token::read(text)?;
        if token.algorithm != self.algorithm.name() {
            return None;
        }
        let fits = |key: &&Key| key.id.is_none() || token.key_id.is_none() || key.id == token.key_id;
        let has_signed = |key: &Key| key.material.has_signed(token.message.as_bytes(), &token.signature);
        if !self.keys.iter().filter(fits).any(has_signed) {
            return None;
        }
        let TokenSpec { issuer, audience, caller_claim, caller_prefix, leeway_s, .. } = &self.spec;
        let claims = token.claims()?;
        let name = claims.caller(&Expected { issuer, audience, caller_claim, leeway_s: *leeway_s }, now_s)?;
        Some(format!("{caller_prefix}{name}"))
    }
}

fn wrong(pem: &Pem, what: &str) -> Status {
    Status::invalid_argument(format!("{}: {what}", pem.name))
}

/// A key that a signature is checked with, by its bits as they stand in certificates.
fn public(bits: Vec<u8>, algorithm: Algorithm) -> Option<Material> {
    let (is_right, verification): (bool, &'static dyn signature::VerificationAlgorithm) = match algorithm {
        Algorithm::Rs256 => (bits.first() == Some(&0x30), &signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Es256 => (bits.len() == 65 && bits[0] == 4, &signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::EdDsa => (bits.len() == 32, &signature::ED25519),
        Algorithm::Hs256 => return None,
    };
    is_right.then(|| Material::Public(signature::UnparsedPublicKey::new(verification, bits)))
}

fn public_key(pem: &Pem, algorithm: Algorithm) -> Result<Material, Status> {
    let info = SubjectPublicKeyInfoDer::from_pem_slice(&pem.content)
        .map_err(|_| wrong(pem, "there is no PEM block with a public key in it"))?;
    let key = key_bits(&info).and_then(|bits| public(bits.to_vec(), algorithm));
    key.ok_or_else(|| wrong(pem, &format!("the public key is none for {}", algorithm.name())))
}

fn secret(pem: &Pem, algorithm: Algorithm) -> Result<Material, Status> {
    let secret = pem.content.trim_ascii_end();
    if algorithm != Algorithm::Hs256 {
        return Err(wrong(pem, &format!("a secret is for HS256, not for {}", algorithm.name())));
    }
    if secret.len() < LEAST_SECRET {
        return Err(wrong(pem, &format!("the secret has to have {LEAST_SECRET} bytes or more")));
    }
    Ok(Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)))
}

fn key_set(pem: &Pem, algorithm: Algorithm) -> Result<Vec<Key>, Status> {
    let set: Value = serde_json::from_slice(&pem.content).map_err(|error| wrong(pem, &format!("no JSON: {error}")))?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or_else(|| wrong(pem, "no JSON Web Key Set"))?;
    let key = |key: &Value| {
        let id = key.get("kid").and_then(Value::as_str).map(str::to_owned);
        Some(Key { id, material: set_key(key, algorithm)? })
    };
    let keys: Vec<Key> = listed.iter().filter_map(key).collect();
    match keys.len() {
        0 => Err(wrong(pem, &format!("the set has no key for {}", algorithm.name()))),
        1..=MOST_KEYS => Ok(keys),
        _ => Err(wrong(pem, &format!("the set has more than {MOST_KEYS} keys"))),
    }
}

/// A key of a set; `None` for one that is for something else.
fn set_key(key: &Value, algorithm: Algorithm) -> Option<Material> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let is_other = |name: &str, right: &str| text(name).is_some_and(|found| found != right);
    if is_other("use", "sig") || is_other("alg", algorithm.name()) {
        return None;
    }
    match (algorithm, text("kty")?, text("crv")) {
        (Algorithm::Rs256, "RSA", _) => {
            Some(Material::Rsa(signature::RsaPublicKeyComponents { n: bytes("n")?, e: bytes("e")? }))
        }
        (Algorithm::Es256, "EC", Some("P-256")) => public([vec![4], bytes("x")?, bytes("y")?].concat(), algorithm),
        (Algorithm::EdDsa, "OKP", Some("Ed25519")) => public(bytes("x")?, algorithm),
        (Algorithm::Hs256, "oct", _) => {
            let secret = bytes("k").filter(|secret| secret.len() >= LEAST_SECRET)?;
            Some(Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn tokens() -> Tokens {
        Tokens::new(&TokenSpec {
            algorithm: "HS256".to_owned(),
            kind: KeyKind::Secret,
            key: Pem { name: "secret".to_owned(), content: SECRET.to_vec() },
            issuer: "us".to_owned(),
            audience: "servable".to_owned(),
            caller_claim: "sub".to_owned(),
            caller_prefix: "jwt-".to_owned(),
            leeway_s: 10.0,
        })
        .expect("the secret is long enough")
    }

    fn token(header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }

    #[test]
    fn tokens_are_told_apart() {
        const HEADER: &str = r#"{"alg":"HS256"}"#;
        let tokens = tokens();
        let good = r#"{"iss":"us","aud":"servable","exp":1000,"sub":"me"}"#;
        let cases = [
            (HEADER, good, true),
            (HEADER, r#"{"iss":"us","aud":["a","servable"],"exp":1000,"nbf":900,"sub":"me"}"#, true),
            (HEADER, r#"{"iss":"us","aud":"servable","exp":900,"sub":"me"}"#, true), // just within the leeway
            (HEADER, r#"{"iss":"us","aud":"servable","exp":890,"sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":"servable","exp":1000,"nbf":911,"sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":"servable","exp":1000,"nbf":"1","sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":"servable","exp":"1000","sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":"servable","sub":"me"}"#, false),
            (HEADER, r#"{"iss":"them","aud":"servable","exp":1000,"sub":"me"}"#, false),
            (HEADER, r#"{"aud":"servable","exp":1000,"sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":"other","exp":1000,"sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":["other"],"exp":1000,"sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","exp":1000,"sub":"me"}"#, false),
            (HEADER, r#"{"iss":"us","aud":"servable","exp":1000}"#, false),
            (HEADER, r#"{"iss":"us","aud":"servable","exp":1000,"sub":""}"#, false),
            (HEADER, "[]", false),
            (r#"{"alg":"none"}"#, good, false),
            (r#"{"alg":"RS256"}"#, good, false),
            (r#"{"alg":"HS256","crit":["x"]}"#, good, false),
            ("{}", good, false),
        ];
        for (header, claims, is_good) in cases {
            let caller = tokens.caller_at(&token(header, claims), 900.0);
            assert_eq!(caller.as_deref(), is_good.then_some("jwt-me"), "{header} {claims}");
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        let good = token(r#"{"alg":"HS256"}"#, r#"{"iss":"us","aud":"servable","exp":1000,"sub":"me"}"#);
        let (message, signed) = good.rsplit_once('.').expect("it has three parts");
        let other = URL_SAFE_NO_PAD.encode([0; 32]);
        for bad in [
            String::new(),
            "..".to_owned(),
            message.to_owned(),
            format!("{message}."),
            format!("{message}.{other}"),
            format!("{good}.{signed}"),
            format!("{good}="),
        ] {
            assert_eq!(tokens().caller_at(&bad, 900.0), None, "{bad}");
        }
    }
}
