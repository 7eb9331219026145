//! AWS away and the service overloaded: callers are told soon, AWS is not asked more than it can bear, and all is well again
//! by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::proxy::Proxy;
use crate::support::{Options, Stack, error_of, eventually};

fn list() -> serde_json::Value {
    json!({"security_group": "staging-db"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aws_that_is_away_is_not_asked_by_everybody() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_list", list()).await;
    aws.down(true);
    let mut waits = Vec::new();
    for _ in 0..60 {
        let begun = Instant::now();
        let error = error_of(&stack.call("whitelist_list", list()).await);
        assert_eq!(
            (error["code"].as_str(), error["retryable"].as_bool()),
            (Some("UNAVAILABLE"), Some(true)),
            "{error:#}"
        );
        if error["reason"] == "AWS_NOT_ANSWERING" {
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            waits.push(error["retry_after_seconds"].as_u64().expect("when to come back"));
        }
    }
    assert!(waits.len() >= 40, "most are told at once: {}", waits.len());
    assert!(waits.iter().all(|wait| (1..=30).contains(wait)), "{waits:?}");
    // A caller's own mistake is told as ever.
    let error = stack.refused("whitelist_list", json!({"security_group": "nowhere"})).await;
    assert_eq!(error["reason"], "SECURITY_GROUP_UNKNOWN");
    aws.down(false);
    eventually("it is well again", async || {
        (stack.call("whitelist_list", list()).await["isError"] == false).then_some(())
    })
    .await;
    for _ in 0..5 {
        stack.done("whitelist_list", list()).await;
    }
    // Every call is in the journal, also those that AWS was not asked for.
    let entries = stack
        .journal_when(|entries| {
            let of = |kind: &str| entries.iter().filter(|entry| entry["type"] == kind).count();
            of("begin") == of("end")
        })
        .await;
    let unasked = entries.iter().filter(|entry| entry["error"]["reason"] == "AWS_NOT_ANSWERING");
    assert!(unasked.clone().count() >= 40 && unasked.clone().all(|entry| entry["aws"] == json!([])));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_aws_open_the_circuit_and_refusals_do_not() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for _ in 0..12 {
        aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
        assert_eq!(error_of(&stack.call("whitelist_list", list()).await)["reason"], "AWS_ROLE_REFUSED");
    }
    stack.done("whitelist_list", list()).await;
    // The SDK tries a read three times.
    for _ in 0..30 {
        aws.fail("DescribeSecurityGroupRules", Fault::Refuse(500, "InternalError"));
    }
    let mut reasons = Vec::new();
    for _ in 0..8 {
        reasons.push(
            error_of(&stack.call("whitelist_list", list()).await)["reason"].as_str().unwrap_or_default().to_owned(),
        );
    }
    // A session that is lent is an answer, so faults of EC2 alone are told one by one.
    assert!(reasons.iter().all(|reason| reason == "AWS_UNAVAILABLE" || reason == "AWS_NOT_ANSWERING"), "{reasons:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_waits_and_an_overload_is_told() {
    let aws = AwsDouble::start().await;
    let options = Options { edge_extra: "in_flight_max = 4\n", ..Options::default() };
    let stack = Arc::new(Stack::with(&aws.access(), options).await);
    stack.done("whitelist_list", list()).await;
    let all = |n: usize| {
        let calls: Vec<_> = (0..n)
            .map(|_| {
                let stack = Arc::clone(&stack);
                tokio::spawn(async move {
                    let params = json!({"name": "whitelist_list", "arguments": list()});
                    let answer = stack.rpc(&stack.token(), "tools/call", params).await;
                    (answer.status, answer.header("retry-after").to_owned())
                })
            })
            .collect();
        async move {
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.expect("no panic"));
            }
            answers
        }
    };
    // Each takes a tenth of a second: those who are too many wait for their turn.
    for _ in 0..8 {
        aws.fail("AssumeRole", Fault::Hang(Duration::from_millis(100)));
    }
    let answers = all(8).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    // Each takes three seconds: those who would wait too long are told, soon.
    for _ in 0..8 {
        aws.fail("AssumeRole", Fault::Hang(Duration::from_secs(3)));
    }
    let begun = Instant::now();
    let answers = all(24).await;
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 429).collect();
    assert!(refused.len() >= 12 && refused.iter().all(|(_, wait)| wait == "1"), "{answers:?}");
    assert!(answers.iter().filter(|(status, _)| *status == 200).count() >= 4, "{answers:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_share_connections_to_aws() {
    let aws = AwsDouble::start().await;
    let proxy = Proxy::start(aws.access().endpoint.trim_start_matches("http://").parse().expect("an address")).await;
    let mut access = aws.access();
    access.endpoint = format!("http://{}", proxy.address);
    let stack = Stack::with(&access, Options::default()).await;
    for _ in 0..30 {
        stack.done("whitelist_list", list()).await;
    }
    assert!(aws.asked().len() >= 60);
    assert!(proxy.connections() <= 6, "{} connections for {} requests", proxy.connections(), aws.asked().len());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_not_lent_is_known_before_the_first_caller_meets_it() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let aws = AwsDouble::start().await;
    // Without a journal there is no reconciler that would notice.
    let options = Options { health: "self_test = \"1s\"", without_journal: true, ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let mut health = HealthClient::new(stack.channel("reader"));
    let mut serving = async |part: &str| {
        let request = HealthCheckRequest { service: part.to_owned() };
        health.check(request).await.is_ok_and(|answer| answer.into_inner().status == 1)
    };
    eventually("AWS lends its role", async || {
        let asked = aws.actions();
        (asked.contains(&"GetCallerIdentity".to_owned()) && serving("sts").await && serving("aws").await).then_some(())
    })
    .await;
    let assumed = aws.asked().into_iter().find(|asked| asked.action == "AssumeRole").expect("a session");
    assert!(assumed.params["Policy"].contains("\"Deny\""), "it may do nothing: {}", assumed.params["Policy"]);
    for _ in 0..5 {
        aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
    }
    eventually("the role is refused", async || (!serving("sts").await).then_some(())).await;
    assert!(serving("aws").await, "AWS itself answers");
    assert!(serving("").await, "a core that says what is wrong serves better than none");
    eventually("the role is lent again", async || serving("sts").await.then_some(())).await;
    aws.down(true);
    eventually("AWS is away", async || (!serving("aws").await).then_some(())).await;
    aws.down(false);
    eventually("and back", async || serving("aws").await.then_some(())).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_self_test_is_an_operation_with_an_entry() {
    let aws = AwsDouble::start().await;
    let options = Options { health: "self_test = \"1h\"", ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let entries = stack
        .journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end" && entry["outcome"] == "done"))
        .await;
    let begin = entries.iter().find(|entry| entry["tool"] == "self_test").expect("a begin");
    assert_eq!((begin["who"]["name"].as_str(), begin["changes"].as_bool()), (Some("self-test"), Some(false)));
    let end = entries.iter().find(|entry| entry["type"] == "end" && entry["call"] == begin["call"]).expect("an end");
    let asked: Vec<&str> =
        end["aws"].as_array().expect("calls").iter().filter_map(|call| call["action"].as_str()).collect();
    assert_eq!(asked, ["sts:AssumeRole", "sts:GetCallerIdentity"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_aws_that_fails_opens_its_circuit_while_the_others_are_well() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for _ in 0..60 {
        aws.fail("DescribeSecurityGroupRules", Fault::Refuse(500, "InternalError"));
    }
    let mut told_at_once = 0;
    for _ in 0..10 {
        let before = aws.actions().len();
        let error = error_of(&stack.call("whitelist_list", list()).await);
        if error["reason"] == "AWS_NOT_ANSWERING" {
            assert_eq!(aws.actions().len(), before, "no session is borrowed that nothing could be done with");
            told_at_once += 1;
        }
    }
    assert!(told_at_once >= 4, "{told_at_once}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_throttled_is_sent_again_within_a_budget_and_the_callers_deadline() {
    let aws = AwsDouble::start().await;
    let stack = Arc::new(Stack::start(&aws).await);
    let add = |n: usize| json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "throttled"});
    for _ in 0..400 {
        aws.fail("AuthorizeSecurityGroupIngress", Fault::Refuse(503, "RequestLimitExceeded"));
    }
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let (stack, arguments) = (Arc::clone(&stack), add(n));
            tokio::spawn(async move { stack.call("whitelist_add", arguments).await })
        })
        .collect();
    for call in calls {
        assert_eq!(error_of(&call.await.expect("no panic"))["reason"], "AWS_THROTTLED");
    }
    let sent = aws.actions().iter().filter(|action| *action == "AuthorizeSecurityGroupIngress").count();
    assert!((20..=40).contains(&sent), "twenty, and what the budget gives: {sent}");
    // A caller who has no time left is told so, and not kept waiting for another attempt.
    let mut request = tonic::Request::new(whitelistmcp::pb::whitelistmcp::v1::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.99".to_owned(),
        port: "22".to_owned(),
        reason: "throttled".to_owned(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(400));
    let begun = Instant::now();
    let status = stack.grpc("ci-runner").add_rule(request).await.expect_err("throttled");
    assert!(begun.elapsed() < Duration::from_millis(600), "{status:?} after {:?}", begun.elapsed());
    assert_eq!(whitelistmcp::grpc::status::Refusal::of(&status).reason, "AWS_THROTTLED", "{status:?}");
    assert_eq!(aws.standing().iter().filter(|rule| !rule.tags.is_empty()).count(), 0);
    stack.stop().await;
}
