//! Rates: so many at once, and from then on as many a minute.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A; the same as a token bucket): of each key one instant is kept,
//! by which everything that was taken would have come at an even pace. What is refused takes nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many parts the keys are spread over, so that few wait for each other.
const SHARDS: usize = 64;

/// How many keys of one part are remembered. All parts together take some megabytes at most.
const KEYS_MOST: usize = 1024;

/// So many a minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) most: u32,
    /// From one to the next at an even pace.
    pub(super) interval: Duration,
}

/// The instant of each key.
#[derive(Debug)]
pub(super) struct Rates<K> {
    shards: Vec<Mutex<HashMap<K, u64>>>,
    hasher: RandomState,
    begun: Instant,
}

impl Rate {
    pub(super) fn per_minute(most: u32) -> Self {
        Self { most, interval: Duration::from_secs(60) / most.max(1) }
    }

    /// How far ahead of an even pace one may be.
    pub(super) fn burst(self) -> Duration {
        self.interval * self.most
    }
}

impl<K: Eq + Hash + Copy> Rates<K> {
    pub(super) fn new() -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, hasher: RandomState::new(), begun: Instant::now() }
    }

    /// Takes one, or says when the next is free.
    pub(super) fn take(&self, key: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = nanoseconds(now.duration_since(self.begun));
        self.shard(key, |shard| {
            let paced = shard.get(&key).copied().unwrap_or_default().max(now);
            let next = paced.saturating_add(nanoseconds(rate.interval));
            let ahead = next.saturating_sub(now).saturating_sub(nanoseconds(rate.burst()));
            if ahead > 0 {
                return Err(Duration::from_nanos(ahead));
            }
            if shard.len() >= KEYS_MOST && !shard.contains_key(&key) {
                make_room(shard, now);
            }
            shard.insert(key, next);
            Ok(())
        })
    }

    /// Says when the next is free, if none is now, and takes nothing.
    pub(super) fn look(&self, key: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = nanoseconds(now.duration_since(self.begun));
        let paced = self.shard(key, |shard| shard.get(&key).copied().unwrap_or_default().max(now));
        let next = paced.saturating_add(nanoseconds(rate.interval));
        match next.saturating_sub(now).saturating_sub(nanoseconds(rate.burst())) {
            0 => Ok(()),
            ahead => Err(Duration::from_nanos(ahead)),
        }
    }

    fn shard<T>(&self, key: K, work: impl FnOnce(&mut HashMap<K, u64>) -> T) -> T {
        let number = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        match self.shards.get(number) {
            Some(shard) => work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner)),
            // INVARIANT: the number is a remainder of how many there are.
            None => work(&mut HashMap::new()),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// Forgets those who have taken nothing lately; if there are none, the one who has taken least. Whoever would have
/// their own count forgotten must bring others to take more than they did.
fn make_room<K: Eq + Hash + Copy>(shard: &mut HashMap<K, u64>, now: u64) {
    shard.retain(|_, paced| *paced > now);
    if shard.len() >= KEYS_MOST {
        let least = shard.iter().min_by_key(|(_, paced)| **paced).map(|(key, _)| *key);
        least.and_then(|key| shard.remove(&key));
    }
}

/// Nanoseconds: some centuries fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_from_then_on_at_an_even_pace() {
        let (rates, rate, begun) = (Rates::new(), Rate::per_minute(60), Instant::now());
        let take = |key, at: u64| rates.take(key, rate, begun + Duration::from_millis(at));
        assert!((0..60).all(|_| take(1, 0).is_ok()));
        assert_eq!(take(1, 0), Err(Duration::from_secs(1)));
        assert_eq!(rates.look(1, rate, begun), Err(Duration::from_secs(1)));
        assert!(take(2, 0).is_ok(), "each key by itself");
        assert_eq!(take(1, 400), Err(Duration::from_millis(600)));
        // What was refused has taken nothing.
        assert_eq!((rates.look(1, rate, begun + Duration::from_secs(1)), take(1, 1000)), (Ok(()), Ok(())));
        assert!(take(1, 1000).is_err());
        assert!((0..60).all(|_| take(1, 61_000).is_ok()));
        assert!(take(1, 61_000).is_err());
    }

    #[test]
    fn memory_is_bounded_and_nobody_is_forgotten_for_strangers() {
        let (rates, rate, now) = (Rates::new(), Rate::per_minute(10), Instant::now());
        while rates.take(0_u32, rate, now).is_ok() {}
        for stranger in 1..80_000 {
            assert!(rates.take(stranger, rate, now).is_ok());
        }
        assert!(rates.len() <= SHARDS * KEYS_MOST, "{}", rates.len());
        assert!(rates.take(0, rate, now).is_err(), "a flood of others frees nobody");
    }

    #[test]
    fn many_at_once_take_no_more_than_there_is() {
        let rates = std::sync::Arc::new(Rates::new());
        // A pace at which nothing comes back while the test runs.
        let (rate, now) = (Rate { most: 100, interval: Duration::from_secs(3600) }, Instant::now());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let rates = std::sync::Arc::clone(&rates);
                std::thread::spawn(move || (0..1000).filter(|_| rates.take(7, rate, now).is_ok()).count())
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().expect("it ends")).sum();
        assert_eq!(taken, 100);
    }
}
