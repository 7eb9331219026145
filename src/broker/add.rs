//! `whitelist_add`: make what does not stand, join what stands for others, leave alone what is not ours.

use jiff::Timestamp;
use tokio::time::Instant;

use super::close::GRACE;
use super::failure::Failure;
use super::{Answer, Item, Job, Word};
use crate::aws::Authorized;
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::{Made, Ownership, Spent};
use crate::operation::rule::{Rule, Source, Traffic};
use crate::operation::term::TermError;
use crate::operation::{Add, Opening, Operation};
use crate::policy::{AddPermit, Denial};

/// What is to be done for one opening.
pub(super) enum Step {
    /// Nothing stands there.
    Open,
    /// A rule stands for others.
    Join(Rule),
    /// Nothing is to be done.
    Done(Item),
}

impl Job<'_> {
    pub(super) async fn add(&self, add: &Add, mut standing: Vec<Rule>) -> Result<Answer, Failure> {
        let allowed = self.permit.policy().add(self.permit, &standing)?;
        self.recorded.entry().decided(allowed.policies());
        let lease = new_lease(self.permit.operation(), &self.holder, add)?;
        if let Some(answer) = self.nothing_to_do(add, &lease, &standing)? {
            return Ok(answer);
        }
        // Before anybody's word is asked for or spent: it would be given for nothing.
        self.take_room(&add.openings, &lease, &standing).await?;
        let allowed = self.released(allowed, &standing).await?;
        let mut items = self.done_before(add, &standing)?;
        let patience = Instant::now() + self.certain() * 2 + GRACE;
        loop {
            let open: Vec<Opening> =
                add.openings.iter().copied().filter(|opening| !items.iter().any(|(done, _)| done == opening)).collect();
            if open.is_empty() {
                break;
            }
            let (mut make, mut join) = (Vec::new(), Vec::new());
            for opening in open {
                match step(opening, &lease, &standing, self.now())? {
                    Step::Open => make.push(opening),
                    Step::Join(rule) => join.push((rule, lease.clone())),
                    Step::Done(item) => items.push((opening, item)),
                }
            }
            if !make.is_empty() {
                let ownership = Ownership::new(lease.clone(), self.spent(lease.until, None));
                let made = self.open(&allowed, &make, &ownership).await?;
                items.extend(made.into_iter().filter_map(|rule| {
                    Some((Opening::of(&rule)?, Item { word: Word::Opened, rule, until: Some(lease.until) }))
                }));
            }
            if !join.is_empty() {
                let held = self.hold(&allowed, join).await?;
                items.extend(held.held.into_iter().filter_map(|rule| {
                    let until = rule.ownership()?.lease_of(&self.holder)?.until;
                    Some((Opening::of(&rule)?, Item { word: Word::Joined, rule, until: Some(until) }))
                }));
            }
            if add.openings.iter().any(|opening| !items.iter().any(|(done, _)| done == opening)) {
                if Instant::now() > patience {
                    return Err(Failure::Unsettled);
                }
                // AWS may take a moment to show what somebody else was faster with.
                tokio::time::sleep(self.pause()).await;
                standing = self.session.rules_after_change().await?;
            }
        }
        // In the order in which they were asked for.
        let mut answer = Vec::with_capacity(add.openings.len());
        for opening in &add.openings {
            let item = items.iter().find(|(done, _)| done == opening).ok_or(Failure::Unsettled)?;
            answer.push(item.1.clone());
        }
        Ok(Answer::Changed { items: answer, kept: Vec::new(), plan: None })
    }

    /// What was carried out under this request's key before.
    fn done_before(&self, add: &Add, standing: &[Rule]) -> Result<Vec<(Opening, Item)>, Failure> {
        let first = |(rule, spent): (&Rule, &Spent)| {
            let word = if rule.ownership()?.call == spent.call { Word::Opened } else { Word::Joined };
            let opening = match add.openings.as_slice() {
                // It may have been moved since: it is the one that was asked for all the same.
                [only] => *only,
                _ => Opening::of(rule)?,
            };
            Some((opening, Item { word, rule: rule.clone(), until: Some(spent.until) }))
        };
        Ok(self.replayed(standing)?.into_iter().filter_map(first).collect())
    }

    /// The answer where everything that is asked for stands already, or was done: nobody's word is needed for that.
    fn nothing_to_do(&self, add: &Add, lease: &Lease, standing: &[Rule]) -> Result<Option<Answer>, Failure> {
        let before = self.done_before(add, standing)?;
        let mut items = Vec::with_capacity(add.openings.len());
        for &opening in &add.openings {
            if let Some((_, item)) = before.iter().find(|(done, _)| *done == opening) {
                items.push(item.clone());
                continue;
            }
            match step(opening, lease, standing, self.now())? {
                Step::Done(item) => items.push(item),
                Step::Open | Step::Join(_) => return Ok(None),
            }
        }
        Ok(Some(Answer::Changed { items, kept: Vec::new(), plan: None }))
    }

    /// Makes rules, all or none, and says how they stand; none if somebody else was faster with one of them.
    pub(super) async fn open(
        &self,
        allowed: &AddPermit,
        openings: &[Opening],
        ownership: &Ownership,
    ) -> Result<Vec<Rule>, Failure> {
        let ownership = &ownership.clone().recorded_in(self.broker.audit.journal_id());
        let made = match self.session.authorize(allowed, self.recorded, openings, ownership).await {
            Ok(Authorized::Made(rules)) => {
                self.acted();
                rules
            }
            Ok(Authorized::Duplicate) => return Ok(Vec::new()),
            // Our request may have gone through and only its answer been lost: the call on the rules tells.
            Err(error) if error.may_have_acted() => match self.session.rules_after_change().await {
                Ok(rules) => {
                    let made = ours(rules, openings, ownership);
                    if made.len() < openings.len() {
                        return Err(error.into());
                    }
                    self.acted();
                    return Ok(made);
                }
                Err(_) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        };
        let whole = openings.iter().all(|opening| made.iter().any(|rule| opening.is(rule)));
        if whole { Ok(made) } else { Ok(ours(self.session.rules_after_change().await?, openings, ownership)) }
    }
}

/// The lease that the caller asks for.
pub(super) fn new_lease(operation: &Operation, holder: &Holder, add: &Add) -> Result<Lease, Failure> {
    let received = operation.received();
    // INVARIANT: policy has set a term where the caller said none.
    let end = add.term.end(received).ok_or(Failure::Denied(Denial::Unsaid(TermError::Unsaid)))?;
    Ok(Lease::new(holder.clone(), &add.reason, received, end, operation.call().as_str()))
}

/// What is to be done for an opening, given what stands.
pub(super) fn step(opening: Opening, lease: &Lease, standing: &[Rule], now: Timestamp) -> Result<Step, Failure> {
    let Some(rule) = standing.iter().find(|rule| opening.is(rule)) else { return Ok(Step::Open) };
    let done = |word, until| Step::Done(Item { word, rule: rule.clone(), until });
    let own = match &rule.made {
        Made::Elsewhere => return Ok(done(Word::AlreadyOpen, None)),
        Made::Damaged(how) => return Err(Denial::Damaged(how.clone()).into()),
        Made::Here(own) => own,
    };
    // An answer that was lost: the rule is this very call's.
    if own.call == lease.call {
        return Ok(done(Word::Opened, Some(lease.until)));
    }
    match own.lease_of(&lease.holder).filter(|own| own.is_live(now)) {
        // Written by this very call, which did not see it at first.
        Some(mine) if own.closing.is_empty() && mine.call == lease.call => Ok(done(Word::Joined, Some(mine.until))),
        Some(mine) if own.closing.is_empty() => Ok(done(Word::AlreadyYours, Some(mine.until))),
        _ => Ok(Step::Join(rule.clone())),
    }
}

/// The rules that this call made.
fn ours(rules: Vec<Rule>, openings: &[Opening], ownership: &Ownership) -> Vec<Rule> {
    let made = |rule: &Rule| rule.ownership().is_some_and(|own| own.call == ownership.call);
    rules.into_iter().filter(|rule| made(rule) && openings.iter().any(|opening| opening.is(rule))).collect()
}

/// A rule as it would stand.
pub(super) fn planned(opening: Opening, ownership: Ownership) -> Rule {
    Rule {
        id: None,
        source: Source::Block(opening.block),
        traffic: Traffic::Ports(opening.ports),
        description: ownership.description(),
        tags: ownership.tags().len(),
        made: Made::Here(ownership),
    }
}
