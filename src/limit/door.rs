//! The edge's limits: by client address, before a token is looked at; and by principal for what the edge answers itself.

use std::net::IpAddr;

use tokio::time::Instant;

use super::principals::{Replicas, Verdict};
use super::rate::{Rate, Rates};
use super::{Config, Exceeded, Limit, LogBudget, Subject};
use crate::shared::Shared;

/// How many refusals of each kind an edge logs a second.
const LINES: u32 = 10;

/// Everything that an edge counts.
#[derive(Debug)]
pub struct Door {
    config: Config,
    requests: Rates<Origin>,
    bad_tokens: Rates<Origin>,
    others: Rates<Subject>,
    replicas: Option<Replicas>,
    strangers: LogBudget,
    principals: LogBudget,
}

/// Where a request comes from, as far as it is told apart: one IPv4 address; of IPv6 the 64 bits that one customer has
/// at least; or nowhere that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4([u8; 4]),
    V6(u64),
    Unknown,
}

impl Origin {
    fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => Self::V6((address.to_bits() >> 64) as u64),
            None => Self::Unknown,
        }
    }
}

impl Door {
    /// Limits as configured.
    pub fn new(config: Config, shared: Option<Shared>) -> Self {
        Self {
            config,
            requests: Rates::new(),
            bad_tokens: Rates::new(),
            others: Rates::new(),
            replicas: shared.map(Replicas::new),
            strangers: LogBudget::per_second(LINES),
            principals: LogBudget::per_second(LINES),
        }
    }

    /// How long a request waits for its turn.
    pub fn queue(&self) -> std::time::Duration {
        self.config.queue
    }

    /// Counts a request from an address.
    pub fn request(&self, address: Option<IpAddr>) -> Result<(), Exceeded> {
        let rate = Rate::per_minute(self.config.address.requests_per_minute);
        let taken = self.requests.take(Origin::of(address), rate, Instant::now());
        taken.map_err(|wait| Exceeded::new(Limit::AddressRequests, rate.most, wait))
    }

    /// Whether a token from an address is looked at.
    pub fn listens(&self, address: Option<IpAddr>) -> Result<(), Exceeded> {
        let rate = Rate::per_minute(self.config.address.bad_tokens_per_minute);
        let free = self.bad_tokens.look(Origin::of(address), rate, Instant::now());
        free.map_err(|wait| Exceeded::new(Limit::BadTokens, rate.most, wait))
    }

    /// Counts a token that was refused.
    pub fn bad_token(&self, address: Option<IpAddr>) {
        let rate = Rate::per_minute(self.config.address.bad_tokens_per_minute);
        // One too many that was let through beside others changes nothing: the next is not looked at.
        let _over = self.bad_tokens.take(Origin::of(address), rate, Instant::now());
    }

    /// Counts a request of a principal that the edge answers by itself.
    pub async fn other(&self, subject: Subject) -> Result<(), Exceeded> {
        let rate = Rate::per_minute(self.config.others_per_minute);
        let over = |wait| Exceeded::new(Limit::Others, rate.most, wait);
        self.others.take(subject, rate, Instant::now()).map_err(over)?;
        let Some(replicas) = &self.replicas else { return Ok(()) };
        match replicas.admit(subject, "answered", rate, 0, "").await {
            Verdict::Rate(wait) => Err(over(wait)),
            Verdict::Free | Verdict::InFlight | Verdict::NotTold => Ok(()),
        }
    }

    /// Whether the refusal of an address or a token may be logged, and how many were left out before it.
    pub fn log_stranger(&self) -> Option<u64> {
        self.strangers.spend()
    }

    /// The same for the calls of principals, which no flood of strangers keeps out of the log.
    pub fn log_principal(&self) -> Option<u64> {
        self.principals.spend()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(text: &str) -> Door {
        Door::new(toml::from_str(text).expect("sound"), None)
    }

    fn from(address: &str) -> Option<IpAddr> {
        Some(address.parse().expect("an address"))
    }

    #[tokio::test]
    async fn addresses_are_counted_apart_and_networks_of_ipv6_together() {
        let door = door("address.requests_per_minute = 2");
        for (address, free) in [
            ("203.0.113.7", true),
            ("203.0.113.7", true),
            ("203.0.113.7", false),
            ("::ffff:203.0.113.7", false),
            ("203.0.113.8", true),
            ("2001:db8:0:1::1", true),
            ("2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::3", false),
            ("2001:db8:0:2::3", true),
        ] {
            assert_eq!(door.request(from(address)).is_ok(), free, "{address}");
        }
        assert!(door.request(None).is_ok() && door.request(None).is_ok() && door.request(None).is_err());
    }

    #[tokio::test]
    async fn who_sends_bad_tokens_is_not_listened_to_for_a_while() {
        let door = door("address.bad_tokens_per_minute = 3");
        for _ in 0..3 {
            door.listens(from("203.0.113.7")).expect("listened to");
            door.bad_token(from("203.0.113.7"));
        }
        let refused = door.listens(from("203.0.113.7")).expect_err("not listened to");
        assert_eq!((refused.limit().reason(), refused.wait().as_secs()), ("RATE_LIMITED", 20));
        // Good tokens cost nothing, and other addresses are listened to.
        assert!((0..100).all(|_| door.listens(from("203.0.113.8")).is_ok()));
    }

    #[tokio::test]
    async fn what_the_edge_answers_is_counted_by_principal() {
        let door = door("others_per_minute = 2");
        assert!(door.other(Subject(1)).await.is_ok() && door.other(Subject(1)).await.is_ok());
        assert_eq!(door.other(Subject(1)).await.expect_err("over").limit(), Limit::Others);
        assert!(door.other(Subject(2)).await.is_ok());
    }
}
