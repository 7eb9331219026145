//! Putting a lease on rules that stand, without being lost to somebody who is taking them away.
//!
//! Tags have no compare-and-set. So who holds writes their own tag, then reads back until they see it: a rule that shows
//! it and no mark of closing is held, since whoever has marked it by then, or does later, sees the lease before they act
//! ([`super::close`]). A rule that carries a mark is waited for: it loses the mark, or it goes, and then it is made anew.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::Job;
use super::close::{ANSWER, GRACE};
use super::failure::Failure;
use crate::operation::Opening;
use crate::operation::lease::Lease;
use crate::operation::ownership::{KEYS_MOST, Spent, TAGS_MOST};
use crate::operation::rule::Rule;
use crate::policy::Permit;

/// How writing leases came out.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The rules that carry their lease, as they stand now.
    pub(super) held: Vec<Rule>,
    /// The rules that were gone, as they stood, with the lease that was meant for them.
    pub(super) gone: Vec<(Rule, Lease)>,
}

impl Job<'_> {
    /// Writes each lease on its rule, and says which hold.
    pub(super) async fn hold(&self, permit: &impl Permit, mut wanted: Vec<(Rule, Lease)>) -> Result<Held, Failure> {
        let keyed = self.permit.operation().key().is_some();
        for (rule, lease) in &wanted {
            let known = rule.ownership().is_some_and(|own| own.lease_of(&lease.holder).is_some());
            let keys = Spent::tag_keys_of(&lease.holder);
            let places = rule
                .ownership()
                .map_or(0, |own| own.spent.iter().filter(|spent| spent.tag().0.starts_with(&keys)).count());
            let more = usize::from(!known) + usize::from(keyed && places < KEYS_MOST);
            if more > 0 && rule.tags + more > TAGS_MOST {
                return Err(Failure::HoldersFull(rule.id.clone().unwrap_or_default()));
            }
        }
        let mut result = Held::default();
        let patience = Instant::now() + self.certain() + GRACE;
        loop {
            match self.write_leases(permit, &wanted).await {
                Ok(()) => break,
                // One that went meanwhile fails the call for all: those that are left are written again.
                Err(Failure::Aws(error)) if error.is_gone() && Instant::now() < patience => {
                    tokio::time::sleep(self.pause()).await;
                    let standing = self.session.rules_after_change().await?;
                    let (left, gone) = wanted.into_iter().partition(|(rule, _)| stands(rule, &standing).is_some());
                    wanted = left;
                    result.gone.extend::<Vec<_>>(gone);
                }
                // The read back tells.
                Err(Failure::Aws(error)) if error.may_have_acted() => {
                    self.unsure();
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
        self.read_back(permit, wanted, &mut result).await?;
        Ok(result)
    }

    async fn write_leases(&self, permit: &impl Permit, wanted: &[(Rule, Lease)]) -> Result<(), Failure> {
        let mut by_tags: BTreeMap<Vec<(String, String)>, Vec<&Rule>> = BTreeMap::new();
        for (rule, lease) in wanted {
            let spent = self.spent(lease.until, rule.ownership());
            let tags = std::iter::once(lease.tag()).chain(spent.map(|spent| spent.tag())).collect();
            by_tags.entry(tags).or_default().push(rule);
        }
        for (tags, rules) in by_tags {
            self.session.tag(permit, self.recorded, &rules, &tags).await?;
            self.acted();
        }
        Ok(())
    }

    async fn read_back(
        &self,
        permit: &impl Permit,
        mut wanted: Vec<(Rule, Lease)>,
        result: &mut Held,
    ) -> Result<(), Failure> {
        // Whoever marked a rule acts on it within this time, or never.
        let dead = self.certain() + GRACE + ANSWER * 2;
        let (mut marks, mut since, written) = (BTreeSet::new(), Instant::now(), Instant::now());
        while !wanted.is_empty() {
            let standing = self.session.rules_after_change().await?;
            let mut pending = Vec::new();
            for (rule, lease) in wanted {
                let Some(now) = stands(&rule, &standing) else {
                    let elsewhere = standing.iter().find(|other| other.id == rule.id).and_then(Rule::ownership);
                    let ours = elsewhere.is_some_and(|own| own.lease_of(&lease.holder) == Some(&lease));
                    // A look may be older than the rule, or than its move: only one that shows this lease tells at once.
                    if !ours && written.elapsed() <= self.broker.config.settle {
                        pending.push((rule, lease));
                        continue;
                    }
                    let mover =
                        elsewhere.is_some_and(|own| own.live(self.now()).any(|other| !other.holder.is(&lease.holder)));
                    if ours && mover {
                        // Its holder put it on another address under the lease, which was never meant for that one.
                        let ended = lease.ended(self.now(), self.call()).tag();
                        self.session.tag(permit, self.recorded, &[&rule], &[ended]).await?;
                    }
                    result.gone.push((rule, lease));
                    continue;
                };
                let own = now.ownership();
                // Another call of the same holder may have written over it meanwhile: then that one counts.
                let before = rule.ownership().and_then(|own| own.lease_of(&lease.holder));
                let is = own.and_then(|own| own.lease_of(&lease.holder));
                let shown = is == Some(&lease) || (is.is_some() && is != before);
                for closing in own.into_iter().flat_map(|own| &own.closing) {
                    if marks.insert((now.id.clone(), closing.call.clone())) {
                        since = Instant::now();
                    }
                }
                let marked = own.is_none_or(|own| !own.closing.is_empty());
                let late = since.elapsed() > dead;
                let lost = written.elapsed() > self.certain() + GRACE;
                match (shown, marked) {
                    (true, false) => result.held.push(now.clone()),
                    (true, true) if late => result.held.push(now.clone()),
                    (false, _) if lost => return Err(Failure::Unsettled),
                    _ => pending.push((rule, lease)),
                }
            }
            wanted = pending;
            if !wanted.is_empty() {
                tokio::time::sleep(self.pause()).await;
            }
        }
        Ok(())
    }
}

/// The rule as it stands now: the same id, and still letting in the same.
fn stands<'r>(rule: &Rule, standing: &'r [Rule]) -> Option<&'r Rule> {
    standing.iter().find(|other| other.id == rule.id && Opening::of(other) == Opening::of(rule))
}
