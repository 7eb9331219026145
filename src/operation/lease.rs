//! How long a rule is meant to stand.

use std::fmt;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use crate::error::Error;

/// The end that a caller asked for, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    until: Option<Timestamp>,
}

/// An end that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Not a duration.
    #[error("`{0}` is not a duration; write it like 2h, 30m or 1d")]
    Duration(String),
    /// Not a point in time.
    #[error("`{0}` is not an RFC 3339 time; write it like 2027-01-31T17:00:00Z")]
    Until(String),
    /// Both ways of saying it.
    #[error("give `duration` or `until`, not both")]
    Both,
    /// An end that is not in the future, or is beyond what a calendar holds.
    #[error("the end must lie in the future, and before the year 9999: `{written}` does not")]
    NotAhead {
        /// The field.
        field: &'static str,
        /// What was written.
        written: String,
    },
}

impl From<LeaseError> for Error {
    fn from(error: LeaseError) -> Self {
        let field = match error {
            LeaseError::Until(_) => "until",
            LeaseError::NotAhead { field, .. } => field,
            _ => "duration",
        };
        Self::invalid(field, "DURATION_INVALID", error.to_string())
    }
}

impl Lease {
    /// Reads `duration` or `until`; neither means no end.
    pub fn parse(duration: Option<&str>, until: Option<&str>, now: Timestamp) -> Result<Self, LeaseError> {
        let until = match (duration, until) {
            (None, None) => return Ok(Self { until: None }),
            (Some(_), Some(_)) => return Err(LeaseError::Both),
            (Some(written), None) => {
                let span: Span = written.trim().parse().map_err(|_| LeaseError::Duration(written.to_owned()))?;
                let length = span
                    .to_duration(SpanRelativeTo::days_are_24_hours())
                    .map_err(|_| LeaseError::Duration(written.to_owned()))?;
                if length < SignedDuration::from_secs(1) {
                    return Err(LeaseError::NotAhead { field: "duration", written: written.to_owned() });
                }
                now.checked_add(length)
                    .map_err(|_| LeaseError::NotAhead { field: "duration", written: written.to_owned() })?
            }
            (None, Some(written)) => {
                let until: Timestamp = written.trim().parse().map_err(|_| LeaseError::Until(written.to_owned()))?;
                if until <= now {
                    return Err(LeaseError::NotAhead { field: "until", written: written.to_owned() });
                }
                until
            }
        };
        Ok(Self { until: Some(whole_seconds(until)) })
    }

    /// The end, in whole seconds; none for a rule without an end.
    pub fn until(self) -> Option<Timestamp> {
        self.until
    }

    /// How long the rule stands when it is made `now`.
    pub fn length(self, now: Timestamp) -> Option<SignedDuration> {
        self.until.map(|until| until.duration_since(now))
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until {
            Some(until) => write!(f, "until {until}"),
            None => f.write_str("without an end"),
        }
    }
}

/// Cuts a point in time to whole seconds, as it is written on rules.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(duration: Option<&str>, until: Option<&str>) -> Result<String, LeaseError> {
        let now = "2027-01-01T00:00:00.5Z".parse().expect("parses");
        Lease::parse(duration, until, now).map(|lease| lease.to_string())
    }

    #[test]
    fn durations_and_ends() {
        assert_eq!(parse(Some("2h"), None).expect("parses"), "until 2027-01-01T02:00:00Z");
        assert_eq!(parse(Some("1d 30m"), None).expect("parses"), "until 2027-01-02T00:30:00Z");
        assert_eq!(parse(None, Some("2027-01-01T01:00:00+01:00")).ok(), None);
        assert_eq!(parse(None, Some("2027-01-01T02:00:00+01:00")).expect("parses"), "until 2027-01-01T01:00:00Z");
        assert_eq!(parse(None, None).expect("parses"), "without an end");
    }

    #[test]
    fn what_is_no_end_is_refused() {
        for duration in ["", "soon", "-2h", "0s", "2", "1 month", "99999999999999h"] {
            assert!(parse(Some(duration), None).is_err(), "{duration}");
        }
        for until in ["", "tomorrow", "2026-01-01T00:00:00Z", "2027-02-30T00:00:00Z"] {
            assert!(parse(None, Some(until)).is_err(), "{until}");
        }
        assert!(matches!(parse(Some("2h"), Some("2027-01-02T00:00:00Z")), Err(LeaseError::Both)));
    }
}
