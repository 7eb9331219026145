variable "region" {
  description = "The AWS Region."
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

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "package" {
  description = "The zip that holds the binary as `bootstrap`."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets with a way to STS, EC2 and the provider."
  type        = list(string)
}

variable "alarm_topic_arns" {
  description = "SNS topics for alarms."
  type        = list(string)
  default     = []
}

variable "environment" {
  description = "Further variables of the functions; null takes one away."
  type        = map(string)
  default     = {}
}

variable "layer_arns" {
  description = "Layers with files that the functions read, under /opt."
  type        = list(string)
  default     = []
}

variable "reaches" {
  description = "What else the functions reach in the VPC, by its security group and port."
  type        = map(object({ security_group_id = string, port = number }))
  default     = {}
}

variable "rounds" {
  description = "Whether a second function closes what has ended: not where the core is elsewhere."
  type        = bool
  default     = true
}
