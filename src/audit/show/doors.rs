//! Doors: which rules stood in a group, from when to when, for whom. Every change says what stood before it and after it,
//! and that is all that is known: what somebody did by hand shows at the next change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Filter, Records, list, ports, text};

/// A rule that stood for a while.
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
    /// When it was made, or first seen.
    pub from: Timestamp,
    /// The call that made it; empty where it was made elsewhere or before.
    pub opened_by: String,
    /// Who asked for that.
    pub opener: String,
    /// When it was taken away, or first missed; none where it still stood when it was last seen.
    pub to: Option<Timestamp>,
    /// The call that took it away; empty where another did.
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

struct Begun {
    who: String,
    account: String,
    region: String,
    group: String,
    name: String,
}

/// The doors that a filter lets through, oldest first: those that stood at some time between `since` and `until`.
pub fn doors(records: &Records, filter: &Filter) -> Vec<Door> {
    let mut begun: BTreeMap<String, Begun> = BTreeMap::new();
    let mut doors: BTreeMap<String, (Door, Value)> = BTreeMap::new();
    for (at, record) in &records.records {
        let call = text(record, "call");
        match text(record, "type") {
            "begin" => drop(begun.insert(call.to_owned(), Begun::of(record))),
            "end" => {
                if let Some(begun) = begun.get(call) {
                    seen(&mut doors, *at, call, begun, record);
                }
            }
            "observed" if text(record, "what") == "gone" => {
                let id = record.get("rule").map(|rule| text(rule, "id")).unwrap_or_default();
                if let Some((door, _)) = doors.get_mut(id) {
                    door.to.get_or_insert(*at);
                }
            }
            _ => {}
        }
    }
    let mut found: Vec<Door> = doors
        .into_values()
        .filter(|(door, rule)| {
            let holders = door.holders.iter().map(|holder| holder.id.as_str());
            filter.has_place(&door.account, &door.group, &door.name)
                && filter.has_rule(rule)
                && filter.until.is_none_or(|until| door.from < until)
                && filter.since.is_none_or(|since| door.to.is_none_or(|to| to > since))
                && filter.has_who(holders.chain([door.opener.as_str()]))
        })
        .map(|(door, _)| door)
        .collect();
    found.sort_by(|one, other| (one.from, &one.rule).cmp(&(other.from, &other.rule)));
    found
}

impl Begun {
    fn of(record: &Value) -> Self {
        let null = Value::Null;
        let (who, target) = (record.get("who").unwrap_or(&null), record.get("target").unwrap_or(&null));
        Self {
            who: text(who, "id").to_owned(),
            account: text(target, "account").to_owned(),
            region: text(target, "region").to_owned(),
            group: text(target, "group").to_owned(),
            name: text(target, "name").to_owned(),
        }
    }
}

/// Takes in what stood before and after a change.
fn seen(doors: &mut BTreeMap<String, (Door, Value)>, at: Timestamp, call: &str, begun: &Begun, record: &Value) {
    let done = |what: &str, id: &str| {
        let touched = list(record, "rules").iter().any(|rule| text(rule, "what") == what && text(rule, "id") == id);
        (if touched { call } else { "" }.to_owned(), if touched { begun.who.as_str() } else { "" }.to_owned())
    };
    let before = list(record, "before");
    for rule in before {
        stands(doors, at, begun, rule, |_| (String::new(), String::new()));
    }
    let (after, known) = (list(record, "after"), record.get("after").is_some());
    // A change whose answer was lost, or that another process accounted for, still says which rules it made.
    let rest = if known { [].as_slice() } else { list(record, "rules") };
    for rule in after.iter().chain(rest) {
        stands(doors, at, begun, rule, |id| done("opened", id));
    }
    if !known {
        return;
    }
    let gone = doors.values_mut().filter(|(door, _)| {
        let here = (door.account == begun.account) && (door.region == begun.region) && (door.group == begun.group);
        here && door.to.is_none() && !after.iter().any(|rule| text(rule, "id") == door.rule)
    });
    for (door, _) in gone {
        door.to = Some(at);
        (door.closed_by, door.closer) = done("removed", &door.rule);
    }
}

fn stands(
    doors: &mut BTreeMap<String, (Door, Value)>,
    at: Timestamp,
    begun: &Begun,
    rule: &Value,
    made: impl Fn(&str) -> (String, String),
) {
    let id = text(rule, "id");
    if id.is_empty() {
        return;
    }
    let (door, shown) = doors.entry(id.to_owned()).or_insert_with(|| {
        let (opened_by, opener) = made(id);
        let door = Door {
            account: begun.account.clone(),
            region: begun.region.clone(),
            group: begun.group.clone(),
            name: begun.name.clone(),
            rule: id.to_owned(),
            source: String::new(),
            ports: String::new(),
            from: at,
            opened_by,
            opener,
            to: None,
            closed_by: String::new(),
            closer: String::new(),
            holders: Vec::new(),
            seen: at,
        };
        (door, Value::Null)
    });
    (door.source, door.ports, door.seen) = (text(rule, "source").to_owned(), ports(rule), at);
    for lease in list(rule, "leases") {
        let holder = Holder {
            id: text(lease, "holder_id").to_owned(),
            until: text(lease, "until").to_owned(),
            call: text(lease, "call").to_owned(),
        };
        match door.holders.iter_mut().find(|known| known.id == holder.id) {
            Some(known) => *known = holder,
            None => door.holders.push(holder),
        }
    }
    *shown = rule.clone();
}
