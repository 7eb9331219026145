//! The Describe actions: filters, ids, pages.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::params::{INVALID, Params};
use super::resources::{Tags, Where};
use super::world::World;
use super::{Asked, Refusal, glob, xml};

/// How many items one may ask for at once.
const MOST: RangeInclusive<usize> = 5..=1000;
const MOST_PREFIX_LISTS: RangeInclusive<usize> = 1..=100;

/// What a request asks to see: of each filter one value must match.
struct Filters<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> Filters<'a> {
    /// Reads the filters of a request that takes those of `known`, and tags.
    fn of(p: Params<'a>, known: &[&str]) -> Result<Self, Refusal> {
        let mut filters = Vec::new();
        for prefix in p.structures("Filter") {
            let name = p.required(&format!("{prefix}Name"))?;
            if !known.contains(&name) && !name.starts_with("tag:") {
                return Err(INVALID);
            }
            filters.push((name, p.list(&format!("{prefix}Value"))));
        }
        Ok(Self(filters))
    }

    /// Whether something with these tags, and with these values by the filter's name, is asked for.
    fn ask_for<'b>(&self, tags: &'b Tags, values: impl Fn(&str) -> Vec<&'b str>) -> bool {
        self.0.iter().all(|(name, patterns)| {
            let found: Vec<&str> = match name.strip_prefix("tag:") {
                Some(key) => tags.get(key).map(String::as_str).into_iter().collect(),
                None if *name == "tag-key" => tags.keys().map(String::as_str).collect(),
                None => values(name),
            };
            found.iter().any(|value| patterns.iter().any(|pattern| glob::matches(pattern, value)))
        })
    }
}

/// The page that is asked for of what was found, in the order of ids, and what leads to the next one.
fn page<T>(
    p: Params<'_>,
    cap: usize,
    allowed: &RangeInclusive<usize>,
    mut found: Vec<(&str, T)>,
) -> Result<(Vec<T>, String), Refusal> {
    let most = p.number::<usize>("MaxResults")?;
    if most.is_some_and(|most| !allowed.contains(&most)) {
        return Err(INVALID);
    }
    let most = most.unwrap_or(cap).min(cap);
    if let Some(token) = p.get("NextToken") {
        let after = token.strip_prefix("after:").ok_or((400, "InvalidPaginationToken"))?;
        found.retain(|(id, _)| *id > after);
    }
    let more = found.len() > most;
    found.truncate(most);
    let token = found.last().filter(|_| more).map(|(id, _)| xml::text("nextToken", &format!("after:{id}")));
    Ok((found.into_iter().map(|(_, item)| item).collect(), token.unwrap_or_default()))
}

impl World {
    pub(super) fn describe_rules(&mut self, asked: &Asked, at: &Where) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let filters = Filters::of(p, &["group-id", "security-group-rule-id"])?;
        let ids: BTreeSet<&str> = p.list("SecurityGroupRuleId").into_iter().collect();
        let (cap, delay) = (self.page, self.read_delay());
        let view = self.place(at).view(delay);
        if !ids.iter().all(|id| view.rules.contains_key(*id)) {
            return Err((400, "InvalidSecurityGroupRuleId.NotFound"));
        }
        let found = view.rules.values().filter(|rule| {
            let value =
                |name: &str| if name == "group-id" { vec![rule.group.as_str()] } else { vec![rule.id.as_str()] };
            (ids.is_empty() || ids.contains(rule.id.as_str())) && filters.ask_for(&rule.tags, value)
        });
        let (page, token) = page(p, cap, &MOST, found.map(|rule| (rule.id.as_str(), rule)).collect())?;
        let page: String = page.into_iter().map(|rule| xml::rule(at, rule)).collect();
        Ok(xml::ec2(&asked.action, &format!("<securityGroupRuleSet>{page}</securityGroupRuleSet>{token}")))
    }

    pub(super) fn describe_groups(&mut self, asked: &Asked, at: &Where) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let filters = Filters::of(p, &["group-id", "group-name", "tag-key"])?;
        let ids: BTreeSet<&str> = p.list("GroupId").into_iter().collect();
        let (cap, delay) = (self.page, self.read_delay());
        let view = self.place(at).view(delay);
        if !ids.iter().all(|id| view.groups.contains_key(*id)) {
            return Err((400, "InvalidGroup.NotFound"));
        }
        let found = view.groups.values().filter(|group| {
            let value =
                |name: &str| if name == "group-id" { vec![group.id.as_str()] } else { vec![group.name.as_str()] };
            (ids.is_empty() || ids.contains(group.id.as_str())) && filters.ask_for(&group.tags, value)
        });
        let (page, token) = page(p, cap, &MOST, found.map(|group| (group.id.as_str(), group)).collect())?;
        let page: String = page.into_iter().map(|group| xml::group(at, group)).collect();
        Ok(xml::ec2(&asked.action, &format!("<securityGroupInfo>{page}</securityGroupInfo>{token}")))
    }

    pub(super) fn describe_interfaces(&mut self, asked: &Asked, at: &Where) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let filters = Filters::of(p, &["group-id", "tag-key"])?;
        let cap = self.page;
        let mut found: Vec<_> = self.place(at).interfaces.iter().map(|item| (item.id.as_str(), item)).collect();
        found.retain(|(_, item)| filters.ask_for(&item.tags, |_| item.groups.iter().map(String::as_str).collect()));
        found.sort_by_key(|(id, _)| *id);
        let (page, token) = page(p, cap, &MOST, found)?;
        let page: String = page.into_iter().map(xml::interface).collect();
        Ok(xml::ec2(&asked.action, &format!("<networkInterfaceSet>{page}</networkInterfaceSet>{token}")))
    }

    pub(super) fn describe_prefix_lists(&mut self, asked: &Asked, at: &Where) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let ids: BTreeSet<&str> = p.list("PrefixListId").into_iter().collect();
        let cap = self.page;
        let lists = &self.place(at).prefix_lists;
        if !ids.iter().all(|id| lists.contains_key(*id)) {
            return Err((400, "InvalidPrefixListID.NotFound"));
        }
        let found = lists.values().filter(|list| ids.is_empty() || ids.contains(list.id.as_str()));
        let (page, token) = page(p, cap, &MOST_PREFIX_LISTS, found.map(|list| (list.id.as_str(), list)).collect())?;
        let page: String = page.into_iter().map(|list| xml::prefix_list(at, list)).collect();
        Ok(xml::ec2(&asked.action, &format!("<prefixListSet>{page}</prefixListSet>{token}")))
    }
}
