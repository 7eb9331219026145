//! Sealing: text that others keep for us and can neither read nor change (AES-256-GCM, RFC 5116).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey};
use aws_lc_rs::rand;

/// The bytes of a key.
const KEY_LEN: usize = 32;

/// A key to seal with. Clones share it.
#[derive(Clone)]
pub struct Seal(Arc<RandomizedNonceKey>);

/// A key that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{0} must hold 64 hexadecimal digits, such as `openssl rand -hex 32` writes")]
    Key(PathBuf),
    /// The system has no randomness, or the cipher no room.
    #[error("the system gives no randomness")]
    Random,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// A key that this process alone knows.
    pub fn random() -> Result<Self, SealError> {
        let mut key = [0; KEY_LEN];
        rand::fill(&mut key).map_err(|_| SealError::Random)?;
        Self::new(&key)
    }

    /// A key from a file: 64 hexadecimal digits.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let text = std::fs::read_to_string(path).map_err(|source| SealError::Read { path: path.to_owned(), source })?;
        let key = crate::digest::from_hex(text.trim()).filter(|key| key.len() == KEY_LEN);
        Self::new(&key.ok_or_else(|| SealError::Key(path.to_owned()))?)
    }

    fn new(key: &[u8]) -> Result<Self, SealError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError::Random)?;
        Ok(Self(Arc::new(key)))
    }

    /// Seals a text for one purpose, `context`, which must be said again to open it.
    pub fn close(&self, context: &[u8], text: &[u8]) -> Vec<u8> {
        let mut sealed = text.to_vec();
        let Ok(nonce) = self.0.seal_in_place_append_tag(Aad::from(context), &mut sealed) else {
            // INVARIANT: the cipher takes 64 GiB. What cannot be sealed opens as nothing.
            return Vec::new();
        };
        let mut whole = nonce.as_ref().to_vec();
        whole.append(&mut sealed);
        whole
    }

    /// Opens what was sealed for the same purpose; nothing if a single bit differs.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(opened);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_neither_read_nor_changed_nor_moved() {
        let seal = Seal::random().expect("a key");
        let sealed = seal.close(b"one", b"secret text");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(seal.open(b"one", &sealed).as_deref(), Some(&b"secret text"[..]));
        assert_ne!(sealed, seal.close(b"one", b"secret text"), "never the same twice");
        assert_eq!(seal.open(b"two", &sealed), None, "another purpose");
        assert_eq!(Seal::random().expect("a key").open(b"one", &sealed), None, "another key");
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(seal.open(b"one", &changed), None, "byte {place}");
        }
        for length in 0..sealed.len() {
            assert_eq!(seal.open(b"one", &sealed[..length]), None, "cut to {length}");
        }
    }
}
