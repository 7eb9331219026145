//! Doors: which rules stood in a group, from when to when, for whom. Every change says what stood before it and what it did,
//! and that is all that is known: what somebody did by hand shows at the next change, or where the service observes it.
//!
//! Changes overlap. What stood before one was read at some time between its begin and its end, so it speaks of what was
//! known before its begin, and says nothing against what others did meanwhile. What came first is told by the place of the
//! records, not by their times: a clock may step back.

mod history;

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Filter, Records, list, text};
use history::{History, Look, Place};

/// A rule that stood for a while, as it was for that while: a rule that was moved or changed is a door before and another after.
#[derive(Clone, Debug, Serialize)]
pub struct Door {
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The security group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// The rule.
    pub rule: String,
    /// What it let in.
    pub source: String,
    /// On which ports.
    pub ports: String,
    /// When it was made, or first seen; where its call did not live to say so, when that was begun.
    pub from: Timestamp,
    /// The call that made it so; empty where that was done elsewhere or before.
    pub opened_by: String,
    /// Who asked for that.
    pub opener: String,
    /// When it was taken away, moved or changed, or first missed; none where it still stood when it was last seen.
    pub to: Option<Timestamp>,
    /// The call that did that; empty where none is known.
    pub closed_by: String,
    /// Who asked for that.
    pub closer: String,
    /// Everybody who held it, each with the end that they had last.
    pub holders: Vec<Holder>,
    /// When it was last seen to stand.
    pub seen: Timestamp,
}

/// Who held a door.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Holder {
    /// Their id.
    pub id: String,
    /// The end of their lease, as it was last known.
    pub until: String,
    /// The call that made or last changed it.
    pub call: String,
}

/// How a call began.
struct Begun {
    order: usize,
    at: Timestamp,
    who: String,
    place: Place,
    name: String,
    /// Where a rule was to be moved.
    to: String,
}

/// The doors that a filter lets through, oldest first: those that stood at some time between `since` and `until`.
pub fn doors(records: &Records, filter: &Filter) -> Vec<Door> {
    let records = &records.records;
    let begins = records.iter().enumerate().filter(|(_, (_, record))| text(record, "type") == "begin");
    let begun: HashMap<&str, Begun> =
        begins.map(|(order, (at, record))| (text(record, "call"), Begun::of(order, *at, record))).collect();
    let mut history = History::default();
    for (order, (at, record)) in records.iter().enumerate() {
        match text(record, "type") {
            "end" => ended(&mut history, order, *at, record, &begun),
            "observed" => observed(&mut history, order, *at, record),
            _ => {}
        }
    }
    let mut found: Vec<Door> = history
        .into_doors()
        .filter(|(door, rule)| {
            let holders = door.holders.iter().map(|holder| holder.id.as_str());
            // A clock that stepped back may have it end before it began.
            let (first, last) =
                (door.to.map_or(door.from, |to| to.min(door.from)), door.to.map(|to| to.max(door.from)));
            filter.has_place(&door.account, &door.group, &door.name)
                && filter.has_rule(rule)
                && filter.until.is_none_or(|until| first < until)
                && filter.since.is_none_or(|since| last.is_none_or(|last| last > since))
                && filter.has_who(holders.chain([door.opener.as_str()]))
        })
        .map(|(door, _)| door)
        .collect();
    found.sort_by(|one, other| (one.from, &one.rule).cmp(&(other.from, &other.rule)));
    found
}

impl Begun {
    fn of(order: usize, at: Timestamp, record: &Value) -> Self {
        let null = Value::Null;
        let field = |name: &str| record.get(name).unwrap_or(&null);
        Self {
            order,
            at,
            who: text(field("who"), "id").to_owned(),
            place: Place::of(field("target")),
            name: text(field("target"), "name").to_owned(),
            to: text(field("arguments"), "to").to_owned(),
        }
    }
}

/// Takes in what stood before a change, and what it did.
fn ended(history: &mut History, order: usize, at: Timestamp, record: &Value, begun: &HashMap<&str, Begun>) {
    let call = text(record, "call");
    let Some(begin) = begun.get(call) else { return };
    history.name(&begin.place, &begin.name);
    // What another process found out about a call that did not live was read after that process asked.
    let by = text(record, "recovered_by");
    let asked = begun.get(by).map_or(begin.order, |recovery| recovery.order);
    let from = if by.is_empty() { at } else { begin.at };
    let look = Look { after: asked.min(order), order, at, call, who: &begin.who, sure: false };
    let before = list(record, "before");
    for rule in before {
        history.stands(&begin.place, &look, rule);
    }
    let touched = list(record, "rules");
    for rule in touched {
        let sure = Look { sure: true, ..look };
        match text(rule, "what") {
            "opened" | "moved" => {
                if let Some(index) = history.stands(&begin.place, &sure, rule) {
                    history.claim(&begin.place, &look, rule, index, from);
                }
            }
            "removed" => history.removed(&begin.place, &look, rule),
            "stands" if !by.is_empty() => {
                let made = text(rule, "call").is_empty() || text(rule, "call") == call;
                let moved = |index: usize| index > 0 && text(rule, "source") == begin.to;
                if let Some(index) = history.stands(&begin.place, &look, rule).filter(|index| made || moved(*index)) {
                    history.claim(&begin.place, &look, rule, index, from);
                }
            }
            // A dry run says what would be.
            word if word.starts_with("would_") => {}
            _ => drop(history.stands(&begin.place, &look, rule)),
        }
    }
    let is_among = |rules: &[Value], id: &str| rules.iter().any(|rule| text(rule, "id") == id);
    // What stands after a change is what stood before it, with what the change did: only what is new in it says more.
    for rule in list(record, "after") {
        let id = text(rule, "id");
        if !is_among(before, id) && !is_among(touched, id) {
            history.stands(&begin.place, &look, rule);
        }
    }
    if record.get("before").is_some() {
        history.missed(&begin.place, &look, |id| !is_among(before, id));
    }
}

/// Takes in what was seen in AWS and is nobody's call.
fn observed(history: &mut History, order: usize, at: Timestamp, record: &Value) {
    let (Some(target), Some(rule)) = (record.get("target"), record.get("rule")) else { return };
    let place = Place::of(target);
    let look = Look { after: order, order, at, call: "", who: "", sure: true };
    if text(record, "what") == "gone" {
        let gone = text(rule, "id");
        history.missed(&place, &look, |id| id == gone);
    } else if !history.was_removed(&place, rule) {
        history.stands(&place, &look, rule);
    }
}
