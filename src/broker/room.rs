//! The limit on open leases: what counts as one more, and what is told of those that were opened and left.

use jiff::Timestamp;

use super::add::{Step, step};
use super::failure::Failure;
use super::{Answer, Done, Item, Job, Word};
use crate::identity::Caller;
use crate::limit::{Held, Subject};
use crate::operation::Opening;
use crate::operation::lease::Lease;
use crate::operation::rule::Rule;
use crate::operation::target::{GroupId, Place, Target};

impl Job<'_> {
    /// Takes room for the leases that the caller would hold more than before. One on a rule that they hold already is
    /// not one more.
    pub(super) async fn take_room(
        &self,
        openings: &[Opening],
        lease: &Lease,
        standing: &[Rule],
    ) -> Result<(), Failure> {
        let Some(target) = self.permit.operation().scope().group() else { return Ok(()) };
        let (now, subject) = (self.now(), subject(self.permit.caller()));
        let holds = |rule: &Rule| {
            rule.ownership().and_then(|own| own.lease_of(&self.holder)).filter(|lease| lease.is_live(now)).cloned()
        };
        let more = |opening: &&Opening| match step(**opening, lease, standing, now) {
            Ok(Step::Open) => true,
            Ok(Step::Join(rule)) => holds(&rule).is_none(),
            // Refused for a reason of its own, or nothing to be done.
            Err(_) | Ok(Step::Done(_)) => false,
        };
        let count = openings.iter().filter(more).count();
        let (place, group) = (target.place().to_string(), target.group().to_string());
        let standing = standing.iter().filter_map(|rule| held(subject, target, rule, holds(rule)?.until)).collect();
        let limits = &self.broker.limits;
        let room = limits
            .room(subject, (&place, &group), (standing, self.shown), count, now)
            .await
            .map_err(Failure::Limited)?;
        self.room.set(room).map_err(|_| Failure::Unsettled)
    }

    /// Tells what became of the caller's leases, and gives the room back.
    pub(super) async fn settle_room(&mut self, answer: &Result<Answer, Failure>, done: Done) {
        let (limits, subject) = (&self.broker.limits, subject(self.permit.caller()));
        let (mut opened, mut left) = (Vec::new(), Vec::new());
        if let (Ok(Answer::Changed { items, .. }), Some(target)) = (answer, self.permit.operation().scope().group()) {
            let of = |item: &Item, until| held(subject, target, &item.rule, until);
            for item in items {
                match item.word {
                    Word::Opened | Word::Joined | Word::Moved => {
                        opened.extend(item.until.and_then(|until| of(item, until)))
                    }
                    Word::Extended => limits.note(item.until.and_then(|until| of(item, until)).as_ref()),
                    Word::Removed | Word::Left => left.extend(of(item, self.now())),
                    _ => {}
                }
            }
        }
        match self.room.take() {
            Some(mut room) => {
                let unknown = answer.as_ref().err().is_some_and(|failure| failure.may_have_acted() || done.acted);
                if unknown || done.unsure {
                    // What was opened all the same is found by the next survey.
                    return room.linger();
                }
                limits.settle(&room, &opened, &left).await;
            }
            None => {
                limits.note(&opened);
                limits.left(subject, &left).await;
            }
        }
    }
}

/// Whose limits a caller's are.
pub(super) fn subject(caller: &Caller) -> Subject {
    Subject::of(caller.principal().id())
}

/// Every lease that a survey of a place showed.
pub(super) fn held_in(place: &Place, rules: &[(GroupId, Rule)], now: Timestamp) -> Vec<Held> {
    let place = place.to_string();
    let mut leases = Vec::new();
    for (group, rule) in rules {
        let (Some(own), Some(id)) = (rule.ownership(), &rule.id) else { continue };
        leases.extend(own.live(now).map(|lease| Held {
            subject: Subject::of(&lease.holder.id()),
            place: place.clone(),
            group: group.to_string(),
            rule: id.clone(),
            until: lease.until,
        }));
    }
    leases
}

fn held(subject: Subject, target: &Target, rule: &Rule, until: Timestamp) -> Option<Held> {
    let (place, group) = (target.place().to_string(), target.group().to_string());
    Some(Held { subject, place, group, rule: rule.id.clone()?, until })
}
