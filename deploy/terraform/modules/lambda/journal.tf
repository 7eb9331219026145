module "journal" {
  source = "../journal"

  name                     = var.name
  vpc_id                   = var.vpc_id
  subnet_ids               = var.subnet_ids
  client_security_group_id = aws_security_group.function.id
  client                   = "The functions"
  key_description          = "The journal, the log and the variables of ${var.name}"
  tags                     = var.tags
}
