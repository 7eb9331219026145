//! `whitelist_extend`: move the end of the caller's leases, counted from now.

use jiff::{SignedDuration, Timestamp};

use super::failure::Failure;
use super::{Answer, Item, Job, Word};
use crate::operation::lease::{Holder, Lease};
use crate::operation::rule::Rule;
use crate::operation::{Extend, Opening};
use crate::policy::{Change, Denial, LookPermit, Pending, RulesPermit};

/// The leases that an extension is about, each as it is to be.
pub(super) struct Extension {
    pub(super) permit: Pending<RulesPermit>,
    pub(super) leases: Vec<(Rule, Lease)>,
}

impl Extension {
    /// Decides what may be extended, and to when.
    pub(super) fn decide(
        look: &LookPermit,
        holder: &Holder,
        extend: &Extend,
        standing: &[Rule],
        done: &[Option<String>],
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let operation = look.operation();
        let (mut changes, mut leases) = (Vec::new(), Vec::new());
        for rule in standing.iter().filter(|rule| extend.selector.matches(rule)) {
            let own = rule.ownership().and_then(|own| own.lease_of(holder));
            let Some(mine) = own.filter(|mine| mine.is_live(now) && !done.contains(&rule.id)) else { continue };
            let Some(opening) = Opening::of(rule) else { continue };
            let term = match extend.term.is_unsaid() {
                true => extend.term.clone().or(look.policy().default_for(look, opening)?),
                false => extend.term.clone(),
            };
            let end = term.end(operation.received()).ok_or(Failure::Unsettled)?;
            let length = term.length(operation.received()).unwrap_or(SignedDuration::MAX);
            let lease = mine.until(end, operation.call().as_str());
            let lease = extend.reason.as_ref().map_or_else(|| lease.clone(), |reason| lease.because(reason));
            changes.push(Change { rule: rule.clone(), callers_own: true, opening: Some((opening, length)) });
            leases.push((rule.clone(), lease));
        }
        if changes.is_empty() && done.is_empty() {
            return Err(Failure::NothingHeld);
        }
        let permit = look.policy().change(look, changes, standing)?;
        all_or_nothing(permit).map(|permit| Self { permit, leases }).map_err(Failure::Denied)
    }
}

/// One that is refused refuses all: nothing is half done in one group.
pub(super) fn all_or_nothing(permit: Pending<RulesPermit>) -> Result<Pending<RulesPermit>, Denial> {
    if permit.kept().is_empty() {
        return Ok(permit);
    }
    let name = |rule: &Rule| rule.id.clone().unwrap_or_default();
    Err(Denial::Several(permit.into_kept().into_iter().map(|(rule, denial)| (name(&rule), denial)).collect()))
}

impl Job<'_> {
    pub(super) async fn extend(&self, extend: &Extend, standing: Vec<Rule>) -> Result<Answer, Failure> {
        // What was done under the same key is done; the rest goes on.
        let replayed = self.replayed(&standing)?;
        let done: Vec<Option<String>> = replayed.iter().map(|(rule, _)| rule.id.clone()).collect();
        let mut items: Vec<Item> = replayed
            .into_iter()
            .map(|(rule, spent)| Item { word: Word::Extended, rule: rule.clone(), until: Some(spent.until) })
            .collect();
        let extension = Extension::decide(self.permit, &self.holder, extend, &standing, &done, self.now())?;
        self.recorded.entry().decided(extension.permit.policies());
        let permit = self.released(extension.permit, &standing).await?;
        let held = self.hold(&permit, extension.leases).await?;
        items.extend(held.held.into_iter().map(|rule| self.extended(rule)));
        // A rule that went while its lease was extended is made anew: its holder was told that it stays.
        for (rule, lease) in held.gone {
            let Some(opening) = Opening::of(&rule) else { continue };
            items.push(self.extended(self.make(&permit, opening, &lease).await?));
        }
        Ok(Answer::Changed { items, kept: Vec::new(), plan: None })
    }

    fn extended(&self, rule: Rule) -> Item {
        let until = rule.ownership().and_then(|own| own.lease_of(&self.holder)).map(|lease| lease.until);
        Item { word: Word::Extended, rule, until }
    }
}
