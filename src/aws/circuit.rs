//! A circuit for each service of AWS in each account and Region: once it has failed there again and again, callers are
//! told so at once, and one of them is let through now and then to see whether it is well again.
//!
//! What counts is that AWS answers. Its own faults and silences open the circuit; a refusal is an answer, and throttling is
//! one too: it has its own word, and a wait of its own. How often a throttled request is sent again is bounded here as
//! well, for all callers of the place together: were each to try as often as it likes, they would keep the throttle shut.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::operation::target::{AccountId, Region};
use crate::telemetry;

/// How many failures in a row open it.
const FAILURES: u32 = 5;
/// How long it is open for the first time; it doubles with each probe that fails.
const FIRST: Duration = Duration::from_secs(2);
/// And at most.
const MOST: Duration = Duration::from_secs(30);
/// How long a probe may take until another one is let through.
const PROBE: Duration = Duration::from_secs(15);

/// How many throttled requests may be sent again at once.
const RESENDS: f64 = 10.0;
/// How much of one more is earned by each answer, and each second.
const EARNED_BY_ANSWER: f64 = 0.1;
const EARNED_BY_SECOND: f64 = 0.2;

/// A service in an account and a Region.
type Where = (&'static str, AccountId, Region);

/// Every circuit.
#[derive(Clone, Debug, Default)]
pub(super) struct Circuits(Arc<Mutex<BTreeMap<Where, Circuit>>>);

/// One of them, as those see it who ask something there.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    circuits: Circuits,
    place: Where,
}

#[derive(Debug, Default)]
struct Circuit {
    budget: Budget,
    failures: u32,
    /// Nobody is let through before that.
    open_until: Option<Instant>,
    wait: Duration,
}

/// How many requests may be sent again.
#[derive(Debug, Default)]
struct Budget {
    spent: f64,
    at: Option<Instant>,
}

impl Budget {
    fn earn(&mut self, earned: f64) {
        self.spent = (self.spent - earned).max(0.0);
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.earn(since.as_secs_f64() * EARNED_BY_SECOND);
        let left = self.spent + 1.0 <= RESENDS;
        if left {
            self.spent += 1.0;
        }
        left
    }
}

impl Circuits {
    pub(super) fn of(&self, service: &'static str, account: &AccountId, region: &Region) -> Breaker {
        Breaker { circuits: self.clone(), place: (service, account.clone(), region.clone()) }
    }
}

impl Breaker {
    fn with<T>(&self, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuits = self.circuits.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(circuits.entry(self.place.clone()).or_default())
    }

    /// How long nobody is let through.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.with(|circuit| circuit.open_until.filter(|until| now < *until).map(|until| until - now))
    }

    /// Whether a request that was throttled may be sent again.
    pub(super) fn may_resend(&self, now: Instant) -> bool {
        self.with(|circuit| circuit.budget.take(now))
    }

    /// Lets a caller through, or says how long to wait. Who is let through an open circuit is the probe.
    pub(super) fn enter(&self, now: Instant) -> Result<(), Duration> {
        self.with(|circuit| match circuit.open_until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                circuit.open_until = Some(now + PROBE);
                Ok(())
            }
            None => Ok(()),
        })
    }

    /// AWS has answered.
    pub(super) fn answered(&self) {
        let was_open = self.with(|circuit| {
            circuit.budget.earn(EARNED_BY_ANSWER);
            circuit.failures = 0;
            circuit.wait = Duration::ZERO;
            circuit.open_until.take().is_some()
        });
        if was_open {
            self.tell(false);
            let (service, account, region) = &self.place;
            tracing::info!(service, %account, %region, "AWS answers again");
        }
    }

    /// AWS has not answered, or has failed over it.
    pub(super) fn failed(&self, now: Instant) {
        let opened = self.with(|circuit| {
            circuit.failures += 1;
            let probe = circuit.open_until.is_some();
            if circuit.failures < FAILURES && !probe {
                return None;
            }
            circuit.wait = if circuit.wait.is_zero() { FIRST } else { (circuit.wait * 2).min(MOST) };
            // Replicas that lost AWS together do not come back together.
            let wait = circuit.wait.mul_f64(0.75 + crate::digest::chance() / 4.0);
            circuit.open_until = Some(now + wait);
            Some((wait, probe))
        });
        if let Some((wait, probe)) = opened {
            self.tell(true);
            if !probe {
                let (service, account, region) = &self.place;
                tracing::warn!(service, %account, %region, ?wait, "AWS does not answer; callers are told so at once for a while");
            }
        }
    }

    fn tell(&self, open: bool) {
        let (service, account, region) = &self.place;
        telemetry::record_circuit(service, account.as_str(), region.as_str(), open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_open_it_a_probe_closes_it_and_waits_grow() {
        let circuits = Circuits::default();
        let place = |digit: &str| {
            circuits.of(
                "STS",
                &AccountId::parse(&digit.repeat(12)).expect("an account"),
                &Region::parse("eu-central-1").expect("a Region"),
            )
        };
        let (one, other, now) = (place("1"), place("2"), Instant::now());
        for _ in 1..FAILURES {
            one.failed(now);
            assert!(one.enter(now).is_ok());
        }
        one.answered();
        for _ in 0..FAILURES {
            one.failed(now);
        }
        let wait = one.enter(now).expect_err("open");
        assert!(wait <= FIRST && wait >= FIRST / 2, "{wait:?}");
        assert!(other.enter(now).is_ok(), "another account is another circuit");
        // One probe; the others wait for it.
        let later = now + wait;
        assert!(one.enter(later).is_ok());
        assert!(one.enter(later).is_err());
        one.failed(later);
        let longer = one.enter(later).expect_err("open still");
        assert!(longer > wait, "{longer:?}");
        let last = later + longer;
        assert!(one.enter(last).is_ok());
        one.answered();
        assert!(one.enter(last).is_ok() && one.enter(last).is_ok());
        for _ in 0..100 {
            one.failed(now);
        }
        assert!(one.enter(now).expect_err("open") <= MOST);
    }

    #[test]
    fn what_is_sent_again_has_a_budget_that_answers_and_time_fill() {
        let (account, region) = (AccountId::parse("111111111111"), Region::parse("eu-central-1"));
        let breaker = Circuits::default().of("EC2", &account.expect("an account"), &region.expect("a Region"));
        let now = Instant::now();
        let sent = (0..50).filter(|_| breaker.may_resend(now)).count();
        assert_eq!(sent, 10, "all callers together");
        for _ in 0..25 {
            breaker.answered();
        }
        assert_eq!((0..50).filter(|_| breaker.may_resend(now)).count(), 2, "answers earn");
        let later = now + Duration::from_secs(20);
        assert_eq!((0..50).filter(|_| breaker.may_resend(later)).count(), 4, "time earns");
    }
}
