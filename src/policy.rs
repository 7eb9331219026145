//! May this principal do this? A pure decision over Cedar policies, with the reasons; no I/O after loading.
//!
//! It is asked twice. First on what the request and the configuration say: may they know of this group at all, and may
//! they ask for this? The answer is a [`LookPermit`], without which AWS cannot be read. Then, once AWS has been read, on
//! what stands there: the answer is an [`AddPermit`] or a [`RemovePermit`], without which AWS cannot be changed. IAM
//! sees neither addresses nor ports nor durations, so these decisions are made here or nowhere.
//!
//! Cedar's rules: <https://docs.cedarpolicy.com/>. Forbid beats permit, and no match means deny.

mod facts;
mod load;

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{Authorizer, Context, Decision, EntityUid, PolicyId, PolicySet, Request, Schema};

use crate::error::{Chain, Code, Error};
use crate::identity::Caller;
use crate::operation::Operation;
use crate::operation::rule::Rule;
use crate::operation::target::TargetError;

pub use load::{Config, LoadError};

/// The policies in force.
#[derive(Debug)]
pub struct Policy {
    policies: PolicySet,
    /// What each policy is called, and what it tells whom it refuses.
    reasons: HashMap<PolicyId, Reason>,
    schema: Schema,
    authorizer: Authorizer,
}

/// Leave to read the operation's group.
#[derive(Clone, Debug)]
pub struct LookPermit {
    caller: Arc<Caller>,
    operation: Arc<Operation>,
    policies: Vec<String>,
}

/// Leave to make the operation's rule.
#[derive(Debug)]
pub struct AddPermit {
    policies: Vec<String>,
}

/// Leave to remove some rules, by name, and the matching rules that stand on.
#[derive(Debug)]
pub struct RemovePermit {
    rules: Vec<Rule>,
    kept: Vec<(Rule, Denial)>,
    policies: Vec<String>,
}

/// A decision against the caller.
#[derive(Debug, thiserror::Error)]
pub enum Denial {
    /// They may not know of the group. Reads like an unknown group, and must.
    #[error(transparent)]
    Unseen(TargetError),
    /// Policies forbid it by name.
    #[error("{}", sentences(.0))]
    Forbidden(Vec<Reason>),
    /// No policy permits it.
    #[error("no policy permits this")]
    NotPermitted,
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

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        let text = denial.to_string();
        match denial {
            Denial::Unseen(unknown) => unknown.into(),
            Denial::Forbidden(reasons) => {
                let policies = reasons.iter().map(|reason| reason.policy.as_str()).collect::<Vec<_>>().join(",");
                Self::new(Code::PermissionDenied, "POLICY_FORBIDS", text).fact("policies", policies)
            }
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
            Self::Unseen(_) | Self::NotPermitted | Self::Broken(_) => Vec::new(),
        }
    }
}

// === impl Policy ===

impl Policy {
    /// May the caller know of the group, and ask for this, as far as the request itself tells?
    pub fn look(&self, caller: Arc<Caller>, operation: Arc<Operation>) -> Result<LookPermit, Denial> {
        let facts = facts::Facts::new(&caller, &operation, &self.schema)?;
        if let Err(denial) = self.ask(&facts, "see", facts.see()?) {
            if let Denial::Broken(error) = &denial {
                tracing::error!(error = %Chain(error.as_ref()), "a policy could not be evaluated");
            }
            return Err(Denial::Unseen(TargetError::Unknown(operation.asked().to_owned())));
        }
        let policies = self.ask(&facts, operation.tool().name(), facts.request(&operation, None)?)?;
        Ok(LookPermit { caller, operation, policies })
    }

    /// May the rule be made, given what stands?
    pub fn add(&self, look: &LookPermit, rules: &[Rule]) -> Result<AddPermit, Denial> {
        let facts = facts::Facts::new(&look.caller, &look.operation, &self.schema)?;
        let context = facts.request(&look.operation, Some(facts::standing(rules)?))?;
        Ok(AddPermit { policies: self.ask(&facts, look.operation.tool().name(), context)? })
    }

    /// Which of these rules may be removed? If none of several may, the first refusal is the answer.
    pub fn remove(&self, look: &LookPermit, matching: Vec<Rule>) -> Result<RemovePermit, Denial> {
        let facts = facts::Facts::new(&look.caller, &look.operation, &self.schema)?;
        let mut permit = RemovePermit { rules: Vec::new(), kept: Vec::new(), policies: Vec::new() };
        for rule in matching {
            let context = facts.request(&look.operation, Some(facts::standing_rule(&look.caller, &rule)?))?;
            match self.ask(&facts, look.operation.tool().name(), context) {
                Ok(policies) => {
                    permit.rules.push(rule);
                    permit.policies = policies;
                }
                Err(denial) => permit.kept.push((rule, denial)),
            }
        }
        if permit.rules.is_empty() && !permit.kept.is_empty() {
            return Err(permit.kept.swap_remove(0).1);
        }
        Ok(permit)
    }

    fn ask(&self, facts: &facts::Facts, action: &str, context: Context) -> Result<Vec<String>, Denial> {
        let action = EntityUid::from_type_name_and_id(facts::action_type(), cedar_policy::EntityId::new(action));
        let request =
            Request::new(facts.principal.clone(), action, facts.resource.clone(), context, Some(&self.schema))
                .map_err(broken)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &facts.entities);
        let diagnostics = response.diagnostics();
        // A policy that failed may have been a forbid: without its word there is no yes.
        if let Some(error) = diagnostics.errors().next() {
            return Err(broken(error.clone()));
        }
        let reasons = diagnostics.reason().filter_map(|id| self.reasons.get(id));
        match response.decision() {
            Decision::Allow => Ok(reasons.map(|reason| reason.policy.clone()).collect()),
            Decision::Deny => {
                let mut reasons: Vec<Reason> = reasons.cloned().collect();
                reasons.sort_by(|a, b| a.policy.cmp(&b.policy));
                if reasons.is_empty() { Err(Denial::NotPermitted) } else { Err(Denial::Forbidden(reasons)) }
            }
        }
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Denial {
    Denial::Broken(Arc::new(error))
}

// === impl permits ===

impl LookPermit {
    /// Who has it.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// What it is for.
    pub fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

impl AddPermit {
    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

impl RemovePermit {
    /// The rules that may be removed.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules that match and may not, each with the refusal.
    pub fn kept(&self) -> &[(Rule, Denial)] {
        &self.kept
    }

    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

#[cfg(test)]
mod tests;
