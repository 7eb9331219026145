//! The service's one small set of error codes, and the error that every module turns its own into.
//!
//! A failure starts as a typed error of the module that met it, with its cause kept. Where it leaves the core or the
//! edge it becomes an [`Error`]: a class ([`Code`]), a stable reason that programs may match on, a message for the
//! caller, and a cause for us alone. `grpc::status` and `edge::error` are the only places that put one on a wire.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The class of a failure; the subset of gRPC's status codes that this service uses.
///
/// Source: <https://grpc.io/docs/guides/status-codes/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request can never succeed as it is; the caller can mend it.
    InvalidArgument,
    /// Who calls is not known, or not proven.
    Unauthenticated,
    /// Who calls is known and may not.
    PermissionDenied,
    /// What the request names does not exist, or is not the caller's to see.
    NotFound,
    /// The request is sound, but what stands in AWS or in the configuration forbids it.
    FailedPrecondition,
    /// A limit of ours or of AWS is reached.
    ResourceExhausted,
    /// Something that we depend on does not answer; trying again may help.
    Unavailable,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// A fault of ours.
    Internal,
}

impl Code {
    /// The code's name as gRPC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// A failure on its way to a caller.
///
/// [`fmt::Display`] prints the caller's message and nothing that is ours; the cause is reached through
/// [`std::error::Error::source`] and goes to logs only.
#[derive(Debug)]
pub struct Error {
    code: Code,
    reason: &'static str,
    message: Cow<'static, str>,
    field: Option<&'static str>,
    retry_after: Option<Duration>,
    facts: Vec<(&'static str, String)>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of class `code`, with the stable `reason` (`UPPER_SNAKE_CASE`) and a message for the caller.
    pub fn new(code: Code, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason, message: message.into(), field: None, retry_after: None, facts: Vec::new(), source: None }
    }

    /// A request that is wrong in one field.
    pub fn invalid(field: &'static str, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field), ..Self::new(Code::InvalidArgument, reason, message) }
    }

    /// Keeps the cause, for logs.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when trying again may help.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a fact that a program can read: it travels as `google.rpc.ErrorInfo` metadata.
    #[must_use]
    pub fn fact(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.facts.push((key, value.into()));
        self
    }

    /// The class of the failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The stable reason, in `UPPER_SNAKE_CASE`.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The message for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The request's field that is wrong, if it is one field.
    pub fn field(&self) -> Option<&'static str> {
        self.field
    }

    /// How long to wait before trying again, if that may help.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Facts for programs.
    pub fn facts(&self) -> &[(&'static str, String)] {
        &self.facts
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Prints an error and all its causes on one line, for logs.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            write!(f, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}
