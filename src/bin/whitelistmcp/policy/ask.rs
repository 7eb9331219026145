//! One question, from a tool's name and its arguments to what the answer would be.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::value::RawValue;
use whitelistmcp::annotations::Annotations;
use whitelistmcp::broker::trial::{self, Allowed, Question};
use whitelistmcp::edge;
use whitelistmcp::error::{Code, Error};
use whitelistmcp::identity::Supposed;
use whitelistmcp::identity::scope::Scopes;
use whitelistmcp::operation::Tool;
use whitelistmcp::operation::rule::Rule;
use whitelistmcp::operation::target::Targets;
use whitelistmcp::policy::{Demand, Policy};

/// What questions are asked of.
pub(super) struct Asked {
    pub(super) policy: Arc<Policy>,
    pub(super) targets: Arc<Targets>,
    pub(super) annotations: Annotations,
}

/// One question.
pub(super) struct Call<'a> {
    pub(super) who: &'a Supposed,
    pub(super) tool: &'a str,
    pub(super) arguments: &'a serde_json::Value,
    pub(super) from: Option<IpAddr>,
    pub(super) at: Timestamp,
    pub(super) standing: &'a [Rule],
}

/// What came of it.
pub(super) enum Verdict {
    Allow(Allowed),
    /// Allowed once somebody has vouched for it, as these policies want.
    Approval(Allowed, Demand),
    /// Refused by these policies, or by none that permits it.
    Deny(Vec<String>, Error),
    /// The group reads like one that is not there.
    Unseen(Error),
    /// The scopes do not hold the tool's.
    Scope(String),
    /// Another refusal: the request itself is wrong, or does not fit what stands.
    Other(Error),
}

impl Asked {
    pub(super) fn ask(&self, call: &Call<'_>) -> Verdict {
        let Some(tool) = Tool::from_name(call.tool) else {
            let known = Tool::ALL.map(Tool::name).join(", ");
            let text = format!("there is no tool `{}`; the tools are {known}", call.tool);
            return Verdict::Other(Error::invalid("tool", "TOOL_UNKNOWN", text));
        };
        let spec = self.annotations.find(tool.name());
        let wanted = spec.map(|spec| spec.annotations.scope.clone()).unwrap_or_default();
        if !self.annotations.scopes().grants(&call.who.scopes.iter().cloned().collect::<Scopes>(), &wanted) {
            return Verdict::Scope(wanted);
        }
        match self.answer(tool, call) {
            Ok(mut allowed) => match allowed.waits.take() {
                None => Verdict::Allow(allowed),
                Some(demand) => Verdict::Approval(allowed, demand),
            },
            Err(error) if error.reason() == "SECURITY_GROUP_UNKNOWN" => Verdict::Unseen(error),
            Err(error) if error.code() == Code::PermissionDenied => {
                let facts = error.facts().iter().find(|(name, _)| *name == "policies");
                let policies = facts.map(|(_, ids)| ids.split(',').map(str::to_owned).collect()).unwrap_or_default();
                Verdict::Deny(policies, error)
            }
            Err(error) => Verdict::Other(error),
        }
    }

    fn answer(&self, tool: Tool, call: &Call<'_>) -> Result<Allowed, Error> {
        let malformed =
            |error: serde_json::Error| Error::invalid("arguments", "ARGUMENTS_MALFORMED", error.to_string());
        let arguments = serde_json::to_string(call.arguments).and_then(RawValue::from_string).map_err(malformed)?;
        let message = edge::read_arguments(&self.annotations, tool.name(), &arguments)?;
        let question = Question { who: call.who, tool, message, from: call.from, at: call.at, standing: call.standing };
        trial::ask(&self.policy, &self.targets, &question)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allow(allowed) if allowed.policies.is_empty() => f.write_str("allow"),
            Self::Allow(allowed) => write!(f, "allow by {}", allowed.policies.join(", ")),
            Self::Approval(_, demand) => write!(f, "approval by {}", demand.policies().join(", ")),
            Self::Deny(policies, error) if policies.is_empty() => write!(f, "deny: {}", error.message()),
            Self::Deny(policies, _) => write!(f, "deny by {}", policies.join(", ")),
            Self::Unseen(_) => f.write_str("unseen"),
            Self::Scope(scope) => write!(f, "scope: `{scope}` is missing"),
            Self::Other(error) => write!(f, "{}: {}", error.reason(), error.message()),
        }
    }
}
