//! The session policy: what the credentials of one call can do, built from the RPC's own annotations.
//!
//! What IAM can pin is pinned: the actions, the one group, the Region, and the call's id on what is created. Reads can
//! only be pinned to the Region: EC2's Describe actions take no resource (Service Authorization Reference, EC2).
//! `aws:RequestedRegion` stands for `ec2:Region`, which means the same.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use super::Account;
use crate::digest::sha256_hex;
use crate::identity::Principal;
use crate::operation::lease::Holder;
use crate::operation::ownership::{CALL, Closing, PREFIX, Spent};
use crate::operation::target::{GroupId, Place};
use crate::operation::{CallId, Kind, Operation, Tool};
use crate::pb::whitelistmcp::v1::AwsAnnotations;

/// The most characters of an inline session policy (STS API, `AssumeRole`).
pub const MOST_CHARACTERS: usize = 2048;

/// The action that makes rules, and what EC2 calls it where tags are written as they are made.
pub(super) const MAKES: (&str, &str) = ("ec2:AuthorizeSecurityGroupIngress", "AuthorizeSecurityGroupIngress");

/// The IAM actions of every tool, as the proto's annotations say.
#[derive(Clone, Debug)]
pub struct Actions(BTreeMap<Tool, AwsAnnotations>);

/// What one call needs of AWS: everything that its session policy is made of.
#[derive(Clone, Debug)]
pub struct Power {
    /// The tool.
    pub tool: Tool,
    /// Whether it may change anything.
    pub changes: bool,
    /// The account and Region.
    pub place: Place,
    /// The group, unless it looks at all of the Region.
    pub group: Option<GroupId>,
    /// The call's id.
    pub call: CallId,
    /// Who asks, as it is written on rules.
    pub holder: Option<Holder>,
    /// Whether it comes with an idempotency key.
    pub keyed: bool,
    /// The rules that it is about, where it is about some by name.
    pub rules: Vec<String>,
    /// The keys of the tags that it takes away, where it does nothing else.
    pub tags: Vec<String>,
}

/// A session policy and its digest; or that there is none, as nothing is borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    text: String,
    sha256: Option<String>,
}

/// The actions of every tool together: what a role must allow for any call to be possible.
#[derive(Clone, Debug, Default)]
pub(super) struct Every {
    pub(super) reads: BTreeSet<String>,
    pub(super) writes: BTreeSet<String>,
    pub(super) rule_writes: BTreeSet<String>,
    pub(super) tag_writes: BTreeSet<String>,
}

/// Annotations that are missing from the descriptors.
#[derive(Debug, thiserror::Error)]
pub enum AnnotationError {
    /// The descriptor set cannot be read.
    #[error("the embedded descriptor set cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// An RPC or its annotation is missing.
    #[error("the RPC {0} carries no AWS annotation")]
    Missing(&'static str),
}

impl Actions {
    /// Reads the annotations of the embedded descriptors. What the service does for itself has no RPC, and is written
    /// down here in the same terms.
    pub fn embedded() -> Result<Self, AnnotationError> {
        let pool = DescriptorPool::decode(crate::pb::DESCRIPTOR_SET)?;
        let service = pool.get_service_by_name("whitelistmcp.v1.WhitelistService");
        let extension = pool.get_extension_by_name("whitelistmcp.v1.aws");
        let annotated = |rpc: &str| {
            let method = service.as_ref()?.methods().find(|method| method.name() == rpc)?;
            let options = method.options();
            options.get_extension(extension.as_ref()?).as_message()?.transcode_to::<AwsAnnotations>().ok()
        };
        let mut actions = BTreeMap::new();
        for tool in Tool::ALL {
            let rpc = tool.rpc().ok_or(AnnotationError::Missing(tool.name()))?;
            actions.insert(tool, annotated(rpc).ok_or(AnnotationError::Missing(rpc))?);
        }
        actions.extend(Tool::OWN.map(|tool| (tool, own(tool))));
        Ok(Self(actions))
    }

    /// The actions of every tool together.
    pub(super) fn every(&self) -> Every {
        let mut every = Every::default();
        for actions in self.0.values() {
            every.reads.extend(actions.reads.iter().cloned());
            every.writes.extend(actions.writes.iter().cloned());
            every.rule_writes.extend(actions.rule_writes.iter().cloned());
            every.tag_writes.extend(actions.tag_writes.iter().cloned());
        }
        every
    }

    /// The session policy of one call. A call that changes nothing, such as a dry run, gets no action that could.
    ///
    /// On tags it pins both sides: only rules that carry our own tag (or the one rule that is named), and only the tag
    /// keys that this call is about. A session that opens for one holder cannot write another's lease.
    pub fn session_policy(&self, power: &Power, account: &Account) -> SessionPolicy {
        if !account.has_role() {
            return SessionPolicy { text: String::new(), sha256: None };
        }
        let none = AwsAnnotations::default();
        let actions = self.0.get(&power.tool).unwrap_or(&none);
        let place = &power.place;
        let in_region = || json!({"StringEquals": {"aws:RequestedRegion": place.region().as_str()}});
        let arn = |resource: &str| {
            format!("arn:{}:ec2:{}:{}:{resource}", account.partition(), place.region(), place.account())
        };
        let any_rule = arn("security-group-rule/*");
        let named = power.rules.iter().map(|id| arn(&format!("security-group-rule/{id}"))).collect::<Vec<_>>();
        let rules = if named.is_empty() { vec![any_rule.clone()] } else { named };

        if actions.reads.is_empty() && actions.writes.is_empty() && actions.tag_writes.is_empty() {
            return SessionPolicy::deny_all();
        }
        let mut statements = vec![
            json!({"Sid": "Look", "Effect": "Allow", "Action": actions.reads, "Resource": "*", "Condition": in_region()}),
        ];
        if let Some(group) = power.group.as_ref().filter(|_| power.changes) {
            let group = arn(&format!("security-group/{group}"));
            if !actions.writes.is_empty() {
                let resource = if actions.tag_rules_on_create { json!([group, any_rule]) } else { json!([group]) };
                statements.push(json!({"Sid": "Change", "Effect": "Allow", "Action": actions.writes, "Resource": resource, "Condition": in_region()}));
            }
            if let (false, Some(holder)) = (actions.rule_writes.is_empty(), &power.holder) {
                let held = json!({"StringLike": {format!("aws:ResourceTag/{}", holder.tag_key()): "*"}});
                statements.push(json!({"Sid": "Group", "Effect": "Allow", "Action": actions.rule_writes, "Resource": group, "Condition": in_region()}));
                statements.push(json!({"Sid": "Held", "Effect": "Allow", "Action": actions.rule_writes, "Resource": any_rule, "Condition": held}));
            }
            if actions.tag_rules_on_create {
                let condition = json!({
                    "StringEquals": {"ec2:CreateAction": MAKES.1, format!("aws:RequestTag/{CALL}"): power.call.as_str()},
                });
                statements.push(json!({"Sid": "Make", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": any_rule, "Condition": condition}));
            }
            if !actions.tag_writes.is_empty() {
                let condition = json!({
                    "StringLike": {format!("aws:ResourceTag/{CALL}"): "*"},
                    "ForAllValues:StringLike": {"aws:TagKeys": power.tag_keys()},
                    // ForAllValues holds for a request without any tags, which would delete them all.
                    "Null": {"aws:TagKeys": "false"},
                });
                statements.push(json!({"Sid": "Mark", "Effect": "Allow", "Action": actions.tag_writes, "Resource": rules, "Condition": condition}));
            }
        }
        SessionPolicy::new(&json!({"Version": "2012-10-17", "Statement": statements}))
    }
}

// === impl Power ===

impl Power {
    /// What an operation needs, for whoever asks.
    pub fn of(operation: &Operation, who: &Principal) -> Self {
        let (rules, tags) = match operation.kind() {
            Kind::Close(rules) => (rules.clone(), Vec::new()),
            Kind::Tidy(tidy) => (vec![tidy.rule_id.clone()], tidy.tags.iter().map(|(key, _)| key.clone()).collect()),
            _ => (Vec::new(), Vec::new()),
        };
        Self {
            tool: operation.tool(),
            changes: operation.changes(),
            place: operation.scope().place().clone(),
            group: operation.scope().group().map(|target| target.group().clone()),
            call: operation.call().clone(),
            holder: Holder::new(who.name(), who.id()),
            keyed: operation.key().is_some(),
            rules,
            tags,
        }
    }

    /// The keys of the tags that the call may write on rules that stand.
    fn tag_keys(&self) -> Vec<String> {
        let own = || self.holder.as_ref().map(Holder::tag_key);
        let key =
            || self.holder.as_ref().filter(|_| self.keyed).map(|holder| format!("{}*", Spent::tag_keys_of(holder)));
        let closing = || Some(Closing::tag_key(self.call.as_str()));
        // What has ended may be taken off a rule that is full, so that it can be marked.
        let ended = |kind: &str| Some(of_kind(kind));
        let keys = match self.tool {
            Tool::Add | Tool::Extend => [own(), key(), None],
            Tool::Move => [own(), key(), closing()],
            // Whose leases end is known only once the rules were read; policy has the last word on each.
            Tool::Remove | Tool::RevokeHolder | Tool::Close => [ended("holder"), closing(), ended("key")],
            Tool::Tidy => return self.tags.clone(),
            _ => [None, None, None],
        };
        keys.into_iter().flatten().collect()
    }
}

/// The keys of the tags that any call may write on rules that stand: leases, idempotency keys, marks of closing.
pub(super) fn every_tag_key() -> [String; 3] {
    ["closing", "holder", "key"].map(of_kind)
}

fn of_kind(kind: &str) -> String {
    format!("{PREFIX}{kind}:*")
}

/// What the service needs for what it does for itself.
fn own(tool: Tool) -> AwsAnnotations {
    let text = |actions: &[&str]| actions.iter().map(|&action| format!("ec2:{action}")).collect::<Vec<_>>();
    let (reads, writes, tag_writes): (&[&str], &[&str], &[&str]) = match tool {
        Tool::Survey => (&["DescribeSecurityGroupRules"], &[], &[]),
        Tool::Close => (
            &["DescribeSecurityGroupRules", "DescribeSecurityGroups"],
            &["RevokeSecurityGroupIngress"],
            &["CreateTags", "DeleteTags"],
        ),
        Tool::Tidy => (&["DescribeSecurityGroupRules"], &[], &["DeleteTags"]),
        Tool::Recover => (&["DescribeSecurityGroupRules", "DescribeSecurityGroups"], &[], &[]),
        Tool::Discover => (&["DescribeSecurityGroups", "DescribeNetworkInterfaces"], &[], &[]),
        _ => (&[], &[], &[]),
    };
    AwsAnnotations {
        reads: text(reads),
        writes: text(writes),
        tag_writes: text(tag_writes),
        ..AwsAnnotations::default()
    }
}

impl SessionPolicy {
    /// The policy that allows nothing, for asking STS who a session is and no more.
    pub fn deny_all() -> Self {
        Self::new(&json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}))
    }

    fn new(document: &Value) -> Self {
        let text = document.to_string();
        Self { sha256: Some(sha256_hex(&text)), text }
    }

    /// The policy's JSON; empty where there is none.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The SHA-256 of the policy's JSON, in hexadecimal; none where calls are made with a person's own credentials.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }
}
