resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = var.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

# A task that starts before it may read its secret, or reach what it needs, fails: so both services wait for all of that, and `apply` for
# them. Without `force_new_deployment` another capacity provider strategy would replace the service in place of its tasks.
resource "aws_ecs_service" "edge" {
  name                               = "edge"
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.edge.arn
  desired_count                      = var.edge_count.desired
  deployment_maximum_percent         = 200
  deployment_minimum_healthy_percent = 100
  availability_zone_rebalancing      = "ENABLED"
  health_check_grace_period_seconds  = 60
  wait_for_steady_state              = true
  force_new_deployment               = true
  enable_execute_command             = false
  propagate_tags                     = "SERVICE"
  tags                               = var.tags

  # The first `on_demand` tasks are never taken away; of the others three in four are Spot.
  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    base              = var.edge_count.on_demand
    weight            = 1
  }

  capacity_provider_strategy {
    capacity_provider = "FARGATE_SPOT"
    weight            = 3
  }

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.task_subnet_ids
    security_groups  = [aws_security_group.edge.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.edge.arn
    container_name   = "edge"
    container_port   = local.edge_port
  }

  # Autoscaling's, from then on.
  lifecycle {
    ignore_changes = [desired_count]
  }

  depends_on = [
    aws_ecs_cluster_capacity_providers.this,
    aws_lb_listener.https,
    aws_vpc_security_group_egress_rule.edge_to_core,
    aws_vpc_security_group_egress_rule.edge_to_outside,
    aws_vpc_security_group_egress_rule.load_balancer_to_edge,
    aws_vpc_security_group_ingress_rule.core_from_edge,
    aws_vpc_security_group_ingress_rule.edge_from_load_balancer,
    aws_iam_role_policy.execution,
    aws_iam_role_policy_attachment.execution,
    aws_vpc_endpoint.aws,
    aws_vpc_endpoint.s3,
    aws_vpc_security_group_egress_rule.tasks_to_endpoints,
    aws_vpc_security_group_egress_rule.tasks_to_s3,
    aws_vpc_security_group_egress_rule.to_redis,
    aws_vpc_security_group_ingress_rule.endpoints_from_tasks,
    aws_vpc_security_group_ingress_rule.redis,
  ]
}

# On FARGATE alone: a core that ends leaves changes for others to account for, and does so no more often than it must.
resource "aws_ecs_service" "core" {
  name                               = "core"
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.core.arn
  desired_count                      = var.core_count
  deployment_maximum_percent         = 200
  deployment_minimum_healthy_percent = 100
  availability_zone_rebalancing      = "ENABLED"
  wait_for_steady_state              = true
  force_new_deployment               = true
  enable_execute_command             = false
  propagate_tags                     = "SERVICE"
  tags                               = var.tags

  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    weight            = 1
  }

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.task_subnet_ids
    security_groups  = [aws_security_group.core.id]
    assign_public_ip = false
  }

  service_registries {
    registry_arn = aws_service_discovery_service.core.arn
  }

  depends_on = [
    module.journal,
    aws_ecs_cluster_capacity_providers.this,
    aws_vpc_security_group_egress_rule.core_to_outside,
    aws_vpc_security_group_egress_rule.edge_to_core,
    aws_vpc_security_group_ingress_rule.core_from_edge,
    aws_vpc_security_group_ingress_rule.core_from_services,
    aws_iam_role_policy.execution,
    aws_iam_role_policy_attachment.execution,
    aws_vpc_endpoint.aws,
    aws_vpc_endpoint.s3,
    aws_vpc_security_group_egress_rule.tasks_to_endpoints,
    aws_vpc_security_group_egress_rule.tasks_to_s3,
    aws_vpc_security_group_egress_rule.to_redis,
    aws_vpc_security_group_ingress_rule.endpoints_from_tasks,
    aws_vpc_security_group_ingress_rule.redis,
  ]
}

# === More edges where there are more requests ===

resource "aws_appautoscaling_target" "edge" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.edge.name}"
  min_capacity       = var.edge_count.desired
  max_capacity       = var.edge_count.most
  tags               = var.tags
}

resource "aws_appautoscaling_policy" "requests" {
  name               = "${var.name}-requests"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.edge.service_namespace
  scalable_dimension = aws_appautoscaling_target.edge.scalable_dimension
  resource_id        = aws_appautoscaling_target.edge.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.requests_per_edge
    scale_in_cooldown  = 300
    scale_out_cooldown = 30

    predefined_metric_specification {
      predefined_metric_type = "ALBRequestCountPerTarget"
      resource_label         = "${aws_lb.edge.arn_suffix}/${aws_lb_target_group.edge.arn_suffix}"
    }
  }
}

# Handshakes and signatures are CPU, and do not show in the number of requests.
resource "aws_appautoscaling_policy" "cpu" {
  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.edge.service_namespace
  scalable_dimension = aws_appautoscaling_target.edge.scalable_dimension
  resource_id        = aws_appautoscaling_target.edge.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_in_cooldown  = 300
    scale_out_cooldown = 30

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
