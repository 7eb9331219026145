//! How long access is asked for.

use jiff::{SignedDuration, Timestamp};

use crate::duration;
use crate::error::Error;

/// The longest lease that any policy can allow. Nobody opens a door for ever.
const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

/// The end that a caller asked for, or left to policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    asked: Asked,
    /// In the caller's words.
    words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    For(SignedDuration),
    Until(Timestamp),
    Unsaid,
}

/// An end that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// Not a duration.
    #[error("`{0}` is not a duration; write it like 2h, 30m or 1d")]
    Duration(String),
    /// Not a point in time.
    #[error("`{0}` is not an RFC 3339 time; write it like 2027-01-31T17:00:00Z")]
    Until(String),
    /// Both ways of saying it.
    #[error("give `duration` or `until`, not both")]
    Both,
    /// An end that is not in the future.
    #[error("the end must lie in the future: `{written}` does not")]
    NotAhead {
        /// The field.
        field: &'static str,
        /// What was written.
        written: String,
    },
    /// An end that is too far away for any policy.
    #[error("access ends within 366 days at the latest: `{written}` is longer")]
    TooFar {
        /// The field.
        field: &'static str,
        /// What was written.
        written: String,
    },
    /// Neither the caller nor policy says how long.
    #[error("say how long access is needed, by `duration` or `until`: no policy sets a default for this")]
    Unsaid,
}

impl From<TermError> for Error {
    fn from(error: TermError) -> Self {
        let (field, reason) = match &error {
            TermError::Until(_) => ("until", "DURATION_INVALID"),
            TermError::NotAhead { field, .. } | TermError::TooFar { field, .. } => (*field, "DURATION_INVALID"),
            TermError::Unsaid => ("duration", "DURATION_MISSING"),
            TermError::Duration(_) | TermError::Both => ("duration", "DURATION_INVALID"),
        };
        Self::invalid(field, reason, error.to_string())
    }
}

impl Term {
    /// Reads `duration` or `until`; neither leaves it to policy.
    pub fn parse(duration: Option<&str>, until: Option<&str>, now: Timestamp) -> Result<Self, TermError> {
        match (duration, until) {
            (None, None) => Ok(Self { asked: Asked::Unsaid, words: String::new() }),
            (Some(_), Some(_)) => Err(TermError::Both),
            (Some(written), None) => {
                let length = duration::parse(written).ok_or_else(|| TermError::Duration(written.to_owned()))?;
                if length < SignedDuration::from_secs(1) {
                    return Err(TermError::NotAhead { field: "duration", written: written.to_owned() });
                }
                if length > LONGEST {
                    return Err(TermError::TooFar { field: "duration", written: written.to_owned() });
                }
                Ok(Self { asked: Asked::For(length), words: format!("for {}", written.trim()) })
            }
            (None, Some(written)) => {
                let until: Timestamp = written.trim().parse().map_err(|_| TermError::Until(written.to_owned()))?;
                let until = whole_seconds(until);
                if until <= now {
                    return Err(TermError::NotAhead { field: "until", written: written.to_owned() });
                }
                if until.duration_since(now) > LONGEST {
                    return Err(TermError::TooFar { field: "until", written: written.to_owned() });
                }
                Ok(Self { asked: Asked::Until(until), words: format!("until {}", written.trim()) })
            }
        }
    }

    /// Whether the caller left it to policy.
    pub fn is_unsaid(&self) -> bool {
        self.asked == Asked::Unsaid
    }

    /// The term that policy sets where the caller said none.
    #[must_use]
    pub fn or(self, default: SignedDuration) -> Self {
        if !self.is_unsaid() {
            return self;
        }
        Self { asked: Asked::For(default.min(LONGEST)), words: format!("for {default:#}, which is the default") }
    }

    /// The end of a lease that begins now, in whole seconds; none while nobody has said.
    pub fn end(&self, now: Timestamp) -> Option<Timestamp> {
        match self.asked {
            Asked::For(length) => now.checked_add(length).ok().map(whole_seconds),
            Asked::Until(until) => Some(until),
            Asked::Unsaid => None,
        }
    }

    /// How long that is.
    pub fn length(&self, now: Timestamp) -> Option<SignedDuration> {
        match self.asked {
            Asked::For(length) => Some(length),
            Asked::Until(until) => Some(until.duration_since(now)),
            Asked::Unsaid => None,
        }
    }

    /// In the caller's words, such as `for 2h`.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// What was asked, the same however late it is asked again.
    pub fn canonical(&self) -> String {
        match self.asked {
            Asked::For(length) => format!("{}s", length.as_secs()),
            Asked::Until(until) => until.to_string(),
            Asked::Unsaid => String::new(),
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

    fn now() -> Timestamp {
        "2027-01-01T00:00:00.5Z".parse().expect("parses")
    }

    fn end(duration: Option<&str>, until: Option<&str>) -> Result<String, TermError> {
        let term = Term::parse(duration, until, now())?;
        Ok(format!("{} {}", term.end(now()).map(|end| end.to_string()).unwrap_or_default(), term.words()))
    }

    #[test]
    fn durations_and_ends() {
        assert_eq!(end(Some("2h"), None).expect("parses"), "2027-01-01T02:00:00Z for 2h");
        assert_eq!(end(Some("1d 30m"), None).expect("parses"), "2027-01-02T00:30:00Z for 1d 30m");
        assert_eq!(end(None, Some("2027-01-01T01:00:00+01:00")).ok(), None);
        assert_eq!(
            end(None, Some("2027-01-01T02:00:00+01:00")).expect("parses"),
            "2027-01-01T01:00:00Z until 2027-01-01T02:00:00+01:00"
        );
        let unsaid = Term::parse(None, None, now()).expect("parses");
        assert!(unsaid.is_unsaid() && unsaid.end(now()).is_none());
        let set = unsaid.or(SignedDuration::from_hours(2));
        assert_eq!(set.end(now()).map(|end| end.to_string()).as_deref(), Some("2027-01-01T02:00:00Z"));
        assert_eq!(set.words(), "for 2h, which is the default");
    }

    #[test]
    fn what_is_no_end_is_refused() {
        for duration in ["", "soon", "-2h", "0s", "2", "1 month", "99999999999999h", "367d"] {
            assert!(end(Some(duration), None).is_err(), "{duration}");
        }
        for until in ["", "tomorrow", "2026-01-01T00:00:00Z", "2027-02-30T00:00:00Z", "2029-01-01T00:00:00Z"] {
            assert!(end(None, Some(until)).is_err(), "{until}");
        }
        assert!(matches!(end(Some("2h"), Some("2027-01-02T00:00:00Z")), Err(TermError::Both)));
    }
}
