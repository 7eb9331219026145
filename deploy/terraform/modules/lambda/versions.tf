terraform {
  required_version = ">= 1.10.0, < 2.0.0"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The names of arguments are checked against this version (scripts/deploy_checks/provider.json).
      version = ">= 6.66.0, < 7.0.0"
    }
  }
}
