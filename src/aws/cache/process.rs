//! What was read, in this process's memory, within bounds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Kept, Ticket};

/// How much is kept at most, in bytes of what AWS said. Whoever lists everything does not fill the memory.
const BYTES_MOST: usize = 16 << 20;
/// How long a change is remembered: longer than any read that began before it.
const REMEMBERED_FOR: Duration = Duration::from_secs(120);

/// What is kept in memory. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Process {
    settle: Duration,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: HashMap<String, Entry>,
    bytes: usize,
    /// When a change of ours was last sent.
    changed: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    until: Instant,
    call: String,
    value: String,
}

impl Process {
    pub(super) fn new(settle: Duration) -> Self {
        Self { settle, inner: Arc::default() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn look(&self, key: &str) -> Option<Kept> {
        self.with(|inner| {
            let entry = inner.kept.get(key)?;
            Some(Kept { call: entry.call.clone(), age: entry.at.elapsed(), value: entry.value.clone() })
        })
    }

    pub(super) fn keep(&self, ticket: Ticket, call: &str, value: String, lifetime: Duration) {
        let Ticket { key, began, .. } = ticket;
        self.with(|inner| {
            let unsettled = inner.changed.get(&key).is_some_and(|changed| began < *changed + self.settle);
            let newer = inner.kept.get(&key).is_some_and(|entry| entry.at > began);
            if unsettled || newer {
                return;
            }
            inner.forget(&key);
            if inner.bytes + value.len() > BYTES_MOST {
                inner.prune();
            }
            if inner.bytes + value.len() > BYTES_MOST {
                return;
            }
            inner.bytes += value.len();
            inner.kept.insert(key, Entry { at: began, until: began + lifetime, call: call.to_owned(), value });
        });
    }

    pub(super) fn drop(&self, key: String) {
        self.with(|inner| {
            inner.forget(&key);
            inner.changed.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
            inner.changed.insert(key, Instant::now());
        });
    }
}

impl Inner {
    fn forget(&mut self, key: &str) {
        if let Some(entry) = self.kept.remove(key) {
            self.bytes -= entry.value.len();
        }
    }

    /// Lets go of what has ended.
    fn prune(&mut self) {
        let now = Instant::now();
        self.kept.retain(|_, entry| entry.until > now);
        self.bytes = self.kept.values().map(|entry| entry.value.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    const SETTLE: Duration = Duration::from_millis(20);

    fn ticket(key: &str) -> Ticket {
        Ticket { kind: Kind::Rules, key: key.to_owned(), began: Instant::now(), mark: None }
    }

    #[tokio::test]
    async fn what_a_change_overtook_is_not_kept() {
        let process = Process::new(SETTLE);
        let keep = |ticket, call: &str| process.keep(ticket, call, "rules".to_owned(), Duration::from_secs(5));
        let call = || process.look("a").map(|kept| kept.call);
        let before = ticket("a");
        process.drop("a".to_owned());
        keep(before, "before");
        assert_eq!(call(), None, "read before the change");
        keep(ticket("a"), "unsettled");
        assert_eq!(call(), None, "AWS may not show the change yet");
        keep(ticket("b"), "another");
        assert!(process.look("b").is_some(), "another group");
        tokio::time::sleep(SETTLE * 2).await;
        let (older, newer) = (ticket("a"), ticket("a"));
        keep(newer, "newer");
        keep(older, "older");
        assert_eq!(call().as_deref(), Some("newer"));
        process.drop("a".to_owned());
        assert_eq!(call(), None, "dropped");
    }

    #[test]
    fn memory_has_a_bound() {
        let process = Process::new(SETTLE);
        let mut keys = 0..;
        let mut keep = |lifetime| {
            let key = keys.next().map(|number: u32| number.to_string()).unwrap_or_default();
            process.keep(ticket(&key), "call", "0".repeat(BYTES_MOST / 4), lifetime);
            process.look(&key).is_some()
        };
        let long = Duration::from_secs(60);
        assert!(keep(long) && keep(long) && keep(Duration::ZERO) && keep(Duration::ZERO));
        assert!(keep(long) && keep(long), "what has ended makes room");
        assert!(!keep(long), "what has not does not");
        assert!(process.with(|inner| inner.bytes) <= BYTES_MOST);
    }
}
