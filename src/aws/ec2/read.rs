//! Looking: at a group's rules, at ours in a whole Region, at groups and what is attached to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::types::{Filter, NetworkInterface, SecurityGroup, SecurityGroupRule, Tag};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::aws::assume::{Session, within};
use crate::aws::cache::{Cache, Kind};
use crate::aws::error::AwsError;
use crate::operation::address::Block;
use crate::operation::ownership::{FORMAT, Made};
use crate::operation::port::{Ports, Protocol};
use crate::operation::rule::{Rule, Source, Traffic};
use crate::operation::target::{Described, Descriptions, GroupId, OptedIn};

const LOOK: &str = "ec2:DescribeSecurityGroupRules";
const LOOK_GROUP: &str = "ec2:DescribeSecurityGroups";
const LOOK_INTERFACES: &str = "ec2:DescribeNetworkInterfaces";
const LOOK_LISTS: &str = "ec2:DescribeManagedPrefixLists";

/// The tag by which a group's owner opts it in.
pub const MANAGED: &str = "whitelistmcp:managed";
/// Values of that tag that say no.
pub(in crate::aws) const NOT_MANAGED: [&str; 3] = ["false", "no", "0"];

/// The most that the Describe calls give at once.
const PAGE: i32 = 1000;
/// The most pages of one answer. A group has at most a few hundred rules; an answer that never ends is not followed.
const PAGES_MOST: usize = 200;
/// The most values of one filter (EC2 API reference, "Filtering").
const FILTER_VALUES_MOST: usize = 200;

/// What AWS knows of a group besides its rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GroupFacts {
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Session<'_> {
    /// Every inbound rule of the group, all pages of it.
    pub async fn rules(&self) -> Result<Vec<Rule>, AwsError> {
        self.rules_until(self.deadline).await
    }

    /// The same once a change was sent: from then on the caller's deadline no longer counts.
    pub async fn rules_after_change(&self) -> Result<Vec<Rule>, AwsError> {
        self.rules_until(None).await
    }

    async fn rules_until(&self, deadline: Option<Instant>) -> Result<Vec<Rule>, AwsError> {
        let group = self.group()?;
        let filter = Filter::builder().name("group-id").values(group.as_str()).build();
        let found = self.look(filter, deadline).await?;
        let found: Vec<&SecurityGroupRule> =
            found.iter().filter(|rule| rule.group_id() == Some(group.as_str())).collect();
        // Only a group without any rule looks like a group that does not exist.
        if found.is_empty() {
            self.describe_group(deadline).await?;
        }
        Ok(found.into_iter().filter(|rule| rule.is_egress() == Some(false)).map(from_aws).collect())
    }

    /// One rule of the group; none if it is gone.
    pub async fn rule(&self, id: &str) -> Result<Option<Rule>, AwsError> {
        let filter = Filter::builder().name("security-group-rule-id").values(id).build();
        let found = self.look(filter, None).await?;
        let rule =
            found.iter().find(|rule| rule.security_group_rule_id() == Some(id) && rule.is_egress() == Some(false));
        Ok(rule.map(from_aws))
    }

    /// Every inbound rule of ours in the Region, with the group it is in.
    pub async fn ours(&self) -> Result<Vec<(GroupId, Rule)>, AwsError> {
        let filter = Filter::builder().name(format!("tag:{}", FORMAT.0)).values("*").build();
        Ok(grouped(&self.look(filter, self.deadline).await?))
    }

    /// Every inbound rule of these groups that carries a tag of ours, whole or not.
    pub async fn marked_in(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Rule)>, AwsError> {
        let mut rules = Vec::new();
        for some in groups.chunks(FILTER_VALUES_MOST) {
            let ids = some.iter().map(|group| group.as_str().to_owned()).collect();
            let filter = Filter::builder().name("group-id").set_values(Some(ids)).build();
            rules.extend(grouped(&self.look(filter, self.deadline).await?));
        }
        Ok(rules)
    }

    /// Every rule that a filter lets through, all pages of it.
    async fn look(&self, filter: Filter, deadline: Option<Instant>) -> Result<Vec<SecurityGroupRule>, AwsError> {
        let (mut rules, mut token) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MOST {
            let request = self
                .ec2
                .describe_security_group_rules()
                .filters(filter.clone())
                .max_results(PAGE)
                .set_next_token(token.take());
            let answer = within(deadline, LOOK, request.customize().config_override(self.signed()).send())
                .await?
                .map_err(|error| self.failed(LOOK, error))?;
            self.note(LOOK, answer.request_id());
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            rules.extend(answer.security_group_rules.unwrap_or_default());
            if token.is_none() {
                return Ok(rules);
            }
        }
        Err(AwsError::Incomplete { action: LOOK, what: "an end" })
    }

    /// What AWS knows of the group; an error unless it exists.
    pub async fn group_facts(&self) -> Result<GroupFacts, AwsError> {
        self.describe_group(self.deadline).await
    }

    async fn describe_group(&self, deadline: Option<Instant>) -> Result<GroupFacts, AwsError> {
        let Some(cache) = self.cache_of_a_look() else { return self.ask_for_group(deadline).await };
        let (place, fresh) = (self.operation.scope().place(), self.operation.is_fresh());
        let (seen, ticket) = cache.look::<GroupFacts>(Kind::Group, place, self.group()?.as_str(), fresh).await;
        if let Some(seen) = seen {
            self.entry.read_from(&seen.call);
            return Ok(seen.value);
        }
        let facts = self.ask_for_group(deadline).await?;
        cache.keep(ticket, self.operation.call().as_str(), &facts).await;
        Ok(facts)
    }

    async fn ask_for_group(&self, deadline: Option<Instant>) -> Result<GroupFacts, AwsError> {
        let group = self.group()?;
        let request = self.ec2.describe_security_groups().group_ids(group.as_str());
        let answer = within(deadline, LOOK_GROUP, request.customize().config_override(self.signed()).send())
            .await?
            .map_err(|error| self.failed(LOOK_GROUP, error))?;
        self.note(LOOK_GROUP, answer.request_id());
        let found = answer.security_groups().iter().find(|found| found.group_id() == Some(group.as_str()));
        let found = found.ok_or_else(|| AwsError::Refused {
            action: LOOK_GROUP,
            code: "InvalidGroup.NotFound".to_owned(),
            message: String::new(),
            group: self.operation.scope().label(),
        })?;
        Ok(GroupFacts { name: found.group_name().unwrap_or_default().to_owned(), tags: tags(found.tags()) })
    }

    /// How many entries each of these prefix lists counts for, in IPv4 and in IPv6.
    pub async fn list_sizes(&self, lists: &[String]) -> Result<BTreeMap<String, ListSize>, AwsError> {
        if lists.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut ids = lists.to_vec();
        ids.sort();
        ids.dedup();
        let Some(cache) = self.cache_of_a_look() else { return self.ask_for_sizes(ids).await };
        let (place, fresh) = (self.operation.scope().place(), self.operation.is_fresh());
        let (mut sizes, mut tickets) = (BTreeMap::new(), BTreeMap::new());
        for id in ids {
            let (seen, ticket) = cache.look::<ListSize>(Kind::PrefixList, place, &id, fresh).await;
            match seen {
                Some(seen) => {
                    self.entry.read_from(&seen.call);
                    sizes.insert(id, seen.value);
                }
                None => {
                    tickets.insert(id, ticket);
                }
            }
        }
        if !tickets.is_empty() {
            let asked = self.ask_for_sizes(tickets.keys().cloned().collect()).await?;
            for (id, size) in asked {
                if let Some(ticket) = tickets.remove(&id) {
                    cache.keep(ticket, self.operation.call().as_str(), &size).await;
                }
                sizes.insert(id, size);
            }
        }
        Ok(sizes)
    }

    /// The cache, where what it says may be believed: no change rests on it.
    fn cache_of_a_look(&self) -> Option<&Cache> {
        self.cache.filter(|_| !self.operation.changes())
    }

    async fn ask_for_sizes(&self, ids: Vec<String>) -> Result<BTreeMap<String, ListSize>, AwsError> {
        let request = self.ec2.describe_managed_prefix_lists().set_prefix_list_ids(Some(ids));
        let answer = within(self.deadline, LOOK_LISTS, request.customize().config_override(self.signed()).send())
            .await?
            .map_err(|error| self.failed(LOOK_LISTS, error));
        let answer = match answer {
            // A list that is deleted or no longer shared tells no size.
            Err(error) if error.code().is_some_and(|code| code.starts_with("InvalidPrefixList")) => {
                return Ok(BTreeMap::new());
            }
            answer => answer?,
        };
        self.note(LOOK_LISTS, answer.request_id());
        let size = |list: &aws_sdk_ec2::types::ManagedPrefixList| {
            let entries = list.max_entries().or_else(|| weight(list.prefix_list_name()?)).unwrap_or(1);
            Some((list.prefix_list_id()?.to_owned(), (entries, list.address_family() == Some("IPv6"))))
        };
        Ok(answer.prefix_lists().iter().filter_map(size).collect())
    }

    /// The groups of the Region that their owners opted in, with what is attached to each.
    pub async fn opted_in(&self) -> Result<Vec<OptedIn>, AwsError> {
        let groups = self.groups(Some(Filter::builder().name("tag-key").values(MANAGED).build())).await?;
        let mut opted: Vec<OptedIn> = groups.iter().filter_map(opted_in).collect();
        self.attach_all(&mut opted).await?;
        Ok(opted)
    }

    /// What AWS knows of every group of the Region, and by the same answer those that are opted in.
    pub async fn every_group(&self) -> Result<(Descriptions, Vec<OptedIn>), AwsError> {
        let groups = self.groups(None).await?;
        let described = groups.iter().filter_map(|group| {
            let described = Described { vpc: group.vpc_id().map(str::to_owned), tags: tags(group.tags()) };
            Some((GroupId::parse(group.group_id()?).ok()?, Arc::new(described)))
        });
        Ok((described.collect(), groups.iter().filter_map(opted_in).collect()))
    }

    /// Every group that a filter lets through, all pages of it.
    async fn groups(&self, filter: Option<Filter>) -> Result<Vec<SecurityGroup>, AwsError> {
        let (mut groups, mut token) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MOST {
            let request = self
                .ec2
                .describe_security_groups()
                .set_filters(filter.clone().map(|filter| vec![filter]))
                .max_results(PAGE)
                .set_next_token(token.take());
            let answer = within(self.deadline, LOOK_GROUP, request.customize().config_override(self.signed()).send())
                .await?
                .map_err(|error| self.failed(LOOK_GROUP, error))?;
            self.note(LOOK_GROUP, answer.request_id());
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            groups.extend(answer.security_groups.unwrap_or_default());
            if token.is_none() {
                return Ok(groups);
            }
        }
        Err(AwsError::Incomplete { action: LOOK_GROUP, what: "an end" })
    }

    /// Adds the names of what is attached to groups.
    pub async fn attach_all(&self, groups: &mut [OptedIn]) -> Result<(), AwsError> {
        let ids: Vec<String> = groups.iter().map(|group| group.group.as_str().to_owned()).collect();
        for some in ids.chunks(FILTER_VALUES_MOST) {
            self.attach(some, groups).await?;
        }
        Ok(())
    }

    /// Adds the names of what is attached to the groups, as their network interfaces tell.
    async fn attach(&self, ids: &[String], groups: &mut [OptedIn]) -> Result<(), AwsError> {
        let filter = Filter::builder().name("group-id").set_values(Some(ids.to_vec())).build();
        let mut token = None::<String>;
        for _ in 0..PAGES_MOST {
            let request = self
                .ec2
                .describe_network_interfaces()
                .filters(filter.clone())
                .max_results(PAGE)
                .set_next_token(token.take());
            let answer =
                within(self.deadline, LOOK_INTERFACES, request.customize().config_override(self.signed()).send())
                    .await?
                    .map_err(|error| self.failed(LOOK_INTERFACES, error))?;
            self.note(LOOK_INTERFACES, answer.request_id());
            for interface in answer.network_interfaces() {
                let Some((kind, names)) = attached(interface) else { continue };
                let of = |group: &&mut OptedIn| {
                    interface.groups().iter().any(|other| other.group_id() == Some(group.group.as_str()))
                };
                for group in groups.iter_mut().filter(of) {
                    let spoken = names.first().map_or_else(|| kind.to_owned(), |name| format!("{kind} {name}"));
                    group.attached.insert(spoken);
                    group.aliases.extend(names.iter().cloned());
                }
            }
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(());
            }
        }
        Err(AwsError::Incomplete { action: LOOK_INTERFACES, what: "an end" })
    }

    /// The operation's group.
    pub(super) fn group(&self) -> Result<&GroupId, AwsError> {
        self.operation.scope().group().map(|target| target.group()).ok_or(AwsError::NoGroup)
    }
}

/// How many entries a prefix list counts for, and whether that is in IPv6.
pub(super) type ListSize = (i32, bool);

/// The weight of a list that AWS keeps; it tells no size. Source: VPC User Guide, "AWS-managed prefix list weight".
fn weight(name: &str) -> Option<i32> {
    let service = name.strip_prefix("com.amazonaws.")?;
    Some(match service {
        _ if service.ends_with("cloudfront.origin-facing") => 55,
        _ if service.ends_with(".route53-healthchecks") => 25,
        _ if service.ends_with(".vpc-lattice") => 10,
        _ if service.ends_with(".groundstation") => 5,
        _ if service.ends_with(".ec2-instance-connect") => 2,
        _ => 1,
    })
}

fn tags(tags: &[Tag]) -> BTreeMap<String, String> {
    tags.iter().filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned()))).collect()
}

/// A group that its owner opted in: the tag's value names it, unless it only says yes; then its own name does.
fn opted_in(group: &SecurityGroup) -> Option<OptedIn> {
    let id = GroupId::parse(group.group_id()?).ok()?;
    let tags = tags(group.tags());
    let said = tags.get(MANAGED)?.trim();
    if NOT_MANAGED.contains(&said.to_ascii_lowercase().as_str()) {
        return None;
    }
    let plain = said.is_empty() || matches!(said.to_ascii_lowercase().as_str(), "true" | "yes" | "1");
    let own = group.group_name().map(str::to_owned);
    let tagged = tags.get("Name").filter(|name| !name.is_empty()).cloned();
    let named = (!plain).then(|| said.to_owned());
    // A name that reads like an id would be taken for one.
    let sound = |name: &String| !name.starts_with("sg-");
    let name = [named.clone(), tagged.clone(), own.clone()].into_iter().flatten().find(sound);
    let name = name.unwrap_or_else(|| id.as_str().to_owned());
    let aliases = [named, tagged, own].into_iter().flatten().filter(|alias| sound(alias) && *alias != name).collect();
    Some(OptedIn { group: id, name, aliases, attached: std::collections::BTreeSet::new() })
}

/// What a network interface belongs to: the kind, and the names it goes by.
///
/// Source: the descriptions that AWS's services give their interfaces, and `attachment.instanceId`.
fn attached(interface: &NetworkInterface) -> Option<(&'static str, Vec<String>)> {
    let description = interface.description().unwrap_or_default();
    let named = interface.tag_set().iter().find(|tag| tag.key() == Some("Name")).and_then(Tag::value);
    let mut names: Vec<String> = named.map(str::to_owned).into_iter().collect();
    // `ELB app/NAME/HASH`, `ELB net/NAME/HASH`, or `ELB NAME` for the classic kind.
    if let Some(balancer) = description.strip_prefix("ELB ") {
        let name = balancer.split('/').nth(1).unwrap_or(balancer);
        names.insert(0, name.to_owned());
        return Some(("load balancer", names));
    }
    if description == "RDSNetworkInterface" {
        return Some(("database", names));
    }
    if let Some(cluster) = description.strip_prefix("ElastiCache ") {
        names.insert(0, cluster.trim_start_matches('+').to_owned());
        return Some(("cache", names));
    }
    let instance = interface.attachment().and_then(|attachment| attachment.instance_id())?;
    names.insert(0, instance.to_owned());
    Some(("instance", names))
}

fn grouped(rules: &[SecurityGroupRule]) -> Vec<(GroupId, Rule)> {
    let ours = rules.iter().filter(|rule| rule.is_egress() == Some(false)).filter_map(|rule| {
        let group = GroupId::parse(rule.group_id()?).ok()?;
        Some((group, from_aws(rule)))
    });
    ours.filter(|(_, rule)| rule.made != Made::Elsewhere).collect()
}

/// Reads a rule as EC2 reports it.
pub(super) fn from_aws(rule: &SecurityGroupRule) -> Rule {
    let block = rule.cidr_ipv4().or(rule.cidr_ipv6());
    let group = rule.referenced_group_info().and_then(|group| group.group_id());
    let source = match (block, rule.prefix_list_id(), group) {
        (Some(cidr), ..) => Block::from_aws(cidr).map_or_else(|| Source::Unknown(cidr.to_owned()), Source::Block),
        (None, Some(list), _) => Source::PrefixList(list.to_owned()),
        (None, None, Some(group)) => Source::Group(group.to_owned()),
        (None, None, None) => Source::Unknown("unknown".to_owned()),
    };
    let protocol = rule.ip_protocol().unwrap_or("-1");
    let traffic = match Protocol::from_aws(protocol) {
        Some(protocol) => {
            let (from, to) = (rule.from_port().unwrap_or(-1), rule.to_port().unwrap_or(-1));
            // TCP or UDP without ports means all of them.
            let (from, to) = if !protocol.is_icmp() && from == -1 { (0, 65535) } else { (from, to) };
            Traffic::Ports(Ports::from_aws(protocol, from, to))
        }
        None if protocol == "-1" => Traffic::All,
        None => Traffic::Other(protocol.to_owned()),
    };
    Rule {
        id: rule.security_group_rule_id().map(str::to_owned),
        source,
        traffic,
        description: rule.description().unwrap_or_default().to_owned(),
        made: Made::from_tags(rule.tags().iter().filter_map(|tag| Some((tag.key()?, tag.value()?)))),
        tags: rule.tags().len(),
    }
}
