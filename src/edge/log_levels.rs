//! From which level on legacy clients want lines for their log (`logging/setLevel`, which 2026-07-28 has no more). Kept by the
//! process that was told, for as long as there is room: a client that is forgotten hears more than it asked for.

use quick_cache::sync::Cache;

use super::dispatch::{Call, Carried};
use crate::digest::sha256_hex;
use crate::pb::mcp::v1::LogLevel;

/// How many clients' levels are kept.
const KEPT_MOST: usize = 1024;
/// From which level on a client hears that has said nothing.
const UNSAID: LogLevel = LogLevel::Info;

#[derive(Debug)]
pub(super) struct LogLevels(Cache<String, LogLevel>);

impl LogLevels {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT_MOST))
    }

    pub(super) fn set(&self, call: &Call<'_>, level: LogLevel) {
        self.0.insert(key(call), level);
    }

    pub(super) fn of(&self, call: &Call<'_>) -> LogLevel {
        self.0.get(&key(call)).unwrap_or(UNSAID)
    }
}

/// A session, or whoever speaks where there is none.
fn key(call: &Call<'_>) -> String {
    match call.carried {
        Carried::Http(headers, _) => {
            let session = headers.get("mcp-session-id").map(::http::HeaderValue::as_bytes);
            sha256_hex(session.unwrap_or_else(|| call.who().as_bytes()))
        }
        Carried::Channel { number, .. } => format!("channel:{number}"),
        Carried::Itself => String::new(),
    }
}
