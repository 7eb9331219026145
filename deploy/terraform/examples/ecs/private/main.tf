# A service that is reached from the VPC and what is joined to it alone, and that reaches AWS by VPC endpoints. What tasks still reach
# outside is the OpenID Connect provider: name its networks, or nothing if it is in the VPC as well.

module "whitelistmcp" {
  source = "../../../modules/ecs"

  image       = var.image
  files_image = var.files_image
  public_url  = var.public_url
  issuer      = var.issuer
  accounts    = var.accounts
  groups      = var.groups
  environment = var.environment

  edge_environment = var.edge_environment
  core_environment = var.core_environment
  extra_files      = var.extra_files

  vpc_id                   = var.vpc_id
  load_balancer_subnet_ids = var.load_balancer_subnet_ids
  task_subnet_ids          = var.task_subnet_ids
  internal                 = true
  vpc_endpoints            = true
  route_table_ids          = var.route_table_ids
  client_networks          = var.client_networks
  outside_networks         = var.issuer_networks
  certificate_arn          = var.certificate_arn
  access_logs_bucket       = var.access_logs_bucket
  edge_secret_arn          = var.edge_secret_arn
  core_secret_arn          = var.core_secret_arn
  redis                    = var.redis
  deletion_protection      = var.deletion_protection
}

output "load_balancer" {
  description = "Where the host of `public_url` is to point, in a private zone."
  value       = module.whitelistmcp.load_balancer
}

output "core_security_group_id" {
  description = "The security group of a task that is run by hand."
  value       = module.whitelistmcp.core_security_group_id
}

output "base_role_arn" {
  description = "The principal that the target roles must trust."
  value       = module.whitelistmcp.base_role_arn
}
