# Printed by `whitelistmcp iam print --only target --format terraform`.
# What whitelistmcp may do in one account at most. Each call gets a session that may do less.

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
  default     = "whitelistmcp-target"
  description = "The role's name."
}

variable "base_role_arn" {
  type        = string
  description = "The ARN of the role that whitelistmcp runs as."
}

variable "external_id" {
  type        = string
  description = "The `external_id` of this account in whitelistmcp's configuration."

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@:/_-]{2,1224}$", var.external_id))
    error_message = "2 to 1224 of A-Z a-z 0-9 + = , . @ : / _ and -."
  }
}

variable "regions" {
  type        = list(string)
  description = "The Regions in which groups may be changed."

  validation {
    condition     = length(var.regions) > 0
    error_message = "Name at least one Region."
  }
}

data "aws_caller_identity" "here" {}

data "aws_partition" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
}

resource "aws_iam_role" "target" {
  name                 = var.role_name
  description          = "What whitelistmcp may do in this account at most; each call gets a session that may do less"
  max_session_duration = 3600

  assume_role_policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [
      {
        "Sid"    = "Borrow"
        "Effect" = "Allow"
        "Principal" = {
          "AWS" = var.base_role_arn
        }
        "Action" = "sts:AssumeRole"
        "Condition" = {
          "StringLike" = {
            "sts:SourceIdentity"  = "?*"
            "aws:RequestTag/call" = "?*"
            "aws:RequestTag/tool" = "?*"
          }
          "StringEquals" = {
            "sts:ExternalId" = var.external_id
          }
        }
      },
      {
        "Sid"    = "Name"
        "Effect" = "Allow"
        "Principal" = {
          "AWS" = var.base_role_arn
        }
        "Action" = "sts:SetSourceIdentity"
        "Condition" = {
          "StringLike" = {
            "sts:SourceIdentity" = "?*"
          }
        }
      },
      {
        "Sid"    = "Tag"
        "Effect" = "Allow"
        "Principal" = {
          "AWS" = var.base_role_arn
        }
        "Action" = "sts:TagSession"
        "Condition" = {
          "StringLike" = {
            "aws:RequestTag/call" = "?*"
            "aws:RequestTag/tool" = "?*"
          }
          "ForAllValues:StringEquals" = {
            "aws:TagKeys" = ["call", "issuer", "peer", "tool"]
          }
          "Null" = {
            "sts:TransitiveTagKeys" = "true"
          }
        }
      },
    ]
  })
}

resource "aws_iam_role_policy" "target" {
  name = "security-groups"
  role = aws_iam_role.target.id

  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [
      {
        "Sid"    = "Look"
        "Effect" = "Allow"
        "Action" = [
          "ec2:DescribeManagedPrefixLists",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeSecurityGroupRules",
          "ec2:DescribeSecurityGroups",
        ]
        "Resource" = "*"
        "Condition" = {
          "StringEquals" = {
            "aws:RequestedRegion" = var.regions
          }
        }
      },
      {
        "Sid"    = "Change"
        "Effect" = "Allow"
        "Action" = [
          "ec2:AuthorizeSecurityGroupIngress",
          "ec2:RevokeSecurityGroupIngress",
          "ec2:ModifySecurityGroupRules",
        ]
        "Resource" = "arn:${local.partition}:ec2:*:${local.account}:security-group/*"
        "Condition" = {
          "StringEquals" = {
            "aws:RequestedRegion" = var.regions
          }
          "Null" = {
            "aws:ResourceTag/whitelistmcp:managed" = "false"
          }
          "StringNotEqualsIgnoreCase" = {
            "aws:ResourceTag/whitelistmcp:managed" = ["false", "no", "0"]
          }
        }
      },
      {
        "Sid"      = "MakeRule"
        "Effect"   = "Allow"
        "Action"   = "ec2:AuthorizeSecurityGroupIngress"
        "Resource" = "arn:${local.partition}:ec2:*:${local.account}:security-group-rule/*"
        "Condition" = {
          "StringEquals" = {
            "aws:RequestedRegion" = var.regions
          }
        }
      },
      {
        "Sid"      = "ChangeRule"
        "Effect"   = "Allow"
        "Action"   = ["ec2:ModifySecurityGroupRules"]
        "Resource" = "arn:${local.partition}:ec2:*:${local.account}:security-group-rule/*"
        "Condition" = {
          "StringEquals" = {
            "aws:RequestedRegion" = var.regions
          }
          "StringLike" = {
            "aws:ResourceTag/whitelistmcp:call" = "?*"
          }
        }
      },
      {
        "Sid"      = "TagNewRule"
        "Effect"   = "Allow"
        "Action"   = "ec2:CreateTags"
        "Resource" = "arn:${local.partition}:ec2:*:${local.account}:security-group-rule/*"
        "Condition" = {
          "StringEquals" = {
            "aws:RequestedRegion" = var.regions
            "ec2:CreateAction"    = "AuthorizeSecurityGroupIngress"
          }
          "StringLike" = {
            "aws:RequestTag/whitelistmcp:call" = "?*"
          }
        }
      },
      {
        "Sid"      = "TagRule"
        "Effect"   = "Allow"
        "Action"   = ["ec2:CreateTags", "ec2:DeleteTags"]
        "Resource" = "arn:${local.partition}:ec2:*:${local.account}:security-group-rule/*"
        "Condition" = {
          "StringEquals" = {
            "aws:RequestedRegion" = var.regions
          }
          "StringLike" = {
            "aws:ResourceTag/whitelistmcp:call" = "?*"
          }
          "ForAllValues:StringLike" = {
            "aws:TagKeys" = ["whitelistmcp:closing:*", "whitelistmcp:holder:*", "whitelistmcp:key:*"]
          }
          "Null" = {
            "aws:TagKeys" = "false"
          }
        }
      },
    ]
  })
}

output "role_arn" {
  value       = aws_iam_role.target.arn
  description = "The `role_arn` of this account in whitelistmcp's configuration."
}
