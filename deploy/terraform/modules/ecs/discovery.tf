# The edge finds cores by DNS and speaks mTLS to the very process it finds. A mesh that ends TLS in between (Service Connect with TLS)
# would hide from the core who calls.

resource "aws_service_discovery_private_dns_namespace" "core" {
  name        = var.namespace
  description = "Where the edges of ${var.name} find the cores"
  vpc         = var.vpc_id
  tags        = var.tags
}

resource "aws_service_discovery_service" "core" {
  name = "core"

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.core.id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      # Less than `lame_duck` of a core: one that ends is answered with until nobody asks for it.
      ttl = 10
    }
  }

  # ECS says of each task whether it is healthy; without this Cloud Map answers with those that are not as well.
  health_check_custom_config {
    failure_threshold = 1
  }

  tags = var.tags
}
