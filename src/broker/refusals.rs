//! Refusals that somebody can cause as often as they like: written down once, and then counted.
//!
//! Everything that is refused stands in the journal, and a flood of refusals must not fill it. So of those that follow
//! each other the first are written down as they come; from then on one record for each caller, reason and minute says
//! how many there were.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Broker;
use crate::error::{Code, Error};
use crate::identity::Caller;
use crate::limit::{Exceeded, Subject};
use crate::operation::{CallId, Tool};
use crate::telemetry;

/// For how long refusals are counted before one record says how many there were.
const WINDOW: Duration = Duration::from_secs(60);

/// How many callers and reasons are counted apart. Those that are more are counted together.
const KEYS_MOST: usize = 4096;

/// How many calls of unproven callers are written down one by one, for each peer, reason and minute.
const UNPROVEN_MOST: u64 = 20;

type Key = (Option<Subject>, &'static str);

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Key, Repeated>>);

#[derive(Debug)]
struct Repeated {
    since: Instant,
    written: u64,
    counted: u64,
    last: Option<Last>,
}

/// The last of those that were counted, which stands for all.
#[derive(Debug)]
pub(super) struct Last {
    tool: Tool,
    call: CallId,
    caller: Option<Caller>,
    code: Code,
    reason: &'static str,
    message: String,
}

impl Refusals {
    /// Whether this one is to be written down by itself; otherwise it is counted. `most` are, within a minute.
    fn is_written(&self, key: Key, most: u64, now: Instant, last: impl FnOnce() -> Last) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if known.len() < KEYS_MOST || known.contains_key(&key) { key } else { (None, key.1) };
        let repeated = known.entry(key).or_insert_with(|| Repeated { since: now, written: 0, counted: 0, last: None });
        if repeated.written < most {
            repeated.written += 1;
            return true;
        }
        repeated.counted += 1;
        repeated.last = Some(last());
        false
    }

    /// What is to be said of those that were counted: of the minutes that are over, or of all.
    fn due(&self, all: bool, now: Instant) -> Vec<(Last, u64)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = known.extract_if(|_, repeated| all || now.duration_since(repeated.since) >= WINDOW);
        over.filter_map(|(_, repeated)| Some((repeated.last?, repeated.counted))).collect()
    }
}

impl Broker {
    /// Records a call that is over a limit, at a bounded rate.
    pub fn refuse_exceeded(&self, tool: Tool, call: &CallId, caller: Option<&Caller>, exceeded: Exceeded) -> Error {
        telemetry::record_limited("core", exceeded.limit().name());
        let key = (caller.map(|caller| Subject::of(caller.principal().id())), exceeded.limit().name());
        self.refuse_repeated(key, 1, tool, call, caller, exceeded.into())
    }

    /// Records a call of somebody who did not prove who they are, at a bounded rate for each peer.
    pub fn refuse_unproven(&self, tool: Tool, call: &CallId, peer: &str, error: Error) -> Error {
        self.refuse_repeated((Some(Subject::of(peer)), error.reason()), UNPROVEN_MOST, tool, call, None, error)
    }

    fn refuse_repeated(
        &self,
        key: Key,
        most: u64,
        tool: Tool,
        call: &CallId,
        caller: Option<&Caller>,
        error: Error,
    ) -> Error {
        let last = || Last {
            tool,
            call: call.clone(),
            caller: caller.cloned(),
            code: error.code(),
            reason: error.reason(),
            message: error.message().to_owned(),
        };
        if self.refusals.is_written(key, most, Instant::now(), last) {
            return self.refuse(tool, call, caller, error);
        }
        error
    }

    /// Writes down how many refusals were counted in the minutes that are over; with `all`, in those that are not too.
    pub fn write_counted(&self, all: bool) {
        for (last, counted) in self.refusals.due(all, Instant::now()) {
            let error = Error::new(last.code, last.reason, last.message);
            self.audit.refuse_counted(last.tool, &last.call, last.caller.as_ref(), &error, counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> Last {
        Last {
            tool: Tool::List,
            call: CallId::new(),
            caller: None,
            code: Code::ResourceExhausted,
            reason: "RATE_LIMITED",
            message: String::new(),
        }
    }

    #[test]
    fn the_first_is_written_and_the_others_are_counted() {
        let (refusals, begun) = (Refusals::default(), Instant::now());
        let key = (Some(Subject::of("alice")), "reads_per_minute");
        assert!(refusals.is_written(key, 1, begun, last));
        assert!((0..1000).all(|_| !refusals.is_written(key, 1, begun, last)));
        assert!(refusals.is_written((key.0, "in_flight"), 1, begun, last), "another limit");
        assert!(refusals.due(false, begun + WINDOW / 2).is_empty());
        let due = refusals.due(false, begun + WINDOW);
        assert_eq!(due.iter().map(|(_, counted)| *counted).collect::<Vec<_>>(), [1000]);
        assert!(refusals.is_written(key, 1, begun + WINDOW, last), "a new minute");
        assert!(refusals.due(true, begun + WINDOW).is_empty(), "nothing was counted");
    }

    #[test]
    fn those_that_are_too_many_to_tell_apart_are_counted_together() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let written = (0..100_000).filter(|number| {
            refusals.is_written((Some(Subject::of(&format!("{number}"))), "TOKEN_INVALID"), 1, now, last)
        });
        assert!(written.count() <= KEYS_MOST + 1);
        let counted: u64 = refusals.due(true, now).iter().map(|(_, counted)| counted).sum();
        assert!(counted >= 90_000, "{counted}");
    }
}
