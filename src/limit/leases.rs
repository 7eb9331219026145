//! How many leases each principal holds, over all groups, as far as this process knows.
//!
//! AWS knows exactly, and asking it of everything before every opening would cost more than it is worth. So three things
//! are put together: what the last survey of each place showed, what this process has opened or ended since, and what
//! stands in the group at hand, which was read just now. An opening takes its room before it begins, so that several at
//! once cannot pass a limit together.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Subject;

/// How long a lease is believed in that was seen in a group, where no survey tells whether it still stands.
const SEEN_FOR: Duration = Duration::from_secs(120);

/// How long the room of an opening stays taken whose outcome is not known: several surveys.
const LINGER: Duration = Duration::from_secs(120);

/// One lease of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose.
    pub subject: Subject,
    /// The account and Region.
    pub place: String,
    /// The security group.
    pub group: String,
    /// The rule that it is on.
    pub rule: String,
    /// When it ends.
    pub until: Timestamp,
}

/// What is known of everybody's leases. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<HashMap<Subject, Known>>>);

#[derive(Debug, Default)]
struct Known {
    /// By rule. An ended one stays for a while, so that a survey that is older than its end does not revive it.
    leases: HashMap<String, Noted>,
    /// Room that is taken, by whom, and until when it counts.
    taken: HashMap<u128, (usize, Instant)>,
}

#[derive(Debug)]
struct Noted {
    place: String,
    group: String,
    until: Timestamp,
    at: Instant,
    /// Until when it is believed in, if not until its end.
    believed: Option<Instant>,
}

/// Room for leases that are about to be opened. Dropped, it is free again; what was opened is noted before.
#[derive(Debug)]
pub struct Room {
    tally: Tally,
    pub(super) subject: Subject,
    pub(super) id: u128,
    pub(super) count: usize,
    lingers: bool,
}

/// What a subject holds.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// The rules that their live leases are on.
    pub(super) rules: HashSet<String>,
    /// How many are about to be opened.
    pub(super) taken: usize,
    /// When the first of them ends.
    pub(super) first_end: Option<Timestamp>,
}

impl Tally {
    /// Takes room for `count` leases, and says what the subject holds with it.
    pub(super) fn take(&self, subject: Subject, id: u128, count: usize, now: Timestamp) -> (Room, Count) {
        self.take_at(subject, id, count, now, Instant::now())
    }

    fn take_at(&self, subject: Subject, id: u128, count: usize, now: Timestamp, instant: Instant) -> (Room, Count) {
        let mut all = self.lock();
        let known = all.entry(subject).or_default();
        known.taken.insert(id, (count, instant + LINGER));
        let held = known.count(now, instant);
        (Room { tally: self.clone(), subject, id, count, lingers: false }, held)
    }

    /// Notes what was read of a subject's leases in one group: as of `shown` they are these, and no others.
    pub(super) fn stands(&self, subject: Subject, (place, group): (&str, &str), leases: Vec<Held>, shown: Instant) {
        let mut all = self.lock();
        let known = all.entry(subject).or_default();
        known.leases.retain(|_, noted| noted.place != place || noted.group != group || noted.at >= shown);
        for (rule, noted) in leases.into_iter().map(Noted::of) {
            let believed = Some(shown + SEEN_FOR);
            known.leases.entry(rule).or_insert(Noted { at: shown, believed, ..noted });
        }
    }

    /// Notes a lease that was opened, extended or ended just now.
    pub(super) fn note(&self, held: Held) {
        let mut all = self.lock();
        let (rule, noted) = Noted::of(held.clone());
        all.entry(held.subject).or_default().leases.insert(rule, noted);
    }

    /// Takes over what a survey of a place showed. What was noted since `shown` counts more: the survey may be older.
    pub(super) fn surveyed(&self, place: &str, shown: Instant, leases: Vec<Held>, now: Timestamp) {
        let mut all = self.lock();
        for known in all.values_mut() {
            known.leases.retain(|_, noted| noted.place != place || noted.at >= shown);
        }
        for held in leases {
            let (rule, noted) = Noted::of(held.clone());
            let known = all.entry(held.subject).or_default();
            known.leases.entry(rule).or_insert(Noted { at: shown, ..noted });
        }
        all.retain(|_, known| {
            known.taken.retain(|_, (_, until)| *until > Instant::now());
            known.leases.retain(|_, noted| noted.until > now || noted.at.elapsed() < LINGER);
            !known.leases.is_empty() || !known.taken.is_empty()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Subject, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn count(&mut self, now: Timestamp, instant: Instant) -> Count {
        self.taken.retain(|_, (_, until)| *until > instant);
        // Where nothing is surveyed nobody else tidies up.
        self.leases.retain(|_, noted| noted.until > now || noted.at.elapsed() < LINGER);
        let believed = |noted: &Noted| noted.believed.is_none_or(|until| until > instant);
        let live = || self.leases.iter().filter(|(_, noted)| noted.until > now && believed(noted));
        Count {
            rules: live().map(|(rule, _)| rule.clone()).collect(),
            taken: self.taken.values().map(|(count, _)| count).sum(),
            first_end: live().map(|(_, noted)| noted.until).min(),
        }
    }
}

impl Noted {
    fn of(held: Held) -> (String, Self) {
        (
            held.rule,
            Self { place: held.place, group: held.group, until: held.until, at: Instant::now(), believed: None },
        )
    }
}

impl Room {
    /// Keeps the room for a while after the end: what came of the opening is not known.
    pub fn linger(&mut self) {
        self.lingers = true;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.lingers {
            return;
        }
        let mut all = self.tally.lock();
        if let Some(known) = all.get_mut(&self.subject) {
            known.taken.remove(&self.id);
            if known.taken.is_empty() && known.leases.is_empty() {
                all.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Subject = Subject(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn held(rule: &str, until: i64) -> Held {
        Held { subject: ALICE, place: "p".to_owned(), group: "g".to_owned(), rule: rule.to_owned(), until: at(until) }
    }

    fn count(tally: &Tally, now: i64) -> usize {
        let (room, held) = tally.take(ALICE, 0, 0, at(now));
        drop(room);
        held.rules.len()
    }

    #[test]
    fn a_survey_says_what_stands_and_what_was_done_since_counts_more() {
        let tally = Tally::default();
        let shown = Instant::now();
        let later = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        tally.surveyed("p", shown, vec![held("sgr-1", 100), held("sgr-2", 100)], at(0));
        assert_eq!(count(&tally, 0), 2);
        tally.note(held("sgr-3", 100));
        // Ended by its holder: a survey that still shows it is older.
        tally.note(held("sgr-1", 5));
        assert_eq!(count(&tally, 5), 2);
        tally.surveyed("p", shown, vec![held("sgr-1", 100), held("sgr-2", 100)], at(5));
        assert_eq!(count(&tally, 5), 2);
        // The next one tells: what it does not show is gone.
        tally.surveyed("p", later(1), vec![held("sgr-3", 100)], at(6));
        assert_eq!(count(&tally, 6), 1);
        // Other places keep what they showed, and ends come by themselves.
        tally.surveyed("q", later(2), Vec::new(), at(6));
        assert_eq!((count(&tally, 6), count(&tally, 100)), (1, 0));
    }

    #[test]
    fn several_at_once_see_each_other_s_room() {
        let tally = Tally::default();
        let (first, held_by_first) = tally.take(ALICE, 1, 3, at(0));
        let (mut second, held_by_second) = tally.take(ALICE, 2, 2, at(0));
        assert_eq!((held_by_first.taken, held_by_second.taken), (3, 5));
        drop(first);
        assert_eq!(tally.take(ALICE, 3, 0, at(0)).1.taken, 2);
        second.linger();
        drop(second);
        assert_eq!(tally.take(ALICE, 3, 0, at(0)).1.taken, 2, "its outcome is not known");
        assert_eq!(tally.take_at(ALICE, 3, 0, at(0), Instant::now() + LINGER).1.taken, 0);
        tally.surveyed("p", Instant::now(), Vec::new(), at(0));
        assert!(tally.lock().is_empty(), "who holds nothing is forgotten");
    }

    #[test]
    fn what_was_just_read_of_a_group_replaces_what_was_known_of_it() {
        let tally = Tally::default();
        tally.note(held("sgr-1", 100));
        tally.note(Held { group: "h".to_owned(), ..held("sgr-2", 100) });
        let (before, after) = (Instant::now() - Duration::from_millis(1), Instant::now() + Duration::from_millis(1));
        let read = || vec![held("sgr-3", 100), held("sgr-4", 50)];
        // Read before it was opened: it says nothing of it.
        tally.stands(ALICE, ("p", "g"), read(), before);
        assert_eq!(count(&tally, 0), 4);
        tally.stands(ALICE, ("p", "g"), read(), after);
        let (_room, known) = tally.take(ALICE, 1, 1, at(0));
        assert_eq!((known.rules.len(), known.taken, known.first_end), (3, 1, Some(at(50))));
        // Where nothing is surveyed nobody tells when they are gone.
        let (_room, known) = tally.take_at(ALICE, 2, 0, at(0), after + SEEN_FOR);
        assert_eq!(known.rules.into_iter().collect::<Vec<_>>(), ["sgr-2"]);
    }
}
