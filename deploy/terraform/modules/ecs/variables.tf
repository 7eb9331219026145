# === What runs ===

variable "name" {
  description = "What every resource's name begins with. The cluster, the roles and the log groups carry it."
  type        = string
  default     = "whitelistmcp"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}$", var.name))
    error_message = "2 to 23 of a-z, 0-9 and -, beginning with a letter: a load balancer's name has room for no more."
  }
}

variable "image" {
  description = "The image in your registry, by digest, or by a tag that is never moved."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image)) || (can(regex(":[A-Za-z0-9_.-]+$", var.image)) && !endswith(var.image, ":latest"))
    error_message = "Name the image by digest (…@sha256:…) or by a tag other than latest: two tasks of one service must run the same program."
  }
}

variable "files_image" {
  description = "A small image with a shell, such as busybox, for the container that writes a task's certificates before the service starts. It reads every key, so it is named by digest, from your own registry."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.files_image))
    error_message = "Name it by digest (…@sha256:…): a tag that is moved would read every key."
  }
}

variable "architecture" {
  description = "X86_64 or ARM64, as the image was built."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "X86_64 or ARM64."
  }
}

variable "edge_size" {
  description = "CPU units and MiB of memory of one edge, in a combination that Fargate has. The smallest holds several times what an edge takes."
  type        = object({ cpu = number, memory = number })
  default     = { cpu = 256, memory = 512 }
}

variable "core_size" {
  description = "CPU units and MiB of memory of one core, in a combination that Fargate has. The smallest holds several times what a core takes."
  type        = object({ cpu = number, memory = number })
  default     = { cpu = 256, memory = 512 }
}

variable "edge_count" {
  description = "How many edges are wanted, and the fewest and most that autoscaling makes of them. `on_demand` of them are never Spot."
  type        = object({ desired = number, most = number, on_demand = number })
  default     = { desired = 3, most = 12, on_demand = 1 }

  validation {
    condition     = var.edge_count.on_demand >= 1 && var.edge_count.desired >= var.edge_count.on_demand && var.edge_count.most >= var.edge_count.desired
    error_message = "1 <= on_demand <= desired <= most: with no task on demand, a Region without Spot capacity has no edge."
  }
}

variable "core_count" {
  description = "How many cores run. They share one journal directory."
  type        = number
  default     = 2

  validation {
    condition     = var.core_count >= 1 && var.core_count <= 10
    error_message = "1 to 10: AWS's quotas are per account and Region, so more cores do not make changes faster."
  }
}

variable "requests_per_edge" {
  description = "How many requests a minute each edge is to have: autoscaling adds edges above it."
  type        = number
  default     = 1200
}

# === Where ===

variable "vpc_id" {
  description = "The VPC. It needs DNS support and DNS host names."
  type        = string
}

variable "load_balancer_subnet_ids" {
  description = "The load balancer's subnets, in at least two zones: public ones, or private ones with `internal`. Nothing else should stand in them: whatever does is believed about the address it speaks for."
  type        = list(string)

  validation {
    condition     = length(var.load_balancer_subnet_ids) >= 2
    error_message = "A load balancer needs subnets in at least two zones."
  }
}

variable "task_subnet_ids" {
  description = "The private subnets of the tasks and of the journal's file system, one in each zone."
  type        = list(string)

  validation {
    condition     = length(var.task_subnet_ids) >= 2
    error_message = "Give at least two, in different zones: a zone that is lost must not take the service along."
  }
}

variable "internal" {
  description = "Whether the load balancer is reached from the VPC and what is joined to it alone."
  type        = bool
  default     = false
}

variable "vpc_endpoints" {
  description = "Whether to make interface endpoints for EC2, STS, CloudWatch Logs, ECR and Secrets Manager, and a gateway endpoint for S3, so that tasks reach AWS without leaving its network."
  type        = bool
  default     = false
}

variable "route_table_ids" {
  description = "The route tables of the task subnets, for the S3 gateway endpoint. Only with `vpc_endpoints`."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.vpc_endpoints || length(var.route_table_ids) > 0
    error_message = "Name the route tables of the task subnets: without a route to the S3 gateway no image can be pulled."
  }
}

variable "client_networks" {
  description = "The networks that may reach the load balancer on 443."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "outside_networks" {
  description = "The networks that tasks may reach on 443 besides the VPC endpoints: your OpenID Connect provider's, and AWS's where there are no endpoints."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "service_security_group_ids" {
  description = "Security groups of internal services that call the core by gRPC. Each also needs an entry in `services`."
  type        = list(string)
  default     = []
}

variable "certificate_arn" {
  description = "The load balancer's certificate in ACM, for the host of `public_url`."
  type        = string
}

variable "access_logs_bucket" {
  description = "An S3 bucket that lets the load balancer write its access logs."
  type        = string
}

variable "web_acl_arn" {
  description = "A web ACL of AWS WAF for the load balancer. Let it count before it blocks: a tool call's body is JSON."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the load balancer refuses to be deleted. Take it away before you tear down."
  type        = bool
  default     = true
}

variable "namespace" {
  description = "The private DNS namespace that is made for the core. The core's certificate must carry core.NAMESPACE as a DNS name."
  type        = string
  default     = "whitelistmcp.internal"
}

# === Secrets: JSON in Secrets Manager ===

variable "edge_secret_arn" {
  description = "A secret with the keys certificate, key, ca (PEM) and sealing_key (64 hexadecimal digits). The certificate carries the URI of `edge_identity`; it is shown to the core and to the load balancer, so an extended key usage in it must hold clientAuth and serverAuth."
  type        = string
}

variable "core_secret_arn" {
  description = "A secret with the keys certificate, key, ca (PEM) and signing_key (PEM, of `whitelistmcp audit key`)."
  type        = string
}

variable "extra_files" {
  description = "Further files of each service, by name, at /etc/whitelistmcp/NAME: such as the keys that `[approvals]`, `[aws.cache]` and `[edge.login]` need. Each is a secret, or where it is JSON, one key of it."
  type = object({
    edge = optional(map(object({ secret_arn = string, json_key = optional(string) })), {})
    core = optional(map(object({ secret_arn = string, json_key = optional(string) })), {})
  })
  default = {}

  validation {
    condition     = alltrue([for name in concat(keys(var.extra_files.edge), keys(var.extra_files.core)) : can(regex("^[a-z0-9][a-z0-9._-]*$", name)) && !contains(["certs", "sealing.key", "journal.pem", "redis-password", "policy.cedar"], name)])
    error_message = "A name is of a-z, 0-9, dots, - and _, and none of certs, sealing.key, journal.pem, redis-password and policy.cedar, which are there."
  }
}

variable "secrets_kms_key_arn" {
  description = "The key that these secrets are encrypted with, where it is not the account's own for Secrets Manager."
  type        = string
  default     = null
}

variable "redis" {
  description = "The Redis that replicas share: a URL rediss://HOST:PORT/0, the ARN of a secret that is its password, its security group, which edges and cores are let in at, and its port."
  type        = object({ url = string, password_secret_arn = string, security_group_id = string, port = number })
  default     = null

  validation {
    condition     = var.redis == null || startswith(try(var.redis.url, ""), "rediss://")
    error_message = "The URL must begin with rediss://: the product speaks plain Redis to loopback only."
  }
}

# === What the service is told ===

variable "public_url" {
  description = "The MCP endpoint as clients see it, such as https://whitelist.example.com/mcp."
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

variable "edge_identity" {
  description = "The URI in the edge's certificate by which the core knows it."
  type        = string
  default     = "spiffe://example.org/edge"
}

variable "services" {
  description = "Internal services that call the core by gRPC: the URI or DNS name in each one's certificate, and its scopes."
  type        = list(object({ san = string, scopes = list(string) }))
  default     = []
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
  description = "The security groups that people ask for by name. Account and Region are those of the first account unless given."
  type        = list(object({ name = string, id = string, account = optional(string), region = optional(string) }))
  default     = []
}

variable "policy" {
  description = "Cedar policies in place of the shipped ones, as text."
  type        = string
  default     = null
}

variable "environment" {
  description = "Further variables of both services, such as OTEL_EXPORTER_OTLP_ENDPOINT."
  type        = map(string)
  default     = {}
}

variable "edge_environment" {
  description = "Further variables of the edges alone: a core refuses settings below `[edge]`."
  type        = map(string)
  default     = {}
}

variable "core_environment" {
  description = "Further variables of the cores alone, such as WHITELISTMCP_LIMITS__CHANGES_PER_HOUR."
  type        = map(string)
  default     = {}
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps the services' logs. The audit journal is not in them."
  type        = number
  default     = 365
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
