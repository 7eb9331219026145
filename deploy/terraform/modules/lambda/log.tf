resource "aws_cloudwatch_log_group" "this" {
  name              = "/${var.name}/function"
  retention_in_days = var.log_retention_days
  kms_key_id        = module.journal.key_arn
  tags              = var.tags
}
