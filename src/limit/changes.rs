//! Quotas of changes: no more than so many within any hour, and within any day. Exact: of each change its time is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Config, Exceeded, Limit, Subject};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many subjects are remembered. Only who has changed something within a day is.
const SUBJECTS_MOST: usize = 20_000;

/// The changes of the last day, of each subject.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<HashMap<Subject, VecDeque<Change>>>);

#[derive(Debug)]
struct Change {
    at: Instant,
    id: u128,
}

impl Changes {
    /// Counts a change, or says when the next is free.
    pub(super) fn take(&self, subject: Subject, id: u128, config: &Config, now: Instant) -> Result<(), Exceeded> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SUBJECTS_MOST && !known.contains_key(&subject) {
            make_room(&mut known, now);
        }
        let changes = known.entry(subject).or_default();
        forget_old(changes, now);
        for (limit, most, window) in [
            (Limit::ChangesPerDay, config.changes_per_day, DAY),
            (Limit::ChangesPerHour, config.changes_per_hour, HOUR),
        ] {
            let nth = usize::try_from(most).ok().and_then(|most| changes.len().checked_sub(most));
            // The next is free when this one is out of the window.
            let Some(last) = nth.and_then(|nth| changes.get(nth)) else { continue };
            let age = now.duration_since(last.at);
            if age < window {
                return Err(Exceeded::new(limit, most, window - age));
            }
        }
        changes.push_back(Change { at: now, id });
        Ok(())
    }

    /// Forgets a change that was not made.
    pub(super) fn give_back(&self, subject: Subject, id: u128) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changes) = known.get_mut(&subject) {
            changes.retain(|change| change.id != id);
            if changes.is_empty() {
                known.remove(&subject);
            }
        }
    }
}

fn forget_old(changes: &mut VecDeque<Change>, now: Instant) {
    while changes.front().is_some_and(|change| now.duration_since(change.at) >= DAY) {
        changes.pop_front();
    }
}

/// Forgets those who have changed nothing within a day; if there are none, the one who has changed least.
fn make_room(known: &mut HashMap<Subject, VecDeque<Change>>, now: Instant) {
    known.retain(|_, changes| {
        forget_old(changes, now);
        !changes.is_empty()
    });
    if known.len() >= SUBJECTS_MOST {
        let least = known.iter().min_by_key(|(_, changes)| changes.len()).map(|(subject, _)| *subject);
        least.and_then(|subject| known.remove(&subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { changes_per_hour: 3, changes_per_day: 5, ..Config::default() }
    }

    #[test]
    fn no_more_than_so_many_within_any_hour_and_any_day() {
        let (changes, config, begun) = (Changes::default(), config(), Instant::now());
        let take =
            |subject, second, id| changes.take(Subject(subject), id, &config, begun + Duration::from_secs(second));
        for id in 0..3 {
            take(1, 600 * u64::try_from(id).expect("small"), id).expect("free");
        }
        let refused = take(1, 1800, 9).expect_err("the hour is full");
        assert_eq!((refused.limit(), refused.wait()), (Limit::ChangesPerHour, Duration::from_secs(1800)));
        assert!(take(2, 1800, 9).is_ok(), "each by themselves");
        assert!(take(1, 3599, 9).is_err());
        assert!(take(1, 3600, 3).is_ok());
        assert!(take(1, 3600 * 3, 4).is_ok());
        let refused = take(1, 3600 * 3, 9).expect_err("the day is full");
        assert_eq!((refused.limit(), refused.wait()), (Limit::ChangesPerDay, DAY - HOUR * 3));
        assert!((0..3).all(|id| take(1, 3600 * 30, 10 + id).is_ok()));
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let (changes, config, now, alice) = (Changes::default(), config(), Instant::now(), Subject(1));
        for id in 0..100 {
            changes.take(alice, id, &config, now).expect("free");
            changes.give_back(alice, id);
        }
        assert!(changes.0.lock().expect("sound").is_empty());
        assert!((0..3).all(|id| changes.take(alice, id, &config, now).is_ok()));
        changes.give_back(alice, 1);
        changes.give_back(alice, 1);
        assert!(changes.take(alice, 7, &config, now).is_ok() && changes.take(alice, 8, &config, now).is_err());
    }
}
