//! Rules as the cache keeps them: what AWS said of each, to be read the way AWS's own answer is.

use serde::{Deserialize, Serialize};

use crate::operation::address::Block;
use crate::operation::ownership::Made;
use crate::operation::port::{Ports, Protocol};
use crate::operation::rule::{Rule, Source, Traffic};

/// One inbound rule.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::aws) struct KeptRule {
    id: Option<String>,
    source: KeptSource,
    traffic: KeptTraffic,
    description: String,
    /// The tags of ours.
    tags: Vec<(String, String)>,
    /// What is wrong with them, where something is.
    damaged: Option<String>,
    /// How many tags it carries in all.
    count: usize,
}

#[derive(Debug, Serialize, Deserialize)]
enum KeptSource {
    Block(String),
    PrefixList(String),
    Group(String),
    Unknown(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum KeptTraffic {
    All,
    Ports(String, i32, i32),
    Other(String),
}

impl KeptRule {
    pub(in crate::aws) fn of(rule: &Rule) -> Self {
        let (tags, damaged) = match &rule.made {
            Made::Elsewhere => (Vec::new(), None),
            Made::Here(ownership) => (ownership.tags(), None),
            Made::Damaged(how) => (Vec::new(), Some(how.clone())),
        };
        Self {
            id: rule.id.clone(),
            source: match &rule.source {
                Source::Block(block) => KeptSource::Block(block.to_string()),
                Source::PrefixList(id) => KeptSource::PrefixList(id.clone()),
                Source::Group(id) => KeptSource::Group(id.clone()),
                Source::Unknown(text) => KeptSource::Unknown(text.clone()),
            },
            traffic: match &rule.traffic {
                Traffic::All => KeptTraffic::All,
                Traffic::Ports(ports) => {
                    KeptTraffic::Ports(ports.protocol().as_str().to_owned(), ports.from_port(), ports.to_port())
                }
                Traffic::Other(protocol) => KeptTraffic::Other(protocol.clone()),
            },
            description: rule.description.clone(),
            tags,
            damaged,
            count: rule.tags,
        }
    }

    /// The rule; none where what was kept does not say one.
    pub(in crate::aws) fn read(self) -> Option<Rule> {
        let source = match self.source {
            KeptSource::Block(cidr) => Source::Block(Block::from_aws(&cidr)?),
            KeptSource::PrefixList(id) => Source::PrefixList(id),
            KeptSource::Group(id) => Source::Group(id),
            KeptSource::Unknown(text) => Source::Unknown(text),
        };
        let traffic = match self.traffic {
            KeptTraffic::All => Traffic::All,
            KeptTraffic::Ports(protocol, from, to) => {
                Traffic::Ports(Ports::from_aws(Protocol::from_aws(&protocol)?, from, to))
            }
            KeptTraffic::Other(protocol) => Traffic::Other(protocol),
        };
        let tags = self.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let made = self.damaged.map_or_else(|| Made::from_tags(tags), Made::Damaged);
        let (id, description, tags) = (self.id, self.description, self.count);
        Some(Rule { id, source, traffic, description, made, tags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::lease::{Holder, Lease};
    use crate::operation::ownership::Ownership;

    #[test]
    fn a_rule_is_read_back_whole() {
        let time = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
        let holder = Holder::new("alice@example.com", "alice-aaaaaaaaaaaaaaaa").expect("an id");
        let (since, until) = (time("2027-01-01T00:00:00Z"), time("2027-01-01T02:00:00Z"));
        let lease = Lease::new(holder, "look", since, until, "01980000-0000-7000-8000-000000000001");
        let ports = |protocol: &str, from, to| {
            Traffic::Ports(Ports::from_aws(Protocol::from_aws(protocol).expect("known"), from, to))
        };
        let block = |cidr: &str| Source::Block(Block::from_aws(cidr).expect("a block"));
        let rule = |source, traffic, made| Rule {
            id: Some("sgr-0123456789abcdef0".to_owned()),
            source,
            traffic,
            description: "why - who".to_owned(),
            made,
            tags: 7,
        };
        for rule in [
            rule(block("203.0.113.7/32"), ports("tcp", 22, 22), Made::Here(Ownership::new(lease, None))),
            rule(block("2001:db8::/32"), ports("udp", 0, 65535), Made::Elsewhere),
            rule(block("0.0.0.0/0"), ports("icmp", -1, -1), Made::Damaged("the tag x is missing".to_owned())),
            rule(Source::PrefixList("pl-1".to_owned()), Traffic::All, Made::Elsewhere),
            rule(Source::Group("sg-1".to_owned()), Traffic::Other("50".to_owned()), Made::Elsewhere),
            rule(Source::Unknown("?".to_owned()), ports("icmpv6", 128, 0), Made::Elsewhere),
        ] {
            let text = serde_json::to_string(&KeptRule::of(&rule)).expect("JSON");
            let kept: KeptRule = serde_json::from_str(&text).expect("JSON");
            assert_eq!(kept.read(), Some(rule));
        }
    }
}
