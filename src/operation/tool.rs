//! The tools: what others may call, and what the service does for itself.

/// What the service does, for others or for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tool {
    /// `whitelist_add`.
    Add,
    /// `whitelist_remove`.
    Remove,
    /// `whitelist_extend`.
    Extend,
    /// `whitelist_move`.
    Move,
    /// `whitelist_list`.
    List,
    /// `whitelist_check`.
    Check,
    /// `whitelist_leases`.
    Leases,
    /// `whitelist_targets`.
    Targets,
    /// `whitelist_revoke_holder`.
    RevokeHolder,
    /// A decision on a request for approval. It is no tool that a model can call.
    Decide,
    /// Its own: look for what has ended.
    Survey,
    /// Its own: close a rule whose leases have ended.
    Close,
    /// Its own: take tags away that no longer say anything.
    Tidy,
    /// Its own: find out what became of a change that was begun and not ended.
    Recover,
    /// Its own: find the groups that are opted in by a tag.
    Discover,
    /// Its own: ask AWS whether its role is to be had.
    SelfTest,
}

impl Tool {
    /// Every tool that others may call.
    pub const ALL: [Self; 9] = [
        Self::Add,
        Self::Remove,
        Self::Extend,
        Self::Move,
        Self::List,
        Self::Check,
        Self::Leases,
        Self::Targets,
        Self::RevokeHolder,
    ];

    /// What the service does for itself.
    pub const OWN: [Self; 6] = [Self::Survey, Self::Close, Self::Tidy, Self::Recover, Self::Discover, Self::SelfTest];

    /// The tool's MCP name, or what the audit trail calls it. The proto says the same, and a test holds them together.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "whitelist_add",
            Self::Remove => "whitelist_remove",
            Self::Extend => "whitelist_extend",
            Self::Move => "whitelist_move",
            Self::List => "whitelist_list",
            Self::Check => "whitelist_check",
            Self::Leases => "whitelist_leases",
            Self::Targets => "whitelist_targets",
            Self::RevokeHolder => "whitelist_revoke_holder",
            Self::Decide => "decide",
            Self::Survey => "survey",
            Self::Close => "close",
            Self::Tidy => "tidy",
            Self::Recover => "recover",
            Self::Discover => "discover",
            Self::SelfTest => "self_test",
        }
    }

    /// The RPC's name in `whitelistmcp.v1.WhitelistService`; what the service does for itself has none.
    pub fn rpc(self) -> Option<&'static str> {
        Some(match self {
            Self::Add => "AddRule",
            Self::Remove => "RemoveRules",
            Self::Extend => "ExtendLeases",
            Self::Move => "MoveLeases",
            Self::List => "ListRules",
            Self::Check => "CheckAccess",
            Self::Leases => "ListLeases",
            Self::Targets => "ListTargets",
            Self::RevokeHolder => "RevokeHolder",
            Self::Decide
            | Self::Survey
            | Self::Close
            | Self::Tidy
            | Self::Recover
            | Self::Discover
            | Self::SelfTest => return None,
        })
    }

    /// Whether the tool can change what stands in AWS, other than in a dry run.
    pub fn can_change(self) -> bool {
        matches!(
            self,
            Self::Add | Self::Remove | Self::Extend | Self::Move | Self::RevokeHolder | Self::Close | Self::Tidy
        )
    }

    /// The tool of that MCP name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }
}
