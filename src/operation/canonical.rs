//! What was asked, in one canonical form: for the journal, for plans, and for idempotency keys.

use serde_json::{Value, json};

use super::address::Block;
use super::port::{Ports, Protocol};
use super::{Kind, Operation, Selector, Whose};
use crate::digest::sha256_hex;

/// What was asked, as the journal has it: typed fields, and of free text only what was let through.
pub fn arguments(operation: &Operation) -> Value {
    let mut arguments = essence(operation);
    let end = operation.term().and_then(|term| term.end(operation.received()));
    if let (Some(fields), Some(manner)) = (arguments.as_object_mut(), operation.manner()) {
        fields.insert("dry_run".to_owned(), manner.dry_run.into());
        if manner.break_glass {
            fields.insert("break_glass".to_owned(), true.into());
        }
        let given = [("plan_id", &manner.plan), ("idempotency_key", &manner.key)];
        fields.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into()))));
        fields.extend(end.map(|end| ("until".to_owned(), end.to_string().into())));
    }
    arguments
}

/// What was asked, as the log may have it: of text that could hold anything, the length alone.
pub fn loggable(operation: &Operation) -> Value {
    fn without_text(name: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| without_text(name, value)),
            Value::Array(items) => items.iter_mut().for_each(|item| without_text(name, item)),
            Value::String(text) if matches!(name, "reason" | "holder" | "idempotency_key") => {
                *text = format!("<{} characters>", text.chars().count());
            }
            _ => {}
        }
    }
    let mut said = json!({
        "call": operation.call().as_str(), "target": operation.scope().label(), "arguments": arguments(operation),
    });
    without_text("", &mut said);
    said
}

/// A digest of what was asked of which group, without how it is to be done.
pub(super) fn fingerprint(operation: &Operation) -> String {
    let place = operation.scope().place();
    let group = operation.scope().group().map(|target| target.group().as_str());
    sha256_hex(
        json!([operation.tool().name(), place.account().as_str(), place.region().as_str(), group, essence(operation)])
            .to_string(),
    )
}

fn essence(operation: &Operation) -> Value {
    let term = || operation.term().map(|term| term.canonical()).unwrap_or_default();
    match operation.kind() {
        Kind::Add(add) => {
            let openings = add
                .openings
                .iter()
                .map(|opening| json!({"address": opening.block.to_string(), "ports": ports(&opening.ports)}));
            json!({"openings": openings.collect::<Vec<_>>(), "reason": add.reason, "term": term()})
        }
        Kind::Remove(remove) => json!({
            "rules": selector(&remove.selector), "whose": whose(&remove.whose), "reason": remove.reason,
        }),
        Kind::Extend(extend) => json!({
            "rules": selector(&extend.selector), "term": term(), "reason": extend.reason,
        }),
        Kind::Move(relocate) => json!({
            "rules": selector(&relocate.selector), "to": relocate.to.to_string(),
        }),
        Kind::List(list) => json!({
            "address": list.block.map(|block| block.to_string()), "ports": list.ports.as_ref().map(ports),
            "protocol": list.protocol.map(Protocol::as_str), "holder": list.holder, "managed_only": list.managed_only,
            "fresh": list.fresh,
        }),
        Kind::Check(check) => json!({
            "address": check.block.to_string(), "ports": ports(&check.ports), "fresh": check.fresh,
        }),
        Kind::Leases(leases) => json!({
            "whose": whose(&leases.whose), "group": leases.group.as_ref().map(|target| target.group().as_str()),
        }),
        Kind::Close(rules) => json!({"rule_ids": rules}),
        Kind::Tidy(tidy) => json!({
            "rule_id": tidy.rule_id, "tags": tidy.tags.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        }),
        Kind::Find => json!({}),
    }
}

fn ports(ports: &Ports) -> Value {
    json!({"protocol": ports.protocol().as_str(), "from": ports.from_port(), "to": ports.to_port()})
}

fn selector(selector: &Selector) -> Value {
    json!({
        "rule_id": selector.rule_id, "addresses": selector.blocks.iter().map(Block::to_string).collect::<Vec<_>>(),
        "ports": selector.ports.iter().map(ports).collect::<Vec<_>>(), "protocol": selector.protocol.map(Protocol::as_str),
    })
}

fn whose(whose: &Whose) -> Value {
    match whose {
        Whose::Own => "own".into(),
        Whose::Everyone => "everyone".into(),
        Whose::Named(name) => json!({"holder": name}),
    }
}
