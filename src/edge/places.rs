//! The places of requests that are worked on: so many for all, and not all of them for one caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Edge;

/// How many requests of each caller are worked on.
#[derive(Debug, Default)]
pub(super) struct Busy(Arc<Mutex<HashMap<String, usize>>>);

/// A place, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    busy: Arc<Mutex<HashMap<String, usize>>>,
    who: String,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.who);
            }
        }
    }
}

/// Takes a place; none if none has become free in time, or the caller has three quarters of all of them.
pub(super) async fn enter(edge: &Edge, who: &str) -> Option<Place> {
    let all = edge.config.in_flight_max;
    let of_one = || {
        let busy = edge.busy.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.get(who).copied().unwrap_or_default()
    };
    if of_one() >= all - all / 4 {
        return None;
    }
    let permit = edge.in_flight.enter().await?;
    *edge.busy.0.lock().unwrap_or_else(PoisonError::into_inner).entry(who.to_owned()).or_default() += 1;
    Some(Place { busy: Arc::clone(&edge.busy.0), who: who.to_owned(), _permit: permit })
}
