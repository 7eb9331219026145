//! What AWS's refusals and silences mean for a caller.

use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use hyper_util::client::legacy;
use tokio::time::Instant;

use aws_sdk_sts::operation::RequestId;

use super::circuit::Breaker;
use super::ec2::{AUTHORIZE, MODIFY, REVOKE, TAG, UNTAG};
use super::federation::FederationError;
use super::profile::ProfileError;
use crate::audit::AwsCall;
use crate::error::{Code, Error};
use crate::telemetry;

/// A call to AWS that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// AWS answered with an error.
    #[error("{action} was refused: {code}: {message}")]
    Refused {
        /// The action.
        action: &'static str,
        /// AWS's error code.
        code: String,
        /// AWS's message. It may name accounts and roles, so it is for us.
        message: String,
        /// The group that was meant.
        group: String,
    },
    /// No answer, or none that can be read: whether AWS acted is not known.
    #[error("{action} brought no answer")]
    NoAnswer {
        /// The action.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request could not be made.
    #[error("{action} could not be asked")]
    NotSent {
        /// The action.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The caller's deadline passed before the answer came.
    #[error("the deadline passed while waiting for {action}")]
    Deadline {
        /// The action.
        action: &'static str,
    },
    /// AWS has failed there again and again, so it was not asked.
    #[error("AWS has not answered there lately, and is not asked for {wait:?}")]
    Open {
        /// How long to wait.
        wait: Duration,
    },
    /// What the request rests on was read too long ago, so it was not sent.
    #[error("{action} was not sent any more: what it rests on was read too long ago")]
    TooLate {
        /// The action.
        action: &'static str,
    },
    /// AWS answered, but left out what it must say.
    #[error("the answer of {action} lacks {what}")]
    Incomplete {
        /// The action.
        action: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// No role is configured for the account.
    #[error("no role is configured for the account")]
    NoRole,
    /// The person's own credentials.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The service's own credentials, by the platform's identity.
    #[error(transparent)]
    Federation(#[from] Arc<FederationError>),
    /// The operation is about no single group.
    #[error("the operation names no security group")]
    NoGroup,
}

impl AwsError {
    /// Makes sense of an SDK error about `group`; the call to note on the operation's entry comes with it.
    pub(super) fn from_sdk<E, R>(action: &'static str, error: SdkError<E, R>, group: &str) -> (Self, AwsCall)
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code).map(str::to_owned);
        let noted = AwsCall {
            action,
            request_id: error.request_id().map(str::to_owned),
            error: Some(code.clone().unwrap_or_else(|| "NoAnswer".to_owned())),
        };
        if let Some((service, method)) = action.split_once(':')
            && code.as_deref().is_some_and(|code| THROTTLING.contains(&code))
        {
            telemetry::record_throttle(service, method);
        }
        let message = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default().to_owned();
        (Self::of(action, code, message, error, group), noted)
    }

    fn of<E, R>(action: &'static str, code: Option<String>, message: String, error: SdkError<E, R>, group: &str) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        match (code, error) {
            (Some(code), _) => Self::Refused { action, code, message, group: group.to_owned() },
            (None, error @ SdkError::ConstructionFailure(_)) => Self::NotSent { action, source: Box::new(error) },
            // Only a connection that was never made carried nothing: one that broke, however early, may have.
            (None, error) if never_connected(&error) => Self::NotSent { action, source: Box::new(error) },
            (None, error) => Self::NoAnswer { action, source: Box::new(error) },
        }
    }

    /// AWS's error code, if it answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether AWS may have made a change although no answer says so: the request was one that changes, and it was
    /// lost, or AWS failed over it.
    pub fn may_have_acted(&self) -> bool {
        match self {
            Self::NoAnswer { action, .. } | Self::Incomplete { action, .. } => is_change(action),
            Self::Refused { action, code, .. } => is_change(action) && FAULTS.contains(&code.as_str()),
            Self::NotSent { .. }
            | Self::Open { .. }
            | Self::TooLate { .. }
            | Self::Deadline { .. }
            | Self::NoRole
            | Self::Profile(_)
            | Self::Federation(_)
            | Self::NoGroup => false,
        }
    }

    /// Tells the circuit what this means for it.
    pub(super) fn tell(&self, breaker: &Breaker) {
        match self {
            Self::NoAnswer { .. } | Self::NotSent { .. } => breaker.failed(Instant::now()),
            Self::Refused { code, .. } if FAULTS.contains(&code.as_str()) => breaker.failed(Instant::now()),
            Self::Refused { .. } | Self::Incomplete { .. } => breaker.answered(),
            Self::Open { .. }
            | Self::TooLate { .. }
            | Self::Deadline { .. }
            | Self::NoRole
            | Self::Profile(_)
            | Self::Federation(_)
            | Self::NoGroup => {}
        }
    }

    /// Whether AWS says that a rule is not there.
    pub fn is_gone(&self) -> bool {
        // Tagging and revoking say it in words of their own.
        let gone = |code: &str| {
            code.ends_with(".NotFound") && (code.contains("Rule") || code.contains("Permission") || code.contains("ID"))
        };
        self.code().is_some_and(gone)
    }

    /// Whether the request was not sent because what it rests on was read too long ago.
    pub fn is_too_late(&self) -> bool {
        matches!(self, Self::TooLate { .. })
    }

    /// Whether AWS turned the request away unseen because there were too many.
    pub fn is_throttling(&self) -> bool {
        self.code().is_some_and(|code| THROTTLING.contains(&code))
    }
}

/// Whether an error code of AWS's is no verdict on what was asked: the same request may be granted a moment later.
pub(super) fn may_pass(code: &str) -> bool {
    THROTTLING.contains(&code) || FAULTS.contains(&code)
}

/// AWS's words for too many requests.
const THROTTLING: [&str; 5] =
    ["RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequestsException"];

/// AWS's words for faults of its own.
const FAULTS: [&str; 4] = ["InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"];

/// Whether somewhere below there is a connection that could not be opened.
fn never_connected(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref::<legacy::Error>()).any(legacy::Error::is_connect)
}

fn is_change(action: &str) -> bool {
    [AUTHORIZE, REVOKE, MODIFY, TAG, UNTAG].contains(&action)
}

impl From<AwsError> for Error {
    fn from(error: AwsError) -> Self {
        // They have words of their own.
        let error = match error {
            AwsError::Profile(error) => return error.into(),
            AwsError::Federation(error) => return error.into(),
            error => error,
        };
        const SOON: Duration = Duration::from_secs(5);
        let new = |code, reason, text: String| Self::new(code, reason, text);
        let mapped = match &error {
            AwsError::Refused { action, code, group, .. } => match code.as_str() {
                code if THROTTLING.contains(&code) => {
                    new(Code::Unavailable, "AWS_THROTTLED", "AWS is throttling this account; try again in a few seconds".to_owned()).retry_after(SOON)
                }
                code if FAULTS.contains(&code) => {
                    new(Code::Unavailable, "AWS_UNAVAILABLE", "AWS has a fault of its own at the moment; try again in a few seconds".to_owned())
                        .retry_after(SOON)
                }
                "InvalidGroup.NotFound" | "InvalidGroupId.Malformed" | "InvalidSecurityGroupID.NotFound" => {
                    new(Code::NotFound, "SECURITY_GROUP_NOT_FOUND", format!("the security group {group} does not exist in its account and Region"))
                }
                "RulesPerSecurityGroupLimitExceeded" => new(
                    Code::ResourceExhausted,
                    "RULE_LIMIT",
                    format!("the security group {group} has as many rules as AWS allows; remove one first, or ask AWS for more"),
                ),
                "TagLimitExceeded" => new(Code::ResourceExhausted, "TAG_LIMIT", format!("the rule in {group} carries as many tags as AWS allows")),
                _ if action.starts_with("sts:") => new(
                    Code::FailedPrecondition,
                    "AWS_ROLE_REFUSED",
                    "AWS did not lend this service the role for that account; an operator must look at the role's trust policy and at the audit trail"
                        .to_owned(),
                ),
                "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "AuthFailure" => new(
                    Code::FailedPrecondition,
                    "AWS_DENIED",
                    format!("AWS refused {action} on {group}; an operator must look at what the service's role, or locally your AWS profile, may do there"),
                ),
                code => new(Code::FailedPrecondition, "AWS_REFUSED", format!("AWS refused {action} on {group}: {code}")),
            },
            AwsError::NoAnswer { action, .. } | AwsError::Incomplete { action, .. } if !is_change(action) => new(
                Code::Unavailable,
                "AWS_NO_ANSWER",
                "AWS did not answer; nothing was changed. Try again in a few seconds".to_owned(),
            )
            .retry_after(SOON),
            AwsError::NoAnswer { .. } | AwsError::Incomplete { .. } => new(
                Code::Unavailable,
                "AWS_NO_ANSWER",
                "AWS did not answer; whether it acted is not known. Look with whitelist_list before trying again".to_owned(),
            )
            .retry_after(SOON),
            AwsError::NotSent { .. } | AwsError::TooLate { .. } => {
                new(Code::Unavailable, "AWS_UNREACHABLE", "AWS cannot be reached at the moment; nothing was changed".to_owned()).retry_after(SOON)
            }
            AwsError::Open { wait } => new(
                Code::Unavailable,
                "AWS_NOT_ANSWERING",
                "AWS has not answered for that account and Region lately, so it was not asked; nothing was changed".to_owned(),
            )
            .retry_after((*wait).max(Duration::from_secs(1))),
            AwsError::Deadline { .. } => {
                new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed while waiting for AWS; nothing was changed".to_owned())
            }
            AwsError::Profile(_) | AwsError::Federation(_) | AwsError::NoGroup => new(Code::Internal, "INTERNAL", "the service met a fault of its own".to_owned()),
            AwsError::NoRole => new(Code::FailedPrecondition, "ACCOUNT_NOT_CONFIGURED", "no role is configured for that account".to_owned()),
        };
        mapped.caused_by(error)
    }
}
