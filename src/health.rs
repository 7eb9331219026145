//! Is the process alive, and can it serve? Asked by balancers without a token, so the answers tell a stranger no more
//! than up or down; which part is down is in the log.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Answers what keeps one part from serving; nothing if it is well.
type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The parts that must be well for the process to be ready.
#[derive(Clone, Default)]
pub struct Health(Arc<Vec<(&'static str, Check)>>);

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Health {
    /// Watches these parts.
    pub fn new(parts: Vec<(&'static str, Check)>) -> Self {
        Self(Arc::new(parts))
    }

    /// Whether every part is well.
    pub fn is_ready(&self) -> bool {
        let down: Vec<String> =
            self.0.iter().filter_map(|(name, check)| Some(format!("{name}: {}", check()?))).collect();
        if !down.is_empty() {
            tracing::warn!(parts = down.join("; "), "not ready");
        }
        down.is_empty()
    }
}

/// `GET /health`: that the process answers, in the form its predecessor used.
pub async fn health(State(_): State<Health>) -> Json<Value> {
    Json(json!({"status": "healthy", "service": "whitelistmcp-mcp", "version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /livez`: that the process answers.
pub async fn livez(State(_): State<Health>) -> &'static str {
    "ok"
}

/// `GET /readyz`: that it can serve.
pub async fn readyz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.is_ready() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
}
