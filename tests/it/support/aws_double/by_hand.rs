//! What a test does in AWS by its own hand: it makes what there is, and changes it behind the service's back.

use whitelistmcp::operation::address::Block;

use super::history::{BY_HAND, What};
use super::resources::{Group, NetworkInterface, PrefixList, Rule, Source, Tags, Where};
use super::world::World;
use super::{ACCOUNT, AwsDouble, GROUP, REGION};

impl AwsDouble {
    /// Makes a group. Like every group of AWS, it lets everything out.
    pub(crate) fn add_group(&self, account: &str, region: &str, id: &str, name: &str, tags: &[(&str, &str)]) {
        let at = Where::new(account, region);
        let mut world = self.lock();
        let group = Group {
            id: id.to_owned(),
            name: name.to_owned(),
            description: format!("{name} for a test"),
            vpc: "vpc-0123456789abcdef0".to_owned(),
            tags: tags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        };
        world.put_group(&at, group, None, BY_HAND);
        let out = Rule { egress: true, ..new_rule(&mut world, id, "-1", (-1, -1), ("CidrIpv4", "0.0.0.0/0")) };
        world.put(&at, out, What::Made, BY_HAND);
    }

    pub(crate) fn add_interface(&self, account: &str, region: &str, interface: NetworkInterface) {
        self.lock().place(&Where::new(account, region)).interfaces.push(interface);
    }

    pub(crate) fn add_prefix_list(&self, account: &str, region: &str, list: PrefixList) {
        self.lock().place(&Where::new(account, region)).prefix_lists.insert(list.id.clone(), list);
    }

    /// Makes a rule that this service did not make. The source is a `CidrIpv4`, `CidrIpv6`, `PrefixListId` or `Group`.
    pub(crate) fn rule(&self, protocol: &str, from: i32, to: i32, source: (&'static str, &str)) -> String {
        self.rule_in((ACCOUNT, REGION), GROUP, protocol, (from, to), source)
    }

    /// The same in any group of any account and Region.
    pub(crate) fn rule_in(
        &self,
        (account, region): (&str, &str),
        group: &str,
        protocol: &str,
        ports: (i32, i32),
        source: (&'static str, &str),
    ) -> String {
        let mut world = self.lock();
        let rule = new_rule(&mut world, group, protocol, ports, source);
        let id = rule.id.clone();
        world.put(&Where::new(account, region), rule, What::Made, BY_HAND);
        id
    }

    /// Takes every rule of the group away, the one that lets everything out as well.
    pub(crate) fn strip(&self, group: &str) {
        let mut world = self.lock();
        let of_group: Vec<(Where, String)> = world
            .places
            .iter()
            .flat_map(|(at, place)| place.rules().map(move |rule| (at, rule)))
            .filter(|(_, rule)| rule.group == group)
            .map(|(at, rule)| (at.clone(), rule.id.clone()))
            .collect();
        for (at, id) in of_group {
            world.take(&at, &id, BY_HAND);
        }
    }

    /// Lets a group be gone.
    pub(crate) fn forget(&self, group: &str) {
        self.strip(group);
        let mut world = self.lock();
        let places: Vec<Where> = world.places.keys().cloned().collect();
        for at in places {
            world.take_group(&at, group);
        }
    }

    /// Sets a rule's tag; whether there is such a rule.
    pub(crate) fn hand_tag(&self, rule: &str, key: &str, value: &str) -> bool {
        self.change(rule, What::Tagged, |rule| {
            rule.tags.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Takes a tag off a rule; whether there is such a rule.
    pub(crate) fn hand_untag(&self, rule: &str, key: &str) -> bool {
        self.change(rule, What::Untagged, |rule| {
            rule.tags.remove(key);
        })
    }

    /// Gives a rule another CIDR; whether there is such a rule.
    pub(crate) fn hand_modify(&self, rule: &str, cidr: &str) -> bool {
        self.change(rule, What::Modified, |rule| rule.source = block(cidr))
    }

    /// Takes a rule away; whether there was such a rule.
    pub(crate) fn hand_revoke(&self, rule: &str) -> bool {
        let mut world = self.lock();
        let found = world.find(rule);
        if let Some((at, rule)) = &found {
            world.take(at, &rule.id, BY_HAND);
        }
        found.is_some()
    }

    fn change(&self, rule: &str, what: What, change: impl FnOnce(&mut Rule)) -> bool {
        let mut world = self.lock();
        let Some((at, rule)) = world.find(rule) else { return false };
        let mut changed = Rule::clone(&rule);
        change(&mut changed);
        world.put(&at, changed, what, BY_HAND);
        true
    }
}

fn new_rule(world: &mut World, group: &str, protocol: &str, ports: (i32, i32), source: (&'static str, &str)) -> Rule {
    let source = match source {
        ("PrefixListId", id) => Source::PrefixList(id.to_owned()),
        ("Group", id) => Source::Group(id.to_owned()),
        (_, cidr) => block(cidr),
    };
    Rule {
        id: world.rule_id(),
        group: group.to_owned(),
        egress: false,
        protocol: protocol.to_owned(),
        from: ports.0,
        to: ports.1,
        source,
        description: "by hand".to_owned(),
        tags: Tags::new(),
    }
}

fn block(cidr: &str) -> Source {
    Source::Cidr(Block::from_aws(cidr).expect("a CIDR block"))
}
