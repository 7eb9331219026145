//! What the service does for itself, as principals of its own: it closes what has ended ([`Reconciler`]), takes tags
//! away that no longer say anything, and finds out what became of changes that were begun and not ended ([`recover`]).
//!
//! Each is an operation like any other: decided by policy, recorded, and done with a session of its own.

pub mod recover;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::close::{ANSWER, Ending, Fate, GRACE};
use super::failure::Failure;
use super::{Answer, Broker, Done, Item, Word, settle};
use crate::error::{Chain, Error};
use crate::identity::Caller;
use crate::operation::ownership::{Closing, Made, Ownership, TAGS_MOST};
use crate::operation::rule::Rule;
use crate::operation::target::{GroupId, Place, Target};
use crate::operation::{Operation, Tool};

pub use report::Report;

/// How many rules of one group are closed by one call: as many as its session policy has room to name.
const RULES_AT_ONCE: usize = 8;
/// How many tags of one rule are taken away by one call, for the same reason.
const TIDIED_AT_ONCE: usize = 10;
/// How many such calls run at once. What waits for AWS to settle costs AWS nothing.
const CLOSING_AT_ONCE: usize = 16;
/// How long a survey may take.
const SURVEY_PATIENCE: Duration = Duration::from_secs(20);
/// How late a closing may be before the service no longer calls itself ready.
pub const LATE: Duration = Duration::from_secs(60);
/// How long an ended lease stays readable on a rule that others hold, before its tag is taken away.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);
/// From how many tags on a rule is tidied at once.
const CROWDED: usize = TAGS_MOST - 10;

/// Closes what has ended, in every account and Region that is configured.
#[derive(Debug)]
pub struct Reconciler {
    broker: Arc<Broker>,
    places: Vec<Place>,
    state: Mutex<State>,
    started: Instant,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// What the last survey of each place showed.
    seen: HashMap<Place, Seen>,
    /// What this core's journal says of the making of each rule that names it.
    recorded: HashMap<(Place, String), Recorded>,
    report: Report,
    /// The places that could not be asked, and why.
    missed: BTreeMap<Place, String>,
}

/// What a journal says of the making of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    /// It has it.
    Made,
    /// It has the call, and says that it was not done.
    NotDone,
    /// It has nothing of it.
    No,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    rules: HashMap<String, (GroupId, Rule)>,
}

/// What one round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How many rules of ours stand.
    pub standing: usize,
    /// How many were closed.
    pub closed: usize,
    /// How many that should be closed are not.
    pub overdue: usize,
    /// How many another process is closing just now.
    pub left_to_others: usize,
    /// How many carry tags that are damaged.
    pub damaged: usize,
    /// How many name this core's journal and are not in it.
    pub unrecorded: usize,
    /// How many went before their end without this process having closed them.
    pub vanished: usize,
    /// How many accounts and Regions could not be asked.
    pub missed: usize,
    /// The next end that is known.
    pub next: Option<Timestamp>,
}

impl Reconciler {
    /// A reconciler over a broker.
    pub fn new(broker: Arc<Broker>, stop: CancellationToken) -> Self {
        let places = broker.targets().places(None, None).unwrap_or_default();
        Self { broker, places, state: Mutex::default(), started: Instant::now(), stop }
    }

    /// Does rounds until the service shuts down: at every end that is known, and often enough to find what others have
    /// opened. Each account and Region goes by itself: one that does not answer keeps no other waiting.
    pub async fn run(self: Arc<Self>) {
        let loops = self.places.clone().into_iter().map(|place| Arc::clone(&self).look_after(place));
        futures_util::future::join_all(loops).await;
    }

    async fn look_after(self: Arc<Self>, place: Place) {
        while !self.stop.is_cancelled() {
            // A round that was begun is finished, as every change is: the shutdown waits for it.
            let (this, at) = (Arc::clone(&self), place.clone());
            let round = self.broker.tasks.spawn(async move { this.round_of(&at).await });
            let wait = match round.await {
                Ok(round) => self.wait(&round),
                Err(panic) => {
                    tracing::error!(error = %panic, "a round of the reconciler met a fault of its own");
                    self.broker.config.interval
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// How long to wait for the next round.
    fn wait(&self, round: &Round) -> Duration {
        let interval = self.broker.config.interval;
        // Replicas that were started together do not ask together.
        let spread = interval.mul_f64(0.8 + 0.2 * crate::digest::chance());
        let until = |end: Timestamp| Duration::try_from(end.duration_since(self.broker.now())).unwrap_or_default();
        let jitter = Duration::from_millis(100) + interval.mul_f64(crate::digest::chance() / 30.0);
        let next = round.next.map_or(interval, |end| until(end) + jitter);
        let again =
            if round.overdue > 0 || round.missed > 0 || round.left_to_others > 0 { interval / 6 } else { interval };
        spread.min(next).min(again).max(Duration::from_millis(50))
    }

    /// The accounts and Regions that could not be asked when they were last asked; nothing before that.
    pub fn unreachable(&self) -> Option<String> {
        let state = self.lock();
        let missed = state.missed.iter().map(|(place, why)| format!("{place}: {why}"));
        let missed: Vec<String> = missed.collect();
        (!missed.is_empty()).then(|| missed.join("; "))
    }

    /// One round everywhere.
    pub async fn round(&self) -> Round {
        let rounds = self.places.iter().map(|place| self.round_of(place));
        futures_util::future::join_all(rounds).await.into_iter().fold(Round::default(), Round::and)
    }

    /// One round in an account and Region: survey it, close what has ended, the oldest first, and report what is not as
    /// it should be.
    async fn round_of(&self, place: &Place) -> Round {
        // What was opened since may be missing from what the survey shows.
        let shown = Instant::now().checked_sub(self.broker.config.settle);
        let rules = match self.survey(place).await {
            Ok(rules) => rules,
            Err(error) => {
                tracing::warn!(%place, error = %Chain(&error), "what has ended could not be looked for");
                self.lock().missed.insert(place.clone(), error.message().to_owned());
                self.report_round(&Round { missed: 1, ..Round::default() });
                return Round { missed: 1, ..Round::default() };
            }
        };
        self.lock().missed.remove(place);
        let now = self.broker.now();
        let (mut round, mut due, mut untidy) = (Round::default(), Vec::new(), Vec::new());
        let made = shown.map(|shown| self.broker.take_made(place, shown)).unwrap_or_default();
        let leases = super::room::held_in(place, &rules, now);
        self.broker.limits.surveyed(&place.to_string(), shown.unwrap_or(self.started), leases, now);
        self.compare(place, &rules, made, now, &mut round);
        let unrecorded = self.unrecorded(place, &rules).await;
        round.unrecorded = unrecorded.len();
        for (group, rule) in &rules {
            round.standing += 1;
            if unrecorded.contains(&rule.id) {
                continue;
            }
            match &rule.made {
                Made::Here(own) if own.live(now).next().is_none() => {
                    due.push((own.ends(), group.clone(), rule.clone()))
                }
                Made::Here(own) => {
                    // The next end of any lease: a rule that others hold longer is shorter then by one name.
                    round.next = round.next.into_iter().chain([own.ends()]).min();
                    let stale = self.untidy(rule, own, now);
                    if !stale.is_empty() {
                        untidy.push((group.clone(), rule.clone(), stale));
                    }
                }
                Made::Damaged(_) => round.damaged += 1,
                Made::Elsewhere => {}
            }
        }
        self.remember(place, rules);
        self.close_all(place, due, now, &mut round).await;
        let tidying = futures_util::stream::iter(untidy).map(|(group, rule, tags)| async move {
            let target = self.broker.targets().found(place, &group);
            if let Err(error) = self.broker.tidy_rule(target, &rule, tags).await {
                tracing::info!(%place, rule = rule.id, error = %Chain(&error), "a rule was not tidied");
            }
        });
        tidying.buffer_unordered(CLOSING_AT_ONCE).collect::<Vec<()>>().await;
        self.report_round(&round);
        round
    }

    /// Closes what has ended, the oldest first, some rules of one group at a time.
    async fn close_all(
        &self,
        place: &Place,
        mut due: Vec<(Timestamp, GroupId, Rule)>,
        now: Timestamp,
        round: &mut Round,
    ) {
        // Another replica is at it: its mark is still young.
        let before = due.len();
        due.retain(|(_, _, rule)| !self.is_marked_lately(rule, now));
        round.left_to_others += before - due.len();
        due.sort_by_key(|(ends, ..)| *ends);
        let mut batches: Vec<(GroupId, Vec<Rule>)> = Vec::new();
        for (_, group, rule) in due {
            match batches.iter_mut().rev().find(|(of, rules)| *of == group && rules.len() < RULES_AT_ONCE) {
                Some((_, rules)) => rules.push(rule),
                None => batches.push((group, vec![rule])),
            }
        }
        let closings = futures_util::stream::iter(batches).map(|(group, rules)| async move {
            if self.stop.is_cancelled() {
                return (rules, Ok(Vec::new()));
            }
            let target = self.broker.targets().found(place, &group);
            let fates = self.broker.close_rules(target, &rules).await;
            (rules, fates)
        });
        for (rules, fates) in closings.buffer_unordered(CLOSING_AT_ONCE).collect::<Vec<_>>().await {
            match fates {
                Ok(fates) => {
                    round.overdue += rules.len().saturating_sub(fates.len());
                    for (rule, fate) in fates {
                        round.closed += usize::from(fate == Fate::Closed);
                        round.overdue += usize::from(fate == Fate::Stuck);
                        if matches!(fate, Fate::Closed | Fate::GoneAlready) {
                            self.forget(place, &rule);
                        }
                    }
                }
                Err(error) => {
                    round.overdue += rules.len();
                    let ids: Vec<&str> = rules.iter().filter_map(|rule| rule.id.as_deref()).collect();
                    tracing::warn!(%place, rules = ids.join(","), error = %Chain(&error), "what has ended could not be closed");
                }
            }
        }
    }

    /// Every rule of ours in a place, and those in configured groups that carry some tag of ours.
    async fn survey(&self, place: &Place) -> Result<Vec<(GroupId, Rule)>, Error> {
        let broker = &self.broker;
        let caller = Arc::new(Caller::own("reconciler"));
        let operation = Operation::survey(Tool::Survey, place.clone(), broker.clock.now());
        let (permit, policy) = broker.permit(caller, operation)?;
        let entry = broker.audit.begin_read(&permit, policy.sha256());
        let targets = broker.targets();
        let configured = targets.named().iter().filter(|target| target.place() == place).map(|target| target.group());
        let opted_in = targets.opted_in().filter(|(at, _)| *at == place).map(|(_, known)| &known.group);
        let configured: Vec<GroupId> = configured.chain(opted_in).cloned().collect();
        let mut rules = Vec::new();
        let result = async {
            let deadline = Some(Instant::now() + SURVEY_PATIENCE);
            let session = broker.aws.assume(&permit, &policy, &entry, deadline).await?;
            rules = session.ours().await?;
            // The tag that ours are found by may be what is damaged.
            for (group, rule) in session.marked_in(&configured).await? {
                if !rules.iter().any(|(_, known)| known.id == rule.id) {
                    rules.push((group, rule));
                }
            }
            Ok::<_, Failure>(Answer::Leases(Vec::new()))
        }
        .await;
        settle(entry, result, false, Done::default())?;
        Ok(rules)
    }

    /// The rules that say that this core's journal has their making, and it has not: somebody copied our tags, or the
    /// journal lost its past. They are reported and left alone.
    async fn unrecorded(&self, place: &Place, rules: &[(GroupId, Rule)]) -> Vec<Option<String>> {
        let mine = self.broker.audit.journal_id();
        let ours = |rule: &Rule| {
            let own = rule.ownership().filter(|own| own.journal.is_some() && own.journal.as_deref() == mine);
            Some(((place.clone(), rule.id.clone()?), own?.call.clone()))
        };
        let new: Vec<_> = {
            let state = self.lock();
            rules
                .iter()
                .filter_map(|(_, rule)| ours(rule))
                .filter(|(key, _)| !state.recorded.contains_key(key))
                .collect()
        };
        if !new.is_empty() {
            let (audit, calls) = (self.broker.audit.clone(), new.iter().map(|(_, call)| call.clone()).collect());
            // A journal that cannot be read now says nothing either way: it is asked again.
            if let Ok(Ok(known)) = tokio::task::spawn_blocking(move || audit.has_entries(calls)).await {
                let judged = new.into_iter().map(|(key, call)| {
                    let recorded = match known.get(&call) {
                        Some(false) => Recorded::Made,
                        Some(true) => Recorded::NotDone,
                        None => Recorded::No,
                    };
                    (key, recorded)
                });
                self.lock().recorded.extend(judged);
            }
        }
        let mut unrecorded = Vec::new();
        for (group, rule) in rules {
            let Some((key, call)) = ours(rule) else { continue };
            let mut state = self.lock();
            match state.recorded.get(&key) {
                Some(Recorded::No) => {}
                // It closes at its end as any other: its call did ask for it.
                Some(Recorded::NotDone) => {
                    if state.report.unrecorded.insert(key) {
                        tracing::error!(%place, %group, rule = rule.id, call, "a rule stands whose call this core's journal says was not done");
                        self.broker.audit.observed("contradicted", place, group, rule);
                    }
                    continue;
                }
                Some(Recorded::Made) | None => continue,
            }
            if state.report.unrecorded.insert(key) {
                tracing::warn!(%place, %group, rule = rule.id, call, "a rule names this core's journal, which has no entry of it; it is left alone");
                self.broker.audit.observed("unrecorded", place, group, rule);
            }
            unrecorded.push(rule.id.clone());
        }
        unrecorded
    }

    /// The tags that say nothing any more: leases that ended long ago on a rule that others hold, keys that are too old
    /// to be heeded, and the mark of somebody who never came to take the rule away.
    fn untidy(&self, rule: &Rule, own: &Ownership, now: Timestamp) -> Vec<(String, String)> {
        let crowded = rule.tags >= CROWDED;
        let mut stale: Vec<(String, String)> = own
            .leases
            .iter()
            .filter(|lease| !lease.is_live(now) && (crowded || now.duration_since(lease.until) > KEPT_FOR))
            .map(crate::operation::lease::Lease::tag)
            .collect();
        stale.extend(own.spent.iter().filter(|spent| !spent.is_fresh(now)).map(|spent| spent.tag()));
        stale.extend(self.dead_marks(own, now));
        stale.truncate(TIDIED_AT_ONCE);
        stale
    }

    /// The marks that are older than anyone acts on them.
    fn dead_marks(&self, own: &Ownership, now: Timestamp) -> Vec<(String, String)> {
        let dead = |closing: &&Closing| age(closing, now) > self.broker.config.settle * 2 + GRACE + ANSWER * 3;
        own.closing.iter().filter(dead).map(Closing::tag).take(TIDIED_AT_ONCE).collect()
    }

    /// Whether somebody has marked the rule and may be about to take it away.
    fn is_marked_lately(&self, rule: &Rule, now: Timestamp) -> bool {
        let patience = self.broker.config.settle * 2 + GRACE;
        rule.ownership().is_some_and(|own| own.closing.iter().any(|closing| age(closing, now) < patience))
    }

    fn remember(&self, place: &Place, rules: Vec<(GroupId, Rule)>) {
        let rules = rules.into_iter().filter_map(|(group, rule)| Some((rule.id.clone()?, (group, rule))));
        let seen = Seen { at: Instant::now(), rules: rules.collect() };
        let mut state = self.lock();
        state.recorded.retain(|(at, id), _| at != place || seen.rules.contains_key(id));
        state.seen.insert(place.clone(), seen);
    }

    fn forget(&self, place: &Place, rule: &Rule) {
        if let (Some(seen), Some(id)) = (self.lock().seen.get_mut(place), &rule.id) {
            seen.rules.remove(id);
        }
    }

    /// How late the closing is: how long the oldest rule that should be closed has been standing past its end, as far as
    /// is known. Where nobody could look, as long as that.
    pub fn lag(&self) -> Duration {
        let (now, state) = (self.broker.now(), self.lock());
        let late = self.places.iter().map(|place| {
            let unseen = self.broker.config.interval * 2;
            let Some(seen) = state.seen.get(place) else { return self.started.elapsed().saturating_sub(unseen) };
            let left_alone = |id: &String| state.recorded.get(&(place.clone(), id.clone())) == Some(&Recorded::No);
            let closable = seen.rules.iter().filter(|(id, _)| !left_alone(id));
            let overdue = closable.filter_map(|(_, (_, rule))| rule.ownership()).map(Ownership::ends).min();
            let overdue =
                overdue.map_or(Duration::ZERO, |ends| Duration::try_from(now.duration_since(ends)).unwrap_or_default());
            overdue.max(seen.at.elapsed().saturating_sub(unseen))
        });
        late.max().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How old a mark is, by AWS's time, which is told in whole seconds. One from the future is nobody's.
fn age(closing: &Closing, now: Timestamp) -> Duration {
    let age = now.duration_since(closing.at);
    if age < SignedDuration::from_secs(-60) { Duration::MAX } else { Duration::try_from(age).unwrap_or_default() }
}

impl Round {
    /// This round and another together.
    fn and(self, other: Self) -> Self {
        Self {
            standing: self.standing + other.standing,
            closed: self.closed + other.closed,
            overdue: self.overdue + other.overdue,
            left_to_others: self.left_to_others + other.left_to_others,
            damaged: self.damaged + other.damaged,
            unrecorded: self.unrecorded + other.unrecorded,
            vanished: self.vanished + other.vanished,
            missed: self.missed + other.missed,
            next: self.next.into_iter().chain(other.next).min(),
        }
    }
}

impl Broker {
    /// Closes rules of one group whose leases have ended, if they still have once nobody can join any more.
    async fn close_rules(&self, target: Target, rules: &[Rule]) -> Result<Vec<(Rule, Fate)>, Error> {
        let caller = Arc::new(Caller::own("reconciler"));
        let ids: Vec<String> = rules.iter().filter_map(|rule| rule.id.clone()).collect();
        let operation = Operation::close(target, ids.clone(), self.clock.now());
        let (permit, policy) = self.permit(caller, operation)?;
        let recorded = self.audit.begin_change(&permit, policy.sha256()).await;
        let recorded = recorded
            .map_err(|error| self.refuse_operation(permit.caller(), permit.operation(), error.into(), Vec::new()))?;
        let (mut done, mut fates) = (Done::default(), Vec::new());
        let result = async {
            let session = self.aws.assume(&permit, &policy, recorded.entry(), None).await?;
            let standing = session.rules_after_change().await?;
            let is = |rule: &&Rule| rule.id.as_ref().is_some_and(|id| ids.contains(id));
            let stands: Vec<Rule> = standing.iter().filter(is).cloned().collect();
            recorded.before(&standing);
            fates.extend(
                rules
                    .iter()
                    .filter(|rule| !stands.iter().any(|is| is.id == rule.id))
                    .cloned()
                    .map(|rule| (rule, Fate::GoneAlready)),
            );
            let (leave, kept) = permit.policy().upkeep(&permit, stands, self.now())?;
            fates.extend(kept.into_iter().map(|rule| (rule, Fate::Held)));
            recorded.entry().decided(leave.policies());
            let job = self.job(&permit, &session, &recorded, Instant::now())?;
            let ending = |rule: &Rule| Ending { rule: rule.clone(), leases: Vec::new() };
            let closed = job.end(&leave, leave.rules().iter().map(ending).collect()).await;
            done = job.done();
            fates.extend(closed?);
            let items = fates.iter().filter(|(_, fate)| *fate == Fate::Closed);
            let items = items.map(|(rule, _)| Item { word: Word::Removed, rule: rule.clone(), until: None });
            Ok(Answer::Changed { items: items.collect(), kept: Vec::new(), plan: None })
        }
        .await;
        settle(recorded.into_entry(), result, true, done).map(|_| fates)
    }

    /// Takes tags off a rule, each only if it still has this value.
    async fn tidy_rule(&self, target: Target, rule: &Rule, tags: Vec<(String, String)>) -> Result<(), Error> {
        let caller = Arc::new(Caller::own("reconciler"));
        let id = rule.id.clone().unwrap_or_default();
        let operation = Operation::tidy(target, id, tags.clone(), self.clock.now());
        let (permit, policy) = self.permit(caller, operation)?;
        let recorded = self.audit.begin_change(&permit, policy.sha256()).await;
        let recorded = recorded
            .map_err(|error| self.refuse_operation(permit.caller(), permit.operation(), error.into(), Vec::new()))?;
        let result = async {
            let session = self.aws.assume(&permit, &policy, recorded.entry(), None).await?;
            let (leave, _) = permit.policy().upkeep(&permit, vec![rule.clone()], self.now())?;
            session.untag(&leave, &recorded, rule, &tags).await?;
            let item = Item { word: Word::Left, rule: rule.clone(), until: None };
            Ok(Answer::Changed { items: vec![item], kept: Vec::new(), plan: None })
        }
        .await;
        settle(recorded.into_entry(), result, true, Done::default()).map(drop)
    }
}
