//! A circuit for each account and Region: once AWS has failed there again and again, callers are told so at once, and one
//! of them is let through now and then to see whether it is well again.
//!
//! What counts is that AWS answers. Its own faults and silences open the circuit; a refusal is an answer, and throttling is
//! one too: it has its own word, and a wait of its own.

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

/// Every circuit.
#[derive(Clone, Debug, Default)]
pub(super) struct Circuits(Arc<Mutex<BTreeMap<(AccountId, Region), Circuit>>>);

/// One account and Region, as those see it who ask something of it.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    circuits: Circuits,
    place: (AccountId, Region),
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    /// Nobody is let through before that.
    open_until: Option<Instant>,
    wait: Duration,
}

impl Circuits {
    pub(super) fn of(&self, account: &AccountId, region: &Region) -> Breaker {
        Breaker { circuits: self.clone(), place: (account.clone(), region.clone()) }
    }
}

impl Breaker {
    fn with<T>(&self, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuits = self.circuits.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(circuits.entry(self.place.clone()).or_default())
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
        let was_open = self.with(|circuit| std::mem::take(circuit).open_until.is_some());
        if was_open {
            self.tell(false);
            tracing::info!(account = %self.place.0, region = %self.place.1, "AWS answers again");
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
                tracing::warn!(account = %self.place.0, region = %self.place.1, ?wait, "AWS does not answer; callers are told so at once for a while");
            }
        }
    }

    fn tell(&self, open: bool) {
        telemetry::record_circuit(self.place.0.as_str(), self.place.1.as_str(), open);
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
}
