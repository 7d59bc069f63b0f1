output "relay_url" {
  description = "What applications call, with a token of theirs in X-Serverless-Authorization."
  value       = google_cloud_run_v2_service.this["relay"].uri
}

output "database_address" {
  value = google_sql_database_instance.this.private_ip_address
}

output "bucket" {
  value = google_storage_bucket.bodies.name
}

output "dead_letter_subscription" {
  description = "PUBSUB_DEAD_LETTER_SUBSCRIPTION of steward queue redrive."
  value       = google_pubsub_subscription.dead.id
}

output "migrate" {
  description = "Before the first start and before each release."
  value       = "gcloud run jobs execute ${google_cloud_run_v2_job.migrate.name} --region ${var.region} --wait"
}
