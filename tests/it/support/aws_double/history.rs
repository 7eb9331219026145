//! What was done to rules and tags, when, and by whom.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;

use super::resources::{Group, Rule, Where};

/// Who did what a test did by its own hand.
pub(super) const BY_HAND: &str = "by hand";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Made,
    Revoked,
    Modified,
    Tagged,
    Untagged,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    /// The time by AWS's clock.
    pub(crate) time: Timestamp,
    pub(crate) what: What,
    /// The rule after the change; before it, if it was revoked. For a group's tags: without an id.
    pub(crate) rule: Standing,
    /// The name of the session, or `by hand`.
    pub(crate) by: String,
}

/// A rule as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) protocol: String,
    pub(crate) from: i32,
    pub(crate) to: i32,
    /// A CIDR, or the id of a prefix list or group.
    pub(crate) source: String,
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
}

impl Standing {
    pub(super) fn rule(at: &Where, rule: &Rule) -> Self {
        Self {
            account: at.account.clone(),
            region: at.region.clone(),
            group: rule.group.clone(),
            id: rule.id.clone(),
            protocol: rule.protocol.clone(),
            from: rule.from,
            to: rule.to,
            source: rule.source.as_text(),
            description: rule.description.clone(),
            tags: rule.tags.clone(),
        }
    }

    pub(super) fn group(at: &Where, group: &Group) -> Self {
        Self {
            account: at.account.clone(),
            region: at.region.clone(),
            group: group.id.clone(),
            id: String::new(),
            protocol: String::new(),
            from: -1,
            to: -1,
            source: String::new(),
            description: group.description.clone(),
            tags: group.tags.clone(),
        }
    }
}
