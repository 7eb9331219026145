//! How much one caller may ask for: at the edge, at the core, whatever the door.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Request};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::{Options, Stack, error_of};

async fn limited(aws: &AwsDouble, limits: &'static str) -> Stack {
    Stack::with(&aws.access(), Options { limits: Some(limits), ..Options::default() }).await
}

fn list() -> Value {
    json!({"security_group": "staging-db"})
}

fn add(n: usize) -> Value {
    json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "ticket OPS-1"})
}

fn list_request() -> pb::ListRulesRequest {
    pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() }
}

fn add_request(n: usize) -> pb::AddRuleRequest {
    pb::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: format!("203.0.113.{n}"),
        port: "22".to_owned(),
        reason: "deploy 7".to_owned(),
        ..Default::default()
    }
}

/// The reasons in the journal's records of refused calls.
fn refusals(entries: &[Value]) -> Vec<&str> {
    let refused = entries.iter().filter(|entry| entry["type"] == "refused");
    refused.filter_map(|entry| entry["error"]["reason"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_door_says_which_limit_its_number_and_when_it_is_free() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "reads_per_minute = 3\nchanges_per_minute = 2").await;
    for _ in 0..3 {
        stack.done("whitelist_list", list()).await;
    }
    let error = stack.refused("whitelist_list", list()).await;
    assert_eq!(
        (error["code"].as_str(), error["reason"].as_str(), error["retryable"].as_bool()),
        (Some("RESOURCE_EXHAUSTED"), Some("RATE_LIMITED"), Some(true)),
        "{error:#}"
    );
    let wait = error["retry_after_seconds"].as_u64().expect("a number");
    assert!((1..=20).contains(&wait), "{error:#}");
    assert_eq!((&error["facts"]["limit"], &error["facts"]["most"]), (&json!("reads_per_minute"), &json!("3")));
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("calls that read are limited to 3 a minute") && message.contains("free in"), "{message}");
    // Every tool that reads is one class; those that change are another, and another person has their own.
    assert_eq!(stack.refused("whitelist_leases", json!({})).await["reason"], "RATE_LIMITED");
    stack.done("whitelist_add", add(1)).await;
    let bob = stack.issuer.token("bob", "whitelist:read whitelist:write");
    assert_eq!(stack.call_as(&bob, "whitelist_list", list()).await["isError"], false);

    // By gRPC: the same core, another principal, the same words.
    let mut runner = stack.grpc("ci-runner");
    for _ in 0..3 {
        runner.list_rules(list_request()).await.expect("within");
    }
    let refusal = Refusal::of(&runner.list_rules(list_request()).await.expect_err("over"));
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert!(refusal.retry_after.is_some_and(|wait| wait <= Duration::from_secs(20)), "{refusal:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_reached_aws_uses_up_the_quota_of_changes() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "changes_per_hour = 3\nchanges_per_minute = 1000").await;
    for _ in 0..4 {
        let mut dry = add(1);
        dry["dry_run"] = true.into();
        stack.done("whitelist_add", dry).await;
        // Policy refuses it, once before AWS is read and once after.
        let everybody =
            json!({"security_group": "staging-db", "address": "0.0.0.0/0", "port": "22", "reason": "ticket"});
        assert_eq!(stack.refused("whitelist_add", everybody).await["code"], "PERMISSION_DENIED");
        let nothing = json!({"security_group": "staging-db", "port": "22", "duration": "1h"});
        assert_eq!(stack.refused("whitelist_extend", nothing).await["reason"], "NO_LEASE");
        // AWS lets nobody in: nothing was asked of it that could change something.
        aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
        assert_eq!(stack.refused("whitelist_add", add(1)).await["reason"], "AWS_ROLE_REFUSED");
    }
    stack.done("whitelist_add", add(1)).await;
    for _ in 0..4 {
        // It stands already.
        assert_eq!(stack.done("whitelist_add", add(1)).await["outcome"], "already_yours");
    }
    // What AWS refused counts: it was asked.
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Refuse(400, "RulesPerSecurityGroupLimitExceeded"));
    assert_eq!(stack.refused("whitelist_add", add(2)).await["reason"], "RULE_LIMIT");
    stack.done("whitelist_add", add(2)).await;
    let error = stack.refused("whitelist_add", add(3)).await;
    assert_eq!(
        (error["reason"].as_str(), &error["facts"]["limit"]),
        (Some("CHANGES_LIMIT"), &json!("changes_per_hour"))
    );
    assert!((3000..=3600).contains(&error["retry_after_seconds"].as_u64().expect("a number")), "{error:#}");
    // What closes early goes on, and so does what reads. Whoever else may change something still may.
    stack.done("whitelist_remove", json!({"security_group": "staging-db", "port": "22"})).await;
    stack.done("whitelist_list", list()).await;
    stack.grpc("ci-runner").add_rule(add_request(9)).await.expect("another principal's quota");
    assert_eq!(aws.tags().len(), 1);
    let entries = stack.journal_when(|entries| refusals(entries).contains(&"CHANGES_LIMIT")).await;
    assert_eq!(
        refusals(&entries).iter().filter(|reason| **reason == "CHANGES_LIMIT").count(),
        1,
        "the others are counted"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_one_who_leaves_is_one_change() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "changes_per_hour = 2\nchanges_per_day = 2").await;
    let both = json!({"security_groups": ["staging-db", "payroll-db"], "address": "203.0.113.7", "port": "22", "reason": "ticket"});
    stack.done("whitelist_add", both).await;
    assert_eq!(aws.tags().len(), 2);
    let error = stack.refused("whitelist_add", add(1)).await;
    assert_eq!(
        (error["reason"].as_str(), &error["facts"]["limit"]),
        (Some("CHANGES_LIMIT"), &json!("changes_per_day"))
    );
    let groups = json!({"groups": ["whitelistmcp-admins"]});
    let carol = stack.issuer.token_with("carol", "whitelist:read whitelist:write", groups);
    let leaver = json!({"holder": "alice@example.test", "reason": "has left"});
    let ended = stack.call_as(&carol, "whitelist_revoke_holder", leaver).await;
    assert!(aws.tags().is_empty(), "{ended:#}");
    assert_eq!(stack.call_as(&carol, "whitelist_add", add(1)).await["isError"], false, "two groups were one change");
    let over = error_of(&stack.call_as(&carol, "whitelist_add", add(2)).await);
    assert_eq!(over["reason"], "CHANGES_LIMIT");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_leases_are_counted_over_all_groups() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "open_leases = 3").await;
    stack.done("whitelist_add", add(1)).await;
    let payroll = json!({"security_group": "payroll-db", "address": "203.0.113.1", "port": "22", "reason": "ticket"});
    let second = stack.done("whitelist_add", payroll).await;
    // One too many in one request: nothing of it is opened.
    let two = json!({"security_group": "staging-db", "addresses": ["203.0.113.2", "203.0.113.3"], "port": "22", "reason": "ticket"});
    let error = stack.refused("whitelist_add", two).await;
    assert_eq!((error["reason"].as_str(), &error["facts"]["most"]), (Some("LEASES_LIMIT"), &json!("3")), "{error:#}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains("whitelist_leases")), "{error:#}");
    assert_eq!(aws.tags().len(), 2);
    stack.done("whitelist_add", add(2)).await;
    assert_eq!(stack.refused("whitelist_add", add(3)).await["reason"], "LEASES_LIMIT");
    // What is held already, longer, or elsewhere, is not one more.
    assert_eq!(stack.done("whitelist_add", add(2)).await["outcome"], "already_yours");
    stack.done("whitelist_extend", json!({"security_group": "staging-db", "port": "22", "duration": "3h"})).await;
    let moved = json!({"security_group": "staging-db", "from_address": "203.0.113.2", "address": "203.0.113.7"});
    stack.done("whitelist_move", moved).await;
    assert_eq!(stack.refused("whitelist_add", add(3)).await["reason"], "LEASES_LIMIT");
    // What is closed is room at once, in any group.
    stack.done("whitelist_remove", json!({"security_group": "payroll-db", "rule_id": second["rule"]["rule_id"]})).await;
    stack.done("whitelist_add", add(3)).await;
    assert_eq!(stack.refused("whitelist_add", add(4)).await["reason"], "LEASES_LIMIT");
    // Somebody else's leases are their own, on the same rule too.
    stack.grpc("ci-runner").add_rule(add_request(3)).await.expect("joined");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_hold_no_more_than_the_limit() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "open_leases = 4\nin_flight = 100").await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..20 {
        let mut runner = stack.grpc("ci-runner");
        calls.spawn(async move { runner.add_rule(add_request(n)).await.is_ok() });
    }
    let opened = calls.join_all().await.into_iter().filter(|opened| *opened).count();
    // Those that are under way count until they have ended, so that some may be refused that would have fitted.
    assert!((1..=4).contains(&opened), "{opened}");
    assert_eq!(aws.tags().len(), opened);
    for n in 50..60 {
        stack.grpc("ci-runner").add_rule(add_request(n)).await.map(drop).unwrap_or_default();
    }
    assert_eq!(aws.tags().len(), 4);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_opened_before_this_core_started_is_found_by_its_survey() {
    let aws = AwsDouble::start().await;
    let before = limited(&aws, "open_leases = 2").await;
    for n in 1..=2 {
        before.grpc("ci-runner").add_rule(add_request(n)).await.expect("opened");
    }
    before.stop().await;
    let leases = Some("settle = \"50ms\"\ninterval = \"300ms\"\ndiscover = false\n");
    let stack =
        Stack::with(&aws.access(), Options { limits: Some("open_leases = 2"), leases, ..Options::default() }).await;
    let surveyed = |entries: &[Value]| entries.iter().filter(|entry| entry["tool"] == "survey").count() > 2;
    stack.journal_when(surveyed).await;
    let elsewhere = pb::AddRuleRequest { security_group: "payroll-db".to_owned(), ..add_request(3) };
    let refusal = Refusal::of(&stack.grpc("ci-runner").add_rule(elsewhere).await.expect_err("over"));
    assert_eq!(refusal.reason, "LEASES_LIMIT");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_are_bounded_for_each_and_for_all() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "in_flight = 2\noperations = 3").await;
    stack.done("whitelist_list", list()).await;
    for _ in 0..3 {
        aws.fail("AssumeRole", Fault::Hang(Duration::from_millis(1500)));
    }
    let mut held = tokio::task::JoinSet::new();
    let hold = |held: &mut tokio::task::JoinSet<bool>, certificate: &'static str| {
        let mut client = stack.grpc(certificate);
        held.spawn(async move { client.list_rules(list_request()).await.is_ok() });
    };
    hold(&mut held, "ci-runner");
    hold(&mut held, "ci-runner");
    let asked = |enough: usize| {
        let aws = aws.clone();
        crate::support::eventually("they are under way", async move || {
            (aws.actions().iter().filter(|action| *action == "AssumeRole").count() >= enough).then_some(())
        })
    };
    asked(3).await;
    let refusal = Refusal::of(&stack.grpc("ci-runner").list_rules(list_request()).await.expect_err("over"));
    assert_eq!(
        (refusal.reason.as_str(), refusal.facts.get("limit").map(String::as_str)),
        ("IN_FLIGHT_LIMIT", Some("in_flight"))
    );
    // Others are not kept out by one's own calls, but by everybody's.
    hold(&mut held, "reader");
    asked(4).await;
    let error = stack.refused("whitelist_list", list()).await;
    assert_eq!((error["reason"].as_str(), &error["facts"]["limit"]), (Some("IN_FLIGHT_LIMIT"), &json!("operations")));
    assert!(held.join_all().await.into_iter().all(|done| done));
    stack.done("whitelist_list", list()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_outlives_its_caller_keeps_its_place() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "in_flight = 1").await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Hang(Duration::from_millis(1500)));
    let mut client = stack.grpc("ci-runner");
    let hung_up = tokio::time::timeout(Duration::from_millis(500), client.add_rule(add_request(1))).await;
    assert!(hung_up.is_err(), "the caller is gone before AWS answers");
    let refusal = Refusal::of(&stack.grpc("ci-runner").add_rule(add_request(2)).await.expect_err("over"));
    assert_eq!(refusal.reason, "IN_FLIGHT_LIMIT");
    stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    crate::support::eventually("its place is free", async || {
        stack.grpc("ci-runner").add_rule(add_request(2)).await.ok()
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refusals_does_not_fill_the_journal() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "reads_per_minute = 2").await;
    let mut runner = stack.grpc("ci-runner");
    for n in 0..300 {
        assert_eq!(runner.list_rules(list_request()).await.is_ok(), n < 2);
    }
    // Tokens that are none, by an edge's certificate: the edge itself would have refused them.
    let mut edge = stack.grpc("edge");
    for _ in 0..300 {
        let mut stale = Request::new(list_request());
        stale.metadata_mut().insert("authorization", "Bearer made-up".parse().expect("ASCII"));
        assert_eq!(edge.list_rules(stale).await.expect_err("no token").code(), Code::Unauthenticated);
    }
    stack.stop().await;
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["counted"].is_u64()).count() == 2).await;
    let reasons = refusals(&entries);
    assert_eq!(reasons.iter().filter(|reason| **reason == "RATE_LIMITED").count(), 2, "the first, and how many more");
    assert!(reasons.len() <= 30, "{}", reasons.len());
    let counted = entries.iter().filter_map(|entry| entry["counted"].as_u64()).sum::<u64>();
    assert_eq!(counted, 297 + 280);
    let rate = entries.iter().find(|entry| entry["counted"] == 297).expect("a record");
    assert!(rate["who"]["id"].as_str().is_some_and(|id| id.starts_with("test.example-ci-runner")), "{rate:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_counts_addresses_before_it_looks_at_tokens() {
    let aws = AwsDouble::start().await;
    let options = Options {
        limits: Some("address.requests_per_minute = 5"),
        edge_extra: "trusted_proxies = [\"127.0.0.0/8\", \"::1\"]",
        ..Options::default()
    };
    let stack = Stack::with(&aws.access(), options).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let from = |address: &'static str| vec![("x-forwarded-for", address)];
    let token = stack.token();
    for n in 0..5 {
        // With a token or without: it is the address that is counted.
        let answer = stack.post((n > 2).then_some(token.as_str()), &from("203.0.113.7"), ping).await;
        assert_eq!(answer.status, if n > 2 { 200 } else { 401 });
    }
    let answer = stack.post(Some(&token), &from("203.0.113.7"), ping).await;
    assert_eq!(answer.status, 429);
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((1..=12).contains(&wait), "{wait}");
    let body = answer.json();
    assert_eq!((body["jsonrpc"].as_str(), body["error"]["code"].as_i64()), (Some("2.0"), Some(429)));
    assert_eq!(body["error"]["data"]["reason"], "RATE_LIMITED");
    assert_eq!(body["error"]["data"]["limit"], "address.requests_per_minute");
    assert_eq!(body["error"]["data"]["retry_after_seconds"].as_u64(), Some(wait));
    assert!(
        body["error"]["message"].as_str().is_some_and(|message| message.contains("requests are limited to 5 a minute")),
        "{body}"
    );
    // A whole network of IPv6 is one customer; other addresses are served, and balancers are never turned away.
    for n in 0..5 {
        let address = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5"][n];
        assert_eq!(stack.post(Some(&token), &from(address), ping).await.status, 200);
    }
    assert_eq!(stack.post(Some(&token), &from("2001:db8::6"), ping).await.status, 429);
    assert_eq!(stack.post(Some(&token), &from("203.0.113.8"), ping).await.status, 200);
    for _ in 0..20 {
        assert_eq!(stack.send(http::Method::GET, "/readyz", None, &[], Vec::new()).await.status, 200);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_bad_tokens_is_not_listened_to_for_a_while() {
    let aws = AwsDouble::start().await;
    let options = Options {
        limits: Some("address.bad_tokens_per_minute = 4"),
        edge_extra: "trusted_proxies = [\"127.0.0.0/8\", \"::1\"]",
        ..Options::default()
    };
    let stack = Stack::with(&aws.access(), options).await;
    let stale = stack.issuer.token_with("alice", "whitelist:read", json!({"exp": 1_000_000_000}));
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let from = |address: &'static str| vec![("x-forwarded-for", address)];
    for token in [stale.as_str(), "made-up", &stale, "x.y.z"] {
        assert_eq!(stack.post(Some(token), &from("203.0.113.7"), ping).await.status, 401);
    }
    for _ in 0..50 {
        let answer = stack.post(Some(&stale), &from("203.0.113.7"), ping).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["data"]["limit"].as_str()),
            (429, Some("address.bad_tokens_per_minute"))
        );
        assert!(!answer.header("retry-after").is_empty());
    }
    // From elsewhere the owner of a good token is served, as often as they like.
    let token = stack.token();
    for _ in 0..20 {
        assert_eq!(stack.post(Some(&token), &from("203.0.113.8"), ping).await.status, 200);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_edge_answers_by_itself_is_counted_there() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "others_per_minute = 3").await;
    let responses = json!({"approval": {"action": "decline"}});
    let declined = json!({"name": "whitelist_add", "arguments": add(1), "inputResponses": responses, "requestState": "forged"});
    let declined = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": declined}).to_string();
    // Each of them is a way to keep the edge busy without a core ever hearing of it.
    let floods = [
        ("alice", r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#),
        ("bob", r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"whitelist_ad"}}"#),
        (
            "carol",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"whitelist_list","arguments":{"x":1}}}"#,
        ),
        ("dave", r#"{"jsonrpc":"2.0","id":7,"method":"no/such"}"#),
        ("erin", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        ("frank", "{"),
        ("grace", r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}"#),
        ("ivan", declined.as_str()),
    ];
    for (user, body) in floods {
        let token = stack.issuer.token(user, "whitelist:read whitelist:write");
        for _ in 0..3 {
            assert_ne!(stack.post(Some(&token), &[], body).await.status, 429, "{user}");
        }
        let answer = stack.post(Some(&token), &[], body).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["data"]["limit"].as_str()),
            (429, Some("others_per_minute")),
            "{user}"
        );
        let id = answer.json()["id"].clone();
        assert!(id.is_null() || id == 7, "{user}: {id}");
        // A tool that the core counts is another matter.
        assert_eq!(stack.call_as(&token, "whitelist_list", list()).await["isError"], false, "{user}");
    }
    // A missing scope is a challenge first and a limit then.
    let reader = stack.issuer.token("heidi", "whitelist:read");
    let wanted = json!({"name": "whitelist_add", "arguments": add(1)});
    for n in 0..4 {
        let status = stack.rpc(&reader, "tools/call", wanted.clone()).await.status;
        assert_eq!(status, if n < 3 { 403 } else { 429 });
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_s_own_work_is_never_limited() {
    let aws = AwsDouble::start().await;
    let leases = Some("settle = \"50ms\"\ninterval = \"200ms\"\ndiscover = false\n");
    let limits = Some("operations = 1\nin_flight = 1\nreads_per_minute = 1\nchanges_per_hour = 2\nchanges_per_day = 2");
    let stack = Stack::with(&aws.access(), Options { limits, leases, ..Options::default() }).await;
    for n in 1..=2 {
        let request = pb::AddRuleRequest { duration: "2s".to_owned(), ..add_request(n) };
        stack.grpc("ci-runner").add_rule(request).await.expect("opened");
    }
    assert!(stack.grpc("ci-runner").add_rule(add_request(3)).await.is_err());
    crate::support::eventually("both are closed", async || aws.tags().is_empty().then_some(())).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_refused_keep_nobody_waiting() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}1{}}}"#,
        r#"{"a":"#.repeat(20_000),
        "}".repeat(20_000)
    );
    let wide = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":[{}1]}}}}"#, "[],".repeat(80_000));
    let large = " ".repeat(2 * 1024 * 1024);
    // A bomb: a few bytes that would be very many.
    let packed: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number")
    };
    let before = resident();
    let mut floods = tokio::task::JoinSet::new();
    for n in 0..96 {
        let (http, port, token) = (stack.http.clone(), stack.edge.port(), token.clone());
        let (body, headers, status): (Vec<u8>, &[(&str, &str)], u16) = match n % 4 {
            0 => (deep.clone().into(), &[], 400),
            1 => (large.clone().into(), &[], 413),
            2 => (packed.repeat(100), &[("content-encoding", "gzip")], 415),
            _ => (wide.clone().into(), &[], 200),
        };
        floods.spawn(async move {
            let mut request = http::Request::post(format!("https://localhost:{port}/mcp"))
                .header("content-type", "application/json")
                .header("authorization", format!("Bearer {token}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            // An answer that comes before the body has been sent may be lost with its stream; it is never another one.
            let answer = http.send(request.body(body).expect("a request")).await;
            answer.map_or(true, |answer| answer.status().as_u16() == status)
        });
    }
    for _ in 0..10 {
        let begun = tokio::time::Instant::now();
        stack.done("whitelist_list", list()).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    assert!(floods.join_all().await.into_iter().all(|expected| expected));
    // Both ends of it are in this process, and other tests: a bound that only unbounded growth would break.
    assert!(resident() < before + 400 * 1024, "{before} kB, then {} kB", resident());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_tool_call_is_a_result_that_a_model_can_act_on() {
    let aws = AwsDouble::start().await;
    let stack = limited(&aws, "changes_per_minute = 1").await;
    stack.done("whitelist_add", add(1)).await;
    let result = stack.call("whitelist_add", add(2)).await;
    let sentence = result["content"][0]["text"].as_str().expect("a sentence");
    assert!(sentence.starts_with("Refused: calls that change something are limited to 1 a minute"), "{sentence}");
    assert_eq!(error_of(&result)["retryable"], true);
    stack.stop().await;
}
