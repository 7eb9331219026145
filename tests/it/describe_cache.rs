//! What AWS said a moment ago: served to who may look, dropped by our own changes, never what a change rests on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::redis::Redis;
use crate::support::{GROUP, Options, Stack, error_of, eventually, soon};

const LISTS: &str = "whitelist_list";

fn cached(extra: &str) -> Options {
    Options { core_extra: format!("[aws.cache]\n{extra}\n"), ..Options::default() }
}

async fn in_redis(aws: &AwsDouble, redis: &Redis) -> Stack {
    let options = cached("kept_in = \"redis\"\nkey_file = \"{at}/sealing.key\"");
    Stack::with(&aws.access(), Options { redis: Some(redis.url()), ..options }).await
}

fn group() -> Value {
    json!({"security_group": "staging-db"})
}

fn add(n: u8) -> Value {
    json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "look"})
}

/// What AWS was asked since the last time.
fn news(aws: &AwsDouble, before: &mut usize) -> Vec<String> {
    let actions = aws.actions();
    let new = actions[*before..].to_vec();
    *before = actions.len();
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_it_every_look_asks_aws() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let mut before = 0;
    for _ in 0..2 {
        let listed = stack.done(LISTS, group()).await;
        assert!(news(&aws, &mut before).contains(&"AssumeRole".to_owned()));
        assert_eq!(listed["age_seconds"].as_i64().unwrap_or(0), 0, "{listed:#}");
        assert!(listed["read_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{listed:#}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_is_answered_from_the_last_one_and_says_so() {
    let aws = AwsDouble::start().await;
    aws.rule("tcp", 443, 443, ("CidrIpv4", "198.51.100.0/24"));
    let policy = concat!(
        include_str!("../../src/policy/default.cedar"),
        "@id(\"not-mallory\") @message(\"mallory may not look\")
         forbid (principal is Person, action == Action::\"whitelist_list\", resource) when { principal.subject == \"mallory\" };"
    );
    let stack = Stack::with(&aws.access(), Options { policy: Some(policy), ..cached("rules = \"10s\"") }).await;
    let mut before = 0;
    let first = stack.done(LISTS, group()).await;
    assert_eq!(news(&aws, &mut before), ["AssumeRole", "DescribeSecurityGroupRules"]);
    // Another person, another tool: nothing is asked of AWS.
    let bob = stack.issuer.token("bob", "whitelist:read");
    let result = stack.call_as(&bob, LISTS, group()).await;
    let second = result["structuredContent"].clone();
    assert_eq!(second["rules"], first["rules"], "{second:#}");
    assert!(second["age_seconds"].as_i64().is_some_and(|age| (1..=10).contains(&age)), "{second:#}");
    assert!(second["notes"].to_string().contains("Ask with `fresh`"), "{second:#}");
    let asked = json!({"security_group": "staging-db", "address": "198.51.100.7", "port": "443"});
    let checked = stack.done("whitelist_check", asked.clone()).await;
    assert_eq!(checked["verdict"], "allowed");
    assert!(checked["age_seconds"].as_i64().is_some_and(|age| age >= 1), "{checked:#}");
    assert_eq!(news(&aws, &mut before), [""; 0]);
    // Policy has decided before anything is looked up.
    let mallory = stack.issuer.token("mallory", "whitelist:read");
    let refused = error_of(&stack.call_as(&mallory, LISTS, group()).await);
    assert_eq!(refused["code"], "PERMISSION_DENIED", "{refused:#}");
    // Who wants it fresh gets it fresh, and the next one is served from that.
    let mut fresh = group();
    fresh["fresh"] = true.into();
    let third = stack.done(LISTS, fresh).await;
    assert_eq!(news(&aws, &mut before), ["AssumeRole", "DescribeSecurityGroupRules"]);
    stack.done("whitelist_check", asked).await;
    assert_eq!(news(&aws, &mut before), [""; 0]);
    // The entries name whose session read it.
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["read_from"].is_array()).count() == 3).await;
    let end = |call: &Value| {
        let of = |entry: &&Value| entry["type"] == "end" && entry["call"] == *call;
        entries.iter().find(of).expect("an end").clone()
    };
    assert_eq!(end(&second["call_id"])["read_from"], json!([first["call_id"]]));
    assert_eq!(end(&second["call_id"])["aws"], json!([]));
    assert!(end(&third["call_id"])["read_from"].is_null());
    assert_eq!(entries.last().expect("an entry")["read_from"], json!([third["call_id"]]));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_change_is_seen_at_once_and_anothers_when_the_lifetime_ends() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), cached("rules = \"1500ms\"")).await;
    assert_eq!(stack.done(LISTS, group()).await["total"].as_i64().unwrap_or(0), 0);
    stack.done("whitelist_add", add(1)).await;
    assert_eq!(stack.done(LISTS, group()).await["total"], 1);
    // Not kept before AWS shows every change; then it is.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stack.done(LISTS, group()).await;
    let by_hand = aws.rule("tcp", 25, 25, ("CidrIpv4", "192.0.2.0/24"));
    assert_eq!(stack.done(LISTS, group()).await["total"], 1, "{by_hand} is not seen yet");
    // A dry run and a change rest on what AWS says now.
    let dry = json!({"security_group": "staging-db", "address": "192.0.2.0/24", "port": "25", "reason": "look", "dry_run": true});
    assert_eq!(stack.done("whitelist_add", dry).await["items"][0]["outcome"], "already_open");
    soon("it shows", async || (stack.done(LISTS, group()).await["total"] == 2).then_some(())).await;
    stack.done("whitelist_remove", json!({"security_group": "staging-db", "address": "203.0.113.1"})).await;
    assert_eq!(stack.done(LISTS, group()).await["total"], 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_advice_rests_on_is_kept_for_longer() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), cached("")).await;
    aws.strip(GROUP);
    let mut before = 0;
    // A group without a rule is asked for by itself: whether it is there.
    stack.done(LISTS, group()).await;
    assert_eq!(news(&aws, &mut before).iter().filter(|action| *action == "DescribeSecurityGroups").count(), 1);
    let mut dry = add(1);
    dry["dry_run"] = true.into();
    stack.done("whitelist_add", dry).await;
    assert_eq!(news(&aws, &mut before), ["AssumeRole", "DescribeSecurityGroupRules"], "the group is known");
    // A change believes nothing of it.
    stack.done("whitelist_add", add(1)).await;
    assert!(news(&aws, &mut before).contains(&"DescribeSecurityGroups".to_owned()));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_it_and_nobody_else_can() {
    let (aws, mut redis) = (AwsDouble::start().await, Redis::start().await);
    let (one, other) = (in_redis(&aws, &redis).await, in_redis(&aws, &redis).await);
    one.done("whitelist_add", add(7)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut before = aws.actions().len();
    let first = eventually("it is kept", async || {
        let first = one.done(LISTS, group()).await;
        (redis.ask("KEYS *seen:rules*").await.lines().count() >= 2).then_some(first)
    })
    .await;
    news(&aws, &mut before);
    let second = other.done(LISTS, group()).await;
    assert_eq!(news(&aws, &mut before), [""; 0], "read by the other replica");
    assert_eq!(second["rules"][0]["rule_id"], first["rules"][0]["rule_id"]);
    // Each is told what is theirs by who they are, and not by who asked first.
    assert_eq!(first["rules"][0]["leases"][0]["yours"], true);
    assert_eq!(second["rules"][0]["leases"][0]["yours"], false);
    let entries = other.journal_when(|entries| entries.iter().any(|entry| entry["read_from"].is_array())).await;
    assert_eq!(entries.last().expect("an entry")["read_from"], json!([first["call_id"]]));
    // Redis's keepers read nothing in it.
    let key = "whitelistmcp:seen:rules:123456789012:eu-central-1:sg-0aaaaaaaaaaaaaaaa";
    let kept = redis.ask(&format!("GET {key}")).await;
    assert!(kept.len() > 100, "{kept}");
    for word in ["alice", "203.0.113.7", "look", "rules"] {
        assert!(!kept.contains(word), "{word}: {kept}");
    }
    // And what they write there is not believed.
    redis.ask(&format!("SET {key} forged PX 5000")).await;
    assert_eq!(other.done(LISTS, group()).await["rules"].as_array().map(Vec::len), Some(1));
    assert!(news(&aws, &mut before).contains(&"DescribeSecurityGroupRules".to_owned()));
    // A change by one replica is seen by the other at once.
    one.done("whitelist_add", add(8)).await;
    assert_eq!(other.done(LISTS, group()).await["total"], 2);
    // Without Redis AWS is asked.
    redis.end();
    news(&aws, &mut before);
    for _ in 0..2 {
        assert_eq!(other.done(LISTS, group()).await["total"], 2);
        assert!(news(&aws, &mut before).contains(&"DescribeSecurityGroupRules".to_owned()));
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_redis_was_not_told_of_is_seen_all_the_same() {
    let (aws, redis) = (AwsDouble::start().await, Redis::start().await);
    let options = cached("kept_in = \"redis\"\nkey_file = \"{at}/sealing.key\"\nrules = \"60s\"");
    let stack = Stack::with(&aws.access(), Options { redis: Some(redis.url()), ..options }).await;
    stack.done("whitelist_add", add(1)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    eventually("it is kept", async || {
        stack.done(LISTS, group()).await;
        (stack.done(LISTS, group()).await["age_seconds"].as_i64()? > 0).then_some(())
    })
    .await;
    redis.hang();
    stack.done("whitelist_remove", json!({"security_group": "staging-db", "address": "203.0.113.1"})).await;
    redis.go_on();
    // Until Redis is found well again AWS is asked, and from then on what is kept is dropped.
    for _ in 0..20 {
        assert_eq!(stack.done(LISTS, group()).await["total"].as_i64().unwrap_or(0), 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_does_not_fit_is_refused() {
    let aws = AwsDouble::start().await;
    let options = Options::default();
    let ground = crate::support::Ground::new(&options).await;
    for (extra, part) in [
        ("kept_in = \"redis\"\nkey_file = \"{at}/sealing.key\"", "needs `[redis]`"),
        ("key_file = \"{at}/sealing.key\"", "take it out"),
        ("rules = \"2m\"", "from 1ms to 1m"),
        ("groups = \"2h\"", "from 1ms to 1h"),
        ("rule = \"5s\"", "unknown field `rule`"),
    ] {
        let options = cached(extra);
        let file = crate::support::core_file(&ground.directory, &aws.access(), &options, &ground.issuer, 0);
        let config = whitelistmcp::config::Config::parse("core.toml".as_ref(), &file, []);
        let refused = match config {
            Err(error) => whitelistmcp::error::Chain(&error).to_string(),
            Ok(config) => {
                let shutdown = whitelistmcp::shutdown::Shutdown::new();
                let error = Box::pin(whitelistmcp::app::core(&config, &shutdown)).await.expect_err(extra);
                whitelistmcp::error::Chain(&error).to_string()
            }
        };
        assert!(refused.contains(part), "{extra}: {refused}");
    }
}
