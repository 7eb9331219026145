//! Permits: what policy has decided, as values that only this module and the one above can make.

use std::sync::Arc;

use super::{Denial, Policy};
use crate::identity::Caller;
use crate::operation::rule::Rule;
use crate::operation::{Opening, Operation};

/// Leave to read what the operation reaches.
#[derive(Clone, Debug)]
pub struct LookPermit {
    /// The policies that permitted it, which decide on the rest of the call as well.
    pub(super) policy: Policy,
    pub(super) caller: Arc<Caller>,
    pub(super) operation: Arc<Operation>,
    pub(super) policies: Vec<String>,
}

/// Leave to make rules.
#[derive(Debug)]
pub struct AddPermit {
    pub(super) openings: Vec<Opening>,
    pub(super) policies: Vec<String>,
}

/// Leave to change some rules, by name; and the rules that are meant as well and may not be touched.
#[derive(Debug)]
pub struct RulesPermit {
    pub(super) rules: Vec<Rule>,
    pub(super) openings: Vec<Opening>,
    pub(super) kept: Vec<(Rule, Denial)>,
    pub(super) policies: Vec<String>,
}

// === impl permits ===

/// Leave to touch certain rules.
pub trait Permit {
    /// Whether it is for this rule.
    fn covers(&self, rule: &Rule) -> bool;
}

impl Permit for AddPermit {
    /// Who may open may join: the rule is the very one that they may make.
    fn covers(&self, rule: &Rule) -> bool {
        rule.ownership().is_some() && Opening::of(rule).is_some_and(|opening| self.openings.contains(&opening))
    }
}

impl Permit for RulesPermit {
    fn covers(&self, rule: &Rule) -> bool {
        rule.ownership().is_some() && self.rules.iter().any(|permitted| permitted.id == rule.id)
    }
}

impl LookPermit {
    /// Who has it.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// What it is for.
    pub fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    /// The set that decided, and decides on the rest of the call.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

impl AddPermit {
    /// What may be opened.
    pub fn openings(&self) -> &[Opening] {
        &self.openings
    }

    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

impl Default for RulesPermit {
    /// Leave for nothing.
    fn default() -> Self {
        Self { rules: Vec::new(), openings: Vec::new(), kept: Vec::new(), policies: Vec::new() }
    }
}

impl RulesPermit {
    /// The rules that may be changed.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules that are meant and may not be changed, each with the refusal.
    pub fn kept(&self) -> &[(Rule, Denial)] {
        &self.kept
    }

    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// The same beside rules on which the caller holds nothing, which stand. If there is nothing else, that is the
    /// answer.
    pub fn keeping(mut self, strangers: Vec<Rule>) -> Result<Self, Denial> {
        if self.rules.is_empty() && self.kept.is_empty() && !strangers.is_empty() {
            return Err(Denial::NotHeld);
        }
        self.kept.extend(strangers.into_iter().map(|rule| (rule, Denial::NotHeld)));
        Ok(self)
    }

    /// What is meant and may not be changed.
    pub fn into_kept(self) -> Vec<(Rule, Denial)> {
        self.kept
    }

    /// Leave to make the rules that are to stand afterwards, should they be gone by then: policy has decided on
    /// exactly these.
    pub fn to_open(&self) -> AddPermit {
        AddPermit { openings: self.openings.clone(), policies: self.policies.clone() }
    }
}
