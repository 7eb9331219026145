resource "aws_lb" "edge" {
  name               = var.name
  load_balancer_type = "application"
  internal           = var.internal
  subnets            = var.load_balancer_subnet_ids
  security_groups    = [aws_security_group.load_balancer.id]

  # What a client wrote into X-Forwarded-For stays in front of the address that the load balancer saw, and the edge reads from the end.
  xff_header_processing_mode = "append"
  enable_xff_client_port     = false
  # The edge checks Host against `public_url`.
  preserve_host_header       = true
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "strictest"
  enable_deletion_protection = var.deletion_protection
  # Streams say something every 15 s and WebSockets every 25 s; the edge itself closes what is silent after 5 minutes, and must not be
  # the first to.
  idle_timeout = 120

  access_logs {
    bucket  = var.access_logs_bucket
    prefix  = var.name
    enabled = true
  }

  tags = var.tags
}

# No listener on port 80: a client that is sent on to HTTPS has shown its token by then.
resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.edge.arn
  port              = 443
  protocol          = "HTTPS"
  # TLS 1.3 alone, as at the edge itself (`[edge] tls_minimum`). The connections to the targets follow: they offer TLS 1.3 as well.
  ssl_policy      = "ELBSecurityPolicy-TLS13-1-3-2021-06"
  certificate_arn = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.edge.arn
  }

  tags = var.tags
}

resource "aws_lb_target_group" "edge" {
  name        = "${var.name}-edge"
  vpc_id      = var.vpc_id
  target_type = "ip"
  port        = local.edge_port
  # The edge has a certificate anyway, for the core: with it no token crosses the network in the clear.
  protocol             = "HTTPS"
  deregistration_delay = 30

  # /livez and not /readyz: ECS replaces tasks that fail this check. A core that is away would have every edge replaced, again and
  # again, in place of an answer that says what is wrong.
  health_check {
    path                = "/livez"
    protocol            = "HTTPS"
    port                = "traffic-port"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  tags = var.tags
}

resource "aws_wafv2_web_acl_association" "edge" {
  count = var.web_acl_arn == null ? 0 : 1

  resource_arn = aws_lb.edge.arn
  web_acl_arn  = var.web_acl_arn
}
