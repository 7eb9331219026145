//! Requests and answers in the log, where `[telemetry] log_requests` asks for them. Whoever hands one over has taken out of
//! it what could be anything.

use serde_json::Value;

/// What the lines are logged as, so that they are switched on and off by themselves.
macro_rules! target {
    () => {
        "whitelistmcp::requests"
    };
}

/// The directive that switches the lines.
pub(super) fn directive(on: bool) -> &'static str {
    if on { concat!(target!(), "=info") } else { concat!(target!(), "=off") }
}

/// Whether they are logged.
pub fn logs_requests() -> bool {
    tracing::enabled!(target: target!(), tracing::Level::INFO)
}

/// Logs a request.
pub fn log_request(tool: &str, request: &Value) {
    tracing::info!(target: target!(), tool, request = %request, "a request");
}

/// Logs an answer.
pub fn log_answer(tool: &str, answer: &Value) {
    tracing::info!(target: target!(), tool, answer = %answer, "an answer");
}
