# The audit journal: on EFS, encrypted with a key of its own, backed up each day. It outlives what writes it. Several processes on one
# directory are as they should be, since NFS locks hold between them.

resource "aws_efs_file_system" "journal" {
  creation_token  = "${var.name}-journal"
  encrypted       = true
  kms_key_id      = aws_kms_key.this.arn
  throughput_mode = "elastic"
  tags            = merge(var.tags, { Name = "${var.name}-journal" })

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_efs_backup_policy" "journal" {
  file_system_id = aws_efs_file_system.journal.id

  backup_policy {
    status = "ENABLED"
  }
}

resource "aws_efs_mount_target" "journal" {
  for_each = toset(var.subnet_ids)

  file_system_id  = aws_efs_file_system.journal.id
  subnet_id       = each.value
  security_groups = [aws_security_group.journal.id]
}

resource "aws_efs_access_point" "journal" {
  file_system_id = aws_efs_file_system.journal.id

  # Whoever comes by this access point is the image's user, whoever it says that it is.
  posix_user {
    uid = 65532
    gid = 65532
  }

  root_directory {
    path = "/whitelistmcp"

    creation_info {
      owner_uid   = 65532
      owner_gid   = 65532
      permissions = "0700"
    }
  }

  tags = merge(var.tags, { Name = "${var.name}-journal" })
}

# By the access point and by TLS alone. It names no role, so that a core's own may do nothing but assume others.
resource "aws_efs_file_system_policy" "journal" {
  file_system_id = aws_efs_file_system.journal.id
  policy         = data.aws_iam_policy_document.journal.json
}

data "aws_iam_policy_document" "journal" {
  statement {
    sid       = "ByTheAccessPoint"
    effect    = "Allow"
    actions   = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
    resources = [aws_efs_file_system.journal.arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "StringEquals"
      variable = "elasticfilesystem:AccessPointArn"
      values   = [aws_efs_access_point.journal.arn]
    }

    condition {
      test     = "Bool"
      variable = "elasticfilesystem:AccessedViaMountTarget"
      values   = ["true"]
    }
  }

  statement {
    sid       = "ByTlsAlone"
    effect    = "Deny"
    actions   = ["*"]
    resources = [aws_efs_file_system.journal.arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}
