//! Every route of the edge and every layer, in order. One file to read for what is served and what guards it.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;

use super::{Edge, approvals, challenge, cors, error, http, observe, socket};
use crate::health;

/// Where a protected resource's metadata begins (RFC 9728, section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The edge's router.
pub fn router(edge: &Arc<Edge>) -> Router {
    let mcp_path = mcp_path(edge);
    let metadata = metadata(edge, &mcp_path);
    // GET is an upgrade, or opens a stream where there is anything to hear. DELETE would end a session: nothing is stored of
    // one that could be ended, so it is answered 405.
    let mut mcp = Router::new().route("/mcp", post(http::mcp).get(socket::upgrade)).route("/ws", get(socket::upgrade));
    if !mcp_path.is_empty() && mcp_path != "/mcp" {
        mcp = mcp.route(&mcp_path, post(http::mcp).get(socket::upgrade));
    }
    if let Some(prefix) = mcp_path.strip_suffix("/mcp").filter(|prefix| !prefix.is_empty()) {
        mcp = mcp.route(&format!("{prefix}/ws"), get(socket::upgrade));
    }
    let mcp = mcp.with_state(Arc::clone(edge));

    // The same holds for the page.
    let page = match approvals::prefix(&mcp_path) {
        "" => approvals::routes(edge, ""),
        prefix => approvals::routes(edge, "").merge(approvals::routes(edge, prefix)),
    };

    guarded(edge, Router::new().merge(mcp).merge(page).merge(metadata))
}

/// The router of an address that is for WebSocket alone. Whoever is given a port for them seldom knows a path, so the root is
/// one as well.
pub fn sockets(edge: &Arc<Edge>) -> Router {
    let mcp_path = mcp_path(edge);
    let mut paths = vec!["/".to_owned(), "/mcp".to_owned(), "/ws".to_owned()];
    if !mcp_path.is_empty() {
        paths.extend([mcp_path.clone(), format!("{}/ws", mcp_path.strip_suffix("/mcp").unwrap_or(&mcp_path))]);
    }
    paths.sort();
    paths.dedup();
    let sockets = paths.iter().fold(Router::new(), |router, path| router.route(path, get(socket::upgrade)));
    guarded(edge, sockets.with_state(Arc::clone(edge)).merge(metadata(edge, &mcp_path)))
}

/// Where a protected resource's metadata is.
fn metadata(edge: &Arc<Edge>, mcp_path: &str) -> Router {
    // RFC 9728, section 3.1: the resource's path goes behind the well-known one. Behind a path prefix the proxy may keep
    // the prefix or take it off, and may pass the well-known paths on below it.
    let mut well_known = vec![WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/mcp"), format!("{WELL_KNOWN}{mcp_path}")];
    if let Some(prefix) = mcp_path.strip_suffix("/mcp") {
        well_known.extend([format!("{prefix}{WELL_KNOWN}"), format!("{prefix}{WELL_KNOWN}/mcp")]);
    }
    well_known.sort();
    well_known.dedup();
    well_known
        .iter()
        .fold(Router::new(), |router, path| router.route(path, get(challenge::metadata)))
        .with_state(Arc::clone(edge))
}

/// The path of the MCP endpoint as clients see it.
fn mcp_path(edge: &Edge) -> String {
    edge.config.public_url.path().trim_end_matches('/').to_owned()
}

/// Routes behind every layer, and the probes beside them.
fn guarded(edge: &Arc<Edge>, routes: Router) -> Router {
    let probes = Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(http::readyz))
        .with_state(Arc::clone(edge));
    routes
        // Before the layers, which then hold for it as well.
        .method_not_allowed_fallback(error::method_not_allowed)
        // Inside this line a foreign host or origin is refused; the probes stay outside, as balancers call by address.
        .layer(axum::middleware::from_fn_with_state(Arc::clone(edge), http::guard))
        // A browser asks first, without a token, and reads a refusal only where it may read the answer.
        .layer(cors::layer(&edge.config.allowed_origins, &edge.annotations))
        .merge(probes.method_not_allowed_fallback(error::method_not_allowed))
        .fallback(error::not_found)
        // Outermost: whatever happens inside, the connection lives, nobody logs a token, and every answer is counted.
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(edge), observe::observe))
        .layer(SetSensitiveRequestHeadersLayer::new([::http::header::AUTHORIZATION]))
}
