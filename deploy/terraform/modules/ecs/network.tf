# Who reaches whom: clients the load balancer, the load balancer the edge, the edge the core, and the core AWS. Nothing else.

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_subnet" "load_balancer" {
  for_each = toset(var.load_balancer_subnet_ids)
  id       = each.value
}

resource "aws_security_group" "load_balancer" {
  name_prefix = "${var.name}-lb-"
  description = "The load balancer of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "edge" {
  name_prefix = "${var.name}-edge-"
  description = "The edges of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "core" {
  name_prefix = "${var.name}-core-"
  description = "The cores of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "endpoints" {
  count = var.vpc_endpoints ? 1 : 0

  name_prefix = "${var.name}-endpoints-"
  description = "The VPC endpoints of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(var.client_networks)

  security_group_id = aws_security_group.load_balancer.id
  description       = "Clients, by HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "load_balancer_to_edge" {
  security_group_id            = aws_security_group.load_balancer.id
  description                  = "The edges"
  referenced_security_group_id = aws_security_group.edge.id
  ip_protocol                  = "tcp"
  from_port                    = local.edge_port
  to_port                      = local.edge_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "edge_from_load_balancer" {
  security_group_id            = aws_security_group.edge.id
  description                  = "The load balancer"
  referenced_security_group_id = aws_security_group.load_balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.edge_port
  to_port                      = local.edge_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "edge_to_core" {
  security_group_id            = aws_security_group.edge.id
  description                  = "The cores, by mTLS"
  referenced_security_group_id = aws_security_group.core.id
  ip_protocol                  = "tcp"
  from_port                    = local.core_port
  to_port                      = local.core_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "core_from_edge" {
  security_group_id            = aws_security_group.core.id
  description                  = "The edges, by mTLS"
  referenced_security_group_id = aws_security_group.edge.id
  ip_protocol                  = "tcp"
  from_port                    = local.core_port
  to_port                      = local.core_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "core_from_services" {
  for_each = toset(var.service_security_group_ids)

  security_group_id            = aws_security_group.core.id
  description                  = "An internal service, by mTLS"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.core_port
  to_port                      = local.core_port
  tags                         = var.tags
}

# The provider's keys and, for the core, STS and EC2. Which networks those are AWS does not say in a form that a rule can name; the
# private variant narrows `outside_networks` to the provider.
resource "aws_vpc_security_group_egress_rule" "edge_to_outside" {
  for_each = toset(var.outside_networks)

  security_group_id = aws_security_group.edge.id
  description       = "The OpenID Connect provider, ECR, logs"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "core_to_outside" {
  for_each = toset(var.outside_networks)

  security_group_id = aws_security_group.core.id
  description       = "STS, EC2, the OpenID Connect provider, ECR, logs"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "to_redis" {
  for_each = var.redis == null ? {} : { edge = aws_security_group.edge.id, core = aws_security_group.core.id }

  security_group_id            = each.value
  description                  = "Redis, by TLS"
  referenced_security_group_id = var.redis.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.redis.port
  to_port                      = var.redis.port
  tags                         = var.tags
}

# Redis is not this module's, and its security group has no way in for groups that were not there before.
resource "aws_vpc_security_group_ingress_rule" "redis" {
  for_each = var.redis == null ? {} : { edge = aws_security_group.edge.id, core = aws_security_group.core.id }

  security_group_id            = var.redis.security_group_id
  description                  = "The ${each.key} of ${var.name}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = var.redis.port
  to_port                      = var.redis.port
  tags                         = var.tags
}

# === The private variant ===

resource "aws_vpc_security_group_ingress_rule" "endpoints_from_tasks" {
  for_each = var.vpc_endpoints ? { edge = aws_security_group.edge.id, core = aws_security_group.core.id } : {}

  security_group_id            = aws_security_group.endpoints[0].id
  description                  = "The tasks"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "tasks_to_endpoints" {
  for_each = var.vpc_endpoints ? { edge = aws_security_group.edge.id, core = aws_security_group.core.id } : {}

  security_group_id            = each.value
  description                  = "AWS, by the VPC endpoints"
  referenced_security_group_id = aws_security_group.endpoints[0].id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = var.tags
}

# Layers of images come from S3, whose gateway is a route and has no security group.
resource "aws_vpc_security_group_egress_rule" "tasks_to_s3" {
  for_each = var.vpc_endpoints ? { edge = aws_security_group.edge.id, core = aws_security_group.core.id } : {}

  security_group_id = each.value
  description       = "S3, by its gateway endpoint: layers of images"
  prefix_list_id    = aws_vpc_endpoint.s3[0].prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}

resource "aws_vpc_endpoint" "aws" {
  for_each = var.vpc_endpoints ? toset(["ec2", "sts", "logs", "ecr.api", "ecr.dkr", "secretsmanager"]) : toset([])

  vpc_id              = var.vpc_id
  service_name        = "com.amazonaws.${data.aws_region.current.region}.${each.value}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = var.task_subnet_ids
  security_group_ids  = [aws_security_group.endpoints[0].id]
  tags                = merge(var.tags, { Name = "${var.name}-${each.value}" })

  lifecycle {
    precondition {
      # These are of this Region alone; EC2 and STS of others are reached by nothing but `outside_networks`.
      condition     = contains(var.outside_networks, "0.0.0.0/0") || alltrue([for region in flatten(var.accounts[*].regions) : region == data.aws_region.current.region])
      error_message = "The VPC endpoints reach AWS in this Region alone, and an account names another one. Leave it out, or let tasks reach the internet (`outside_networks`)."
    }
  }
}

resource "aws_vpc_endpoint" "s3" {
  count = var.vpc_endpoints ? 1 : 0

  vpc_id            = var.vpc_id
  service_name      = "com.amazonaws.${data.aws_region.current.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.route_table_ids
  tags              = merge(var.tags, { Name = "${var.name}-s3" })
}
