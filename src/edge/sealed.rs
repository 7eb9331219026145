//! What the edge gives clients to bring back: sealed, so that they can neither read nor change it, and nothing has to be
//! stored for it.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;

use crate::clock::Clock;
use crate::digest::sha256_hex;
use crate::seal::{Seal, SealError};
use crate::shared::Shared;

/// How many that were brought back are remembered by one process. Each is forgotten by its end anyway.
const SPENT_MOST: usize = 100_000;

/// The edge's key, and what was brought back already.
#[derive(Debug)]
pub(super) struct Sealed {
    seal: Seal,
    clock: Clock,
    /// Whether other replicas have the same key.
    several: bool,
    spent: Cache<String, ()>,
    shared: Option<Shared>,
}

/// Why something that was brought back is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealedError {
    /// Not of this server, or for something else.
    #[error("it is not what this server gave for this very call")]
    Foreign,
    /// Too late.
    #[error("it is too old")]
    Old,
    /// Twice.
    #[error("it was used already")]
    Spent,
    /// What replicas share does not answer.
    #[error("whether it was used already cannot be told at the moment; try again")]
    Unknown,
}

impl Sealed {
    /// By a key from a file, which several replicas can share; or by one of this process alone.
    pub(super) fn new(key: Option<&Path>, shared: Option<Shared>, clock: Clock) -> Result<Self, SealError> {
        let (seal, several) = match key {
            Some(path) => (Seal::from_file(path)?, true),
            None => (Seal::random()?, false),
        };
        Ok(Self { seal, clock, several, spent: Cache::new(SPENT_MOST), shared })
    }

    /// What replicas share, if this is configured.
    pub(super) fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Whether an answer of a client may arrive at another replica, without a way from there to here.
    pub(super) fn is_apart(&self) -> bool {
        self.several && self.shared.is_none()
    }

    /// Seals bytes for one purpose, until an end.
    pub(super) fn close(&self, purpose: &[u8], bytes: &[u8], good_for: Duration) -> String {
        let end = self.now().saturating_add(i64::try_from(good_for.as_secs()).unwrap_or(i64::MAX));
        let mut whole = end.to_be_bytes().to_vec();
        whole.extend_from_slice(bytes);
        BASE64_URL_SAFE_NO_PAD.encode(self.seal.close(purpose, &whole))
    }

    /// Opens what was sealed for the same purpose.
    pub(super) fn open(&self, purpose: &[u8], text: &str) -> Result<Vec<u8>, SealedError> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| SealedError::Foreign)?;
        let whole = self.seal.open(purpose, &sealed).ok_or(SealedError::Foreign)?;
        let (end, bytes) = whole.split_first_chunk::<8>().ok_or(SealedError::Foreign)?;
        if i64::from_be_bytes(*end) < self.now() {
            return Err(SealedError::Old);
        }
        Ok(bytes.to_vec())
    }

    /// The same, once: whoever brings it a second time is refused, at any replica where they share something.
    pub(super) async fn open_once(
        &self,
        purpose: &[u8],
        text: &str,
        good_for: Duration,
    ) -> Result<Vec<u8>, SealedError> {
        let bytes = self.open(purpose, text)?;
        let key = sha256_hex(text);
        let mut first = false;
        let marked = self.spent.get_or_insert_with(&key, || {
            first = true;
            Ok::<_, std::convert::Infallible>(())
        });
        marked.unwrap_or_else(|never| match never {});
        if !first {
            return Err(SealedError::Spent);
        }
        if let Some(shared) = &self.shared {
            let first = shared.put_new(&format!("spent:{key}"), b"1", good_for).await;
            match first {
                Ok(true) => {}
                Ok(false) => return Err(SealedError::Spent),
                Err(error) => {
                    tracing::warn!(error = %crate::error::Chain(&error), "whether a state was used cannot be told");
                    self.spent.remove(&key);
                    return Err(SealedError::Unknown);
                }
            }
        }
        Ok(bytes)
    }

    /// Lets something be brought once more: what it was brought for was never asked of anybody.
    pub(super) async fn give_back(&self, text: &str) {
        let key = sha256_hex(text);
        if let Some(shared) = &self.shared {
            // Redis's shortest end, in place of a removal.
            let forgotten = shared.put(&format!("spent:{key}"), b"0", Duration::from_secs(1)).await;
            drop(forgotten);
        }
        self.spent.remove(&key);
    }

    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }
}
