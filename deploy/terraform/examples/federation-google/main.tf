# The AWS side of a core on Google Cloud: the base role, and whom it believes.

terraform {
  required_version = ">= 1.10.0, < 2.0.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.66.0, < 7.0.0"
    }
  }

  # `terraform init -backend-config=…` says which bucket.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

variable "target_role_arns" {
  description = "The target roles."
  type        = list(string)
}

variable "google" {
  description = "Who the core is there."
  type        = object({ service_account_id = string, audience = string })
}

module "federation" {
  source = "../../modules/federation"

  target_role_arns = var.target_role_arns
  google           = var.google
}

output "base_role_arn" {
  description = "`[aws.federation] role_arn`."
  value       = module.federation.base_role_arn
}
