//! What one line of the journal says. The fields are the format: changing one needs a new `v`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::Outcome;
use crate::error::{Chain, Error};
use crate::identity::{Caller, Kind as PrincipalKind};
use crate::operation::{self, CallId, Kind, Operation};

/// One line: the chain's fields, and what happened.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    /// The format's version.
    pub(super) v: u32,
    /// The line's number in its file, from 1.
    pub(super) seq: u64,
    /// The SHA-256 of the line before, in hexadecimal; zeros for the first.
    pub(super) prev: &'a str,
    /// When it was written, RFC 3339.
    pub(super) at: String,
    #[serde(flatten)]
    pub(super) body: &'a Body,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Body {
    /// The file was opened by a process.
    Open(Open),
    /// An operation was begun.
    Begin(Begin),
    /// An operation ended.
    End(End),
    /// A call was refused before it could begin.
    Refused(Refused),
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Open {
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) process: u32,
    pub(super) format: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Begin {
    pub(super) call: String,
    pub(super) tool: &'static str,
    pub(super) who: Who,
    pub(super) target: Target,
    pub(super) arguments: Value,
    pub(super) policies: Vec<String>,
    pub(super) session_policy_sha256: String,
    pub(super) changes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Refused {
    pub(super) call: String,
    pub(super) tool: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) who: Option<Who>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) arguments: Option<Value>,
    pub(super) error: Failure,
    pub(super) policies: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct End {
    call: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    aws: Vec<AwsCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Vec<Rule>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
    ms: u64,
}

/// One request that AWS answered, or did not.
#[derive(Clone, Debug, Serialize)]
pub struct AwsCall {
    /// The action, such as `sts:AssumeRole`.
    pub action: &'static str,
    /// AWS's id of the request, if it answered: the key to CloudTrail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// AWS's error code, if it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who called.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Who {
    kind: &'static str,
    issuer: String,
    subject: String,
    name: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Target {
    account: String,
    region: String,
    group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// An error as it is recorded: the caller's message, and our cause where there is one.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    code: &'static str,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

/// A rule as it stood or stands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    source: String,
    protocol: String,
    from_port: i32,
    to_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<String>,
}

impl Who {
    pub(super) fn of(caller: &Caller) -> Self {
        let principal = caller.principal();
        Self {
            kind: match principal.kind() {
                PrincipalKind::Person => "person",
                PrincipalKind::Service => "service",
                PrincipalKind::Own => "own",
            },
            issuer: principal.issuer().to_owned(),
            subject: principal.subject().to_owned(),
            name: principal.name().to_owned(),
            id: principal.id().to_owned(),
            client: principal.client().map(str::to_owned),
            peer: caller.peer().as_str().to_owned(),
            address: caller.address().map(|address| address.to_canonical().to_string()),
        }
    }
}

impl Target {
    pub(super) fn of(target: &operation::target::Target) -> Self {
        Self {
            account: target.account().to_string(),
            region: target.region().to_string(),
            group: target.group().to_string(),
            name: target.name().map(str::to_owned),
        }
    }
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| Chain(cause).to_string());
        Self { code: error.code().as_str(), reason: error.reason(), message: error.message().to_owned(), cause }
    }
}

impl Rule {
    pub(super) fn of(rule: &operation::rule::Rule) -> Self {
        let (from_port, to_port) = rule.traffic.range();
        Self {
            id: rule.id.clone(),
            source: rule.source.to_string(),
            protocol: rule.traffic.protocol().to_owned(),
            from_port,
            to_port,
            holder_id: rule.ownership.as_ref().map(|ownership| ownership.holder_id.clone()),
            call: rule.ownership.as_ref().map(|ownership| ownership.call.clone()),
        }
    }
}

impl End {
    pub(super) fn of(
        call: &CallId,
        outcome: &Outcome<'_>,
        aws: Vec<AwsCall>,
        before: Option<Vec<Rule>>,
        decided: Vec<String>,
        took: Duration,
    ) -> Self {
        let (word, changed, error, policies, rules) = match outcome {
            Outcome::Done { changed, rules } => ("done", Some(*changed), None, decided, *rules),
            Outcome::Denied(error, policies) => {
                ("denied", Some(false), Some(Failure::of(error)), policies.clone(), [].as_slice())
            }
            Outcome::Failed(error) => ("failed", Some(false), Some(Failure::of(error)), Vec::new(), [].as_slice()),
            Outcome::Unknown(error) => ("unknown", None, Some(Failure::of(error)), Vec::new(), [].as_slice()),
        };
        Self {
            call: call.as_str().to_owned(),
            outcome: word,
            changed,
            error,
            policies,
            aws,
            before,
            rules: rules.iter().map(Rule::of).collect(),
            ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What was asked, in canonical form: typed fields, and of free text only what `operation` has let through.
pub(super) fn arguments(operation: &Operation) -> Value {
    let ports = |ports: &operation::port::Ports| json!({"protocol": ports.protocol().as_str(), "from": ports.from_port(), "to": ports.to_port()});
    match operation.kind() {
        Kind::Add(add) => json!({
            "address": add.block.to_string(), "ports": ports(&add.ports), "reason": add.reason,
            "until": add.lease.until().map(|until| until.to_string()), "dry_run": add.dry_run,
        }),
        Kind::Remove(remove) => json!({
            "rule_id": remove.rule_id, "address": remove.block.map(|block| block.to_string()), "ports": remove.ports.as_ref().map(ports),
            "protocol": remove.protocol.map(operation::port::Protocol::as_str), "reason": remove.reason, "dry_run": remove.dry_run,
        }),
        Kind::List(list) => json!({
            "address": list.block.map(|block| block.to_string()), "ports": list.ports.as_ref().map(ports),
            "protocol": list.protocol.map(operation::port::Protocol::as_str), "holder": list.holder, "managed_only": list.managed_only,
        }),
        Kind::Check(check) => json!({"address": check.block.to_string(), "ports": ports(&check.ports)}),
    }
}
