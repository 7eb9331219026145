output "file_system_id" {
  description = "The file system with the journal."
  value       = aws_efs_file_system.journal.id
}

output "file_system_arn" {
  description = "The same, by its ARN."
  value       = aws_efs_file_system.journal.arn
}

output "access_point_id" {
  description = "The access point, which is the only way to the journal."
  value       = aws_efs_access_point.journal.id
}

output "access_point_arn" {
  description = "The same, by its ARN."
  value       = aws_efs_access_point.journal.arn
}

output "key_arn" {
  description = "The key of the journal and the logs."
  value       = aws_kms_key.this.arn
}
