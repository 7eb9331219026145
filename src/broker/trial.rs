//! What would the answer be? The same questions to policy that a call asks, on facts that somebody states instead of
//! proving or reading them. Nothing here acts: it has no session, and hands out no permit.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use prost::Message;

use super::extend::Extension;
use super::failure::Failure;
use super::relocate::Relocation;
use super::remove::Endings;
use super::{BySight, holder};
use crate::error::{Code, Error};
use crate::identity::{Caller, Supposed};
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::{Made, Ownership};
use crate::operation::port::Ports;
use crate::operation::rule::{Rule, Source, Traffic};
use crate::operation::target::{TargetError, Targets};
use crate::operation::{CallId, Context, Kind, Opening, Operation, Scope, Tool};
use crate::pb::whitelistmcp::v1 as pb;
use crate::policy::{Demand, LookPermit, Policy};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub who: &'a Supposed,
    /// For which tool.
    pub tool: Tool,
    /// The tool's request, encoded.
    pub message: Bytes,
    /// The address that they call from.
    pub from: Option<IpAddr>,
    /// When.
    pub at: Timestamp,
    /// What stands in the group.
    pub standing: &'a [Rule],
}

/// Leave, as it would be given.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// The policies that permit it.
    pub policies: Vec<String>,
    /// When what is opened or extended ends.
    pub until: Option<Timestamp>,
    /// The groups that are shown, where that is what is asked.
    pub groups: Vec<String>,
    /// The policies that want somebody's word first, and whose.
    pub waits: Option<Demand>,
}

/// A rule of this service's as it would stand, with leases of these holders for an hour from then.
pub fn standing(opening: Opening, holders: &[&Supposed], at: Timestamp, number: usize) -> Rule {
    let lease = |who: &&Supposed| {
        let principal = who.caller(None, at).principal().clone();
        let holder = Holder::new(principal.name(), principal.id())?;
        let until = at.saturating_add(SignedDuration::from_hours(1)).unwrap_or(at);
        Some(Lease::new(holder, "as supposed", at, until, CallId::new().as_str()))
    };
    let mut leases = holders.iter().filter_map(lease);
    let made = leases.next().map_or(Made::Elsewhere, |first| {
        let mut own = Ownership::new(first, None);
        leases.for_each(|lease| own.put(lease));
        Made::Here(own)
    });
    Rule {
        id: Some(format!("sgr-{number:017x}")),
        source: Source::Block(opening.block),
        traffic: Traffic::Ports(opening.ports),
        description: String::new(),
        tags: made.here().map_or(0, |own| own.tags().len()),
        made,
    }
}

/// One address or block on one port or range, in the words of the tools.
pub fn opening(address: &str, port: Option<&str>, protocol: Option<&str>) -> Result<Opening, Error> {
    let address: crate::operation::address::Address = address.parse()?;
    Ok(Opening { block: address.resolve(None)?, ports: Ports::parse(port, protocol)? })
}

/// What the answer would be: leave, or the very error that the caller would be told.
pub fn ask(policy: &Arc<Policy>, targets: &Arc<Targets>, question: &Question<'_>) -> Result<Allowed, Error> {
    let caller = Arc::new(question.who.caller(question.from, question.at));
    let (policy, targets) = (Arc::clone(policy), Arc::clone(targets));
    let sight = BySight { policy, caller, targets, at: question.at };
    let context = Context { targets: &sight.targets, caller: question.from, now: question.at, sight: &sight };
    let call = CallId::new();
    let message = &question.message;
    let operations = match question.tool {
        Tool::Add => Operation::add(read(message)?, call, context)?,
        Tool::Remove => Operation::remove(read(message)?, call, context)?,
        Tool::Extend => Operation::extend(read(message)?, call, context)?,
        Tool::Move => Operation::relocate(read(message)?, call, context)?,
        Tool::List => Operation::list(read(message)?, call, context)?,
        Tool::Check => Operation::check(read(message)?, call, context)?,
        Tool::Leases => Operation::find_leases(read(message)?, call, context)?,
        Tool::Targets => {
            let request: pb::ListTargetsRequest = read(message)?;
            let (_, name) = Operation::find_targets(&request, context)?;
            return sight.groups(name.as_deref());
        }
        Tool::RevokeHolder => {
            let request: pb::RevokeHolderRequest = read(message)?;
            let (searches, leaver) = Operation::find_holder(&request, &call, context)?;
            let named = sight.targets.named().iter().filter(|_| !question.standing.is_empty()).cloned();
            let first = searches.first().cloned();
            let parts = named.filter_map(|target| {
                Some(first.as_ref()?.end_holder(target, leaver.holder.clone(), leaver.reason.clone(), leaver.dry_run))
            });
            let parts: Vec<Operation> = parts.collect();
            searches.into_iter().chain(parts).collect()
        }
        Tool::Decide | Tool::Survey | Tool::Close | Tool::Tidy | Tool::Recover | Tool::Discover | Tool::SelfTest => {
            return Err(Error::invalid("tool", "TOOL_UNKNOWN", "this is no tool"));
        }
    };
    let mut allowed = Allowed::default();
    for operation in operations {
        let one = sight.decide(operation, question)?;
        allowed.policies.extend(one.policies);
        allowed.until = allowed.until.into_iter().chain(one.until).min();
        allowed.waits = allowed.waits.or(one.waits);
    }
    allowed.policies.sort();
    allowed.policies.dedup();
    Ok(allowed)
}

/// Whether a tool could be permitted to somebody at all.
pub fn may_call(policy: &Policy, who: &Supposed, tool: Tool, at: Timestamp) -> bool {
    policy.may_call(&who.caller(None, at), tool)
}

fn read<M: Message + Default>(message: &Bytes) -> Result<M, Error> {
    M::decode(message.clone()).map_err(|error| {
        Error::new(Code::InvalidArgument, "MESSAGE_MALFORMED", "the request cannot be read").caused_by(error)
    })
}

impl BySight {
    /// The groups that are shown.
    fn groups(&self, name: Option<&str>) -> Result<Allowed, Error> {
        let opted_in = self.targets.opted_in().map(|(place, known)| self.targets.found(place, &known.group));
        let every = self.targets.named().iter().cloned().chain(opted_in);
        let shown = every.filter(|target| self.policy.shows(&self.caller, target, self.at));
        let groups: Vec<String> = shown
            .map(|target| target.label())
            .filter(|label| name.is_none_or(|name| label.to_lowercase().contains(&name.to_lowercase())))
            .collect();
        if groups.is_empty() {
            return Err(TargetError::Unknown(name.unwrap_or_default().to_owned()).into());
        }
        Ok(Allowed { groups, ..Allowed::default() })
    }

    /// Both decisions on one operation.
    fn decide(&self, operation: Operation, question: &Question<'_>) -> Result<Allowed, Error> {
        let look = self.policy.look(Arc::<Caller>::clone(&self.caller), operation).map_err(|(denial, _)| denial)?;
        let operation = look.operation();
        let (policies, waits) = match operation.scope() {
            Scope::Group(_) => self.change(&look, question)?,
            Scope::Region(_) => (look.policies().to_vec(), None),
        };
        let until = operation.term().and_then(|term| term.end(operation.received()));
        // Who breaks the glass does not wait, if policy lets them.
        let waits = match waits {
            Some(_) if operation.manner().is_some_and(|manner| manner.break_glass) => {
                self.policy.break_glass(&look)?;
                None
            }
            waits => waits,
        };
        Ok(Allowed { policies, until, waits, ..Allowed::default() })
    }

    fn change(&self, look: &LookPermit, question: &Question<'_>) -> Result<(Vec<String>, Option<Demand>), Failure> {
        let (standing, holder, now) = (question.standing, holder(look)?, question.at);
        let decided = match look.operation().kind() {
            Kind::Add(_) => {
                let permit = self.policy.add(look, standing)?;
                return Ok((permit.policies().to_vec(), permit.demand().cloned()));
            }
            Kind::Remove(remove) => Endings::decide(look, &holder, remove, standing, now)?.permit,
            Kind::Extend(extend) => Extension::decide(look, &holder, extend, standing, &[], now)?.permit,
            Kind::Move(relocate) => Relocation::decide(look, &holder, relocate, standing, now)?.permit,
            _ => return Ok((look.policies().to_vec(), None)),
        };
        Ok((decided.policies().to_vec(), decided.demand().cloned()))
    }
}
