variable "region" {
  description = "The AWS Region."
  type        = string
}

variable "image" {
  description = "The image in your registry, by digest."
  type        = string
}

variable "files_image" {
  description = "The small image that writes certificates, from your own registry, by digest."
  type        = string
}

variable "public_url" {
  description = "The MCP endpoint as clients see it."
  type        = string
}

variable "issuer" {
  description = "Your OpenID Connect provider."
  type        = object({ url = string, audience = optional(string), groups_claim = optional(string, "groups") })
}

variable "accounts" {
  description = "The AWS accounts whose security groups are served."
  type        = list(object({ id = string, role_arn = string, external_id = optional(string), regions = list(string) }))
}

variable "groups" {
  description = "The security groups that people ask for by name."
  type        = list(object({ name = string, id = string, account = optional(string), region = optional(string) }))
  default     = []
}

variable "environment" {
  description = "Further variables of both services."
  type        = map(string)
  default     = {}
}

variable "redis" {
  description = "The Redis that replicas share."
  type        = object({ url = string, password_secret_arn = string, security_group_id = string, port = number })
  default     = null
}

variable "edge_environment" {
  description = "Further variables of the edges alone."
  type        = map(string)
  default     = {}
}

variable "core_environment" {
  description = "Further variables of the cores alone."
  type        = map(string)
  default     = {}
}

variable "extra_files" {
  description = "Further files of each service, by name: the secret that each is in, and the key in it where the secret is JSON."
  type = object({
    edge = optional(map(object({ secret_arn = string, json_key = optional(string) })), {})
    core = optional(map(object({ secret_arn = string, json_key = optional(string) })), {})
  })
  default = {}
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "load_balancer_subnet_ids" {
  description = "The load balancer's subnets, which hold nothing else."
  type        = list(string)
}

variable "task_subnet_ids" {
  description = "The tasks' private subnets."
  type        = list(string)
}

variable "certificate_arn" {
  description = "The load balancer's certificate in ACM."
  type        = string
}

variable "access_logs_bucket" {
  description = "The S3 bucket for the load balancer's access logs."
  type        = string
}

variable "edge_secret_arn" {
  description = "The edge's secret."
  type        = string
}

variable "core_secret_arn" {
  description = "The core's secret."
  type        = string
}

variable "deletion_protection" {
  description = "Whether the load balancer refuses to be deleted."
  type        = bool
  default     = true
}
