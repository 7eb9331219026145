//! What browsers are told: which origins may call (WHATWG Fetch, "CORS protocol"), and which headers they may send and read.

use std::time::Duration;

use ::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::observe::REQUEST_ID;
use crate::annotations::Annotations;

/// What MCP clients send besides.
const SENT: [HeaderName; 7] = [
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-method"),
    HeaderName::from_static("mcp-name"),
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];
/// What they read of an answer besides.
const READ: [HeaderName; 2] =
    [HeaderName::from_static("mcp-protocol-version"), HeaderName::from_static("mcp-session-id")];
/// How long a browser may remember what it was told.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// Lets those origins call, with a token in a header and without cookies. An origin that is not listed is told nothing, and
/// refused by the guard if it calls all the same.
pub(super) fn layer(origins: &[String], annotations: &Annotations) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    let fields = annotations.tools().iter().flat_map(|tool| tool.method.input().fields().collect::<Vec<_>>());
    let named = fields.filter_map(|field| annotations.field(&field).map(|about| about.header.clone()));
    let arguments = named
        .filter(|header| !header.is_empty())
        .filter_map(|header| HeaderName::try_from(format!("mcp-param-{}", header.to_ascii_lowercase())).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(SENT.into_iter().chain([AUTHORIZATION, CONTENT_TYPE]).chain(arguments).collect::<Vec<_>>())
        .expose_headers(READ.into_iter().chain([WWW_AUTHENTICATE, RETRY_AFTER, REQUEST_ID]).collect::<Vec<_>>())
        .max_age(REMEMBERED_FOR)
}
