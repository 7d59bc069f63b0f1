# Metrics as https://cloud.google.com/monitoring/api/metrics_gcp has them. Of topics nothing is told while they are not used.

locals {
  alarms = {
    answers-of-5xx = {
      says   = "The relay answers 5xx: its own faults, and providers'. Its log has every call, by outcome."
      metric = "run.googleapis.com/request_count", of = "cloud_run_revision", aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM"
      only   = ["resource.labels.service_name = starts_with(\"${var.name}-relay\")", "metric.labels.response_code_class = \"5xx\""]
      above  = var.alarm_5xx, period = 300, lasts = 0
    }
    tasks-fail = {
      says   = "What settles calls, or runs what is due, answers 5xx: database or bucket are away, or it is ended before its time."
      metric = "run.googleapis.com/request_count", of = "cloud_run_revision", aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM"
      only   = ["resource.labels.service_name = \"${google_cloud_run_v2_service.this["settle"].name}\"", "metric.labels.response_code_class = \"5xx\""]
      above  = 3, period = 300, lasts = 300
    }
    dead-calls = {
      says   = "Calls stand in the dead-letter topic; find out why, then steward queue redrive."
      metric = "pubsub.googleapis.com/subscription/num_undelivered_messages", of = "pubsub_subscription", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX"
      only   = ["resource.labels.subscription_id = \"${google_pubsub_subscription.dead.name}\""]
      above  = 0, period = 60, lasts = 0
    }
    oldest-call = {
      says   = "Calls wait to be settled for longer than they should."
      metric = "pubsub.googleapis.com/subscription/oldest_unacked_message_age", of = "pubsub_subscription", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX"
      only   = ["resource.labels.subscription_id = \"${google_pubsub_subscription.calls.name}\""]
      above  = 300, period = 60, lasts = 300
    }
    database-storage = { # it grows by itself before that, up to some 500 GB; then 25 GB are left when it does
      says   = "The database's disk is nearly full, and does not grow."
      metric = "cloudsql.googleapis.com/database/disk/utilization", of = "cloudsql_database", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX"
      only   = ["resource.labels.database_id = \"${var.project}:${google_sql_database_instance.this.name}\""]
      above  = 0.95, period = 60, lasts = 300
    }
    database-processor = {
      says   = "The database has had no processor left for a quarter of an hour."
      metric = "cloudsql.googleapis.com/database/cpu/utilization", of = "cloudsql_database", aligner = "ALIGN_MEAN", reducer = "REDUCE_MAX"
      only   = ["resource.labels.database_id = \"${var.project}:${google_sql_database_instance.this.name}\""]
      above  = 0.9, period = 60, lasts = 900
    }
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each              = local.alarms
  depends_on            = [google_project_service.this]
  display_name          = "${var.name}-${each.key}"
  combiner              = "OR"
  notification_channels = var.notification_channels

  documentation {
    content = each.value.says
  }

  conditions {
    display_name = each.key

    condition_threshold {
      filter          = join(" AND ", concat(["resource.type = \"${each.value.of}\"", "metric.type = \"${each.value.metric}\""], each.value.only))
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.above
      duration        = "${each.value.lasts}s"

      aggregations {
        alignment_period     = "${each.value.period}s"
        per_series_aligner   = each.value.aligner
        cross_series_reducer = each.value.reducer
      }
    }
  }
}
