//! What is worked on at once: each principal's calls, and everybody's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Subject;

/// A place among the calls that are worked on at once. Free again when it is dropped.
#[derive(Debug)]
pub struct Operation {
    _permit: OwnedSemaphorePermit,
}

impl Operation {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}

/// How many calls of each subject are worked on. Who has none is not remembered.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Subject, u32>>>);

/// A call of a subject that is worked on, until it is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    subject: Subject,
}

impl Flights {
    /// Counts a call, unless there are `most` already.
    pub(super) fn take(&self, subject: Subject, most: u32) -> Option<Flight> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = flights.entry(subject).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Flight { flights: self.clone(), subject })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = flights.entry(self.subject) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_places_of_its_own_and_gives_them_back() {
        let (flights, one, other) = (Flights::default(), Subject(1), Subject(2));
        let held: Vec<_> = (0..3).map(|_| flights.take(one, 3).expect("room")).collect();
        assert!(flights.take(one, 3).is_none());
        assert!(flights.take(other, 3).is_some());
        drop(held);
        assert!(flights.take(one, 1).is_some());
        assert!(flights.0.lock().expect("sound").is_empty());
    }
}
