# The base role of a core outside AWS: it shows who it is by a token of its platform, and no AWS key exists anywhere.

locals {
  # AWS knows Google's issuer by itself; Entra's is made known here, for one tenant and one audience.
  azure_issuer = var.azure == null ? "" : "sts.windows.net/${var.azure.tenant_id}/"
}

resource "aws_iam_openid_connect_provider" "azure" {
  count = var.azure == null ? 0 : 1

  url            = "https://${local.azure_issuer}"
  client_id_list = [var.azure.audience]
  tags           = var.tags
}

data "aws_iam_policy_document" "trust" {
  # The token's `azp` is the service account's unique id, which AWS calls `aud`; what was asked for as the audience it calls `oaud`.
  dynamic "statement" {
    for_each = var.google == null ? [] : [var.google]

    content {
      sid     = "OneServiceAccountOfGoogle"
      effect  = "Allow"
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = ["accounts.google.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "accounts.google.com:aud"
        values   = [statement.value.service_account_id]
      }

      condition {
        test     = "StringEquals"
        variable = "accounts.google.com:oaud"
        values   = [statement.value.audience]
      }

      condition {
        test     = "StringEquals"
        variable = "accounts.google.com:sub"
        values   = [statement.value.service_account_id]
      }
    }
  }

  dynamic "statement" {
    for_each = var.azure == null ? [] : [var.azure]

    content {
      sid     = "OneManagedIdentityOfAzure"
      effect  = "Allow"
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = [aws_iam_openid_connect_provider.azure[0].arn]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.azure_issuer}:aud"
        values   = [statement.value.audience]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.azure_issuer}:sub"
        values   = [statement.value.principal_id]
      }
    }
  }
}

resource "aws_iam_role" "core" {
  name                 = var.name
  description          = "The base role of a core outside AWS: borrows the target roles for one call at a time, and may do nothing else"
  assume_role_policy   = data.aws_iam_policy_document.trust.json
  max_session_duration = 3600
  tags                 = var.tags

  lifecycle {
    precondition {
      condition     = (var.google == null) != (var.azure == null)
      error_message = "Name either `google` or `azure`."
    }
  }
}

data "aws_iam_policy_document" "core" {
  statement {
    sid       = "BorrowTheTargetRoles"
    effect    = "Allow"
    actions   = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    resources = var.target_role_arns
  }
}

resource "aws_iam_role_policy" "core" {
  name   = "base"
  role   = aws_iam_role.core.id
  policy = data.aws_iam_policy_document.core.json
}

output "base_role_arn" {
  description = "The base role: `[aws.federation] role_arn`, and the principal that the target roles' trust policies must name."
  value       = aws_iam_role.core.arn
}
