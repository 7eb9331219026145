//! One request answered where no HTTP status can say how it went: in a batch, or on a WebSocket.

use std::net::IpAddr;

use ::http::StatusCode;
use serde_json::json;
use serde_json::value::RawValue;

use super::dispatch::{self, Answer, Call};
use super::{Edge, error, places};
use crate::limit::Exceeded;
use crate::mcp::envelope::{EnvelopeError, Request};
use crate::mcp::message::RpcError;
use crate::telemetry;

/// What a request comes to.
pub(super) enum Reply {
    /// A message.
    Message(Vec<u8>),
    /// The service behind the edge refused the token; why.
    TokenRefused(String),
}

/// Answers a request, with a place of its own.
pub(super) async fn reply(edge: &Edge, request: &Request<'_>, call: &Call<'_>) -> Reply {
    let who = Some(call.who());
    let Some(_place) = places::enter(edge, call.who()).await else {
        let status = StatusCode::TOO_MANY_REQUESTS;
        edge.refused(status, "BUSY", call.origin.address, who, "too many requests at once");
        let data = json!({"reason": "BUSY", "retry_after_seconds": 1});
        let busy = RpcError::new(error::code_of(status), "too many requests at once; try again in a second");
        return Reply::Message(busy.with_data(data).to_body(Some(request.id)));
    };
    let answer = dispatch::dispatch(edge, request, call).await;
    of(edge, call.origin.address, call.who(), request.id, answer)
}

/// What a request came to, as a reply.
pub(super) fn of(
    edge: &Edge,
    address: Option<IpAddr>,
    who: &str,
    id: &RawValue,
    answer: Result<Answer, RpcError>,
) -> Reply {
    match answer {
        Ok(Answer::Body(body) | Answer::Session(body, _)) => Reply::Message(body),
        Ok(Answer::Limited(exceeded)) => Reply::Message(limited(edge, address, &exceeded, Some(id))),
        Ok(Answer::Challenge(scope)) => {
            let status = StatusCode::FORBIDDEN;
            edge.refused(status, "SCOPE_MISSING", address, Some(who), &scope);
            let text = format!("the access token lacks the scope that this needs: {scope}");
            let data = json!({"reason": "SCOPE_MISSING", "scope": scope});
            Reply::Message(RpcError::new(error::code_of(status), text).with_data(data).to_body(Some(id)))
        }
        Ok(Answer::TokenRefused(why)) => {
            edge.refused(StatusCode::UNAUTHORIZED, "TOKEN_REFUSED", address, Some(who), &why);
            Reply::TokenRefused(why)
        }
        Err(wrong) => {
            let text = format!("JSON-RPC error {}", wrong.code);
            edge.refused(StatusCode::OK, "PROTOCOL_ERROR", address, Some(who), &text);
            Reply::Message(wrong.to_body(Some(id)))
        }
    }
}

/// The refusal of what is over a limit, as a message.
pub(super) fn limited(edge: &Edge, address: Option<IpAddr>, exceeded: &Exceeded, id: Option<&RawValue>) -> Vec<u8> {
    let limit = exceeded.limit().name();
    telemetry::record_limited("edge", limit);
    edge.refused(StatusCode::TOO_MANY_REQUESTS, exceeded.limit().reason(), address, None, limit);
    error::limit(exceeded).to_body(id)
}

/// The refusal of what is no message, as a message.
pub(super) fn malformed(wrong: &EnvelopeError<'_>) -> Vec<u8> {
    let (code, id) = error::of_envelope(wrong);
    RpcError::new(code, wrong.to_string()).to_body(id)
}
