//! What became of changes that a former process began and did not live to end.
//!
//! Every lease carries the call that made or last changed it, and a rule the call that made it: AWS itself shows
//! whether a change was carried out.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::audit::{Found, Unfinished};
use crate::broker::failure::Failure;
use crate::broker::{Answer, Broker, settle};
use crate::error::{Chain, Error};
use crate::identity::Caller;
use crate::operation::Operation;
use crate::operation::rule::Rule;
use crate::operation::target::{AccountId, GroupId, Place, Region};

/// How long is waited before AWS is asked again.
const AGAIN: Duration = Duration::from_secs(10);

/// Ends what former processes left open. What AWS cannot be asked about now is asked about later.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut open = match broker.audit.unfinished() {
        Ok(open) => open,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the former journals cannot be read: what they began is not recovered");
            return;
        }
    };
    if open.is_empty() {
        return;
    }
    tracing::warn!(
        changes = open.len(),
        "a former process began changes that it did not end; AWS is asked what became of them"
    );
    // A request may have been on its way when the process ended.
    let mut wait = broker.config.settle;
    while !open.is_empty() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let mut left = Vec::new();
        for change in open {
            if let Err(error) = broker.recover(&change).await {
                tracing::warn!(call = change.call, error = %Chain(&error), "what became of a change cannot be found out now");
                left.push(change);
            }
        }
        (open, wait) = (left, AGAIN);
    }
}

impl Broker {
    /// Finds out what became of a change, and ends its entry.
    async fn recover(&self, change: &Unfinished) -> Result<(), Error> {
        let parsed = || {
            let place = Place::new(AccountId::parse(&change.account)?, Region::parse(&change.region)?);
            Ok::<_, crate::operation::target::TargetError>((place, GroupId::parse(&change.group)?))
        };
        let (place, group) = parsed()?;
        let caller = Arc::new(Caller::own("recovery"));
        let operation = Operation::recover(self.targets().found(&place, &group), self.clock.now());
        let call = operation.call().clone();
        let (permit, policy) = self.permit(caller, operation)?;
        let entry = self.audit.begin_read(&permit, policy.sha256());
        let mut standing = Vec::new();
        let result = async {
            let session = self.aws.assume(&permit, &policy, &entry, None).await?;
            standing = session.rules().await?;
            Ok::<_, Failure>(Answer::Leases(Vec::new()))
        }
        .await;
        match settle(entry, result, false, false) {
            Ok(_) => {}
            // A group that is gone cannot tell any more.
            Err(error) if error.reason() == "SECURITY_GROUP_NOT_FOUND" => {}
            Err(error) => return Err(error),
        }
        let (found, rules) = judge(change, standing, self.now());
        tracing::warn!(call = change.call, tool = change.tool, ?found, "a change of a former process is accounted for");
        self.audit.recovered(&change.call, found, &rules, &call);
        Ok(())
    }
}

/// What AWS shows of a change.
fn judge(change: &Unfinished, standing: Vec<Rule>, now: Timestamp) -> (Found, Vec<Rule>) {
    let by_it = |rule: &Rule| {
        rule.ownership()
            .is_some_and(|own| own.call == change.call || own.leases.iter().any(|lease| lease.call == change.call))
    };
    let asked = change.arguments.get("openings").and_then(Value::as_array).map_or(1, Vec::len);
    let rule_id = change.arguments.get("rule_id").or_else(|| change.arguments.pointer("/rules/rule_id"));
    let rule_id = rule_id.and_then(Value::as_str);
    let named = rule_id.map(|id| standing.iter().any(|rule| rule.id.as_deref() == Some(id)));
    let until = change.arguments.get("until").and_then(Value::as_str).and_then(|until| until.parse::<Timestamp>().ok());
    let rules: Vec<Rule> = standing.into_iter().filter(by_it).collect();
    let found = match change.tool.as_str() {
        "whitelist_add" => match rules.len() {
            // A rule that has ended since would be gone either way.
            0 if until.is_some_and(|until| until <= now) => Found::Unknown,
            0 => Found::NotDone,
            made if made >= asked => Found::Done,
            _ => Found::Unknown,
        },
        "whitelist_extend" | "whitelist_move" if !rules.is_empty() => Found::Done,
        "whitelist_extend" | "whitelist_move" => match until {
            Some(until) if until <= now => Found::Unknown,
            _ => Found::NotDone,
        },
        // A lease that the call has ended still shows it, unless the rule is gone, which is what was asked for.
        "whitelist_remove" | "whitelist_revoke_holder" | "close" => match (named, rules.is_empty()) {
            (_, false) | (Some(false), true) => Found::Done,
            (Some(true), true) => Found::NotDone,
            (None, true) => Found::Unknown,
        },
        _ => Found::Unknown,
    };
    (found, rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operation::address::Block;
    use crate::operation::lease::{Holder, Lease};
    use crate::operation::ownership::{Made, Ownership};
    use crate::operation::port::Ports;
    use crate::operation::rule::{Source, Traffic};

    const CALL: &str = "01980000-0000-7000-8000-000000000001";
    const OTHER: &str = "01980000-0000-7000-8000-000000000002";

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn rule(made_by: &str, changed_by: &str) -> Rule {
        let holder = Holder::new("alice", "alice-0123456789abcdef").expect("an id");
        let lease =
            Lease::new(holder, "because", time("2027-01-01T00:00:00Z"), time("2027-01-01T02:00:00Z"), changed_by);
        let own = Ownership { call: made_by.to_owned(), ..Ownership::new(lease, None) };
        Rule {
            id: Some("sgr-0123456789abcdef0".to_owned()),
            source: Source::Block(Block::from_aws("203.0.113.7/32").expect("a block")),
            traffic: Traffic::Ports(Ports::parse(Some("22"), None).expect("a port")),
            description: String::new(),
            made: Made::Here(own),
            tags: 3,
        }
    }

    fn judged(tool: &str, arguments: Value, standing: Vec<Rule>, now: &str) -> Found {
        let change = Unfinished {
            call: CALL.to_owned(),
            tool: tool.to_owned(),
            account: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            group: "sg-00000000".to_owned(),
            at: time("2027-01-01T00:00:00Z"),
            arguments,
        };
        judge(&change, standing, time(now)).0
    }

    #[test]
    fn aws_shows_what_became_of_a_change() {
        let one = json!({"openings": [{}], "until": "2027-01-01T02:00:00Z"});
        let two = json!({"openings": [{}, {}], "until": "2027-01-01T02:00:00Z"});
        let named = json!({"rules": {"rule_id": "sgr-0123456789abcdef0"}});
        let by_address = json!({"rules": {"rule_id": null, "addresses": ["203.0.113.7/32"]}});
        let close = json!({"rule_id": "sgr-0123456789abcdef0"});
        let (soon, late) = ("2027-01-01T00:01:00Z", "2027-01-01T03:00:00Z");
        for (tool, arguments, standing, now, found) in [
            ("whitelist_add", &one, vec![rule(CALL, CALL)], soon, Found::Done),
            ("whitelist_add", &one, vec![rule(OTHER, CALL)], soon, Found::Done),
            ("whitelist_add", &one, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("whitelist_add", &one, vec![], late, Found::Unknown),
            ("whitelist_add", &two, vec![rule(CALL, CALL)], soon, Found::Unknown),
            ("whitelist_extend", &one, vec![rule(OTHER, CALL)], soon, Found::Done),
            ("whitelist_extend", &one, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("whitelist_move", &by_address, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("whitelist_remove", &named, vec![], soon, Found::Done),
            ("whitelist_remove", &named, vec![rule(OTHER, CALL)], soon, Found::Done),
            ("whitelist_remove", &named, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("whitelist_remove", &by_address, vec![], soon, Found::Unknown),
            ("close", &close, vec![], soon, Found::Done),
            ("close", &close, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("tidy", &close, vec![rule(OTHER, OTHER)], soon, Found::Unknown),
        ] {
            assert_eq!(judged(tool, arguments.clone(), standing, now), found, "{tool} {arguments} at {now}");
        }
    }
}
