//! The changes of rules: Authorize, Revoke, Modify. Each happens as a whole or not at all.

use std::collections::BTreeSet;

use whitelistmcp::operation::address::Block;

use super::params::{INVALID, MISSING, Params};
use super::resources::{Rule, Source, Tags};
use super::session::Caller;
use super::world::{Place, World};
use super::{Asked, Refusal, What, tagging, xml};

const NO_GROUP: Refusal = (400, "InvalidGroup.NotFound");
const NO_RULE: Refusal = (400, "InvalidSecurityGroupRuleId.NotFound");
const DUPLICATE: Refusal = (400, "InvalidPermission.Duplicate");
const DESCRIPTION_MOST: usize = 255;

impl World {
    pub(super) fn authorize(&mut self, asked: &Asked, caller: &Caller) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let group = p.required("GroupId")?;
        let limit = self.rule_limit;
        let place = self.place(&caller.at);
        if place.group(group).is_none() {
            return Err(NO_GROUP);
        }
        let new = wanted(p, group)?;
        for (n, rule) in new.iter().enumerate() {
            // AWS: "the same permission must not appear multiple times".
            if new.iter().take(n).any(|other| other.is_same_as(rule)) {
                return Err(INVALID);
            }
            place.can_name(&rule.source)?;
            if place.inbound().any(|other| other.is_same_as(rule)) {
                return Err(DUPLICATE);
            }
        }
        let others = place.inbound().filter(|rule| rule.group == group);
        place.within_limit(limit, new.iter(), others.map(|rule| &**rule))?;
        let mut made = String::new();
        for rule in new {
            let rule = Rule { id: self.rule_id(), ..rule };
            made.push_str(&xml::rule(&caller.at, &rule));
            self.put(&caller.at, rule, What::Made, &caller.name);
        }
        let inner = format!("<return>true</return><securityGroupRuleSet>{made}</securityGroupRuleSet>");
        Ok(xml::ec2("AuthorizeSecurityGroupIngress", &inner))
    }

    pub(super) fn revoke(&mut self, asked: &Asked, caller: &Caller) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let ids: BTreeSet<&str> = p.list("SecurityGroupRuleId").into_iter().collect();
        if ids.is_empty() {
            return Err(NO_RULE);
        }
        let place = self.place(&caller.at);
        if p.get("GroupId").is_some_and(|group| place.group(group).is_none()) {
            return Err(NO_GROUP);
        }
        let mut told = String::new();
        for id in &ids {
            let rule = place.rule(id).filter(|rule| !rule.egress).ok_or(NO_RULE)?;
            if p.get("GroupId").is_some_and(|group| group != rule.group) {
                return Err(NO_RULE);
            }
            told.push_str(&xml::revoked(rule));
        }
        for id in ids {
            self.take(&caller.at, id, &caller.name);
        }
        let inner = format!("<return>true</return><revokedSecurityGroupRuleSet>{told}</revokedSecurityGroupRuleSet>");
        Ok(xml::ec2("RevokeSecurityGroupIngress", &inner))
    }

    pub(super) fn modify(&mut self, asked: &Asked, caller: &Caller) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let group = p.required("GroupId")?;
        let limit = self.rule_limit;
        let place = self.place(&caller.at);
        if place.group(group).is_none() {
            return Err(NO_GROUP);
        }
        let mut changed: Vec<Rule> = Vec::new();
        for prefix in p.structures("SecurityGroupRule") {
            let id = p.required(&format!("{prefix}SecurityGroupRuleId"))?;
            let before = place.rule(id).filter(|rule| rule.group == group).ok_or(NO_RULE)?;
            let after = modified(p, &format!("{prefix}SecurityGroupRule."), before)?;
            place.can_name(&after.source)?;
            if changed.iter().any(|other| other.id == after.id) {
                return Err(INVALID);
            }
            changed.push(after);
        }
        if changed.is_empty() {
            return Err(MISSING);
        }
        let stays = |rule: &Rule| !changed.iter().any(|other| other.id == rule.id);
        for (n, rule) in changed.iter().enumerate() {
            let others = place.rules().map(|other| &**other).filter(|other| stays(other));
            if others.chain(changed.iter().take(n)).any(|other| other.is_same_as(rule)) {
                return Err(DUPLICATE);
            }
        }
        let others = place.inbound().map(|rule| &**rule).filter(|rule| rule.group == group && stays(rule));
        place.within_limit(limit, changed.iter().filter(|rule| !rule.egress), others)?;
        for rule in changed {
            self.put(&caller.at, rule, What::Modified, &caller.name);
        }
        Ok(xml::ec2("ModifySecurityGroupRules", "<return>true</return>"))
    }
}

impl Place {
    /// Whether there is what the rule names.
    fn can_name(&self, source: &Source) -> Result<(), Refusal> {
        match source {
            Source::Cidr(_) => Ok(()),
            Source::PrefixList(id) if self.prefix_lists.contains_key(id) => Ok(()),
            Source::PrefixList(_) => Err((400, "InvalidPrefixListId.NotFound")),
            Source::Group(id) if self.group(id).is_some() => Ok(()),
            Source::Group(_) => Err(NO_GROUP),
        }
    }

    /// Whether the limit of rules lets `new` in beside the `others` of the group.
    fn within_limit<'a>(
        &self,
        limit: usize,
        new: impl Iterator<Item = &'a Rule>,
        others: impl Iterator<Item = &'a Rule>,
    ) -> Result<(), Refusal> {
        let sum = |(v4, v6): (usize, usize), rule: &Rule| {
            let (of_v4, of_v6) = self.weight(&rule.source);
            (v4 + of_v4, v6 + of_v6)
        };
        let (new_v4, new_v6) = new.fold((0, 0), sum);
        let (v4, v6) = others.fold((new_v4, new_v6), sum);
        if (new_v4 > 0 && v4 > limit) || (new_v6 > 0 && v6 > limit) {
            return Err((400, "RulesPerSecurityGroupLimitExceeded"));
        }
        Ok(())
    }

    /// How many rules a rule counts for, of IPv4 and of IPv6.
    fn weight(&self, source: &Source) -> (usize, usize) {
        match source {
            Source::Cidr(block) if block.is_ipv6() => (0, 1),
            Source::Cidr(_) => (1, 0),
            Source::Group(_) => (1, 1),
            Source::PrefixList(id) => match self.prefix_lists.get(id) {
                Some(list) if list.ipv6 => (0, list.entries),
                Some(list) => (list.entries, 0),
                None => (1, 1),
            },
        }
    }
}

/// The rules that an Authorize asks for.
fn wanted(p: Params<'_>, group: &str) -> Result<Vec<Rule>, Refusal> {
    let mut tags = Tags::new();
    for prefix in p.structures("TagSpecification") {
        if p.get(&format!("{prefix}ResourceType")) != Some("security-group-rule") {
            return Err(INVALID);
        }
        tags.extend(tagging::to_set(p, &format!("{prefix}Tag"))?);
    }
    let mut rules = Vec::new();
    for permission in p.structures("IpPermissions") {
        let (protocol, from, to) = ports(p, &permission)?;
        for (list, field) in [
            ("IpRanges", "CidrIp"),
            ("Ipv6Ranges", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId"),
            ("Groups", "GroupId"),
        ] {
            for prefix in p.structures(&format!("{permission}{list}")) {
                rules.push(Rule {
                    id: String::new(),
                    group: group.to_owned(),
                    egress: false,
                    protocol: protocol.clone(),
                    from,
                    to,
                    source: source(field, p.required(&format!("{prefix}{field}"))?)?,
                    description: description(p, &prefix)?,
                    tags: tags.clone(),
                });
            }
        }
    }
    if rules.is_empty() { Err(MISSING) } else { Ok(rules) }
}

/// A rule as a Modify wants it. Its type stays what it is, and so do id and tags.
fn modified(p: Params<'_>, prefix: &str, rule: &Rule) -> Result<Rule, Refusal> {
    let (protocol, from, to) = ports(p, prefix)?;
    let fields = ["CidrIpv4", "CidrIpv6", "PrefixListId", "ReferencedGroupId"];
    let given: Vec<_> = fields.iter().filter_map(|field| Some((field, p.get(&format!("{prefix}{field}"))?))).collect();
    let [(field, value)] = given.as_slice() else { return Err(INVALID) };
    let source = source(field, value)?;
    if !source.is_of_kind(&rule.source) {
        return Err(INVALID);
    }
    Ok(Rule { protocol, from, to, source, description: description(p, prefix)?, ..rule.clone() })
}

fn source(field: &str, value: &str) -> Result<Source, Refusal> {
    match field {
        "PrefixListId" => Ok(Source::PrefixList(value.to_owned())),
        "GroupId" | "ReferencedGroupId" => Ok(Source::Group(value.to_owned())),
        // Host bits are cleared.
        _ => match Block::from_aws(value) {
            Some(block) if block.is_ipv6() == (field == "CidrIpv6") => Ok(Source::Cidr(block)),
            _ => Err(INVALID),
        },
    }
}

fn description(p: Params<'_>, prefix: &str) -> Result<String, Refusal> {
    let text = p.get(&format!("{prefix}Description")).unwrap_or_default();
    let sound = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if text.len() > DESCRIPTION_MOST || !text.chars().all(sound) { Err(INVALID) } else { Ok(text.to_owned()) }
}

/// Protocol and ports. Only TCP, UDP and ICMP heed ports; any other protocol has all of them.
fn ports(p: Params<'_>, prefix: &str) -> Result<(String, i32, i32), Refusal> {
    let protocol = p.required(&format!("{prefix}IpProtocol"))?.to_ascii_lowercase();
    let protocol = match protocol.as_str() {
        "6" => "tcp",
        "17" => "udp",
        "1" => "icmp",
        "58" => "icmpv6",
        other => other,
    };
    let from = p.number::<i32>(&format!("{prefix}FromPort"))?;
    let to = p.number::<i32>(&format!("{prefix}ToPort"))?;
    let (from, to) = match (protocol, from, to) {
        ("tcp" | "udp", Some(from), Some(to)) if 0 <= from && from <= to && to <= 65_535 => (from, to),
        ("tcp" | "udp", ..) => return Err(INVALID),
        ("icmp" | "icmpv6", from, to) => (from.unwrap_or(-1), to.unwrap_or(-1)),
        ("-1", ..) => (-1, -1),
        (other, ..) if other.parse::<u8>().is_ok() => (-1, -1),
        _ => return Err(INVALID),
    };
    Ok((protocol.to_owned(), from, to))
}
