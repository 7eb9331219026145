//! `whitelist_move`: put the caller's leases on another address, without a gap and with the same end.
//!
//! A rule that the caller alone holds is changed in place: it keeps its id and its tags. That takes the old address away
//! from whoever joins meanwhile, so the rule is marked as closing first, as when it is taken away. A rule that others
//! hold too stays for them, and the caller gets one of their own; so does who moves from IPv4 to IPv6, since a rule
//! cannot change its family (EC2 API reference, `SecurityGroupRuleRequest`).

use jiff::Timestamp;
use tokio::time::Instant;

use super::extend::all_or_nothing;
use super::failure::Failure;
use super::{Answer, Item, Job, Word};
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::{Closing, Made, Ownership};
use crate::operation::rule::Rule;
use crate::operation::{Move, Opening};
use crate::policy::{Change, Denial, LookPermit, Policy, RulesPermit};

/// The leases that a move is about.
pub(super) struct Relocation {
    pub(super) permit: RulesPermit,
    pub(super) moves: Vec<Step>,
}

/// One lease to move.
pub(super) struct Step {
    /// The rule it is on.
    pub(super) rule: Rule,
    /// The lease.
    pub(super) lease: Lease,
    /// Where it is to go.
    pub(super) to: Opening,
}

/// How a lease gets to its new address.
pub(super) enum Way {
    /// It is there already.
    Stay,
    /// A rule that is not ours lets the new address in.
    Foreign(Rule),
    /// A rule of ours stands there: join it.
    Join(Rule),
    /// The caller alone holds the rule: change it in place.
    InPlace,
    /// A rule of its own is made.
    Split,
}

impl Relocation {
    /// Decides what may be moved.
    pub(super) fn decide(
        policy: &Policy,
        look: &LookPermit,
        holder: &Holder,
        relocate: &Move,
        standing: &[Rule],
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let (mut changes, mut moves) = (Vec::new(), Vec::new());
        let mine =
            |rule: &Rule| rule.ownership().and_then(|own| own.lease_of(holder)).filter(|own| own.is_live(now)).cloned();
        for rule in standing.iter().filter(|rule| relocate.selector.matches(rule)) {
            let (Some(lease), Some(opening)) = (mine(rule), Opening::of(rule)) else { continue };
            let icmp = opening.ports.protocol().is_icmp() && relocate.to.is_ipv6() != opening.block.is_ipv6();
            if icmp {
                let (protocol, block) = (opening.ports.protocol(), relocate.to);
                let family = if block.is_ipv6() { "IPv4" } else { "IPv6" };
                let error = crate::operation::OperationError::Family { protocol, family, block };
                return Err(Failure::Wrong(error.into()));
            }
            let to = Opening { block: relocate.to, ..opening };
            let length = lease.until.duration_since(now);
            changes.push(Change { rule: rule.clone(), callers_own: true, opening: Some((to, length)) });
            moves.push(Step { rule: rule.clone(), lease, to });
        }
        if moves.is_empty() {
            return Err(Failure::NothingHeld);
        }
        // What is there already does not make the others ambiguous.
        let mut from: Vec<String> =
            moves.iter().filter(|step| !step.to.is(&step.rule)).map(|step| step.rule.source.to_string()).collect();
        from.sort();
        from.dedup();
        if from.len() > 1 && relocate.selector.blocks.is_empty() {
            return Err(Failure::Ambiguous(from));
        }
        let permit = all_or_nothing(policy.change(look, changes, standing)?)?;
        Ok(Self { permit, moves })
    }
}

impl Step {
    /// How it gets there, given what stands.
    pub(super) fn way(&self, standing: &[Rule], now: Timestamp) -> Result<Way, Failure> {
        if self.to.is(&self.rule) {
            return Ok(Way::Stay);
        }
        if let Some(there) = standing.iter().find(|rule| self.to.is(rule)) {
            return match &there.made {
                Made::Elsewhere => Ok(Way::Foreign(there.clone())),
                Made::Damaged(how) => Err(Denial::Damaged(how.clone()).into()),
                Made::Here(_) => Ok(Way::Join(there.clone())),
            };
        }
        let alone =
            self.rule.ownership().is_some_and(|own| own.live(now).all(|lease| lease.holder.is(&self.lease.holder)));
        let family = self.rule.source.block().is_some_and(|block| block.is_ipv6() == self.to.block.is_ipv6());
        Ok(if alone && family { Way::InPlace } else { Way::Split })
    }
}

impl Job<'_> {
    pub(super) async fn relocate(&self, relocate: &Move, mut standing: Vec<Rule>) -> Result<Answer, Failure> {
        let replayed = self.replayed(&standing)?;
        if !replayed.is_empty() {
            let item = |rule: &Rule, until| Item { word: Word::Moved, rule: rule.clone(), until: Some(until) };
            let items = replayed.into_iter().map(|(rule, spent)| item(rule, spent.until)).collect();
            return Ok(Answer::Changed { items, kept: Vec::new(), plan: None });
        }
        let Relocation { permit, moves } =
            Relocation::decide(&self.broker.policy, self.permit, &self.holder, relocate, &standing, self.now())?;
        self.recorded.entry().decided(permit.policies());
        let mut items = Vec::with_capacity(moves.len());
        for step in moves {
            items.push(self.relocate_one(&permit, step, &standing).await?);
            standing = self.session.rules_after_change().await?;
        }
        Ok(Answer::Changed { items, kept: Vec::new(), plan: None })
    }

    async fn relocate_one(&self, permit: &RulesPermit, step: Step, standing: &[Rule]) -> Result<Item, Failure> {
        let moved = |rule: Rule, until| Item { word: Word::Moved, rule, until: Some(until) };
        match step.way(standing, self.now())? {
            Way::Stay => Ok(Item { word: Word::AlreadyYours, until: Some(step.lease.until), rule: step.rule }),
            Way::Foreign(rule) => Ok(Item { word: Word::AlreadyOpen, rule, until: None }),
            Way::Join(there) => {
                let known = there.ownership().and_then(|own| own.lease_of(&self.holder));
                let until = known.map_or(step.lease.until, |known| known.until.max(step.lease.until));
                let lease = step.lease.until(until, self.call());
                let spent = self.spent(until);
                let held = self.hold(&permit.to_open(), vec![(there, lease.clone())], spent.as_ref()).await?;
                let rule = match held.held.into_iter().next() {
                    Some(rule) => rule,
                    None => self.make(permit, step.to, &lease).await?,
                };
                self.leave(permit, step).await?;
                Ok(moved(rule, until))
            }
            Way::Split => {
                let lease = step.lease.until(step.lease.until, self.call());
                let rule = self.make(permit, step.to, &lease).await?;
                self.leave(permit, step).await?;
                Ok(moved(rule, lease.until))
            }
            Way::InPlace => match self.modify(permit, &step).await? {
                Some(rule) => Ok(moved(rule, step.lease.until)),
                // Somebody joined, or stands at the new address now: a rule of its own after all.
                None => {
                    let lease = step.lease.until(step.lease.until, self.call());
                    let rule = self.make(permit, step.to, &lease).await?;
                    self.leave(permit, step).await?;
                    Ok(moved(rule, lease.until))
                }
            },
        }
    }

    /// Makes the rule at the new address.
    async fn make(&self, permit: &RulesPermit, to: Opening, lease: &Lease) -> Result<Rule, Failure> {
        let ownership = Ownership::new(lease.clone(), self.spent(lease.until));
        let made = self.open(&permit.to_open(), &[to], &ownership).await?;
        if let Some(rule) = made.into_iter().next() {
            return Ok(rule);
        }
        // Somebody was faster: join them.
        let standing = self.session.rules_after_change().await?;
        let there = standing.into_iter().find(|rule| to.is(rule) && rule.ownership().is_some());
        let there = there.ok_or(Failure::Unsettled)?;
        let spent = self.spent(lease.until);
        let held = self.hold(&permit.to_open(), vec![(there, lease.clone())], spent.as_ref()).await?;
        held.held.into_iter().next().ok_or(Failure::Unsettled)
    }

    /// Gives up the lease at the old address, and sees the rule to its end if it was the last.
    async fn leave(&self, permit: &RulesPermit, step: Step) -> Result<(), Failure> {
        let now = self.now();
        let last = |rule: &Rule| {
            let others = |lease: &Lease| !lease.holder.is(&self.holder);
            rule.ownership().is_some_and(|own| !own.live(now).any(others))
        };
        self.end(permit, vec![(step.rule, vec![step.lease])], last).await.map(drop)
    }

    /// Changes the rule in place, if the caller still holds it alone once that is certain; none otherwise.
    async fn modify(&self, permit: &RulesPermit, step: &Step) -> Result<Option<Rule>, Failure> {
        self.mark(permit, std::slice::from_ref(&step.rule)).await?;
        tokio::time::sleep(self.broker.config.settle).await;
        let read = Instant::now();
        let Some(now) = self.session.rules_after_change().await?.into_iter().find(|rule| rule.id == step.rule.id)
        else {
            return Ok(None);
        };
        let own = now.ownership().ok_or(Failure::Unsettled)?;
        let alone = own.live(self.now()).all(|lease| lease.holder.is(&self.holder));
        let marked = own.closing.as_ref().is_some_and(|closing| closing.call == self.call());
        if !alone || !marked || read.elapsed() > super::close::GRACE {
            self.take_mark_off(permit, &now).await;
            return Ok(None);
        }
        match self.session.modify(permit, self.recorded, &now, step.to).await {
            Ok(()) => self.acted(),
            Err(error) if error.code() == Some("InvalidPermission.Duplicate") => {
                self.take_mark_off(permit, &now).await;
                return Ok(None);
            }
            Err(error) if error.may_have_acted() => {
                let after = self.session.rule(now.id.as_deref().unwrap_or_default()).await?;
                if !after.as_ref().is_some_and(|rule| step.to.is(rule)) {
                    self.take_mark_off(permit, &now).await;
                    return Err(error.into());
                }
                self.acted();
            }
            Err(error) => {
                self.take_mark_off(permit, &now).await;
                return Err(error.into());
            }
        }
        let lease = step.lease.until(step.lease.until, self.call());
        let tags: Vec<_> =
            std::iter::once(lease.tag()).chain(self.spent(lease.until).map(|spent| spent.tag())).collect();
        self.session.tag(permit, self.recorded, &[&now], &tags).await?;
        let mark = own.closing.as_ref().map(Closing::tag);
        self.take_mark_off(permit, &now).await;
        let id = now.id.clone().unwrap_or_default();
        // AWS may take a moment to show it.
        for _ in 0..5 {
            let shown = self.session.rule(&id).await?.filter(|rule| step.to.is(rule));
            if let Some(rule) = shown {
                let settled = rule.ownership().and_then(|own| own.closing.as_ref()).map(Closing::tag) != mark;
                if settled {
                    return Ok(Some(rule));
                }
            }
            tokio::time::sleep(self.pause()).await;
        }
        Err(Failure::Unsettled)
    }
}
