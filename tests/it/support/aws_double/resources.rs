//! What there is in an account and Region.

use std::collections::BTreeMap;

use whitelistmcp::operation::address::Block;

pub(super) type Tags = BTreeMap<String, String>;

/// An account and a Region of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Where {
    pub(super) account: String,
    pub(super) region: String,
}

/// What a rule lets in, or out to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Cidr(Block),
    PrefixList(String),
    Group(String),
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) egress: bool,
    pub(super) protocol: String,
    pub(super) from: i32,
    pub(super) to: i32,
    pub(super) source: Source,
    pub(super) description: String,
    pub(super) tags: Tags,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) vpc: String,
    pub(super) tags: Tags,
}

/// A network interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkInterface {
    pub(crate) id: String,
    pub(crate) description: String,
    /// `interface`, `lambda`, `nat_gateway` and so on.
    pub(crate) kind: String,
    pub(crate) requester: Option<String>,
    pub(crate) requester_managed: bool,
    /// The instance it is attached to, and that instance's owner.
    pub(crate) attachment: Option<(Option<String>, String)>,
    pub(crate) groups: Vec<String>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// A managed prefix list.
#[derive(Clone, Debug)]
pub(crate) struct PrefixList {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) ipv6: bool,
    /// The most entries it can have; for a list of AWS its weight, which no answer tells.
    pub(crate) entries: usize,
    /// AWS's own, not the account's.
    pub(crate) of_aws: bool,
}

impl Where {
    pub(super) fn new(account: &str, region: &str) -> Self {
        Self { account: account.to_owned(), region: region.to_owned() }
    }

    /// The ARN of a security group (`sg-…`), of a rule (`sgr-…`), or of the rule that is about to be made (`*`).
    pub(super) fn arn(&self, id: &str) -> String {
        let partition = match self.region.split('-').next() {
            Some("cn") => "aws-cn",
            Some("us") if self.region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        let kind = if id.starts_with("sg-") { "security-group" } else { "security-group-rule" };
        format!("arn:{partition}:ec2:{}:{}:{kind}/{id}", self.region, self.account)
    }
}

impl Rule {
    /// Whether AWS takes both for one rule: neither description nor tags tell two rules apart.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.group == other.group
            && self.egress == other.egress
            && self.protocol == other.protocol
            && (self.from, self.to) == (other.from, other.to)
            && self.source == other.source
    }
}

impl Source {
    pub(super) fn as_text(&self) -> String {
        match self {
            Self::Cidr(block) => block.to_string(),
            Self::PrefixList(id) | Self::Group(id) => id.clone(),
        }
    }

    /// Whether both are an IPv4 block, both an IPv6 block, and so on.
    pub(super) fn is_of_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cidr(one), Self::Cidr(two)) => one.is_ipv6() == two.is_ipv6(),
            (Self::PrefixList(_), Self::PrefixList(_)) | (Self::Group(_), Self::Group(_)) => true,
            _ => false,
        }
    }
}
