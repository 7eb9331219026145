//! `whitelist_remove` and each part of `whitelist_revoke_holder`: end leases, and close what nobody holds any more.

use super::close::{Ending, Fate, no_room};
use super::failure::Failure;
use super::{Answer, Item, Job, Word};
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::Made;
use crate::operation::rule::Rule;
use crate::operation::{Remove, Whose};
use crate::policy::{Change, Denial, LookPermit, Pending, RulesPermit};
use jiff::Timestamp;

/// The rules that a removal is about, and the leases that it ends on each.
pub(super) struct Endings {
    pub(super) permit: Pending<RulesPermit>,
    leases: Vec<(Option<String>, Vec<Lease>)>,
}

impl Endings {
    /// Decides what a removal may end.
    pub(super) fn decide(
        look: &LookPermit,
        holder: &Holder,
        remove: &Remove,
        standing: &[Rule],
        now: Timestamp,
    ) -> Result<Self, Denial> {
        let (mut changes, mut leases, mut strangers) = (Vec::new(), Vec::new(), Vec::new());
        for rule in standing.iter().filter(|rule| remove.selector.matches(rule)) {
            let ending = match &rule.made {
                Made::Here(own) => {
                    let live: Vec<Lease> = own.live(now).cloned().collect();
                    match &remove.whose {
                        Whose::Named(name) => live.into_iter().filter(|lease| lease.holder.is_called(name)).collect(),
                        Whose::Own => live.into_iter().filter(|lease| lease.holder.is(holder)).collect(),
                        Whose::Everyone => live,
                    }
                }
                Made::Elsewhere | Made::Damaged(_) => Vec::new(),
            };
            if ending.is_empty() && matches!(remove.whose, Whose::Named(_)) {
                continue;
            }
            // A rule whose leases have all ended is on its way out: who held it may hurry it.
            let held = rule.ownership().is_some_and(|own| own.lease_of(holder).is_some());
            let waiting = rule.ownership().is_some_and(|own| own.live(now).next().is_none());
            if ending.is_empty()
                && rule.ownership().is_some()
                && !(waiting && (held || remove.whose == Whose::Everyone))
            {
                strangers.push(rule.clone());
                continue;
            }
            let callers_own = if ending.is_empty() { held } else { ending.iter().all(|lease| lease.holder.is(holder)) };
            changes.push(Change { rule: rule.clone(), callers_own, opening: None });
            leases.push((rule.id.clone(), ending));
        }
        // Rules of ours on which the caller holds nothing are not theirs to end without saying whose.
        let permit = look.policy().change(look, changes, standing)?.keeping(strangers)?;
        Ok(Self { permit, leases })
    }

    /// The leases that end on a rule.
    fn of(&self, rule: &Rule) -> &[Lease] {
        self.leases.iter().find(|(id, _)| *id == rule.id).map(|(_, leases)| leases.as_slice()).unwrap_or_default()
    }

    /// Whether nobody would hold the rule any more.
    pub(super) fn is_last(&self, rule: &Rule, now: Timestamp) -> bool {
        rule.ownership().is_some_and(|own| own.is_last(self.of(rule), now))
    }

    /// The rules that are meant and stand untouched.
    pub(super) fn kept(&self) -> Vec<(Rule, String)> {
        self.permit.kept().iter().map(|(rule, denial)| (rule.clone(), denial.to_string())).collect()
    }
}

impl Job<'_> {
    pub(super) async fn remove(&self, remove: &Remove, standing: Vec<Rule>) -> Result<Answer, Failure> {
        let now = self.now();
        let endings = Endings::decide(self.permit, &self.holder, remove, &standing, now)?;
        self.recorded.entry().decided(endings.permit.policies());
        let kept = endings.kept();
        let ending = |rule: &Rule| Ending { rule: rule.clone(), leases: endings.of(rule).to_vec() };
        let ending: Vec<Ending> = endings.permit.rules().iter().map(ending).collect();
        let permit = self.released(endings.permit, &standing).await?;
        let fates = self.end(&permit, ending).await?;
        no_room(&fates)?;
        let item = |(rule, fate)| match fate {
            Fate::Closed | Fate::GoneAlready => Item { word: Word::Removed, rule, until: None },
            Fate::Held | Fate::Stuck => Item { word: Word::Left, rule, until: None },
        };
        Ok(Answer::Changed { items: fates.into_iter().map(item).collect(), kept, plan: None })
    }
}
