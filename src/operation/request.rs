//! From a protobuf request to operations: every field checked, the groups looked up last.
//!
//! Were another field refused only where the group is known, the answer would tell which names exist.

use std::net::IpAddr;

use jiff::Timestamp;

use super::address::{Address, Block};
use super::ownership;
use super::port::{Ports, Protocol};
use super::target::{Place, Target, TargetError, Targets, is_aws_id};
use super::term::Term;
use super::text::{given, one_or_more, reason, text};
use super::{
    Add, CallId, Check, Extend, Kind, Leases, List, Manner, Move, Opening, Operation, OperationError, Remove, Scope,
    Selector, Tool, Whose,
};
use crate::error::Error;
use crate::pb::whitelistmcp::v1 as pb;

/// The most security groups of one request.
const GROUPS_MOST: usize = 10;
/// The most addresses of one request.
const ADDRESSES_MOST: usize = 20;
/// The most ports of one request.
const PORTS_MOST: usize = 10;
/// The most rules that one request may make in one group: more than this is no request for one purpose.
const OPENINGS_MOST: usize = 50;

/// What a request is read against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The groups, accounts and Regions that are known.
    pub targets: &'a Targets,
    /// The address that the caller calls from, where it is known.
    pub caller: Option<IpAddr>,
    /// The time.
    pub now: Timestamp,
    /// Which of the groups the caller may know of.
    pub sight: &'a dyn Sight,
}

/// Which groups a caller may know of. One that they may not is read exactly like a name that nothing goes by.
pub trait Sight: std::fmt::Debug + Send + Sync {
    /// Whether they may know of this one; an error where that cannot be told now.
    fn sees(&self, target: &Target) -> Result<bool, Error>;
}

/// The sight of whoever may know of every group.
#[derive(Clone, Copy, Debug)]
pub struct Everything;

impl Sight for Everything {
    fn sees(&self, _: &Target) -> Result<bool, Error> {
        Ok(true)
    }
}

/// A request to end everything of one holder.
#[derive(Clone, Debug)]
pub struct Leaver {
    /// Whose leases end.
    pub holder: String,
    /// Why.
    pub reason: String,
    /// Only say what would change.
    pub dry_run: bool,
}

/// Where a request points, as it was written.
struct Where<'a> {
    group: &'a str,
    groups: &'a [String],
    account: &'a str,
    region: &'a str,
}

/// The names of the rules that are meant, as they were written.
struct Which<'a> {
    rule_id: &'a str,
    address: &'a str,
    addresses: &'a [String],
    port: &'a str,
    ports: &'a [String],
    protocol: &'a str,
}

/// Where a request that may name several groups points. The messages share these fields and no type.
macro_rules! places {
    ($request:ident) => {
        Where {
            group: &$request.security_group,
            groups: &$request.security_groups,
            account: &$request.account,
            region: &$request.region,
        }
    };
}

/// Which rules a request means that may mean several.
macro_rules! which {
    ($request:ident) => {
        Which {
            rule_id: &$request.rule_id,
            address: &$request.address,
            addresses: &$request.addresses,
            port: &$request.port,
            ports: &$request.ports,
            protocol: &$request.protocol,
        }
    };
}

impl Operation {
    /// Reads a request to open.
    pub fn add(request: pb::AddRuleRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let addresses =
            one_or_more(("address", "addresses"), &request.address, &request.addresses, 64, ADDRESSES_MOST)?;
        let mut blocks = Vec::with_capacity(addresses.len());
        for address in addresses {
            let block = context.block(address, &mut notes)?;
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        if blocks.is_empty() {
            return Err(OperationError::Missing("address").into());
        }
        let protocol = given("protocol", &request.protocol, 8)?;
        let ports = one_or_more(("port", "ports"), &request.port, &request.ports, 32, PORTS_MOST)?;
        let ports = match ports.as_slice() {
            [] => vec![Ports::parse(None, protocol)?],
            several => several.iter().map(|port| Ports::parse(Some(port), protocol)).collect::<Result<_, _>>()?,
        };
        let mut openings = Vec::new();
        for block in blocks {
            for &ports in &ports {
                same_family(block, ports.protocol())?;
                let opening = Opening { block, ports };
                if !openings.contains(&opening) {
                    openings.push(opening);
                }
            }
        }
        if openings.len() > OPENINGS_MOST {
            let given = openings.len();
            return Err(OperationError::TooMany { field: "addresses", given, most: OPENINGS_MOST }.into());
        }
        let reason = reason(&request.reason)?;
        let term = term(&request.duration, &request.until, context.now)?;
        if ownership::is_altered(&reason) {
            notes.push("AWS tags do not take every character of the reason: on the rule the others read `_`; the audit trail has it whole.".to_owned());
        }
        let manner = manner(request.dry_run, &request.plan_id, &request.idempotency_key, request.break_glass)?;
        let add = Add { openings, reason, term, manner };
        let place = places!(request);
        context.operations(Tool::Add, &place, call, &Kind::Add(add), &notes)
    }

    /// Reads a request to close.
    pub fn remove(request: pb::RemoveRulesRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let which = which!(request);
        let remove = Remove {
            selector: context.selector(&which, &mut notes)?,
            whose: Whose::read(given("holder", &request.holder, 128)?),
            reason: text("reason", &request.reason)?.unwrap_or_default(),
            manner: manner(request.dry_run, &request.plan_id, "", request.break_glass)?,
        };
        let place = places!(request);
        context.operations(Tool::Remove, &place, call, &Kind::Remove(remove), &notes)
    }

    /// Reads a request to move the end of leases.
    pub fn extend(request: pb::ExtendLeasesRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let which = which!(request);
        let extend = Extend {
            selector: context.selector(&which, &mut notes)?,
            term: term(&request.duration, &request.until, context.now)?,
            reason: text("reason", &request.reason)?,
            manner: manner(request.dry_run, &request.plan_id, &request.idempotency_key, request.break_glass)?,
        };
        let place = places!(request);
        context.operations(Tool::Extend, &place, call, &Kind::Extend(extend), &notes)
    }

    /// Reads a request to put leases on another address.
    pub fn relocate(request: pb::MoveLeasesRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let to = given("address", &request.address, 64)?.unwrap_or("current");
        let to = context.block(to, &mut notes)?;
        let from = given("from_address", &request.from_address, 64)?;
        let (ports, protocol) = selectors(&request.port, &request.protocol)?;
        let selector = Selector {
            rule_id: given("rule_id", &request.rule_id, 64)?.map(rule_id).transpose()?,
            blocks: from.map(|from| context.block(from, &mut notes)).transpose()?.into_iter().collect(),
            ports: ports.into_iter().collect(),
            protocol,
        };
        let manner = manner(request.dry_run, &request.plan_id, &request.idempotency_key, request.break_glass)?;
        let relocate = Move { selector, to, manner };
        let place =
            Where { group: &request.security_group, groups: &[], account: &request.account, region: &request.region };
        context.operations(Tool::Move, &place, call, &Kind::Move(relocate), &notes)
    }

    /// Reads a request to list.
    pub fn list(request: pb::ListRulesRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let (ports, protocol) = selectors(&request.port, &request.protocol)?;
        let address = given("address", &request.address, 64)?;
        let list = List {
            block: address.map(|address| context.block(address, &mut notes)).transpose()?,
            ports,
            protocol,
            holder: text("holder", &request.holder)?,
            managed_only: request.managed_only,
            fresh: request.fresh,
        };
        let place =
            Where { group: &request.security_group, groups: &[], account: &request.account, region: &request.region };
        context.operations(Tool::List, &place, call, &Kind::List(list), &notes)
    }

    /// Reads a request to check.
    pub fn check(request: pb::CheckAccessRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let address = given("address", &request.address, 64)?.ok_or(OperationError::Missing("address"))?;
        let block = context.block(address, &mut notes)?;
        let ports = Ports::parse(given("port", &request.port, 32)?, given("protocol", &request.protocol, 8)?)?;
        same_family(block, ports.protocol())?;
        let place =
            Where { group: &request.security_group, groups: &[], account: &request.account, region: &request.region };
        let check = Check { block, ports, fresh: request.fresh };
        context.operations(Tool::Check, &place, call, &Kind::Check(check), &notes)
    }

    /// Reads a request for leases: a search in every account and Region that it may be about.
    pub fn find_leases(request: pb::ListLeasesRequest, call: CallId, context: Context<'_>) -> Result<Vec<Self>, Error> {
        let whose = Whose::read(given("holder", &request.holder, 128)?);
        let (account, region) = (given("account", &request.account, 12)?, given("region", &request.region, 32)?);
        let places = context.targets.places(account, region)?;
        let asked = given("security_group", &request.security_group, 128)?;
        let group = asked.map(|group| context.resolve(group, account, region)).transpose()?;
        let places = match &group {
            Some(target) => vec![target.place().clone()],
            None => places,
        };
        let kind = Kind::Leases(Leases { whose, group });
        Ok(searches(Tool::Leases, places, asked.unwrap_or_default(), &call, &kind, context.now))
    }

    /// Reads a request for groups: a search in every account and Region that it may be about, and what a name must hold.
    pub fn find_targets(
        request: &pb::ListTargetsRequest,
        context: Context<'_>,
    ) -> Result<(Vec<Place>, Option<String>), Error> {
        let name = given("name", &request.name, 128)?.map(str::to_owned);
        let (account, region) = (given("account", &request.account, 12)?, given("region", &request.region, 32)?);
        Ok((context.targets.places(account, region)?, name))
    }

    /// Reads a request to end everything of one holder: a search in every account and Region.
    pub fn find_holder(
        request: &pb::RevokeHolderRequest,
        call: &CallId,
        context: Context<'_>,
    ) -> Result<(Vec<Self>, Leaver), Error> {
        let holder = given("holder", &request.holder, 128)?.ok_or(OperationError::Missing("holder"))?.to_owned();
        let reason = reason(&request.reason)?;
        let kind = Kind::Leases(Leases { whose: Whose::Named(holder.clone()), group: None });
        let places = context.targets.places(None, None)?;
        let searches = searches(Tool::RevokeHolder, places, "", call, &kind, context.now);
        Ok((searches, Leaver { holder, reason, dry_run: request.dry_run }))
    }
}

/// The same search in each place.
fn searches(tool: Tool, places: Vec<Place>, asked: &str, call: &CallId, kind: &Kind, now: Timestamp) -> Vec<Operation> {
    let several = places.len() > 1;
    let search = |place: Place| Operation {
        call: if several { CallId::new() } else { call.clone() },
        part_of: several.then(|| call.clone()),
        received: now,
        asked: asked.to_owned(),
        tool,
        scope: Scope::Region(place),
        kind: kind.clone(),
        notes: Vec::new(),
    };
    places.into_iter().map(search).collect()
}

// === impl Context ===

impl Context<'_> {
    /// One operation for each group that is named.
    fn operations(
        self,
        tool: Tool,
        place: &Where<'_>,
        call: CallId,
        kind: &Kind,
        notes: &[String],
    ) -> Result<Vec<Operation>, Error> {
        let names = one_or_more(("security_group", "security_groups"), place.group, place.groups, 128, GROUPS_MOST)?;
        if names.is_empty() {
            return Err(OperationError::Missing("security_group").into());
        }
        let (account, region) = (given("account", place.account, 12)?, given("region", place.region, 32)?);
        let mut targets: Vec<(&str, Target)> = Vec::with_capacity(names.len());
        for name in names {
            let target = self.resolve(name, account, region)?;
            // Two names of one group are one group.
            if !targets.iter().any(|(_, known)| known.is(&target)) {
                targets.push((name, target));
            }
        }
        let plans = plans(kind, targets.len())?;
        let several = targets.len() > 1;
        let operation = |((asked, target), plan): ((&str, Target), Option<String>)| {
            let mut kind = kind.clone();
            if let Kind::Add(Add { manner, .. })
            | Kind::Remove(Remove { manner, .. })
            | Kind::Extend(Extend { manner, .. })
            | Kind::Move(Move { manner, .. }) = &mut kind
            {
                manner.plan = plan;
            }
            Operation {
                call: if several { CallId::new() } else { call.clone() },
                part_of: several.then(|| call.clone()),
                received: self.now,
                asked: asked.to_owned(),
                tool,
                scope: Scope::Group(target),
                kind,
                notes: notes.to_vec(),
            }
        };
        Ok(targets.into_iter().zip(plans).map(operation).collect())
    }

    /// Finds the group that the caller means, among those that they may know of.
    fn resolve(self, name: &str, account: Option<&str>, region: Option<&str>) -> Result<Target, Error> {
        let target = self.targets.resolve(name, account, region)?;
        if self.sight.sees(&target)? { Ok(target) } else { Err(TargetError::Unknown(name.trim().to_owned()).into()) }
    }

    fn block(self, written: &str, notes: &mut Vec<String>) -> Result<Block, Error> {
        let address: Address = written.parse()?;
        let block = address.resolve(self.caller)?;
        match address {
            Address::Block { canonicalised: true, .. } => {
                notes.push(format!("`{written}` has host bits set; AWS stores it as {block}."))
            }
            Address::Current => notes.push(format!("`current` is {block}, the address this call came from.")),
            Address::Block { .. } => {}
        }
        Ok(block)
    }

    fn selector(self, which: &Which<'_>, notes: &mut Vec<String>) -> Result<Selector, Error> {
        let rule_id = given("rule_id", which.rule_id, 64)?.map(rule_id).transpose()?;
        let written = given("protocol", which.protocol, 8)?;
        let protocol = written.map(str::parse).transpose()?;
        let ports = one_or_more(("port", "ports"), which.port, which.ports, 32, PORTS_MOST)?;
        let ports = ports.into_iter().map(|port| Ports::parse(Some(port), written)).collect::<Result<_, _>>()?;
        let addresses = one_or_more(("address", "addresses"), which.address, which.addresses, 64, ADDRESSES_MOST)?;
        let blocks = addresses.into_iter().map(|address| self.block(address, notes)).collect::<Result<_, _>>()?;
        let selector = Selector { rule_id, blocks, ports, protocol };
        if selector.is_empty() { Err(OperationError::NoSelector.into()) } else { Ok(selector) }
    }
}

/// The plan of each group: a plan id names one for each, in the order of the request.
fn plans(kind: &Kind, groups: usize) -> Result<Vec<Option<String>>, OperationError> {
    let plan = match kind {
        Kind::Add(Add { manner, .. })
        | Kind::Remove(Remove { manner, .. })
        | Kind::Extend(Extend { manner, .. })
        | Kind::Move(Move { manner, .. }) => manner.plan.as_deref(),
        _ => None,
    };
    let Some(plan) = plan else { return Ok(vec![None; groups]) };
    let parts: Vec<Option<String>> =
        plan.trim_start_matches("plan-").split('.').map(|part| Some(part.to_owned())).collect();
    if parts.len() == groups {
        Ok(parts)
    } else {
        Err(OperationError::PlanCount { planned: parts.len(), asked: groups })
    }
}

fn manner(dry_run: bool, plan: &str, key: &str, break_glass: bool) -> Result<Manner, OperationError> {
    let plan = given("plan_id", plan, 400)?.map(str::to_owned);
    if let Some(plan) = &plan {
        let sound = plan.strip_prefix("plan-").is_some_and(|parts| {
            parts.split('.').all(|part| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if !sound {
            return Err(OperationError::PlanId(plan.clone()));
        }
        if dry_run {
            return Err(OperationError::PlannedDryRun);
        }
    }
    let key = given("idempotency_key", key, 64)?.map(str::to_owned);
    Ok(Manner { dry_run, plan, key, break_glass })
}

fn term(duration: &str, until: &str, now: Timestamp) -> Result<Term, Error> {
    Ok(Term::parse(given("duration", duration, 32)?, given("until", until, 40)?, now)?)
}

fn rule_id(text: &str) -> Result<String, OperationError> {
    if is_aws_id(text, "sgr-") { Ok(text.to_owned()) } else { Err(OperationError::RuleId(text.to_owned())) }
}

/// Reads port and protocol where each may be left out.
fn selectors(port: &str, protocol: &str) -> Result<(Option<Ports>, Option<Protocol>), Error> {
    let protocol = given("protocol", protocol, 8)?;
    let parsed = protocol.map(str::parse).transpose()?;
    match given("port", port, 32)? {
        None => Ok((None, parsed)),
        Some(port) => Ports::parse(Some(port), protocol).map(|ports| (Some(ports), parsed)).map_err(Error::from),
    }
}

fn same_family(block: Block, protocol: Protocol) -> Result<(), OperationError> {
    match protocol {
        Protocol::Icmp if block.is_ipv6() => Err(OperationError::Family { protocol, family: "IPv4", block }),
        Protocol::Icmpv6 if !block.is_ipv6() => Err(OperationError::Family { protocol, family: "IPv6", block }),
        _ => Ok(()),
    }
}
