//! What policies reach: what they speak of, and what they could permit at all.

use cedar_policy::{Decision, EntityTypeName, EntityUid, Request};
use serde_json::Value;

use super::{Policy, facts};
use crate::identity::{self, Caller};
use crate::operation::Tool;

/// Whether a policy speaks of what AWS alone knows of a group. Tags of the principal are its claims, and known already.
///
/// It looks at the policy's JSON form (<https://docs.cedarpolicy.com/policies/json-format.html>), and says yes where it
/// cannot tell.
pub(super) fn speaks_of_descriptions(policy: &cedar_policy::Policy) -> bool {
    policy.to_json().map_or(true, |policy| speaks(&policy))
}

fn speaks(expression: &Value) -> bool {
    match expression {
        Value::Object(members) => members.iter().any(|(operator, operands)| {
            let tags = matches!(operator.as_str(), "hasTag" | "getTag")
                && operands.pointer("/left/Var").and_then(Value::as_str) != Some("principal");
            let vpc = matches!(operator.as_str(), "." | "has") && names_vpc(operands);
            tags || vpc || speaks(operands)
        }),
        Value::Array(several) => several.iter().any(speaks),
        _ => false,
    }
}

/// Whether an attribute is the VPC, written alone or as one of a path.
fn names_vpc(operands: &Value) -> bool {
    match operands.get("attr") {
        Some(Value::String(name)) => name == "vpc",
        Some(Value::Array(path)) => path.iter().any(|name| name == "vpc"),
        _ => true,
    }
}

impl Policy {
    /// Whether the caller could be permitted the tool at all, on some group, with some arguments, at some time. It never
    /// says no of what could be permitted: everything but the caller counts as unknown (Cedar's partial evaluation), and
    /// only what no policy could permit then is ruled out.
    pub fn may_call(&self, caller: &Caller, tool: Tool) -> bool {
        let group = facts::security_group_type();
        match tool {
            // Asked about the account and Region first; each group is then decided by itself.
            Tool::Leases | Tool::RevokeHolder => self.could(caller, tool.name(), facts::region_type()),
            _ => self.could(caller, "see", group.clone()) && self.could(caller, tool.name(), group),
        }
    }

    fn could(&self, caller: &Caller, action: &str, resource: EntityTypeName) -> bool {
        if caller.principal().kind() == identity::Kind::Own {
            return false;
        }
        // What cannot be told is not ruled out.
        let Ok((principal, entities)) = facts::principal(caller, &self.schema) else { return true };
        let action = EntityUid::from_type_name_and_id(facts::action_type(), cedar_policy::EntityId::new(action));
        let request = Request::builder()
            .principal(principal)
            .action(action)
            .unknown_resource_with_type(resource)
            .schema(&self.schema)
            .build();
        let Ok(request) = request else { return true };
        // What waits for somebody's word could be permitted.
        let policies = &self.callers.without_demands;
        let answer = self.authorizer.is_authorized_partial(&request, policies, &entities);
        answer.decision() != Some(Decision::Deny)
    }
}
