//! Every request to AWS of a whole run, as it came over the wire: whose power it used, and for what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::aws_double::{Asked, AwsDouble, Fault};
use crate::support::issuer::Issuer;
use crate::support::{Options, Stack, eventually, journal};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The session tag of that key.
fn tag(asked: &Asked, key: &str) -> Option<String> {
    let place = asked
        .params
        .iter()
        .find(|(name, value)| name.starts_with("Tags.member.") && name.ends_with(".Key") && *value == key)?;
    asked.params.get(&place.0.replace(".Key", ".Value")).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_has_its_own_power_and_nothing_else_is_signed() {
    let aws = AwsDouble::start().await;
    let elsewhere = Issuer::start().await;
    let options = Options {
        leases: Some("settle = \"30ms\"\ninterval = \"1s\"\n"),
        oidc_extra: format!(
            "[oidc.partner]\nissuer = \"{}\"\naudience = \"{}\"\n",
            elsewhere.url,
            crate::support::AUDIENCE
        ),
        ..Options::default()
    };
    let stack = Stack::with(&aws.access(), options).await;
    let add = |n: u8, duration: &str| json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "a whole run", "duration": duration});
    // Every tool, by both doors, with dry runs, refusals and faults among them.
    let opened = stack.done("whitelist_add", add(1, "1h")).await;
    let mut dry = add(3, "1h");
    dry["dry_run"] = true.into();
    stack.done("whitelist_add", dry).await;
    let mut both = add(4, "1h");
    both.as_object_mut().expect("an object").remove("security_group");
    both["security_groups"] = json!(["staging-db", "payroll-db"]);
    stack.done("whitelist_add", both).await;
    stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    stack
        .done("whitelist_check", json!({"security_group": "staging-db", "address": "203.0.113.1", "port": "22"}))
        .await;
    stack.done("whitelist_extend", json!({"security_group": "staging-db", "port": "22", "duration": "2h"})).await;
    stack
        .done(
            "whitelist_move",
            json!({"security_group": "staging-db", "from_address": "203.0.113.1", "address": "203.0.113.9"}),
        )
        .await;
    // After what extends and moves whatever the caller holds.
    stack.done("whitelist_add", add(2, "1s")).await;
    stack.done("whitelist_leases", json!({})).await;
    stack.done("whitelist_targets", json!({})).await;
    stack
        .refused(
            "whitelist_add",
            json!({"security_group": "staging-db", "address": "0.0.0.0/0", "port": "22", "reason": "all"}),
        )
        .await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::ActThenCut);
    stack.call("whitelist_add", add(5, "1h")).await;
    aws.fail("DescribeSecurityGroupRules", Fault::Refuse(503, "RequestLimitExceeded"));
    stack.call("whitelist_list", json!({"security_group": "payroll-db"})).await;
    stack.done("whitelist_remove", json!({"security_group": "payroll-db", "address": "203.0.113.4"})).await;
    // The same name, from another issuer.
    let other = elsewhere.token("alice", "whitelist:read whitelist:write");
    assert_eq!(stack.call_as(&other, "whitelist_add", add(6, "1h")).await["isError"], false);
    let request = whitelistmcp::pb::whitelistmcp::v1::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.7".to_owned(),
        port: "22".to_owned(),
        reason: "a service".to_owned(),
        ..Default::default()
    };
    stack.grpc("ci-runner").add_rule(request).await.expect("opened");
    eventually("what was opened for a second is closed", async || {
        (!aws.standing().iter().any(|rule| rule.source == "203.0.113.2/32")).then_some(())
    })
    .await;
    stack.stop().await;
    assert!(opened["rule"]["rule_id"].is_string());

    let entries = journal(&stack.directory.path().join("journal"));
    let asked = aws.asked();
    // The base credentials sign AssumeRole and nothing else; each session's key is its own.
    let base = aws.access().access_key_id;
    let (assumed, used): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|asked| asked.action == "AssumeRole");
    assert!(assumed.iter().all(|asked| asked.key == base), "sessions lend no sessions");
    assert!(used.iter().all(|asked| asked.key != base), "the service's own key signs nothing but AssumeRole");
    assert!(used.len() > 20, "{}", used.len());

    // One AssumeRole for each operation that touched AWS, tagged with its call.
    let touched: BTreeSet<&str> = entries
        .iter()
        .filter(|entry| entry["type"] == "end" && entry["aws"].as_array().is_some_and(|calls| !calls.is_empty()))
        .map(|entry| text(entry, "call"))
        .collect();
    let tagged: Vec<String> =
        assumed.iter().map(|asked| tag(asked, "call").expect("each session is of a call")).collect();
    assert_eq!(tagged.iter().map(String::as_str).collect::<BTreeSet<_>>(), touched, "as many sessions as operations");
    assert_eq!(tagged.len(), touched.len(), "and none has two");

    // Each key is used by one operation: its requests are that operation's, one after the other.
    let mut by_key: BTreeMap<&str, usize> = BTreeMap::new();
    for asked in &used {
        *by_key.entry(&asked.key).or_default() += 1;
    }
    let calls: BTreeMap<&str, usize> = entries
        .iter()
        .filter(|entry| entry["type"] == "end")
        .map(|entry| {
            (
                text(entry, "call"),
                entry["aws"]
                    .as_array()
                    .map_or(0, |calls| calls.iter().filter(|call| call["action"] != "sts:AssumeRole").count()),
            )
        })
        .collect();
    let lent: BTreeMap<String, String> =
        assumed.iter().zip(&tagged).map(|(asked, call)| (asked.key.clone() + call, call.clone())).collect();
    assert_eq!(lent.len(), touched.len());
    assert!(by_key.len() <= touched.len(), "{} keys for {} operations", by_key.len(), touched.len());
    assert!(calls.values().sum::<usize>() <= used.len(), "the SDK's own retries are not in the entries");

    // Who is on the session: never one id for two people.
    let begun = |call: &str| {
        entries.iter().find(|entry| entry["type"] == "begin" && text(entry, "call") == call).expect("a begin")
    };
    let mut people: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (asked, call) in assumed.iter().zip(&tagged) {
        let who = &begun(call)["who"];
        let identity = asked.params.get("SourceIdentity").expect("a source identity");
        assert_eq!((Some(identity), text(who, "id")), (asked.params.get("RoleSessionName"), identity.as_str()));
        assert_eq!(tag(asked, "tool").as_deref(), Some(text(begun(call), "tool")));
        people.entry(identity.clone()).or_default().insert(format!("{} {}", text(who, "issuer"), text(who, "subject")));
    }
    assert!(people.values().all(|of| of.len() == 1), "{people:#?}");
    let alices: BTreeSet<&String> = people.keys().filter(|id| id.starts_with("alice@")).collect();
    assert_eq!(alices.len(), 2, "the same name of two issuers is two people: {people:#?}");
    assert!(people.keys().any(|id| id.starts_with("reconciler-")) && people.keys().any(|id| id.contains("ci-runner")));
}
