//! What was read, in Redis for all replicas. Each value is sealed for its key: Redis's keepers can neither read who holds
//! what, nor say something in AWS's place.
//!
//! A change of ours leaves a mark beside the value. Whoever looks is given the mark, and what they read is kept only if
//! it is still the same, so a replica that read before a change cannot put that back. Where Redis does not answer,
//! AWS is asked.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Kept, Ticket};
use crate::clock::Clock;
use crate::seal::Seal;
use crate::shared::{Script, Shared, SharedError};

/// How long a change is marked: longer than any read that began before it.
const MARKED_FOR: Duration = Duration::from_secs(120);
/// How soon a value that could not be dropped is tried again.
const DROP_AGAIN: Duration = Duration::from_millis(200);
/// How far the clocks of replicas may be apart before one does not believe another's values.
const SKEW_MOST: Duration = Duration::from_secs(60);

/// The value, how long it has left, the mark, and how long that has left; each in milliseconds.
static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]),
                 redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])}",
    )
});

/// Sets the value unless the mark is another than the looker saw.
static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if (redis.call('GET', KEYS[2]) or '') ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
         return 1",
    )
});

/// Drops the value and marks the change.
static DROP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('DEL', KEYS[1])
         redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
         return 1",
    )
});

/// What is kept in Redis. Clones share it.
#[derive(Clone)]
pub(super) struct Replicas {
    shared: Shared,
    seal: Seal,
    settle: Duration,
    clock: Clock,
    /// The keys whose values could not be dropped, and until when they count for nothing here.
    undropped: Arc<Mutex<HashMap<String, Instant>>>,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Sealed {
    call: String,
    /// When it was read: an old value that somebody puts back says so.
    at: Timestamp,
    lifetime_ms: u64,
    value: String,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Replicas {
    pub(super) fn new(shared: Shared, seal: Seal, settle: Duration, clock: Clock) -> Self {
        Self { shared, seal, settle, clock, undropped: Arc::default() }
    }

    /// What is kept, and the mark under which what is read from now on may be.
    pub(super) async fn look(&self, key: &str) -> (Option<Kept>, Option<Vec<u8>>) {
        // What this process has changed and could not say so is not believed here before that is made up for.
        if self.is_undropped(key) {
            return (None, None);
        }
        type Found = (Option<Vec<u8>>, i64, Option<Vec<u8>>, i64);
        let found: Result<Found, _> = self.shared.script(&LOOK, &[key, &mark_of(key)], &[0_u8; 0]).await;
        let Ok((value, left, mark, marked)) = found else { return (None, None) };
        let since =
            |whole: Duration, left: i64| whole.saturating_sub(Duration::from_millis(left.try_into().unwrap_or(0)));
        let unsettled = mark.is_some() && since(MARKED_FOR, marked) < self.settle;
        let kept = value.and_then(|value| self.open(key, &value)).map(|sealed| Kept {
            age: since(Duration::from_millis(sealed.lifetime_ms), left),
            call: sealed.call,
            value: sealed.value,
        });
        (kept, (!unsettled).then(|| mark.unwrap_or_default()))
    }

    fn open(&self, key: &str, value: &[u8]) -> Option<Sealed> {
        let sealed: Sealed = serde_json::from_slice(&self.seal.open(key.as_bytes(), value)?).ok()?;
        let age = Duration::try_from(self.clock.now().duration_since(sealed.at)).unwrap_or_default();
        (age <= Duration::from_millis(sealed.lifetime_ms) + SKEW_MOST).then_some(sealed)
    }

    pub(super) async fn keep(&self, ticket: Ticket, call: &str, value: String, lifetime: Duration) {
        let Some(mark) = ticket.mark else { return };
        let took = ticket.began.elapsed();
        let left = lifetime.saturating_sub(took);
        if left.is_zero() {
            return;
        }
        let ms = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let at = self.clock.now().checked_sub(took).unwrap_or(Timestamp::MIN);
        let sealed = Sealed { call: call.to_owned(), at, lifetime_ms: ms(lifetime), value };
        let Ok(sealed) = serde_json::to_vec(&sealed) else { return };
        let sealed = self.seal.close(ticket.key.as_bytes(), &sealed);
        let arguments = [mark, sealed, ms(left).max(1).to_string().into_bytes()];
        let kept: Result<i64, _> = self.shared.script(&KEEP, &[&ticket.key, &mark_of(&ticket.key)], &arguments).await;
        if let Err(error) = kept {
            tracing::debug!(error = %error, "what AWS said could not be kept; it is asked again");
        }
    }

    /// Drops a value. Where Redis does not answer it is dropped as soon as it does; until then this process does not believe
    /// it, and other replicas, which most likely reach Redis no better, may for its lifetime.
    pub(super) async fn drop(&self, key: &str) {
        let Err(error) = self.try_drop(key).await else { return };
        tracing::debug!(error = %error, "what replicas know of a group could not be dropped; it is tried again");
        let until = Instant::now() + MARKED_FOR;
        self.undropped.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), until);
        let (this, key) = (self.clone(), key.to_owned());
        tokio::spawn(async move {
            while Instant::now() < until && this.try_drop(&key).await.is_err() {
                tokio::time::sleep(DROP_AGAIN).await;
            }
            let mut undropped = this.undropped.lock().unwrap_or_else(PoisonError::into_inner);
            // A later change of the same group has its own time.
            if undropped.get(&key) == Some(&until) {
                undropped.remove(&key);
            }
        });
    }

    async fn try_drop(&self, key: &str) -> Result<i64, SharedError> {
        let mark = uuid::Uuid::now_v7().to_string();
        self.shared.script(&DROP, &[key, &mark_of(key)], &[mark, MARKED_FOR.as_millis().to_string()]).await
    }

    fn is_undropped(&self, key: &str) -> bool {
        self.undropped.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }
}

fn mark_of(key: &str) -> String {
    format!("{key}:changed")
}
