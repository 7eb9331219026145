//! What changes answer: each part of them, and the whole in a sentence.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{Part, Shown, count, held_by, missed, opening};
use crate::broker::{Answer, Item, Missed, Plan, Word};
use crate::operation::CallId;
use crate::operation::request::Leaver;
use crate::operation::rule::Rule;
use crate::operation::term::whole_seconds;
use crate::pb::whitelistmcp::v1 as pb;

/// How AWS treats what is open when a rule goes: said wherever a rule is removed or will be.
///
/// Source: EC2 User Guide, "Security group connection tracking".
const CONNECTIONS_SURVIVE: &str = "Connections that are already open stay open: AWS tracks them. No new ones get in.";
/// The same, where access was just given.
const CLOSES_BY_ITSELF: &str = "Access ends by itself at that time: no new connections get in then. Those that are open by then stay open, for AWS tracks them.";

/// A change, in all its parts.
struct Whole {
    outcome: String,
    summary: String,
    items: Vec<pb::Item>,
    plans: Vec<pb::Plan>,
    plan_id: String,
    until: Option<Timestamp>,
    notes: Vec<String>,
    call_id: String,
    rules: Vec<(Word, pb::Rule)>,
    kept: Vec<pb::KeptRule>,
}

impl Whole {
    fn of(parts: Vec<Part>, nothing: &str) -> Self {
        let several = parts.len() > 1;
        let mut whole = Self {
            outcome: String::new(),
            summary: String::new(),
            items: Vec::new(),
            plans: Vec::new(),
            plan_id: String::new(),
            until: None,
            notes: Vec::new(),
            call_id: String::new(),
            rules: Vec::new(),
            kept: Vec::new(),
        };
        let (mut words, mut sentences, mut plan_ids) = (BTreeSet::new(), Vec::new(), Vec::new());
        for Part { shown, result } in parts {
            if whole.call_id.is_empty() {
                whole.call_id.clone_from(&shown.call);
            }
            for note in &shown.notes {
                if !whole.notes.contains(note) {
                    whole.notes.push(note.clone());
                }
            }
            match result {
                Ok(Answer::Changed { items, kept, plan }) => {
                    if items.is_empty() && several {
                        sentences.push(format!("Nothing to do in {}.", shown.scope.label()));
                    }
                    for item in &items {
                        let word = item.word.as_str(shown.dry_run);
                        words.insert(word);
                        sentences.push(sentence(&shown, item));
                        whole.until = whole.until.max(item.until);
                        whole.rules.push((item.word, shown.rule(&item.rule)));
                        whole.items.push(part(&shown, item, word));
                    }
                    if !kept.is_empty() {
                        sentences.push(format!("{} more match and stand on.", count(kept.len())));
                    }
                    let kept = kept.into_iter().map(|(rule, why)| pb::KeptRule { rule: Some(shown.rule(&rule)), why });
                    whole.kept.extend(kept);
                    if let Some(plan) = plan {
                        plan_ids.push(plan.id.trim_start_matches("plan-").to_owned());
                        whole.plans.push(found_out(&shown, &plan));
                        sentences.push(room(&shown, &plan));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    words.insert("failed");
                    sentences.push(format!("{}: {}.", shown.scope.label(), error.message().trim_end_matches('.')));
                    whole.items.push(failed(&shown, &error));
                }
            }
        }
        if whole.items.is_empty() {
            sentences.insert(0, nothing.to_owned());
        }
        whole.outcome = match words.len() {
            0 => String::new(),
            1 => words.first().map(|word| (*word).to_owned()).unwrap_or_default(),
            _ => "mixed".to_owned(),
        };
        if !plan_ids.is_empty() {
            whole.plan_id = format!("plan-{}", plan_ids.join("."));
        }
        whole.summary = sentences.join("\n");
        whole
    }

    fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    fn has(&self, word: Word) -> bool {
        self.rules.iter().any(|(other, _)| *other == word)
    }

    fn until(&self) -> String {
        self.until.map(|until| until.to_string()).unwrap_or_default()
    }
}

fn part(shown: &Shown, item: &Item, word: &str) -> pb::Item {
    let rule = shown.rule(&item.rule);
    pb::Item {
        outcome: word.to_owned(),
        security_group: rule.security_group.clone(),
        account: rule.account.clone(),
        region: rule.region.clone(),
        rule: Some(rule),
        until: item.until.map(|until| until.to_string()).unwrap_or_default(),
        message: sentence(shown, item),
        reason: String::new(),
        call_id: shown.call.clone(),
    }
}

fn failed(shown: &Shown, error: &crate::error::Error) -> pb::Item {
    pb::Item {
        outcome: "failed".to_owned(),
        security_group: shown.scope.group().map(|target| target.group().to_string()).unwrap_or_default(),
        account: shown.scope.place().account().to_string(),
        region: shown.scope.place().region().to_string(),
        rule: None,
        until: String::new(),
        message: error.message().to_owned(),
        reason: error.reason().to_owned(),
        call_id: shown.call.clone(),
    }
}

/// What happened to one rule, in a sentence.
fn sentence(shown: &Shown, item: &Item) -> String {
    let (target, what, rule) = (shown.scope.label(), opening(&item.rule), rule_name(&item.rule));
    let until = item.until.map(|until| until.to_string()).unwrap_or_default();
    let words = match (shown.unsaid_from, item.until) {
        (Some(from), Some(until)) => {
            let length = SignedDuration::from_secs(until.duration_since(whole_seconds(from)).as_secs());
            format!(" for {length:#}, which is the default,")
        }
        _ if shown.words.is_empty() => String::new(),
        // The caller's own point in time, unless it is written like ours.
        (_, Some(until)) if shown.words.eq_ignore_ascii_case(&format!("until {until}")) => String::new(),
        _ if shown.words.starts_with("until ") => format!(" {}, that is", shown.words),
        _ => format!(" {},", shown.words),
    };
    match (item.word, shown.dry_run) {
        (Word::Opened, false) => format!("Opened {target}: {what} is let in{words} until {until}, by {rule}."),
        (Word::Opened, true) => {
            format!("Dry run: {target} would let in {what}{words} until {until}. Nothing was changed.")
        }
        (Word::Joined, _) if !held_by_others(shown, &item.rule) => {
            let (start, end) = if shown.dry_run { ("Dry run: ", " Nothing was changed.") } else { ("", "") };
            format!(
                "{start}{target} lets in {what} still, though nobody held it any more; it is yours{words} until {until}, by {rule}.{end}"
            )
        }
        (Word::Joined, false) => format!(
            "{target} lets in {what} for somebody else already; you hold it too now,{words} until {until}, by {rule}."
        ),
        (Word::Joined, true) => format!(
            "Dry run: {target} lets in {what} for somebody else already; you would hold it too,{words} until {until}. Nothing was changed."
        ),
        (Word::AlreadyYours, _) => format!(
            "You hold {target} open already: {what}, until {until}, by {rule}. Nothing was changed; whitelist_extend moves the end."
        ),
        (Word::AlreadyOpen, _) => format!(
            "{target} lets in {what} already, by {rule}, which is {}. Nothing was changed, and this service will not close it.",
            held_by(&item.rule, shown.now)
        ),
        (Word::Extended, false) => {
            format!("Extended: {target} lets in {what} for you{words} until {until}, by {rule}.")
        }
        (Word::Extended, true) => {
            format!("Dry run: {target} would let in {what} for you{words} until {until}. Nothing was changed.")
        }
        (Word::Moved, false) => format!("Moved: {target} lets in {what} for you, until {until} as before, by {rule}."),
        (Word::Moved, true) => {
            format!("Dry run: {target} would let in {what} for you, until {until} as before. Nothing was changed.")
        }
        (Word::Removed, false) => format!("Closed {target}: {what} is no longer let in; {rule} is removed."),
        (Word::Removed, true) => format!("Dry run: would remove {rule} of {target} ({what}). Nothing was changed."),
        (Word::Left, false) => {
            format!(
                "The lease on {rule} of {target} has ended; it stands on for others: {}.",
                held_by(&item.rule, shown.now)
            )
        }
        (Word::Left, true) => format!(
            "Dry run: would end the lease on {rule} of {target} ({what}), which others hold too. Nothing was changed."
        ),
    }
}

/// Whether somebody else than the caller holds the rule.
fn held_by_others(shown: &Shown, rule: &Rule) -> bool {
    let other = |lease: &crate::operation::lease::Lease| !shown.caller.principal().is(&lease.holder.id());
    rule.ownership().is_some_and(|own| own.live(shown.now).any(other))
}

fn rule_name(rule: &Rule) -> String {
    rule.id.as_deref().map_or_else(|| "a rule of its own".to_owned(), |id| format!("rule {id}"))
}

fn found_out(shown: &Shown, plan: &Plan) -> pb::Plan {
    pb::Plan {
        security_group: shown.scope.group().map(|target| target.group().to_string()).unwrap_or_default(),
        ipv4_rules_left: plan.ipv4_left,
        ipv6_rules_left: plan.ipv6_left,
        warnings: plan.warnings.clone(),
    }
}

fn room(shown: &Shown, plan: &Plan) -> String {
    let mut room = format!(
        "{} would have room for {} IPv4 and {} IPv6 rules more.",
        shown.scope.label(),
        plan.ipv4_left.max(0),
        plan.ipv6_left.max(0)
    );
    for warning in &plan.warnings {
        room.push_str(" Warning: ");
        room.push_str(warning);
    }
    room
}

pub(in crate::grpc) fn added(parts: Vec<Part>) -> pb::AddRuleResponse {
    let mut whole = Whole::of(parts, "Nothing was asked for.");
    if whole.has(Word::Opened) || whole.has(Word::Joined) {
        whole.note(CLOSES_BY_ITSELF);
    }
    let until = whole.until();
    pb::AddRuleResponse {
        summary: whole.summary,
        outcome: whole.outcome,
        rule: whole.rules.into_iter().next().map(|(_, rule)| rule),
        notes: whole.notes,
        call_id: whole.call_id,
        items: whole.items,
        plans: whole.plans,
        until,
        plan_id: whole.plan_id,
    }
}

pub(in crate::grpc) fn removed(parts: Vec<Part>) -> pb::RemoveRulesResponse {
    let groups = parts.iter().map(|part| part.shown.scope.label()).collect::<Vec<_>>().join(", ");
    let nothing = format!("Nothing to remove: no rule of {groups} matches; what was asked for is gone or never was.");
    let mut whole = Whole::of(parts, &nothing);
    if whole.outcome == "removed" || whole.has(Word::Removed) {
        whole.note(CONNECTIONS_SURVIVE);
    }
    let outcome = if whole.outcome.is_empty() { "nothing_to_remove".to_owned() } else { whole.outcome };
    let removed = whole.rules.into_iter().filter(|(word, _)| *word == Word::Removed).map(|(_, rule)| rule);
    pb::RemoveRulesResponse {
        summary: whole.summary,
        outcome,
        removed: removed.collect(),
        kept: whole.kept,
        notes: whole.notes,
        call_id: whole.call_id,
        items: whole.items,
        plans: whole.plans,
        plan_id: whole.plan_id,
    }
}

pub(in crate::grpc) fn extended(parts: Vec<Part>) -> pb::ExtendLeasesResponse {
    let whole = Whole::of(parts, "Nothing was extended.");
    let until = whole.until();
    pb::ExtendLeasesResponse {
        summary: whole.summary,
        outcome: whole.outcome,
        items: whole.items,
        notes: whole.notes,
        call_id: whole.call_id,
        plans: whole.plans,
        until,
        plan_id: whole.plan_id,
    }
}

pub(in crate::grpc) fn moved(parts: Vec<Part>) -> pb::MoveLeasesResponse {
    let mut whole = Whole::of(parts, "Nothing was moved.");
    if whole.has(Word::Moved) {
        whole.note(CONNECTIONS_SURVIVE);
    }
    pb::MoveLeasesResponse {
        summary: whole.summary,
        outcome: whole.outcome,
        items: whole.items,
        notes: whole.notes,
        call_id: whole.call_id,
        plans: whole.plans,
        plan_id: whole.plan_id,
    }
}

pub(in crate::grpc) fn holder_revoked(
    call: &CallId,
    leaver: &Leaver,
    parts: Vec<Part>,
    not_asked: Vec<Missed>,
) -> pb::RevokeHolderResponse {
    let mut whole = Whole::of(parts, &format!("{} holds nothing open.", leaver.holder));
    let dry_run = leaver.dry_run;
    let failed = whole.items.iter().any(|item| item.outcome == "failed");
    let all_failed = whole.items.iter().all(|item| item.outcome == "failed");
    let outcome = match (whole.items.is_empty(), failed || !not_asked.is_empty()) {
        (true, false) => "nothing_to_remove",
        (false, true) if all_failed => "failed",
        (_, true) => "mixed",
        (false, false) if dry_run => "would_remove",
        (false, false) => "removed",
    };
    if !not_asked.is_empty() {
        whole.summary.push_str("\nNot everything could be asked; see `missed`, and ask again.");
    }
    if whole.has(Word::Removed) && !dry_run {
        whole.note(CONNECTIONS_SURVIVE);
    }
    pb::RevokeHolderResponse {
        summary: whole.summary,
        outcome: outcome.to_owned(),
        items: whole.items,
        notes: whole.notes,
        call_id: call.as_str().to_owned(),
        missed: missed(not_asked),
    }
}
