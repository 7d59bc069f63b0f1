output "balancer_dns_name" {
  description = "What the certificate's name points to, in a private zone."
  value       = aws_lb.this.dns_name
}

output "database_address" {
  value = aws_db_instance.this.address
}

output "database_administrator_secret_arn" {
  description = "For roles.sql alone."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "bucket" {
  value = aws_s3_bucket.bodies.bucket
}

output "migrate" {
  description = "Before the first start and before each release; for eval, since it quotes. It waits for the task's end."
  value       = "aws ecs wait tasks-stopped --region ${var.region} --cluster ${aws_ecs_cluster.this.name} --tasks \"$(aws ecs run-task --region ${var.region} --cluster ${aws_ecs_cluster.this.name} --launch-type FARGATE --task-definition ${aws_ecs_task_definition.this["migrate"].family} --network-configuration 'awsvpcConfiguration={subnets=[${join(",", var.subnet_ids)}],securityGroups=[${aws_security_group.tasks.id}],assignPublicIp=DISABLED}' --query 'tasks[0].taskArn' --output text)\""
}
