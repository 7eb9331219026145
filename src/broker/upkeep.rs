//! What the service does for itself, as principals of its own: it closes what has ended ([`Reconciler`]), takes tags
//! away that no longer say anything, and finds out what became of changes that were begun and not ended ([`recover`]).
//!
//! Each is an operation like any other: decided by policy, recorded, and done with a session of its own.

pub mod recover;
mod report;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::close::{Fate, GRACE};
use super::failure::Failure;
use super::{Answer, Broker, Item, Word, settle};
use crate::error::{Chain, Error};
use crate::identity::Caller;
use crate::operation::ownership::{Made, Ownership, TAGS_MOST};
use crate::operation::rule::Rule;
use crate::operation::target::{GroupId, Place, Target};
use crate::operation::{Operation, Tool};

pub use report::Report;

/// How many rules are closed at once. What waits for AWS to settle costs AWS nothing.
const CLOSING_AT_ONCE: usize = 16;
/// How many accounts and Regions are surveyed at once.
const PLACES_AT_ONCE: usize = 4;
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
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// What the last survey of each place showed.
    seen: HashMap<Place, Seen>,
    /// Since when this process has seen each mark of closing, by its own steady clock.
    marks: HashMap<(Place, String, String), Instant>,
    report: Report,
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
    /// How many carry tags that are damaged.
    pub damaged: usize,
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
        Self { broker, places, state: Mutex::default(), stop }
    }

    /// Does rounds until the service shuts down: at every end that is known, and often enough to find what others have
    /// opened.
    pub async fn run(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            // A round that was begun is finished, as every change is: the shutdown waits for it.
            let this = Arc::clone(&self);
            let round = self.broker.tasks.spawn(async move { this.round().await });
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
        let again = if round.overdue > 0 || round.missed > 0 { interval / 6 } else { interval };
        spread.min(next).min(again).max(Duration::from_millis(50))
    }

    /// One round: survey every place, close what has ended, the oldest first, and report what is not as it should be.
    pub async fn round(&self) -> Round {
        let surveys = futures_util::stream::iter(self.places.clone()).map(|place: Place| async move {
            let rules = self.survey(&place).await;
            (place, rules)
        });
        let surveys: Vec<_> = surveys.buffer_unordered(PLACES_AT_ONCE).collect().await;
        let now = self.broker.now();
        let (mut round, mut due, mut untidy) = (Round::default(), Vec::new(), Vec::new());
        for (place, rules) in surveys {
            let rules = match rules {
                Ok(rules) => rules,
                Err(error) => {
                    tracing::warn!(%place, error = %Chain(&error), "what has ended could not be looked for");
                    round.missed += 1;
                    continue;
                }
            };
            self.compare(&place, &rules, now, &mut round);
            for (group, rule) in &rules {
                round.standing += 1;
                match &rule.made {
                    Made::Here(own) if own.live(now).next().is_none() => {
                        due.push((own.ends(), place.clone(), group.clone(), rule.clone()));
                    }
                    Made::Here(own) => {
                        round.next = round.next.into_iter().chain([own.ends()]).min();
                        let stale = self.untidy(&place, rule, own, now);
                        if !stale.is_empty() {
                            untidy.push((place.clone(), group.clone(), rule.clone(), stale));
                        }
                    }
                    Made::Damaged(_) => round.damaged += 1,
                    Made::Elsewhere => {}
                }
            }
            self.remember(&place, rules);
        }
        due.sort_by_key(|(ends, ..)| *ends);
        let closings = futures_util::stream::iter(due).map(|(_, place, group, rule)| async move {
            // Another replica is at it: it has marked the rule, and its mark is still young.
            if self.stop.is_cancelled() || self.is_marked_lately(&place, &rule) {
                return None;
            }
            let target = self.broker.targets().found(&place, &group);
            let fate = self.broker.close_rule(target, rule.id.clone().unwrap_or_default()).await;
            Some((place, rule, fate))
        });
        for outcome in closings.buffer_unordered(CLOSING_AT_ONCE).collect::<Vec<_>>().await {
            match outcome {
                Some((place, rule, Ok(Fate::Gone))) => {
                    round.closed += 1;
                    self.forget(&place, &rule);
                }
                Some((_, _, Ok(Fate::Held))) => {}
                Some((place, rule, Err(error))) => {
                    round.overdue += 1;
                    tracing::warn!(%place, rule = rule.id, error = %Chain(&error), "a rule that has ended could not be closed");
                }
                None => round.overdue += 1,
            }
        }
        let tidying = futures_util::stream::iter(untidy).map(|(place, group, rule, tags)| async move {
            let target = self.broker.targets().found(&place, &group);
            if let Err(error) = self.broker.tidy_rule(target, &rule, tags).await {
                tracing::info!(%place, rule = rule.id, error = %Chain(&error), "a rule was not tidied");
            }
        });
        tidying.buffer_unordered(CLOSING_AT_ONCE).collect::<Vec<()>>().await;
        self.report_round(&round);
        round
    }

    /// Every rule of ours in a place, and those in configured groups that carry some tag of ours.
    async fn survey(&self, place: &Place) -> Result<Vec<(GroupId, Rule)>, Error> {
        let broker = &self.broker;
        let caller = Arc::new(Caller::own("reconciler"));
        let operation = Operation::survey(Tool::Survey, place.clone(), broker.clock.now());
        let (permit, policy) = broker.permit(caller, operation)?;
        let entry = broker.audit.begin_read(&permit, policy.sha256());
        let targets = broker.targets();
        let configured: Vec<GroupId> = targets
            .named()
            .iter()
            .filter(|target| target.place() == place)
            .map(|target| target.group().clone())
            .collect();
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
        settle(entry, result, false, false)?;
        Ok(rules)
    }

    /// The tags that say nothing any more: leases that ended long ago on a rule that others hold, keys that are too old
    /// to be heeded, and the mark of somebody who never came to take the rule away.
    fn untidy(&self, place: &Place, rule: &Rule, own: &Ownership, now: Timestamp) -> Vec<(String, String)> {
        let crowded = rule.tags >= CROWDED;
        let mut stale: Vec<(String, String)> = own
            .leases
            .iter()
            .filter(|lease| !lease.is_live(now) && (crowded || now.duration_since(lease.until) > KEPT_FOR))
            .map(crate::operation::lease::Lease::tag)
            .collect();
        stale.extend(own.spent.iter().filter(|spent| !spent.is_fresh(now)).map(|spent| spent.tag()));
        if let Some(closing) = &own.closing {
            let patience = self.broker.config.settle * 2 + GRACE * 2;
            let seen = self.marked_since(place, rule, closing.tag().1);
            stale.extend((seen.elapsed() > patience).then(|| closing.tag()));
        }
        stale
    }

    /// Since when this process has seen a mark.
    fn marked_since(&self, place: &Place, rule: &Rule, mark: String) -> Instant {
        let key = (place.clone(), rule.id.clone().unwrap_or_default(), mark);
        *self.lock().marks.entry(key).or_insert_with(Instant::now)
    }

    fn is_marked_lately(&self, place: &Place, rule: &Rule) -> bool {
        let closing = rule.ownership().and_then(|own| own.closing.as_ref());
        closing.is_some_and(|closing| {
            let patience = self.broker.config.settle * 2 + GRACE;
            self.marked_since(place, rule, closing.tag().1).elapsed() < patience
        })
    }

    fn remember(&self, place: &Place, rules: Vec<(GroupId, Rule)>) {
        let rules = rules.into_iter().filter_map(|(group, rule)| Some((rule.id.clone()?, (group, rule))));
        let seen = Seen { at: Instant::now(), rules: rules.collect() };
        let mut state = self.lock();
        state.marks.retain(|(at, id, _), _| at != place || seen.rules.contains_key(id));
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
            let Some(seen) = state.seen.get(place) else { return Duration::ZERO };
            let overdue = seen.rules.values().filter_map(|(_, rule)| rule.ownership()).map(Ownership::ends).min();
            let overdue =
                overdue.map_or(Duration::ZERO, |ends| Duration::try_from(now.duration_since(ends)).unwrap_or_default());
            overdue.max(seen.at.elapsed().saturating_sub(self.broker.config.interval * 2))
        });
        late.max().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Closes one rule whose leases have ended, if they still have once nobody can join any more.
    async fn close_rule(&self, target: Target, rule_id: String) -> Result<Fate, Error> {
        let caller = Arc::new(Caller::own("reconciler"));
        let operation = Operation::close(target, rule_id.clone(), self.clock.now());
        let (permit, policy) = self.permit(caller, operation)?;
        let recorded = self.audit.begin_change(&permit, policy.sha256()).await;
        let recorded = recorded
            .map_err(|error| self.refuse_operation(permit.caller(), permit.operation(), error.into(), Vec::new()))?;
        let (mut acted, mut fate) = (false, Fate::Gone);
        let result = async {
            let session = self.aws.assume(&permit, &policy, recorded.entry(), None).await?;
            let Some(rule) = session.rule(&rule_id).await? else {
                return Ok(Answer::Changed { items: Vec::new(), kept: Vec::new(), plan: None });
            };
            recorded.before(std::slice::from_ref(&rule));
            let leave = self.policy.upkeep(&permit, rule.clone(), self.now())?;
            recorded.entry().decided(leave.policies());
            let job = self.job(&permit, &session, &recorded)?;
            let closed = job.end(&leave, vec![(rule, Vec::new())], |_| true).await;
            acted = job.acted.load(std::sync::atomic::Ordering::Relaxed);
            let items = closed?.into_iter().map(|(rule, became)| {
                fate = became;
                let word = if became == Fate::Gone { Word::Removed } else { Word::AlreadyOpen };
                Item { word, rule, until: None }
            });
            Ok(Answer::Changed { items: items.collect(), kept: Vec::new(), plan: None })
        }
        .await;
        settle(recorded.into_entry(), result, true, acted).map(|_| fate)
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
            let leave = self.policy.upkeep(&permit, rule.clone(), self.now())?;
            session.untag(&leave, &recorded, rule, &tags).await?;
            let item = Item { word: Word::Left, rule: rule.clone(), until: None };
            Ok(Answer::Changed { items: vec![item], kept: Vec::new(), plan: None })
        }
        .await;
        settle(recorded.into_entry(), result, true, false).map(drop)
    }
}
