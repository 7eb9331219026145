# The program twice: `calls` takes HTTP from its URL, `rounds` closes what has ended when the schedule says so. What strangers send to the
# URL takes no execution from the rounds, and is no failure of theirs.

locals {
  mount = "/mnt/whitelistmcp"

  functions = merge(
    { calls = { name = var.name, description = "Opens and closes IP allow-list rules, over MCP", concurrency = var.concurrency } },
    var.rounds ? { rounds = { name = "${var.name}-rounds", description = "Closes what has ended", concurrency = 1 } } : {},
  )

  set = merge(
    {
      MCP_MODE                                 = "serverless"
      WHITELISTMCP_EDGE__PUBLIC_URL            = var.public_url
      WHITELISTMCP_OIDC__COMPANY__ISSUER       = var.issuer.url
      WHITELISTMCP_OIDC__COMPANY__AUDIENCE     = coalesce(var.issuer.audience, var.public_url)
      WHITELISTMCP_OIDC__COMPANY__GROUPS_CLAIM = var.issuer.groups_claim
      # An inline table of TOML is an object of JSON with = for the colon behind each key.
      WHITELISTMCP_AWS__ACCOUNTS    = replace(jsonencode([for account in var.accounts : { for key, value in account : key => value if value != null }]), "\":", "\"=")
      WHITELISTMCP_TARGETS__ACCOUNT = var.accounts[0].id
      WHITELISTMCP_TARGETS__REGION  = var.accounts[0].regions[0]
      WHITELISTMCP_TARGETS__GROUPS  = replace(jsonencode([for group in var.groups : { for key, value in group : key => value if value != null }]), "\":", "\"=")
      WHITELISTMCP_AUDIT__DIRECTORY = "${local.mount}/journal"
      # Between calls the function is frozen: the schedule closes what has ended.
      WHITELISTMCP_LEASES__CLOSE     = "false"
      WHITELISTMCP_HEALTH__SELF_TEST = "off"
    },
    var.environment,
  )

  environment = { for name, value in local.set : name => value if value != null }
}

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

resource "aws_lambda_function" "this" {
  # checkov:skip=CKV_AWS_116: a dead letter queue is for events that must not be lost; a call is answered at once, and the next round comes a minute later
  # checkov:skip=CKV_AWS_272: signing needs a profile of yours; the package's hash is in the state
  # checkov:skip=CKV_AWS_50: traces are OpenTelemetry's, by OTEL_EXPORTER_OTLP_ENDPOINT
  for_each = local.functions

  function_name                  = each.value.name
  description                    = each.value.description
  role                           = aws_iam_role.this.arn
  runtime                        = "provided.al2023"
  handler                        = "bootstrap"
  architectures                  = [var.architecture]
  filename                       = var.package
  source_code_hash               = filebase64sha256(var.package)
  timeout                        = 30
  memory_size                    = var.memory
  reserved_concurrent_executions = each.value.concurrency
  kms_key_arn                    = module.journal.key_arn
  layers                         = var.layer_arns
  tags                           = var.tags

  environment {
    variables = local.environment
  }

  logging_config {
    # The service writes JSON itself.
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.this.name
  }

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [aws_security_group.function.id]
  }

  file_system_config {
    arn              = module.journal.access_point_arn
    local_mount_path = local.mount
  }

  depends_on = [module.journal, aws_iam_role_policy.this]
}

# NONE: AWS's own signature is of AWS identities, and the callers are people with tokens of your provider. The edge inside verifies each
# token before anything else, as everywhere; a request without a good one ends there.
resource "aws_lambda_function_url" "this" {
  # checkov:skip=CKV_AWS_258: see above
  function_name      = aws_lambda_function.this["calls"].function_name
  authorization_type = "NONE"
  invoke_mode        = "BUFFERED"
}

resource "aws_lambda_permission" "url" {
  # checkov:skip=CKV_AWS_301: the edge inside asks for a token
  statement_id           = "ByItsUrl"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.this["calls"].function_name
  principal              = "*"
  function_url_auth_type = "NONE"
}

# AWS wants both since October 2025; the condition keeps this one to the URL.
resource "aws_lambda_permission" "function_by_url" {
  # checkov:skip=CKV_AWS_301: by its URL alone, where the edge asks for a token
  statement_id             = "TheFunctionByItsUrl"
  action                   = "lambda:InvokeFunction"
  function_name            = aws_lambda_function.this["calls"].function_name
  principal                = "*"
  invoked_via_function_url = true
}

# === Closing what has ended ===

resource "aws_cloudwatch_event_rule" "round" {
  count = var.rounds ? 1 : 0

  name                = "${var.name}-round"
  description         = "Closes what has ended"
  schedule_expression = "rate(1 minute)"
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "round" {
  count = var.rounds ? 1 : 0

  rule = aws_cloudwatch_event_rule.round[0].name
  arn  = aws_lambda_function.this["rounds"].arn

  retry_policy {
    maximum_retry_attempts       = 0
    maximum_event_age_in_seconds = 60
  }
}

resource "aws_lambda_permission" "round" {
  count = var.rounds ? 1 : 0

  statement_id  = "BySchedule"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this["rounds"].function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.round[0].arn
}

# A round that failed is not sent again by Lambda: the next one comes within the minute.
resource "aws_lambda_function_event_invoke_config" "round" {
  count = var.rounds ? 1 : 0

  function_name                = aws_lambda_function.this["rounds"].function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60
}
