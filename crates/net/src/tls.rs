//! Certificates and keys: PEM to what connections are secured with, and what is wrong with it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use servable_core::Status;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};

use crate::listen::Protocol;

pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The text of a PEM file, or of a field of a file.
#[derive(Clone, Debug)]
pub struct Pem {
    /// What it is called in errors.
    pub name: String,
    pub content: Vec<u8>,
}

/// How a listener secures its connections.
#[derive(Clone, Debug)]
pub struct TlsSpec {
    /// The server's certificate, and those between it and the root.
    pub certificate: Pem,
    pub key: Pem,
    /// Clients have to show a certificate that one of these has signed.
    pub client_ca: Option<Pem>,
}

/// How all listeners secure their connections; those without are open to whoever can reach them.
#[derive(Clone, Debug, Default)]
pub struct TlsSpecs {
    pub grpc: Option<TlsSpec>,
    pub grpc_socket: Option<TlsSpec>,
    pub rest: Option<TlsSpec>,
    pub admin: Option<TlsSpec>,
}

/// What new connections are secured with.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    grpc: ArcSwapOption<ServerConfig>,
    grpc_socket: ArcSwapOption<ServerConfig>,
    rest: ArcSwapOption<ServerConfig>,
    admin: ArcSwapOption<ServerConfig>,
}

impl Tls {
    /// All of it or, if something is wrong, nothing.
    pub(crate) fn replace(&self, specs: &TlsSpecs) -> Result<(), Status> {
        let slots = [
            (&self.grpc, &specs.grpc, &[HTTP2][..]),
            (&self.grpc_socket, &specs.grpc_socket, &[HTTP2]),
            (&self.rest, &specs.rest, &[HTTP1]),
            (&self.admin, &specs.admin, &[HTTP2, HTTP1]),
        ];
        let mut made = Vec::with_capacity(slots.len());
        for (slot, spec, protocols) in slots {
            let config = spec.as_ref().map(|spec| server_config(spec, protocols)).transpose()?;
            made.push((slot, config.map(Arc::new)));
        }
        for (slot, config) in made {
            slot.store(config);
        }
        Ok(())
    }

    pub(crate) fn of_port(&self, protocol: Protocol) -> Option<Arc<ServerConfig>> {
        match protocol {
            Protocol::Grpc => self.grpc.load_full(),
            Protocol::Rest => self.rest.load_full(),
            Protocol::Admin => self.admin.load_full(),
            // It is for probes, which speak no TLS, and has no model behind it.
            Protocol::Monitoring => None,
        }
    }

    pub(crate) fn of_socket(&self) -> Option<Arc<ServerConfig>> {
        self.grpc_socket.load_full()
    }
}

fn server_config(spec: &TlsSpec, protocols: &[&[u8]]) -> Result<ServerConfig, Status> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Status::internal(format!("TLS cannot be set up: {error}")))?;
    let builder = match &spec.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider);
            let verifier = verifier.build().map_err(|error| wrong(ca, &error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&spec.certificate)?;
    let key = private_key(&spec.key)?;
    check_key(&spec.key, &key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            wrong(&spec.key, &format!("the key does not match the certificate in {}", spec.certificate.name))
        }
        error => wrong(&spec.certificate, &error.to_string()),
    })?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Told apart from what may be wrong with the certificate.
fn check_key(pem: &Pem, key: &PrivateKeyDer<'static>) -> Result<(), Status> {
    let provider: CryptoProvider = ring::default_provider();
    let loaded = provider.key_provider.load_private_key(key.clone_key());
    loaded.map(drop).map_err(|error| wrong(pem, &format!("no key that can be used: {error}")))
}

fn roots(pem: &Pem) -> Result<RootCertStore, Status> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| wrong(pem, &format!("no certificate of an authority: {error}")))?;
    }
    Ok(roots)
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Status> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.content).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(pem, "there is no PEM block with a certificate in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(pem, &format!("its PEM is malformed: {error}"))),
    }
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, Status> {
    PrivateKeyDer::from_pem_slice(&pem.content).map_err(|error| match error {
        PemError::NoItemsFound if memchr::memmem::find(&pem.content, b"ENCRYPTED").is_some() => {
            wrong(pem, "the key is encrypted; it has to be plain, in a file that only this server may read")
        }
        PemError::NoItemsFound => wrong(pem, "there is no PEM block with a private key in it"),
        error => wrong(pem, &format!("its PEM is malformed: {error}")),
    })
}

fn wrong(pem: &Pem, what: &str) -> Status {
    Status::invalid_argument(format!("{}: {what}", pem.name))
}
