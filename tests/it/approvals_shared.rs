//! Approvals over several replicas: over a real Redis, and over one that goes away.

use tonic::Request;
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::mcp::v1 as approvals;
use whitelistmcp::pb::mcp::v1::approvals_client::ApprovalsClient;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::approvals::FOUR_EYES;
use crate::support::aws_double::AwsDouble;
use crate::support::redis::Redis;
use crate::support::temporary::Directory;
use crate::support::{Options, Stack, eventually};

const APPROVER: &str = "spiffe://test.example/approver";

/// One core of several, which seals with the key in that directory.
async fn replica(aws: &AwsDouble, redis: &Redis, keys: &Directory) -> Stack {
    let core_extra = format!(
        "[[core.peers]]\nsan = \"{APPROVER}\"\nrole = \"service\"\nscopes = [\"whitelist:write\"]\n[approvals]\nkey_file = \"{}/seal\"\n",
        keys.path().display()
    );
    let options = Options { policy: Some(FOUR_EYES), core_extra, redis: Some(redis.url()), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    stack.authority.issue("approver", &[APPROVER]);
    stack
}

/// Asks as the CI runner, who is the same principal on every replica; the rule, or the refusal.
async fn add(stack: &Stack, reason: &str) -> Result<String, Refusal> {
    add_on(stack, "443", reason).await
}

async fn add_on(stack: &Stack, port: &str, reason: &str) -> Result<String, Refusal> {
    let request = pb::AddRuleRequest {
        security_group: "payroll-db".to_owned(),
        address: "203.0.113.7".to_owned(),
        port: port.to_owned(),
        reason: reason.to_owned(),
        ..Default::default()
    };
    let answer = stack.grpc("ci-runner").add_rule(request).await.map_err(|status| Refusal::of(&status))?;
    Ok(answer.into_inner().outcome)
}

async fn waits(stack: &Stack, port: &str, reason: &str) -> String {
    let refusal = add_on(stack, port, reason).await.expect_err("it waits");
    assert_eq!(refusal.reason, "APPROVAL_NEEDED", "{refusal:?}");
    refusal.facts["approval"].clone()
}

async fn decide(stack: &Stack, id: &str) -> Result<(), Refusal> {
    let verdict = approvals::Verdict::Approve.into();
    let request = approvals::DecideRequest { id: id.to_owned(), verdict, ..Default::default() };
    let mut client = ApprovalsClient::new(stack.channel("approver"));
    client.decide(Request::new(request)).await.map(drop).map_err(|status| Refusal::of(&status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_is_told_every_replica_knows_and_it_is_spent_once() {
    let (aws, redis, keys) = (AwsDouble::start().await, Redis::start().await, Directory::new());
    keys.write("seal", &"5a".repeat(32));
    let (one, other) = (replica(&aws, &redis, &keys).await, replica(&aws, &redis, &keys).await);
    let id = eventually("both replicas know the request", async || {
        let refusal = add(&one, "quarterly close").await.expect_err("it waits");
        let id = refusal.facts.get("approval").cloned()?;
        (add(&other, "quarterly close").await.expect_err("it waits").facts.get("approval") == Some(&id)).then_some(id)
    })
    .await;
    decide(&other, &id).await.expect("decided");
    assert_eq!(decide(&one, &id).await.expect_err("once").reason, "APPROVAL_DECIDED");
    // Both at once: the word carries one of them, and the other waits again or finds what was done.
    let (first, second) = tokio::join!(add(&one, "quarterly close"), add(&other, "quarterly close"));
    let opened = [&first, &second].into_iter().filter(|result| result.as_deref().is_ok_and(|word| word == "opened"));
    assert_eq!(opened.count(), 1, "{first:?} {second:?}");
    assert_eq!(aws.tags().len(), 1);

    // Whoever looks into Redis learns nothing, and whoever writes there approves nothing.
    let id = waits(&one, "8443", "another close").await;
    let (keys_known, sealed) =
        (redis.ask("KEYS *").await, redis.ask(&format!("GET whitelistmcp:approval:request:{id}")).await);
    assert!(keys_known.contains(&id) && !sealed.is_empty(), "{keys_known}");
    for told in ["ci-runner", "close", "203.0.113.7", "payroll", "test.example"] {
        assert!(!keys_known.contains(told) && !sealed.contains(told), "{told}");
    }
    redis.ask(&format!("SET whitelistmcp:approval:decision:{id} approved")).await;
    assert_ne!(waits(&one, "8443", "another close").await, id, "a request that was meddled with is dead");
    assert_eq!(decide(&one, &id).await.expect_err("dead").reason, "APPROVAL_UNKNOWN");
    for stack in [one, other] {
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_approvals_are_kept_cannot_be_reached_the_answer_is_no() {
    let (aws, mut redis, keys) = (AwsDouble::start().await, Redis::start().await, Directory::new());
    keys.write("seal", &"5a".repeat(32));
    let stack = replica(&aws, &redis, &keys).await;
    let id = eventually("Redis is reached", async || {
        add(&stack, "close").await.expect_err("it waits").facts.get("approval").cloned()
    })
    .await;
    decide(&stack, &id).await.expect("decided");
    redis.hang();
    let refusal = add(&stack, "close").await.expect_err("refused");
    assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::Unavailable, "APPROVALS_UNAVAILABLE"));
    assert!(refusal.retry_after.is_some());
    assert_eq!(decide(&stack, &id).await.expect_err("refused").reason, "APPROVALS_UNAVAILABLE");
    redis.go_on();
    eventually("the word is found again", async || add(&stack, "close").await.ok()).await;
    // Gone for good: what was spent there is not asked again, and nothing else is done.
    redis.end();
    assert_eq!(add_on(&stack, "8443", "more").await.expect_err("refused").reason, "APPROVALS_UNAVAILABLE");
    assert_eq!(aws.tags().len(), 1);
    stack.stop().await;
}
