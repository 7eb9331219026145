resource "aws_cloudwatch_log_group" "service" {
  for_each = toset(["edge", "core"])

  name              = "/${var.name}/${each.value}"
  retention_in_days = var.log_retention_days
  kms_key_id        = module.journal.key_arn
  tags              = var.tags
}
