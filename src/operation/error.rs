//! What can be wrong with a request as a whole.

use super::address::Block;
use super::port::Protocol;
use crate::error::Error;

/// A request that is wrong in a way that no field's own type knows.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// A field that must be given.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field that is too long.
    #[error("`{field}` has {length} characters; {max} are the most")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// A list that is too long.
    #[error("`{field}` has {given} entries; {most} are the most")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many it has.
        given: usize,
        /// How many it may have.
        most: usize,
    },
    /// An entry of a list that is empty.
    #[error("an entry of `{0}` is empty")]
    EmptyEntry(&'static str),
    /// One value and a list of them.
    #[error("give `{0}` or `{1}`, not both")]
    OneOrMany(&'static str, &'static str),
    /// A reason that says nothing.
    #[error("`reason` must say why in at least 3 characters")]
    ReasonTooShort,
    /// A text with control characters.
    #[error("`{0}` holds a control or invisible character; write plain text on one line")]
    ControlCharacter(&'static str),
    /// A text that holds what looks like a secret.
    #[error("`{0}` holds what looks like an AWS key or a token; leave it out, and if it was real, rotate it")]
    Credential(&'static str),
    /// Not a rule id.
    #[error("`{0}` is not a security group rule id; it is sgr- and 8 to 17 hexadecimal digits")]
    RuleId(String),
    /// A removal or extension that would match everything.
    #[error("say which rules are meant: give rule_id, address, port or protocol; a change never means every rule")]
    NoSelector,
    /// Plans and dry runs exclude each other.
    #[error("a dry run makes a plan, and a change is held to one: leave out `plan_id` or `dry_run`")]
    PlannedDryRun,
    /// Not the shape of a plan id.
    #[error("`{0}` is not a plan id; a dry run answers with one, such as plan-0123456789abcdef")]
    PlanId(String),
    /// A plan for another number of groups.
    #[error(
        "the plan is for {planned} security groups and the request for {asked}: a plan holds for the very request it was made for"
    )]
    PlanCount {
        /// How many the plan is for.
        planned: usize,
        /// How many are asked for.
        asked: usize,
    },
    /// An address family that the protocol does not have.
    #[error("{protocol} is for {family} addresses, and {block} is not one")]
    Family {
        /// The protocol.
        protocol: Protocol,
        /// Its address family.
        family: &'static str,
        /// The block.
        block: Block,
    },
}

impl From<OperationError> for Error {
    fn from(error: OperationError) -> Self {
        let (field, reason) = match &error {
            OperationError::Missing(field) | OperationError::EmptyEntry(field) => (*field, "FIELD_MISSING"),
            OperationError::TooLong { field, .. } => (*field, "FIELD_TOO_LONG"),
            OperationError::TooMany { field, .. } => (*field, "TOO_MANY"),
            OperationError::OneOrMany(field, _) => (*field, "ONE_OR_MANY"),
            OperationError::ReasonTooShort => ("reason", "REASON_INVALID"),
            OperationError::ControlCharacter(field) => (*field, "CONTROL_CHARACTER"),
            OperationError::Credential(field) => (*field, "CREDENTIALS_REFUSED"),
            OperationError::RuleId(_) => ("rule_id", "RULE_ID_INVALID"),
            OperationError::NoSelector => ("rule_id", "SELECTOR_MISSING"),
            OperationError::PlannedDryRun | OperationError::PlanId(_) | OperationError::PlanCount { .. } => {
                ("plan_id", "PLAN_INVALID")
            }
            OperationError::Family { .. } => ("protocol", "PROTOCOL_INVALID"),
        };
        Self::invalid(field, reason, error.to_string())
    }
}
