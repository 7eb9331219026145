//! May this principal do this? A pure decision over Cedar policies, with the reasons; no I/O after loading.
//!
//! It is asked twice. First on what the request and the configuration say: may they know of this group at all, and may
//! they ask for this? The answer is a [`LookPermit`], without which AWS cannot be read. Then, once AWS has been read, on
//! what stands there: the answer is an [`AddPermit`] or a [`RulesPermit`], without which AWS cannot be changed. IAM
//! sees neither addresses nor ports nor durations, so these decisions are made here or nowhere.
//!
//! What the service does for itself (it closes what has ended) is decided by policies of its own, which no
//! configuration can take away: a door that should close must not stay open because a policy file forgot it.
//!
//! Cedar's rules: <https://docs.cedarpolicy.com/>. Forbid beats permit, and no match means deny.

mod facts;
mod live;
mod load;
mod permit;
mod reach;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{Authorizer, Context, Decision, EntityUid, PolicyId, PolicySet, Request, Schema};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::approval::WhoseWord;
use crate::error::{Chain, Code, Error};
use crate::identity::{self, Caller};
use crate::operation::lease::Lease;
use crate::operation::ownership::Made;
use crate::operation::rule::Rule;
use crate::operation::target::{Target, TargetError};
use crate::operation::term::TermError;
use crate::operation::{Kind, Opening, Operation, Scope};

pub use live::{Policies, Reload, reload_apart};
pub use load::{Config, LoadError};
pub use permit::{AddPermit, LookPermit, Permit, RulesPermit};
pub use waiting::{Demand, Glass, Pending, Word};

use waiting::Allowed;

/// A set of policies that was checked whole. Clones are the same set.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Those of the configuration, for whoever calls.
    callers: Arc<Rulebook>,
    /// Those for what the service does for itself.
    own: Arc<Rulebook>,
    schema: Arc<Schema>,
    authorizer: Authorizer,
    /// The zone in which the time of day is told.
    zone: TimeZone,
}

/// A set of policies, and what each of them says besides yes or no.
#[derive(Debug)]
struct Rulebook {
    policies: PolicySet,
    /// What each policy is called, and what it tells whom it refuses.
    reasons: HashMap<PolicyId, Reason>,
    /// The default term that a policy sets.
    terms: HashMap<PolicyId, SignedDuration>,
    /// The policies that forbid only without somebody's word, and whose.
    demands: HashMap<PolicyId, WhoseWord>,
    /// The policies without those.
    without_demands: PolicySet,
    /// Whether one of them speaks of what AWS alone knows of a group: its tags or its VPC.
    descriptions: bool,
}

/// A rule on which a lease is to be changed: what policy is asked about.
#[derive(Debug)]
pub struct Change {
    /// The rule.
    pub rule: Rule,
    /// Whether every lease that is to be changed is the caller's own.
    pub callers_own: bool,
    /// What is to stand afterwards, and for how long; none where leases only end.
    pub opening: Option<(Opening, SignedDuration)>,
}

/// A decision against the caller.
#[derive(Debug, thiserror::Error)]
pub enum Denial {
    /// They may not know of the group. Reads like an unknown group, and must.
    #[error(transparent)]
    Unseen(TargetError),
    /// A policy speaks of the group's tags or its VPC, and AWS could not be asked for them. It says nothing of the group:
    /// where groups cannot be read, nobody can tell one that is hidden from one that is not there.
    #[error(
        "what AWS knows of the security groups (their tags, their VPC) could not be read just now, and policy depends on it; nothing was changed. Try again in a few seconds"
    )]
    Undescribed,
    /// Policies forbid it by name.
    #[error("{}", sentences(.0))]
    Forbidden(Vec<Reason>),
    /// No policy permits it.
    #[error("no policy permits this")]
    NotPermitted,
    /// Some of what is asked for at once is refused, and then none of it is done.
    #[error("{}; nothing was changed in this group", several(.0))]
    Several(Vec<(String, Self)>),
    /// Neither the caller nor a policy says how long.
    #[error(transparent)]
    Unsaid(TermError),
    /// The rule was not made by this service, which never touches such a rule.
    #[error("this rule was not made by this service, and it is never touched through it")]
    NotOurs,
    /// The caller holds no lease on the rule, and did not say whose to end.
    #[error("you hold no lease on this rule; name whose to end by `holder`, if policy allows you that")]
    NotHeld,
    /// The rule's tags are not whole.
    #[error("the service's tags on this rule are damaged ({0}); an operator must mend or remove it by hand")]
    Damaged(String),
    /// A policy could not be evaluated on these facts; deciding without it would be a guess.
    #[error("a policy could not be evaluated, so the answer is no")]
    Broken(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// One policy that refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The policy's `@id`.
    pub policy: String,
    /// Its `@message`: what would be allowed.
    pub message: String,
}

fn sentences(reasons: &[Reason]) -> String {
    reasons
        .iter()
        .map(|reason| format!("{} (policy `{}`)", reason.message, reason.policy))
        .collect::<Vec<_>>()
        .join(" ")
}

fn several(refused: &[(String, Denial)]) -> String {
    refused.iter().map(|(what, denial)| format!("{what}: {denial}")).collect::<Vec<_>>().join("; ")
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        let text = denial.to_string();
        match denial {
            Denial::Unseen(unknown) => unknown.into(),
            Denial::Undescribed => {
                Self::new(Code::Unavailable, "GROUPS_UNREAD", text).retry_after(std::time::Duration::from_secs(3))
            }
            Denial::Forbidden(_) | Denial::Several(_) => {
                let policies = denial.policies();
                let reason = if policies.is_empty() { "POLICY_DOES_NOT_PERMIT" } else { "POLICY_FORBIDS" };
                let error = Self::new(Code::PermissionDenied, reason, text);
                if policies.is_empty() { error } else { error.fact("policies", policies.join(",")) }
            }
            Denial::Unsaid(unsaid) => unsaid.into(),
            Denial::NotOurs => Self::new(Code::PermissionDenied, "NOT_OURS", text),
            Denial::NotHeld => Self::new(Code::PermissionDenied, "NOT_HELD", text),
            Denial::Damaged(_) => Self::new(Code::FailedPrecondition, "TAGS_DAMAGED", text),
            Denial::NotPermitted => Self::new(Code::PermissionDenied, "POLICY_DOES_NOT_PERMIT", text),
            Denial::Broken(_) => Self::new(Code::Internal, "POLICY_BROKEN", text).caused_by(denial),
        }
    }
}

impl Denial {
    /// The ids of the policies that refused.
    pub fn policies(&self) -> Vec<String> {
        match self {
            Self::Forbidden(reasons) => reasons.iter().map(|reason| reason.policy.clone()).collect(),
            Self::Several(refused) => {
                let mut policies: Vec<String> = refused.iter().flat_map(|(_, denial)| denial.policies()).collect();
                policies.sort();
                policies.dedup();
                policies
            }
            _ => Vec::new(),
        }
    }
}

// === impl Policy ===

impl Policy {
    /// May the caller know of the group, and ask for this, as far as the request itself tells? Where the caller did not
    /// say how long access is needed, policy does.
    pub fn look(&self, caller: Arc<Caller>, operation: Operation) -> Result<LookPermit, (Denial, Arc<Operation>)> {
        let policy = self.clone();
        match self.decide_look(&caller, &operation) {
            Ok((policies, None)) => Ok(LookPermit { policy, caller, operation: Arc::new(operation), policies }),
            Ok((policies, Some(default))) => {
                let operation = Arc::new(operation.with_default_term(default));
                Ok(LookPermit { policy, caller, operation, policies })
            }
            Err(denial) => Err((denial, Arc::new(operation))),
        }
    }

    fn decide_look(
        &self,
        caller: &Caller,
        operation: &Operation,
    ) -> Result<(Vec<String>, Option<SignedDuration>), Denial> {
        let facts = self.facts(caller, operation.scope(), operation.received())?;
        let action = operation.tool().name();
        if caller.principal().kind() == identity::Kind::Own {
            return Ok((self.ask(&self.own, &facts, action, facts.bare()?)?.firm()?, None));
        }
        if operation.scope().group().is_some() {
            self.see(&facts, operation.asked())?;
        }
        match operation.kind() {
            Kind::Add(add) => {
                let default = if add.term.is_unsaid() {
                    let terms = add.openings.iter().map(|&opening| self.default_term(&facts, opening));
                    let shortest = terms.collect::<Result<Vec<_>, _>>()?.into_iter().min();
                    Some(shortest.ok_or(Denial::Unsaid(TermError::Unsaid))?)
                } else {
                    None
                };
                let term = default.map_or_else(|| add.term.clone(), |default| add.term.clone().or(default));
                let length = term.length(operation.received()).unwrap_or(SignedDuration::MAX);
                // What is demanded besides is asked about again once AWS was read.
                let allowed = self.openings(&facts, operation, &add.openings, length, None)?;
                Ok((allowed.policies, default))
            }
            // What these reach is known only once AWS was read: then each rule is decided by itself.
            Kind::Extend(_) | Kind::Move(_) => Ok((Vec::new(), None)),
            Kind::Leases(leases) => {
                let own = leases.whose == crate::operation::Whose::Own;
                let allowed = self.ask(&self.callers, &facts, action, facts.leases(operation, own)?)?;
                // The search for what is to end is decided again for each rule.
                let ends = operation.tool().can_change();
                Ok((if ends { allowed.policies } else { allowed.firm()? }, None))
            }
            Kind::Remove(_) => Ok((self.ask(&self.callers, &facts, action, facts.request(operation)?)?.policies, None)),
            _ => Ok((self.ask(&self.callers, &facts, action, facts.request(operation)?)?.firm()?, None)),
        }
    }

    /// What policies are told of a question.
    fn facts(&self, caller: &Caller, scope: &Scope, at: Timestamp) -> Result<facts::Facts, Denial> {
        let undescribed = scope.group().is_some_and(|target| target.described().is_none());
        if undescribed && self.callers.descriptions && caller.principal().kind() != identity::Kind::Own {
            return Err(Denial::Undescribed);
        }
        facts::Facts::new(caller, scope, at, &self.zone, &self.schema)
    }

    /// Whether some policy asks for somebody's word.
    pub fn wants_approvals(&self) -> bool {
        !self.callers.demands.is_empty()
    }

    /// Whether a decision on a group needs what AWS alone knows of it, its tags or its VPC.
    pub fn speaks_of_descriptions(&self) -> bool {
        self.callers.descriptions
    }

    /// Whether the caller may know of a group at all.
    pub fn sees(&self, caller: &Caller, target: &Target, at: Timestamp) -> Result<bool, Denial> {
        let facts = self.facts(caller, &Scope::Group(target.clone()), at)?;
        Ok(self.see(&facts, "").is_ok())
    }

    fn see(&self, facts: &facts::Facts, asked: &str) -> Result<(), Denial> {
        let seen = self.ask(&self.callers, facts, "see", facts.bare()?).and_then(Allowed::firm);
        let Err(denial) = seen else { return Ok(()) };
        if let Denial::Broken(error) = &denial {
            tracing::error!(error = %Chain(error.as_ref()), "a policy could not be evaluated");
        }
        Err(Denial::Unseen(TargetError::Unknown(asked.to_owned())))
    }

    /// Whether the caller may know of a group, and list it among those there are.
    pub fn shows(&self, caller: &Caller, target: &Target, at: Timestamp) -> bool {
        let Ok(facts) = self.facts(caller, &Scope::Group(target.clone()), at) else { return false };
        let targets = crate::operation::Tool::Targets.name();
        let listed = facts.bare().and_then(|context| self.ask(&self.callers, &facts, targets, context)?.firm());
        self.see(&facts, "").is_ok() && listed.is_ok()
    }

    /// Whether the caller may see a lease on a rule of a group: their own always, others' where policy says so.
    ///
    /// An error where it cannot be told: a lease that is left out because of that would be taken for none.
    pub fn shows_lease(&self, look: &LookPermit, target: &Target, lease: &Lease) -> Result<bool, Denial> {
        let caller = &look.caller;
        if caller.principal().is(&lease.holder.id()) {
            return Ok(true);
        }
        let facts = self.facts(caller, &Scope::Group(target.clone()), look.operation.received())?;
        let asked = facts
            .leases(&look.operation, false)
            .and_then(|context| self.ask(&self.callers, &facts, look.operation.tool().name(), context));
        // What is to end is decided again, with what is demanded for it.
        let ends = look.operation.tool().can_change();
        Ok(self.see(&facts, "").is_ok() && asked.is_ok_and(|allowed| ends || allowed.demand.is_none()))
    }

    /// How long a lease lasts where the caller does not say: the shortest of the defaults that apply.
    fn default_term(&self, facts: &facts::Facts, opening: Opening) -> Result<SignedDuration, Denial> {
        let context = facts.default_term(opening)?;
        let response = self.response(&self.callers.policies, facts, "default_duration", context)?;
        let terms = response.diagnostics().reason().filter_map(|id| self.callers.terms.get(id));
        terms.min().copied().ok_or(Denial::Unsaid(TermError::Unsaid))
    }

    /// How long a lease on a rule that stands is extended where the caller does not say.
    pub fn default_for(&self, look: &LookPermit, opening: Opening) -> Result<SignedDuration, Denial> {
        let operation = &look.operation;
        self.default_term(&self.facts(&look.caller, operation.scope(), operation.received())?, opening)
    }

    fn openings(
        &self,
        facts: &facts::Facts,
        operation: &Operation,
        openings: &[Opening],
        length: SignedDuration,
        standing: Option<&facts::Standing>,
    ) -> Result<Allowed, Denial> {
        let (mut policies, mut demands, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for &opening in openings {
            let context = facts.opening(operation, opening, length, standing.cloned())?;
            match self.ask(&self.callers, facts, operation.tool().name(), context) {
                Ok(allowed) => {
                    policies.extend(allowed.policies);
                    demands.extend(allowed.demand);
                }
                Err(denial) => refused.push((opening.to_string(), denial)),
            }
        }
        policies.sort();
        policies.dedup();
        match refused.len() {
            0 => Ok(Allowed { policies, demand: Demand::all(demands) }),
            _ if openings.len() == 1 => Err(refused.swap_remove(0).1),
            _ => Err(Denial::Several(refused)),
        }
    }

    /// May the rules be made, given what stands?
    pub fn add(&self, look: &LookPermit, rules: &[Rule]) -> Result<Pending<AddPermit>, Denial> {
        let operation = &look.operation;
        let Kind::Add(add) = operation.kind() else { return Err(Denial::NotPermitted) };
        let facts = self.facts(&look.caller, operation.scope(), operation.received())?;
        let standing = facts::standing(rules)?;
        let length = add.term.length(operation.received()).unwrap_or(SignedDuration::MAX);
        let Allowed { policies, demand } = self.openings(&facts, operation, &add.openings, length, Some(&standing))?;
        Ok(Pending::new(AddPermit { openings: add.openings.clone(), policies }, demand))
    }

    /// Which of these rules may be changed? If none of several may, the first refusal is the answer.
    ///
    /// Whatever a policy says, a rule that this service did not make is not touched, nor one whose tags are damaged.
    pub fn change(
        &self,
        look: &LookPermit,
        changes: Vec<Change>,
        rules: &[Rule],
    ) -> Result<Pending<RulesPermit>, Denial> {
        let operation = &look.operation;
        let facts = self.facts(&look.caller, operation.scope(), operation.received())?;
        let (mut permit, mut demands) = (RulesPermit::default(), Vec::new());
        for change in changes {
            let denial = match &change.rule.made {
                Made::Elsewhere => Some(Denial::NotOurs),
                Made::Damaged(how) => Some(Denial::Damaged(how.clone())),
                Made::Here(_) => {
                    let rule = facts::standing_rule(&change)?;
                    let context = match change.opening {
                        None => facts.removal(operation, rule)?,
                        Some((opening, length)) => {
                            facts.reopening(operation, opening, length, rule, facts::standing(rules)?)?
                        }
                    };
                    match self.ask(&self.callers, &facts, operation.tool().name(), context) {
                        Ok(allowed) => {
                            permit.policies.extend(allowed.policies);
                            demands.extend(allowed.demand);
                            None
                        }
                        Err(denial) => Some(denial),
                    }
                }
            };
            match denial {
                Some(denial) => permit.kept.push((change.rule, denial)),
                None => {
                    permit.openings.extend(change.opening.map(|(opening, _)| opening));
                    permit.rules.push(change.rule);
                }
            }
        }
        permit.policies.sort();
        permit.policies.dedup();
        if permit.rules.is_empty() && !permit.kept.is_empty() {
            return Err(permit.kept.swap_remove(0).1);
        }
        Ok(Pending::new(permit, Demand::all(demands)))
    }

    /// May the caller go ahead with what they asked for, though policy wants somebody's word first?
    pub fn break_glass(&self, look: &LookPermit) -> Result<Glass, Denial> {
        let facts = self.facts(&look.caller, look.operation.scope(), look.operation.received())?;
        let context = facts.glass(look.operation.tool().name())?;
        Ok(Glass { policies: self.ask(&self.callers, &facts, "break_glass", context)?.firm()? })
    }

    /// May somebody decide on a request for approval, of this tool on this group? One who may not even see the group is
    /// told nothing of it.
    pub fn approve(
        &self,
        caller: &Caller,
        request: &crate::approval::Request,
        target: &Target,
        own: bool,
        at: Timestamp,
    ) -> Result<Vec<String>, Denial> {
        let facts = self.facts(caller, &Scope::Group(target.clone()), at)?;
        self.see(&facts, "")?;
        self.ask(&self.callers, &facts, "approve", facts.decision(request, own)?)?.firm()
    }

    /// Which of these rules may the service itself close or tidy, as they stand `now`? The others are those that
    /// somebody holds.
    pub fn upkeep(
        &self,
        look: &LookPermit,
        rules: Vec<Rule>,
        now: Timestamp,
    ) -> Result<(RulesPermit, Vec<Rule>), Denial> {
        let operation = &look.operation;
        let facts = self.facts(&look.caller, operation.scope(), operation.received())?;
        let (mut permit, mut kept) = (RulesPermit::default(), Vec::new());
        for rule in rules {
            let ownership = match &rule.made {
                Made::Elsewhere => return Err(Denial::NotOurs),
                Made::Damaged(how) => return Err(Denial::Damaged(how.clone())),
                Made::Here(ownership) => ownership,
            };
            let context = facts.upkeep(ownership.live(now).next().is_none())?;
            match self.ask(&self.own, &facts, operation.tool().name(), context).and_then(Allowed::firm) {
                Ok(policies) => {
                    permit.policies = policies;
                    permit.rules.push(rule);
                }
                Err(Denial::Forbidden(_)) => kept.push(rule),
                Err(denial) => return Err(denial),
            }
        }
        Ok((permit, kept))
    }

    fn response(
        &self,
        policies: &PolicySet,
        facts: &facts::Facts,
        action: &str,
        context: Context,
    ) -> Result<cedar_policy::Response, Denial> {
        let action = EntityUid::from_type_name_and_id(facts::action_type(), cedar_policy::EntityId::new(action));
        let request =
            Request::new(facts.principal.clone(), action, facts.resource.clone(), context, Some(&self.schema))
                .map_err(broken)?;
        let response = self.authorizer.is_authorized(&request, policies, &facts.entities);
        // A policy that failed may have been a forbid: without its word there is no yes.
        let failed = response.diagnostics().errors().next().cloned();
        failed.map_or(Ok(response), |error| Err(broken(error)))
    }

    fn ask(&self, book: &Rulebook, facts: &facts::Facts, action: &str, context: Context) -> Result<Allowed, Denial> {
        let response = self.response(&book.policies, facts, action, context.clone())?;
        if response.decision() == Decision::Allow {
            return Ok(Allowed { policies: book.names(&response), demand: None });
        }
        let demand = book.demand(&response);
        if let Some(demand) = demand {
            // Without those that want somebody's word: is it permitted then?
            let response = self.response(&book.without_demands, facts, action, context)?;
            if response.decision() == Decision::Allow {
                return Ok(Allowed { policies: book.names(&response), demand: Some(demand) });
            }
            return Err(book.refusal(&response));
        }
        Err(book.refusal(&response))
    }
}

impl Rulebook {
    /// The policies that an answer rests on.
    fn names(&self, response: &cedar_policy::Response) -> Vec<String> {
        let reasons = response.diagnostics().reason().filter_map(|id| self.reasons.get(id));
        reasons.map(|reason| reason.policy.clone()).collect()
    }

    /// What is demanded, where a refusal rests on nothing but that.
    fn demand(&self, response: &cedar_policy::Response) -> Option<Demand> {
        let demanded = |id| Some(Demand { from: *self.demands.get(id)?, reasons: vec![self.reasons.get(id)?.clone()] });
        let demands: Option<Vec<Demand>> = response.diagnostics().reason().map(demanded).collect();
        demands.and_then(Demand::all)
    }

    fn refusal(&self, response: &cedar_policy::Response) -> Denial {
        let mut reasons: Vec<Reason> =
            response.diagnostics().reason().filter_map(|id| self.reasons.get(id)).cloned().collect();
        reasons.sort_by(|a, b| a.policy.cmp(&b.policy));
        if reasons.is_empty() { Denial::NotPermitted } else { Denial::Forbidden(reasons) }
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Denial {
    Denial::Broken(Arc::new(error))
}

#[cfg(test)]
mod tests;
