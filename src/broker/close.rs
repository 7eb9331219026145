//! Taking rules away without losing a holder who joins meanwhile.
//!
//! A rule that nobody holds any more is first marked as closing. Then AWS is given time until every read shows what was
//! written before, the rule is read again, and only if still nobody holds it is it revoked, at once. Who joins writes
//! their lease and reads back ([`super::hold`]): either they see the mark and wait, or the one who closes sees the lease
//! and takes the mark off.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Job;
use super::failure::Failure;
use crate::operation::ownership::Closing;
use crate::operation::rule::Rule;
use crate::policy::Permit;

/// How long after the read that decides it a rule may still be revoked. Whoever comes later reads again. A mark that has
/// stood for the settling time and longer than this will not be acted on.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How often a rule that keeps changing is looked at again.
const ROUNDS_MOST: usize = 6;

/// What became of a rule that nobody held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is gone.
    Gone,
    /// Somebody holds it after all.
    Held,
}

impl Job<'_> {
    /// Sees rules whose leases were ended to their end: those that nobody holds go, the others stand. `marked` says
    /// which of them were marked as closing just now.
    pub(super) async fn close(
        &self,
        permit: &impl Permit,
        rules: Vec<Rule>,
        marked: Instant,
    ) -> Result<Vec<(Rule, Fate)>, Failure> {
        let mark = |rule: &Rule| {
            let own = rule.ownership().and_then(|own| own.closing.as_ref());
            own.is_some_and(|closing| closing.call == self.call())
        };
        let mut marks: HashMap<Option<String>, Instant> =
            rules.iter().filter(|rule| mark(rule)).map(|rule| (rule.id.clone(), marked)).collect();
        let (mut open, mut fates) = (rules, Vec::new());
        for _ in 0..ROUNDS_MOST {
            self.settled(&marks).await;
            let read = Instant::now();
            let standing = self.session.rules_after_change().await?;
            let (mut ready, mut unheld) = (Vec::new(), Vec::new());
            for rule in std::mem::take(&mut open) {
                let Some(now) = standing.iter().find(|other| other.id == rule.id) else {
                    fates.push((rule, Fate::Gone));
                    continue;
                };
                let Some(own) = now.ownership() else {
                    fates.push((now.clone(), Fate::Held));
                    continue;
                };
                if own.live(self.now()).next().is_some() {
                    self.take_mark_off(permit, now).await;
                    fates.push((now.clone(), Fate::Held));
                } else if marks.contains_key(&now.id) && own.closing.is_some() {
                    ready.push(now.clone());
                } else {
                    unheld.push(now.clone());
                }
            }
            if ready.is_empty() && unheld.is_empty() {
                return Ok(fates);
            }
            if !unheld.is_empty() {
                self.mark(permit, &unheld).await?;
                marks.extend(unheld.iter().map(|rule| (rule.id.clone(), Instant::now())));
                open.extend(unheld);
            }
            if !ready.is_empty() {
                match self.revoke(permit, &ready, read).await {
                    Ok(true) => fates.extend(ready.into_iter().map(|rule| (rule, Fate::Gone))),
                    Ok(false) => open.extend(ready),
                    Err(failure) => return Err(failure),
                }
            }
            if open.is_empty() {
                return Ok(fates);
            }
        }
        Err(Failure::Unsettled)
    }

    /// Marks rules as about to go.
    pub(super) async fn mark(&self, permit: &impl Permit, rules: &[Rule]) -> Result<(), Failure> {
        let mark = Closing::new(self.call(), self.now()).tag();
        match self.session.tag(permit, self.recorded, &rules.iter().collect::<Vec<_>>(), &[mark]).await {
            Ok(()) => self.acted(),
            // The next look tells which of them are left.
            Err(error) if error.is_gone() || error.may_have_acted() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes this call's mark off a rule that somebody holds. If it cannot be taken off now, the reconciler does it.
    pub(super) async fn take_mark_off(&self, permit: &impl Permit, rule: &Rule) {
        let closing = rule.ownership().and_then(|own| own.closing.as_ref());
        let Some(closing) = closing.filter(|closing| closing.call == self.call()) else { return };
        if let Err(error) = self.session.untag(permit, self.recorded, rule, &[closing.tag()]).await {
            tracing::warn!(rule = rule.id, error = %crate::error::Chain(&error), "a mark of closing stays for now");
        }
    }

    /// Revokes rules that the look at `read` showed to be nobody's; false if what stands must be looked at again.
    async fn revoke(&self, permit: &impl Permit, rules: &[Rule], read: Instant) -> Result<bool, Failure> {
        if read.elapsed() > GRACE {
            return Ok(false);
        }
        for rule in rules {
            self.broker.took_away(rule);
        }
        match self.session.revoke(permit, self.recorded, &rules.iter().collect::<Vec<_>>()).await {
            Ok(()) => {
                self.acted();
                Ok(true)
            }
            Err(error) if error.is_gone() => Ok(false),
            Err(error) if error.may_have_acted() => {
                let left = self.session.rules_after_change().await?;
                if rules.iter().any(|rule| left.iter().any(|other| other.id == rule.id)) {
                    return Err(error.into());
                }
                self.acted();
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the youngest mark is old enough that every read shows what was written before it.
    async fn settled(&self, marks: &HashMap<Option<String>, Instant>) {
        if let Some(youngest) = marks.values().max() {
            tokio::time::sleep_until(*youngest + self.broker.config.settle).await;
        }
    }
}
