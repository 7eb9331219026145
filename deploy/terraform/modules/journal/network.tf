# One way in: from what writes the journal, by NFS.

resource "aws_security_group" "journal" {
  name_prefix = "${var.name}-journal-"
  description = "The file system with the audit journal of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "client_to_journal" {
  security_group_id            = var.client_security_group_id
  description                  = "The file system of the journal"
  referenced_security_group_id = aws_security_group.journal.id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "journal_from_client" {
  security_group_id            = aws_security_group.journal.id
  description                  = var.client
  referenced_security_group_id = var.client_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  tags                         = var.tags
}
