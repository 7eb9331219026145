//! What a journal says, for people: calls as they came out, and doors as they stood open.

mod calls;
mod doors;
mod read;

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

pub use calls::{Call, calls};
pub use doors::{Door, Holder, doors};
pub use read::{Damage, Records, Skipped};

/// Which calls, or which doors. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A name, id, subject or issuer and subject; or a part of the name.
    pub who: Option<String>,
    /// A group's id, or the name that the configuration gives it.
    pub group: Option<String>,
    /// An account.
    pub account: Option<String>,
    /// A port that the call, or the door, was about.
    pub port: Option<u16>,
    /// An address or block that the call was about, or that the door let in.
    pub address: Option<IpNet>,
    /// A tool.
    pub tool: Option<String>,
    /// An outcome, such as `done`, `denied`, `refused`, `unknown` or `unfinished`; or an error's reason.
    pub outcome: Option<String>,
    /// A call's id.
    pub call: Option<String>,
    /// Not before that time.
    pub since: Option<Timestamp>,
    /// And before that time.
    pub until: Option<Timestamp>,
    /// Changes alone, without reads.
    pub changes: bool,
}

impl Filter {
    fn has_place(&self, account: &str, group: &str, name: &str) -> bool {
        let is =
            |wanted: &Option<String>, among: &[&str]| wanted.as_deref().is_none_or(|wanted| among.contains(&wanted));
        is(&self.group, &[group, name]) && is(&self.account, &[account])
    }

    fn has_who<'a>(&self, among: impl IntoIterator<Item = &'a str>) -> bool {
        let Some(wanted) = &self.who else { return true };
        among.into_iter().any(|known| known == wanted || (!wanted.is_empty() && known.contains(wanted.as_str())))
    }

    /// Whether a port is among those of EC2's `protocol`, `from` and `to`.
    fn has_port(&self, protocol: &str, from: i64, to: i64) -> bool {
        let Some(port) = self.port.map(i64::from) else { return true };
        match protocol {
            // EC2's words for everything, and whatever opens every port.
            "-1" | "all" => true,
            "tcp" | "udp" | "6" | "17" => (from..=to).contains(&port) || (from, to) == (-1, -1),
            _ => false,
        }
    }

    /// Whether a rule's source and the wanted block have an address in common. What is no block may.
    fn has_address(&self, source: &str) -> bool {
        let Some(wanted) = &self.address else { return true };
        match block(source) {
            Some(block) => block.contains(wanted) || wanted.contains(&block),
            None => true,
        }
    }

    fn has_time(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }

    /// Whether a rule as the journal has it fits.
    fn has_rule(&self, rule: &Value) -> bool {
        let number = |name: &str| rule.get(name).and_then(Value::as_i64).unwrap_or(-1);
        self.has_port(text(rule, "protocol"), number("from_port"), number("to_port"))
            && self.has_address(text(rule, "source"))
    }
}

/// Reads an address or a block.
pub fn block(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A field's text; none is empty.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let list = value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn time(value: &Value, name: &str) -> Option<Timestamp> {
    text(value, name).parse().ok()
}

/// A rule's ports in words.
fn ports(rule: &Value) -> String {
    let number = |name: &str| rule.get(name).and_then(Value::as_i64).unwrap_or(-1);
    match (text(rule, "protocol"), number("from_port"), number("to_port")) {
        ("-1", ..) => "all".to_owned(),
        (protocol, -1, -1) => protocol.to_owned(),
        (protocol, from, to) if from == to => format!("{protocol}/{from}"),
        (protocol, from, to) => format!("{protocol}/{from}-{to}"),
    }
}

#[cfg(test)]
mod tests;
