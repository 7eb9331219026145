//! What the service does for itself: look for leases that have ended, close them, tidy up, and find out what became of
//! changes that were begun and not ended.

use jiff::Timestamp;

use super::target::{Place, Target};
use super::{CallId, Kind, Leases, Manner, Operation, Remove, Scope, Selector, Tidy, Tool, Whose};

impl Operation {
    /// Reads every rule of ours in an account and Region, for one of the service's own ends.
    pub fn survey(tool: Tool, place: Place, now: Timestamp) -> Self {
        Self::own(tool, Scope::Region(place), Kind::Find, now)
    }

    /// Reads one group, to find out what became of a change there.
    pub fn recover(target: Target, now: Timestamp) -> Self {
        Self::own(Tool::Recover, Scope::Group(target), Kind::Find, now)
    }

    /// Closes rules of one group whose leases have ended.
    pub fn close(target: Target, rules: Vec<String>, now: Timestamp) -> Self {
        Self::own(Tool::Close, Scope::Group(target), Kind::Close(rules), now)
    }

    /// Takes tags off a rule that no longer say anything.
    pub fn tidy(target: Target, rule_id: String, tags: Vec<(String, String)>, now: Timestamp) -> Self {
        Self::own(Tool::Tidy, Scope::Group(target), Kind::Tidy(Tidy { rule_id, tags }), now)
    }

    fn own(tool: Tool, scope: Scope, kind: Kind, now: Timestamp) -> Self {
        let asked = scope.label();
        Self { call: CallId::new(), part_of: None, received: now, asked, tool, scope, kind, notes: Vec::new() }
    }

    /// The part of a request to end everything of one holder that falls to one group: `self` is the search that found
    /// something there.
    pub fn end_holder(&self, target: Target, holder: String, reason: String, dry_run: bool) -> Self {
        let remove = Remove {
            selector: Selector::default(),
            whose: Whose::Named(holder),
            reason,
            manner: Manner { dry_run, ..Manner::default() },
        };
        Self {
            call: CallId::new(),
            part_of: Some(self.part_of.clone().unwrap_or_else(|| self.call.clone())),
            received: self.received,
            asked: target.label(),
            tool: Tool::RevokeHolder,
            scope: Scope::Group(target),
            kind: Kind::Remove(remove),
            notes: Vec::new(),
        }
    }

    /// What a search for somebody's leases looks for.
    pub fn leases(&self) -> Option<&Leases> {
        match &self.kind {
            Kind::Leases(leases) => Some(leases),
            _ => None,
        }
    }
}
