//! One request that is already valid: what is asked, of which security group, in canonical form.
//!
//! An [`Operation`] is made from a protobuf request ([`request`]) or by the service itself ([`own`]), by checking every
//! field; after that nobody checks again. It says nothing of who asks (`identity`) or whether they may (`policy`), and
//! does no I/O. A request that names several groups becomes as many operations.

pub mod address;
mod canonical;
pub mod lease;
pub mod own;
pub mod ownership;
pub mod port;
pub mod reach;
pub mod request;
pub mod rule;
pub mod target;
pub mod term;
mod text;

use jiff::Timestamp;

use crate::error::Error;

use address::Block;
use port::{Ports, Protocol};
use rule::{Rule, Traffic};
use target::{Place, Target};
use term::Term;

pub use canonical::arguments;
pub use request::Context;

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
}

/// The id of one call: a UUID version 7, so ids sort by time. It stands on the rule, in the session's tags, in the
/// journal and in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallId(String);

/// One valid request.
#[derive(Clone, Debug)]
pub struct Operation {
    call: CallId,
    /// The call of a request that named several groups, of which this is one.
    part_of: Option<CallId>,
    received: Timestamp,
    asked: String,
    tool: Tool,
    scope: Scope,
    kind: Kind,
    notes: Vec<String>,
}

/// What an operation reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One security group.
    Group(Target),
    /// What is read of one account and Region.
    Region(Place),
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Open the group to addresses.
    Add(Add),
    /// End leases, and close what nobody holds any more.
    Remove(Remove),
    /// Move the end of leases.
    Extend(Extend),
    /// Put leases on another address.
    Move(Move),
    /// List what stands.
    List(List),
    /// Would this address get in?
    Check(Check),
    /// Find leases in an account and Region.
    Leases(Leases),
    /// Close rules whose leases have ended, by id.
    Close(Vec<String>),
    /// Take tags off one rule, each only if it still has that value.
    Tidy(Tidy),
    /// Find rules, in whichever way the tool does.
    Find,
}

/// Rules to make.
#[derive(Clone, Debug)]
pub struct Add {
    /// What to let in, and on which ports: at least one, none twice.
    pub openings: Vec<Opening>,
    /// Why.
    pub reason: String,
    /// For how long.
    pub term: Term,
    /// How it is to be done.
    pub manner: Manner,
}

/// One address block on one range of ports: what AWS takes for one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Opening {
    /// What to let in.
    pub block: Block,
    /// On which ports.
    pub ports: Ports,
}

/// Leases to end.
#[derive(Clone, Debug)]
pub struct Remove {
    /// On which rules.
    pub selector: Selector,
    /// Whose.
    pub whose: Whose,
    /// Why.
    pub reason: String,
    /// How it is to be done.
    pub manner: Manner,
}

/// Leases to move the end of.
#[derive(Clone, Debug)]
pub struct Extend {
    /// On which rules.
    pub selector: Selector,
    /// To when.
    pub term: Term,
    /// Why; as before unless said.
    pub reason: Option<String>,
    /// How it is to be done.
    pub manner: Manner,
}

/// Leases to put on another address.
#[derive(Clone, Debug)]
pub struct Move {
    /// On which rules.
    pub selector: Selector,
    /// The new address.
    pub to: Block,
    /// How it is to be done.
    pub manner: Manner,
}

/// How a change is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Only say what would change.
    pub dry_run: bool,
    /// Only if what stands is what this plan saw.
    pub plan: Option<String>,
    /// Not a second time under this key.
    pub key: Option<String>,
}

/// Which rules are meant: those that match everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// By id.
    pub rule_id: Option<String>,
    /// By exactly one of these blocks.
    pub blocks: Vec<Block>,
    /// By exactly one of these ranges.
    pub ports: Vec<Ports>,
    /// By protocol.
    pub protocol: Option<Protocol>,
}

/// Whose leases are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The caller's own.
    Own,
    /// Everybody's.
    Everyone,
    /// One holder's, by name or id.
    Named(String),
}

/// Which rules to show.
#[derive(Clone, Debug)]
pub struct List {
    /// Only rules that contain this block or lie inside it.
    pub block: Option<Block>,
    /// Only rules that open some of these ports.
    pub ports: Option<Ports>,
    /// Only rules of this protocol, or of all.
    pub protocol: Option<Protocol>,
    /// Only rules of ours that this holder holds, by name or id.
    pub holder: Option<String>,
    /// Only rules of ours.
    pub managed_only: bool,
}

/// What to ask about.
#[derive(Clone, Debug)]
pub struct Check {
    /// The addresses.
    pub block: Block,
    /// The ports.
    pub ports: Ports,
}

/// Which leases to find.
#[derive(Clone, Debug)]
pub struct Leases {
    /// Whose.
    pub whose: Whose,
    /// Only in this group.
    pub group: Option<Target>,
}

/// Tags that no longer say anything.
#[derive(Clone, Debug)]
pub struct Tidy {
    /// The rule they are on.
    pub rule_id: String,
    /// Each by key and value.
    pub tags: Vec<(String, String)>,
}

/// A request that is wrong in a way that no field's own type knows.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// A field that must be given.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field that is too long.
    #[error("`{field}` has {length} characters; {max} are the most")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// A list that is too long.
    #[error("`{field}` has {given} entries; {most} are the most")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many it has.
        given: usize,
        /// How many it may have.
        most: usize,
    },
    /// One value and a list of them.
    #[error("give `{0}` or `{1}`, not both")]
    OneOrMany(&'static str, &'static str),
    /// A reason that says nothing.
    #[error("`reason` must say why in at least 3 characters")]
    ReasonTooShort,
    /// A text with control characters.
    #[error("`{0}` holds a control or invisible character; write plain text on one line")]
    ControlCharacter(&'static str),
    /// A text that holds what looks like a secret.
    #[error("`{0}` holds what looks like an AWS key or a token; leave it out, and if it was real, rotate it")]
    Credential(&'static str),
    /// Not a rule id.
    #[error("`{0}` is not a security group rule id; it is sgr- and 8 to 17 hexadecimal digits")]
    RuleId(String),
    /// A removal or extension that would match everything.
    #[error("say which rules are meant: give rule_id, address, port or protocol; a change never means every rule")]
    NoSelector,
    /// Plans and dry runs exclude each other.
    #[error("a dry run makes a plan, and a change is held to one: leave out `plan_id` or `dry_run`")]
    PlannedDryRun,
    /// Not the shape of a plan id.
    #[error("`{0}` is not a plan id; a dry run answers with one, such as plan-0123456789abcdef")]
    PlanId(String),
    /// A plan for another number of groups.
    #[error(
        "the plan is for {planned} security groups and the request for {asked}: a plan holds for the very request it was made for"
    )]
    PlanCount {
        /// How many the plan is for.
        planned: usize,
        /// How many are asked for.
        asked: usize,
    },
    /// An address family that the protocol does not have.
    #[error("{protocol} is for {family} addresses, and {block} is not one")]
    Family {
        /// The protocol.
        protocol: Protocol,
        /// Its address family.
        family: &'static str,
        /// The block.
        block: Block,
    },
}

impl From<OperationError> for Error {
    fn from(error: OperationError) -> Self {
        let (field, reason) = match &error {
            OperationError::Missing(field) => (*field, "FIELD_MISSING"),
            OperationError::TooLong { field, .. } => (*field, "FIELD_TOO_LONG"),
            OperationError::TooMany { field, .. } => (*field, "TOO_MANY"),
            OperationError::OneOrMany(field, _) => (*field, "ONE_OR_MANY"),
            OperationError::ReasonTooShort => ("reason", "REASON_INVALID"),
            OperationError::ControlCharacter(field) => (*field, "CONTROL_CHARACTER"),
            OperationError::Credential(field) => (*field, "CREDENTIALS_REFUSED"),
            OperationError::RuleId(_) => ("rule_id", "RULE_ID_INVALID"),
            OperationError::NoSelector => ("rule_id", "SELECTOR_MISSING"),
            OperationError::PlannedDryRun | OperationError::PlanId(_) | OperationError::PlanCount { .. } => {
                ("plan_id", "PLAN_INVALID")
            }
            OperationError::Family { .. } => ("protocol", "PROTOCOL_INVALID"),
        };
        Self::invalid(field, reason, error.to_string())
    }
}

// === impl Tool ===

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
    pub const OWN: [Self; 5] = [Self::Survey, Self::Close, Self::Tidy, Self::Recover, Self::Discover];

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
            Self::Survey => "survey",
            Self::Close => "close",
            Self::Tidy => "tidy",
            Self::Recover => "recover",
            Self::Discover => "discover",
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
            Self::Survey | Self::Close | Self::Tidy | Self::Recover | Self::Discover => return None,
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

// === impl CallId ===

impl CallId {
    /// A new id.
    #[expect(clippy::new_without_default, reason = "two calls never share an id, so there is no default one")]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for CallId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::try_parse(text).map(|id| Self(id.to_string()))
    }
}

// === impl Scope ===

impl Scope {
    /// The account and Region.
    pub fn place(&self) -> &Place {
        match self {
            Self::Group(target) => target.place(),
            Self::Region(place) => place,
        }
    }

    /// The group, where there is one.
    pub fn group(&self) -> Option<&Target> {
        match self {
            Self::Group(target) => Some(target),
            Self::Region(_) => None,
        }
    }

    /// How it is spoken of.
    pub fn label(&self) -> String {
        match self {
            Self::Group(target) => target.label(),
            Self::Region(place) => place.to_string(),
        }
    }
}

// === impl Operation ===

impl Operation {
    /// The call's id.
    pub fn call(&self) -> &CallId {
        &self.call
    }

    /// The call that this is a part of, if the request named several groups.
    pub fn part_of(&self) -> Option<&CallId> {
        self.part_of.as_ref()
    }

    /// When the call came in.
    pub fn received(&self) -> Timestamp {
        self.received
    }

    /// The group as the caller wrote it. An answer to who may not know the group says nothing else of it.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// What it reaches.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What is asked.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What the caller should know of how the request was read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tool that is called.
    pub fn tool(&self) -> Tool {
        self.tool
    }

    /// How a change is to be done; none for what only reads.
    pub fn manner(&self) -> Option<&Manner> {
        match &self.kind {
            Kind::Add(add) => Some(&add.manner),
            Kind::Remove(remove) => Some(&remove.manner),
            Kind::Extend(extend) => Some(&extend.manner),
            Kind::Move(relocate) => Some(&relocate.manner),
            _ => None,
        }
    }

    /// The end that is asked for; none where there is nothing to end.
    pub fn term(&self) -> Option<&Term> {
        match &self.kind {
            Kind::Add(add) => Some(&add.term),
            Kind::Extend(extend) => Some(&extend.term),
            _ => None,
        }
    }

    /// The operation with the term that policy sets where the caller said none.
    #[must_use]
    pub fn with_default_term(mut self, default: jiff::SignedDuration) -> Self {
        match &mut self.kind {
            Kind::Add(Add { term, .. }) | Kind::Extend(Extend { term, .. }) => *term = term.clone().or(default),
            _ => {}
        }
        self
    }

    /// The idempotency key, if there is one and the operation changes anything.
    pub fn key(&self) -> Option<&str> {
        self.manner().and_then(|manner| manner.key.as_deref())
    }

    /// A digest of what is asked, of which group: the same whenever it is asked again, dry run or not.
    pub fn fingerprint(&self) -> String {
        canonical::fingerprint(self)
    }

    /// Whether the call may change what stands in AWS: a change that is no dry run.
    pub fn changes(&self) -> bool {
        match &self.kind {
            Kind::Close(_) | Kind::Tidy(_) => true,
            _ => self.manner().is_some_and(|manner| !manner.dry_run),
        }
    }
}

// === impl Opening, Selector, Whose ===

impl Opening {
    /// Whether AWS would take the rule for this opening.
    pub fn is(self, rule: &Rule) -> bool {
        rule.is(self.block, self.ports)
    }
}

impl std::fmt::Display for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} port {} from {}", self.ports.protocol(), self.ports, self.block)
    }
}

impl Selector {
    /// Whether nothing is selected by.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a rule is meant.
    pub fn matches(&self, rule: &Rule) -> bool {
        let block = rule.source.block();
        self.rule_id.as_ref().is_none_or(|id| rule.id.as_ref() == Some(id))
            && (self.blocks.is_empty() || block.is_some_and(|block| self.blocks.contains(&block)))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| rule.traffic == Traffic::Ports(*ports)))
            && self.protocol.is_none_or(|protocol| rule.traffic.protocol() == protocol.as_str())
    }
}

impl Whose {
    /// Reads a holder; nothing means the caller's own.
    pub fn read(written: Option<&str>) -> Self {
        match written {
            None => Self::Own,
            Some("everyone") => Self::Everyone,
            Some(name) => Self::Named(name.to_owned()),
        }
    }
}
