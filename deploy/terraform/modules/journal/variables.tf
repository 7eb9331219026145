variable "name" {
  description = "What every resource's name begins with. The key is for log groups below /NAME/ as well."
  type        = string
}

variable "vpc_id" {
  description = "The VPC of the file system."
  type        = string
}

variable "subnet_ids" {
  description = "The subnets that it is reached in, one in each zone."
  type        = list(string)
}

variable "client_security_group_id" {
  description = "The security group of what writes the journal: nothing else reaches it."
  type        = string
}

variable "client" {
  description = "What that is, for descriptions: such as `The cores`."
  type        = string
}

variable "key_description" {
  description = "What the key is for."
  type        = string
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
