# The functions' role is the base role, and Lambda's own besides: their log, their network interfaces, their file system. The interfaces are
# Lambda's to make: from the functions' own code nothing of EC2 is allowed that is not borrowed.

data "aws_iam_policy_document" "by_lambda" {
  statement {
    effect  = "Allow"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "this" {
  name                 = "${var.name}-core"
  description          = "The base role: borrows the target roles for one call at a time"
  assume_role_policy   = data.aws_iam_policy_document.by_lambda.json
  max_session_duration = 3600
  tags                 = var.tags
}

data "aws_iam_policy_document" "this" {
  # checkov:skip=CKV_AWS_111: EC2 takes no narrower resource for the interfaces that Lambda makes; the last statement denies them to the code
  # checkov:skip=CKV_AWS_356: as above
  statement {
    sid       = "BorrowTheTargetRoles"
    effect    = "Allow"
    actions   = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    resources = [for account in var.accounts : account.role_arn]
  }

  statement {
    sid       = "Log"
    effect    = "Allow"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  statement {
    sid       = "Journal"
    effect    = "Allow"
    actions   = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
    resources = [module.journal.file_system_arn]

    condition {
      test     = "StringEquals"
      variable = "elasticfilesystem:AccessPointArn"
      values   = [module.journal.access_point_arn]
    }
  }

  statement {
    sid    = "Interfaces"
    effect = "Allow"
    actions = [
      "ec2:AssignPrivateIpAddresses",
      "ec2:CreateNetworkInterface",
      "ec2:DeleteNetworkInterface",
      "ec2:DescribeNetworkInterfaces",
      "ec2:DescribeSubnets",
      "ec2:UnassignPrivateIpAddresses",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "InterfacesAreLambdasAlone"
    effect    = "Deny"
    actions   = ["ec2:*"]
    resources = ["*"]

    condition {
      test     = "ArnEquals"
      variable = "lambda:SourceFunctionArn"

      values = [
        for function in values(local.functions) :
        "arn:${data.aws_partition.current.partition}:lambda:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:function:${function.name}"
      ]
    }
  }
}

resource "aws_iam_role_policy" "this" {
  name   = "base"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.this.json
}
