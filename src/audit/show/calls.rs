//! Calls: what was asked by whom, and how it came out.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Filter, Records, list, ports, text, texts};

/// A call, from its begin to its end.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Call {
    /// When it was begun, or refused.
    pub at: Timestamp,
    /// Its id.
    pub call: String,
    /// The call of the request that it is a part of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub part_of: String,
    /// The tool.
    pub tool: String,
    /// Who asked: the name, and the id that is the source identity in CloudTrail.
    pub who: String,
    /// The id.
    pub who_id: String,
    /// Who vouches for them.
    pub issuer: String,
    /// Their identifier there.
    pub subject: String,
    /// Through which OAuth client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// Who acts for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
    /// From which address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Through which peer.
    pub peer: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The security group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Whether it may change AWS.
    pub changes: bool,
    /// How it came out: an outcome, `refused`, or `unfinished`.
    pub outcome: String,
    /// Whether AWS is different for it.
    pub changed: Option<bool>,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Each rule that it was about, in words.
    pub rules: Vec<String>,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// How many calls this record stands for, where they were refused alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// The ids by which CloudTrail knows what was asked of AWS.
    pub aws_request_ids: Vec<String>,
    /// The trace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace: String,
    /// How long it took, in milliseconds.
    pub ms: Option<u64>,
    /// What was asked, as the journal has it.
    pub arguments: Value,
    /// Whether some rule or argument is about the wanted port and address.
    #[serde(skip)]
    fits: bool,
}

/// The calls that a filter lets through, oldest first.
pub fn calls(records: &Records, filter: &Filter) -> Vec<Call> {
    let (mut calls, mut index) = (Vec::<Call>::new(), HashMap::<&str, usize>::new());
    for (at, record) in &records.records {
        match text(record, "type") {
            "begin" => {
                index.insert(text(record, "call"), calls.len());
                calls.push(begun(*at, record, filter));
            }
            "refused" => {
                let error = record.get("error").unwrap_or(&Value::Null);
                calls.push(Call {
                    outcome: "refused".to_owned(),
                    changed: Some(false),
                    reason: text(error, "reason").to_owned(),
                    counted: record.get("counted").and_then(Value::as_u64),
                    ..begun(*at, record, filter)
                });
            }
            _ => {}
        }
    }
    // An end belongs to its call, whatever the clocks say: another process, on another host, may have written it.
    for (_, record) in records.records.iter().filter(|(_, record)| text(record, "type") == "end") {
        if let Some(call) = index.get(text(record, "call")).and_then(|place| calls.get_mut(*place)) {
            end(call, record, filter);
        }
    }
    calls.retain(|call| is_wanted(call, filter));
    calls
}

fn begun(at: Timestamp, record: &Value, filter: &Filter) -> Call {
    let null = Value::Null;
    let (who, target) = (record.get("who").unwrap_or(&null), record.get("target").unwrap_or(&null));
    let arguments = record.get("arguments").cloned().unwrap_or_default();
    Call {
        at,
        call: text(record, "call").to_owned(),
        part_of: text(record, "part_of").to_owned(),
        tool: text(record, "tool").to_owned(),
        who: text(who, "name").to_owned(),
        who_id: text(who, "id").to_owned(),
        issuer: text(who, "issuer").to_owned(),
        subject: text(who, "subject").to_owned(),
        client: text(who, "client").to_owned(),
        actors: texts(who, "actors"),
        address: text(who, "address").to_owned(),
        peer: text(who, "peer").to_owned(),
        account: text(target, "account").to_owned(),
        region: text(target, "region").to_owned(),
        group: text(target, "group").to_owned(),
        name: text(target, "name").to_owned(),
        changes: record.get("changes").and_then(Value::as_bool).unwrap_or(false),
        outcome: "unfinished".to_owned(),
        policies: texts(record, "policies"),
        trace: text(record, "trace").to_owned(),
        fits: asks(&arguments, filter),
        arguments,
        ..Call::default()
    }
}

fn end(call: &mut Call, record: &Value, filter: &Filter) {
    let rules = list(record, "rules");
    call.outcome = text(record, "outcome").to_owned();
    call.changed = record.get("changed").and_then(Value::as_bool);
    call.reason = record.get("error").map(|error| text(error, "reason").to_owned()).unwrap_or_default();
    call.rules = rules.iter().map(in_words).collect();
    call.fits |= rules.iter().any(|rule| filter.has_rule(rule));
    call.aws_request_ids = list(record, "aws").iter().map(|asked| text(asked, "request_id").to_owned()).collect();
    call.aws_request_ids.retain(|id| !id.is_empty());
    call.ms = record.get("ms").and_then(Value::as_u64);
    for policy in texts(record, "policies") {
        if !call.policies.contains(&policy) {
            call.policies.push(policy);
        }
    }
}

/// A rule, and what happened to it.
fn in_words(rule: &Value) -> String {
    format!("{} {} {} {}", text(rule, "what"), text(rule, "source"), ports(rule), text(rule, "id")).trim().to_owned()
}

/// Whether what was asked is about the wanted port and address.
fn asks(arguments: &Value, filter: &Filter) -> bool {
    if filter.port.is_none() && filter.address.is_none() {
        return true;
    }
    let of_ports = |ports: &Value| {
        let number = |name: &str| ports.get(name).and_then(Value::as_i64).unwrap_or(-1);
        filter.has_port(text(ports, "protocol"), number("from"), number("to"))
    };
    let opening =
        |opening: &Value| opening.get("ports").is_some_and(of_ports) && filter.has_address(text(opening, "address"));
    if list(arguments, "openings").iter().any(opening) {
        return true;
    }
    let rules = arguments.get("rules").unwrap_or(arguments);
    let (ports, addresses) = (list(rules, "ports"), texts(rules, "addresses"));
    let one = rules.get("ports").filter(|ports| ports.is_object());
    let says_port = !ports.is_empty() || one.is_some();
    let says_address = !addresses.is_empty() || !text(rules, "address").is_empty();
    let port = ports.iter().chain(one).any(of_ports);
    let address = addresses
        .iter()
        .map(String::as_str)
        .chain([text(rules, "address")])
        .any(|source| !source.is_empty() && filter.has_address(source));
    // What is not said limits nothing, but something must be.
    (says_port || says_address) && (port || !says_port) && (address || !says_address)
}

fn is_wanted(call: &Call, filter: &Filter) -> bool {
    let outcome = filter
        .outcome
        .as_ref()
        .is_none_or(|wanted| call.outcome == *wanted || call.reason.eq_ignore_ascii_case(wanted));
    let who = [call.who.as_str(), &call.who_id, &call.subject, &call.client, &call.address];
    filter.has_time(call.at)
        && outcome
        && filter.has_who(who.into_iter().chain(call.actors.iter().map(String::as_str)))
        && filter.has_place(&call.account, &call.group, &call.name)
        && filter.tool.as_ref().is_none_or(|tool| call.tool == *tool)
        && filter.call.as_ref().is_none_or(|id| call.call == *id || call.part_of == *id)
        && (!filter.changes || call.changes)
        && call.fits
}
