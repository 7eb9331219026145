//! Why an operation that was begun was not done.

use std::time::Duration;

use super::word::waits_for;
use crate::approval::Request;
use crate::aws::AwsError;
use crate::error::{Code, Error};
use crate::limit::Exceeded;
use crate::policy::{Denial, Reason};

/// Why an operation that was begun was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// Policy refused it once AWS was read.
    Denied(Denial),
    /// It waits for somebody's word; the policies want it.
    Waits(Box<Request>, Vec<Reason>),
    /// Somebody has said no.
    Declined(Box<Request>),
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
    /// The caller is over a limit.
    Limited(Exceeded),
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
            Self::Waits(request, _) | Self::Declined(request) => request.policies().to_vec(),
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
            Failure::Waits(request, reasons) => {
                let why: Vec<String> =
                    reasons.iter().map(|reason| format!("{} (policy `{}`)", reason.message, reason.policy)).collect();
                let (id, whose, ends) = (request.id(), waits_for(&request), request.expires());
                let text = format!(
                    "this waits for {whose}, as request {id}, until {ends}: {} Nothing was changed. Once it is approved, ask for the very same again and it is done",
                    why.join(" ")
                );
                Self::new(Code::FailedPrecondition, "APPROVAL_NEEDED", text)
                    .fact("approval", id)
                    .fact("approval_from", request.from().as_str())
                    .fact("approval_expires", ends.to_string())
                    .fact("policies", request.policies().join(","))
            }
            Failure::Declined(request) => {
                let decision = request.decision();
                let by = decision.map(|decision| decision.by().name.as_str()).unwrap_or_default();
                let note = decision.map(crate::approval::Decision::note).filter(|note| !note.is_empty());
                let note = note.map(|note| format!(", saying: {note}")).unwrap_or_default();
                let text = format!("{by} has declined this{note}; nothing was changed");
                Self::new(Code::PermissionDenied, "APPROVAL_DECLINED", text).fact("approval", request.id())
            }
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
            Failure::Limited(exceeded) => exceeded.into(),
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
