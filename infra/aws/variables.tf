variable "name" {
  type        = string
  default     = "steward"
  description = "Begins every name."
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  type        = list(string)
  description = "Private subnets of two zones or more, with a way out to the providers (NAT, a firewall or a proxy)."
}

variable "allowed_source_cidrs" {
  type        = list(string)
  description = "Whose calls the load balancer takes. The open internet is no answer."

  validation {
    condition     = length(var.allowed_source_cidrs) > 0 && alltrue([for each in var.allowed_source_cidrs : tonumber(split("/", each)[1]) >= 8])
    error_message = "Name ranges of your own, none wider than /8."
  }
}

variable "certificate_arn" {
  type        = string
  description = "The certificate of the name by which applications call, in ACM."
}

variable "image" {
  type        = string
  description = "The image in a registry of yours, by digest: .../steward@sha256:... It holds RDS's authorities (README)."

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by digest."
  }
}

variable "architecture" {
  type    = string
  default = "ARM64"

  validation {
    condition     = contains(["ARM64", "X86_64"], var.architecture)
    error_message = "ARM64 or X86_64."
  }
}

variable "encryption_key_secret_arn" {
  type        = string
  description = "The secret of Secrets Manager that holds ENCRYPTION_KEY, 64 hex digits and nothing else."
}

variable "postgres_password_secret_arn" {
  type        = string
  description = "The secret that holds the password of the role that serves, as plain text."
}

variable "postgres_owner_password_secret_arn" {
  type        = string
  description = "The secret that holds the password of the role that owns the tables; only the migration reads it."
}

variable "secrets_kms_key_arn" {
  type        = string
  description = "The key that seals these secrets."
}

variable "after_response" {
  type        = string
  default     = "sqs"
  description = "sqs: each call is in a queue before its last octet, whatever becomes of the task. spool: on a volume that ends with its task (README)."

  validation {
    condition     = contains(["sqs", "spool"], var.after_response)
    error_message = "sqs or spool."
  }
}

variable "body_prefix" {
  type    = string
  default = "llm"
}

variable "https_proxy" {
  type        = string
  default     = ""
  description = "An egress proxy with the list of `steward egress hosts`. Empty: straight out on 443."
}

variable "egress_cidr" {
  type        = string
  default     = "0.0.0.0/0"
  description = "Where tasks may connect to on 443. A security group knows no names; with a proxy, the range of it and of the endpoints."
}

variable "egress_proxy_port" {
  type    = number
  default = 3128
}

variable "tasks" {
  type        = object({ least = number, most = number })
  default     = { least = 2, most = 10 }
  description = "How many relay, by load."
}

variable "settlers" {
  type        = number
  default     = 1
  description = "How many settle from the queue."
}

variable "cpu" {
  type    = number
  default = 1024
}

variable "memory" {
  type    = number
  default = 2048
}

variable "spool_gib" {
  type        = number
  default     = 20
  description = "Of the volume with after_response = spool; more than SPOOL_MAX_BYTES."
}

variable "database_class" {
  type    = string
  default = "db.m7g.large"
}

variable "database_gib" {
  type    = number
  default = 100
}

variable "log_retention_days" {
  type    = number
  default = 365
}

variable "alarm_topic_arn" {
  type    = string
  default = ""
}

variable "operator_role_arn" {
  type        = string
  default     = ""
  description = "Who may look into the queues and redrive (steward queue). Empty: nobody."
}

variable "administrator_security_group_ids" {
  type        = list(string)
  default     = []
  description = "Groups of machines inside from which roles.sql is run. Empty: nobody but the tasks comes to the database."
}
