//! What became of changes that a former process began and did not live to end.
//!
//! Every lease carries the call that made or last changed it, and a rule the call that made it: AWS itself shows
//! whether a change was carried out.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::{Found, Orphan, Unfinished};
use crate::broker::failure::Failure;
use crate::broker::{Answer, Broker, settle};
use crate::error::{Chain, Error};
use crate::identity::Caller;
use crate::operation::rule::Rule;
use crate::operation::target::{AccountId, GroupId, Place, Region};
use crate::operation::{CallId, Operation};

/// How long is waited before AWS is asked again.
const AGAIN: Duration = Duration::from_secs(10);
/// And how long at most, if AWS goes on not answering.
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);
/// How often is looked for processes that have gone since, where several share a directory.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Ends what former processes left open, until the service shuts down. What AWS cannot be asked about now is asked about
/// later.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    loop {
        // What AWS was asked at last may not show in a read yet.
        let mut wait = broker.config.settle;
        let mut orphans = adopt(&broker).await;
        // A request may have been on its way when the process ended, and arrive after the first look.
        let arrived = Instant::now() + broker.config.on_its_way;
        let mut looked = Instant::now();
        while !orphans.is_empty() {
            if pause(&stop, wait).await.is_none() {
                return;
            }
            let (mut left, may_arrive) = (Vec::new(), Instant::now() < arrived);
            for (orphan, open) in orphans {
                let open = broker.recover_all(open, may_arrive).await;
                if !open.is_empty() {
                    left.push((orphan, open));
                } else if let Err(error) = broker.audit.settled(orphan) {
                    tracing::warn!(error = %Chain(&error), "a chain that is accounted for could not be put away; the next process looks at it again");
                }
            }
            let again = (wait * 2).clamp(AGAIN, AGAIN_AT_MOST);
            wait = if may_arrive { again.min(arrived.saturating_duration_since(Instant::now())) } else { again };
            orphans = left;
            // An account that cannot be asked for long keeps nobody from what other processes have left since.
            if looked.elapsed() >= LOOK_AGAIN {
                looked = Instant::now();
                orphans.extend(adopt(&broker).await);
            }
        }
        if pause(&stop, LOOK_AGAIN).await.is_none() {
            return;
        }
    }
}

/// Waits; none if the service shuts down meanwhile.
async fn pause(stop: &CancellationToken, length: Duration) -> Option<()> {
    stop.run_until_cancelled(tokio::time::sleep(length)).await
}

/// Takes over the chains whose processes are gone, on record.
async fn adopt(broker: &Broker) -> Vec<(Orphan, Vec<Unfinished>)> {
    let audit = broker.audit.clone();
    let found = match tokio::task::spawn_blocking(move || audit.orphans()).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::error!(error = %Chain(&error), "the former journals cannot be read: what they began is not recovered");
            return Vec::new();
        }
        Err(panic) => {
            tracing::error!(error = %panic, "the former journals could not be read");
            return Vec::new();
        }
    };
    let mut orphans = Vec::new();
    for orphan in found {
        // One that is not on record is let go of, and found again.
        if let Err(error) = broker.audit.adopt(&orphan).await {
            tracing::error!(chain = orphan.chain(), error = %Chain(&error), "how a former process ended cannot be recorded now");
            continue;
        }
        let open = orphan.unfinished().to_vec();
        if !open.is_empty() {
            tracing::warn!(
                chain = orphan.chain(),
                changes = open.len(),
                "a former process began changes that it did not end; AWS is asked what became of them"
            );
        }
        orphans.push((orphan, open));
    }
    orphans
}

impl Broker {
    /// Finds out what became of changes, and ends their entries; those that it could not are left.
    async fn recover_all(&self, open: Vec<Unfinished>, may_arrive: bool) -> Vec<Unfinished> {
        let mut left = Vec::new();
        for change in open {
            match self.recover(&change, may_arrive).await {
                Ok(true) => {}
                Ok(false) => left.push(change),
                Err(error) => {
                    tracing::warn!(call = change.call, error = %Chain(&error), "what became of a change cannot be found out now");
                    left.push(change);
                }
            }
        }
        left
    }

    /// Finds out what became of a change, and ends its entry; false if it may still arrive in AWS.
    async fn recover(&self, change: &Unfinished, may_arrive: bool) -> Result<bool, Error> {
        let parsed = || {
            let place = Place::new(AccountId::parse(&change.account)?, Region::parse(&change.region)?);
            Ok::<_, crate::operation::target::TargetError>((place, GroupId::parse(&change.group)?))
        };
        let Ok((place, group)) = parsed() else {
            self.audit.recovered(&change.call, Found::Unknown, &[], &CallId::new()).await?;
            return Ok(true);
        };
        let caller = Arc::new(Caller::own("recovery"));
        let operation = Operation::recover(self.targets().found(&place, &group), self.clock.now());
        let call = operation.call().clone();
        // An account that is no longer configured cannot be asked.
        if self.aws.accounts().find(place.account()).is_none() {
            self.audit.recovered(&change.call, Found::Unknown, &[], &call).await?;
            return Ok(true);
        }
        let (permit, policy) = self.permit(caller, operation)?;
        let entry = self.audit.begin_read(&permit, policy.sha256());
        let mut standing = Vec::new();
        let result = async {
            let session = self.aws.assume(&permit, &policy, &entry, None).await?;
            standing = session.rules().await?;
            Ok::<_, Failure>(Answer::Leases(Vec::new()))
        }
        .await;
        match settle(entry, result, false, crate::broker::Done::default()) {
            Ok(_) => {}
            // A group that is gone cannot tell any more.
            Err(error) if error.reason() == "SECURITY_GROUP_NOT_FOUND" => {
                self.audit.recovered(&change.call, Found::Unknown, &[], &call).await?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let (found, rules) = judge(change, standing, self.now());
        if may_arrive && found != Found::Done {
            return Ok(false);
        }
        tracing::warn!(call = change.call, tool = change.tool, ?found, "a change of a former process is accounted for");
        self.audit.recovered(&change.call, found, &rules, &call).await?;
        Ok(true)
    }
}

/// How long after its begin the absence of a change still means that it was not made: later somebody else may have
/// taken it back.
const TELLING: SignedDuration = SignedDuration::from_mins(15);

/// What AWS shows of a change.
fn judge(change: &Unfinished, standing: Vec<Rule>, now: Timestamp) -> (Found, Vec<Rule>) {
    let asked = |pointer: &str| change.arguments.pointer(pointer).and_then(Value::as_str);
    let openings = change.arguments.get("openings").and_then(Value::as_array).map_or(1, Vec::len);
    let named: Vec<&str> = match change.arguments.get("rule_ids").and_then(Value::as_array) {
        Some(ids) => ids.iter().filter_map(Value::as_str).collect(),
        None => asked("/rules/rule_id").into_iter().collect(),
    };
    let stands = |id: &&str| standing.iter().any(|rule| rule.id.as_deref() == Some(*id));
    let (here, any_named) = (named.iter().filter(|id| stands(id)).count(), !named.is_empty());
    // A lease that the call ended still shows it, and so does a rule that it was about to take away or has moved.
    let shows = |rule: &Rule| {
        rule.ownership().is_some_and(|own| {
            let moved = asked("/to").is_some_and(|to| rule.source.to_string() == to) && own.is_marked_by(&change.call);
            own.call == change.call || own.leases.iter().any(|lease| lease.call == change.call) || moved
        })
    };
    // What the call was about as well, and does not show it.
    let addresses: Vec<&str> = change
        .arguments
        .pointer("/rules/addresses")
        .and_then(Value::as_array)
        .map(|addresses| addresses.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let untouched = |rule: &&Rule| {
        let address = addresses.is_empty() || addresses.contains(&rule.source.to_string().as_str());
        let meant = address && (!any_named || rule.id.as_deref().is_some_and(|id| named.contains(&id)));
        let own = rule.ownership().is_some_and(|own| own.live(now).any(|lease| lease.holder.is_id(&change.who)));
        meant && own && !shows(rule)
    };
    let left = standing.iter().filter(untouched).count();
    let absent = if now.duration_since(change.at) < TELLING { Found::NotDone } else { Found::Unknown };
    let rules: Vec<Rule> = standing.into_iter().filter(|rule| shows(rule)).collect();
    let found = match change.tool.as_str() {
        "whitelist_add" => match rules.len() {
            0 => absent,
            made if made >= openings => Found::Done,
            _ => Found::Unknown,
        },
        "whitelist_extend" | "whitelist_move" | "whitelist_remove" | "whitelist_revoke_holder" if !rules.is_empty() => {
            // Of several rules some may have been left.
            if left == 0 { Found::Done } else { Found::Unknown }
        }
        "whitelist_extend" | "whitelist_move" => absent,
        // A rule that is gone is what was asked for.
        "whitelist_remove" | "close" if any_named => match here {
            0 => Found::Done,
            here if here == named.len() => Found::NotDone,
            _ => Found::Unknown,
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
            who: "alice-0123456789abcdef".to_owned(),
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
        let close = json!({"rule_ids": ["sgr-0123456789abcdef0"]});
        let (soon, late) = ("2027-01-01T00:01:00Z", "2027-01-01T03:00:00Z");
        for (tool, arguments, standing, now, found) in [
            ("whitelist_add", &one, vec![rule(CALL, CALL)], soon, Found::Done),
            ("whitelist_add", &one, vec![rule(OTHER, CALL)], soon, Found::Done),
            ("whitelist_add", &one, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("whitelist_add", &one, vec![], late, Found::Unknown),
            ("whitelist_add", &two, vec![rule(CALL, CALL)], soon, Found::Unknown),
            ("whitelist_extend", &one, vec![rule(OTHER, CALL)], soon, Found::Done),
            ("whitelist_extend", &one, vec![rule(OTHER, OTHER)], soon, Found::NotDone),
            ("whitelist_extend", &one, vec![rule(OTHER, CALL), rule(OTHER, OTHER)], soon, Found::Unknown),
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
