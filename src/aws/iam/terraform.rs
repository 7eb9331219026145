//! Modules of Terraform: one that makes the service's own role, one for each account that it reaches.

use serde_json::{Map, Value, json};

use super::{Document, Documents, Form, Limit, Part};

/// The key of an object that stands for an expression.
const EXPRESSION: &str = "$expression";

/// How far each level is set in.
const STEP: usize = 2;

/// An expression, written as it is.
pub(super) fn expression(text: &str) -> Value {
    json!({ EXPRESSION: text })
}

/// An ARN of the account that the provider is in.
pub(super) fn arn(rest: &str) -> Value {
    let rest = rest.replace("{account}", "${local.account}");
    expression(&format!("\"arn:${{local.partition}}:{rest}\""))
}

pub(super) fn module(documents: &Documents<'_>, part: Part) -> String {
    let of = |document| {
        let mut text = String::from("jsonencode(");
        write(&mut text, &documents.document(document, &Form::Terraform), STEP);
        text + ")"
    };
    match part {
        Part::Base => {
            let trust = of(Document::BaseTrust);
            let policy = of(Document::BasePolicy);
            format!(
                r#"# Printed by `whitelistmcp iam print --only base --format terraform`.
# The role that whitelistmcp itself runs as. It may borrow the target roles, and nothing else.

{VERSIONS}
variable "role_name" {{
  type        = string
  default     = "whitelistmcp-core"
  description = "The role's name."
}}

variable "target_role_arns" {{
  type        = list(string)
  description = "The ARNs of the roles that it borrows, one for each account."

  validation {{
    condition     = length(var.target_role_arns) > 0
    error_message = "Name at least one role."
  }}
}}

variable "trust" {{
  type        = string
  default     = null
  description = "Who may be the service, as JSON, where it is somebody else than is said here: `whitelistmcp iam print --only base-trust --platform PLATFORM`."
}}

{LOCALS}
resource "aws_iam_role" "base" {{
  name                 = var.role_name
  description          = "whitelistmcp itself: borrows the target roles, and may do nothing else"
  max_session_duration = 3600

  assume_role_policy = var.trust != null ? var.trust : {trust}
}}

resource "aws_iam_role_policy" "base" {{
  name = "borrow-targets"
  role = aws_iam_role.base.id

  policy = {policy}
}}

output "role_arn" {{
  value       = aws_iam_role.base.arn
  description = "What target roles trust."
}}

output "role_name" {{
  value       = aws_iam_role.base.name
  description = "The role's name, for an instance profile or a task."
}}
"#
            )
        }
        Part::Target => {
            let trust = of(Document::TargetTrust);
            let policy = of(Document::TargetPolicy);
            let groups = if documents.shape.limit == Limit::Tagged { "" } else { GROUPS };
            format!(
                r#"# Printed by `whitelistmcp iam print --only target --format terraform`.
# What whitelistmcp may do in one account at most. Each call gets a session that may do less.

{VERSIONS}
variable "role_name" {{
  type        = string
  default     = "whitelistmcp-target"
  description = "The role's name."
}}

variable "base_role_arn" {{
  type        = string
  description = "The ARN of the role that whitelistmcp runs as."
}}

variable "external_id" {{
  type        = string
  description = "The `external_id` of this account in whitelistmcp's configuration."

  validation {{
    condition     = can(regex("^[A-Za-z0-9+=,.@:/_-]{{2,1224}}$", var.external_id))
    error_message = "2 to 1224 of A-Z a-z 0-9 + = , . @ : / _ and -."
  }}
}}

variable "regions" {{
  type        = list(string)
  description = "The Regions in which groups may be changed."

  validation {{
    condition     = length(var.regions) > 0
    error_message = "Name at least one Region."
  }}
}}

{groups}{LOCALS}
resource "aws_iam_role" "target" {{
  name                 = var.role_name
  description          = "What whitelistmcp may do in this account at most; each call gets a session that may do less"
  max_session_duration = 3600

  assume_role_policy = {trust}
}}

resource "aws_iam_role_policy" "target" {{
  name = "security-groups"
  role = aws_iam_role.target.id

  policy = {policy}
}}

output "role_arn" {{
  value       = aws_iam_role.target.arn
  description = "The `role_arn` of this account in whitelistmcp's configuration."
}}
"#
            )
        }
        Part::KillSwitch => {
            let policy = of(Document::KillSwitch);
            format!(
                r#"# Printed by `whitelistmcp iam print --only kill-switch --format terraform`.
# Denies everything to whitelistmcp's roles. It binds nobody until `target_ids` names somebody.

{VERSIONS}
variable "role_arns" {{
  type        = list(string)
  description = "The ARNs of whitelistmcp's roles; * stands for any account."
}}

variable "target_ids" {{
  type        = set(string)
  default     = []
  description = "The roots, organizational units or accounts that it binds."
}}

resource "aws_organizations_policy" "kill_switch" {{
  name        = "whitelistmcp-kill-switch"
  description = "Ends whatever whitelistmcp does"
  type        = "SERVICE_CONTROL_POLICY"

  content = {policy}
}}

resource "aws_organizations_policy_attachment" "kill_switch" {{
  for_each  = var.target_ids
  policy_id = aws_organizations_policy.kill_switch.id
  target_id = each.value
}}
"#
            )
        }
    }
}

const VERSIONS: &str = r#"terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}
"#;

const LOCALS: &str = r#"data "aws_caller_identity" "here" {}

data "aws_partition" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
}
"#;

const GROUPS: &str = r#"variable "group_arns" {
  type        = list(string)
  description = "The ARNs of the security groups that may be changed."

  validation {
    condition     = length(var.group_arns) > 0
    error_message = "Name at least one security group."
  }
}

"#;

/// Writes a value as an expression, as `terraform fmt` would set it.
fn write(text: &mut String, value: &Value, indent: usize) {
    let pad = |level: usize| " ".repeat(level);
    match value {
        Value::Object(object) if object.contains_key(EXPRESSION) => {
            text.push_str(object.get(EXPRESSION).and_then(Value::as_str).unwrap_or_default());
        }
        Value::Object(object) => {
            text.push_str("{\n");
            write_entries(text, object, indent + STEP);
            text.push_str(&pad(indent));
            text.push('}');
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<String> = items.iter().map(quoted).collect();
            // A line of its own for each where they would not fit on one.
            let one = items.join(", ");
            if one.len() < 80 {
                text.push_str(&format!("[{one}]"));
            } else {
                let items = items.iter().map(|item| format!("{}{item},\n", pad(indent + STEP))).collect::<String>();
                text.push_str(&format!("[\n{items}{}]", pad(indent)));
            }
        }
        Value::Array(items) => {
            text.push_str("[\n");
            for item in items {
                text.push_str(&pad(indent + STEP));
                write(text, item, indent + STEP);
                text.push_str(",\n");
            }
            text.push_str(&pad(indent));
            text.push(']');
        }
        other => text.push_str(&quoted(other)),
    }
}

/// Entries whose values take one line stand in columns, from one that takes several to the next.
fn write_entries(text: &mut String, object: &Map<String, Value>, indent: usize) {
    let entries: Vec<(String, String)> = object
        .iter()
        .map(|(key, value)| {
            let mut written = String::new();
            write(&mut written, value, indent);
            (quoted(&Value::from(key.as_str())), written)
        })
        .collect();
    for run in entries.chunk_by(|before, after| !before.1.contains('\n') && !after.1.contains('\n')) {
        let width = run.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
        for (key, written) in run {
            text.push_str(&format!("{:indent$}{key:width$} = {written}\n", ""));
        }
    }
}

/// A string of HCL, in which `${` and `%{` would begin a template.
fn quoted(value: &Value) -> String {
    value.to_string().replace("${", "$${").replace("%{", "%%{")
}
