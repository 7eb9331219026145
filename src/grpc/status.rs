//! The service's errors as gRPC statuses with `google.rpc` details, and back.
//!
//! Source: <https://google.aip.dev/193>: `ErrorInfo` carries the stable reason, `BadRequest` the field that is wrong,
//! `RetryInfo` when to try again.

use std::collections::HashMap;
use std::time::Duration;

use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Chain, Code, Error};
use crate::telemetry;

/// The `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "whitelistmcp";

/// A status as it reaches a caller: everything that a program can act on.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The class.
    pub code: tonic::Code,
    /// The stable reason; empty where the status carries none.
    pub reason: String,
    /// The message for the caller.
    pub message: String,
    /// The request's fields that are wrong, each with what is wrong.
    pub fields: Vec<(String, String)>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// Facts for programs.
    pub facts: HashMap<String, String>,
}

/// Puts an error on the wire. The cause stays here, in the log.
pub fn to_status(error: &Error) -> tonic::Status {
    let cause = std::error::Error::source(error).map(|cause| Chain(cause).to_string());
    let reason = error.reason();
    match error.code() {
        Code::Internal => tracing::error!(reason, cause, "a call failed"),
        Code::Unavailable | Code::DeadlineExceeded | Code::FailedPrecondition => {
            tracing::warn!(reason, cause, "a call failed");
        }
        // Who is not let in yet may come by the thousand; they are counted, and the first ones told of elsewhere.
        Code::Unauthenticated | Code::ResourceExhausted => tracing::debug!(reason, cause, "a call was refused"),
        _ => tracing::info!(reason, cause, "a call was refused"),
    }
    telemetry::record_error("core", error.code().as_str(), error.reason());
    let facts = error.facts().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<HashMap<_, _>>();
    let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, facts);
    if let Some(field) = error.field() {
        details.add_bad_request_violation(field, error.message());
    }
    if let Some(wait) = error.wait() {
        details.set_retry_info(Some(wait));
    }
    tonic::Status::with_error_details(code(error.code()), error.message(), details)
}

/// A status code as gRPC writes it.
pub fn name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::NotFound => tonic::Code::NotFound,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Internal => tonic::Code::Internal,
    }
}

impl Refusal {
    /// Reads a status. One without details, as a broken connection gives, still has its code and message.
    pub fn of(status: &tonic::Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|request| request.field_violations.as_slice()).unwrap_or_default();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            fields: violations
                .iter()
                .map(|violation| (violation.field.clone(), violation.description.clone()))
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            facts: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire_without_its_cause() {
        let error = Error::invalid("port", "PORT_INVALID", "`x` is not a port")
            .caused_by("secret cause")
            .fact("k", "v")
            .retry_after(Duration::from_secs(2));
        let status = to_status(&error);
        assert!(!format!("{status:?}").contains("secret cause"));
        let refusal = Refusal::of(&status);
        assert_eq!(
            (refusal.code, refusal.reason.as_str(), refusal.message.as_str()),
            (tonic::Code::InvalidArgument, "PORT_INVALID", "`x` is not a port")
        );
        assert_eq!(refusal.fields, [("port".to_owned(), "`x` is not a port".to_owned())]);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
        assert_eq!(refusal.facts.get("k").map(String::as_str), Some("v"));
    }
}
