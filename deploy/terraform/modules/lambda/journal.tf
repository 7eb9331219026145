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

resource "aws_security_group" "function" {
  name_prefix = "${var.name}-function-"
  description = "The functions of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "journal" {
  name_prefix = "${var.name}-journal-"
  description = "The file system with the audit journal of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "function_to_journal" {
  security_group_id            = aws_security_group.function.id
  description                  = "The journal's file system"
  referenced_security_group_id = aws_security_group.journal.id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "journal_from_function" {
  security_group_id            = aws_security_group.journal.id
  description                  = "The functions"
  referenced_security_group_id = aws_security_group.function.id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "function_to_outside" {
  security_group_id = aws_security_group.function.id
  description       = "STS, EC2, the OpenID Connect provider"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}
