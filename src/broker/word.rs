//! The word that policy wants before a change is made: asked for, found, or gone without by who may break the glass.

use super::Job;
use jiff::{SignedDuration, Timestamp};

use super::answer::Item;
use super::failure::Failure;
use crate::approval::{Binding, Change, Request, State, Target, WhoseWord};
use crate::digest::sha256_hex;
use crate::error::{Code, Error};
use crate::identity;
use crate::operation::rule::Rule;
use crate::operation::term::whole_seconds;
use crate::operation::{Kind, Operation, Whose};
use crate::policy::{Demand, Denial, Pending, Word};
use crate::telemetry;

impl Job<'_> {
    /// The permit behind what policy has decided: at once where nothing is demanded, else by the word that is.
    pub(super) async fn released<P>(&self, pending: Pending<P>, standing: &[Rule]) -> Result<P, Failure> {
        let (pending, demand) = match pending.free() {
            Ok(permit) => return Ok(permit),
            Err(pending) => {
                // INVARIANT: what is not free demands something.
                let demand = pending.demand().cloned().ok_or(Failure::Denied(Denial::NotPermitted))?;
                (pending, demand)
            }
        };
        let word = self.word(&demand, standing).await?;
        let recorded = self.recorded.vouched(&word, demand.policies()).await;
        recorded.map_err(|error| Failure::Wrong(error.into()))?;
        Ok(pending.released(&word)?)
    }

    async fn word(&self, demand: &Demand, standing: &[Rule]) -> Result<Word, Failure> {
        let operation = self.permit.operation();
        let principal = self.permit.caller().principal();
        if operation.manner().is_some_and(|manner| manner.break_glass) {
            let glass = self.permit.policy().break_glass(self.permit)?;
            // Loud on purpose: an alert hangs on it.
            tracing::error!(
                alert = "break_glass",
                who = principal.id(),
                call = operation.call().as_str(),
                tool = operation.tool().name(),
                target = operation.scope().label(),
                policies = demand.policies().join(","),
                "somebody goes ahead without the word that policy asks for"
            );
            telemetry::record_break_glass(operation.tool().name());
            return Ok(Word::Glass(glass));
        }
        let Some(approvals) = &self.broker.approvals else {
            let hint = "this service is not configured to ask anybody (`[approvals]`)";
            return Err(without_a_word(demand, hint));
        };
        if demand.from == WhoseWord::Requester && principal.kind() != identity::Kind::Person {
            return Err(without_a_word(demand, "a program has no word of its own to give"));
        }
        let ((items, _), _) = self.broker.would(self.permit, standing)?;
        let lines: Vec<String> = items.iter().map(|item| line(operation, item, self.now())).collect();
        let binding = Binding::new(principal, &operation.fingerprint(), &difference(&lines));
        let describe = || described(operation, self.permit.caller(), demand, lines);
        let found = approvals.word(&binding, demand.from, describe).await;
        match found.map_err(|error| Failure::Wrong(error.into()))? {
            Ok(granted) => Ok(Word::Granted(granted)),
            Err(request) if request.state() == State::Declined => Err(Failure::Declined(Box::new(request))),
            Err(request) => Err(Failure::Waits(Box::new(request), demand.reasons.clone())),
        }
    }
}

/// A refusal where nobody's word can be had.
fn without_a_word(demand: &Demand, why: &str) -> Failure {
    let denial = Denial::Forbidden(demand.reasons.clone());
    let error = Error::new(
        Code::PermissionDenied,
        "POLICY_FORBIDS",
        format!("{denial} Somebody's word would be needed: {why}"),
    );
    Failure::Wrong(error.fact("policies", demand.policies().join(",")))
}

/// A digest of what a change would make of each rule that it touches. What else stands in the group does not count: it
/// may come and go while a request waits.
fn difference(lines: &[String]) -> String {
    let mut parts = lines.to_vec();
    parts.sort();
    sha256_hex(parts.join("\n"))
}

/// What would become of one rule: what is let in, for how long, and whose leases end. Who decides reads the same.
fn line(operation: &Operation, item: &Item, now: Timestamp) -> String {
    let id = item.rule.id.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
    let (traffic, source) = (&item.rule.traffic, &item.rule.source);
    let length = match (operation.kind(), item.until) {
        // A move keeps the end: it is a point in time.
        (Kind::Move(_), Some(until)) => format!(", until {until}"),
        // A length that is counted from when it is done.
        (Kind::Extend(_), Some(until)) => {
            let from = whole_seconds(operation.received());
            format!(", for {:#}", SignedDuration::from_secs(until.duration_since(from).as_secs()))
        }
        _ => String::new(),
    };
    let ending = match operation.kind() {
        Kind::Remove(remove) if remove.whose != Whose::Own => {
            let holders = item.rule.ownership().into_iter().flat_map(|own| own.live(now));
            let mut holders: Vec<String> = holders
                .filter(|lease| match &remove.whose {
                    Whose::Named(name) => lease.holder.is_called(name),
                    Whose::Own | Whose::Everyone => true,
                })
                .map(|lease| lease.holder.id())
                .collect();
            holders.sort();
            format!(", ending the leases of {}", holders.join(", "))
        }
        _ => String::new(),
    };
    let word = item.word.as_str(true).replace('_', " ");
    format!("{word}: {} port {traffic} from {source}{id}{length}{ending}", traffic.protocol())
}

/// The change in words, for who is to decide.
fn described(operation: &Operation, caller: &identity::Caller, demand: &Demand, lines: Vec<String>) -> Change {
    let scope = operation.scope();
    let principal = caller.principal();
    let mut details = vec![
        ("Group".to_owned(), scope.label()),
        ("Account and Region".to_owned(), scope.place().to_string()),
        ("Asked for by".to_owned(), format!("{} ({})", principal.name(), principal.id())),
        ("Known by".to_owned(), principal.issuer().to_owned()),
    ];
    details.extend(caller.address().map(|address| ("Calling from".to_owned(), address.to_string())));
    details.extend(lines.into_iter().map(|line| ("Would do".to_owned(), line)));
    let (reason, whose) = match operation.kind() {
        Kind::Add(add) => (add.reason.as_str(), None),
        Kind::Extend(extend) => (extend.reason.as_deref().unwrap_or_default(), None),
        Kind::Remove(remove) => (remove.reason.as_str(), Some(whose(&remove.whose))),
        _ => ("", None),
    };
    details.extend(whose.map(|whose| ("Whose leases end".to_owned(), whose)));
    let words = operation.term().map(|term| term.words()).filter(|words| !words.is_empty());
    details.extend(words.map(|words| ("How long".to_owned(), words.to_owned())));
    if !reason.is_empty() {
        details.push(("Reason given".to_owned(), reason.to_owned()));
    }
    details.extend(demand.reasons.iter().map(|reason| (format!("Policy {}", reason.policy), reason.message.clone())));
    Change {
        tool: operation.tool().name(),
        target: Target {
            account: scope.place().account().to_string(),
            region: scope.place().region().to_string(),
            group: scope.group().map(|target| target.group().to_string()).unwrap_or_default(),
        },
        title: format!("{} asks for {} on {}", principal.name(), operation.tool().name(), scope.label()),
        details,
        call: operation.call().as_str().to_owned(),
        policies: demand.policies(),
    }
}

fn whose(whose: &Whose) -> String {
    match whose {
        Whose::Own => "the requester's own".to_owned(),
        Whose::Everyone => "everybody's".to_owned(),
        Whose::Named(name) => format!("those of {name}"),
    }
}

/// What a change waits for, in words.
pub(super) fn waits_for(request: &Request) -> &'static str {
    match request.from() {
        WhoseWord::Another => "another person's word",
        WhoseWord::Requester => "your own word, by a login of yours in a browser",
    }
}
