//! The EC2 calls: look at a group's rules, make one, remove some.

use std::time::Duration;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::types::{
    Filter, IpPermission, IpRange, Ipv6Range, ResourceType, SecurityGroupRule, Tag, TagSpecification,
};

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use tokio::time::Instant;

use super::assume::{Session, within};
use super::error::AwsError;
use crate::audit::{AwsCall, DurableEntry};
use crate::operation::Add;
use crate::operation::address::Block;
use crate::operation::ownership::Ownership;
use crate::operation::port::{Ports, Protocol};
use crate::operation::rule::{Rule, Source, Traffic};
use crate::policy::{AddPermit, RemovePermit};

const LOOK: &str = "ec2:DescribeSecurityGroupRules";
const LOOK_GROUP: &str = "ec2:DescribeSecurityGroups";
pub(super) const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";
pub(super) const REVOKE: &str = "ec2:RevokeSecurityGroupIngress";

/// How often a throttled change is tried again, and how long is waited before the first time; it doubles.
const THROTTLED_MOST: u32 = 3;
const THROTTLED_PAUSE: Duration = Duration::from_millis(300);

/// The most that `DescribeSecurityGroupRules` gives at once.
const PAGE: i32 = 1000;

/// The most pages of one group. A group has at most a few hundred rules; an answer that never ends is not followed.
const PAGES_MOST: usize = 50;

/// How making a rule came out.
#[derive(Debug)]
pub enum Authorized {
    /// The rule was made, and stands like this.
    Made(Box<Rule>),
    /// AWS says that the very rule stands already.
    Duplicate,
}

impl Session<'_> {
    /// Every inbound rule of the group, all pages of it.
    #[tracing::instrument(skip_all, name = "EC2.DescribeSecurityGroupRules", fields(otel.kind = "client", rpc.system = "aws-api", rpc.service = "EC2", rpc.method = "DescribeSecurityGroupRules"))]
    pub async fn rules(&self) -> Result<Vec<Rule>, AwsError> {
        self.rules_until(self.deadline).await
    }

    /// The same once a change was sent: from then on the caller's deadline no longer counts.
    pub async fn rules_after_change(&self) -> Result<Vec<Rule>, AwsError> {
        self.rules_until(None).await
    }

    async fn rules_until(&self, deadline: Option<Instant>) -> Result<Vec<Rule>, AwsError> {
        let group = self.operation.target().group();
        let filter = Filter::builder().name("group-id").values(group.as_str()).build();
        let (mut rules, mut any, mut token) = (Vec::new(), false, None::<String>);
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
            for rule in answer.security_group_rules().iter().filter(|rule| rule.group_id() == Some(group.as_str())) {
                any = true;
                rules.extend((rule.is_egress() == Some(false)).then(|| from_aws(rule)));
            }
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                // Only a group without any rule looks like a group that does not exist.
                if !any {
                    self.confirm_group(deadline).await?;
                }
                return Ok(rules);
            }
        }
        Err(AwsError::Incomplete { action: LOOK, what: "an end" })
    }

    /// Fails unless the group exists.
    async fn confirm_group(&self, deadline: Option<Instant>) -> Result<(), AwsError> {
        let target = self.operation.target();
        let request = self.ec2.describe_security_groups().group_ids(target.group().as_str());
        let answer = within(deadline, LOOK_GROUP, request.customize().config_override(self.signed()).send())
            .await?
            .map_err(|error| self.failed(LOOK_GROUP, error))?;
        self.note(LOOK_GROUP, answer.request_id());
        if answer.security_groups().iter().any(|group| group.group_id() == Some(target.group().as_str())) {
            return Ok(());
        }
        Err(AwsError::Refused {
            action: LOOK_GROUP,
            code: "InvalidGroup.NotFound".to_owned(),
            message: String::new(),
            group: target.label(),
        })
    }

    /// Makes the rule. What stands afterwards is AWS's own answer.
    #[tracing::instrument(skip_all, name = "EC2.AuthorizeSecurityGroupIngress", fields(otel.kind = "client", rpc.system = "aws-api", rpc.service = "EC2", rpc.method = "AuthorizeSecurityGroupIngress"))]
    pub async fn authorize(
        &self,
        _permit: &AddPermit,
        _recorded: &DurableEntry,
        add: &Add,
        ownership: &Ownership,
    ) -> Result<Authorized, AwsError> {
        let target = self.operation.target();
        let (cidr, description) = (add.block.to_string(), ownership.description());
        let permission = IpPermission::builder()
            .ip_protocol(add.ports.protocol().as_str())
            .from_port(add.ports.from_port())
            .to_port(add.ports.to_port());
        let permission = if add.block.is_ipv6() {
            permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(&cidr).description(&description).build())
        } else {
            permission.ip_ranges(IpRange::builder().cidr_ip(&cidr).description(&description).build())
        };
        let tags =
            ownership.tags().into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let tags =
            TagSpecification::builder().resource_type(ResourceType::SecurityGroupRule).set_tags(Some(tags)).build();
        let request = self
            .ec2
            .authorize_security_group_ingress()
            .group_id(target.group().as_str())
            .ip_permissions(permission.build())
            .tag_specifications(tags);
        // From here on the caller's deadline no longer counts: what was begun is finished.
        let answer = match self
            .change(AUTHORIZE, || request.clone().customize().config_override(self.signed_once()).send())
            .await
        {
            Err(error) if error.code() == Some("InvalidPermission.Duplicate") => return Ok(Authorized::Duplicate),
            answer => answer?,
        };
        let made = answer.security_group_rules().first().map(from_aws).filter(|rule| rule.id.is_some());
        let made = made.ok_or(AwsError::Incomplete { action: AUTHORIZE, what: "the rule" })?;
        let ownership = made.ownership.or_else(|| Some(ownership.clone()));
        Ok(Authorized::Made(Box::new(Rule { ownership, ..made })))
    }

    /// Removes the permitted rules, by id.
    #[tracing::instrument(skip_all, name = "EC2.RevokeSecurityGroupIngress", fields(otel.kind = "client", rpc.system = "aws-api", rpc.service = "EC2", rpc.method = "RevokeSecurityGroupIngress"))]
    pub async fn revoke(&self, permit: &RemovePermit, _recorded: &DurableEntry) -> Result<(), AwsError> {
        let target = self.operation.target();
        let ids = permit.rules().iter().filter_map(|rule| rule.id.clone()).collect();
        let request = self
            .ec2
            .revoke_security_group_ingress()
            .group_id(target.group().as_str())
            .set_security_group_rule_ids(Some(ids));
        self.change(REVOKE, || request.clone().customize().config_override(self.signed_once()).send()).await.map(drop)
    }

    /// Sends a change, and again only where AWS said that it was not even looked at.
    async fn change<T, E, R, F>(&self, action: &'static str, send: impl Fn() -> F) -> Result<T, AwsError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        T: RequestId,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        let mut throttled = 0;
        loop {
            let error = match send().await {
                Ok(answer) => {
                    self.note(action, answer.request_id());
                    return Ok(answer);
                }
                Err(error) => self.failed(action, error),
            };
            if !error.is_throttling() || throttled == THROTTLED_MOST {
                return Err(error);
            }
            tokio::time::sleep(THROTTLED_PAUSE * 2_u32.pow(throttled)).await;
            throttled += 1;
        }
    }

    /// A change is sent once: were it tried again after a lost answer, the last attempt's error would hide what the
    /// first one did.
    fn signed_once(&self) -> aws_sdk_ec2::config::Builder {
        self.signed().retry_config(RetryConfig::disabled())
    }

    fn failed<E, R>(&self, action: &'static str, error: SdkError<E, R>) -> AwsError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        let (error, call) = AwsError::from_sdk(action, error, &self.operation.target().label());
        self.entry.note(call);
        error
    }

    fn note(&self, action: &'static str, request_id: Option<&str>) {
        self.entry.note(AwsCall { action, request_id: request_id.map(str::to_owned), error: None });
    }
}

/// Reads a rule as EC2 reports it.
fn from_aws(rule: &SecurityGroupRule) -> Rule {
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
        ownership: Ownership::from_tags(rule.tags().iter().filter_map(|tag| Some((tag.key()?, tag.value()?)))),
    }
}
