resource "aws_cloudwatch_log_group" "this" {
  for_each          = toset(["serve", "migrate"])
  name              = "/ecs/${var.name}-${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.data.arn
}

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

locals {
  settings = merge(
    {
      POSTGRES_HOST                = aws_db_instance.this.address
      POSTGRES_PORT                = "5432"
      POSTGRES_DB                  = aws_db_instance.this.db_name
      POSTGRES_SSLMODE             = "verify-full"
      POSTGRES_SSLROOTCERT         = "/etc/steward/rds.pem"
      BODY_STORE_URL               = "s3://${aws_s3_bucket.bodies.bucket}/${var.body_prefix}"
      BODY_STORE_S3_REGION         = var.region
      BODY_STORE_S3_EXPECTED_OWNER = local.account
      BODY_STORE_ALLOW             = "s3://${aws_s3_bucket.bodies.bucket}@${var.region}/${local.account}"
      AFTER_RESPONSE               = var.after_response
      FRONT_HEADERS                = "x-forwarded-for,x-forwarded-port,x-forwarded-proto,x-amzn-*" # as on Lambda
    },
    # A third more as text: the queue takes 256 KiB, as much as this provider lets one ask for.
    local.queued ? { SQS_QUEUE_URL = aws_sqs_queue.calls[0].url, QUEUE_MESSAGE_MAX_BYTES = "160KiB" } : {},
    var.https_proxy == "" ? {} : { HTTPS_PROXY = var.https_proxy },
  )

  # Fargate mounts a volume as root's; the image's user is another.
  prepare = {
    name                   = "prepare"
    image                  = var.image
    essential              = false
    user                   = "0"
    readonlyRootFilesystem = true
    entryPoint             = ["python", "-c"]
    command                = ["import os; os.chown('/var/lib/steward', 10001, 10001); os.chmod('/var/lib/steward', 0o700); os.chmod('/tmp', 0o1777)"]
    mountPoints = [
      { sourceVolume = "spool", containerPath = "/var/lib/steward", readOnly = false },
      { sourceVolume = "tmp", containerPath = "/tmp", readOnly = false },
    ]
  }

  # One role for each command; the secrets come from Secrets Manager when the task starts.
  commands = {
    serve   = { command = ["serve"], role = aws_iam_role.relay.arn, start = "serve", user = "steward_serve", password = var.postgres_password_secret_arn }
    settle  = { command = ["settle"], role = aws_iam_role.settle.arn, start = "serve", user = "steward_serve", password = var.postgres_password_secret_arn }
    migrate = { command = ["migrate"], role = null, start = "migrate", user = "steward_owner", password = var.postgres_owner_password_secret_arn }
  }
}

resource "aws_ecs_task_definition" "this" {
  for_each                 = local.commands
  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.start[each.value.start].arn
  task_role_arn            = each.value.role

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  volume {
    name                = "spool"
    configure_at_launch = each.key == "serve" && !local.queued
  }
  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([
    local.prepare,
    {
      name                   = "steward"
      image                  = var.image
      command                = each.value.command
      essential              = true
      user                   = "10001:10001"
      readonlyRootFilesystem = true
      stopTimeout            = 60
      dependsOn              = [{ containerName = "prepare", condition = "SUCCESS" }]
      portMappings           = each.key == "serve" ? [{ containerPort = 7680, protocol = "tcp" }] : []
      environment            = [for name, value in merge(local.settings, { POSTGRES_USER = each.value.user }) : { name = name, value = value }]
      secrets = [
        { name = "ENCRYPTION_KEY", valueFrom = var.encryption_key_secret_arn },
        { name = "POSTGRES_PASSWORD", valueFrom = each.value.password },
      ]
      # A process that dies is started again in its task, whose volume ends with it.
      restartPolicy   = each.key == "migrate" ? null : { enabled = true, restartAttemptPeriod = 60 }
      linuxParameters = { capabilities = { drop = ["ALL"] } }
      mountPoints     = local.prepare.mountPoints
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.this[each.value.start].name
          awslogs-region        = var.region
          awslogs-stream-prefix = each.key
        }
      }
    },
  ])
}

resource "aws_ecs_service" "serve" {
  name                               = "serve"
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.this["serve"].arn
  launch_type                        = "FARGATE"
  platform_version                   = "LATEST"
  desired_count                      = var.tasks.least
  health_check_grace_period_seconds  = 60
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.this.arn
    container_name   = "steward"
    container_port   = 7680
  }

  dynamic "volume_configuration" {
    for_each = aws_iam_role.volumes
    content {
      name = "spool"
      managed_ebs_volume {
        role_arn         = volume_configuration.value.arn
        size_in_gb       = var.spool_gib
        volume_type      = "gp3"
        file_system_type = "ext4"
        encrypted        = true
      }
    }
  }

  lifecycle {
    ignore_changes = [desired_count]
  }

  depends_on = [aws_lb_listener.https]
}

resource "aws_ecs_service" "settle" {
  count           = local.queued ? 1 : 0
  name            = "settle"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.this["settle"].arn
  launch_type     = "FARGATE"
  desired_count   = var.settlers

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }
}

resource "aws_appautoscaling_target" "serve" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.serve.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.tasks.least
  max_capacity       = var.tasks.most
}

resource "aws_appautoscaling_policy" "serve" {
  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.serve.service_namespace
  resource_id        = aws_appautoscaling_target.serve.resource_id
  scalable_dimension = aws_appautoscaling_target.serve.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_in_cooldown  = 900
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
