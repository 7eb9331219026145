//! Changing: make rules, tag them, change one in place, take some away. Each asks for leave and for an entry that is on
//! disk; from there on the caller's deadline no longer counts, since what was begun is finished.

use aws_sdk_ec2::types::{
    IpPermission, IpRange, Ipv6Range, ResourceType, SecurityGroupRuleRequest, SecurityGroupRuleUpdate, Tag,
    TagSpecification,
};

use tokio::time::Instant;

use super::read::from_aws;
use super::{AUTHORIZE, MODIFY, REVOKE, TAG, UNTAG};
use crate::audit::DurableEntry;
use crate::aws::assume::Session;
use crate::aws::error::AwsError;
use crate::operation::Opening;
use crate::operation::ownership::{Made, Ownership};
use crate::operation::rule::Rule;
use crate::policy::{AddPermit, Permit, RulesPermit};

/// How making rules came out.
#[derive(Debug)]
pub enum Authorized {
    /// They were made. What AWS told of them; it may be less than all.
    Made(Vec<Rule>),
    /// AWS says that one of them stands already, and made none.
    Duplicate,
}

impl Session<'_> {
    /// Makes rules, all or none of them, with one set of tags.
    pub async fn authorize(
        &self,
        permit: &AddPermit,
        _recorded: &DurableEntry,
        openings: &[Opening],
        ownership: &Ownership,
    ) -> Result<Authorized, AwsError> {
        let description = ownership.description();
        let permitted = openings.iter().filter(|opening| permit.openings().contains(opening));
        let permissions: Vec<IpPermission> = permitted.map(|opening| permission(*opening, &description)).collect();
        let tags = ownership.tags().into_iter().map(|(key, value)| tag(&key, Some(&value))).collect();
        let tags =
            TagSpecification::builder().resource_type(ResourceType::SecurityGroupRule).set_tags(Some(tags)).build();
        let request = self
            .ec2
            .authorize_security_group_ingress()
            .group_id(self.group()?.as_str())
            .set_ip_permissions(Some(permissions))
            .tag_specifications(tags);
        let answer = match self
            .change(AUTHORIZE, || request.clone().customize().config_override(self.signed_once()).send())
            .await
        {
            Err(error) if error.code() == Some("InvalidPermission.Duplicate") => return Ok(Authorized::Duplicate),
            answer => answer?,
        };
        let made = answer.security_group_rules().iter().map(from_aws).filter(|rule| rule.id.is_some());
        Ok(Authorized::Made(made.map(|rule| with_tags(rule, ownership)).collect()))
    }

    /// Writes the same tags on rules.
    pub async fn tag(
        &self,
        permit: &impl Permit,
        _recorded: &DurableEntry,
        rules: &[&Rule],
        tags: &[(String, String)],
    ) -> Result<(), AwsError> {
        let tags: Vec<Tag> = tags.iter().map(|(key, value)| tag(key, Some(value))).collect();
        let request = self.ec2.create_tags().set_resources(Some(ids(permit, rules))).set_tags(Some(tags));
        self.change(TAG, || request.clone().customize().config_override(self.signed_once()).send()).await.map(drop)
    }

    /// Takes tags off a rule, each only if it still has this value: AWS's one way to compare before it acts.
    pub async fn untag(
        &self,
        permit: &impl Permit,
        _recorded: &DurableEntry,
        rule: &Rule,
        tags: &[(String, String)],
    ) -> Result<(), AwsError> {
        let tags: Vec<Tag> = tags.iter().map(|(key, value)| tag(key, Some(value))).collect();
        let request = self.ec2.delete_tags().set_resources(Some(ids(permit, &[rule]))).set_tags(Some(tags));
        self.change(UNTAG, || request.clone().customize().config_override(self.signed_once()).send()).await.map(drop)
    }

    /// Changes what a rule lets in; its id and its tags stay.
    pub async fn modify(
        &self,
        permit: &RulesPermit,
        _recorded: &DurableEntry,
        rule: &Rule,
        to: Opening,
        not_after: Instant,
    ) -> Result<(), AwsError> {
        let cidr = to.block.to_string();
        let changed = SecurityGroupRuleRequest::builder()
            .ip_protocol(to.ports.protocol().as_str())
            .from_port(to.ports.from_port())
            .to_port(to.ports.to_port())
            .description(&rule.description);
        let changed = if to.block.is_ipv6() { changed.cidr_ipv6(cidr) } else { changed.cidr_ipv4(cidr) };
        let updates = ids(permit, &[rule])
            .into_iter()
            .map(|id| {
                SecurityGroupRuleUpdate::builder()
                    .security_group_rule_id(id)
                    .security_group_rule(changed.clone().build())
                    .build()
            })
            .collect();
        let request = self
            .ec2
            .modify_security_group_rules()
            .group_id(self.group()?.as_str())
            .set_security_group_rules(Some(updates));
        self.change_by(MODIFY, Some(not_after), || {
            request.clone().customize().config_override(self.signed_once()).send()
        })
        .await
        .map(drop)
    }

    /// Removes rules, by id, all or none of them.
    pub async fn revoke(
        &self,
        permit: &impl Permit,
        _recorded: &DurableEntry,
        rules: &[&Rule],
        not_after: Instant,
    ) -> Result<(), AwsError> {
        let request = self
            .ec2
            .revoke_security_group_ingress()
            .group_id(self.group()?.as_str())
            .set_security_group_rule_ids(Some(ids(permit, rules)));
        self.change_by(REVOKE, Some(not_after), || {
            request.clone().customize().config_override(self.signed_once()).send()
        })
        .await
        .map(drop)
    }
}

/// The ids of those rules that the permit is for.
fn ids(permit: &impl Permit, rules: &[&Rule]) -> Vec<String> {
    rules.iter().filter(|rule| permit.covers(rule)).filter_map(|rule| rule.id.clone()).collect()
}

fn permission(opening: Opening, description: &str) -> IpPermission {
    let cidr = opening.block.to_string();
    let permission = IpPermission::builder()
        .ip_protocol(opening.ports.protocol().as_str())
        .from_port(opening.ports.from_port())
        .to_port(opening.ports.to_port());
    let permission = if opening.block.is_ipv6() {
        permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(cidr).description(description).build())
    } else {
        permission.ip_ranges(IpRange::builder().cidr_ip(cidr).description(description).build())
    };
    permission.build()
}

fn tag(key: &str, value: Option<&str>) -> Tag {
    Tag::builder().key(key).set_value(value.map(str::to_owned)).build()
}

/// AWS may leave the tags out of its answer to the call that set them.
fn with_tags(rule: Rule, ownership: &Ownership) -> Rule {
    match rule.made {
        Made::Here(_) => rule,
        Made::Elsewhere | Made::Damaged(_) => {
            Rule { made: Made::Here(ownership.clone()), tags: ownership.tags().len(), ..rule }
        }
    }
}
