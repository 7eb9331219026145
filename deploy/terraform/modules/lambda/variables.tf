variable "name" {
  description = "What every resource's name begins with: another one than that of the ECS module in the same account, as roles, the key's alias and the file system carry it."
  type        = string
  default     = "whitelistmcp-lambda"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,40}$", var.name))
    error_message = "2 to 41 of a-z, 0-9 and -, beginning with a letter."
  }
}

variable "package" {
  description = "The zip that holds the binary as `bootstrap`."
  type        = string
}

variable "architecture" {
  description = "arm64 or x86_64, as the binary in the package was built."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "arm64 or x86_64."
  }
}

variable "memory" {
  description = "MiB of memory. CPU comes with it: signatures and TLS want about 1,024."
  type        = number
  default     = 1024
}

variable "concurrency" {
  description = "How many calls run at once at most; what is above is answered 429 by Lambda. It bounds what a flood costs. The rounds of closing have one execution more, of their own."
  type        = number
  default     = 10
}

variable "vpc_id" {
  description = "The VPC of the journal's file system."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets, one in each zone, with a way to STS, EC2 and your OpenID Connect provider: a NAT gateway, or VPC endpoints."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "Give at least two, in different zones."
  }
}

variable "reaches" {
  description = "What else the functions reach in the VPC: a Redis, a core elsewhere. They are let in at its security group, and let out to it, on that port."
  type        = map(object({ security_group_id = string, port = number }))
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.reaches) : can(regex("^[a-zA-Z0-9 ._-]+$", name))])
    error_message = "A name is a rule's description, which EC2 takes of letters, digits, spaces, dots, - and _ alone."
  }
}

variable "rounds" {
  description = "Whether a second function closes what has ended, each minute. Not where the core is elsewhere: that one does."
  type        = bool
  default     = true
}

variable "layer_arns" {
  description = "Layers with files that the function reads, under /opt: policies, keys of API keys, the edge's certificate where the core is elsewhere."
  type        = list(string)
  default     = []
}

variable "public_url" {
  description = "The MCP endpoint as clients see it. With the function's own URL it is known after the first apply (output `function_url`)."
  type        = string

  validation {
    condition     = can(regex("^https://[^/?#]+/[^?#]+$", var.public_url))
    error_message = "An https URL with a path such as /mcp, without query or fragment."
  }
}

variable "issuer" {
  description = "Your OpenID Connect provider: its issuer exactly as tokens carry it, the audience they must carry (`public_url` unless given), and the claim with a person's groups."
  type        = object({ url = string, audience = optional(string), groups_claim = optional(string, "groups") })
}

variable "accounts" {
  description = "The AWS accounts whose security groups are served: the role in each, the external id that it demands, and the Regions."
  type        = list(object({ id = string, role_arn = string, external_id = optional(string), regions = list(string) }))

  validation {
    condition     = length(var.accounts) > 0
    error_message = "Name at least one account."
  }
}

variable "groups" {
  description = "The security groups that people ask for by name."
  type        = list(object({ name = string, id = string, account = optional(string), region = optional(string) }))
  default     = []
}

variable "environment" {
  description = "Further variables of the functions. null takes one away that the module sets, such as WHITELISTMCP_AUDIT__DIRECTORY where the core is elsewhere."
  type        = map(string)
  default     = {}
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps the function's log. The audit journal is not in it."
  type        = number
  default     = 365
}

variable "alarm_topic_arns" {
  description = "SNS topics that are told when rounds fail or are not begun, no round runs, or calls are turned away."
  type        = list(string)
  default     = []
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
