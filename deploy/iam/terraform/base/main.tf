# Printed by `whitelistmcp iam print --only base --format terraform`.
# The role that whitelistmcp itself runs as. It may borrow the target roles, and nothing else.

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "role_name" {
  type        = string
  default     = "whitelistmcp-core"
  description = "The role's name."
}

variable "target_role_arns" {
  type        = list(string)
  description = "The ARNs of the roles that it borrows, one for each account."

  validation {
    condition     = length(var.target_role_arns) > 0
    error_message = "Name at least one role."
  }
}

variable "trust" {
  type        = string
  default     = null
  description = "Who may be the service, as JSON, where it is somebody else than is said here: `whitelistmcp iam print --only base-trust --platform PLATFORM`."
}

data "aws_caller_identity" "here" {}

data "aws_partition" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
}

resource "aws_iam_role" "base" {
  name                 = var.role_name
  description          = "whitelistmcp itself: borrows the target roles, and may do nothing else"
  max_session_duration = 3600

  assume_role_policy = var.trust != null ? var.trust : jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [
      {
        "Sid"    = "Run"
        "Effect" = "Allow"
        "Principal" = {
          "Service" = "ecs-tasks.amazonaws.com"
        }
        "Action" = "sts:AssumeRole"
        "Condition" = {
          "StringEquals" = {
            "aws:SourceAccount" = local.account
          }
          "ArnLike" = {
            "aws:SourceArn" = "arn:${local.partition}:ecs:*:${local.account}:*"
          }
        }
      },
    ]
  })
}

resource "aws_iam_role_policy" "base" {
  name = "borrow-targets"
  role = aws_iam_role.base.id

  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [
      {
        "Sid"      = "Borrow"
        "Effect"   = "Allow"
        "Action"   = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"]
        "Resource" = var.target_role_arns
      },
    ]
  })
}

output "role_arn" {
  value       = aws_iam_role.base.arn
  description = "What target roles trust."
}

output "role_name" {
  value       = aws_iam_role.base.name
  description = "The role's name, for an instance profile or a task."
}
