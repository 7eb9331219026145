//! What the rounds find that is not as it should be, and what they tell of it: in the log, in the audit trail, in the
//! metrics, and in the lists that callers see. Nothing of it is put right by guessing.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{Reconciler, Round};
use crate::operation::Opening;
use crate::operation::ownership::Made;
use crate::operation::rule::Rule;
use crate::operation::target::{GroupId, Place, Target};
use crate::telemetry;

/// How many rules that vanished are remembered.
const REMEMBERED: usize = 1000;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Rules that went before their end, until that end.
    vanished: HashMap<(Place, String), (GroupId, Rule)>,
    /// Rules that were changed by hand, as they were, while they stand.
    changed: HashMap<(Place, String), (GroupId, Rule)>,
    /// Rules with damaged tags that were told of.
    damaged: HashSet<(Place, String)>,
    /// Rules that this core's journal does not know, and that were told of.
    pub(super) unrecorded: HashSet<(Place, String)>,
}

impl Reconciler {
    /// Compares what stands with what stood in the last round.
    pub(super) fn compare(
        &self,
        place: &Place,
        rules: &[(GroupId, Rule)],
        made: Vec<(GroupId, Rule)>,
        now: Timestamp,
        round: &mut Round,
    ) {
        let mut state = self.lock();
        let standing: HashMap<&str, &Rule> =
            rules.iter().filter_map(|(_, rule)| Some((rule.id.as_deref()?, rule))).collect();
        let mut before = state.seen.get(place).map(|seen| seen.rules.clone()).unwrap_or_default();
        // What this core has opened or changed since counts as seen: it knows how the rule stood.
        before.extend(made.into_iter().filter_map(|(group, rule)| Some((rule.id.clone()?, (group, rule)))));
        for (id, (group, was)) in before {
            let live = was.ownership().is_some_and(|own| own.closing.is_empty() && own.live(now).next().is_some());
            let by_us = self.broker.is_expected_gone(&id);
            // A rule that is young may not show in every look.
            let settle = jiff::SignedDuration::try_from(self.broker.config.settle * 2).unwrap_or_default();
            let since = was.ownership().and_then(|own| own.leases.iter().map(|lease| lease.since).max());
            let live = live && since.is_some_and(|since| now.duration_since(since) > settle);
            match standing.get(id.as_str()) {
                None if live && !by_us => {
                    round.vanished += 1;
                    // Another core may have done it: no two of them share what they know.
                    tracing::info!(%place, %group, rule = id, source = %was.source, "a rule went before its end, and not through this core");
                    self.broker.audit.observed("gone", place, &group, &was);
                    if state.report.vanished.len() < REMEMBERED {
                        state.report.vanished.insert((place.clone(), id), (group, was));
                    }
                }
                Some(is) if Opening::of(is) != Opening::of(&was) && !is_being_moved(is) && same_leases(is, &was) => {
                    tracing::warn!(%place, %group, rule = id, was = %was.source, is = %is.source, "a rule was changed, and not through this service");
                    self.broker.audit.observed("changed", place, &group, is);
                    if state.report.changed.len() < REMEMBERED {
                        state.report.changed.insert((place.clone(), id), (group, was));
                    }
                }
                _ => {}
            }
        }
        for (group, rule) in rules {
            let (Made::Damaged(how), Some(id)) = (&rule.made, &rule.id) else { continue };
            if state.report.damaged.insert((place.clone(), id.clone())) {
                tracing::warn!(%place, %group, rule = id, how, "a rule carries damaged tags of this service, and is left alone");
                self.broker.audit.observed("damaged", place, group, rule);
            }
        }
        let ahead = |rule: &Rule| rule.ownership().is_some_and(|own| own.live(now).next().is_some());
        state
            .report
            .vanished
            .retain(|(at, id), (_, rule)| ahead(rule) && !(at == place && standing.contains_key(id.as_str())));
        state.report.changed.retain(|(at, id), (_, was)| {
            at != place || standing.get(id.as_str()).is_some_and(|is| Opening::of(is) != Opening::of(was))
        });
        state.report.unrecorded.retain(|(at, id)| at != place || standing.contains_key(id.as_str()));
        state.report.damaged.retain(|(at, id)| at != place || standing.contains_key(id.as_str()));
    }

    /// The rules of a group that went before their end, and that end is still ahead.
    pub fn vanished(&self, target: &Target) -> Vec<Rule> {
        let now = self.broker.now();
        let state = self.lock();
        let of = state
            .report
            .vanished
            .iter()
            .filter(|((place, _), (group, _))| place == target.place() && group == target.group());
        let ahead = |rule: &&Rule| rule.ownership().is_some_and(|own| own.live(now).next().is_some());
        of.map(|(_, (_, rule))| rule).filter(ahead).cloned().collect()
    }

    /// The rules of a group that were changed by hand, as they were opened.
    pub fn changed(&self, target: &Target) -> Vec<Rule> {
        let state = self.lock();
        let of = state
            .report
            .changed
            .iter()
            .filter(|((place, _), (group, _))| place == target.place() && group == target.group());
        of.map(|(_, (_, rule))| rule.clone()).collect()
    }

    pub(super) fn report_round(&self, round: &Round) {
        telemetry::record_round(round.standing, round.damaged, round.closed, self.lag());
    }
}

/// Whether some call of ours is about to say that it moved the rule.
fn is_being_moved(rule: &Rule) -> bool {
    rule.ownership().is_some_and(|own| !own.closing.is_empty())
}

/// Whether the leases are the same, so that no move of ours explains the difference.
fn same_leases(one: &Rule, other: &Rule) -> bool {
    let leases = |rule: &Rule| rule.ownership().map(|own| own.leases.clone());
    leases(one).is_some() && leases(one) == leases(other)
}
