//! One operation for one principal: decide, record, assume, look, decide again, change, record.
//!
//! This file is the road of every call through the core. Each step takes what the step before it made, so none can be
//! left out: policy makes the permit, the audit trail makes the entry from the permit, AWS makes the session from both,
//! and only a second permit with an entry that is on disk changes anything.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::audit::{Audit, Entry, Outcome};
use crate::aws::session_policy::{Actions, SessionPolicy};
use crate::aws::{Authorized, Aws, AwsError, Session};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::identity::Caller;
use crate::operation::ownership::Ownership;
use crate::operation::reach::Reach;
use crate::operation::rule::{Rule, Source, Traffic};
use crate::operation::target::Targets;
use crate::operation::{Add, CallId, Check, Context, Kind, List, Operation, Remove, Tool};
use crate::policy::{Denial, LookPermit, Policy, RemovePermit};

/// Performs operations.
#[derive(Debug)]
pub struct Broker {
    policy: Policy,
    audit: Audit,
    aws: Aws,
    actions: Actions,
    targets: Targets,
    clock: Clock,
    tasks: TaskTracker,
}

/// What came of an operation.
#[derive(Debug)]
pub enum Answer {
    /// A rule was asked for.
    Added {
        /// What happened.
        outcome: Added,
        /// The rule as it stands, or would.
        rule: Rule,
    },
    /// A removal was asked for.
    Removed {
        /// What happened.
        outcome: Removed,
        /// The rules that were removed, or would be.
        rules: Vec<Rule>,
        /// The rules that match as well and stand on, each with the reason.
        kept: Vec<(Rule, String)>,
    },
    /// A list was asked for.
    Listed {
        /// The rules that the filters let through.
        rules: Vec<Rule>,
        /// How many there are in all.
        total: usize,
    },
    /// A check was asked for.
    Checked {
        /// The answer.
        verdict: crate::operation::reach::Verdict,
        /// The rules that let it in.
        allowed_by: Vec<Rule>,
        /// The rules that might.
        might_allow: Vec<Rule>,
    },
}

/// What came of asking for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was made.
    Opened,
    /// It stood already.
    AlreadyOpen,
    /// It would be made.
    WouldOpen,
}

/// What came of asking for a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Rules were removed.
    Removed,
    /// There was nothing to remove.
    Nothing,
    /// Rules would be removed.
    WouldRemove,
}

/// Why an operation that was begun was not done.
enum Failure {
    Denied(Denial),
    Aws(AwsError),
    /// AWS contradicts itself, as it may for a moment after a change.
    Unsettled,
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<AwsError> for Failure {
    fn from(error: AwsError) -> Self {
        Self::Aws(error)
    }
}

impl Broker {
    /// Puts the parts together.
    pub fn new(
        policy: Policy,
        audit: Audit,
        aws: Aws,
        actions: Actions,
        targets: Targets,
        clock: Clock,
        tasks: TaskTracker,
    ) -> Self {
        Self { policy, audit, aws, actions, targets, clock, tasks }
    }

    /// What requests are read against, for a caller.
    pub fn context(&self, caller: &Caller) -> Context<'_> {
        Context { targets: &self.targets, caller: caller.address(), now: self.clock.now() }
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

    /// Performs an operation. Dropping the future gives up a read; a change that was begun is finished all the same.
    pub async fn perform(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        operation: Operation,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let operation = Arc::new(operation);
        let permit = self.policy.look(Arc::clone(&caller), Arc::clone(&operation)).map_err(|denial| {
            let policies = denial.policies();
            self.refuse_operation(&caller, &operation, denial.into(), policies)
        })?;
        let account = self.aws.accounts().find(operation.target().account());
        let account =
            account.ok_or_else(|| self.refuse_operation(&caller, &operation, AwsError::NoRole.into(), Vec::new()))?;
        let policy = self.actions.session_policy(
            operation.tool(),
            operation.changes(),
            account,
            operation.target(),
            operation.call(),
        );
        if !operation.changes() {
            return self.read(&permit, &policy, deadline).await;
        }
        let broker = Arc::clone(self);
        let span = tracing::Span::current();
        let change = async move { broker.change(&permit, &policy, deadline).await };
        let change = self.tasks.spawn(tracing::Instrument::instrument(change, span));
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
            let session = self.aws.assume(permit, policy, &entry, deadline).await?;
            let standing = session.rules().await?;
            match permit.operation().kind() {
                Kind::List(list) => Ok(listed(list, standing)),
                Kind::Check(check) => Ok(checked(check, &standing)),
                Kind::Add(add) => {
                    self.policy.add(permit, &standing)?;
                    Ok(self.would_add(permit, add, standing))
                }
                Kind::Remove(remove) => {
                    let removal = self.policy.remove(permit, matching(remove, standing))?;
                    let outcome = if removal.rules().is_empty() { Removed::Nothing } else { Removed::WouldRemove };
                    Ok(removed(outcome, &removal))
                }
            }
        }
        .await;
        settle(entry, result, false)
    }

    /// An operation that may change AWS. It is on disk before AWS hears of it.
    async fn change(
        &self,
        permit: &LookPermit,
        policy: &SessionPolicy,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let recorded = self.audit.begin_change(permit, policy.sha256()).await;
        let recorded = recorded
            .map_err(|error| self.refuse_operation(permit.caller(), permit.operation(), error.into(), Vec::new()))?;
        let result = async {
            let session = self.aws.assume(permit, policy, recorded.entry(), deadline).await?;
            let standing = session.rules().await?;
            recorded.before(&standing);
            match permit.operation().kind() {
                Kind::Add(add) => self.add(permit, add, &session, &recorded, standing).await,
                Kind::Remove(remove) => self.remove(permit, remove, &session, &recorded, standing).await,
                // INVARIANT: `Operation::changes` is false for these, so they never get here.
                Kind::List(list) => Ok(listed(list, standing)),
                Kind::Check(check) => Ok(checked(check, &standing)),
            }
        }
        .await;
        settle(recorded.into_entry(), result, true)
    }

    async fn add(
        &self,
        permit: &LookPermit,
        add: &Add,
        session: &Session<'_>,
        recorded: &crate::audit::DurableEntry,
        standing: Vec<Rule>,
    ) -> Result<Answer, Failure> {
        let allowed = self.policy.add(permit, &standing)?;
        recorded.entry().decided(allowed.policies());
        if let Some(rule) = standing.into_iter().find(|rule| rule.is(add.block, add.ports)) {
            return Ok(Answer::Added { outcome: Added::AlreadyOpen, rule });
        }
        let ownership = self.ownership(permit, add);
        let stands = |rules: Vec<Rule>| rules.into_iter().find(|rule| rule.is(add.block, add.ports));
        let ours = |rule: &Rule| rule.ownership.as_ref().is_some_and(|own| own.call == ownership.call);
        match session.authorize(&allowed, recorded, add, &ownership).await {
            Ok(Authorized::Made(rule)) => Ok(Answer::Added { outcome: Added::Opened, rule: *rule }),
            // Somebody was faster, or our own request went through and its answer was lost: the rule's tag tells.
            Ok(Authorized::Duplicate) => {
                let rules = session.rules_after_change().await.map_err(|_| Failure::Unsettled)?;
                let rule = stands(rules).ok_or(Failure::Unsettled)?;
                let outcome = if ours(&rule) { Added::Opened } else { Added::AlreadyOpen };
                Ok(Answer::Added { outcome, rule })
            }
            Err(error) if error.may_have_acted() => match session.rules_after_change().await.map(stands) {
                Ok(Some(rule)) if ours(&rule) => Ok(Answer::Added { outcome: Added::Opened, rule }),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn remove(
        &self,
        permit: &LookPermit,
        remove: &Remove,
        session: &Session<'_>,
        recorded: &crate::audit::DurableEntry,
        standing: Vec<Rule>,
    ) -> Result<Answer, Failure> {
        let removal = self.policy.remove(permit, matching(remove, standing))?;
        recorded.entry().decided(removal.policies());
        if removal.rules().is_empty() {
            return Ok(removed(Removed::Nothing, &removal));
        }
        let Err(error) = session.revoke(&removal, recorded).await else {
            return Ok(removed(Removed::Removed, &removal));
        };
        // A rule that went meanwhile, or a lost answer: what stands now tells.
        let gone = error.code().is_some_and(|code| code.ends_with(".NotFound"));
        if gone || error.may_have_acted() {
            let left = session.rules_after_change().await;
            let stands =
                |rule: &Rule| left.as_ref().map_or(true, |left| left.iter().any(|stands| stands.id == rule.id));
            if !removal.rules().iter().any(stands) {
                return Ok(removed(Removed::Removed, &removal));
            }
            if gone {
                return Err(Failure::Unsettled);
            }
        }
        Err(error.into())
    }

    fn ownership(&self, permit: &LookPermit, add: &Add) -> Ownership {
        let principal = permit.caller().principal();
        let now: Timestamp = self.clock.now();
        Ownership::new(
            principal.name(),
            principal.id(),
            &add.reason,
            now,
            add.lease.until(),
            permit.operation().call().as_str(),
        )
    }

    fn would_add(&self, permit: &LookPermit, add: &Add, standing: Vec<Rule>) -> Answer {
        if let Some(rule) = standing.into_iter().find(|rule| rule.is(add.block, add.ports)) {
            return Answer::Added { outcome: Added::AlreadyOpen, rule };
        }
        let ownership = self.ownership(permit, add);
        let rule = Rule {
            id: None,
            source: Source::Block(add.block),
            traffic: Traffic::Ports(add.ports),
            description: ownership.description(),
            ownership: Some(ownership),
        };
        Answer::Added { outcome: Added::WouldOpen, rule }
    }
}

/// Ends the entry, and turns a failure into the caller's error.
fn settle(entry: Entry, result: Result<Answer, Failure>, changing: bool) -> Result<Answer, Error> {
    let failure = match result {
        Ok(answer) => {
            let (changed, rules): (bool, &[Rule]) = match &answer {
                Answer::Added { outcome, rule } => (changing && *outcome == Added::Opened, std::slice::from_ref(rule)),
                Answer::Removed { outcome, rules, .. } => (changing && *outcome == Removed::Removed, rules),
                // What was read is not written down: it is the group's, not the caller's doing.
                Answer::Listed { .. } | Answer::Checked { .. } => (false, &[]),
            };
            entry.end(&Outcome::Done { changed, rules });
            return Ok(answer);
        }
        Err(failure) => failure,
    };
    match failure {
        Failure::Denied(denial) => {
            let policies = denial.policies();
            let error = Error::from(denial);
            entry.end(&Outcome::Denied(&error, policies));
            Err(error)
        }
        Failure::Aws(aws) => {
            let unknown = changing && aws.may_have_acted();
            let error = Error::from(aws);
            entry.end(&if unknown { Outcome::Unknown(&error) } else { Outcome::Failed(&error) });
            Err(error)
        }
        Failure::Unsettled => {
            let text = "AWS has not settled yet: it reports a rule and does not show it, or the other way round; try again in a few seconds";
            let error =
                Error::new(Code::Unavailable, "AWS_UNSETTLED", text).retry_after(std::time::Duration::from_secs(3));
            entry.end(&Outcome::Unknown(&error));
            Err(error)
        }
    }
}

fn matching(remove: &Remove, standing: Vec<Rule>) -> Vec<Rule> {
    let matches = |rule: &Rule| {
        remove.rule_id.as_ref().is_none_or(|id| rule.id.as_ref() == Some(id))
            && remove.block.is_none_or(|block| rule.source.block() == Some(block))
            && remove.ports.is_none_or(|ports| rule.traffic == Traffic::Ports(ports))
            && remove.protocol.is_none_or(|protocol| rule.traffic.protocol() == protocol.as_str())
    };
    standing.into_iter().filter(matches).collect()
}

fn removed(outcome: Removed, removal: &RemovePermit) -> Answer {
    let kept = removal.kept().iter().map(|(rule, denial)| (rule.clone(), denial.to_string())).collect();
    Answer::Removed { outcome, rules: removal.rules().to_vec(), kept }
}

fn listed(list: &List, standing: Vec<Rule>) -> Answer {
    let total = standing.len();
    let shown = |rule: &Rule| {
        let ownership = rule.ownership.as_ref();
        list.block.is_none_or(|block| rule.source.block().is_some_and(|own| own.overlaps(block)))
            && list.ports.is_none_or(|ports| rule.traffic.overlaps(ports))
            && list
                .protocol
                .is_none_or(|protocol| rule.traffic == Traffic::All || rule.traffic.protocol() == protocol.as_str())
            && list
                .holder
                .as_ref()
                .is_none_or(|holder| ownership.is_some_and(|own| own.holder == *holder || own.holder_id == *holder))
            && (!list.managed_only || ownership.is_some())
    };
    Answer::Listed { rules: standing.into_iter().filter(shown).collect(), total }
}

fn checked(check: &Check, standing: &[Rule]) -> Answer {
    let reach = Reach::of(check.block, check.ports, standing);
    let owned = |rules: &[&Rule]| rules.iter().map(|&rule| rule.clone()).collect();
    Answer::Checked {
        verdict: reach.verdict,
        allowed_by: owned(&reach.allowed_by),
        might_allow: owned(&reach.might_allow),
    }
}
