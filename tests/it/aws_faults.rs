//! AWS as it is on a bad day.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use whitelistmcp::broker::PATIENCE;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::{ACCOUNT, GROUP, Options, REGION, Stack};

fn add() -> serde_json::Value {
    json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "ticket OPS-1"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_read() {
    let aws = AwsDouble::start().await;
    for n in 0..57 {
        aws.rule("tcp", 443, 443, ("CidrIpv4", &format!("203.0.113.{n}/32")));
    }
    aws.page_of(5);
    let stack = Stack::start(&aws).await;
    let list = stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!((list["total"].as_i64(), list["rules"].as_array().map(Vec::len)), (Some(57), Some(57)));
    assert_eq!(aws.actions().iter().filter(|action| *action == "DescribeSecurityGroupRules").count(), 12);
    let check = stack
        .done("whitelist_check", json!({"security_group": "staging-db", "address": "203.0.113.56", "port": "443"}))
        .await;
    assert_eq!(check["verdict"], "allowed");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_without_rules_is_told_from_one_that_is_not_there() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    aws.strip(GROUP);
    let list = stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(list["total"], 0);
    aws.forget(GROUP);
    for (tool, arguments) in [("whitelist_list", json!({"security_group": "staging-db"})), ("whitelist_add", add())] {
        let error = stack.refused(tool, arguments).await;
        assert_eq!(
            (error["code"].as_str(), error["reason"].as_str()),
            (Some("NOT_FOUND"), Some("SECURITY_GROUP_NOT_FOUND"))
        );
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_faster_is_no_error() {
    let aws = AwsDouble::start().await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Race);
    let stack = Stack::start(&aws).await;
    let opened = stack.done("whitelist_add", add()).await;
    assert_eq!((opened["outcome"].as_str(), opened["rule"]["managed"].as_bool()), (Some("already_open"), Some(false)));
    let end = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    assert!(end.iter().any(|entry| entry["type"] == "end" && entry["changed"] == false));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_settled_by_looking() {
    let aws = AwsDouble::start().await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::ActThenCut);
    let stack = Stack::start(&aws).await;
    let opened = stack.done("whitelist_add", add()).await;
    assert_eq!(
        (opened["outcome"].as_str(), opened["rule"]["managed"].as_bool()),
        (Some("opened"), Some(true)),
        "{opened:#}"
    );
    assert_eq!(aws.tags().len(), 1);
    aws.fail("RevokeSecurityGroupIngress", Fault::ActThenCut);
    let removed = stack
        .done("whitelist_remove", json!({"security_group": "staging-db", "rule_id": opened["rule"]["rule_id"]}))
        .await;
    assert_eq!(removed["outcome"], "removed");
    assert!(aws.tags().is_empty());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_aws_are_told_for_what_they_are() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for (action, status, code, reason) in [
        ("AssumeRole", 403, "AccessDenied", "AWS_ROLE_REFUSED"),
        ("AuthorizeSecurityGroupIngress", 403, "UnauthorizedOperation", "AWS_DENIED"),
        ("AuthorizeSecurityGroupIngress", 400, "RulesPerSecurityGroupLimitExceeded", "RULE_LIMIT"),
        ("DescribeSecurityGroupRules", 400, "SomethingNew", "AWS_REFUSED"),
    ] {
        aws.fail(action, Fault::Refuse(status, code));
        let error = stack.refused("whitelist_add", add()).await;
        assert_eq!((error["reason"].as_str(), error["retryable"].as_bool()), (Some(reason), Some(false)), "{error}");
        assert!(!error.to_string().contains("arn:aws"), "no role of ours in a caller's message: {error}");
    }
    assert!(aws.tags().is_empty());
    let ends = stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "end").count() == 4).await;
    assert!(ends.iter().filter(|entry| entry["type"] == "end").all(|entry| entry["outcome"] == "failed"), "{ends:#?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_is_ridden_out_and_then_said() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    aws.fail("DescribeSecurityGroupRules", Fault::Refuse(503, "RequestLimitExceeded"));
    let list = stack.call("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(list["isError"], false, "one refusal is tried again: {list}");
    for _ in 0..10 {
        aws.fail("DescribeSecurityGroupRules", Fault::Refuse(503, "RequestLimitExceeded"));
    }
    let error = stack.refused("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!((error["reason"].as_str(), error["retryable"].as_bool()), (Some("AWS_THROTTLED"), Some(true)));
    assert!(error["retry_after_seconds"].as_u64().is_some_and(|wait| wait > 0));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_leaves_no_change_half_done() {
    let aws = AwsDouble::start().await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Hang(Duration::from_millis(600)));
    let stack = Stack::start(&aws).await;
    let mut client = stack.grpc("ci-runner");
    let request = whitelistmcp::pb::whitelistmcp::v1::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.7".to_owned(),
        port: "22".to_owned(),
        reason: "hang up".to_owned(),
        ..Default::default()
    };
    let hung_up = tokio::time::timeout(Duration::from_millis(400), client.add_rule(request)).await;
    assert!(hung_up.is_err(), "the caller is gone before AWS answers");
    drop(client);
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let end = entries.iter().find(|entry| entry["type"] == "end").expect("an end");
    assert_eq!((end["outcome"].as_str(), end["changed"].as_bool()), (Some("done"), Some(true)), "{end}");
    assert_eq!(aws.tags().len(), 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_away_is_unavailable_and_nothing_changed() {
    let aws = AwsDouble::start().await;
    let access = crate::support::AwsAccess { endpoint: "http://127.0.0.1:9".to_owned(), ..aws.access() };
    let stack = Stack::with(&access, Options::default()).await;
    let error = stack.refused("whitelist_add", add()).await;
    assert_eq!(
        (error["code"].as_str(), error["reason"].as_str()),
        (Some("UNAVAILABLE"), Some("AWS_UNREACHABLE")),
        "{error}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_change_is_sent_the_deadline_no_longer_decides_what_is_recorded() {
    let aws = AwsDouble::start().await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::ActThenCut);
    aws.fail("DescribeSecurityGroupRules", Fault::Pass);
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(2)));
    let stack = Stack::start(&aws).await;
    let mut request = tonic::Request::new(whitelistmcp::pb::whitelistmcp::v1::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.7".to_owned(),
        port: "22".to_owned(),
        reason: "deadline".to_owned(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(1500));
    stack.grpc("ci-runner").add_rule(request).await.expect_err("the caller's deadline passed");
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let end = entries.iter().find(|entry| entry["type"] == "end").expect("an end");
    assert_eq!((end["outcome"].as_str(), end["changed"].as_bool()), (Some("done"), Some(true)), "{end}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_aws_over_a_change_is_an_unknown_outcome() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Refuse(500, "InternalError"));
    let error = stack.refused("whitelist_add", add()).await;
    assert_eq!((error["reason"].as_str(), error["retryable"].as_bool()), (Some("AWS_UNAVAILABLE"), Some(true)));
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let end = entries.iter().find(|entry| entry["type"] == "end").expect("an end");
    assert_eq!((end["outcome"].as_str(), end.get("changed")), (Some("unknown"), None), "{end}");
    // Sent once: a second attempt would hide what the first one did.
    assert_eq!(aws.actions().iter().filter(|action| *action == "AuthorizeSecurityGroupIngress").count(), 1);
    // A lost read changes nothing, and says so.
    for _ in 0..4 {
        aws.fail("DescribeSecurityGroupRules", Fault::ActThenCut);
    }
    let error = stack.refused("whitelist_add", add()).await;
    assert!(error["message"].as_str().is_some_and(|text| text.contains("nothing was changed")), "{error}");
    // Throttling means that AWS did not even look: the change is tried again.
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Refuse(503, "RequestLimitExceeded"));
    assert_eq!(stack.done("whitelist_add", add()).await["outcome"], "opened");
    stack.stop().await;
}

/// Stands before the double and resets the connection, once, when the answer to a change is ready.
async fn resetting_proxy(upstream: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let upstream = upstream.trim_start_matches("http://").to_owned();
    let reset = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (upstream, reset) = (upstream.clone(), Arc::clone(&reset));
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(upstream).await.expect("the double listens");
                let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
                let mut is_change = false;
                loop {
                    tokio::select! {
                        read = client.read(&mut asked) => match read {
                            Ok(length) if length > 0 => {
                                is_change |= String::from_utf8_lossy(&asked[..length]).contains("Action=Authorize");
                                server.write_all(&asked[..length]).await.expect("forwarded");
                            }
                            _ => return,
                        },
                        read = server.read(&mut answered) => match read {
                            Ok(length) if length > 0 => {
                                if is_change && !reset.swap(true, Ordering::Relaxed) {
                                    client.set_zero_linger().expect("a reset");
                                    return;
                                }
                                client.write_all(&answered[..length]).await.expect("forwarded");
                            }
                            _ => return,
                        },
                    }
                }
            });
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_reset_may_have_carried_the_change() {
    let aws = AwsDouble::start().await;
    let access = aws.access();
    let endpoint = resetting_proxy(access.endpoint.clone()).await;
    let stack = Stack::with(&crate::support::AwsAccess { endpoint, ..access }, Options::default()).await;
    let opened = stack.done("whitelist_add", add()).await;
    assert_eq!((opened["outcome"].as_str(), opened["rule"]["managed"].as_bool()), (Some("opened"), Some(true)));
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let end = entries.iter().find(|entry| entry["type"] == "end").expect("an end");
    assert_eq!((end["outcome"].as_str(), end["changed"].as_bool()), (Some("done"), Some(true)), "{end}");
    assert_eq!(aws.tags().len(), 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_does_not_answer_holds_up_no_other_for_long() {
    let aws = AwsDouble::start().await;
    let elsewhere = "222222222222";
    aws.add_group(ACCOUNT, REGION, "sg-0cccccccccccccccc", "web", &[("whitelistmcp:managed", "web")]);
    aws.add_group(elsewhere, "us-east-1", "sg-0ffffffffffffffff", "shop", &[("whitelistmcp:managed", "shop")]);
    aws.black_hole(elsewhere);
    let core_extra = format!(
        "[[aws.accounts]]\nid = \"{elsewhere}\"\nrole_arn = \"arn:aws:iam::{elsewhere}:role/r\"\nregions = [\"us-east-1\"]\n"
    );
    let leases = Some("settle = \"30ms\"\nclose = false\ndiscover = true\n");
    let stack = Stack::with(&aws.access(), Options { leases, core_extra, ..Options::default() }).await;
    let list =
        async |name: &str| stack.call("whitelist_list", json!({"security_group": name})).await["isError"] == false;
    let begun = Instant::now();
    let names = ["web", "shop", "nothing", "web", "shop", "nothing"];
    let answers = futures_util::future::join_all(names.map(&list)).await;
    assert_eq!(answers, [true, false, false, true, false, false]);
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(2), "{:?}", begun.elapsed());
    // It is not waited for again and again, whoever asks for what.
    let begun = Instant::now();
    for name in names {
        assert_eq!(list(name).await, name == "web");
    }
    let targets = stack.done("whitelist_targets", json!({})).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let missed: Vec<_> = targets["missed"].as_array().expect("a list").iter().map(|at| &at["account"]).collect();
    assert_eq!(missed, [elsewhere], "{targets:#}");
    let looks = aws
        .asked()
        .into_iter()
        .filter(|asked| asked.params.get("RoleArn").is_some_and(|role| role.contains(elsewhere)));
    assert!(looks.count() <= 3, "many who wait cause one look, and the attempts of the SDK at it");
    stack.stop().await;
}
