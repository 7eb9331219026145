//! One operation for one principal: decide, record, assume, look, decide again, change, record.
//!
//! This file is the road of every call through the core. Each step takes what the step before it made, so none can be
//! left out: policy makes the permit, the audit trail makes the entry from the permit, AWS makes the session from both,
//! and only a second permit with an entry that is on disk changes anything. What each kind of change does with leases is
//! in the modules below: `add`, `remove`, `extend`, `relocate` (`whitelist_move`), and, for the service's own
//! ends, [`upkeep`]. They share two protocols: `hold` puts a lease on a rule that stands, and `close` takes a rule
//! away without losing a holder who joins meanwhile.

mod add;
mod answer;
pub mod approvals;
mod close;
mod directory;
mod extend;
mod failure;
mod hold;
mod leaver;
mod plan;
mod refusals;
mod relocate;
mod remove;
mod room;
mod search;
pub mod self_test;
pub mod trial;
pub mod upkeep;
mod word;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::approval::Approvals;
use crate::audit::{Audit, DurableEntry, Entry, Outcome};
use crate::aws::session_policy::{Actions, Power, SessionPolicy};
use crate::aws::{Aws, AwsError, Look, Session};
use crate::clock::Clock;
use crate::duration::{self, MILLISECOND, MINUTE, SECOND};
use crate::error::{Code, Error};
use crate::identity::Caller;
use crate::limit::{Admitted, Charge, Class, Limits, Room};
use crate::operation::lease::Holder;
use crate::operation::ownership::{Ownership, Spent};
use crate::operation::reach::Reach;
use crate::operation::rule::{Rule, Traffic};
use crate::operation::target::{GroupId, Place, Target, Targets};
use crate::operation::{CallId, Check, Context, Kind, List, Operation, Sight, Tool};
use crate::policy::{LookPermit, Policies, Policy};
use crate::schema::Length;
use crate::telemetry;

pub use answer::{Answer, Item, Plan, Word};
pub use directory::{FRESH, LOOK_AGAIN, PATIENCE, STILL_OPTED_IN};
pub use leaver::{AT_ONCE, Ended, Missed};
pub use search::GroupShown;

use directory::Directory;
use failure::Failure;
use refusals::Refusals;

/// `[leases]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long AWS may take until every read shows a write. A rule that is taken away stays marked for twice as long, and whoever
    /// closes waits for that.
    #[serde(deserialize_with = "duration::within::<_, _, MILLISECOND, { 10 * SECOND }>")]
    #[schemars(with = "Length<MILLISECOND, { 10 * SECOND }>")]
    pub settle: Duration,
    /// How long a request that a process had sent to AWS when it was killed may still be on its way there. Before that
    /// nothing is said not to have been done.
    #[serde(deserialize_with = "duration::within::<_, _, MILLISECOND, MINUTE>")]
    #[schemars(with = "Length<MILLISECOND, MINUTE>")]
    pub on_its_way: Duration,
    /// Whether this core closes what has ended.
    pub close: bool,
    /// How often it looks for what others have opened; it wakes for every end that it knows of besides.
    #[serde(deserialize_with = "duration::within::<_, _, MILLISECOND, MINUTE>")]
    #[schemars(with = "Length<MILLISECOND, MINUTE>")]
    pub interval: Duration,
    /// Whether groups that carry the tag `whitelistmcp:managed` can be asked for as well as those that are configured.
    pub discover: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(2),
            on_its_way: Duration::from_secs(60),
            close: true,
            interval: Duration::from_secs(30),
            discover: true,
        }
    }
}

/// How far this machine's clock may be from AWS's before nothing is opened any more: an end would be wrong by as much.
const SKEW_MOST: i64 = 60;

/// How long a rule that was taken away is remembered: several rounds of the reconciler.
const REMEMBERED_FOR: Duration = Duration::from_secs(900);

/// How many rules that were opened may wait for the reconciler's next look.
const MADE_MOST: usize = 10_000;

/// Performs operations.
#[derive(Debug)]
pub struct Broker {
    /// Itself, for work that outlives its callers.
    this: Weak<Self>,
    policies: Arc<Policies>,
    audit: Audit,
    aws: Aws,
    actions: Actions,
    approvals: Option<Approvals>,
    directory: Directory,
    config: Config,
    clock: Clock,
    tasks: TaskTracker,
    /// The changes of callers among these, which each end by themselves. Closed from the beginning, as whoever waits for none to be left must.
    changes: TaskTracker,
    limits: Arc<Limits>,
    refusals: Refusals,
    /// The rules that this core has taken away, and when, so that they are not taken for lost.
    gone: Mutex<HashMap<String, Instant>>,
    /// The rules that this core has opened or changed and the reconciler has not looked for yet.
    made: Mutex<Vec<(Instant, Target, Rule)>>,
}

/// What one caller may know of the groups that are known.
#[derive(Debug)]
pub struct BySight {
    policy: Arc<Policy>,
    caller: Arc<Caller>,
    targets: Arc<Targets>,
    at: Timestamp,
}

impl Sight for BySight {
    fn sees(&self, target: &Target) -> Result<bool, Error> {
        // Where AWS was read, and the group is not there, nothing goes by that name.
        let gone = target.described().is_none() && self.targets.is_described(target.place());
        if gone && self.policy.speaks_of_descriptions() {
            return Ok(false);
        }
        Ok(self.policy.sees(&self.caller, target, self.at)?)
    }
}

/// One change under way: everything that its steps share.
struct Job<'a> {
    broker: &'a Broker,
    permit: &'a LookPermit,
    session: &'a Session<'a>,
    recorded: &'a DurableEntry,
    /// Who asks, as it is written on rules.
    holder: Holder,
    /// Whether AWS has been changed.
    acted: AtomicBool,
    /// Whether it may have been, and no answer said so.
    unsure: AtomicBool,
    /// When what stands was read: what was done since may be missing from it.
    shown: Instant,
    /// The room that the caller's new leases take.
    room: OnceLock<Room>,
}

impl Broker {
    /// Puts the parts together.
    #[expect(clippy::too_many_arguments, reason = "the composition root hands every part over, once")]
    pub fn new(
        policies: Arc<Policies>,
        audit: Audit,
        aws: Aws,
        actions: Actions,
        approvals: Option<Approvals>,
        targets: Targets,
        config: Config,
        clock: Clock,
        tasks: TaskTracker,
        limits: Arc<Limits>,
    ) -> Arc<Self> {
        let (directory, changes) = (Directory::new(targets), TaskTracker::new());
        changes.close();
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            policies,
            audit,
            aws,
            actions,
            approvals,
            directory,
            config,
            clock,
            tasks,
            changes,
            limits,
            refusals: Refusals::default(),
            gone: Mutex::default(),
            made: Mutex::default(),
        })
    }

    /// How much callers may ask for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits until no change is under way any more, not even one whose caller has gone.
    pub async fn changes_end(&self) {
        self.changes.wait().await;
    }

    /// Lets a call in that performs no operation. It is not written down, whether it is let in or not.
    pub async fn admit_other(&self, caller: &Caller) -> Result<Admitted, Error> {
        let admitted = match self.limits.operation().await {
            Ok(operation) => self.limits.admit(operation, room::subject(caller), Class::Other).await,
            Err(exceeded) => Err(exceeded),
        };
        admitted.map_err(|exceeded| {
            telemetry::record_limited("core", exceeded.limit().name());
            exceeded.into()
        })
    }

    /// The groups, accounts and Regions that are known at the moment.
    pub fn targets(&self) -> Arc<Targets> {
        self.directory.targets()
    }

    /// Which groups a caller may know of, by the policies in force.
    pub fn sight(&self, caller: Arc<Caller>, targets: Arc<Targets>) -> BySight {
        BySight { policy: self.policies.current(), caller, targets, at: self.clock.now() }
    }

    /// What requests are read against, for the caller whose sight it is.
    pub fn context<'a>(&self, sight: &'a BySight) -> Context<'a> {
        Context { targets: &sight.targets, caller: sight.caller.address(), now: sight.at, sight }
    }

    /// Whether a tool could be permitted to the caller at all, whatever they ask for.
    pub fn may_call(&self, caller: &Caller, tool: Tool) -> bool {
        self.policies.may_call(caller, tool)
    }

    /// The time by which leases are judged: AWS's own, once it has told it.
    pub fn now(&self) -> Timestamp {
        self.aws.time().unwrap_or_else(|| self.clock.now())
    }

    /// Remembers what this core has opened or changed, for the reconciler to look for.
    fn has_made(&self, target: &Target, answer: &Answer) {
        let Answer::Changed { items, plan: None, .. } = answer else { return };
        let made = items.iter().filter(|item| {
            matches!(item.word, Word::Opened | Word::Joined | Word::Extended | Word::Moved) && item.rule.id.is_some()
        });
        let mut known = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(made.map(|item| (Instant::now(), target.clone(), item.rule.clone())));
        let surplus = known.len().saturating_sub(MADE_MOST);
        known.drain(..surplus);
    }

    /// What this core has opened or changed in a place before an instant.
    fn take_made(&self, place: &Place, before: Instant) -> Vec<(GroupId, Rule)> {
        let mut known = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = known.extract_if(.., |(at, target, _)| *at < before && target.place() == place);
        made.map(|(_, target, rule)| (target.group().clone(), rule)).collect()
    }

    /// Remembers that this core has taken a rule away.
    fn took_away(&self, rule: &Rule) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
        gone.extend(rule.id.clone().map(|id| (id, Instant::now())));
    }

    /// Whether this core has taken the rule away itself.
    fn is_expected_gone(&self, rule_id: &str) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains_key(rule_id)
    }

    /// Records a call that was refused before it became an operation.
    pub fn refuse(&self, tool: Tool, call: &CallId, caller: Option<&Caller>, error: Error) -> Error {
        self.audit.refuse(tool, call, caller, None, &error, Vec::new());
        error
    }

    /// Records an operation that was refused before it could begin.
    fn refuse_operation(&self, caller: &Caller, operation: &Operation, error: Error, policies: Vec<String>) -> Error {
        self.audit.refuse(operation.tool(), operation.call(), Some(caller), Some(operation), &error, policies);
        error
    }

    /// Decides whether AWS may be looked at for this, and makes the session policy for it.
    fn permit(&self, caller: Arc<Caller>, operation: Operation) -> Result<(LookPermit, SessionPolicy), Error> {
        let tool = operation.tool().name();
        let permit = self.policies.look(Arc::clone(&caller), operation).map_err(|(denial, operation)| {
            let policies = denial.policies();
            telemetry::record_decision(tool, "forbid");
            telemetry::decided("forbid", &policies);
            self.refuse_operation(&caller, &operation, denial.into(), policies)
        })?;
        let operation = permit.operation();
        let account = self.aws.accounts().find(operation.scope().place().account());
        let account =
            account.ok_or_else(|| self.refuse_operation(&caller, operation, AwsError::NoRole.into(), Vec::new()))?;
        let policy = self.actions.session_policy(&Power::of(operation, caller.principal()), account);
        telemetry::record_decision(tool, "permit");
        telemetry::decided("permit", permit.policies());
        if let Some(sha256) = policy.sha256() {
            telemetry::borrows(sha256);
        }
        Ok((permit, policy))
    }

    /// Performs an operation of a call that was let in. Dropping the future gives up a read; a change that was begun is
    /// finished all the same.
    pub async fn perform(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        admitted: &Arc<Admitted>,
        operation: Operation,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let (tool, changes) = (operation.tool().name(), operation.changes());
        if telemetry::logs_requests() {
            telemetry::log_request(tool, &crate::operation::loggable(&operation));
        }
        let result = self.performed(caller, admitted, operation, changes, deadline).await;
        if telemetry::logs_requests() {
            let refused = |error: &Error| serde_json::json!({"refused": error.reason()});
            telemetry::log_answer(tool, &result.as_ref().map_or_else(refused, Answer::loggable));
        }
        result
    }

    async fn performed(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        admitted: &Arc<Admitted>,
        operation: Operation,
        changes: bool,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let (permit, policy) = self.permit(caller, operation)?;
        if !changes {
            return self.read(&permit, &policy, deadline).await;
        }
        // A change that outlives its call is still worked on.
        let (broker, admitted) = (Arc::clone(self), Arc::clone(admitted));
        let span = tracing::Span::current();
        let change = async move { broker.change(&permit, &policy, deadline, &admitted).await };
        let change = self.changes.track_future(tracing::Instrument::instrument(change, span));
        let change = self.tasks.spawn(change);
        change.await.unwrap_or_else(|panic| {
            Err(Error::new(
                Code::Internal,
                "INTERNAL",
                "the service met a fault of its own; see the audit trail for what was done",
            )
            .caused_by(panic))
        })
    }

    /// An operation that cannot change anything: a list, a check, a dry run.
    async fn read(
        &self,
        permit: &LookPermit,
        policy: &SessionPolicy,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let entry = self.audit.begin_read(permit, policy.sha256());
        let result = async {
            match permit.operation().kind() {
                Kind::List(list) => {
                    let (standing, age) = self.seen(permit, policy, &entry, deadline).await?;
                    Ok(listed(list, standing, age, self.now()))
                }
                Kind::Check(check) => {
                    let (standing, age) = self.seen(permit, policy, &entry, deadline).await?;
                    Ok(checked(check, &standing, age))
                }
                kind => {
                    let session = self.aws.assume(permit, policy, &entry, deadline).await?;
                    match kind {
                        Kind::Leases(leases) => self.find_leases(permit, &session, leases).await,
                        _ => self.dry_run(permit, &session, session.rules().await?).await,
                    }
                }
            }
        }
        .await;
        settle(entry, result, false, Done::default())
    }

    /// What stands in the group, and how long ago AWS said so. What another call has just read serves as well, where a
    /// cache is kept; then nothing is asked of AWS, and the entry names that call.
    async fn seen(
        &self,
        permit: &LookPermit,
        policy: &SessionPolicy,
        entry: &Entry,
        deadline: Option<Instant>,
    ) -> Result<(Vec<Rule>, Duration), Failure> {
        match self.aws.look(permit, entry).await {
            Look::Seen { rules, age } => Ok((rules, age)),
            Look::Ask(asking) => {
                let session = self.aws.assume(permit, policy, entry, deadline).await?;
                Ok((asking.ask(&session).await?, Duration::ZERO))
            }
        }
    }

    /// An operation that may change AWS. It is on disk before AWS hears of it.
    async fn change(
        &self,
        permit: &LookPermit,
        policy: &SessionPolicy,
        deadline: Option<Instant>,
        admitted: &Admitted,
    ) -> Result<Answer, Error> {
        let (operation, caller) = (permit.operation(), permit.caller());
        // Everything of one who leaves is ended by one change, or the quota would keep some of it open.
        let once = operation.tool() == Tool::RevokeHolder;
        // Closing a door early is never put off: the rate alone bounds it.
        let charge = if operation.tool() == Tool::Remove { Ok(None) } else { self.limits.charge(admitted, once).await };
        let charge = charge
            .map_err(|exceeded| self.refuse_exceeded(operation.tool(), operation.call(), Some(caller), exceeded))?;
        let recorded = match self.audit.begin_change(permit, policy.sha256()).await {
            Ok(recorded) => recorded,
            Err(error) => {
                self.give_back(charge).await;
                return Err(self.refuse_operation(caller, operation, error.into(), Vec::new()));
            }
        };
        let mut done = Done::default();
        let result = async {
            let session = self.aws.assume(permit, policy, recorded.entry(), deadline).await?;
            let shown = self.shown_from(Instant::now());
            let standing = session.rules().await?;
            recorded.before(&standing);
            self.check_clock()?;
            let mut job = self.job(permit, &session, &recorded, shown)?;
            // What was carried out under this key before has changed what stands itself.
            if job.replayed(&standing)?.is_empty() {
                plan::check_plan(permit, &standing, self.now())?;
            }
            let answer = match permit.operation().kind() {
                Kind::Add(add) => job.add(add, standing).await,
                Kind::Remove(remove) => job.remove(remove, standing).await,
                Kind::Extend(extend) => job.extend(extend, standing).await,
                Kind::Move(relocate) => job.relocate(relocate, standing).await,
                // INVARIANT: the others change nothing, or are the service's own (`upkeep`), so they never get here.
                _ => Err(Failure::Unsettled),
            };
            done = job.done();
            job.settle_room(&answer, done).await;
            if let (Ok(answer), Some(target)) = (&answer, permit.operation().scope().group()) {
                self.has_made(target, answer);
            }
            answer
        }
        .await;
        // Only what AWS was asked to change counts: neither what policy refused nor what stood already.
        let unknown = done.unsure || result.as_ref().err().is_some_and(Failure::may_have_acted);
        if !(done.acted || unknown || recorded.entry().has_asked_for_change()) {
            self.give_back(charge).await;
        }
        settle(recorded.into_entry(), result, true, done)
    }

    async fn give_back(&self, charge: Option<Charge>) {
        if let Some(charge) = charge {
            self.limits.give_back(charge).await;
        }
    }

    /// From when on what is done may be missing from a read that begins now.
    fn shown_from(&self, read: Instant) -> Instant {
        read.checked_sub(self.config.settle).unwrap_or(read)
    }

    fn job<'a>(
        &'a self,
        permit: &'a LookPermit,
        session: &'a Session<'a>,
        recorded: &'a DurableEntry,
        shown: Instant,
    ) -> Result<Job<'a>, Failure> {
        let holder = holder(permit)?;
        Ok(Job {
            broker: self,
            permit,
            session,
            recorded,
            holder,
            acted: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            shown,
            room: OnceLock::new(),
        })
    }

    /// Tells the audit trail whether this machine's clock can be gone by.
    pub fn compare_clocks(&self) {
        self.audit.believe_clock(self.aws.time().is_some() && self.check_clock().is_ok());
    }

    /// Fails if this machine's clock is so far off that an end written now would be wrong.
    fn check_clock(&self) -> Result<(), Failure> {
        let Some(aws) = self.aws.time() else { return Ok(()) };
        let off = self.clock.now().duration_since(aws).as_secs();
        if off.abs() > SKEW_MOST { Err(Failure::Skewed { off }) } else { Ok(()) }
    }
}

/// How far a change got before it failed.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// AWS has been changed.
    acted: bool,
    /// It may have been, and no answer said so.
    unsure: bool,
}

/// Who asks, as it is written on rules.
fn holder(permit: &LookPermit) -> Result<Holder, Failure> {
    let principal = permit.caller().principal();
    Holder::new(principal.name(), principal.id()).ok_or(Failure::Unsettled)
}

// === impl Job ===

impl Job<'_> {
    fn now(&self) -> Timestamp {
        self.broker.now()
    }

    fn call(&self) -> &str {
        self.permit.operation().call().as_str()
    }

    fn acted(&self) {
        self.acted.store(true, Ordering::Relaxed);
    }

    /// A change was sent and its answer lost. A look tells what came of it; should that fail, nobody knows.
    fn unsure(&self) {
        self.unsure.store(true, Ordering::Relaxed);
    }

    /// How far the change got.
    fn done(&self) -> Done {
        Done { acted: self.acted.load(Ordering::Relaxed), unsure: self.unsure.load(Ordering::Relaxed) }
    }

    /// How long to wait between two looks at what AWS has not settled yet.
    fn pause(&self) -> Duration {
        (self.broker.config.settle / 3).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// What remembers on a rule that this request was carried out, if the caller gave it a key.
    fn spent(&self, until: Timestamp, on: Option<&Ownership>) -> Option<Spent> {
        let operation = self.permit.operation();
        let key = operation.key()?;
        let known = on.map(|own| own.spent.as_slice()).unwrap_or_default();
        Some(Spent {
            place: Spent::place_for(&self.holder, known),
            digest: Spent::digest_of(&self.holder, key),
            at: crate::operation::term::whole_seconds(self.now()),
            arguments: crate::operation::ownership::short(&operation.fingerprint()),
            call: self.call().to_owned(),
            until,
        })
    }

    /// The rules on which this very request was carried out before, under the same key.
    fn replayed<'r>(&self, standing: &'r [Rule]) -> Result<Vec<(&'r Rule, &'r Spent)>, Failure> {
        replayed(self.permit.operation(), &self.holder, standing, self.now())
    }
}

/// The rules on which a request was carried out before, under the same key of the same holder.
fn replayed<'r>(
    operation: &Operation,
    holder: &Holder,
    standing: &'r [Rule],
    now: Timestamp,
) -> Result<Vec<(&'r Rule, &'r Spent)>, Failure> {
    let Some(key) = operation.key() else { return Ok(Vec::new()) };
    let digest = Spent::digest_of(holder, key);
    let found = standing.iter().flat_map(|rule| {
        let spent = rule.ownership().map(|ownership| ownership.spent.as_slice()).unwrap_or_default();
        spent.iter().map(move |spent| (rule, spent))
    });
    let found: Vec<_> = found.filter(|(_, spent)| spent.digest == digest && spent.is_fresh(now)).collect();
    let arguments = crate::operation::ownership::short(&operation.fingerprint());
    if found.iter().any(|(_, spent)| spent.arguments != arguments) {
        return Err(Failure::KeyReused);
    }
    Ok(found)
}

/// Ends the entry, and turns a failure into the caller's error.
fn settle(entry: Entry, result: Result<Answer, Failure>, changing: bool, done: Done) -> Result<Answer, Error> {
    telemetry::asked_aws(&entry.request_ids());
    let failure = match result {
        Ok(answer) => {
            // What was read is not written down: it is the group's, not the caller's doing.
            let (changed, touched) = answer.changed();
            entry.end(&Outcome::Done { changed: changing && changed, touched: &touched });
            return Ok(answer);
        }
        Err(failure) => failure,
    };
    let policies = failure.policies();
    let denied = matches!(failure, Failure::Denied(_) | Failure::Declined(_));
    let waits = matches!(failure, Failure::Waits(..));
    if denied || waits {
        let effect = if waits { "ask" } else { "forbid" };
        telemetry::record_decision(entry.tool(), effect);
        telemetry::decided(effect, &policies);
    }
    let unknown = changing && (done.unsure || failure.may_have_acted());
    let mut error = Error::from(failure);
    if done.acted {
        error = error.fact("partly_done", "true");
    } else if unknown {
        error = error.fact("partly_done", "unknown");
    }
    entry.end(&match (unknown, done.acted, denied) {
        (true, ..) => Outcome::Unknown(&error),
        (_, true, _) => Outcome::Partly(&error),
        (_, _, true) => Outcome::Denied(&error, policies),
        _ if waits => Outcome::Waits(&error, policies),
        _ => Outcome::Failed(&error),
    });
    Err(error)
}

fn listed(list: &List, standing: Vec<Rule>, age: Duration, now: Timestamp) -> Answer {
    let total = standing.len();
    let shown = |rule: &Rule| {
        let held = |holder: &String| {
            rule.ownership().is_some_and(|own| own.live(now).any(|lease| lease.holder.is_called(holder)))
        };
        list.block.is_none_or(|block| rule.source.block().is_some_and(|own| own.overlaps(block)))
            && list.ports.is_none_or(|ports| rule.traffic.overlaps(ports))
            && list
                .protocol
                .is_none_or(|protocol| rule.traffic == Traffic::All || rule.traffic.protocol() == protocol.as_str())
            && list.holder.as_ref().is_none_or(held)
            && (!list.managed_only || rule.made != crate::operation::ownership::Made::Elsewhere)
    };
    Answer::Listed { rules: standing.into_iter().filter(shown).collect(), total, age }
}

fn checked(check: &Check, standing: &[Rule], age: Duration) -> Answer {
    let reach = Reach::of(check.block, check.ports, standing);
    let owned = |rules: &[&Rule]| rules.iter().map(|&rule| rule.clone()).collect();
    Answer::Checked {
        verdict: reach.verdict,
        allowed_by: owned(&reach.allowed_by),
        might_allow: owned(&reach.might_allow),
        age,
    }
}
