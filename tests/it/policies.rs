//! What policy refuses, through every door, and how it says so.

use serde_json::json;

use crate::support::aws_double::AwsDouble;
use crate::support::{GROUP, Options, Stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_refuses_what_no_one_should_open() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for (address, port, policy) in [
        ("0.0.0.0/0", "443", "whole-internet"),
        ("::/0", "443", "whole-internet"),
        ("203.0.112.0/23", "443", "too-wide"),
        ("2600::/55", "443", "too-wide"),
        ("203.0.113.0/31", "ssh", "admin-port-single-address"),
        ("203.0.113.0/24", "20-30", "admin-port-single-address"),
        ("203.0.113.0/24", "rdp", "admin-port-single-address"),
        ("2600::/127", "22", "admin-port-single-address"),
        ("127.0.0.1", "443", "not-a-host-address"),
        ("::1", "443", "not-a-host-address"),
        ("169.254.169.254", "80", "not-a-host-address"),
        ("fe80::1", "443", "not-a-host-address"),
        ("224.0.0.1", "443", "not-a-host-address"),
        ("ff02::1", "443", "not-a-host-address"),
        ("0.0.0.0", "443", "not-a-host-address"),
        ("::", "443", "not-a-host-address"),
        ("255.255.255.255", "443", "not-a-host-address"),
        ("::/64", "443", "not-a-host-address"),
        ("64:ff9b::7f00:1", "443", "not-a-host-address"),
        ("2002:7f00:1::", "443", "not-a-host-address"),
    ] {
        for dry_run in [false, true] {
            let arguments = json!({"security_group": "staging-db", "address": address, "port": port, "reason": "trying", "dry_run": dry_run});
            let error = stack.refused("whitelist_add", arguments).await;
            assert_eq!(
                (error["code"].as_str(), error["reason"].as_str()),
                (Some("PERMISSION_DENIED"), Some("POLICY_FORBIDS")),
                "{address} {port}"
            );
            assert!(
                error["facts"]["policies"].as_str().is_some_and(|policies| policies.contains(policy)),
                "{address} {port}: {error}"
            );
        }
    }
    assert!(aws.asked().is_empty(), "AWS was asked for none of it");
    for (address, port) in [
        ("203.0.113.0/24", "443"),
        ("2600::/56", "443"),
        ("203.0.113.7", "22"),
        ("2600::7", "3389"),
        ("10.1.2.0/24", "8000-8100"),
    ] {
        let opened = stack
            .done(
                "whitelist_add",
                json!({"security_group": "staging-db", "address": address, "port": port, "reason": "fine"}),
            )
            .await;
        assert_eq!(opened["outcome"], "opened", "{address} {port}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unseen_group_reads_like_an_unknown_one() {
    let aws = AwsDouble::start().await;
    let only_staging = r#"
        @id("staging") permit (principal, action, resource) when { resource has name && resource.name == "staging-db" };
    "#;
    let stack = Stack::with(&aws.access(), Options { policy: Some(only_staging), ..Options::default() }).await;
    stack.done("whitelist_list", json!({"security_group": GROUP})).await;
    let mut texts = Vec::new();
    // One that is configured and not for this caller, one that is not configured, and one that never was.
    for group in ["payroll-db", "nowhere-db", crate::support::OTHER_GROUP, "sg-0dddddddddddddddd"] {
        let error = stack.refused("whitelist_list", json!({"security_group": group})).await;
        assert_eq!(
            (error["code"].as_str(), error["reason"].as_str()),
            (Some("NOT_FOUND"), Some("SECURITY_GROUP_UNKNOWN")),
            "{group}"
        );
        let mut error = error;
        error["facts"] = json!(null);
        texts.push(error.to_string().replace(group, "GROUP"));
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:#?}");
    // Another field that is wrong is refused as it is, whether the group is known or not.
    for group in ["payroll-db", "nowhere-db"] {
        let error = stack.refused("whitelist_list", json!({"security_group": group, "address": "garbage"})).await;
        assert_eq!(error["reason"], "ADDRESS_INVALID", "{group}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_sees_what_stands() {
    let aws = AwsDouble::start().await;
    let at_most_two = r#"
        @id("all") permit (principal, action, resource);
        @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
        @id("two-at-most") @message("Two rules are enough here.") forbid (principal, action == Action::"whitelist_add", resource)
            when { context has standing && context.standing.ipv4_rules >= 2 };
    "#;
    let stack = Stack::with(&aws.access(), Options { policy: Some(at_most_two), ..Options::default() }).await;
    let add = |n: u8| json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "one of them"});
    stack.done("whitelist_add", add(1)).await;
    stack.done("whitelist_add", add(2)).await;
    let error = stack.refused("whitelist_add", add(3)).await;
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.contains("Two rules are enough here. (policy `two-at-most`)")),
        "{error}"
    );
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["outcome"] == "denied")).await;
    let denied = entries.iter().find(|entry| entry["outcome"] == "denied").expect("an end");
    assert_eq!((denied["policies"][0].as_str(), denied["changed"].as_bool()), (Some("two-at-most"), Some(false)));
    stack.stop().await;
}
