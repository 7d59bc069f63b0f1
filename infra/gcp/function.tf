# The relay as a function of the 2nd generation, for who deploys by source and not by image. Prefer Cloud Run: it is the same
# below, with larger answers.

resource "google_cloudfunctions2_function" "relay" {
  count    = var.with_function ? 1 : 0
  name     = "${var.name}-relay-function"
  location = var.region

  depends_on = [google_project_service.this]

  lifecycle {
    precondition {
      condition     = var.function_source != null && var.function_connector != null
      error_message = "with_function needs function_source and function_connector."
    }
  }

  build_config {
    runtime     = "python313"
    entry_point = "steward" # of main.py: from handlers.cloud_function import steward

    source {
      storage_source {
        bucket = var.function_source.bucket
        object = var.function_source.object
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.this["relay"].email
    ingress_settings                 = "ALLOW_INTERNAL_ONLY"
    vpc_connector                    = var.function_connector # the database has a private address alone
    vpc_connector_egress_settings    = "ALL_TRAFFIC"
    available_memory                 = "1Gi"
    available_cpu                    = "1"
    timeout_seconds                  = 3600
    max_instance_count               = var.instances.most
    min_instance_count               = var.instances.least
    max_instance_request_concurrency = var.concurrency
    environment_variables = merge(local.settings, {
      POSTGRES_USER = "steward_serve"
    })

    dynamic "secret_environment_variables" {
      for_each = { ENCRYPTION_KEY = var.encryption_key_secret, POSTGRES_PASSWORD = var.postgres_password_secret }
      content {
        key        = secret_environment_variables.key
        project_id = var.project
        secret     = secret_environment_variables.value
        version    = "latest"
      }
    }

    secret_volumes {
      mount_path = "/etc/steward"
      project_id = var.project
      secret     = google_secret_manager_secret.database_ca.secret_id
      versions {
        version = "latest"
        path    = "cloudsql.pem"
      }
    }
  }
}

resource "google_cloud_run_v2_service_iam_member" "function_callers" {
  for_each = toset(var.with_function ? var.callers : [])
  name     = google_cloudfunctions2_function.relay[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}
