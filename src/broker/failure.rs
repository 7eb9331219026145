//! Why an operation that was begun was not done.

use std::time::Duration;

use crate::aws::AwsError;
use crate::error::{Code, Error};
use crate::policy::Denial;

/// Why an operation that was begun was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// Policy refused it once AWS was read.
    Denied(Denial),
    /// AWS did not do it.
    Aws(AwsError),
    /// AWS contradicts itself, as it may for a moment after a change.
    Unsettled,
    /// What stands has changed since the plan was made.
    PlanStale,
    /// The idempotency key belongs to another request.
    KeyReused,
    /// There is no lease of the caller's to extend or move.
    NothingHeld,
    /// The caller's leases are on several addresses, and a move is from one.
    Ambiguous(Vec<String>),
    /// The rule carries as many holders as its tags can name.
    HoldersFull(String),
    /// The request does not fit what stands.
    Wrong(Error),
    /// The holder's name stands for several holders.
    SeveralHolders(Vec<String>),
    /// This machine's clock is wrong, by that many seconds.
    Skewed {
        /// How far ahead of AWS it is.
        off: i64,
    },
}

impl Failure {
    /// The policies that refused.
    pub(super) fn policies(&self) -> Vec<String> {
        match self {
            Self::Denied(denial) => denial.policies(),
            _ => Vec::new(),
        }
    }

    /// Whether AWS may have made a change although no answer says so.
    pub(super) fn may_have_acted(&self) -> bool {
        match self {
            Self::Aws(error) => error.may_have_acted(),
            Self::Unsettled => true,
            _ => false,
        }
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<AwsError> for Failure {
    fn from(error: AwsError) -> Self {
        Self::Aws(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Denied(denial) => denial.into(),
            Failure::Aws(error) => error.into(),
            Failure::Unsettled => Self::new(
                Code::Unavailable,
                "AWS_UNSETTLED",
                "AWS has not settled yet: it reports a rule and does not show it, or the other way round; try again in a few seconds",
            )
            .retry_after(Duration::from_secs(3)),
            Failure::PlanStale => Self::new(
                Code::FailedPrecondition,
                "PLAN_STALE",
                "what stands in the group, or what is asked for, is not what the plan saw; nothing was changed. Make a new dry run",
            ),
            Failure::KeyReused => Self::new(
                Code::FailedPrecondition,
                "IDEMPOTENCY_KEY_REUSED",
                "this idempotency key was used for another request within the last day; nothing was changed. Use a new key",
            ),
            Failure::NothingHeld => Self::new(
                Code::NotFound,
                "NO_LEASE",
                "you hold nothing open there that matches; whitelist_leases shows what you hold, and whitelist_add opens",
            ),
            Failure::Ambiguous(addresses) => Self::invalid(
                "from_address",
                "FROM_ADDRESS_MISSING",
                format!("you hold leases on several addresses: say by `from_address` which to move: {}", addresses.join(", ")),
            ),
            Failure::HoldersFull(rule) => Self::new(
                Code::ResourceExhausted,
                "HOLDER_LIMIT",
                format!("the rule {rule} carries as many tags as it can, its holders' and others', so one more holder cannot be named; ask for a narrower address of your own, or wait until somebody's lease has ended"),
            ),
            Failure::Wrong(error) => error,
            Failure::SeveralHolders(ids) => Self::invalid(
                "holder",
                "HOLDER_AMBIGUOUS",
                format!("that name stands for several holders; give one of their ids: {}", ids.join(", ")),
            ),
            Failure::Skewed { off } => Self::new(
                Code::Unavailable,
                "CLOCK_SKEWED",
                format!("this service's clock is {} seconds {} AWS's, so an end would be wrong; nothing was changed. An operator must set the clock", off.abs(), if off > 0 { "ahead of" } else { "behind" }),
            ),
        }
    }
}
