//! Refusals in HTTP, with their status, headers and the request's id. Those of callers are counted and told of as well.

use std::net::IpAddr;

use ::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::value::RawValue;

use crate::edge::bearer::Presented;
use crate::edge::challenge::{self, Challenge};
use crate::edge::{Edge, error};
use crate::error::Code;
use crate::limit::Exceeded;
use crate::mcp::envelope::EnvelopeError;
use crate::mcp::message::RpcError;
use crate::telemetry;

/// The refusal of a request that is over a limit of the edge.
pub(in crate::edge) fn limited(
    edge: &Edge,
    address: Option<IpAddr>,
    exceeded: &Exceeded,
    id: Option<&RawValue>,
) -> Response {
    let limit = exceeded.limit().name();
    telemetry::record_limited("edge", limit);
    edge.refused(StatusCode::TOO_MANY_REQUESTS, exceeded.limit().reason(), address, None, limit);
    if let Some(left_out) = edge.limits.log_stranger() {
        tracing::info!(limit, address = address.map(tracing::field::display), left_out, "a request is over a limit");
    }
    error::limited(exceeded, id)
}

/// The refusal of a caller without a good token.
pub(in crate::edge) fn not_presented(
    edge: &Edge,
    address: Option<IpAddr>,
    presented: Presented,
    id: Option<&RawValue>,
) -> Response {
    match presented {
        Presented::Refused(refused) if refused.code() == Code::Unavailable => {
            edge.refused(StatusCode::SERVICE_UNAVAILABLE, refused.reason(), address, None, refused.message());
            error::unavailable(refused.message(), refused.wait(), id)
        }
        Presented::Refused(refused) => {
            edge.limits.bad_token(address);
            edge.refused(StatusCode::UNAUTHORIZED, refused.reason(), address, None, refused.message());
            if let Some(left_out) = edge.limits.log_stranger() {
                tracing::info!(reason = refused.reason(), why = refused.message(), left_out, "a token was refused");
            }
            challenge::refuse(edge, &Challenge::Invalid(refused.message()), id)
        }
        Presented::Malformed => {
            edge.refused(
                StatusCode::BAD_REQUEST,
                "AUTHORIZATION_MALFORMED",
                address,
                None,
                "a header that cannot be read",
            );
            challenge::refuse(edge, &Challenge::Malformed, id)
        }
        Presented::Nothing | Presented::Token(..) => {
            edge.refused(StatusCode::UNAUTHORIZED, "TOKEN_MISSING", address, None, "no token");
            challenge::refuse(edge, &Challenge::Missing, id)
        }
    }
}

pub(super) fn refused(wrong: &RpcError, id: Option<&RawValue>) -> Response {
    let status = StatusCode::from_u16(wrong.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = error::json_response(status, wrong.to_body(id));
    let wait = wrong.data.as_ref().and_then(|data| data.get("retry_after_seconds")?.as_u64());
    if let (StatusCode::TOO_MANY_REQUESTS, Some(wait)) = (status, wait) {
        response.headers_mut().insert(::http::header::RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}

pub(super) fn malformed(wrong: &EnvelopeError<'_>) -> Response {
    let (code, id) = error::of_envelope(wrong);
    error::rpc(StatusCode::BAD_REQUEST, id, code, wrong.to_string())
}
