//! Is the process alive, and can it serve? Asked by balancers without a token, so the answers tell a stranger no more
//! than up or down. Which part is how, by name, is told to callers with a good token, by the gRPC health service to peers
//! with a certificate, and in the log as it changes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::duration::{self, DAY, SECOND};
use crate::schema::LengthOrOff;

/// `[health]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// An address for probes alone, over plain HTTP: `/livez`, `/readyz` and `/health`, as strangers are answered. None unless
    /// given; an edge answers them where it listens as well.
    pub listen: Option<SocketAddr>,
    /// How often a core asks AWS whether it lends the roles; `off` for never.
    #[serde(deserialize_with = "duration::within_or_off::<_, SECOND, DAY>")]
    #[schemars(with = "LengthOrOff<SECOND, DAY>")]
    pub self_test: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: None, self_test: Some(Duration::from_secs(300)) }
    }
}

/// Where a program of this host reaches what listens on that address: one that stands for all of them is asked on loopback.
pub fn on_this_host(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(address) if address.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        SocketAddr::V6(address) if address.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        address => address,
    }
}

/// Answers what is wrong with one part; nothing if it is well, or has not been needed yet.
type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// One part of the process.
pub struct Part {
    name: &'static str,
    decides: bool,
    check: Check,
}

/// The parts, and whether the process is about to end. Clones watch the same.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    parts: Vec<Part>,
    /// Set once the process is to take no more work.
    ending: CancellationToken,
    /// The parts of which it was said that they are not well.
    told: Mutex<BTreeSet<&'static str>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.parts.iter().map(|part| part.name)).finish()
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("name", &self.name).field("decides", &self.decides).finish_non_exhaustive()
    }
}

impl Part {
    /// A part without which the process cannot serve.
    pub fn needed(name: &'static str, check: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self { name, decides: true, check: Box::new(check) }
    }

    /// A part whose loss is told, while the process serves what it can without: answers that say what is wrong are better
    /// than none.
    pub fn told(name: &'static str, check: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self { name, decides: false, check: Box::new(check) }
    }
}

impl Health {
    /// Watches these parts, until `ending`.
    pub fn new(parts: Vec<Part>, ending: CancellationToken) -> Self {
        Self(Arc::new(Inner { parts, ending, told: Mutex::default() }))
    }

    /// What is wrong with each part, if anything. That a part is not well, or well again, goes to the log once.
    pub fn parts(&self) -> Vec<(&'static str, Option<String>)> {
        let parts: Vec<_> = self.0.parts.iter().map(|part| (part.name, (part.check)())).collect();
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, problem) in &parts {
            match problem {
                Some(problem) if told.insert(name) => tracing::warn!(part = name, problem, "a part is not well"),
                None if told.remove(name) => tracing::info!(part = name, "a part is well again"),
                _ => {}
            }
        }
        parts
    }

    /// Whether the process takes work, and every part that it needs is well.
    pub fn is_ready(&self) -> bool {
        self.is_ready_with(&self.parts())
    }

    fn is_ready_with(&self, parts: &[(&'static str, Option<String>)]) -> bool {
        let needed = |name: &str| self.0.parts.iter().any(|part| part.name == name && part.decides);
        !self.0.ending.is_cancelled() && !parts.iter().any(|(name, problem)| problem.is_some() && needed(name))
    }

    /// Everything by name, for those who may know.
    pub fn report(&self) -> Value {
        let parts = self.parts();
        let status = if self.is_ready_with(&parts) { "ready" } else { "not ready" };
        let parts = parts.into_iter().map(|(name, problem)| {
            let state = problem
                .map_or_else(|| json!({"status": "up"}), |problem| json!({"status": "down", "problem": problem}));
            (name.to_owned(), state)
        });
        let parts = parts.collect::<serde_json::Map<_, _>>();
        let ending = self.0.ending.is_cancelled();
        json!({"status": status, "ending": ending, "parts": parts})
    }

    /// The probes and nothing else, as strangers are answered, whatever they send.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/livez", get(livez))
            .route("/readyz", get(|State(health): State<Self>| async move { health.answer() }))
            .with_state(self.clone())
    }

    /// `GET /readyz`, as a stranger is told.
    pub fn answer(&self) -> (StatusCode, &'static str) {
        if self.is_ready() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
    }
}

/// `GET /health`: that the process answers, as what watched an earlier whitelistmcp reads it.
pub async fn health() -> Json<Value> {
    Json(json!({"status": "healthy", "service": "whitelistmcp-mcp", "version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /livez`: that the process answers.
pub async fn livez() -> &'static str {
    "ok"
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn an_address_for_all_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8082", "127.0.0.1:8082"),
            ("[::]:8082", "[::1]:8082"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(on_this_host(listen.parse().expect("an address")).to_string(), asked);
        }
    }

    #[test]
    fn what_is_needed_decides_and_what_is_told_does_not() {
        let (journal, aws) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let check = |well: &Arc<AtomicBool>| {
            let well = Arc::clone(well);
            move || (!well.load(Ordering::Relaxed)).then(|| "gone".to_owned())
        };
        let ending = CancellationToken::new();
        let parts = vec![Part::needed("journal", check(&journal)), Part::told("aws", check(&aws))];
        let health = Health::new(parts, ending.clone());
        assert!(health.is_ready());
        aws.store(false, Ordering::Relaxed);
        assert!(health.is_ready());
        assert_eq!(health.report()["parts"]["aws"], json!({"status": "down", "problem": "gone"}));
        journal.store(false, Ordering::Relaxed);
        assert_eq!(health.answer(), (StatusCode::SERVICE_UNAVAILABLE, "not ready"));
        journal.store(true, Ordering::Relaxed);
        assert!(health.is_ready());
        ending.cancel();
        assert!(!health.is_ready() && health.report()["ending"] == true);
    }
}
