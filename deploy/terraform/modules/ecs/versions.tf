terraform {
  required_version = ">= 1.9.0, < 2.0.0"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # `invoked_via_function_url` and `region` of data.aws_region are of this major version.
      version = ">= 6.28.0, < 7.0.0"
    }
  }
}
