//! TLS material and the settings of every connection: one stack (rustls), one provider (aws-lc-rs), chosen here alone.
//!
//! [`ServerFiles`] and [`ClientFiles`] name files; what they come to is checked as one set before it is used, and read
//! again by a [`Reloader`] while it is.

mod authorities;
mod client;
mod known;
mod load;
mod reload;
mod server;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::duration::{self, HOUR, MILLISECOND};
use crate::schema::Length;

pub use authorities::Choice;
pub use client::{ClientFiles, ClientSet};
pub use known::client_of;
pub use load::{LoadError, load_roots};
pub use reload::{Current, Material, Read, Reloader};
pub use server::{Clients, Demand, ServerFiles, ServerSet, Version};
pub use verify::{Purpose, UnfitError, end_of, validity};

use load::Contents;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// `[tls]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often certificates, keys, CAs and revocation lists are read again.
    #[serde(deserialize_with = "duration::within::<_, _, { 100 * MILLISECOND }, HOUR>")]
    #[schemars(with = "Length<{ 100 * MILLISECOND }, HOUR>")]
    pub reload: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { reload: Duration::from_secs(5) }
    }
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// TLS settings that cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds something else.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A certificate or a revocation list that must not be used.
    #[error(transparent)]
    Unfit(#[from] UnfitError),
    /// Certificate and key do not fit, or a setting is not supported.
    #[error("the certificate {certificate} and its key cannot be used together")]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The provider lacks what a protocol version needs.
    #[error("the cryptography provider does not support TLS 1.2 and 1.3")]
    Protocol(#[source] rustls::Error),
    /// The CA certificates or revocation lists cannot be used to verify clients.
    #[error("the client CA {ca} cannot be used")]
    ClientCa {
        /// The CA's file.
        ca: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

impl Identity {
    /// The certificates and the key, out of what was read.
    fn take(&self, read: &Contents) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), LoadError> {
        Ok((read.certificates(&self.certificate)?, read.key(&self.key)?))
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Identity { certificate: self.certificate.clone(), source }
    }
}

/// The cryptography of the whole process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client of other people's servers: TLS 1.2 or 1.3, trusting `ca`, or the system's CAs where none is given.
pub fn public_client(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    public_client_as(ca, None)
}

/// The same, which shows a certificate of its own to servers that ask for one.
pub fn public_client_as(ca: Option<&Path>, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(ca) => load_roots(ca)?,
        None => system_roots(),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Protocol)?
        .with_root_certificates(roots);
    let Some(identity) = identity else { return Ok(config.with_no_client_auth()) };
    let (chain, key) = identity.take(&Contents::read(&[&identity.certificate, &identity.key])?)?;
    config.with_client_auth_cert(chain, key).map_err(|source| identity.unusable(source))
}

/// Why TLS failed, out of an error and its causes. An `io::Error` does not name what it wraps as its cause.
pub fn reason<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Some systems carry a certificate that cannot be parsed; the others still count.
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        tracing::warn!(why, "this system has no CA certificates, so nobody on the Internet can be verified");
    }
    roots
}
