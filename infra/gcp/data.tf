# Bodies. Google's storage speaks TLS alone to its own libraries.

resource "google_storage_bucket" "bodies" {
  name                        = "${var.project}-${var.name}-bodies"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true
  }

  lifecycle_rule { # longer than both subscriptions keep a message
    condition {
      age            = 30
      matches_prefix = ["${var.body_prefix}/queued/"]
    }
    action {
      type = "Delete"
    }
  }

  dynamic "encryption" {
    for_each = compact([var.kms_key])
    content {
      default_kms_key_name = encryption.value
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}

# The topic: sealed messages of ended calls, pushed to what settles with a token of the account `tasks`.

resource "google_pubsub_topic" "calls" {
  depends_on                 = [google_project_service.this]
  name                       = "${var.name}-calls"
  kms_key_name               = var.kms_key
  message_retention_duration = "604800s"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

resource "google_pubsub_topic" "dead" {
  depends_on                 = [google_project_service.this]
  name                       = "${var.name}-dead-calls"
  kms_key_name               = var.kms_key
  message_retention_duration = "1209600s"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

resource "google_pubsub_subscription" "calls" {
  name                       = "${var.name}-calls"
  topic                      = google_pubsub_topic.calls.id
  ack_deadline_seconds       = 600
  message_retention_duration = "604800s"

  push_config {
    push_endpoint = "${google_cloud_run_v2_service.this["settle"].uri}/tasks/settle"

    oidc_token {
      service_account_email = google_service_account.this["tasks"].email
      audience              = local.audience
    }
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead.id
    max_delivery_attempts = 100 # with the pauses below more than half a day: an outage sets nothing aside
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_subscription" "dead" {
  name                       = "${var.name}-dead-calls"
  topic                      = google_pubsub_topic.dead.id
  message_retention_duration = "1209600s"

  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_topic_iam_member" "relay_sends" {
  topic  = google_pubsub_topic.calls.id
  role   = "roles/pubsub.publisher"
  member = google_service_account.this["relay"].member
}

# Pub/Sub itself moves what failed too often.

locals {
  pubsub = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_topic_iam_member" "dead_letters" {
  topic  = google_pubsub_topic.dead.id
  role   = "roles/pubsub.publisher"
  member = local.pubsub
}

resource "google_pubsub_subscription_iam_member" "dead_letters" {
  subscription = google_pubsub_subscription.calls.id
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub
}

resource "google_service_account_iam_member" "pubsub_signs" {
  service_account_id = google_service_account.this["tasks"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub
}

resource "google_cloud_scheduler_job" "scheduled" {
  name             = "${var.name}-scheduled"
  schedule         = var.schedule
  attempt_deadline = "320s"

  retry_config {
    retry_count = 0 # the next one comes anyway
  }

  http_target {
    http_method = "POST"
    uri         = "${google_cloud_run_v2_service.this["settle"].uri}/tasks/scheduled"

    oidc_token {
      service_account_email = google_service_account.this["tasks"].email
      audience              = local.audience
    }
  }
}

# The ledger, at a private address. roles.sql makes the two roles that are used: no password is in Terraform's state.

resource "google_sql_database_instance" "this" {
  depends_on          = [google_project_service.this]
  name                = var.name
  region              = var.region
  database_version    = "POSTGRES_18"
  encryption_key_name = var.kms_key
  deletion_protection = true

  settings {
    tier                        = var.database_tier
    edition                     = "ENTERPRISE"
    availability_type           = "REGIONAL"
    disk_type                   = "PD_SSD"
    disk_autoresize             = true
    deletion_protection_enabled = true

    ip_configuration {
      ipv4_enabled    = false
      private_network = var.network
      ssl_mode        = "ENCRYPTED_ONLY"
    }

    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
    }

    # Connections are told, statements never: they would quote rows.
    database_flags {
      name  = "log_checkpoints"
      value = "on"
    }
    database_flags {
      name  = "log_connections"
      value = "on"
    }
    database_flags {
      name  = "log_disconnections"
      value = "on"
    }
    database_flags {
      name  = "log_hostname"
      value = "on"
    }
    database_flags {
      name  = "log_lock_waits"
      value = "on"
    }
    database_flags {
      name  = "log_min_duration_statement"
      value = "-1"
    }
    database_flags {
      name  = "log_min_error_statement"
      value = "panic"
    }
    database_flags {
      name  = "log_statement"
      value = "none"
    }
  }
}

resource "google_sql_database" "this" {
  name     = "steward"
  instance = google_sql_database_instance.this.name
}

# The database's authority: no secret, kept where Cloud Run can mount it from.

resource "google_secret_manager_secret" "database_ca" {
  depends_on = [google_project_service.this]
  secret_id  = "${var.name}-database-ca"

  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "database_ca" {
  secret      = google_secret_manager_secret.database_ca.id
  secret_data = google_sql_database_instance.this.server_ca_cert[0].cert
}
