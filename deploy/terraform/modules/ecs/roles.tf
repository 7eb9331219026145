# An execution role for each service, which ECS itself uses to start a task: it reads that service's secrets and no other's. The core
# has a task role besides, the base role, which may assume the target roles and nothing else. The edge has none: there are no AWS
# credentials in its tasks at all.

data "aws_iam_policy_document" "by_ecs" {
  statement {
    effect  = "Allow"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_iam_role" "execution" {
  for_each = local.secrets

  name               = "${var.name}-${each.key}-execution"
  description        = "Starts tasks of the ${each.key}: images, logs, its secrets"
  assume_role_policy = data.aws_iam_policy_document.by_ecs.json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "execution" {
  for_each = local.secrets

  role       = aws_iam_role.execution[each.key].name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

data "aws_iam_policy_document" "execution" {
  for_each = local.secrets

  statement {
    sid       = "Secrets"
    effect    = "Allow"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = each.value
  }

  dynamic "statement" {
    for_each = var.secrets_kms_key_arn == null ? [] : [var.secrets_kms_key_arn]

    content {
      sid       = "TheirKey"
      effect    = "Allow"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "execution" {
  for_each = local.secrets

  name   = "secrets"
  role   = aws_iam_role.execution[each.key].id
  policy = data.aws_iam_policy_document.execution[each.key].json
}

resource "aws_iam_role" "core" {
  name                 = "${var.name}-core"
  description          = "The base role: borrows the target roles for one call at a time, and may do nothing else"
  assume_role_policy   = data.aws_iam_policy_document.by_ecs.json
  max_session_duration = 3600
  tags                 = var.tags
}

data "aws_iam_policy_document" "core" {
  statement {
    sid       = "BorrowTheTargetRoles"
    effect    = "Allow"
    actions   = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    resources = [for account in var.accounts : account.role_arn]
  }
}

resource "aws_iam_role_policy" "core" {
  name   = "base"
  role   = aws_iam_role.core.id
  policy = data.aws_iam_policy_document.core.json
}
