//! Who may speak to the edge at all, before a request's token and body are looked at.

use std::net::IpAddr;
use std::sync::Arc;

use ::http::header::{HOST, ORIGIN};
use ::http::{HeaderMap, Request, StatusCode, Uri};
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;

use super::body::after;
use super::refusal::limited;
use crate::edge::client_address::{ClientAddress, client_address, is_proxy};
use crate::edge::{Edge, approvals, error};
use crate::listen::Connection;

/// Refuses requests that a browser was tricked into sending: a name that is not ours (DNS rebinding), or a page that is
/// not listed. A missing `Origin` is fine: programs send none. Before that, addresses that ask too often.
pub(in crate::edge) async fn guard(State(edge): State<Arc<Edge>>, mut request: Request<Body>, next: Next) -> Response {
    let address = address(&edge, request.extensions().get::<Connection>(), request.headers());
    if let Err(exceeded) = edge.limits.request(address) {
        return after(request.into_body(), limited(&edge, address, &exceeded, None)).await;
    }
    request.extensions_mut().insert(ClientAddress(address));
    match refuse_stranger(&edge, &request) {
        Some(message) => {
            let status = StatusCode::FORBIDDEN;
            edge.refused(status, "STRANGER", address, None, message);
            after(request.into_body(), error::rpc(status, None, error::code_of(status), message)).await
        }
        None => next.run(request).await,
    }
}

fn refuse_stranger(edge: &Edge, request: &Request<Body>) -> Option<&'static str> {
    let connection = request.extensions().get::<Connection>();
    let remote = connection.and_then(Connection::remote);
    // Plain HTTP is for loopback and for declared proxies; whoever else gets here would send a token in the clear.
    if edge.config.is_in_the_clear()
        && !remote.is_some_and(|remote| is_proxy(remote.ip(), &edge.config.trusted_proxies))
    {
        return Some("plain HTTP is served to declared proxies only; call over HTTPS");
    }
    let allowed = &edge.config.allowed_clients;
    let within = |address: IpAddr| allowed.iter().any(|network| network.contains(&address));
    if !allowed.is_empty() && !address(edge, connection, request.headers()).is_some_and(within) {
        return Some("calls are not taken from this address");
    }
    if !host_allowed(edge, request.uri(), request.headers()) {
        return Some("this host name is not served here; it must be the one in public_url, or one of allowed_hosts");
    }
    // The page for approvals sends its form home, and looks itself where that came from.
    let at_home = approvals::is_page(request.uri().path());
    if let Some(origin) = request.headers().get(ORIGIN)
        && !at_home
        && !edge.config.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    {
        return Some("this origin is not allowed to call; it must be one of allowed_origins");
    }
    None
}

/// The address that a request comes from, past the declared proxies.
pub(in crate::edge) fn address(edge: &Edge, connection: Option<&Connection>, headers: &HeaderMap) -> Option<IpAddr> {
    let remote = connection.and_then(Connection::remote);
    client_address(remote, headers, &edge.config.trusted_proxies, edge.config.forwarded_by)
}

fn host_allowed(edge: &Edge, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), ..) => authority.as_str(),
        (None, Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return false,
    };
    let name = |host: &str| {
        host.rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(name, _)| name)
            .to_ascii_lowercase()
    };
    let host = name(host);
    let own = edge.config.public_url.host_str().map(str::to_ascii_lowercase);
    own.as_deref() == Some(&host) || edge.config.allowed_hosts.iter().any(|allowed| name(allowed) == host)
}
