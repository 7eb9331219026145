output "function_url" {
  description = "The function's own URL. With /mcp behind it, it is what `public_url` must be where no domain of yours stands in front."
  value       = aws_lambda_function_url.this.function_url
}

output "function_names" {
  description = "The functions' names, for deployments: `calls`, and `rounds`, which closes what has ended."
  value       = { for key, function in aws_lambda_function.this : key => function.function_name }
}

output "base_role_arn" {
  description = "The base role: the principal that the target roles' trust policies must name."
  value       = aws_iam_role.this.arn
}

output "security_group_id" {
  description = "The functions' security group, for what else they are to be let in at."
  value       = aws_security_group.function.id
}

output "journal" {
  description = "The file system with the audit journal, and the access point to it."
  value       = { file_system_id = module.journal.file_system_id, access_point_arn = module.journal.access_point_arn }
}
