//! Ending leases, and taking rules away without losing a holder who joins meanwhile.
//!
//! A rule that nobody holds any more is first marked as closing, by a tag of the call's own. Then AWS is given time, the
//! rule is read again, and only if still nobody holds it is it revoked, at once. Who joins writes their lease and reads
//! back ([`super::hold`]): a read that shows the lease and no mark means that the rule is held.
//!
//! Let every read show what was written longer than `settle` before it. A joiner whose read misses a mark made that
//! read, and so wrote the lease, less than one `settle` after the mark; a read two of them after the mark shows the
//! lease. So whoever closes waits twice. What is left open: a read that AWS answers from further back than that, and a
//! process that is stopped between its last look at the clock and the sending of the request.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Job;
use super::failure::Failure;
use crate::operation::lease::Lease;
use crate::operation::ownership::{Closing, Ownership};
use crate::operation::rule::Rule;
use crate::operation::{Opening, Tool};
use crate::policy::Permit;

/// How long after the look that decides it a request to revoke or change a rule may still be sent.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long after that its answer may take: one attempt of a request.
pub(super) const ANSWER: Duration = Duration::from_secs(12);

/// Leases to end on a rule, as they were read; none where they have ended by themselves.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) rule: Rule,
    pub(super) leases: Vec<Lease>,
}

/// What became of a rule on which leases were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// This call took it away.
    Closed,
    /// It was gone when this call came to it.
    GoneAlready,
    /// It stands: somebody holds it.
    Held,
    /// It stands, marked by nobody: its tags leave no room for a mark.
    Stuck,
}

/// A rule that is being seen to its end.
struct Open {
    ending: Ending,
    /// What must be written next: that the leases end, and whether the rule is to be marked.
    write: Option<Write>,
    /// When this call last marked it, and by which tag.
    marked: Option<Instant>,
    mark: Option<(String, String)>,
    /// When this call last wrote anything on it.
    written: Instant,
    /// Whether a request to revoke it was sent and its answer lost.
    sent: bool,
    /// Whether its tags leave no room for a mark.
    stuck: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Endings,
    Mark,
}

/// What a look at a rule means.
enum Seen {
    Gone,
    Held,
    /// The endings do not show yet.
    Unwritten,
    /// It was put on another address meanwhile, and these leases on it are to end all the same.
    Elsewhere(Box<Ending>),
    /// Nobody holds it, and it is not marked.
    Unheld,
    /// Nobody holds it, and nobody can have joined that this look does not show.
    Ready,
    /// The mark is not old enough, or does not show yet.
    Wait,
}

/// Fails if some rule has no room for the mark that it would be taken away by.
pub(super) fn no_room(fates: &[(Rule, Fate)]) -> Result<(), Failure> {
    let stuck = fates.iter().find(|(_, fate)| *fate == Fate::Stuck);
    stuck.map_or(Ok(()), |(rule, _)| Err(Failure::HoldersFull(rule.id.clone().unwrap_or_default())))
}

impl Job<'_> {
    /// How long whoever closes waits between the mark and the look that decides.
    pub(super) fn certain(&self) -> Duration {
        self.broker.config.settle * 2
    }

    /// Ends leases, and sees each rule to its end: those that nobody holds go, the others stand.
    pub(super) async fn end(&self, permit: &impl Permit, endings: Vec<Ending>) -> Result<Vec<(Rule, Fate)>, Failure> {
        let now = self.now();
        let first = |ending: Ending| {
            let last = ending.rule.ownership().is_some_and(|own| own.is_last(&ending.leases, now));
            let write = Some(if last { Write::Mark } else { Write::Endings });
            Open { ending, write, marked: None, mark: None, written: Instant::now(), sent: false, stuck: false }
        };
        let mut open: Vec<Open> = endings.into_iter().map(first).collect();
        let result = self.see_to_the_end(permit, &mut open).await;
        if result.is_err() {
            // What stays open must not stay marked: marks of calls that failed would fill its tags.
            // Unless a request to revoke it may still arrive: then the mark is what warns who joins.
            for (item, mark) in
                open.iter().filter(|item| !item.sent).filter_map(|item| Some((item, item.mark.clone()?)))
            {
                self.untag(permit, &item.ending.rule, &mark).await;
            }
        }
        result
    }

    async fn see_to_the_end(&self, permit: &impl Permit, open: &mut Vec<Open>) -> Result<Vec<(Rule, Fate)>, Failure> {
        let mut fates = Vec::new();
        let (begun, patience) = (Instant::now(), Instant::now() + self.certain() * 4 + GRACE * 2);
        while Instant::now() < patience {
            self.write_endings(permit, open).await?;
            fates.extend(open.extract_if(.., |item| item.stuck).map(|item| (item.ending.rule, Fate::Stuck)));
            match open.iter().filter_map(|open| open.marked).max() {
                Some(youngest) => tokio::time::sleep_until(youngest + self.certain()).await,
                None => tokio::time::sleep(self.pause()).await,
            }
            let read = Instant::now();
            let standing = self.session.rules_after_change().await?;
            let (mut ready, mut left) = (Vec::new(), Vec::new());
            for mut item in std::mem::take(open) {
                let stands = standing.iter().find(|rule| rule.id == item.ending.rule.id);
                match self.seen(&item, stands, begun) {
                    Seen::Gone => {
                        self.broker.took_away(&item.ending.rule);
                        let fate = if item.sent { Fate::Closed } else { Fate::GoneAlready };
                        fates.push((item.ending.rule, fate));
                        continue;
                    }
                    Seen::Held => {
                        let rule = stands.cloned().unwrap_or(item.ending.rule);
                        self.take_mark_off(permit, &rule).await;
                        fates.push((rule, Fate::Held));
                        continue;
                    }
                    Seen::Ready => {
                        ready.push(item);
                        continue;
                    }
                    Seen::Elsewhere(ending) => {
                        item.ending = *ending;
                        item.write = Some(Write::Endings);
                    }
                    Seen::Unheld => item.write = Some(Write::Mark),
                    // What was written and does not show in time was lost.
                    Seen::Unwritten if item.written.elapsed() > self.certain() => {
                        item.write = Some(if item.marked.is_some() { Write::Mark } else { Write::Endings });
                    }
                    Seen::Unwritten | Seen::Wait => {}
                }
                left.push(item);
            }
            *open = left;
            if !ready.is_empty() {
                let gone = match self.revoke(permit, &mut ready, read).await {
                    Ok(gone) => gone,
                    Err(failure) => {
                        open.append(&mut ready);
                        return Err(failure);
                    }
                };
                for item in ready {
                    if gone {
                        self.broker.took_away(&item.ending.rule);
                        fates.push((item.ending.rule, Fate::Closed));
                    } else {
                        open.push(item);
                    }
                }
                if !gone {
                    tokio::time::sleep(self.pause()).await;
                }
            }
            if open.is_empty() {
                return Ok(fates);
            }
        }
        Err(Failure::Unsettled)
    }

    fn seen(&self, item: &Open, stands: Option<&Rule>, begun: Instant) -> Seen {
        let (now, Some(rule)) = (self.now(), stands) else {
            // A rule that is young may not show in every look.
            return if begun.elapsed() > self.broker.config.settle { Seen::Gone } else { Seen::Wait };
        };
        if let (Some(own), true) = (rule.ownership(), Opening::of(rule) != Opening::of(&item.ending.rule)) {
            let held = |lease: &&Lease| item.ending.leases.iter().any(|ending| ending.holder.is(&lease.holder));
            let leases: Vec<Lease> = own.live(now).filter(held).cloned().collect();
            // Whoever moves has given up the old address alone; whoever removes has given up the lease, wherever it is.
            if self.permit.operation().tool() != Tool::Move && !leases.is_empty() {
                return Seen::Elsewhere(Box::new(Ending { rule: rule.clone(), leases }));
            }
        }
        // Somebody has put it on another address, or meddled with it: it is no longer the rule that was meant.
        let Some(own) = rule.ownership().filter(|_| Opening::of(rule) == Opening::of(&item.ending.rule)) else {
            return Seen::Held;
        };
        let unchanged = |lease: &Lease| own.lease_of(&lease.holder).is_some_and(|is| is == lease && is.is_live(now));
        if item.ending.leases.iter().any(unchanged) {
            return Seen::Unwritten;
        }
        if own.live(now).next().is_some() {
            return Seen::Held;
        }
        match item.marked {
            None => Seen::Unheld,
            Some(marked) if marked.elapsed() < self.certain() => Seen::Wait,
            Some(_) if own.is_marked_by(self.call()) => Seen::Ready,
            Some(_) => Seen::Unheld,
        }
    }

    /// Writes on each rule what must be written, in as few calls as there are different sets of tags.
    async fn write_endings(&self, permit: &impl Permit, open: &mut [Open]) -> Result<(), Failure> {
        let (now, mark) = (self.now(), Closing::new(self.call(), self.now()).tag());
        let mut by_tags: BTreeMap<Vec<(String, String)>, Vec<usize>> = BTreeMap::new();
        for (index, item) in open.iter().enumerate() {
            let Some(write) = item.write else { continue };
            let ended = item.ending.leases.iter().map(|lease| lease.ended(now, self.call()).tag());
            let tags: Vec<_> = ended.chain((write == Write::Mark).then(|| mark.clone())).collect();
            by_tags.entry(tags).or_default().push(index);
        }
        for (tags, indices) in by_tags {
            let rules: Vec<&Rule> =
                indices.iter().filter_map(|&index| open.get(index)).map(|item| &item.ending.rule).collect();
            match self.session.tag(permit, self.recorded, &rules, &tags).await {
                Ok(()) => self.acted(),
                // One that went meanwhile fails the call for all. The next look tells which are left, and those that do
                // not show what was written are written again; so it is with an answer that was lost.
                Err(error) if error.is_gone() => {}
                Err(error) if error.may_have_acted() => self.unsure(),
                // One that is full fails the call for all: each by itself, then.
                Err(error) if error.code() == Some("TagLimitExceeded") => {
                    for &index in &indices {
                        let Some(item) = open.get_mut(index) else { continue };
                        item.stuck = !self.write_one(permit, &item.ending.rule, &tags).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            for index in indices {
                let Some(item) = open.get_mut(index) else { continue };
                if item.write == Some(Write::Mark) {
                    item.mark = Some(mark.clone());
                }
                item.marked = if item.write == Some(Write::Mark) { Some(Instant::now()) } else { item.marked };
                (item.write, item.written) = (None, Instant::now());
            }
        }
        Ok(())
    }

    /// Writes on one rule, making room if it is full; false if there is none to be made.
    async fn write_one(&self, permit: &impl Permit, rule: &Rule, tags: &[(String, String)]) -> Result<bool, Failure> {
        for _ in 0..2 {
            match self.session.tag(permit, self.recorded, &[rule], tags).await {
                Ok(()) => {
                    self.acted();
                    return Ok(true);
                }
                Err(error) if error.is_gone() => return Ok(true),
                Err(error) if error.may_have_acted() => {
                    self.unsure();
                    return Ok(true);
                }
                Err(error) if error.code() == Some("TagLimitExceeded") => {
                    if let Err(failure) = self.make_room(permit, rule).await {
                        tracing::warn!(rule = rule.id, ?failure, "a rule has no room for a mark of closing");
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Takes tags off a rule that is full, so that it can be marked: keys first, then leases that have ended.
    async fn make_room(&self, permit: &impl Permit, rule: &Rule) -> Result<(), Failure> {
        let full = || Failure::HoldersFull(rule.id.clone().unwrap_or_default());
        let own: &Ownership = rule.ownership().ok_or_else(full)?;
        let mut spare: Vec<_> = own.spent.iter().map(|spent| spent.tag()).collect();
        if spare.is_empty() {
            // One stays, or nobody could tell any more that the rule was held.
            spare = own.leases.iter().filter(|lease| !lease.is_live(self.now())).skip(1).map(Lease::tag).collect();
        }
        if spare.is_empty() {
            return Err(full());
        }
        self.session.untag(permit, self.recorded, rule, &spare).await?;
        self.acted();
        Ok(())
    }

    /// Marks a rule as about to go from where it is.
    pub(super) async fn mark(&self, permit: &impl Permit, rule: &Rule) -> Result<(), Failure> {
        let mark = Closing::new(self.call(), self.now()).tag();
        match self.session.tag(permit, self.recorded, &[rule], &[mark]).await {
            Ok(()) => self.acted(),
            // The next look tells.
            Err(error) if error.is_gone() => {}
            Err(error) if error.may_have_acted() => self.unsure(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes this call's mark off a rule that stays. If it cannot be taken off now, the reconciler does it.
    pub(super) async fn take_mark_off(&self, permit: &impl Permit, rule: &Rule) {
        let own = rule.ownership().and_then(|own| own.closing.iter().find(|closing| closing.call == self.call()));
        if let Some(closing) = own {
            self.untag(permit, rule, &closing.tag()).await;
        }
    }

    async fn untag(&self, permit: &impl Permit, rule: &Rule, mark: &(String, String)) {
        if let Err(error) = self.session.untag(permit, self.recorded, rule, std::slice::from_ref(mark)).await {
            tracing::warn!(rule = rule.id, error = %crate::error::Chain(&error), "a mark of closing stays for now");
        }
    }

    /// Revokes rules that the look at `read` showed to be nobody's; false if what stands must be looked at again.
    async fn revoke(&self, permit: &impl Permit, ready: &mut [Open], read: Instant) -> Result<bool, Failure> {
        let rules: Vec<&Rule> = ready.iter().map(|item| &item.ending.rule).collect();
        match self.session.revoke(permit, self.recorded, &rules, read + GRACE).await {
            Ok(()) => {
                self.acted();
                Ok(true)
            }
            Err(error) if error.is_gone() || error.is_too_late() => Ok(false),
            Err(error) if error.may_have_acted() => {
                self.unsure();
                let again = ready.iter().any(|item| item.sent);
                ready.iter_mut().for_each(|item| item.sent = true);
                if again { Err(error.into()) } else { Ok(false) }
            }
            Err(error) => Err(error.into()),
        }
    }
}
