//! Answers that lead a client to a token: the protected resource metadata (RFC 9728) and `WWW-Authenticate` (RFC 6750).

use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use ::http::{HeaderValue, StatusCode};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Edge, error};

/// Why a caller is sent for a token.
pub(super) enum Challenge<'a> {
    /// There was none.
    Missing,
    /// The header cannot be read.
    Malformed,
    /// There was a bad one; the text says what is wrong with it.
    Invalid(&'a str),
    /// There was a good one that lacks scopes: all that the operation needs.
    Scope(&'a str),
}

/// `GET /.well-known/oauth-protected-resource…`
pub(super) async fn metadata(State(edge): State<Arc<Edge>>) -> Response {
    // RFC 9728, section 3.2: what has no values is left out, as the issuers are where API keys alone are taken.
    let issuers: Vec<&str> = edge.verifier.issuers().urls().collect();
    let issuers = (!issuers.is_empty()).then(|| ("authorization_servers".to_owned(), json!(issuers)));
    let body: Map<String, Value> = [
        ("resource".to_owned(), json!(resource(&edge))),
        ("scopes_supported".to_owned(), json!(scopes(&edge).collect::<Vec<_>>())),
        ("bearer_methods_supported".to_owned(), json!(["header"])),
        ("resource_name".to_owned(), json!(edge.server.title)),
        ("tls_client_certificate_bound_access_tokens".to_owned(), json!(edge.config.client_ca.is_some())),
    ]
    .into_iter()
    .chain(issuers)
    .collect();
    ([(CACHE_CONTROL, "public, max-age=300"), (::http::header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(body))
        .into_response()
}

/// Every scope, as clients ask for it.
fn scopes(edge: &Edge) -> impl Iterator<Item = String> {
    edge.annotations.scopes().scopes().map(|scope| asked_for(edge, scope))
}

/// A scope as clients ask the issuer for it.
fn asked_for(edge: &Edge, scope: &str) -> String {
    format!("{}{scope}", edge.verifier.issuers().scope_prefix())
}

/// The canonical URI of this resource: no trailing slash.
fn resource(edge: &Edge) -> &str {
    edge.config.public_url.as_str().trim_end_matches('/')
}

/// Where the metadata is: the well-known path, with the resource's own path behind it.
fn metadata_url(edge: &Edge) -> String {
    let url = &edge.config.public_url;
    format!(
        "{}/.well-known/oauth-protected-resource{}",
        url.origin().ascii_serialization(),
        url.path().trim_end_matches('/')
    )
}

/// The refusal, with a JSON-RPC body: a client that finds none takes the server for an older one.
pub(super) fn refuse(edge: &Edge, challenge: &Challenge<'_>, id: Option<&RawValue>) -> Response {
    let url = metadata_url(edge);
    let all = scopes(edge).collect::<Vec<_>>().join(" ");
    let (status, value, message) = match challenge {
        Challenge::Missing => (
            StatusCode::UNAUTHORIZED,
            format!(r#"Bearer resource_metadata="{url}", scope="{all}""#),
            "an access token is needed: send `Authorization: Bearer …`".to_owned(),
        ),
        Challenge::Malformed => (
            StatusCode::BAD_REQUEST,
            format!(r#"Bearer error="invalid_request", resource_metadata="{url}", scope="{all}""#),
            "the `Authorization` header must be there once and hold one token: `Bearer …`".to_owned(),
        ),
        Challenge::Invalid(why) => (
            StatusCode::UNAUTHORIZED,
            format!(
                r#"Bearer error="invalid_token", error_description="{}", resource_metadata="{url}", scope="{all}""#,
                quotable(why)
            ),
            (*why).to_owned(),
        ),
        Challenge::Scope(needed) => (
            StatusCode::FORBIDDEN,
            format!(
                r#"Bearer error="insufficient_scope", scope="{}", resource_metadata="{url}""#,
                needed.split(' ').map(|scope| asked_for(edge, scope)).collect::<Vec<_>>().join(" ")
            ),
            format!("the access token lacks the scope that this needs: {needed}"),
        ),
    };
    let mut response = error::rpc(status, id, error::code_of(status), message);
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// RFC 6750, section 3: `error_description` takes printable ASCII less `"` and `\`.
fn quotable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .map(|c| if c == '"' || c == '\\' { '\'' } else { c })
        .collect()
}
