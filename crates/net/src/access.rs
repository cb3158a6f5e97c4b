//! Who may do what: from the head of a request to a caller, and from a caller to what is allowed.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, header};
use ring::digest::{SHA256, digest};
use servable_core::{Code, Status};

use crate::token::{TokenSpec, Tokens};

const API_KEY: &str = "x-api-key";
/// Whoever has shown who they are.
const EVERYBODY: &str = "*";
/// Whoever has not.
const ANONYMOUS: &str = "anonymous";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    Predict,
    Read,
    Reload,
    Admin,
    Profile,
}

impl Right {
    const ALL: [Self; 5] = [Self::Predict, Self::Read, Self::Reload, Self::Admin, Self::Profile];

    fn name(self) -> &'static str {
        match self {
            Self::Predict => "PREDICT",
            Self::Read => "READ",
            Self::Reload => "RELOAD",
            Self::Admin => "ADMIN",
            Self::Profile => "PROFILE",
        }
    }
}

/// What some callers may do with some models.
#[derive(Clone, Debug, Default)]
pub struct RuleSpec {
    /// Names, `*` or `anonymous`.
    pub callers: Vec<String>,
    pub rights: Vec<String>,
    /// Names, or beginnings of names with a `*` behind.
    pub models: Vec<String>,
}

/// The whole of an access file.
#[derive(Clone, Debug, Default)]
pub struct AccessSpec {
    /// Hashes of keys in hex, and whose they are.
    pub api_keys: Vec<(String, String)>,
    /// Names of certificates, as `CN=` or `DNS=` and a name, and whose they are.
    pub certificates: Vec<(String, String)>,
    pub tokens: Vec<TokenSpec>,
    pub rules: Vec<RuleSpec>,
}

/// Callers and what they may do. What no rule allows is refused.
pub struct Access {
    /// By the hash of the key: how long a look takes tells nothing of any key.
    keys: HashMap<[u8; 32], Arc<Identity>>,
    certificates: HashMap<String, Arc<Identity>>,
    tokens: Vec<Tokens>,
    rules: Vec<Rule>,
    anonymous: Arc<Identity>,
}

#[derive(Clone, Debug)]
struct Rule {
    callers: Vec<String>,
    grant: Arc<Grant>,
}

#[derive(Debug)]
struct Grant {
    rights: Vec<Right>,
    models: Vec<Pattern>,
}

#[derive(Debug)]
enum Pattern {
    Name(String),
    Prefix(String),
}

impl Pattern {
    fn new(text: &str) -> Self {
        text.strip_suffix('*').map_or_else(|| Self::Name(text.to_owned()), |prefix| Self::Prefix(prefix.to_owned()))
    }

    fn matches(&self, model: &str) -> bool {
        match self {
            Self::Name(name) => name == model,
            Self::Prefix(prefix) => model.starts_with(prefix.as_str()),
        }
    }

    fn is_all(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }
}

/// A caller, and what it may do.
#[derive(Debug)]
pub(crate) struct Identity {
    name: String,
    grants: Vec<Arc<Grant>>,
}

impl Identity {
    fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// What the caller is called, unless nobody knows.
    pub(crate) fn known_name(&self) -> Option<&str> {
        (!self.is_anonymous()).then_some(self.name.as_str())
    }

    /// `PERMISSION_DENIED`, or `UNAUTHENTICATED` for somebody unknown, whether there is such a model or not.
    pub(crate) fn check(&self, right: Right, model: &str) -> Result<(), Status> {
        self.need(right, |pattern| pattern.matches(model), || format!(" model {model}"))
    }

    fn check_all(&self, right: Right) -> Result<(), Status> {
        self.need(right, Pattern::is_all, String::new)
    }

    /// As [`check`](Self::check) before it is known which model that is. What is about the server needs all of them.
    pub(crate) fn check_kind(&self, right: Right) -> Result<(), Status> {
        match right {
            Right::Predict | Right::Read => self.check_any(right),
            Right::Reload | Right::Admin | Right::Profile => self.check_all(right),
        }
    }

    fn check_any(&self, right: Right) -> Result<(), Status> {
        self.need(right, |_| true, String::new)
    }

    fn need(&self, right: Right, fits: impl Fn(&Pattern) -> bool, what: impl Fn() -> String) -> Result<(), Status> {
        let allows = |grant: &Arc<Grant>| grant.rights.contains(&right) && grant.models.iter().any(&fits);
        if self.grants.iter().any(allows) {
            return Ok(());
        }
        if self.is_anonymous() {
            return Err(unknown(
                "this server has to know who asks: send a key (authorization: Bearer ..., or x-api-key)",
            ));
        }
        let (name, right) = (&self.name, right.name());
        Err(Status::new(Code::PermissionDenied, format!("{name} has no right to {right}{}", what())))
    }
}

/// For a request whose head nobody has looked at. Rules may have come while it was on its way.
pub(crate) fn not_admitted() -> Status {
    unknown("this server has begun to ask who its callers are; try again")
}

fn unknown(message: &'static str) -> Status {
    Status::new(Code::Unauthenticated, message)
}

impl Access {
    /// `INVALID_ARGUMENT` says what is wrong.
    pub fn new(spec: &AccessSpec) -> Result<Self, Status> {
        let rules = spec.rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        let identity = |name: &String| Arc::new(Identity { name: name.clone(), grants: grants(&rules, name) });
        let mut keys = HashMap::with_capacity(spec.api_keys.len());
        for (hash, caller) in &spec.api_keys {
            let hash = bytes_of(hash)
                .ok_or_else(|| Status::invalid_argument(format!("the key of {caller} has no SHA-256 in hex")))?;
            keys.insert(hash, identity(caller));
        }
        let certificates = spec.certificates.iter().map(|(name, caller)| (name.clone(), identity(caller))).collect();
        let tokens = spec.tokens.iter().map(Tokens::new).collect::<Result<_, _>>()?;
        let anonymous = identity(&ANONYMOUS.to_owned());
        Ok(Self { keys, certificates, tokens, rules, anonymous })
    }

    /// Who sends a request over a connection whose certificate has these names. `UNAUTHENTICATED` for credentials that
    /// are wrong; without any it is the certificate that counts, and then nobody.
    pub(crate) fn identify(&self, headers: &HeaderMap, certificate: &[String]) -> Result<Arc<Identity>, Status> {
        let secret = match (headers.get(header::AUTHORIZATION), headers.get(API_KEY)) {
            (Some(value), _) => bearer(value.as_bytes()),
            (None, Some(value)) => Some(value.as_bytes()),
            (None, None) => {
                let known = certificate.iter().find_map(|name| self.certificates.get(name));
                return Ok(Arc::clone(known.unwrap_or(&self.anonymous)));
            }
        };
        let identity = secret.and_then(|secret| self.known_by(secret));
        identity.ok_or_else(|| unknown("the key or token that was sent is not valid here"))
    }

    fn known_by(&self, secret: &[u8]) -> Option<Arc<Identity>> {
        let hash: [u8; 32] = digest(&SHA256, secret).as_ref().try_into().ok()?;
        if let Some(identity) = self.keys.get(&hash) {
            return Some(Arc::clone(identity));
        }
        let token = std::str::from_utf8(secret).ok()?;
        let name = self.tokens.iter().find_map(|tokens| tokens.caller(token))?;
        // Names with a meaning of their own are nobody's.
        let is_name = name != EVERYBODY && name != ANONYMOUS;
        is_name.then(|| Arc::new(Identity { grants: grants(&self.rules, &name), name }))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| secret.trim_ascii())
}

fn rule(spec: &RuleSpec) -> Result<Rule, Status> {
    let right = |name: &String| {
        let found = Right::ALL.into_iter().find(|right| right.name() == name);
        found.ok_or_else(|| Status::invalid_argument(format!("{name} is no right")))
    };
    let grant = Grant {
        rights: spec.rights.iter().map(right).collect::<Result<_, _>>()?,
        models: spec.models.iter().map(|model| Pattern::new(model)).collect(),
    };
    Ok(Rule { callers: spec.callers.clone(), grant: Arc::new(grant) })
}

fn grants(rules: &[Rule], name: &str) -> Vec<Arc<Grant>> {
    let is_for = |caller: &String| caller == name || (caller == EVERYBODY && name != ANONYMOUS);
    rules.iter().filter(|rule| rule.callers.iter().any(is_for)).map(|rule| Arc::clone(&rule.grant)).collect()
}

fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> = hex.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn access() -> Access {
        let hash = |key: &str| {
            let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
            digest(&SHA256, key.as_bytes()).as_ref().iter().flat_map(digits).flatten().collect::<String>()
        };
        let rule = |callers: &[&str], rights: &[&str], models: &[&str]| RuleSpec {
            callers: texts(callers),
            rights: texts(rights),
            models: texts(models),
        };
        Access::new(&AccessSpec {
            api_keys: vec![(hash("a-key"), "ann".to_owned()), (hash("b-key"), "bob".to_owned())],
            certificates: vec![("CN=batch".to_owned(), "ann".to_owned())],
            tokens: Vec::new(),
            rules: vec![
                rule(&["ann"], &["PREDICT"], &["spam", "rank-*"]),
                rule(&["*"], &["READ"], &["spam"]),
                rule(&["anonymous"], &["PREDICT"], &["demo"]),
                rule(&["bob"], &["ADMIN", "RELOAD"], &["*"]),
            ],
        })
        .expect("the rules are right")
    }

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !name.is_empty() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    }

    const ANN: (&str, &str) = ("x-api-key", "a-key");
    const BOB: (&str, &str) = ("authorization", "Bearer b-key");
    const NOBODY: (&str, &str) = ("", "");

    #[test]
    fn rules_decide() {
        let access = access();
        let cases = [
            (ANN, Right::Predict, "spam", None),
            (ANN, Right::Predict, "rank-2", None),
            (ANN, Right::Predict, "rank-", None),
            (ANN, Right::Predict, "rank", Some(Code::PermissionDenied)),
            (ANN, Right::Predict, "demo", Some(Code::PermissionDenied)),
            (ANN, Right::Read, "spam", None),
            (ANN, Right::Read, "rank-2", Some(Code::PermissionDenied)),
            (BOB, Right::Read, "spam", None),
            (BOB, Right::Predict, "spam", Some(Code::PermissionDenied)),
            (BOB, Right::Admin, "spam", None),
            (NOBODY, Right::Predict, "demo", None),
            (NOBODY, Right::Predict, "spam", Some(Code::Unauthenticated)),
            (NOBODY, Right::Read, "spam", Some(Code::Unauthenticated)),
        ];
        for ((name, value), right, model, refusal) in cases {
            let caller = access.identify(&headers(name, value), &[]).expect("they are known");
            let outcome = caller.check(right, model).map_err(|status| status.code).err();
            assert_eq!(outcome, refusal, "{value} {right:?} {model}");
        }
    }

    #[test]
    fn what_is_about_the_server_needs_every_model() {
        let access = access();
        let caller = |(name, value)| access.identify(&headers(name, value), &[]).expect("they are known");
        assert!(caller(BOB).check_all(Right::Reload).is_ok());
        assert!(caller(ANN).check_all(Right::Predict).is_err(), "not all");
        assert!(caller(ANN).check_any(Right::Predict).is_ok());
        assert!(caller(ANN).check_any(Right::Profile).is_err());
    }

    #[test]
    fn callers_are_known_by_what_they_show() {
        let access = access();
        let cases: [(&str, &str, &[&str], Option<&str>); 9] = [
            ("authorization", "Bearer a-key", &[], Some("ann")),
            ("authorization", "bearer  a-key ", &[], Some("ann")),
            ("authorization", "Basic a-key", &[], None),
            ("authorization", "a-key", &[], None),
            ("authorization", "Bearer anonymous", &["CN=batch"], None),
            ("x-api-key", "A-key", &[], None),
            ("x-api-key", "", &[], None),
            ("", "", &["DNS=batch", "CN=batch"], Some("ann")),
            ("", "", &["CN=other"], Some("anonymous")),
        ];
        for (name, value, certificate, expected) in cases {
            let found = access.identify(&headers(name, value), &texts(certificate)).ok();
            assert_eq!(found.as_ref().map(|identity| identity.name.as_str()), expected, "{name} {value}");
        }
    }
}
