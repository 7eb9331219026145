//! TLS material and the settings of every connection: one stack (rustls), one provider (aws-lc-rs), chosen here alone.

mod load;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;

pub use load::{LoadError, load_roots};
pub use verify::validity;

use load::{load_certificates, load_key};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug, Deserialize)]
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
    /// The CA certificates cannot be used to verify clients.
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
    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), LoadError> {
        Ok((load_certificates(&self.certificate)?, load_key(&self.key)?))
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Identity { certificate: self.certificate.clone(), source }
    }
}

/// The cryptography of the whole process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that demands a client certificate: TLS 1.3, HTTP/2.
pub fn mutual_server(identity: &Identity, client_ca: &Path) -> Result<ServerConfig, TlsError> {
    let (chain, key) = identity.load()?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(load_roots(client_ca)?), provider())
        .build()
        .map_err(|source| TlsError::ClientCa { ca: client_ca.to_owned(), source })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|source| identity.unusable(source))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry a certificate that was checked long ago.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A server for anyone: TLS 1.3, HTTP/1.1 and HTTP/2.
pub fn public_server(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let (chain, key) = identity.load()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|source| identity.unusable(source))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that shows its own certificate and trusts one CA: TLS 1.3, HTTP/2.
pub fn mutual_client(identity: &Identity, server_ca: &Path) -> Result<ClientConfig, TlsError> {
    let (chain, key) = identity.load()?;
    let roots = load_roots(server_ca)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|source| identity.unusable(source))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A client of other people's servers: TLS 1.2 or 1.3, trusting `ca`, or the system's CAs where none is given.
pub fn public_client(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(ca) => load_roots(ca)?,
        None => system_roots(),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Protocol)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Some systems carry a certificate that cannot be parsed; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
