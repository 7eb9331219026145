//! Token buckets, one for each account and Region.

use std::collections::BTreeMap;
use std::time::Instant;

use super::resources::Where;

pub(super) struct Bucket {
    capacity: f64,
    refill_per_second: f64,
    levels: BTreeMap<Where, (f64, Instant)>,
}

impl Bucket {
    pub(super) fn new(capacity: u32, refill_per_second: f64) -> Self {
        Self { capacity: f64::from(capacity), refill_per_second, levels: BTreeMap::new() }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, at: &Where) -> bool {
        let now = Instant::now();
        let (level, since) = self.levels.entry(at.clone()).or_insert((self.capacity, now));
        *level = (*level + now.duration_since(*since).as_secs_f64() * self.refill_per_second).min(self.capacity);
        *since = now;
        let enough = *level >= 1.0;
        if enough {
            *level -= 1.0;
        }
        enough
    }
}
