variable "project" {
  type = string
}

variable "region" {
  type    = string
  default = "europe-west3"
}

variable "name" {
  type        = string
  default     = "steward"
  description = "Begins every name."
}

variable "network" {
  type        = string
  description = "The VPC, as projects/P/global/networks/N, with private services access for Cloud SQL (README)."
}

variable "subnetwork" {
  type        = string
  description = "Where Cloud Run's instances take their addresses, with a NAT for the providers."
}

variable "image" {
  type        = string
  description = "The image in Artifact Registry, by digest."

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by digest."
  }
}

variable "callers" {
  type        = list(string)
  description = "Who may call, as members: serviceAccount:app@project.iam.gserviceaccount.com."

  validation {
    condition     = !contains(var.callers, "allUsers") && !contains(var.callers, "allAuthenticatedUsers")
    error_message = "Name who calls; everybody is no answer."
  }
}

variable "encryption_key_secret" {
  type        = string
  description = "The secret of Secret Manager that holds ENCRYPTION_KEY, by its name."
}

variable "postgres_password_secret" {
  type        = string
  description = "The secret that holds the password of the role that serves, by its name."
}

variable "postgres_owner_password_secret" {
  type        = string
  description = "The secret that holds the password of the role that owns the tables, by its name."
}

variable "kms_key" {
  type        = string
  default     = null
  description = "A key of Cloud KMS for bucket, topics and database, as projects/P/locations/L/keyRings/R/cryptoKeys/K. Without: Google's own."
}

variable "after_response" {
  type        = string
  default     = "inline"
  description = "inline: settled before the last octet. pubsub: each call is in a topic before its last octet."

  validation {
    condition     = contains(["inline", "pubsub"], var.after_response)
    error_message = "inline or pubsub."
  }
}

variable "body_prefix" {
  type    = string
  default = "llm"
}

variable "https_proxy" {
  type    = string
  default = ""
}

variable "instances" {
  type        = object({ least = number, most = number })
  default     = { least = 1, most = 20 }
  description = "Each holds at most POSTGRES_MAX_CONNS connections."
}

variable "concurrency" {
  type        = number
  default     = 80
  description = "Calls an instance has at a time."
}

variable "schedule" {
  type    = string
  default = "*/5 * * * *"
}

variable "database_tier" {
  type    = string
  default = "db-custom-2-7680"
}

variable "notification_channels" {
  type        = list(string)
  default     = []
  description = "Who hears of alarms: channels of Cloud Monitoring, as projects/P/notificationChannels/N."

  validation {
    condition     = alltrue([for each in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", each))])
    error_message = "Name each channel as projects/P/notificationChannels/N."
  }
}

variable "alarm_5xx" {
  type        = number
  default     = 10
  description = "More answers of 5xx in five minutes are an alarm. Cloud Run cannot tell the relay's own from providers': raise it with the traffic."
}

variable "with_function" {
  type        = bool
  default     = false
  description = "The relay as a function (2nd gen) too, for who deploys by source."
}

variable "function_source" {
  type        = object({ bucket = string, object = string })
  default     = null
  description = "The archive with the sources, needed with with_function."
}

variable "function_connector" {
  type        = string
  default     = null
  description = "The Serverless VPC Access connector into the network, needed with with_function: projects/P/locations/L/connectors/C."
}
