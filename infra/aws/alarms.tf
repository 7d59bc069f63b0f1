locals {
  topics = compact([var.alarm_topic_arn])

  alarms = merge(
    {
      no-task-takes-calls = {
        namespace  = "AWS/ApplicationELB", metric = "HealthyHostCount", statistic = "Minimum", below = true, threshold = 1, periods = 2
        dimensions = { LoadBalancer = aws_lb.this.arn_suffix, TargetGroup = aws_lb_target_group.this.arn_suffix }
      }
      answers-of-5xx = {
        namespace  = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", statistic = "Sum", below = false, threshold = 10, periods = 5
        dimensions = { LoadBalancer = aws_lb.this.arn_suffix }
      }
      database-storage = {
        namespace  = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum", below = true, threshold = 10737418240, periods = 5
        dimensions = { DBInstanceIdentifier = aws_db_instance.this.identifier }
      }
    },
    local.queued ? {
      dead-calls = {
        namespace  = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", statistic = "Maximum", below = false, threshold = 1, periods = 1
        dimensions = { QueueName = aws_sqs_queue.dead[0].name }
      }
      oldest-call = {
        namespace  = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", statistic = "Maximum", below = false, threshold = 300, periods = 5
        dimensions = { QueueName = aws_sqs_queue.calls[0].name }
      }
    } : {},
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = 60
  evaluation_periods  = each.value.periods
  threshold           = each.value.threshold
  comparison_operator = each.value.below ? "LessThanThreshold" : "GreaterThanOrEqualToThreshold"
  treat_missing_data  = each.key == "no-task-takes-calls" ? "breaching" : "notBreaching"
  alarm_actions       = local.topics
}
