//! What every HTTP request leaves: an id that its log lines and its answer carry, and a measure of how long it took.

use std::sync::Arc;
use std::time::Instant;

use ::http::{HeaderName, HeaderValue, Request};
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::Edge;
use crate::telemetry::{self, ActiveRequest, OpenStream};

/// The header of an answer by which a caller can name the request to an operator. It is always our own: an id that a
/// caller chose could say anything, and be anybody's.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Around everything else.
pub(super) async fn observe(State(edge): State<Arc<Edge>>, request: Request<Body>, next: Next) -> Response {
    let scheme = if edge.config.is_plain() { "http" } else { "https" };
    let (begun, active) = (Instant::now(), ActiveRequest::count(request.method().as_str(), scheme));
    let stream = OpenStream::count("edge");
    let id = uuid::Uuid::new_v4().to_string();
    let (method, route) = (request.method().clone(), route(&edge, request.uri().path()));
    // For the log alone: a trace has spans of what is asked in the request.
    let span = tracing::info_span!(target: "request", "request", request.id = id);
    let mut response = next.run(request).instrument(span).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    telemetry::record_http(method.as_str(), scheme, route, response.status().as_u16(), begun.elapsed());
    drop((active, stream));
    response
}

/// A path as it is counted: what is served, and everything else as one.
fn route(edge: &Edge, path: &str) -> &'static str {
    const PROBES: [&str; 3] = ["/health", "/livez", "/readyz"];
    if let Some(probe) = PROBES.into_iter().find(|probe| *probe == path) {
        return probe;
    }
    match path {
        "/mcp" => "/mcp",
        _ if path == edge.config.public_url.path() => "/mcp",
        _ if path.contains("/.well-known/oauth-protected-resource") => "/.well-known/oauth-protected-resource",
        _ if super::approvals::is_page(path) => "/approvals",
        _ => "_OTHER",
    }
}
