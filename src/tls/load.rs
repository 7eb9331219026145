//! Certificates and keys from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A PEM file that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The file holds no certificate, or a broken one.
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    /// The file holds no private key, or a broken one.
    #[error("{0} holds no private key in PEM")]
    NoKey(PathBuf),
    /// A CA certificate that cannot be trusted.
    #[error("{0} holds a certificate that is no CA certificate")]
    NotACa(PathBuf),
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source: Arc::new(source) })
}

/// Every certificate of a file, in its order.
pub(super) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let pem = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if certificates.is_empty() { Err(LoadError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

/// The private key of a file.
pub(super) fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| LoadError::NoKey(path.to_owned()))
}

/// Every certificate of a file, to trust.
pub fn load_roots(path: &Path) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        roots.add(certificate).map_err(|_| LoadError::NotACa(path.to_owned()))?;
    }
    Ok(roots)
}
