//! How much one caller may ask for: rates, quotas of changes, open leases, and what is worked on at once.
//!
//! Two doors ask. The edge counts by client address before it looks at a token, and what it answers by itself
//! ([`Door`]); the core counts by principal, whatever way the call came ([`Limits`]), and has the last word. Every count
//! is kept in the process, bounded in memory. Where Redis is configured the core's are kept there as well, in one round
//! trip each, and a call must be within both: without Redis, or while it is gone, the process's own count holds.
//!
//! `docs/decisions/0012-what-is-limited-where.md` has the reasons, `0013-limits-without-redis.md` those about Redis.

mod changes;

mod door;
mod flight;
mod leases;
mod log;
mod principals;
mod queue;
mod rate;

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::duration::{self, SECOND};
use crate::error::{Code, Error};
use crate::schema::Length;

pub use door::Door;
pub use flight::Operation;
pub use leases::{Held, Room};
pub use log::LogBudget;
pub use principals::{Admitted, Charge, Limits};
pub use queue::Queue;

/// `[limits]` in the configuration. Everything is for each principal, other than `operations` and `address`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Calls of tools that only read, a minute.
    pub reads_per_minute: u32,
    /// Calls of tools that can change something, a minute; dry runs count.
    pub changes_per_minute: u32,
    /// Requests that call no tool, a minute: `initialize`, `tools/list`, and those that the edge refuses.
    pub others_per_minute: u32,
    /// Changes within an hour: groups in which something was changed, or AWS was asked to.
    pub changes_per_hour: u32,
    /// Changes within a day.
    pub changes_per_day: u32,
    /// Leases that are open at once, over all groups.
    pub open_leases: u32,
    /// Calls that are worked on at once.
    pub in_flight: u32,
    /// Calls that a core works on at once, everybody's.
    pub operations: u32,
    /// How long a call waits for a place, at the edge and at the core, before it is refused.
    #[serde(deserialize_with = "duration::within::<_, _, 0, { 10 * SECOND }>")]
    #[schemars(with = "Length<0, { 10 * SECOND }>")]
    pub queue: Duration,
    /// How much each client address may do at one edge, before a token is looked at; of IPv6, each network of 64 bits.
    pub address: AddressConfig,
}

/// `[limits.address]`: what one client address may do at one edge; of IPv6, one network of 64 bits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddressConfig {
    /// Requests a minute, with or without a token.
    pub requests_per_minute: u32,
    /// Tokens a minute that are refused. Who sends more is not listened to for a while.
    pub bad_tokens_per_minute: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reads_per_minute: 120,
            changes_per_minute: 30,
            others_per_minute: 120,
            changes_per_hour: 60,
            changes_per_day: 300,
            open_leases: 50,
            in_flight: 16,
            operations: 512,
            queue: Duration::from_millis(500),
            address: AddressConfig::default(),
        }
    }
}

impl Default for AddressConfig {
    fn default() -> Self {
        Self { requests_per_minute: 600, bad_tokens_per_minute: 30 }
    }
}

/// The most changes that can be remembered of one principal for a day.
const CHANGES_MOST: u32 = 100_000;

/// The most of anything else.
const MOST: u32 = 10_000_000;

/// Why `[limits]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing, or too much to count.
    #[error("`[limits] {name}` must be from 1 to {most}: {value}")]
    Range {
        /// The key.
        name: &'static str,
        /// The most that it may be.
        most: u32,
        /// What it is.
        value: u32,
    },
    /// A day that ends before its first hour.
    #[error("`[limits] changes_per_day` ({day}) must not be less than `changes_per_hour` ({hour})")]
    DayBeforeHour {
        /// Changes a day.
        day: u32,
        /// Changes an hour.
        hour: u32,
    },
}

impl Config {
    /// Checks that every limit can be kept.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("reads_per_minute", self.reads_per_minute, MOST),
            ("changes_per_minute", self.changes_per_minute, MOST),
            ("others_per_minute", self.others_per_minute, MOST),
            ("changes_per_hour", self.changes_per_hour, CHANGES_MOST),
            ("changes_per_day", self.changes_per_day, CHANGES_MOST),
            ("open_leases", self.open_leases, CHANGES_MOST),
            ("in_flight", self.in_flight, CHANGES_MOST),
            ("operations", self.operations, CHANGES_MOST),
            ("address.requests_per_minute", self.address.requests_per_minute, MOST),
            ("address.bad_tokens_per_minute", self.address.bad_tokens_per_minute, MOST),
        ];
        if let Some((name, value, most)) = limits.into_iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            return Err(ConfigError::Range { name, most, value });
        }
        if self.changes_per_day < self.changes_per_hour {
            return Err(ConfigError::DayBeforeHour { day: self.changes_per_day, hour: self.changes_per_hour });
        }
        Ok(())
    }
}

/// Whom a count belongs to: a number that stands for one principal on every replica, and tells nobody who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(u64);

impl Subject {
    /// The subject of a principal's id, as [`crate::identity::Principal::id`] and the tags of leases have it. What
    /// stands before its proof is a name and may change.
    pub fn of(id: &str) -> Self {
        let proof = id.rsplit_once('-').and_then(|(_, proof)| u64::from_str_radix(proof, 16).ok());
        Self(proof.unwrap_or_else(|| {
            // Nobody's id: it is counted all the same.
            let digest = crate::digest::sha256_hex(id);
            digest.get(..16).and_then(|half| u64::from_str_radix(half, 16).ok()).unwrap_or_default()
        }))
    }

    /// How it is named in Redis. The braces keep all that is one subject's in one slot of a cluster.
    fn key(self, what: &str) -> String {
        format!("limit:{{{:016x}}}:{what}", self.0)
    }
}

/// What a call is, for the rate that it counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A tool that only reads.
    Read,
    /// A tool that can change something.
    Change,
    /// Everything else.
    Other,
}

impl Class {
    /// How its rate is named in Redis.
    fn key(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Change => "change",
            Self::Other => "other",
        }
    }
}

/// A limit, by its name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `reads_per_minute`
    Reads,
    /// `changes_per_minute`
    Changes,
    /// `others_per_minute`
    Others,
    /// `changes_per_hour`
    ChangesPerHour,
    /// `changes_per_day`
    ChangesPerDay,
    /// `open_leases`
    OpenLeases,
    /// `in_flight`
    InFlight,
    /// `operations`
    Operations,
    /// `address.requests_per_minute`
    AddressRequests,
    /// `address.bad_tokens_per_minute`
    BadTokens,
}

/// A call that is over a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Exceeded {
    limit: Limit,
    most: u32,
    wait: Duration,
}

// === impl Limit ===

impl Limit {
    /// The key in `[limits]`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads_per_minute",
            Self::Changes => "changes_per_minute",
            Self::Others => "others_per_minute",
            Self::ChangesPerHour => "changes_per_hour",
            Self::ChangesPerDay => "changes_per_day",
            Self::OpenLeases => "open_leases",
            Self::InFlight => "in_flight",
            Self::Operations => "operations",
            Self::AddressRequests => "address.requests_per_minute",
            Self::BadTokens => "address.bad_tokens_per_minute",
        }
    }

    /// The stable reason of a refusal.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Reads | Self::Changes | Self::Others | Self::AddressRequests | Self::BadTokens => "RATE_LIMITED",
            Self::ChangesPerHour | Self::ChangesPerDay => "CHANGES_LIMIT",
            Self::OpenLeases => "LEASES_LIMIT",
            Self::InFlight | Self::Operations => "IN_FLIGHT_LIMIT",
        }
    }
}

// === impl Exceeded ===

impl Exceeded {
    fn new(limit: Limit, most: u32, wait: Duration) -> Self {
        Self { limit, most, wait }
    }

    /// Which limit.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// When it is free again, in whole seconds: no sooner than it is.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0)).max(Duration::from_secs(1))
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, free) = (self.most, Spoken(self.wait()));
        let (what, pace) = match self.limit {
            Limit::Reads => ("calls that read are limited to", "a minute for each caller"),
            Limit::Changes => ("calls that change something are limited to", "a minute for each caller"),
            Limit::Others => ("requests that call no tool are limited to", "a minute for each caller"),
            Limit::ChangesPerHour => ("changes are limited to", "an hour for each caller"),
            Limit::ChangesPerDay => ("changes are limited to", "a day for each caller"),
            Limit::OpenLeases => ("open leases are limited to", "for each caller, over all groups"),
            Limit::InFlight => ("calls at once are limited to", "for each caller"),
            Limit::Operations => ("calls at once are limited to", "for all callers together"),
            Limit::AddressRequests => ("requests are limited to", "a minute for each address"),
            Limit::BadTokens => ("refused tokens are limited to", "a minute for each address"),
        };
        write!(f, "{what} {most} {pace}; ")?;
        match self.limit {
            Limit::OpenLeases => write!(
                f,
                "close what is not needed (whitelist_leases shows what you hold), or wait: the next one ends in {free}"
            ),
            Limit::InFlight => f.write_str("try again when one has ended"),
            Limit::Operations => write!(f, "try again in {free}"),
            Limit::BadTokens => write!(f, "the next token is looked at in {free}"),
            _ => write!(f, "the next one is free in {free}"),
        }
    }
}

impl From<Exceeded> for Error {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(Code::ResourceExhausted, exceeded.limit.reason(), exceeded.to_string())
            .retry_after(exceeded.wait())
            .fact("limit", exceeded.limit.name())
            .fact("most", exceeded.most.to_string())
    }
}

/// A duration for people: in the largest unit that it fills, rounded up.
struct Spoken(Duration);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..120 => (seconds, "second"),
            120..7200 => (seconds.div_ceil(60), "minute"),
            _ => (seconds.div_ceil(3600), "hour"),
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_kept_are_refused_by_name() {
        assert!(Config::default().check().is_ok());
        for (text, part) in [
            ("reads_per_minute = 0", "`[limits] reads_per_minute` must be from 1"),
            ("in_flight = 0", "in_flight"),
            ("changes_per_day = 100001", "from 1 to 100000"),
            ("address.bad_tokens_per_minute = 0", "address.bad_tokens_per_minute"),
            ("changes_per_hour = 500", "must not be less"),
        ] {
            let config: Config = toml::from_str(text).expect(text);
            let error = config.check().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(toml::from_str::<Config>("reads = 1").is_err());
        assert!(toml::from_str::<Config>("reads_per_minute = -1").is_err());
    }

    #[test]
    fn a_refusal_says_which_limit_its_number_and_when_it_is_free() {
        let exceeded = Exceeded::new(Limit::ChangesPerHour, 60, Duration::from_millis(700_100));
        assert_eq!(
            exceeded.to_string(),
            "changes are limited to 60 an hour for each caller; the next one is free in 12 minutes"
        );
        let error = Error::from(exceeded);
        assert_eq!(
            (error.code(), error.reason(), error.wait()),
            (Code::ResourceExhausted, "CHANGES_LIMIT", Some(Duration::from_secs(701)))
        );
        assert_eq!(error.facts(), [("limit", "changes_per_hour".to_owned()), ("most", "60".to_owned())]);
        let soon = Exceeded::new(Limit::Reads, 120, Duration::from_nanos(1));
        assert!(soon.to_string().ends_with("in 1 second"), "{soon}");
    }

    #[test]
    fn a_subject_is_the_proof_of_an_id_and_outlives_a_name() {
        let (old, new) = (Subject::of("alice@old.example-00ff00ff00ff00ff"), Subject::of("alice-00ff00ff00ff00ff"));
        assert_eq!(old, new);
        assert_ne!(old, Subject::of("alice@old.example-00ff00ff00ff00fe"));
        assert_ne!(Subject::of("x"), Subject::of("y"));
        assert_eq!(old.key("read"), "limit:{00ff00ff00ff00ff}:read");
    }
}
