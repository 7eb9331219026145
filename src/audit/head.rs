//! Heads: how far a chain had come at a time, signed (Ed25519, RFC 8032). Whoever holds one elsewhere can tell that a
//! journal was cut off, rolled back or rewritten since.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::digest::sha256_hex;

/// What stands before the 32 bytes of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// How far a chain had come.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Head {
    /// The directory's own id.
    pub journal: String,
    /// The chain.
    pub chain: String,
    /// The segment that was written.
    pub segment: u32,
    /// The number of the chain's last line.
    pub seq: u64,
    /// That line's SHA-256, in hexadecimal.
    pub sha256: String,
    /// When, RFC 3339.
    pub at: String,
    /// Which key signed: the first 16 hexadecimal digits of the public key's SHA-256.
    pub key: String,
    /// The signature over [`Head::text`], in base64.
    pub signature: String,
}

/// The key that heads are signed with. Clones share it.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

/// The public half of such a key: 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

/// A key that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("{path} cannot be {action}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// What is in it.
    #[error(
        "{0} must hold an Ed25519 key in PKCS #8 and PEM, as `whitelistmcp audit key` and `openssl genpkey -algorithm ed25519` write it"
    )]
    Private(PathBuf),
    /// What is in it.
    #[error("{0} must hold the public half of an Ed25519 key: PEM, or its 32 bytes in base64")]
    Public(PathBuf),
    /// The system has no randomness.
    #[error("the system gives no randomness")]
    Random,
}

impl Head {
    /// What is signed.
    pub fn text(&self) -> String {
        format!(
            "whitelistmcp journal head 1\n{}\n{}\n{}\n{}\n{}\n{}\n",
            self.journal, self.chain, self.segment, self.seq, self.sha256, self.at
        )
    }

    /// Whether this key signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let signature = BASE64.decode(&self.signature).unwrap_or_default();
        UnparsedPublicKey::new(&ED25519, &key.0).verify(self.text().as_bytes(), &signature).is_ok()
    }
}

// === impl SigningKey ===

impl SigningKey {
    /// Reads a key.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let pem = std::fs::read(path).map_err(failed(path, "read"))?;
        let wrong = || KeyError::Private(path.to_owned());
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| wrong())?;
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| wrong())?;
        Ok(Self(Arc::new(key)))
    }

    /// Makes a key in a new file that its owner alone can read.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
        let der = key.to_pkcs8v1().map_err(|_| KeyError::Random)?;
        super::journal::write_new(path, pem("PRIVATE KEY", der.as_ref()).as_bytes())
            .map_err(failed(path, "written"))?;
        Ok(Self(Arc::new(key)))
    }

    /// Reads a key, or makes it where there is none. Of several processes that make one at once, one does.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::create(path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                super::journal::layout::must_be_file(path).map_err(failed(path, "read"))?;
                Self::from_file(path)
            }
            made => made,
        }
    }

    /// The half that verifies.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().to_vec())
    }

    /// Signs how far a chain has come.
    pub(super) fn sign(&self, head: Head) -> Head {
        let head = Head { key: self.public().id(), ..head };
        let signature = BASE64.encode(self.0.sign(head.text().as_bytes()));
        Head { signature, ..head }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public().id()).finish()
    }
}

// === impl PublicKey ===

impl PublicKey {
    /// Reads a key: PEM (`SubjectPublicKeyInfo`), or base64 of its 32 bytes.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(failed(path, "read"))?;
        Self::parse(&text).ok_or_else(|| KeyError::Public(path.to_owned()))
    }

    /// Reads a key from text.
    pub fn parse(text: &str) -> Option<Self> {
        let body: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        let bytes = BASE64.decode(body).ok()?;
        let raw = bytes.strip_prefix(&SPKI).unwrap_or(&bytes);
        (raw.len() == 32).then(|| Self(raw.to_vec()))
    }

    /// The key as PEM.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[SPKI.as_slice(), &self.0].concat())
    }

    /// The key's bytes in base64.
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// The name that heads call it by.
    pub fn id(&self) -> String {
        sha256_hex(&self.0).get(..16).unwrap_or_default().to_owned()
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> KeyError {
    move |source| KeyError::File { path: path.to_owned(), action, source: Arc::new(source) }
}

/// Text by RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            journal: "j".to_owned(),
            chain: "c".to_owned(),
            segment: 1,
            seq: 7,
            sha256: "0".repeat(64),
            at: "2027-01-01T00:00:00Z".to_owned(),
            key: String::new(),
            signature: String::new(),
        }
    }

    #[test]
    fn a_head_is_good_for_one_key_and_as_it_was_signed() {
        let directory = std::env::temp_dir().join(format!("whitelistmcp-head-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("key.pem");
        let key = SigningKey::open_or_create(&path).expect("made");
        let again = SigningKey::open_or_create(&path).expect("read");
        assert_eq!(key.public(), again.public());
        assert_eq!(PublicKey::parse(&key.public().to_pem()), Some(key.public()));
        assert_eq!(PublicKey::parse(&key.public().to_base64()), Some(key.public()));
        let signed = again.sign(head());
        assert!(signed.is_signed_by(&key.public()));
        assert!(!Head { seq: 8, ..signed.clone() }.is_signed_by(&key.public()));
        assert!(!Head { signature: String::new(), ..signed.clone() }.is_signed_by(&key.public()));
        let other = SigningKey::create(&directory.join("other.pem")).expect("made");
        assert!(!signed.is_signed_by(&other.public()));
        assert!(matches!(SigningKey::create(&path), Err(KeyError::File { .. })), "a key is never written over");
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----\n").expect("written");
        assert!(matches!(SigningKey::from_file(&path), Err(KeyError::Private(_))));
        std::fs::remove_dir_all(directory).expect("gone");
    }
}
