//! The same tools against other people's AWS: moto for EC2's behaviour, ministack for what credentials may do.

use serde_json::json;

use crate::support::{AwsAccess, Options, Stack, emulator};

async fn journey(aws: &AwsAccess) {
    let stack = Stack::with(aws, Options::default()).await;
    for address in ["203.0.113.7", "2001:db8::/64"] {
        let arguments = json!({"security_group": "own", "address": address, "port": "https", "reason": "ticket OPS-1", "duration": "1h"});
        let mut dry = arguments.clone();
        dry["dry_run"] = true.into();
        assert_eq!(stack.done("whitelist_add", dry).await["outcome"], "would_open");
        assert_eq!(
            stack.done("whitelist_list", json!({"security_group": "own"})).await["total"],
            0,
            "a dry run makes nothing"
        );
        let opened = stack.done("whitelist_add", arguments.clone()).await;
        assert_eq!(
            (opened["outcome"].as_str(), opened["rule"]["holder"].as_str()),
            (Some("opened"), Some("alice@example.test")),
            "{opened:#}"
        );
        assert_eq!(stack.done("whitelist_add", arguments).await["outcome"], "already_open");
        let list = stack.done("whitelist_list", json!({"security_group": "own"})).await;
        assert_eq!(
            (list["rules"][0]["managed"].as_bool(), list["rules"][0]["reason"].as_str()),
            (Some(true), Some("ticket OPS-1")),
            "{list:#}"
        );
        assert_eq!(list["rules"][0]["until"], opened["rule"]["until"]);
        let check =
            stack.done("whitelist_check", json!({"security_group": "own", "address": address, "port": 443})).await;
        assert_eq!(check["verdict"], "allowed");
        let removed = stack.done("whitelist_remove", json!({"security_group": "own", "address": address})).await;
        assert_eq!(
            (removed["outcome"].as_str(), removed["removed"].as_array().map(Vec::len)),
            (Some("removed"), Some(1))
        );
        assert_eq!(
            stack.done("whitelist_remove", json!({"security_group": "own", "address": address})).await["outcome"],
            "nothing_to_remove"
        );
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto() {
    journey(&emulator::own_group(emulator::moto(), "journey")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ministack_with_every_policy_enforced() {
    journey(&emulator::own_group(emulator::ministack(), "journey")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_gone_is_said_to_be() {
    for aws in [emulator::moto(), emulator::ministack()] {
        let aws = AwsAccess { groups: vec![("own".to_owned(), "sg-0123456789abcdef0".to_owned())], ..aws.clone() };
        let stack = Stack::with(&aws, Options::default()).await;
        let error = stack.refused("whitelist_list", json!({"security_group": "own"})).await;
        assert_eq!(
            (error["code"].as_str(), error["reason"].as_str()),
            (Some("NOT_FOUND"), Some("SECURITY_GROUP_NOT_FOUND")),
            "{}",
            aws.endpoint
        );
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_self_test_borrows_nothing_and_learns_its_name() {
    let aws = emulator::ministack();
    let directory = crate::support::temporary::Directory::new();
    let credentials = directory.write("credentials", &crate::support::credentials_file(aws));
    let accounts = |external_id: &str| {
        format!(
            "[aws]\nendpoint = \"{}\"\ncredentials_file = \"{}\"\n[[aws.accounts]]\nid = \"{}\"\nrole_arn = \"{}\"\nexternal_id = \"{external_id}\"\nregions = [\"eu-central-1\"]\n",
            aws.endpoint,
            credentials.display(),
            aws.account,
            aws.role_arn
        )
    };
    for (external_id, sound) in [(aws.external_id.as_str(), true), ("wrong-one", false)] {
        let config = directory.write("config.toml", &accounts(external_id));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .args(["check", "--aws", "--config"])
            .arg(config)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), sound, "{said}");
        let part = if sound { "assumed-role/whitelistmcp-target/self-test-" } else { "AccessDenied" };
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_external_id_the_role_is_refused() {
    let aws =
        AwsAccess { external_id: "wrong-one".to_owned(), ..emulator::own_group(emulator::ministack(), "refused") };
    let stack = Stack::with(&aws, Options::default()).await;
    let error = stack.refused("whitelist_list", json!({"security_group": "own"})).await;
    assert_eq!(
        (error["code"].as_str(), error["reason"].as_str()),
        (Some("FAILED_PRECONDITION"), Some("AWS_ROLE_REFUSED")),
        "{error}"
    );
    let end = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    assert!(end.iter().any(|entry| entry["type"] == "end" && entry["aws"][0]["error"] == "AccessDenied"));
    stack.stop().await;
}
