//! `whitelist_remove` and each part of `whitelist_revoke_holder`: end leases, and close what nobody holds any more.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;

use super::close::Fate;
use super::failure::Failure;
use super::{Answer, Item, Job, Word};
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::{Closing, Made};
use crate::operation::rule::Rule;
use crate::operation::{Remove, Tool, Whose};
use crate::policy::{Change, Denial, LookPermit, Permit, Policy, RulesPermit};

/// The rules that a removal is about, and the leases that it ends on each.
pub(super) struct Endings {
    pub(super) permit: RulesPermit,
    leases: Vec<(Option<String>, Vec<Lease>)>,
}

impl Endings {
    /// Decides what a removal may end.
    pub(super) fn decide(
        policy: &Policy,
        look: &LookPermit,
        holder: &Holder,
        remove: &Remove,
        standing: &[Rule],
        now: Timestamp,
    ) -> Result<Self, Denial> {
        let leaver = look.operation().tool() == Tool::RevokeHolder;
        let (mut changes, mut leases) = (Vec::new(), Vec::new());
        for rule in standing.iter().filter(|rule| remove.selector.matches(rule)) {
            let ending = match &rule.made {
                Made::Here(own) => {
                    let live: Vec<Lease> = own.live(now).cloned().collect();
                    match &remove.whose {
                        Whose::Named(name) => live.into_iter().filter(|lease| lease.holder.is_called(name)).collect(),
                        Whose::Own if live.iter().any(|lease| lease.holder.is(holder)) => {
                            live.into_iter().filter(|lease| lease.holder.is(holder)).collect()
                        }
                        Whose::Own | Whose::Everyone => live,
                    }
                }
                Made::Elsewhere | Made::Damaged(_) => Vec::new(),
            };
            let named = matches!(remove.whose, Whose::Named(_));
            if ending.is_empty() && (named || leaver) {
                continue;
            }
            // A rule whose leases have all ended is on its way out: who held it may hurry it.
            let held = rule.ownership().is_some_and(|own| own.lease_of(holder).is_some());
            let callers_own = if ending.is_empty() { held } else { ending.iter().all(|lease| lease.holder.is(holder)) };
            changes.push(Change { rule: rule.clone(), callers_own, opening: None });
            leases.push((rule.id.clone(), ending));
        }
        Ok(Self { permit: policy.change(look, changes, standing)?, leases })
    }

    /// The leases that end on a rule.
    fn of(&self, rule: &Rule) -> &[Lease] {
        self.leases.iter().find(|(id, _)| *id == rule.id).map(|(_, leases)| leases.as_slice()).unwrap_or_default()
    }

    /// Whether nobody would hold the rule any more.
    pub(super) fn is_last(&self, rule: &Rule, now: Timestamp) -> bool {
        let ending = self.of(rule);
        let stays = |lease: &Lease| !ending.iter().any(|other| other.holder.is(&lease.holder));
        rule.ownership().is_some_and(|own| !own.live(now).any(stays))
    }

    /// The rules that are meant and stand untouched.
    pub(super) fn kept(&self) -> Vec<(Rule, String)> {
        self.permit.kept().iter().map(|(rule, denial)| (rule.clone(), denial.to_string())).collect()
    }
}

impl Job<'_> {
    pub(super) async fn remove(&self, remove: &Remove, standing: Vec<Rule>) -> Result<Answer, Failure> {
        let now = self.now();
        let endings = Endings::decide(&self.broker.policy, self.permit, &self.holder, remove, &standing, now)?;
        self.recorded.entry().decided(endings.permit.policies());
        let permit = &endings.permit;
        let ending = permit.rules().iter().map(|rule| (rule.clone(), endings.of(rule).to_vec())).collect();
        let fates = self.end(permit, ending, |rule| endings.is_last(rule, now)).await?;
        let item = |(rule, fate)| match fate {
            Fate::Gone => Item { word: Word::Removed, rule, until: None },
            Fate::Held => Item { word: Word::Left, rule, until: None },
        };
        Ok(Answer::Changed { items: fates.into_iter().map(item).collect(), kept: endings.kept(), plan: None })
    }

    /// Ends leases on rules, and sees each rule to its end.
    pub(super) async fn end(
        &self,
        permit: &impl Permit,
        mut ending: Vec<(Rule, Vec<Lease>)>,
        is_last: impl Fn(&Rule) -> bool,
    ) -> Result<Vec<(Rule, Fate)>, Failure> {
        let mut fates = Vec::new();
        let closing = Closing::new(self.call(), self.now());
        for _ in 0..3 {
            match self.write_endings(permit, &ending, &closing, &is_last).await {
                Ok(()) => break,
                // One that went meanwhile fails the call for all: those that are left are written again.
                Err(Failure::Aws(error)) if error.is_gone() => {
                    let standing = self.session.rules_after_change().await?;
                    let left = |rule: &Rule| standing.iter().any(|other| other.id == rule.id);
                    fates.extend(ending.extract_if(.., |(rule, _)| !left(rule)).map(|(rule, _)| (rule, Fate::Gone)));
                }
                // The next look tells.
                Err(Failure::Aws(error)) if error.may_have_acted() => break,
                Err(failure) => return Err(failure),
            }
        }
        let marked = |(rule, _): (Rule, Vec<Lease>)| {
            let last = is_last(&rule);
            match (last, rule.made) {
                (true, Made::Here(mut own)) => {
                    own.closing = Some(closing.clone());
                    Rule { made: Made::Here(own), ..rule }
                }
                (_, made) => Rule { made, ..rule },
            }
        };
        let rules: Vec<Rule> = ending.into_iter().map(marked).collect();
        if !rules.is_empty() {
            fates.extend(self.close(permit, rules, Instant::now()).await?);
        }
        Ok(fates)
    }

    async fn write_endings(
        &self,
        permit: &impl Permit,
        ending: &[(Rule, Vec<Lease>)],
        closing: &Closing,
        is_last: &impl Fn(&Rule) -> bool,
    ) -> Result<(), Failure> {
        let now = self.now();
        let mut by_tags: BTreeMap<Vec<(String, String)>, Vec<&Rule>> = BTreeMap::new();
        for (rule, leases) in ending {
            let mut tags: Vec<_> = leases.iter().map(|lease| lease.ended(now, self.call()).tag()).collect();
            tags.extend(is_last(rule).then(|| closing.tag()));
            by_tags.entry(tags).or_default().push(rule);
        }
        for (tags, rules) in by_tags.into_iter().filter(|(tags, _)| !tags.is_empty()) {
            self.session.tag(permit, self.recorded, &rules, &tags).await?;
            self.acted();
        }
        Ok(())
    }
}
