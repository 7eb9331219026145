# Printed by `whitelistmcp iam print --only kill-switch --format terraform`.
# Denies everything to whitelistmcp's roles. It binds nobody until `target_ids` names somebody.

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "role_arns" {
  type        = list(string)
  description = "The ARNs of whitelistmcp's roles; * stands for any account."
}

variable "target_ids" {
  type        = set(string)
  default     = []
  description = "The roots, organizational units or accounts that it binds."
}

resource "aws_organizations_policy" "kill_switch" {
  name        = "whitelistmcp-kill-switch"
  description = "Ends whatever whitelistmcp does"
  type        = "SERVICE_CONTROL_POLICY"

  content = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [
      {
        "Sid"      = "KillSwitch"
        "Effect"   = "Deny"
        "Action"   = "*"
        "Resource" = "*"
        "Condition" = {
          "ArnLike" = {
            "aws:PrincipalArn" = var.role_arns
          }
        }
      },
    ]
  })
}

resource "aws_organizations_policy_attachment" "kill_switch" {
  for_each  = var.target_ids
  policy_id = aws_organizations_policy.kill_switch.id
  target_id = each.value
}
