//! Answers as protobuf messages, each with a sentence for people: what changes say in [`changes`], what only looks in
//! [`lookups`].

mod changes;
mod lookups;

use std::sync::Arc;

use jiff::Timestamp;

use crate::broker::upkeep::Reconciler;
use crate::broker::{Answer, Broker};
use crate::error::Error;
use crate::identity::Caller;
use crate::operation::ownership::Made;
use crate::operation::rule::Rule;
use crate::operation::target::Target;
use crate::operation::{Kind, Operation, Scope};
use crate::pb::whitelistmcp::v1 as pb;

pub(super) use changes::{added, extended, holder_revoked, moved, removed};
pub(super) use lookups::{checked, leases, listed, targets};

/// Said to who went ahead at once.
const BROKEN_GLASS: &str = "Where policy wants somebody's word for this, it was done without: an alert was raised, and it is marked for review.";

/// What became of one operation of a request.
pub(super) struct Part {
    pub(super) shown: Shown,
    pub(super) result: Result<Answer, Error>,
}

/// What is needed of an operation after it is done.
pub(super) struct Shown {
    call: String,
    scope: Scope,
    /// What was asked about, in words.
    asked: String,
    /// The term in the caller's words.
    words: String,
    /// Since when a lease lasts for which the caller said no term.
    unsaid_from: Option<Timestamp>,
    notes: Vec<String>,
    dry_run: bool,
    caller: Arc<Caller>,
    /// The time by which leases are judged.
    now: Timestamp,
    /// Rules of the group that went before their end.
    vanished: Vec<Rule>,
    /// Rules of the group that were changed by hand, as they were opened.
    changed: Vec<Rule>,
}

impl Shown {
    pub(super) fn of(operation: &Operation, caller: &Arc<Caller>, broker: &Broker, reconciler: &Reconciler) -> Self {
        let (asked, vanished) = match operation.kind() {
            Kind::Check(check) => {
                (format!("{} port {} from {}", check.ports.protocol(), check.ports, check.block), Vec::new())
            }
            Kind::List(_) => {
                (String::new(), operation.scope().group().map(|group| reconciler.vanished(group)).unwrap_or_default())
            }
            _ => (String::new(), Vec::new()),
        };
        let at_once = operation.manner().is_some_and(|manner| manner.break_glass && !manner.dry_run);
        let glass = at_once.then_some(BROKEN_GLASS);
        Self {
            call: operation.call().as_str().to_owned(),
            scope: operation.scope().clone(),
            asked,
            words: operation.term().map(|term| term.words().to_owned()).unwrap_or_default(),
            unsaid_from: operation.term().filter(|term| term.is_unsaid()).map(|_| operation.received()),
            notes: operation.notes().iter().cloned().chain(glass.map(str::to_owned)).collect(),
            dry_run: operation.manner().is_some_and(|manner| manner.dry_run),
            caller: Arc::clone(caller),
            now: broker.now(),
            vanished,
            changed: operation.scope().group().map(|group| reconciler.changed(group)).unwrap_or_default(),
        }
    }

    fn rules(&self, rules: &[Rule]) -> Vec<pb::Rule> {
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(&self, rule: &Rule) -> pb::Rule {
        let group = self.scope.group();
        group.map(|target| describe(rule, target, &self.caller, self.now)).unwrap_or_default()
    }
}

/// A rule as the API describes it.
fn describe(rule: &Rule, target: &Target, caller: &Caller, now: Timestamp) -> pb::Rule {
    let (from_port, to_port) = rule.traffic.range();
    let own = rule.ownership();
    let longest = own.and_then(|own| own.longest());
    let lease = |lease: &crate::operation::lease::Lease| pb::Lease {
        holder: lease.holder.name().to_owned(),
        holder_id: lease.holder.id(),
        reason: lease.reason.clone(),
        since: lease.since.to_string(),
        until: lease.until.to_string(),
        call_id: lease.call.clone(),
        live: lease.is_live(now),
        yours: caller.principal().is(&lease.holder.id()),
    };
    pb::Rule {
        rule_id: rule.id.clone().unwrap_or_default(),
        security_group: target.group().to_string(),
        account: target.account().to_string(),
        region: target.region().to_string(),
        source: rule.source.to_string(),
        source_kind: rule.source.kind().to_owned(),
        protocol: rule.traffic.protocol().to_owned(),
        ports: rule.traffic.to_string(),
        from_port,
        to_port,
        description: rule.description.clone(),
        managed: own.is_some(),
        holder: longest.map(|lease| lease.holder.name().to_owned()).unwrap_or_default(),
        reason: longest.map(|lease| lease.reason.clone()).unwrap_or_default(),
        since: longest.map(|lease| lease.since.to_string()).unwrap_or_default(),
        until: longest.map(|lease| lease.until.to_string()).unwrap_or_default(),
        made_by_call: own.map(|own| own.call.clone()).unwrap_or_default(),
        leases: own.map(|own| own.leases.iter().map(lease).collect()).unwrap_or_default(),
        damaged: match &rule.made {
            Made::Damaged(how) => how.clone(),
            Made::Elsewhere | Made::Here(_) => String::new(),
        },
    }
}

fn count(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}

/// What a rule lets in, in words.
fn opening(rule: &Rule) -> String {
    let source = match rule.source.kind() {
        "prefix_list" => format!("prefix list {}", rule.source),
        "security_group" => format!("members of {}", rule.source),
        _ => rule.source.to_string(),
    };
    format!("{} port {} from {source}", rule.traffic.protocol(), rule.traffic)
}

/// Who holds a rule and until when, in words.
fn held_by(rule: &Rule, now: Timestamp) -> String {
    match &rule.made {
        Made::Here(own) => {
            let lease = |lease: &crate::operation::lease::Lease| {
                let why = if lease.reason.is_empty() { String::new() } else { format!(": {}", lease.reason) };
                format!("{} until {}{why}", lease.holder.name(), lease.until)
            };
            let live = own.live(now).map(lease).collect::<Vec<_>>();
            if live.is_empty() { format!("held by nobody since {}", own.ends()) } else { live.join("; ") }
        }
        Made::Damaged(how) => format!("made by this service, but {how}"),
        Made::Elsewhere if rule.description.is_empty() => "not made by this service".to_owned(),
        Made::Elsewhere => format!("not made by this service: {}", rule.description),
    }
}

/// A rule in one line.
fn line(rule: &Rule, now: Timestamp) -> String {
    let id = rule.id.as_deref().map(|id| format!("{id}: ")).unwrap_or_default();
    format!("{id}{} ({})", opening(rule), held_by(rule, now))
}

/// The accounts and Regions that could not be asked, as the API has them.
fn missed(missed: Vec<crate::broker::Missed>) -> Vec<pb::Missed> {
    let missed = missed.into_iter().map(|missed| pb::Missed {
        account: missed.place.account().to_string(),
        region: missed.place.region().to_string(),
        why: missed.error.message().to_owned(),
    });
    missed.collect()
}
