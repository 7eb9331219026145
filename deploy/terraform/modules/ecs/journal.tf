# The audit journal outlives tasks, services and clusters.
module "journal" {
  source = "../journal"

  name                     = var.name
  vpc_id                   = var.vpc_id
  subnet_ids               = var.task_subnet_ids
  client_security_group_id = aws_security_group.core.id
  client                   = "The cores"
  key_description          = "The journal and the logs of ${var.name}"
  tags                     = var.tags
}
