//! `whitelist_move`: put the caller's leases on another address, without a gap and with the same end.
//!
//! A rule that the caller alone holds is changed in place: it keeps its id and its tags. That takes the old address away
//! from whoever joins meanwhile, so the rule is marked as closing first, as when it is taken away. A rule that others
//! hold too stays for them, and the caller gets one of their own; so does who moves from IPv4 to IPv6, since a rule
//! cannot change its family (EC2 API reference, `SecurityGroupRuleRequest`).

use jiff::Timestamp;
use tokio::time::Instant;

use super::close::{Ending, GRACE, no_room};
use super::extend::all_or_nothing;
use super::failure::Failure;
use super::{Answer, Item, Job, Word};
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::{Made, Ownership};
use crate::operation::rule::Rule;
use crate::operation::{Move, Opening};
use crate::policy::{Change, Denial, LookPermit, Pending, RulesPermit};

/// The leases that a move is about.
pub(super) struct Relocation {
    pub(super) permit: Pending<RulesPermit>,
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
        let permit = all_or_nothing(look.policy().change(look, changes, standing)?)?;
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
    pub(super) async fn relocate(&self, relocate: &Move, standing: Vec<Rule>) -> Result<Answer, Failure> {
        // What was done under the same key is done; the rest goes on.
        let replayed = self.replayed(&standing)?;
        let mut items: Vec<Item> = replayed
            .into_iter()
            .map(|(rule, spent)| Item { word: Word::Moved, rule: rule.clone(), until: Some(spent.until) })
            .collect();
        let decided = Relocation::decide(self.permit, &self.holder, relocate, &standing, self.now());
        let Relocation { permit, moves } = match decided {
            Err(Failure::NothingHeld) if !items.is_empty() => {
                return Ok(Answer::Changed { items, kept: Vec::new(), plan: None });
            }
            decided => decided?,
        };
        self.recorded.entry().decided(permit.policies());
        // What is there already needs nobody's word.
        let now = self.now();
        let stays = |step: &Step| Ok::<_, Failure>(matches!(step.way(&standing, now)?, Way::Stay | Way::Foreign(_)));
        let staying = moves.iter().map(stays).collect::<Result<Vec<_>, _>>()?;
        if staying.iter().all(|stays| *stays) {
            for step in moves {
                let item = match step.way(&standing, now)? {
                    Way::Foreign(rule) => Item { word: Word::AlreadyOpen, rule, until: None },
                    _ => Item { word: Word::AlreadyYours, until: Some(step.lease.until), rule: step.rule },
                };
                if !items.iter().any(|done| done.rule.id == item.rule.id) {
                    items.push(item);
                }
            }
            return Ok(Answer::Changed { items, kept: Vec::new(), plan: None });
        }
        let permit = self.released(permit, &standing).await?;
        // Side by side: each waits for AWS to settle.
        let moves = moves.into_iter().map(|step| self.relocate_one(&permit, step, &standing));
        for item in futures_util::future::join_all(moves).await {
            let item = item?;
            if !items.iter().any(|done| done.rule.id == item.rule.id) {
                items.push(item);
            }
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
                let held = self.hold(&permit.to_open(), vec![(there, lease.clone())]).await?;
                let rule = match held.held.into_iter().next() {
                    Some(rule) => rule,
                    None => self.make(permit, step.to, &lease).await?,
                };
                self.leave(permit, step, &rule).await?;
                Ok(moved(rule, until))
            }
            Way::Split => self.split(permit, step).await,
            Way::InPlace => match self.modify(permit, &step).await? {
                Some(rule) => Ok(moved(rule, step.lease.until)),
                // Somebody joined, or stands at the new address now: a rule of its own after all.
                None => self.split(permit, step).await,
            },
        }
    }

    /// Makes a rule at the new address and gives up the lease at the old one; if it is still the caller's by then.
    async fn split(&self, permit: &RulesPermit, step: Step) -> Result<Item, Failure> {
        let standing = self.session.rules_after_change().await?;
        let mine = |rule: &&Rule| {
            let own = rule.ownership().and_then(|own| own.lease_of(&self.holder));
            own.is_some_and(|own| own.is_live(self.now()))
        };
        let item = |rule: Rule, until| Item { word: Word::Moved, rule, until: Some(until) };
        // Another call of the same caller may have moved it meanwhile.
        if let Some(there) = standing.iter().filter(mine).find(|rule| step.to.is(rule) && rule.id == step.rule.id) {
            return Ok(item(there.clone(), step.lease.until));
        }
        let here = standing.iter().filter(mine).find(|rule| rule.id == step.rule.id);
        let lease = here.and_then(|rule| rule.ownership()?.lease_of(&self.holder)).ok_or(Failure::NothingHeld)?;
        let step = Step { rule: here.cloned().ok_or(Failure::NothingHeld)?, lease: lease.clone(), to: step.to };
        let lease = step.lease.until(step.lease.until, self.call());
        let rule = self.make(permit, step.to, &lease).await?;
        self.leave(permit, step, &rule).await?;
        let until = rule.ownership().and_then(|own| own.lease_of(&self.holder)).map_or(lease.until, |own| own.until);
        Ok(item(rule, until))
    }

    /// Makes the rule at the new address, or joins the one that somebody else was faster to make there.
    pub(super) async fn make(&self, permit: &RulesPermit, to: Opening, lease: &Lease) -> Result<Rule, Failure> {
        let patience = Instant::now() + self.certain() * 2 + GRACE;
        while Instant::now() < patience {
            let ownership = Ownership::new(lease.clone(), self.spent(lease.until, None));
            let made = self.open(&permit.to_open(), &[to], &ownership).await?;
            if let Some(rule) = made.into_iter().next() {
                return Ok(rule);
            }
            // Somebody was faster: join them, as soon as AWS shows it.
            let standing = self.session.rules_after_change().await?;
            if let Some(there) = standing.into_iter().find(|rule| to.is(rule) && rule.ownership().is_some()) {
                // Never shorter than what the holder has there already.
                let known = there.ownership().and_then(|own| own.lease_of(&self.holder)).map(|known| known.until);
                let lease = lease.until(known.map_or(lease.until, |known| known.max(lease.until)), self.call());
                let held = self.hold(&permit.to_open(), vec![(there, lease)]).await?;
                if let Some(rule) = held.held.into_iter().next() {
                    return Ok(rule);
                }
            }
            tokio::time::sleep(self.pause()).await;
        }
        Err(Failure::Unsettled)
    }

    /// Gives up the lease at the old address, and sees the rule to its end if it was the last.
    async fn leave(&self, permit: &RulesPermit, step: Step, now_on: &Rule) -> Result<(), Failure> {
        if step.rule.id == now_on.id {
            return Ok(());
        }
        let fates = self.end(permit, vec![Ending { rule: step.rule, leases: vec![step.lease] }]).await?;
        no_room(&fates)
    }

    /// Changes the rule in place, if the caller still holds it alone once that is certain; none otherwise.
    async fn modify(&self, permit: &RulesPermit, step: &Step) -> Result<Option<Rule>, Failure> {
        self.mark(permit, &step.rule).await?;
        tokio::time::sleep(self.certain()).await;
        let read = Instant::now();
        let standing = self.session.rules_after_change().await?;
        let Some(now) = standing.into_iter().find(|rule| rule.id == step.rule.id) else { return Ok(None) };
        let own = now.ownership().ok_or(Failure::Unsettled)?;
        let mine = own.lease_of(&self.holder).filter(|mine| mine.is_live(self.now()));
        let alone = own.live(self.now()).all(|lease| lease.holder.is(&self.holder));
        let others_mark = own.closing.iter().any(|closing| closing.call != self.call());
        let here = Opening::of(&now) == Opening::of(&step.rule) && own.is_marked_by(self.call());
        let Some(mine) = mine.filter(|_| alone && here && !others_mark) else {
            self.take_mark_off(permit, &now).await;
            return Ok(None);
        };
        match self.session.modify(permit, self.recorded, &now, step.to, read + GRACE).await {
            Ok(()) => self.acted(),
            Err(error) if error.code() == Some("InvalidPermission.Duplicate") || error.is_too_late() => {
                self.take_mark_off(permit, &now).await;
                return Ok(None);
            }
            Err(error) if error.may_have_acted() => {
                let after = self.session.rule(now.id.as_deref().unwrap_or_default()).await?;
                if !after.as_ref().is_some_and(|rule| step.to.is(rule)) {
                    // The mark stays: the change may still come.
                    return Err(error.into());
                }
                self.acted();
            }
            Err(error) => {
                self.take_mark_off(permit, &now).await;
                return Err(error.into());
            }
        }
        // Somebody may have ended the lease meanwhile: it is not brought back.
        let after = self.session.rule(now.id.as_deref().unwrap_or_default()).await?;
        let ended = |rule: &Rule| {
            let is = rule.ownership().and_then(|own| own.lease_of(&self.holder));
            is.is_some_and(|is| is != mine && !is.is_live(self.now()))
        };
        if after.as_ref().is_some_and(ended) {
            self.take_mark_off(permit, &now).await;
            return Err(Failure::NothingHeld);
        }
        let lease = mine.until(mine.until, self.call());
        let spent = self.spent(lease.until, Some(own));
        let tags: Vec<_> = std::iter::once(lease.tag()).chain(spent.map(|spent| spent.tag())).collect();
        match self.session.tag(permit, self.recorded, &[&now], &tags).await {
            // The look below tells.
            Err(error) if error.may_have_acted() => self.unsure(),
            Err(error) => return Err(error.into()),
            Ok(()) => {}
        }
        self.take_mark_off(permit, &now).await;
        // AWS may take a moment to show it.
        let patience = Instant::now() + self.certain();
        let id = now.id.clone().unwrap_or_default();
        loop {
            let shown = self.session.rule(&id).await?.filter(|rule| step.to.is(rule));
            let settled = |rule: &Rule| {
                rule.ownership().is_some_and(|own| {
                    !own.is_marked_by(self.call())
                        && own.lease_of(&self.holder).is_some_and(|own| own.call == lease.call)
                })
            };
            match shown {
                Some(rule) if settled(&rule) || Instant::now() > patience => return Ok(Some(rule)),
                None if Instant::now() > patience => return Err(Failure::Unsettled),
                _ => tokio::time::sleep(self.pause()).await,
            }
        }
    }
}
