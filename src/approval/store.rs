//! Where requests, decisions and spendings are written, each once: in what replicas share, or in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ApprovalError;
use crate::shared::Shared;

/// The most entries that one process keeps.
const MOST: usize = 50_000;

/// What one process keeps: values, and until when.
type Entries = HashMap<String, (Vec<u8>, Instant)>;

#[derive(Clone, Debug)]
pub(super) enum Store {
    /// What replicas share.
    Shared(Shared),
    /// This process alone.
    Process(Arc<Mutex<Entries>>),
}

impl Store {
    pub(super) fn shared(shared: Shared) -> Self {
        Self::Shared(shared)
    }

    pub(super) fn process() -> Self {
        Self::Process(Arc::default())
    }

    /// Writes, over what is there.
    pub(super) async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), ApprovalError> {
        match self {
            Self::Shared(shared) => shared.put(key, value, ttl).await.map_err(unreachable),
            Self::Process(entries) => write(entries, key, value, ttl, true).map(|_| ()),
        }
    }

    /// Writes unless something is there; whether it was written.
    pub(super) async fn put_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, ApprovalError> {
        match self {
            Self::Shared(shared) => shared.put_new(key, value, ttl).await.map_err(unreachable),
            Self::Process(entries) => write(entries, key, value, ttl, false),
        }
    }

    /// What is there.
    pub(super) async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, ApprovalError> {
        match self {
            Self::Shared(shared) => shared.value(key).await.map_err(unreachable),
            Self::Process(entries) => {
                let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(entries.get(key).filter(|(_, until)| Instant::now() < *until).map(|(value, _)| value.clone()))
            }
        }
    }
}

fn write(entries: &Mutex<Entries>, key: &str, value: &[u8], ttl: Duration, over: bool) -> Result<bool, ApprovalError> {
    let now = Instant::now();
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    let stands = entries.get(key).is_some_and(|(_, until)| now < *until);
    if stands && !over {
        return Ok(false);
    }
    if entries.len() >= MOST {
        entries.retain(|_, (_, until)| now < *until);
        // What is kept is never given up for something new: it may be a spending.
        if entries.len() >= MOST {
            return Err(ApprovalError::Full);
        }
    }
    entries.insert(key.to_owned(), (value.to_vec(), now + ttl));
    Ok(true)
}

fn unreachable(error: impl std::error::Error + Send + Sync + 'static) -> ApprovalError {
    ApprovalError::Unreachable(Box::new(error))
}
