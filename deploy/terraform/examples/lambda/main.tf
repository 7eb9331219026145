# The function with a URL of its own. Its values are in terraform.tfvars; terraform.tfvars.example has every one that is needed.

module "whitelistmcp" {
  source = "../../modules/lambda"

  package          = var.package
  public_url       = var.public_url
  issuer           = var.issuer
  accounts         = var.accounts
  groups           = var.groups
  vpc_id           = var.vpc_id
  subnet_ids       = var.subnet_ids
  alarm_topic_arns = var.alarm_topic_arns
  environment      = var.environment
  layer_arns       = var.layer_arns
  reaches          = var.reaches
  rounds           = var.rounds
}

output "function_url" {
  description = "With /mcp behind it: `public_url`."
  value       = module.whitelistmcp.function_url
}

output "base_role_arn" {
  description = "The principal that the target roles must trust."
  value       = module.whitelistmcp.base_role_arn
}
