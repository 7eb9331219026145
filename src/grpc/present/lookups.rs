//! What looking around answers: lists, checks, leases, groups.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::{Part, count, describe, line, missed, opening};
use crate::broker::{Answer, GroupShown, Missed};
use crate::identity::Caller;
use crate::operation::CallId;
use crate::operation::reach::Verdict;
use crate::operation::rule::Rule;
use crate::operation::target::Target;
use crate::operation::term::whole_seconds;
use crate::pb::whitelistmcp::v1 as pb;

/// The one answer of a request about one group.
fn only(parts: Vec<Part>) -> Option<(super::Shown, Answer)> {
    let part = parts.into_iter().next()?;
    Some((part.shown, part.result.ok()?))
}

pub(in crate::grpc) fn listed(parts: Vec<Part>) -> pb::ListRulesResponse {
    let Some((mut shown, Answer::Listed { rules, total, age })) = only(parts) else {
        return pb::ListRulesResponse::default();
    };
    let target = shown.scope.label();
    let mut summary = match (rules.len(), total) {
        (_, 0) => format!("{target} has no inbound rule: nothing gets in."),
        (shown, total) if shown == total => format!("{target} has {}:", count(total)),
        (0, total) => format!("{target} has {}, of which none matches.", count(total)),
        (1, total) => format!("{target} has {}, of which 1 matches:", count(total)),
        (shown, total) => format!("{target} has {}, of which {shown} match:", count(total)),
    };
    for rule in &rules {
        summary.push_str("\n- ");
        summary.push_str(&line(rule, shown.now));
    }
    for rule in std::mem::take(&mut shown.vanished) {
        shown.notes.push(format!(
            "A rule went before its end: by hand, by another tool, or through another core of this service. It was: {}. It is not put back; whitelist_add opens it again.",
            line(&rule, shown.now)
        ));
    }
    shown.notes.extend(changed_by_hand(&shown, &rules));
    if rules.iter().any(|rule| matches!(rule.made, crate::operation::ownership::Made::Damaged(_))) {
        shown.notes.push("A rule carries damaged tags of this service: it is left alone, and does not close by itself until an operator mends or removes it.".to_owned());
    }
    let total = i32::try_from(total).unwrap_or(i32::MAX);
    let (read_at, age_seconds) = read_at(&mut shown, age);
    pb::ListRulesResponse {
        summary,
        rules: shown.rules(&rules),
        total,
        notes: shown.notes,
        call_id: shown.call,
        read_at,
        age_seconds,
    }
}

/// What to say of rules that somebody has changed by hand: their holders did not ask for what they let in now.
fn changed_by_hand(shown: &super::Shown, rules: &[Rule]) -> Vec<String> {
    let note = |was: &Rule| {
        let is = rules.iter().find(|is| is.id == was.id)?;
        let id = is.id.as_deref().unwrap_or_default();
        Some(format!(
            "Rule {id} was changed by hand: it was opened for {}, and lets in {} now. It closes at its end all the same.",
            opening(was),
            opening(is)
        ))
    };
    shown.changed.iter().filter_map(note).collect()
}

pub(in crate::grpc) fn checked(parts: Vec<Part>) -> pb::CheckAccessResponse {
    let Some((mut shown, Answer::Checked { verdict, allowed_by, might_allow, age })) = only(parts) else {
        return pb::CheckAccessResponse::default();
    };
    let (target, asked) = (shown.scope.label(), &shown.asked);
    let by = |rules: &[Rule]| rules.iter().map(|rule| line(rule, shown.now)).collect::<Vec<_>>().join("; ");
    let summary = match verdict {
        Verdict::Allowed => format!("Yes: {target} lets in {asked}, by {}.", by(&allowed_by)),
        Verdict::Partly => format!("Partly: {target} lets in some of {asked}, by {}.", by(&allowed_by)),
        Verdict::Depends => {
            format!("It depends: no address rule of {target} lets in {asked}, but {} might.", by(&might_allow))
        }
        Verdict::NotAllowed => format!("No: {target} does not let in {asked}."),
    };
    shown.notes.extend(changed_by_hand(&shown, &allowed_by));
    if !might_allow.is_empty() {
        shown.notes.push(
            "Prefix lists and referenced groups are named, not looked into: who is in them is not known here."
                .to_owned(),
        );
    }
    shown.notes.push(
        "A security group is one of several gates: network ACLs, routes, the other groups of the same network interface and the host's own firewall also count, and connections that were opened under an earlier rule live on."
            .to_owned(),
    );
    let (read_at, age_seconds) = read_at(&mut shown, age);
    pb::CheckAccessResponse {
        summary,
        verdict: verdict.as_str().to_owned(),
        allowed_by: shown.rules(&allowed_by),
        might_allow: shown.rules(&might_allow),
        notes: shown.notes,
        call_id: shown.call,
        read_at,
        age_seconds,
    }
}

/// When AWS was asked and how many seconds ago that was; said in words as well where it was for another call.
fn read_at(shown: &mut super::Shown, age: Duration) -> (String, i32) {
    let at = shown.now.checked_sub(age).unwrap_or(shown.now);
    if age.is_zero() {
        return (whole_seconds(at).to_string(), 0);
    }
    // Whoever is told an age is told one that it has not passed.
    let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
    shown.notes.push(format!(
        "This is what AWS said {seconds} s ago, when another call asked; what was changed since by others, or through another core, may be missing from it. Ask with `fresh` to have AWS asked again."
    ));
    (whole_seconds(at).to_string(), i32::try_from(seconds).unwrap_or(i32::MAX))
}

pub(in crate::grpc) fn leases(
    caller: &Caller,
    call: &CallId,
    request: &pb::ListLeasesRequest,
    now: Timestamp,
    found: Vec<(Target, Rule)>,
    not_asked: Vec<Missed>,
) -> pb::ListLeasesResponse {
    let whose = match request.holder.as_str() {
        "" => "You hold".to_owned(),
        "everyone" => "All together hold".to_owned(),
        name => format!("`{name}` holds"),
    };
    let mut summary = match found.len() {
        0 => format!("{whose} nothing open, as far as you may see."),
        rules => format!("{whose} {} open:", count(rules)),
    };
    for (target, rule) in &found {
        let leases = rule.ownership().into_iter().flat_map(|own| &own.leases);
        let leases = leases.map(|lease| format!("{} until {}", lease.holder.name(), lease.until));
        let leases = leases.collect::<Vec<_>>().join("; ");
        let id = rule.id.as_deref().unwrap_or_default();
        // Writing to a string cannot fail.
        let _: std::fmt::Result = write!(summary, "\n- {}: {} ({leases}; {id})", target.label(), opening(rule));
    }
    if !not_asked.is_empty() {
        let _: std::fmt::Result = write!(summary, "\n{} could not be asked; see `missed`.", places(not_asked.len()));
    }
    let rules = found.iter().map(|(target, rule)| describe(rule, target, caller, now)).collect();
    let (missed, call_id) = (missed(not_asked), call.as_str().to_owned());
    pb::ListLeasesResponse { summary, rules, missed, notes: Vec::new(), call_id }
}

pub(in crate::grpc) fn targets(
    call: &CallId,
    name: Option<&str>,
    groups: Vec<GroupShown>,
    not_asked: Vec<Missed>,
) -> pb::ListTargetsResponse {
    let mut summary = match groups.len() {
        0 if name.is_some() => "No security group that you may ask for has a name that holds this.".to_owned(),
        0 => "There is no security group that you may ask for; an owner opts one in by the tag `whitelistmcp:managed`, and an operator by the configuration.".to_owned(),
        1 => "There is 1 security group that you may ask for:".to_owned(),
        groups => format!("There are {groups} security groups that you may ask for:"),
    };
    for group in &groups {
        let attached = group.attached.join(", ");
        let attached = if attached.is_empty() { attached } else { format!(": {attached}") };
        let _: std::fmt::Result = write!(summary, "\n- {} in {}{attached}", group.target.label(), group.target.place());
    }
    if !not_asked.is_empty() {
        let _: std::fmt::Result = write!(summary, "\n{} could not be asked; see `missed`.", places(not_asked.len()));
    }
    let groups = groups.into_iter().map(|group| pb::SecurityGroup {
        name: group.target.name().unwrap_or_else(|| group.target.group().as_str()).to_owned(),
        security_group: group.target.group().to_string(),
        account: group.target.account().to_string(),
        region: group.target.region().to_string(),
        aliases: group.aliases,
        attached: group.attached,
    });
    pb::ListTargetsResponse {
        summary,
        groups: groups.collect(),
        missed: missed(not_asked),
        notes: Vec::new(),
        call_id: call.as_str().to_owned(),
    }
}

fn places(count: usize) -> String {
    if count == 1 { "1 account and Region".to_owned() } else { format!("{count} accounts and Regions") }
}
