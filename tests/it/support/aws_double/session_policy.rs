//! What a session policy allows, as IAM evaluates it, as far as this service's policies go.
//!
//! What is not known here (an operator, a key, a policy variable, another element) never lets anything through: a
//! statement that allows does not apply then, and one that denies does.

use serde_json::Value;

use super::glob;
use super::resources::Tags;

pub(super) struct Policy(Vec<Statement>);

struct Statement {
    allows: bool,
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
    /// It has elements that are not known here.
    strange: bool,
}

struct Condition {
    operator: String,
    key: String,
    values: Vec<String>,
}

/// One action on one resource, and what conditions can be put on.
#[derive(Clone, Debug, Default)]
pub(super) struct Need {
    /// `ec2:` and the action.
    pub(super) action: String,
    /// An ARN, or `*` for an action that takes none.
    pub(super) resource: String,
    pub(super) region: String,
    pub(super) resource_tags: Tags,
    pub(super) request_tags: Tags,
    pub(super) tag_keys: Vec<String>,
    pub(super) create_action: Option<&'static str>,
}

impl Policy {
    /// Reads a policy; none, if it is malformed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(text).ok()?;
        let statements = match document.get("Statement")? {
            Value::Array(statements) => statements.iter().map(Statement::parse).collect::<Option<_>>()?,
            statement => vec![Statement::parse(statement)?],
        };
        Some(Self(statements))
    }

    pub(super) fn allows(&self, need: &Need) -> bool {
        let denied = self.0.iter().any(|statement| !statement.allows && statement.applies(need) != Some(false));
        !denied && self.0.iter().any(|statement| statement.allows && statement.applies(need) == Some(true))
    }
}

impl Statement {
    fn parse(statement: &Value) -> Option<Self> {
        let fields = statement.as_object()?;
        let allows = match fields.get("Effect")?.as_str()? {
            "Allow" => true,
            "Deny" => false,
            _ => return None,
        };
        let mut conditions = Vec::new();
        if let Some(operators) = fields.get("Condition") {
            for (operator, keys) in operators.as_object()? {
                for (key, values) in keys.as_object()? {
                    let (operator, key) = (operator.clone(), key.clone());
                    conditions.push(Condition { operator, key, values: strings(values)? });
                }
            }
        }
        let listed = |name| fields.get(name).map_or(Some(Vec::new()), strings);
        let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
        Some(Self {
            allows,
            actions: listed("Action")?,
            resources: listed("Resource")?,
            conditions,
            strange: fields.keys().any(|name| !known.contains(&name.as_str())),
        })
    }

    /// Whether it applies; none, if that is not known.
    fn applies(&self, need: &Need) -> Option<bool> {
        if self.strange {
            return None;
        }
        let action = need.action.to_ascii_lowercase();
        let named = self.actions.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), &action))
            && self.resources.iter().any(|pattern| glob::matches(pattern, &need.resource));
        let held: Vec<Option<bool>> = self.conditions.iter().map(|condition| condition.holds(need)).collect();
        if !named || held.contains(&Some(false)) {
            return Some(false);
        }
        if held.contains(&None) { None } else { Some(true) }
    }
}

impl Condition {
    /// Whether it holds; none, if that is not known.
    fn holds(&self, need: &Need) -> Option<bool> {
        if self.values.iter().any(|value| value.contains("${")) {
            return None;
        }
        let (each, operator) = match self.operator.strip_prefix("ForAllValues:") {
            Some(operator) => (true, operator),
            None => (false, self.operator.as_str()),
        };
        let agrees: fn(&str, &str) -> bool = match operator {
            "StringEquals" => |wanted, value| wanted == value,
            "StringLike" | "Null" => glob::matches,
            _ => return None,
        };
        let (many, asked) = need.values(&self.key)?;
        if operator == "Null" && !each {
            let absent = if asked.is_empty() { "true" } else { "false" };
            return Some(self.values.iter().any(|wanted| wanted == absent));
        }
        let mut agreed = asked.iter().map(|value| self.values.iter().any(|wanted| agrees(wanted, value)));
        match (each, many) {
            // As in IAM, this holds of a request that has no such value at all.
            (true, _) => Some(agreed.all(|agreed| agreed)),
            (false, false) => Some(agreed.next().unwrap_or(false)),
            // A key with several values needs a set operator.
            (false, true) => None,
        }
    }
}

impl Need {
    /// Whether the key can have several values, and those it has.
    fn values(&self, key: &str) -> Option<(bool, Vec<&str>)> {
        let (name, tag) = key.split_once('/').unwrap_or((key, ""));
        let found = |tags| find(tags, tag).into_iter().collect();
        match name.to_ascii_lowercase().as_str() {
            "aws:requestedregion" | "ec2:region" => Some((false, vec![&self.region])),
            "aws:requesttag" => Some((false, found(&self.request_tags))),
            "aws:resourcetag" | "ec2:resourcetag" => Some((false, found(&self.resource_tags))),
            "aws:tagkeys" => Some((true, self.tag_keys.iter().map(String::as_str).collect())),
            "ec2:createaction" => Some((false, self.create_action.into_iter().collect())),
            _ => None,
        }
    }
}

/// A tag's value. In conditions, the case of a tag's key does not count.
fn find<'a>(tags: &'a Tags, key: &str) -> Option<&'a str> {
    tags.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
}

/// A string, or a list of them.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn need() -> Need {
        Need {
            action: "ec2:CreateTags".to_owned(),
            resource: "arn:aws:ec2:eu-central-1:123456789012:security-group-rule/sgr-1".to_owned(),
            region: "eu-central-1".to_owned(),
            resource_tags: Tags::from([("team".to_owned(), "red".to_owned())]),
            request_tags: Tags::from([("until".to_owned(), "noon".to_owned())]),
            tag_keys: vec!["until".to_owned()],
            create_action: None,
        }
    }

    fn with(condition: Value) -> Value {
        json!({"Effect": "Allow", "Action": "ec2:Create*", "Resource": "arn:aws:ec2:*:*:security-group-rule/*", "Condition": condition})
    }

    fn allows(statements: &Value) -> bool {
        let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        Policy::parse(&text).expect("a policy").allows(&need())
    }

    #[test]
    fn conditions_hold_as_in_iam() {
        for (condition, held) in [
            (json!({}), true),
            (json!({"StringEquals": {"aws:RequestedRegion": ["eu-west-1", "eu-central-1"]}}), true),
            (json!({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}), false),
            (json!({"StringEquals": {"aws:ResourceTag/team": "red", "aws:RequestTag/until": "noon"}}), true),
            (json!({"StringEquals": {"aws:ResourceTag/team": "r*"}}), false),
            (json!({"StringLike": {"AWS:ResourceTag/Team": "r*"}}), true),
            (json!({"StringLike": {"aws:ResourceTag/owner": "*"}}), false),
            (json!({"Null": {"aws:ResourceTag/owner": "true"}}), true),
            (json!({"Null": {"aws:TagKeys": "false"}}), true),
            (json!({"Null": {"aws:TagKeys": "true"}}), false),
            (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["until", "other"]}}), true),
            (json!({"ForAllValues:StringLike": {"aws:TagKeys": "x*"}}), false),
            (json!({"ForAllValues:StringEquals": {"aws:RequestTag/none": "x"}}), true),
            (json!({"StringEquals": {"aws:TagKeys": "until"}}), false),
            (json!({"StringEquals": {"ec2:CreateAction": "AuthorizeSecurityGroupIngress"}}), false),
            (json!({"StringEquals": {"aws:SourceIp": "203.0.113.7"}}), false),
            (json!({"Bool": {"aws:SecureTransport": "true"}}), false),
            (json!({"StringLike": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}), false),
        ] {
            assert_eq!(allows(&json!([with(condition.clone())])), held, "{condition}");
        }
    }

    #[test]
    fn a_deny_wins_and_what_is_not_known_never_lets_through() {
        let all = json!({"Effect": "Allow", "Action": "*", "Resource": ["*"]});
        assert!(allows(&all));
        assert!(!allows(&json!([all, {"Effect": "Deny", "Action": ["EC2:createtags"], "Resource": "*"}])));
        assert!(allows(&json!([all, {"Effect": "Deny", "Action": "ec2:DeleteTags", "Resource": "*"}])));
        let deny =
            |condition: Value| json!([all, {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}]);
        assert!(allows(&deny(json!({"StringEquals": {"aws:ResourceTag/team": "blue"}}))));
        assert!(!allows(&deny(json!({"StringEquals": {"aws:ResourceTag/team": "red"}}))));
        assert!(allows(&deny(json!({"Null": {"aws:ResourceTag/team": "true"}}))));
        assert!(!allows(&deny(json!({"Bool": {"aws:ResourceTag/team": "true"}}))));
        assert!(!allows(&json!({"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"})));
        assert!(Policy::parse("{}").is_none() && Policy::parse("{\"Statement\": [{\"Effect\": \"Maybe\"}]}").is_none());
    }
}
