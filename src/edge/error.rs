//! What goes wrong at the edge, as HTTP and JSON-RPC; and what went wrong behind it, as a tool's result.

use std::any::Any;

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, StatusCode};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::grpc::status::{self, Refusal};
use crate::limit::Exceeded;
use crate::mcp::code;
use crate::mcp::envelope::EnvelopeError;
use crate::mcp::message::RpcError;

/// The JSON-RPC code for a refusal that HTTP's status already tells. JSON-RPC leaves positive numbers to applications.
pub(super) fn code_of(status: StatusCode) -> i32 {
    status.as_u16().into()
}

/// A JSON-RPC error under an HTTP status.
pub(super) fn rpc(
    status: StatusCode,
    id: Option<&RawValue>,
    code: i32,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Response {
    json_response(status, RpcError::new(code, message).to_body(id))
}

/// A body that is JSON already.
pub(super) fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// More requests than the edge works on at once.
pub(super) fn busy(id: &RawValue) -> Response {
    let mut response = rpc(
        StatusCode::TOO_MANY_REQUESTS,
        Some(id),
        code_of(StatusCode::TOO_MANY_REQUESTS),
        "too many requests at once; try again in a second",
    );
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A request that is over a limit.
pub(super) fn limited(exceeded: &Exceeded, id: Option<&RawValue>) -> Response {
    let mut response = json_response(StatusCode::TOO_MANY_REQUESTS, limit(exceeded).to_body(id));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(exceeded.wait().as_secs()));
    response
}

/// The same as a message.
pub(super) fn limit(exceeded: &Exceeded) -> RpcError {
    let data = json!({
        "reason": exceeded.limit().reason(),
        "limit": exceeded.limit().name(),
        "retry_after_seconds": exceeded.wait().as_secs(),
    });
    RpcError::new(code_of(StatusCode::TOO_MANY_REQUESTS), exceeded.to_string()).with_data(data)
}

/// The code for what is no message, and the id where one could be read.
pub(super) fn of_envelope<'a>(wrong: &EnvelopeError<'a>) -> (i32, Option<&'a RawValue>) {
    match wrong {
        EnvelopeError::Parse(_) => (code::PARSE_ERROR, None),
        EnvelopeError::TooDeep | EnvelopeError::Batch => (code::INVALID_REQUEST, None),
        EnvelopeError::Invalid { id, .. } => (code::INVALID_REQUEST, *id),
    }
}

/// Something that tokens depend on does not answer.
pub(super) fn unavailable(message: &str, wait: Option<std::time::Duration>, id: Option<&RawValue>) -> Response {
    let mut response =
        rpc(StatusCode::SERVICE_UNAVAILABLE, id, code_of(StatusCode::SERVICE_UNAVAILABLE), message.to_owned());
    if let Some(wait) = wait {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

pub(super) async fn not_found() -> Response {
    rpc(
        StatusCode::NOT_FOUND,
        None,
        code_of(StatusCode::NOT_FOUND),
        "there is nothing here; the MCP endpoint is POST /mcp",
    )
}

pub(super) async fn method_not_allowed() -> Response {
    rpc(
        StatusCode::METHOD_NOT_ALLOWED,
        None,
        code_of(StatusCode::METHOD_NOT_ALLOWED),
        "this method is not served here; the MCP endpoint is POST /mcp",
    )
}

/// A request for what lasts, where each answer goes out whole.
pub(super) fn whole() -> Response {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let text = "this server answers each request by itself and whole: it has no WebSockets and no streams that last; POST each message to the MCP endpoint";
    let mut response = rpc(status, None, code_of(status), text);
    response.headers_mut().insert(::http::header::ALLOW, HeaderValue::from_static("POST"));
    response
}

pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    rpc(StatusCode::INTERNAL_SERVER_ERROR, None, code::INTERNAL_ERROR, "the service met a fault of its own")
        .into_response()
}

/// What tonic says of a message over its bound.
const TOO_LARGE: &str = "message length too large";

/// Gives words to what the service behind did not say itself: a broken link, whose details are ours.
pub(super) fn unnamed(refusal: &mut Refusal, read_only: bool) {
    if !refusal.reason.is_empty() {
        return;
    }
    if refusal.code == tonic::Code::OutOfRange && refusal.message.contains(TOO_LARGE) {
        tracing::warn!(message = refusal.message, "an answer of the service behind the edge is too large");
        refusal.code = tonic::Code::Internal;
        refusal.reason = "ANSWER_TOO_LARGE".to_owned();
        refusal.message = "the service's answer is too large to be carried; what was asked may have been done: look, and ask for less".to_owned();
        return;
    }
    // A service without reasons may still refuse in words of its own; these codes are never made by a link.
    if matches!(
        refusal.code,
        tonic::Code::InvalidArgument
            | tonic::Code::NotFound
            | tonic::Code::AlreadyExists
            | tonic::Code::PermissionDenied
            | tonic::Code::FailedPrecondition
            | tonic::Code::OutOfRange
            | tonic::Code::Aborted
            | tonic::Code::ResourceExhausted
            | tonic::Code::Unimplemented
    ) {
        status::name(refusal.code).clone_into(&mut refusal.reason);
        return;
    }
    tracing::warn!(code = ?refusal.code, message = refusal.message, "the service behind the edge did not answer");
    refusal.reason = "BACKEND_UNAVAILABLE".to_owned();
    refusal.message = if read_only {
        "the service behind this server does not answer at the moment; try again in a few seconds".to_owned()
    } else {
        "the service behind this server did not answer, so whether the change was made is not known; look before trying again".to_owned()
    };
    refusal.retry_after = Some(std::time::Duration::from_secs(5));
}

/// What a refusal behind the edge is where there is no tool that a model could call otherwise.
pub(super) fn of_refusal(mut refusal: Refusal) -> RpcError {
    unnamed(&mut refusal, true);
    let wrong_arguments =
        matches!(refusal.code, tonic::Code::InvalidArgument | tonic::Code::NotFound | tonic::Code::OutOfRange);
    let code = if wrong_arguments { code::INVALID_PARAMS } else { code::INTERNAL_ERROR };
    let (_, data) = tool_error(&refusal);
    let error = RpcError::new(code, refusal.message);
    match data.get("error") {
        Some(data) => error.with_data(data.clone()),
        None => error,
    }
}

/// What a refusal behind the edge tells a model: a sentence, and the same for programs.
pub(super) fn tool_error(refusal: &Refusal) -> (String, Value) {
    let retryable = refusal.retry_after.is_some();
    let mut error = Map::new();
    error.insert("code".to_owned(), json!(status::name(refusal.code)));
    error.insert("reason".to_owned(), json!(refusal.reason));
    error.insert("message".to_owned(), json!(refusal.message));
    error.insert("retryable".to_owned(), json!(retryable));
    if let Some(wait) = refusal.retry_after {
        error.insert("retry_after_seconds".to_owned(), json!(wait.as_secs().max(1)));
    }
    if !refusal.fields.is_empty() {
        let fields: Map<String, Value> =
            refusal.fields.iter().map(|(field, what)| (field.clone(), json!(what))).collect();
        error.insert("fields".to_owned(), fields.into());
    }
    if !refusal.facts.is_empty() {
        let facts: Map<String, Value> = refusal.facts.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        error.insert("facts".to_owned(), facts.into());
    }
    let failed =
        matches!(refusal.code, tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Internal);
    let word = if failed { "Failed" } else { "Refused" };
    (format!("{word}: {}", refusal.message), json!({"error": error}))
}
