# Who may do what. Nobody deletes an object, and nobody lists the bucket.

data "aws_iam_policy_document" "tasks" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

# What starts a task: the log, the image, the secrets of that task and of no other.

data "aws_iam_policy_document" "start" {
  for_each = {
    serve   = local.with_keys
    migrate = toset([var.encryption_key_secret_arn, var.postgres_owner_password_secret_arn])
  }

  statement {
    sid       = "WriteTheLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this[each.key].arn}:*"]
  }

  statement {
    sid       = "ReadTheSecrets"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = each.value
  }

  statement {
    sid       = "OpenTheSecrets"
    actions   = ["kms:Decrypt"]
    resources = [var.secrets_kms_key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${var.region}.amazonaws.com"]
    }
  }

  statement { # AWS scopes this one to nothing smaller
    sid       = "SignInAtTheRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "PullTheImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = ["arn:${local.partition}:ecr:${var.region}:${local.account}:repository/${var.name}"]
  }
}

resource "aws_iam_role" "start" {
  for_each           = data.aws_iam_policy_document.start
  name               = "${var.name}-start-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

resource "aws_iam_role_policy" "start" {
  for_each = data.aws_iam_policy_document.start
  name     = "start"
  role     = aws_iam_role.start[each.key].id
  policy   = each.value.json
}

# What relays: puts bodies, sends calls. What settles: puts and gets, takes calls. What migrates: nothing of AWS's.

data "aws_iam_policy_document" "relay" {
  statement {
    sid       = "PutBodies"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.bodies.arn}/${var.body_prefix}/*"]
  }

  statement { # a put in parts opens its own parts, and SQS asks a sender for both
    sid       = "SealBodiesAndCalls"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.data.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com", "sqs.${var.region}.amazonaws.com"]
    }
  }

  dynamic "statement" {
    for_each = aws_sqs_queue.calls
    content {
      sid       = "SendCalls"
      actions   = ["sqs:SendMessage"]
      resources = [statement.value.arn]
    }
  }
}

data "aws_iam_policy_document" "settle" {
  statement {
    sid       = "PutAndGetBodies"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.bodies.arn}/${var.body_prefix}/*"]
  }

  statement {
    sid       = "OpenCallsAndSealBodies"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.data.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com", "sqs.${var.region}.amazonaws.com"]
    }
  }

  dynamic "statement" {
    for_each = aws_sqs_queue.calls
    content {
      sid       = "TakeCalls"
      actions   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
      resources = [statement.value.arn]
    }
  }
}

resource "aws_iam_role" "relay" {
  name               = "${var.name}-relay"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

resource "aws_iam_role_policy" "relay" {
  name   = "relay"
  role   = aws_iam_role.relay.id
  policy = data.aws_iam_policy_document.relay.json
}

resource "aws_iam_role" "settle" {
  name               = "${var.name}-settle"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

resource "aws_iam_role_policy" "settle" {
  name   = "settle"
  role   = aws_iam_role.settle.id
  policy = data.aws_iam_policy_document.settle.json
}

# ECS makes and attaches the volumes of after_response = spool.

data "aws_iam_policy_document" "volumes" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "volumes" {
  count              = local.queued ? 0 : 1
  name               = "${var.name}-volumes"
  assume_role_policy = data.aws_iam_policy_document.volumes.json
}

resource "aws_iam_role_policy_attachment" "volumes" {
  count      = local.queued ? 0 : 1
  role       = aws_iam_role.volumes[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonECSInfrastructureRolePolicyForVolumes"
}
