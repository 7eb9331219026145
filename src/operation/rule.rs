//! An inbound rule as it stands in AWS.

use std::fmt;

use super::address::Block;
use super::ownership::{Made, Ownership};
use super::port::Ports;

/// One inbound rule of a security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// AWS's id; none for a rule that is only planned.
    pub id: Option<String>,
    /// What it lets in.
    pub source: Source,
    /// The traffic it lets through.
    pub traffic: Traffic,
    /// The description that stands on it.
    pub description: String,
    /// Where it comes from, and what this service wrote on it.
    pub made: Made,
    /// How many tags it carries, ours and others'.
    pub tags: usize,
}

/// What a rule lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address block.
    Block(Block),
    /// A prefix list, by id.
    PrefixList(String),
    /// A security group, by id.
    Group(String),
    /// Something that AWS reports and this service does not know.
    Unknown(String),
}

/// The traffic that a rule lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Every protocol and port (EC2's protocol `-1`).
    All,
    /// Ports of one of the four protocols whose ports AWS respects.
    Ports(Ports),
    /// Every packet of another IP protocol, by number or name.
    Other(String),
}

// === impl Rule ===

impl Rule {
    /// What this service wrote on it, where this service made it and its tags are whole.
    pub fn ownership(&self) -> Option<&Ownership> {
        self.made.here()
    }

    /// Whether this is the rule that AWS would take `block` and `ports` for.
    pub fn is(&self, block: Block, ports: Ports) -> bool {
        self.source == Source::Block(block) && self.traffic == Traffic::Ports(ports)
    }
}

// === impl Source ===

impl Source {
    /// The block, where the source is one.
    pub fn block(&self) -> Option<Block> {
        match self {
            Self::Block(block) => Some(*block),
            _ => None,
        }
    }

    /// What kind of source it is, as the API names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Block(block) if block.is_ipv6() => "ipv6",
            Self::Block(_) => "ipv4",
            Self::PrefixList(_) => "prefix_list",
            Self::Group(_) => "security_group",
            Self::Unknown(_) => "",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => block.fmt(f),
            Self::PrefixList(id) | Self::Group(id) | Self::Unknown(id) => f.write_str(id),
        }
    }
}

// === impl Traffic ===

impl Traffic {
    /// Whether every port of `ports` is let through.
    pub fn contains(&self, ports: Ports) -> bool {
        match self {
            Self::All => true,
            Self::Ports(own) => own.contains(ports),
            Self::Other(_) => false,
        }
    }

    /// Whether some port of `ports` is let through.
    pub fn overlaps(&self, ports: Ports) -> bool {
        match self {
            Self::All => true,
            Self::Ports(own) => own.overlaps(ports),
            Self::Other(_) => false,
        }
    }

    /// The protocol, as the API names it.
    pub fn protocol(&self) -> &str {
        match self {
            Self::All => "all",
            Self::Ports(ports) => ports.protocol().as_str(),
            Self::Other(other) => other,
        }
    }

    /// The first and last port as EC2 has them; -1 for all.
    pub fn range(&self) -> (i32, i32) {
        match self {
            Self::Ports(ports) => (ports.from_port(), ports.to_port()),
            Self::All | Self::Other(_) => (-1, -1),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(ports) => ports.fmt(f),
            Self::All | Self::Other(_) => f.write_str("all"),
        }
    }
}
