# Something that should be closed is not, or was not looked for. The calls' own errors are no alarm: what anybody may send to the URL could
# ring it.
resource "aws_cloudwatch_metric_alarm" "failed" {
  count = var.rounds ? 1 : 0

  alarm_name          = "${var.name}-rounds-fail"
  alarm_description   = "Rounds fail: something may stand past its end. The function's log says why."
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = aws_lambda_function.this["rounds"].function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "waiting" {
  count = var.rounds ? 1 : 0

  alarm_name          = "${var.name}-rounds-wait"
  alarm_description   = "Rounds are not begun: the one before still runs, or Lambda has no execution for them."
  namespace           = "AWS/Lambda"
  metric_name         = "Throttles"
  dimensions          = { FunctionName = aws_lambda_function.this["rounds"].function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags
}

# The schedule begins one each minute: none within five is a schedule that was switched off, or may not begin them.
resource "aws_cloudwatch_metric_alarm" "no_round" {
  count = var.rounds ? 1 : 0

  alarm_name          = "${var.name}-no-round"
  alarm_description   = "No round runs: nothing closes what has ended."
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = aws_lambda_function.this["rounds"].function_name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "turned_away" {
  alarm_name          = "${var.name}-turned-away"
  alarm_description   = "More calls than `concurrency`: people are turned away."
  namespace           = "AWS/Lambda"
  metric_name         = "Throttles"
  dimensions          = { FunctionName = aws_lambda_function.this["calls"].function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags
}
