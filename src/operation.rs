//! One request that is already valid: what is asked, of which security group, in canonical form.
//!
//! An [`Operation`] is made from a protobuf request ([`request`]) or by the service itself ([`own`]), by checking every
//! field; after that nobody checks again. It says nothing of who asks (`identity`) or whether they may (`policy`), and
//! does no I/O. A request that names several groups becomes as many operations.

pub mod address;
mod canonical;
mod error;
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
mod tool;

use jiff::Timestamp;

use address::Block;
use port::{Ports, Protocol};
use rule::{Rule, Traffic};
use target::{Place, Target};
use term::Term;

pub use canonical::{arguments, loggable};
pub use error::OperationError;
pub use request::{Context, Everything, Sight};
pub use tool::Tool;

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
    /// At once, where policy wants somebody's word first.
    pub break_glass: bool,
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
    /// As AWS says it now, and not as it said a moment ago.
    pub fresh: bool,
}

/// What to ask about.
#[derive(Clone, Debug)]
pub struct Check {
    /// The addresses.
    pub block: Block,
    /// The ports.
    pub ports: Ports,
    /// As AWS says it now, and not as it said a moment ago.
    pub fresh: bool,
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

    /// Whether only what AWS says now will do.
    pub fn is_fresh(&self) -> bool {
        match &self.kind {
            Kind::List(list) => list.fresh,
            Kind::Check(check) => check.fresh,
            _ => self.changes(),
        }
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
    /// What a rule of this service's lets in; none for a rule that is no block on ports.
    pub fn of(rule: &Rule) -> Option<Self> {
        match (rule.source.block(), &rule.traffic) {
            (Some(block), Traffic::Ports(ports)) => Some(Self { block, ports: *ports }),
            _ => None,
        }
    }

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
