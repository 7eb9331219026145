//! Who has how much of what there is for all: no caller has all of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Edge;

/// How much each caller has.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, usize>>>);

/// One caller's, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    who: String,
}

/// A request's place among those that are worked on, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _share: Share,
    _permit: OwnedSemaphorePermit,
}

impl Shares {
    /// Takes one more; none if the caller has so many, or all together do.
    pub(super) fn take(&self, who: &str, of_one: usize, of_all: usize) -> Option<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = shares.get(who).copied().unwrap_or_default();
        if own >= of_one || shares.values().sum::<usize>() >= of_all {
            return None;
        }
        shares.insert(who.to_owned(), own + 1);
        Some(Share { shares: self.clone(), who: who.to_owned() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = shares.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                shares.remove(&self.who);
            }
        }
    }
}

/// Takes a place; none if none has become free in time. Of another service's edge no caller has more than three quarters; a core of
/// ours has limits of its own for each caller.
pub(super) async fn enter(edge: &Edge, who: &str) -> Option<Place> {
    let all = edge.config.in_flight_max;
    // Those who wait for a place count as well, so the queue is for everybody too.
    let of_one = if edge.is_foreign() { all - all / 4 } else { usize::MAX };
    let share = edge.busy.take(who, of_one, usize::MAX)?;
    Some(Place { _share: share, _permit: edge.in_flight.enter().await? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_and_what_is_given_back_is_there_again() {
        let shares = Shares::default();
        let held: Vec<_> = (0..3).map(|_| shares.take("alice", 3, 5).expect("hers")).collect();
        assert!(shares.take("alice", 3, 5).is_none());
        let bobs = [shares.take("bob", 3, 5).expect("his"), shares.take("bob", 3, 5).expect("his")];
        assert!(shares.take("carol", 3, 5).is_none(), "all are taken");
        drop(held);
        assert!(shares.take("carol", 3, 5).is_some());
        drop(bobs);
        assert!(shares.0.lock().expect("no panic").is_empty());
    }
}
