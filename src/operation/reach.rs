//! Would an address get in? By containment over what stands, never by comparing strings.

use ipnet::IpNet;

use super::address::Block;
use super::port::Ports;
use super::rule::{Rule, Source};

/// The answer to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every address and port asked about is let in.
    Allowed,
    /// Some are let in.
    Partly,
    /// None is, as far as address rules tell, but a prefix list or a referenced group might let it in.
    Depends,
    /// None is let in.
    NotAllowed,
}

/// The answer, and the rules that make it.
#[derive(Debug, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The answer.
    pub verdict: Verdict,
    /// The rules that let it in, in whole or in part.
    pub allowed_by: Vec<&'a Rule>,
    /// The rules whose members are not looked up and that might let it in.
    pub might_allow: Vec<&'a Rule>,
}

impl Verdict {
    /// The verdict as the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Partly => "partly",
            Self::Depends => "depends",
            Self::NotAllowed => "not_allowed",
        }
    }
}

impl<'a> Reach<'a> {
    /// Works out whether `rules` let `block` in on `ports`.
    pub fn of(block: Block, ports: Ports, rules: &'a [Rule]) -> Self {
        let allowed_by: Vec<&Rule> = rules
            .iter()
            .filter(|rule| rule.traffic.overlaps(ports) && rule.source.block().is_some_and(|own| own.overlaps(block)))
            .collect();
        let might_allow: Vec<&Rule> = rules
            .iter()
            .filter(|rule| {
                rule.traffic.overlaps(ports)
                    && matches!(rule.source, Source::PrefixList(_) | Source::Group(_) | Source::Unknown(_))
            })
            .collect();
        let verdict = if covered(block, ports, &allowed_by) {
            Verdict::Allowed
        } else if !allowed_by.is_empty() {
            Verdict::Partly
        } else if !might_allow.is_empty() {
            Verdict::Depends
        } else {
            Verdict::NotAllowed
        };
        Self { verdict, allowed_by, might_allow }
    }
}

/// Whether the rules together let in the whole block on every port: two halves of a block count as the block, and two
/// adjoining port ranges as one range.
fn covered(block: Block, ports: Ports, rules: &[&Rule]) -> bool {
    // Between two neighbouring bounds the same rules apply, so one port of each stretch stands for all of it.
    let mut starts = vec![ports.from_port()];
    if !ports.protocol().is_icmp() {
        for rule in rules {
            let (from, to) = rule.traffic.range();
            starts.extend(
                [from, to.saturating_add(1)].into_iter().filter(|p| (ports.from_port()..=ports.to_port()).contains(p)),
            );
        }
    }
    starts.into_iter().all(|start| {
        let probe = if ports.protocol().is_icmp() { ports } else { Ports::from_aws(ports.protocol(), start, start) };
        let nets: Vec<IpNet> = rules
            .iter()
            .filter(|r| r.traffic.contains(probe))
            .filter_map(|r| r.source.block())
            .map(Block::net)
            .collect();
        IpNet::aggregate(&nets).iter().any(|net| net.contains(&block.net()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::ownership::Made;
    use super::super::rule::Traffic;
    use super::*;

    fn rule(source: &str, traffic: Traffic) -> Rule {
        let source = match Block::from_aws(source) {
            Some(block) => Source::Block(block),
            None => Source::PrefixList(source.to_owned()),
        };
        Rule { id: None, source, traffic, description: String::new(), made: Made::Elsewhere, tags: 0 }
    }

    fn tcp(port: &str) -> Traffic {
        Traffic::Ports(Ports::parse(Some(port), None).expect("parses"))
    }

    fn verdict(address: &str, port: &str, rules: &[Rule]) -> Verdict {
        Reach::of(Block::from_aws(address).expect("parses"), Ports::parse(Some(port), None).expect("parses"), rules)
            .verdict
    }

    #[test]
    fn containment_not_equality() {
        let rules = [rule("203.0.113.0/24", tcp("20-30")), rule("2001:db8::/32", Traffic::All)];
        assert_eq!(verdict("203.0.113.7/32", "22", &rules), Verdict::Allowed);
        assert_eq!(verdict("203.0.113.0/25", "20-30", &rules), Verdict::Allowed);
        assert_eq!(verdict("203.0.112.0/23", "22", &rules), Verdict::Partly);
        assert_eq!(verdict("203.0.113.7/32", "22-40", &rules), Verdict::Partly);
        assert_eq!(verdict("203.0.113.7/32", "443", &rules), Verdict::NotAllowed);
        assert_eq!(verdict("2001:db8:1::1/128", "443", &rules), Verdict::Allowed);
    }

    #[test]
    fn rules_add_up() {
        let halves = [rule("203.0.113.0/25", tcp("22")), rule("203.0.113.128/25", tcp("22"))];
        assert_eq!(verdict("203.0.113.0/24", "22", &halves), Verdict::Allowed);
        let ranges = [rule("203.0.113.0/24", tcp("20-22")), rule("203.0.113.0/24", tcp("23-30"))];
        assert_eq!(verdict("203.0.113.7/32", "21-29", &ranges), Verdict::Allowed);
        let gap = [rule("203.0.113.0/24", tcp("20-22")), rule("203.0.113.0/24", tcp("24-30"))];
        assert_eq!(verdict("203.0.113.7/32", "21-29", &gap), Verdict::Partly);
    }

    #[test]
    fn what_is_not_looked_up_is_named() {
        let rules = [rule("pl-0123456789abcdef0", tcp("22")), rule("203.0.113.0/24", Traffic::Other("47".to_owned()))];
        assert_eq!(verdict("203.0.113.7/32", "22", &rules), Verdict::Depends);
        assert_eq!(verdict("203.0.113.7/32", "443", &rules), Verdict::NotAllowed);
    }

    #[test]
    fn icmp_types_and_codes() {
        let all = Ports::parse(None, Some("icmp")).expect("parses");
        let echo = Ports::parse(Some("echo-request"), Some("icmp")).expect("parses");
        let block = Block::from_aws("203.0.113.7/32").expect("parses");
        let rules = [rule("203.0.113.0/24", Traffic::Ports(echo))];
        assert_eq!(Reach::of(block, echo, &rules).verdict, Verdict::Allowed);
        assert_eq!(Reach::of(block, all, &rules).verdict, Verdict::Partly);
        assert_eq!(verdict("203.0.113.7/32", "22", &rules), Verdict::NotAllowed);
    }
}
