# Whom the functions reach: their journal (module.journal), and by HTTPS what they ask.

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
