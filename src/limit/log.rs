//! How much is logged of what strangers can make happen as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many lines a second, and a count of those that were left out.
#[derive(Debug)]
pub struct LogBudget {
    most: u32,
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl LogBudget {
    /// `most` lines a second.
    pub fn per_second(most: u32) -> Self {
        Self { most, spent: Mutex::new(Spent { since: Instant::now(), lines: 0, left_out: 0 }) }
    }

    /// Whether one more line may be written, and how many were left out before it.
    pub fn spend(&self) -> Option<u64> {
        self.spend_at(Instant::now())
    }

    fn spend_at(&self, now: Instant) -> Option<u64> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(spent.since) >= Duration::from_secs(1) {
            (spent.since, spent.lines) = (now, 0);
        }
        if spent.lines >= self.most {
            spent.left_out += 1;
            return None;
        }
        spent.lines += 1;
        Some(std::mem::take(&mut spent.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let budget = LogBudget::per_second(2);
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        assert_eq!((budget.spend_at(now), budget.spend_at(now)), (Some(0), Some(0)));
        assert!((0..1000).all(|_| budget.spend_at(now).is_none()));
        assert_eq!(
            (budget.spend_at(later), budget.spend_at(later), budget.spend_at(later)),
            (Some(1000), Some(0), None)
        );
    }
}
