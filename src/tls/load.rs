//! Certificates, keys and revocation lists from files.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

/// The most bytes of one file. The largest that are in use are revocation lists of a few megabytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// A file that cannot be used.
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
    /// The file is larger than anything of its kind.
    #[error("{0} is larger than 64 MiB")]
    TooLarge(PathBuf),
    /// The file holds no certificate, or a broken one.
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    /// The file holds no private key, or a broken one.
    #[error("{0} holds no private key in PEM")]
    NoKey(PathBuf),
    /// The file holds no revocation list, or a broken one.
    #[error("{0} holds no certificate revocation list in PEM or DER")]
    NoRevocationList(PathBuf),
    /// A CA certificate that cannot be trusted.
    #[error("{0} holds a certificate that is no CA certificate")]
    NotACa(PathBuf),
}

/// What several files held when they were read, one right after the other.
pub(super) struct Contents(BTreeMap<PathBuf, Vec<u8>>);

impl Contents {
    pub(super) fn read(paths: &[&Path]) -> Result<Self, LoadError> {
        let read = |path: &&Path| Ok(((*path).to_owned(), read(path)?));
        paths.iter().map(read).collect::<Result<_, LoadError>>().map(Self)
    }

    /// Tells contents apart, whatever the files' times and inodes say: an orchestrator swaps links, not files.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (path, bytes) in &self.0 {
            for part in [path.as_os_str().as_encoded_bytes(), bytes] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }

    fn bytes(&self, path: &Path) -> &[u8] {
        self.0.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every certificate of a file, in its order.
    pub(super) fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
        let certificates =
            CertificateDer::pem_slice_iter(self.bytes(path)).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        if certificates.is_empty() { Err(LoadError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
    }

    /// The private key of a file.
    pub(super) fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
        PrivateKeyDer::from_pem_slice(self.bytes(path)).map_err(|_| LoadError::NoKey(path.to_owned()))
    }

    /// Every revocation list of a file: several in PEM, or one in DER.
    pub(super) fn revocation_lists(
        &self,
        path: &Path,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
        let bytes = self.bytes(path);
        // DER begins with the tag of a SEQUENCE; no text of PEM's does.
        let lists = if bytes.first() == Some(&0x30) {
            vec![CertificateRevocationListDer::from(bytes.to_vec())]
        } else {
            CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().unwrap_or_default()
        };
        if lists.is_empty() { Err(LoadError::NoRevocationList(path.to_owned())) } else { Ok(lists) }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let wrong = |source| LoadError::Read { path: path.to_owned(), source: Arc::new(source) };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    let length = file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if length as u64 > FILE_MAX { Err(LoadError::TooLarge(path.to_owned())) } else { Ok(bytes) }
}

/// Every certificate of a file, in its order.
pub(super) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    Contents::read(&[path])?.certificates(path)
}

/// Every certificate of a file, to trust.
pub fn load_roots(path: &Path) -> Result<RootCertStore, LoadError> {
    roots_of(path, load_certificates(path)?)
}

/// Certificates of a file, to trust.
pub(super) fn roots_of(path: &Path, certificates: Vec<CertificateDer<'_>>) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|_| LoadError::NotACa(path.to_owned()))?;
    }
    Ok(roots)
}
