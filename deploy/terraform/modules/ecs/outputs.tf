output "load_balancer" {
  description = "The load balancer's DNS name and hosted zone: point the host of `public_url` to it, by an alias record."
  value       = { dns_name = aws_lb.edge.dns_name, zone_id = aws_lb.edge.zone_id }
}

output "core_name" {
  description = "The DNS name that the core's certificate must carry."
  value       = local.core_name
}

output "base_role_arn" {
  description = "The base role: the principal that the target roles' trust policies must name."
  value       = aws_iam_role.core.arn
}

output "cluster" {
  description = "The cluster's name, for deployments."
  value       = aws_ecs_cluster.this.name
}

output "services" {
  description = "The services' names, for deployments."
  value       = { edge = aws_ecs_service.edge.name, core = aws_ecs_service.core.name }
}

output "journal" {
  description = "The file system with the audit journal, and the access point to it."
  value       = { file_system_id = module.journal.file_system_id, access_point_arn = module.journal.access_point_arn }
}

output "edge_security_group_id" {
  description = "The edges' security group, for what else is to be reached by them."
  value       = aws_security_group.edge.id
}

output "core_security_group_id" {
  description = "The cores' security group, for what else is to reach them or to be reached by them."
  value       = aws_security_group.core.id
}

output "log_groups" {
  description = "The services' log groups."
  value       = { for service, group in aws_cloudwatch_log_group.service : service => group.name }
}
