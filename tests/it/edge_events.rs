//! What the edge refuses by itself: written down by the edge, bounded, and in nobody's way.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::{Options, Stack, eventually, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_edge_refuses_is_its_own_event_and_no_line_of_the_journal() {
    let aws = AwsDouble::start().await;
    let extra = "events = { file = \"{at}/events.jsonl\", max_bytes = 20000, older = 1 }\n";
    let stack = Stack::with(&aws.access(), Options { edge_extra: extra, ..Options::default() }).await;
    let file = stack.directory.path().join("events.jsonl");
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let reader = stack.issuer.token("bob", "whitelist:read");
    let add = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_add",
        "arguments": {"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "x"}}})
    .to_string();
    stack.post(None, &[], "{}").await;
    stack.post(Some("made-up-token-4711"), &[], "{}").await;
    stack.post(Some(&stack.token()), &[], "{not json").await;
    stack.post(Some(&stack.token()), &[("origin", "https://evil.example")], "{}").await;
    stack.post(Some(&reader), &[], add).await;
    stack.call("whitelist_list", json!({"security_group": "staging-db", "sceurity": "my-secret-argument"})).await;
    stack.rpc(&stack.token(), "tools/call", json!({"name": "whitelist_made_up"})).await;
    let seen = eventually("all are written", async || {
        let events = events();
        (events.len() >= 7).then_some(events)
    })
    .await;
    let reasons: Vec<&str> = seen.iter().filter_map(|event| event["reason"].as_str()).collect();
    for reason in [
        "TOKEN_MISSING",
        "TOKEN_INVALID",
        "MESSAGE_MALFORMED",
        "STRANGER",
        "SCOPE_MISSING",
        "ARGUMENT_UNKNOWN",
        "PROTOCOL_ERROR",
    ] {
        assert!(reasons.contains(&reason), "{reason}: {reasons:?}");
    }
    assert!(seen.iter().all(|event| event["address"] == "127.0.0.1" && event["at"].is_string()));
    // Who is named only where it is proven.
    let of = |reason: &str| seen.iter().find(|event| event["reason"] == reason).expect("an event");
    assert!(of("TOKEN_INVALID").get("who").is_none());
    assert!(of("SCOPE_MISSING")["who"].as_str().is_some_and(|who| who.starts_with("bob")));
    let text = std::fs::read_to_string(&file).expect("text");
    assert!(
        !text.contains("made-up-token-4711") && !text.contains("my-secret-argument") && !text.contains("not json"),
        "{text}"
    );
    assert!(stack.journal().iter().all(|entry| entry["type"] != "refused"), "none of them reached the core");

    // A flood is counted, fills no disk, and stops no change.
    for _ in 0..400 {
        stack.post(Some("made-up-token-4711"), &[], "{}").await;
    }
    let opened =
        json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "in a flood"});
    stack.done("whitelist_add", opened).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let alike = events().iter().filter(|event| event["reason"] == "TOKEN_INVALID").count();
    assert!(alike <= 5, "{alike}");
    assert!(std::fs::metadata(&file).expect("a file").len() <= 20_000);
    stack.stop().await;
    let counted = soon("the rest is told at the end", async || {
        events().iter().filter_map(|event| event["counted"].as_u64()).max()
    })
    .await;
    assert!(counted >= 390, "{counted}");
}
