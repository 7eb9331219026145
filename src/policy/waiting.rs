//! Permits that wait for somebody's word: policy allows the change, provided that a person vouches for it.
//!
//! A policy that forbids and carries `@approval("another")` or `@approval("requester")` forbids only without that word.
//! The permit behind a [`Pending`] comes out by a [`Word`] and in no other way.

use super::permit::{AddPermit, RulesPermit};
use super::{Denial, Reason};
use crate::approval::{Granted, WhoseWord};
use crate::operation::rule::Rule;

/// What policy demands before a change is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Whose word it is.
    pub from: WhoseWord,
    /// The policies that ask for it.
    pub reasons: Vec<Reason>,
}

/// A permit, and what is demanded before it counts.
#[derive(Debug)]
pub struct Pending<P> {
    permit: P,
    demand: Option<Demand>,
}

/// What stands in for a demand.
#[derive(Clone, Debug)]
pub enum Word {
    /// A person's word.
    Granted(Granted),
    /// Nobody's: policy lets the caller go ahead at once, and somebody will ask why.
    Glass(Glass),
}

/// Leave to go ahead without the word that policy asks for.
#[derive(Clone, Debug)]
pub struct Glass {
    pub(super) policies: Vec<String>,
}

/// What one question to policy came to, where it was not refused.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    /// The policies that permit it.
    pub(super) policies: Vec<String>,
    /// What is demanded besides.
    pub(super) demand: Option<Demand>,
}

impl Demand {
    /// Both together: the stronger word, for all the reasons.
    fn and(mut self, other: Self) -> Self {
        self.from = self.from.max(other.from);
        self.reasons.extend(other.reasons);
        self.reasons.sort_by(|a, b| a.policy.cmp(&b.policy));
        self.reasons.dedup();
        self
    }

    /// The demands of several answers as one.
    pub(super) fn all(demands: impl IntoIterator<Item = Self>) -> Option<Self> {
        demands.into_iter().reduce(Self::and)
    }

    /// The ids of the policies that ask for it.
    pub fn policies(&self) -> Vec<String> {
        self.reasons.iter().map(|reason| reason.policy.clone()).collect()
    }
}

impl Allowed {
    /// The policies that permit it; refused where somebody's word is asked for, since nobody can give one here.
    pub(super) fn firm(self) -> Result<Vec<String>, Denial> {
        match self.demand {
            None => Ok(self.policies),
            Some(demand) => Err(Denial::Forbidden(demand.reasons)),
        }
    }
}

impl Glass {
    /// The policies that let the caller go ahead.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

impl<P> Pending<P> {
    pub(super) fn new(permit: P, demand: Option<Demand>) -> Self {
        Self { permit, demand }
    }

    /// What is demanded before it counts; nothing, mostly.
    pub fn demand(&self) -> Option<&Demand> {
        self.demand.as_ref()
    }

    /// The permit, where nothing is demanded.
    pub fn free(self) -> Result<P, Self> {
        if self.demand.is_none() { Ok(self.permit) } else { Err(self) }
    }

    /// The permit, for a word that is strong enough.
    pub fn released(self, word: &Word) -> Result<P, Denial> {
        match (self.demand, word) {
            (Some(demand), Word::Granted(granted)) if granted.from() < demand.from => {
                Err(Denial::Forbidden(demand.reasons))
            }
            _ => Ok(self.permit),
        }
    }

    /// The same for a permit that is made of this one.
    pub(super) fn try_map<Q>(self, make: impl FnOnce(P) -> Result<Q, Denial>) -> Result<Pending<Q>, Denial> {
        Ok(Pending { permit: make(self.permit)?, demand: self.demand })
    }
}

impl Pending<AddPermit> {
    /// The policies that permit it.
    pub fn policies(&self) -> &[String] {
        self.permit.policies()
    }
}

impl Pending<RulesPermit> {
    /// The rules that may be changed.
    pub fn rules(&self) -> &[Rule] {
        self.permit.rules()
    }

    /// The rules that are meant and may not be changed, each with the refusal.
    pub fn kept(&self) -> &[(Rule, Denial)] {
        self.permit.kept()
    }

    /// The policies that permit it.
    pub fn policies(&self) -> &[String] {
        self.permit.policies()
    }

    /// The same beside rules on which the caller holds nothing.
    pub fn keeping(self, strangers: Vec<Rule>) -> Result<Self, Denial> {
        self.try_map(|permit| permit.keeping(strangers))
    }

    /// What is meant and may not be changed.
    pub fn into_kept(self) -> Vec<(Rule, Denial)> {
        self.permit.into_kept()
    }
}
