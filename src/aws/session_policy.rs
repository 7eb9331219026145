//! The session policy: what the credentials of one call can do, built from the RPC's own annotations.
//!
//! What IAM can pin is pinned: the actions, the one group, the Region, and the call's id on what is created. Reads can
//! only be pinned to the Region: EC2's Describe actions take no resource (Service Authorization Reference, EC2).
//! `aws:RequestedRegion` stands for `ec2:Region`, which means the same.

use std::collections::BTreeMap;

use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use super::Account;
use crate::digest::sha256_hex;
use crate::operation::ownership::Ownership;
use crate::operation::target::Target;
use crate::operation::{CallId, Tool};
use crate::pb::whitelistmcp::v1::AwsAnnotations;

/// The most characters of an inline session policy (STS API, `AssumeRole`).
pub const MOST_CHARACTERS: usize = 2048;

/// The IAM actions of every tool, as the proto's annotations say.
#[derive(Clone, Debug)]
pub struct Actions(BTreeMap<&'static str, AwsAnnotations>);

/// A session policy and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    text: String,
    sha256: String,
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
    /// Reads the annotations of the embedded descriptors.
    pub fn embedded() -> Result<Self, AnnotationError> {
        let pool = DescriptorPool::decode(crate::pb::DESCRIPTOR_SET)?;
        let service = pool.get_service_by_name("whitelistmcp.v1.WhitelistService");
        let extension = pool.get_extension_by_name("whitelistmcp.v1.aws");
        let annotated = |tool: Tool| {
            let method = service.as_ref()?.methods().find(|method| method.name() == tool.rpc())?;
            let options = method.options();
            options.get_extension(extension.as_ref()?).as_message()?.transcode_to::<AwsAnnotations>().ok()
        };
        let actions = Tool::ALL
            .into_iter()
            .map(|tool| Ok((tool.rpc(), annotated(tool).ok_or(AnnotationError::Missing(tool.rpc()))?)));
        actions.collect::<Result<_, _>>().map(Self)
    }

    /// The session policy of one call. A call that changes nothing, such as a dry run, gets no action that could.
    pub fn session_policy(
        &self,
        tool: Tool,
        changes: bool,
        account: &Account,
        target: &Target,
        call: &CallId,
    ) -> SessionPolicy {
        let none = AwsAnnotations::default();
        let actions = self.0.get(tool.rpc()).unwrap_or(&none);
        let in_region = || json!({"StringEquals": {"aws:RequestedRegion": target.region().as_str()}});
        let arn = |resource: &str| {
            format!("arn:{}:ec2:{}:{}:{resource}", account.partition(), target.region(), target.account())
        };
        let group = arn(&format!("security-group/{}", target.group()));
        let any_rule = arn("security-group-rule/*");

        let mut statements = vec![
            json!({"Sid": "Look", "Effect": "Allow", "Action": actions.reads, "Resource": "*", "Condition": in_region()}),
        ];
        if changes && !actions.writes.is_empty() {
            let resource = if actions.tag_rules_on_create { json!([group, any_rule]) } else { json!([group]) };
            statements.push(json!({"Sid": "Change", "Effect": "Allow", "Action": actions.writes, "Resource": resource, "Condition": in_region()}));
            if actions.tag_rules_on_create {
                let creating =
                    actions.writes.iter().filter_map(|action| action.strip_prefix("ec2:")).collect::<Vec<_>>();
                let condition = json!({
                    "StringEquals": {"ec2:CreateAction": creating, format!("aws:RequestTag/{}", Ownership::call_tag()): call.as_str()},
                });
                statements.push(json!({"Sid": "Tag", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": any_rule, "Condition": condition}));
            }
        }
        SessionPolicy::new(&json!({"Version": "2012-10-17", "Statement": statements}))
    }
}

impl SessionPolicy {
    /// The policy that allows nothing, for asking STS who a session is and no more.
    pub fn deny_all() -> Self {
        Self::new(&json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}))
    }

    fn new(document: &Value) -> Self {
        let text = document.to_string();
        Self { sha256: sha256_hex(&text), text }
    }

    /// The policy's JSON.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The SHA-256 of the policy's JSON, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}
