locals {
  settings = merge(
    {
      POSTGRES_HOST        = google_sql_database_instance.this.private_ip_address
      POSTGRES_DB          = google_sql_database.this.name
      POSTGRES_SSLMODE     = "verify-ca" # the certificate names no host
      POSTGRES_SSLROOTCERT = "/etc/steward/cloudsql.pem"
      BODY_STORE_URL       = "gs://${google_storage_bucket.bodies.name}/${var.body_prefix}"
      BODY_STORE_ALLOW     = "gs://${google_storage_bucket.bodies.name}"
      AFTER_RESPONSE       = var.after_response
    },
    local.queued ? { PUBSUB_TOPIC = google_pubsub_topic.calls.id } : {},
    var.https_proxy == "" ? {} : { HTTPS_PROXY = var.https_proxy },
  )

  # What applications call, and there `callers`; what Pub/Sub and Scheduler call, with signed tokens of the account `tasks`.
  doors = {
    relay = {
      timeout     = "3600s"
      concurrency = var.concurrency
      instances   = var.instances
      audiences   = null
      settings    = {}
    }
    settle = {
      timeout     = "600s"
      concurrency = 10
      instances   = { least = 0, most = 5 }
      audiences   = [local.audience]
      settings    = { TASKS_SERVICE_ACCOUNT = google_service_account.this["tasks"].email, TASKS_AUDIENCE = local.audience }
    }
  }
}

# Their doors open to the project's own networks alone.

resource "google_cloud_run_v2_service" "this" {
  for_each            = local.doors
  name                = "${var.name}-${each.key}"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_ONLY"
  custom_audiences    = each.value.audiences
  deletion_protection = true

  template {
    service_account                  = google_service_account.this[each.key].email
    timeout                          = each.value.timeout
    max_instance_request_concurrency = each.value.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    scaling {
      min_instance_count = each.value.instances.least
      max_instance_count = each.value.instances.most
    }

    vpc_access {
      egress = "ALL_TRAFFIC"
      network_interfaces {
        network    = var.network
        subnetwork = var.subnetwork
      }
    }

    volumes {
      name = "authorities"
      secret {
        secret = google_secret_manager_secret.database_ca.secret_id
        items {
          version = "latest"
          path    = "cloudsql.pem"
        }
      }
    }

    containers {
      image = var.image
      args  = ["serve"]

      ports {
        container_port = 7680
      }

      resources {
        limits   = { cpu = "1", memory = "1Gi" }
        cpu_idle = true # the processor is taken away between calls: AFTER_RESPONSE_WAIT is on there by itself
      }

      volume_mounts {
        name       = "authorities"
        mount_path = "/etc/steward"
      }

      startup_probe {
        http_get {
          path = "/health"
        }
        period_seconds    = 2
        failure_threshold = 30
      }

      dynamic "env" {
        for_each = merge(local.settings, each.value.settings, { POSTGRES_USER = "steward_serve" })
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = { ENCRYPTION_KEY = var.encryption_key_secret, POSTGRES_PASSWORD = var.postgres_password_secret }
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
        }
      }
    }
  }
}

# The role that owns the tables is used here and nowhere else.

resource "google_cloud_run_v2_job" "migrate" {
  name                = "${var.name}-migrate"
  location            = var.region
  deletion_protection = false

  template {
    template {
      service_account = google_service_account.this["migrate"].email
      timeout         = "3600s"
      max_retries     = 1

      vpc_access {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          network    = var.network
          subnetwork = var.subnetwork
        }
      }

      volumes {
        name = "authorities"
        secret {
          secret = google_secret_manager_secret.database_ca.secret_id
          items {
            version = "latest"
            path    = "cloudsql.pem"
          }
        }
      }

      containers {
        image = var.image
        args  = ["migrate"]

        volume_mounts {
          name       = "authorities"
          mount_path = "/etc/steward"
        }

        dynamic "env" {
          for_each = merge(local.settings, { POSTGRES_USER = "steward_owner" })
          content {
            name  = env.key
            value = env.value
          }
        }

        dynamic "env" {
          for_each = { ENCRYPTION_KEY = var.encryption_key_secret, POSTGRES_PASSWORD = var.postgres_owner_password_secret }
          content {
            name = env.key
            value_source {
              secret_key_ref {
                secret  = env.value
                version = "latest"
              }
            }
          }
        }
      }
    }
  }
}
