//! What comes of an operation.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::audit::Touch;
use crate::operation::reach::Verdict;
use crate::operation::rule::Rule;
use crate::operation::target::Target;

/// What came of an operation.
#[derive(Debug)]
pub enum Answer {
    /// A change was asked for.
    Changed {
        /// What became of each part of it.
        items: Vec<Item>,
        /// The rules that were meant and stand untouched, each with the reason.
        kept: Vec<(Rule, String)>,
        /// What a dry run found out; none for a change that was made.
        plan: Option<Plan>,
    },
    /// A list was asked for.
    Listed {
        /// The rules that the filters let through.
        rules: Vec<Rule>,
        /// How many there are in all.
        total: usize,
        /// How long ago AWS said so: nothing where it was asked for this call.
        age: Duration,
    },
    /// A check was asked for.
    Checked {
        /// The answer.
        verdict: Verdict,
        /// The rules that let it in.
        allowed_by: Vec<Rule>,
        /// The rules that might.
        might_allow: Vec<Rule>,
        /// How long ago AWS said so: nothing where it was asked for this call.
        age: Duration,
    },
    /// A search for leases was asked for.
    Leases(Vec<(Target, Rule)>),
}

/// What became of one part of a change, or would.
#[derive(Clone, Debug)]
pub struct Item {
    /// What happened.
    pub word: Word,
    /// The rule as it stands, stood or would stand.
    pub rule: Rule,
    /// The end of the caller's lease on it.
    pub until: Option<Timestamp>,
}

/// What happened to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It was made.
    Opened,
    /// It stood for others, and the caller holds it too now.
    Joined,
    /// The caller holds it already.
    AlreadyYours,
    /// It stands, and this service did not make it.
    AlreadyOpen,
    /// The caller's lease ends at another time.
    Extended,
    /// The caller's lease is on another address.
    Moved,
    /// It is gone.
    Removed,
    /// Leases ended, and it stands on for others.
    Left,
}

/// What a dry run found out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the change can be held to.
    pub id: String,
    /// How many IPv4 rules could still be made after the change.
    pub ipv4_left: i32,
    /// How many IPv6 rules could still be made after the change.
    pub ipv6_left: i32,
    /// What may undo the change.
    pub warnings: Vec<String>,
}

impl Answer {
    /// Whether something is different now, and the rules that it was about.
    pub(super) fn changed(&self) -> (bool, Vec<Touch>) {
        let Self::Changed { items, plan, .. } = self else { return (false, Vec::new()) };
        let different = items.iter().any(|item| !matches!(item.word, Word::AlreadyOpen | Word::AlreadyYours));
        let touch = |item: &Item| Touch { what: item.word.as_str(plan.is_some()), rule: item.rule.clone() };
        (different, items.iter().map(touch).collect())
    }
}

impl Answer {
    /// What came of it, as the log may have it.
    pub fn loggable(&self) -> serde_json::Value {
        match self {
            Self::Changed { items, kept, plan } => {
                let item = |item: &Item| json!([item.word.as_str(plan.is_some()), item.rule.id]);
                json!({"items": items.iter().map(item).collect::<Vec<_>>(), "kept": kept.len()})
            }
            Self::Listed { rules, total, .. } => json!({"rules": rules.len(), "total": total}),
            Self::Checked { verdict, .. } => json!({"verdict": verdict.as_str()}),
            Self::Leases(leases) => json!({"leases": leases.len()}),
        }
    }
}

impl Word {
    /// The word as the API has it.
    pub fn as_str(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Opened, false) => "opened",
            (Self::Opened, true) => "would_open",
            (Self::Joined, false) => "joined",
            (Self::Joined, true) => "would_join",
            (Self::AlreadyYours, _) => "already_yours",
            (Self::AlreadyOpen, _) => "already_open",
            (Self::Extended, false) => "extended",
            (Self::Extended, true) => "would_extend",
            (Self::Moved, false) => "moved",
            (Self::Moved, true) => "would_move",
            (Self::Removed, false) => "removed",
            (Self::Removed, true) => "would_remove",
            (Self::Left, false) => "left",
            (Self::Left, true) => "would_leave",
        }
    }
}
