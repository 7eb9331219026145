//! Answers as protobuf messages, each with a sentence for people.

use crate::broker::{Added, Answer, Removed};
use crate::operation::reach::Verdict;
use crate::operation::rule::Rule;
use crate::operation::target::Target;
use crate::operation::{Kind, Operation};
use crate::pb::whitelistmcp::v1 as pb;

/// How AWS treats what is open when a rule goes: said wherever a rule is removed or will be.
///
/// Source: EC2 User Guide, "Security group connection tracking".
const CONNECTIONS_SURVIVE: &str = "Connections that are already open stay open: AWS tracks them. No new ones get in.";

/// What is needed of an operation after it is done.
pub(super) struct Shown {
    call: String,
    target: Target,
    asked: String,
    notes: Vec<String>,
}

impl Shown {
    pub(super) fn of(operation: &Operation) -> Self {
        let asked = match operation.kind() {
            Kind::Add(add) => format!("{} port {} from {}", add.ports.protocol(), add.ports, add.block),
            Kind::Check(check) => format!("{} port {} from {}", check.ports.protocol(), check.ports, check.block),
            Kind::Remove(_) | Kind::List(_) => String::new(),
        };
        Self {
            call: operation.call().as_str().to_owned(),
            target: operation.target().clone(),
            asked,
            notes: operation.notes().to_vec(),
        }
    }

    fn rules(&self, rules: &[Rule]) -> Vec<pb::Rule> {
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(&self, rule: &Rule) -> pb::Rule {
        let (from_port, to_port) = rule.traffic.range();
        let ownership = rule.ownership.clone();
        let managed = ownership.is_some();
        let ownership = ownership.unwrap_or_else(|| crate::operation::ownership::Ownership {
            holder: String::new(),
            holder_id: String::new(),
            reason: String::new(),
            since: String::new(),
            until: None,
            call: String::new(),
        });
        pb::Rule {
            rule_id: rule.id.clone().unwrap_or_default(),
            security_group: self.target.group().to_string(),
            account: self.target.account().to_string(),
            region: self.target.region().to_string(),
            source: rule.source.to_string(),
            source_kind: rule.source.kind().to_owned(),
            protocol: rule.traffic.protocol().to_owned(),
            ports: rule.traffic.to_string(),
            from_port,
            to_port,
            description: rule.description.clone(),
            managed,
            holder: ownership.holder,
            reason: ownership.reason,
            since: ownership.since,
            until: ownership.until.unwrap_or_default(),
            made_by_call: ownership.call,
        }
    }
}

pub(super) fn added(mut shown: Shown, answer: Answer) -> pb::AddRuleResponse {
    let Answer::Added { outcome, rule } = answer else { return pb::AddRuleResponse::default() };
    let (word, target, asked) = (word_added(outcome), shown.target.label(), &shown.asked);
    let until = rule.ownership.as_ref().and_then(|own| own.until.clone());
    let end = until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
    let summary = match (outcome, &rule.ownership) {
        (Added::Opened, _) => {
            format!("Opened {target}: {asked}{end} is let in by rule {}.", rule.id.as_deref().unwrap_or("?"))
        }
        (Added::WouldOpen, _) => format!("Dry run: {target} would let in {asked}{end}. Nothing was changed."),
        (Added::AlreadyOpen, Some(own)) => format!(
            "{target} lets in {asked} already: rule {} was made for {} since {}. Nothing was changed.",
            rule.id.as_deref().unwrap_or("?"),
            own.holder,
            own.since
        ),
        (Added::AlreadyOpen, None) => {
            format!(
                "{target} lets in {asked} already: rule {} was not made by this service. Nothing was changed.",
                rule.id.as_deref().unwrap_or("?")
            )
        }
    };
    if outcome != Added::AlreadyOpen && until.is_some() {
        shown.notes.push("The end is written on the rule, and nothing closes the rule by itself at that time: whitelist_remove does.".to_owned());
    }
    pb::AddRuleResponse {
        summary,
        outcome: word.to_owned(),
        rule: Some(shown.rule(&rule)),
        notes: shown.notes,
        call_id: shown.call,
    }
}

fn word_added(outcome: Added) -> &'static str {
    match outcome {
        Added::Opened => "opened",
        Added::AlreadyOpen => "already_open",
        Added::WouldOpen => "would_open",
    }
}

pub(super) fn removed(mut shown: Shown, answer: Answer) -> pb::RemoveRulesResponse {
    let Answer::Removed { outcome, rules, kept } = answer else { return pb::RemoveRulesResponse::default() };
    let target = shown.target.label();
    let what = rules.iter().map(line).collect::<Vec<_>>().join("; ");
    let (word, mut summary) = match outcome {
        Removed::Removed => ("removed", format!("Closed {target}: removed {} ({what}).", count(rules.len()))),
        Removed::WouldRemove => (
            "would_remove",
            format!("Dry run: would remove {} of {target} ({what}). Nothing was changed.", count(rules.len())),
        ),
        Removed::Nothing => (
            "nothing_to_remove",
            format!("Nothing to remove: no rule of {target} matches; what was asked for is gone or never was."),
        ),
    };
    if !kept.is_empty() {
        summary.push_str(&format!(" {} more match and stand on.", count(kept.len())));
    }
    if outcome == Removed::Removed {
        shown.notes.push(CONNECTIONS_SURVIVE.to_owned());
    }
    let kept = kept.iter().map(|(rule, why)| pb::KeptRule { rule: Some(shown.rule(rule)), why: why.clone() }).collect();
    pb::RemoveRulesResponse {
        summary,
        outcome: word.to_owned(),
        removed: shown.rules(&rules),
        kept,
        notes: shown.notes,
        call_id: shown.call,
    }
}

pub(super) fn listed(shown: Shown, answer: Answer) -> pb::ListRulesResponse {
    let Answer::Listed { rules, total } = answer else { return pb::ListRulesResponse::default() };
    let target = shown.target.label();
    let mut summary = match (rules.len(), total) {
        (_, 0) => format!("{target} has no inbound rule: nothing gets in."),
        (shown, total) if shown == total => format!("{target} has {}:", count(total)),
        (shown, total) => format!("{target} has {}, of which {shown} match:", count(total)),
    };
    for rule in &rules {
        summary.push_str("\n- ");
        summary.push_str(&line(rule));
    }
    let total = i32::try_from(total).unwrap_or(i32::MAX);
    pb::ListRulesResponse { summary, rules: shown.rules(&rules), total, notes: shown.notes, call_id: shown.call }
}

pub(super) fn checked(mut shown: Shown, answer: Answer) -> pb::CheckAccessResponse {
    let Answer::Checked { verdict, allowed_by, might_allow } = answer else {
        return pb::CheckAccessResponse::default();
    };
    let (target, asked) = (shown.target.label(), &shown.asked);
    let by = |rules: &[Rule]| rules.iter().map(line).collect::<Vec<_>>().join("; ");
    let summary = match verdict {
        Verdict::Allowed => format!("Yes: {target} lets in {asked}, by {}.", by(&allowed_by)),
        Verdict::Partly => format!("Partly: {target} lets in some of {asked}, by {}.", by(&allowed_by)),
        Verdict::Depends => {
            format!("It depends: no address rule of {target} lets in {asked}, but {} might.", by(&might_allow))
        }
        Verdict::NotAllowed => format!("No: {target} does not let in {asked}."),
    };
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
    pb::CheckAccessResponse {
        summary,
        verdict: verdict.as_str().to_owned(),
        allowed_by: shown.rules(&allowed_by),
        might_allow: shown.rules(&might_allow),
        notes: shown.notes,
        call_id: shown.call,
    }
}

fn count(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}

/// A rule in one line.
fn line(rule: &Rule) -> String {
    let id = rule.id.as_deref().map(|id| format!("{id}: ")).unwrap_or_default();
    let whose = match &rule.ownership {
        Some(own) => format!("for {} since {}: {}", own.holder, own.since, own.reason),
        None if rule.description.is_empty() => "not made by this service".to_owned(),
        None => format!("not made by this service: {}", rule.description),
    };
    let source = match rule.source.kind() {
        "prefix_list" => format!("prefix list {}", rule.source),
        "security_group" => format!("members of {}", rule.source),
        _ => rule.source.to_string(),
    };
    format!("{id}{} port {} from {source} ({whose})", rule.traffic.protocol(), rule.traffic)
}
