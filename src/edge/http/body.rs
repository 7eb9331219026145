//! A request's body: whole, plain, and bounded in size and time.

use std::time::Duration;

use ::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use ::http::{HeaderMap, StatusCode};
use axum::body::Body;
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::value::RawValue;

use crate::edge::error;
use crate::mcp::envelope::{self, Message};

/// How much of a refused request's body is read away, and for how long.
const DRAIN_MAX: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a body may take to arrive.
pub(in crate::edge) const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Answers once a small body has been read away.
pub(super) async fn after(body: Body, response: Response) -> Response {
    drop(read_away(body).await);
    response
}

/// Reads a small body away: some HTTP/2 clients lose an answer that comes before they have sent all of theirs. A large or
/// slow one is not waited for. The id of the request in it, by which a client knows what the refusal is about.
pub(super) async fn read_away(body: Body) -> Option<Box<RawValue>> {
    let read = tokio::time::timeout(DRAIN_TIMEOUT, Limited::new(body, DRAIN_MAX).collect()).await;
    let bytes = read.ok()?.ok()?.to_bytes();
    match envelope::parse(&bytes) {
        Ok(Message::Request(request)) => Some(request.id.to_owned()),
        _ => None,
    }
}

/// Only JSON as it is: a compressed body could grow without bounds.
pub(super) fn refuse_encoding(headers: &HeaderMap) -> Option<Response> {
    let refuse = |message| {
        Some(error::rpc(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            None,
            error::code_of(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            message,
        ))
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return refuse("compressed bodies are not taken; send plain JSON");
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        None
    } else {
        refuse("send `Content-Type: application/json`")
    }
}

pub(super) async fn read(body: Body, most: usize) -> Result<Vec<u8>, Response> {
    let status = |status: StatusCode, message: String| error::rpc(status, None, error::code_of(status), message);
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(wrong)) if wrong.is::<LengthLimitError>() => {
            Err(status(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes")))
        }
        Ok(Err(_)) => Err(status(StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        Err(_) => Err(status(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive".to_owned())),
    }
}
