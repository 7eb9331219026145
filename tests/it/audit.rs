//! The journal: before AWS is touched, after, whole, and in the way of every change that it cannot record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::aws_double::AwsDouble;
use crate::support::{Options, Stack, journal};

fn add(n: u8) -> Value {
    json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "ticket OPS-1"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_intent_is_on_disk_before_aws_hears_of_it() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let directory = stack.directory.path().join("journal");
    let early = Arc::new(AtomicBool::new(true));
    let begun = Arc::new(Mutex::new(Vec::new()));
    let (seen, ok) = (Arc::clone(&begun), Arc::clone(&early));
    aws.watch(move |asked| {
        let entries = journal(&directory);
        let open = entries.iter().filter(|entry| entry["type"] == "begin" && entry["changes"] == true).count();
        let ended = entries.iter().filter(|entry| entry["type"] == "end").count();
        ok.fetch_and(open == 1 && ended == 0, Ordering::Relaxed);
        seen.lock().expect("not poisoned").push(asked.action.clone());
    });
    let opened = stack.done("whitelist_add", add(7)).await;
    assert!(early.load(Ordering::Relaxed), "each request to AWS found the begin in the journal, and no end");
    assert_eq!(
        *begun.lock().expect("not poisoned"),
        ["AssumeRole", "DescribeSecurityGroupRules", "AuthorizeSecurityGroupIngress"]
    );

    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let begin = entries.iter().find(|entry| entry["type"] == "begin").expect("a begin");
    assert_eq!(
        (begin["call"].as_str(), begin["who"]["name"].as_str()),
        (opened["call_id"].as_str(), Some("alice@example.test"))
    );
    assert_eq!(
        (begin["who"]["issuer"].as_str(), begin["who"]["client"].as_str(), begin["who"]["address"].as_str()),
        (Some(stack.issuer.url.as_str()), Some("test"), Some("127.0.0.1"))
    );
    assert_eq!(
        (begin["who"]["peer"].as_str(), begin["arguments"]["reason"].as_str()),
        (Some(crate::support::EDGE), Some("ticket OPS-1"))
    );
    assert_eq!(begin["policies"][0], "people-on-configured-groups");
    let end = entries.iter().find(|entry| entry["type"] == "end").expect("an end");
    assert_eq!(
        (end["outcome"].as_str(), end["changed"].as_bool(), end["before"].as_array().map(Vec::len)),
        (Some("done"), Some(true), Some(0))
    );
    assert_eq!(end["rules"][0]["id"], opened["rule"]["rule_id"]);
    assert!(
        end["aws"]
            .as_array()
            .is_some_and(|calls| calls.len() == 3 && calls.iter().all(|call| call["request_id"] == "req-1")),
        "{end:#}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_is_whole_under_load() {
    let aws = AwsDouble::start().await;
    let stack = Arc::new(Stack::start(&aws).await);
    let calls = (0..40).map(|n| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move {
            let result = stack.call("whitelist_add", add(n % 10)).await;
            assert_eq!(result["isError"], false, "{result:#}");
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic");
    }
    assert_eq!(aws.tags().len(), 10, "the same rule was asked for four times and made once");
    stack.stop().await;
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "end").count() == 40).await;
    let changed = entries.iter().filter(|entry| entry["changed"] == true).count();
    assert_eq!(changed, 10);
    let file = crate::support::journal_file(&stack.directory.path().join("journal"));
    let (mut prev, mut seq) = ("0".repeat(64), 0);
    for line in std::fs::read_to_string(file).expect("text").lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        seq += 1;
        assert_eq!(
            (entry["prev"].as_str(), entry["seq"].as_u64(), entry["v"].as_u64()),
            (Some(prev.as_str()), Some(seq), Some(2))
        );
        prev = Sha256::digest(line).iter().map(|byte| format!("{byte:02x}")).collect();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_journal_nothing_is_changed_and_everything_read() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { without_journal: true, ..Options::default() }).await;
    let error = stack.refused("whitelist_add", add(7)).await;
    assert_eq!(
        (error["code"].as_str(), error["reason"].as_str()),
        (Some("FAILED_PRECONDITION"), Some("AUDIT_NOT_CONFIGURED"))
    );
    let error = stack.refused("whitelist_remove", json!({"security_group": "staging-db", "port": "22"})).await;
    assert_eq!(error["reason"], "AUDIT_NOT_CONFIGURED");
    assert!(aws.asked().is_empty());
    stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    let mut dry = add(7);
    dry["dry_run"] = true.into();
    assert_eq!(stack.done("whitelist_add", dry).await["outcome"], "would_open");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_recorded_and_nothing_secret_is() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", add(7)).await;
    stack
        .refused(
            "whitelist_add",
            json!({"security_group": "staging-db", "address": "0.0.0.0/0", "port": "22", "reason": "everyone"}),
        )
        .await;
    stack.refused("whitelist_list", json!({"security_group": "nowhere-db"})).await;
    let mut request = tonic::Request::new(whitelistmcp::pb::whitelistmcp::v1::ListRulesRequest::default());
    request.metadata_mut().insert("authorization", "Bearer made-up".parse().expect("ASCII"));
    assert!(stack.grpc("edge").list_rules(request).await.is_err());
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "refused").count() == 3).await;
    let refused: Vec<_> = entries
        .iter()
        .filter(|entry| entry["type"] == "refused")
        .map(|entry| {
            (entry["error"]["reason"].as_str().unwrap_or_default(), entry["who"]["name"].as_str().unwrap_or("nobody"))
        })
        .collect();
    assert_eq!(
        refused,
        [
            ("POLICY_FORBIDS", "alice@example.test"),
            ("SECURITY_GROUP_UNKNOWN", "alice@example.test"),
            ("TOKEN_INVALID", "nobody")
        ]
    );
    let text = format!("{entries:?}");
    for secret in
        [stack.token().as_str(), "made-up", "base-secret", "session-secret", "session-token", "test-external-id"]
    {
        assert!(!text.contains(secret), "{secret}");
    }
    stack.stop().await;
}
