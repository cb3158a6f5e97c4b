//! Certificates and access rules, as Python describes them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use servable_net::KeyKind;

/// `servable.types.Pem`.
#[derive(FromPyObject)]
struct Pem {
    name: String,
    content: Vec<u8>,
}

impl From<Pem> for servable_net::Pem {
    fn from(pem: Pem) -> Self {
        Self { name: pem.name, content: pem.content }
    }
}

/// `servable.types.TlsSpec`.
#[derive(FromPyObject)]
struct TlsSpec {
    certificate: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

impl From<TlsSpec> for servable_net::TlsSpec {
    fn from(spec: TlsSpec) -> Self {
        Self { certificate: spec.certificate.into(), key: spec.key.into(), client_ca: spec.client_ca.map(Into::into) }
    }
}

/// `servable.types.TlsSpecs`.
#[derive(FromPyObject)]
pub(crate) struct TlsSpecs {
    grpc: Option<TlsSpec>,
    grpc_socket: Option<TlsSpec>,
    rest: Option<TlsSpec>,
    admin: Option<TlsSpec>,
}

impl From<TlsSpecs> for servable_net::TlsSpecs {
    fn from(specs: TlsSpecs) -> Self {
        Self {
            grpc: specs.grpc.map(Into::into),
            grpc_socket: specs.grpc_socket.map(Into::into),
            rest: specs.rest.map(Into::into),
            admin: specs.admin.map(Into::into),
        }
    }
}

/// `servable.types.TokenSpec`.
#[derive(FromPyObject)]
struct TokenSpec {
    algorithm: String,
    key_kind: String,
    key: Pem,
    issuer: String,
    audience: String,
    caller_claim: String,
    caller_prefix: String,
    leeway_s: f64,
}

impl TryFrom<TokenSpec> for servable_net::TokenSpec {
    type Error = PyErr;

    fn try_from(spec: TokenSpec) -> PyResult<Self> {
        let kind = match spec.key_kind.as_str() {
            "public_key" => KeyKind::PublicKey,
            "jwks" => KeyKind::KeySet,
            "secret" => KeyKind::Secret,
            other => return Err(PyValueError::new_err(format!("{other:?} is no kind of key"))),
        };
        Ok(Self {
            algorithm: spec.algorithm,
            kind,
            key: spec.key.into(),
            issuer: spec.issuer,
            audience: spec.audience,
            caller_claim: spec.caller_claim,
            caller_prefix: spec.caller_prefix,
            leeway_s: spec.leeway_s,
        })
    }
}

/// `servable.types.RuleSpec`.
#[derive(FromPyObject)]
struct RuleSpec {
    callers: Vec<String>,
    rights: Vec<String>,
    models: Vec<String>,
}

/// `servable.types.AccessSpec`.
#[derive(FromPyObject)]
pub(crate) struct AccessSpec {
    api_keys: Vec<(String, String)>,
    certificates: Vec<(String, String)>,
    tokens: Vec<TokenSpec>,
    rules: Vec<RuleSpec>,
}

impl TryFrom<AccessSpec> for servable_net::AccessSpec {
    type Error = PyErr;

    fn try_from(spec: AccessSpec) -> PyResult<Self> {
        let rule =
            |rule: RuleSpec| servable_net::RuleSpec { callers: rule.callers, rights: rule.rights, models: rule.models };
        Ok(Self {
            api_keys: spec.api_keys,
            certificates: spec.certificates,
            tokens: spec.tokens.into_iter().map(TryInto::try_into).collect::<PyResult<_>>()?,
            rules: spec.rules.into_iter().map(rule).collect(),
        })
    }
}
