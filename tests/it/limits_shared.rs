//! Limits that hold across replicas: over a real Redis, and over one that goes away.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::whitelistmcp::v1 as pb;
use whitelistmcp::shared::TIMEOUT;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::redis::Redis;
use crate::support::{Options, Stack, eventually};

async fn replica(aws: &AwsDouble, redis: &Redis, limits: &'static str) -> Stack {
    let redis = Some(redis.url());
    Stack::with(&aws.access(), Options { limits: Some(limits), redis, ..Options::default() }).await
}

/// Lists as the CI runner, who is the same principal on every replica; the limit that it met.
async fn list(stack: &Stack) -> Result<(), String> {
    let request = pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() };
    stack.grpc("ci-runner").list_rules(request).await.map(drop).map_err(|status| limit(&status))
}

async fn add(stack: &Stack, group: &str, n: usize) -> Result<String, String> {
    let request = pb::AddRuleRequest {
        security_group: group.to_owned(),
        address: format!("203.0.113.{n}"),
        port: "22".to_owned(),
        reason: "deploy 7".to_owned(),
        ..Default::default()
    };
    let answer = stack.grpc("ci-runner").add_rule(request).await.map_err(|status| limit(&status))?;
    Ok(answer.into_inner().rule.expect("a rule").rule_id)
}

fn limit(status: &tonic::Status) -> String {
    let refusal = Refusal::of(status);
    assert!(refusal.retry_after.is_some(), "{refusal:?}");
    refusal.facts.get("limit").cloned().unwrap_or(refusal.reason)
}

/// What the core's health service says of one part.
async fn is_serving(stack: &Stack, part: &str) -> bool {
    let mut health = HealthClient::new(stack.channel("ci-runner"));
    let request = HealthCheckRequest { service: part.to_owned() };
    health.check(request).await.expect("an answer").into_inner().status == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cores_share_one_quota() {
    let (aws, redis) = (AwsDouble::start().await, Redis::start().await);
    let limits = "reads_per_minute = 6\nchanges_per_hour = 3\nchanges_per_minute = 1000";
    let (one, other) = (replica(&aws, &redis, limits).await, replica(&aws, &redis, limits).await);
    eventually("Redis is reached", async || {
        (is_serving(&one, "redis").await && is_serving(&other, "redis").await).then_some(())
    })
    .await;
    for stack in [&one, &other, &one, &other, &one, &other] {
        list(stack).await.expect("within");
    }
    assert_eq!(list(&one).await.expect_err("over"), "reads_per_minute");
    assert_eq!(list(&other).await.expect_err("over"), "reads_per_minute");

    add(&one, "staging-db", 1).await.expect("within");
    // What does not reach AWS is given back on every replica.
    for n in 0..6 {
        aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
        let stack = if n % 2 == 0 { &one } else { &other };
        let request = pb::AddRuleRequest {
            security_group: "staging-db".to_owned(),
            address: "203.0.113.9".to_owned(),
            port: "22".to_owned(),
            reason: "deploy 7".to_owned(),
            ..Default::default()
        };
        let refused = stack.grpc("ci-runner").add_rule(request).await.expect_err("AWS lets nobody in");
        assert_eq!(Refusal::of(&refused).reason, "AWS_ROLE_REFUSED");
    }
    add(&other, "staging-db", 2).await.expect("within");
    add(&one, "staging-db", 3).await.expect("within");
    assert_eq!(add(&other, "staging-db", 4).await.expect_err("over"), "changes_per_hour");
    assert_eq!(add(&one, "staging-db", 4).await.expect_err("over"), "changes_per_hour");
    assert_eq!(aws.tags().len(), 3);

    // Nobody who looks into Redis learns who was counted.
    let keys = redis.ask("KEYS *").await;
    assert!(keys.contains("whitelistmcp:limit:{"), "{keys}");
    assert!(!keys.contains("ci-runner") && !keys.contains("test.example"), "{keys}");
    for stack in [one, other] {
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_another_core_opened_just_now_count() {
    let (aws, redis) = (AwsDouble::start().await, Redis::start().await);
    let limits = "open_leases = 2";
    // Neither of them surveys.
    let (one, other) = (replica(&aws, &redis, limits).await, replica(&aws, &redis, limits).await);
    eventually("Redis is reached", async || {
        (is_serving(&one, "redis").await && is_serving(&other, "redis").await).then_some(())
    })
    .await;
    let first = add(&one, "staging-db", 1).await.expect("within");
    add(&other, "payroll-db", 1).await.expect("within");
    assert_eq!(add(&one, "payroll-db", 2).await.expect_err("over"), "open_leases");
    assert_eq!(add(&other, "staging-db", 2).await.expect_err("over"), "open_leases");
    // What one of them closes is room at the other.
    let gone = pb::RemoveRulesRequest { security_group: "staging-db".to_owned(), rule_id: first, ..Default::default() };
    one.grpc("ci-runner").remove_rules(gone).await.expect("removed");
    add(&other, "payroll-db", 3).await.expect("within");
    assert_eq!(add(&one, "payroll-db", 4).await.expect_err("over"), "open_leases");
    // Many at once on both: together they hold no more.
    for stack in [one, other] {
        stack.stop().await;
    }
    let limits = "open_leases = 5\nin_flight = 100";
    let (one, other) = (replica(&aws, &redis, limits).await, replica(&aws, &redis, limits).await);
    let adds = (10..30).map(|n| add(if n % 2 == 0 { &one } else { &other }, "staging-db", n));
    futures_util::future::join_all(adds).await;
    assert!(aws.tags().len() <= 5, "{}", aws.tags().len());
    for stack in [one, other] {
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_and_what_edges_answer_are_shared() {
    let (aws, redis) = (AwsDouble::start().await, Redis::start().await);
    let limits = Some("in_flight = 1\nothers_per_minute = 3");
    let options = || Options { limits, redis: Some(redis.url()), ..Options::default() };
    let one = Stack::with(&aws.access(), options()).await;
    let issuer_url = Some(one.issuer.url.clone());
    let other = Stack::with(&aws.access(), Options { issuer_url, ..options() }).await;
    list(&one).await.expect("within");
    eventually("its place is free", async || list(&other).await.ok()).await;
    aws.fail("AssumeRole", Fault::Hang(Duration::from_secs(2)));
    let asked = aws.actions().len();
    let hangs = list(&one);
    let meanwhile = async {
        eventually("it is under way", async || (aws.actions().len() > asked).then_some(())).await;
        assert_eq!(list(&other).await.expect_err("over"), "in_flight");
    };
    let (hung, ()) = tokio::join!(hangs, meanwhile);
    hung.expect("within");
    eventually("its place is free", async || list(&other).await.ok()).await;

    let token = one.token();
    for stack in [&one, &other, &one] {
        assert_eq!(stack.rpc(&token, "tools/list", json!({})).await.status, 200);
    }
    for stack in [&one, &other] {
        assert_eq!(stack.rpc(&token, "tools/list", json!({})).await.status, 429);
    }
    for stack in [one, other] {
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_process_keeps_its_own_count_and_nothing_stops() {
    let (aws, mut redis) = (AwsDouble::start().await, Redis::start().await);
    let limits = "reads_per_minute = 12\nchanges_per_hour = 2\nchanges_per_minute = 1000";
    let (one, other) = (replica(&aws, &redis, limits).await, replica(&aws, &redis, limits).await);
    eventually("Redis is reached", async || is_serving(&one, "redis").await.then_some(())).await;
    add(&one, "staging-db", 1).await.expect("within");
    list(&one).await.expect("within");
    redis.end();
    let begun = Instant::now();
    for _ in 0..5 {
        list(&one).await.expect("nothing stops");
    }
    assert!(begun.elapsed() < TIMEOUT * 2 + Duration::from_secs(2), "{:?}", begun.elapsed());
    // What was counted before is not forgotten by those who counted it.
    add(&one, "staging-db", 2).await.expect("within");
    assert_eq!(add(&one, "staging-db", 3).await.expect_err("over"), "changes_per_hour");
    add(&other, "staging-db", 4).await.expect("its own count");
    // It is said, and it is no reason to take the core out of service.
    eventually("it is said", async || (!is_serving(&one, "redis").await).then_some(())).await;
    assert!(is_serving(&one, "whitelistmcp.v1.WhitelistService").await);
    assert_eq!(one.send(http::Method::GET, "/readyz", None, &[], Vec::new()).await.status, 200);

    // Back, and empty: from now on they count together again, each with what it knows besides.
    redis.begin().await;
    for stack in [&one, &other] {
        eventually("it is said", async || is_serving(stack, "redis").await.then_some(())).await;
    }
    assert_eq!(add(&one, "staging-db", 5).await.expect_err("over"), "changes_per_hour");
    add(&other, "staging-db", 6).await.expect("one was counted here, and none there");
    assert_eq!(add(&other, "staging-db", 7).await.expect_err("over"), "changes_per_hour");
    for stack in [one, other] {
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_slows_a_call_once() {
    let (aws, redis) = (AwsDouble::start().await, Redis::start().await);
    let stack = replica(&aws, &redis, "reads_per_minute = 100").await;
    eventually("Redis is reached", async || is_serving(&stack, "redis").await.then_some(())).await;
    list(&stack).await.expect("within");
    redis.hang();
    let (mut slow, begun) = (0, Instant::now());
    for _ in 0..20 {
        let begun = Instant::now();
        list(&stack).await.expect("nothing stops");
        slow += usize::from(begun.elapsed() >= TIMEOUT);
    }
    assert!(slow <= 3, "{slow} were slow");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    eventually("it is said", async || (!is_serving(&stack, "redis").await).then_some(())).await;
    redis.go_on();
    eventually("it is said", async || is_serving(&stack, "redis").await.then_some(())).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_not_there_keeps_nobody_from_starting() {
    let aws = AwsDouble::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let options = Options {
        limits: Some("reads_per_minute = 2\nothers_per_minute = 2"),
        redis: Some(format!("redis://:sesame@127.0.0.1:{port}")),
        ..Options::default()
    };
    let stack = Stack::with(&aws.access(), options).await;
    for _ in 0..2 {
        stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    }
    let refused: Value = stack.refused("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(refused["reason"], "RATE_LIMITED");
    assert!(!refused.to_string().contains("sesame"));
    stack.stop().await;
}
