variable "name" {
  description = "The base role's name."
  type        = string
  default     = "whitelistmcp-core"
}

variable "target_role_arns" {
  description = "The target roles that the base role may assume."
  type        = list(string)

  validation {
    condition     = length(var.target_role_arns) > 0
    error_message = "Name at least one."
  }
}

variable "google" {
  description = "On Google Cloud: the service account's unique id (21 digits, not its e-mail address), and the audience that the core asks for (`[aws.federation] audience`)."
  type        = object({ service_account_id = string, audience = string })
  default     = null

  validation {
    condition     = var.google == null || can(regex("^[0-9]{21}$", var.google.service_account_id))
    error_message = "The unique id is 21 digits: gcloud iam service-accounts describe ACCOUNT --format='value(uniqueId)'."
  }
}

variable "azure" {
  description = "On Azure: the tenant, the managed identity's object (principal) id, and the Application ID URI that the core asks a token for (`[aws.federation] audience`)."
  type        = object({ tenant_id = string, principal_id = string, audience = string })
  default     = null
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
