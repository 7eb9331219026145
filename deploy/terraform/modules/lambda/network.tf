# Whom the functions reach: their journal (module.journal), by HTTPS what they ask, and what `reaches` names.

resource "aws_security_group" "function" {
  name_prefix = "${var.name}-function-"
  description = "The functions of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
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

resource "aws_vpc_security_group_egress_rule" "function_to_others" {
  for_each = var.reaches

  security_group_id            = aws_security_group.function.id
  description                  = each.key
  referenced_security_group_id = each.value.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "others_from_function" {
  for_each = var.reaches

  security_group_id            = each.value.security_group_id
  description                  = "The functions of ${var.name}"
  referenced_security_group_id = aws_security_group.function.id
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = var.tags
}
