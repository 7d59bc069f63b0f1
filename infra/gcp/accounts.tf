# Who may do what: one account for each. Nobody deletes an object, and nobody lists the bucket.

resource "google_service_account" "this" {
  for_each = {
    relay   = "relays calls"
    settle  = "settles calls, runs what is due"
    migrate = "makes the tables"
    tasks   = "whose signed calls settle and run what is due"
  }
  depends_on   = [google_project_service.this]
  account_id   = "${var.name}-${each.key}"
  display_name = "Majordomo Steward: ${each.value}"
}

resource "google_project_iam_custom_role" "put" {
  role_id     = "${replace(var.name, "-", "_")}_put_bodies"
  title       = "Steward: put bodies"
  permissions = ["storage.objects.create"]
}

resource "google_project_iam_custom_role" "put_and_get" {
  role_id     = "${replace(var.name, "-", "_")}_put_and_get_bodies"
  title       = "Steward: put and get bodies"
  permissions = ["storage.objects.create", "storage.objects.get"]
}

resource "google_storage_bucket_iam_member" "bodies" {
  for_each = {
    relay  = google_project_iam_custom_role.put.id
    settle = google_project_iam_custom_role.put_and_get.id
  }
  bucket = google_storage_bucket.bodies.name
  role   = each.value
  member = google_service_account.this[each.key].member

  condition {
    title      = "below the prefix"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.bodies.name}/objects/${var.body_prefix}/\")"
  }
}

resource "google_secret_manager_secret_iam_member" "this" {
  for_each = {
    relay-key        = { who = "relay", secret = var.encryption_key_secret }
    relay-password   = { who = "relay", secret = var.postgres_password_secret }
    settle-key       = { who = "settle", secret = var.encryption_key_secret }
    settle-password  = { who = "settle", secret = var.postgres_password_secret }
    migrate-key      = { who = "migrate", secret = var.encryption_key_secret }
    migrate-password = { who = "migrate", secret = var.postgres_owner_password_secret }
    relay-ca         = { who = "relay", secret = google_secret_manager_secret.database_ca.secret_id }
    settle-ca        = { who = "settle", secret = google_secret_manager_secret.database_ca.secret_id }
    migrate-ca       = { who = "migrate", secret = google_secret_manager_secret.database_ca.secret_id }
  }
  secret_id = each.value.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this[each.value.who].member
}

resource "google_cloud_run_v2_service_iam_member" "callers" {
  for_each = toset(var.callers)
  name     = google_cloud_run_v2_service.this["relay"].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}

resource "google_cloud_run_v2_service_iam_member" "tasks" {
  name     = google_cloud_run_v2_service.this["settle"].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.this["tasks"].member
}
