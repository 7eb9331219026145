//! The same tools against other people's AWS: moto for EC2's behaviour, ministack for what credentials may do.

use serde_json::{Value, json};

use crate::support::{AwsAccess, Options, Stack, emulator};

/// Opens for alice at both families, and says where she stands. Nothing here tags a rule that stands.
async fn opens(aws: &AwsAccess) -> Stack {
    let stack = Stack::with(aws, Options::default()).await;
    for address in ["203.0.113.7", "2001:db8::/64"] {
        let arguments = json!({"security_group": "own", "address": address, "port": "https", "reason": "ticket OPS-1", "duration": "1h"});
        let before = stack.done("whitelist_list", json!({"security_group": "own"})).await["total"].clone();
        let mut dry = arguments.clone();
        dry["dry_run"] = true.into();
        let planned = stack.done("whitelist_add", dry).await;
        assert_eq!(planned["outcome"], "would_open");
        assert!(planned["plans"][0]["ipv4_rules_left"].as_i64().is_some_and(|left| left > 50), "{planned:#}");
        let after = stack.done("whitelist_list", json!({"security_group": "own"})).await["total"].clone();
        assert_eq!(before, after, "a dry run makes nothing");
        let mut held = arguments.clone();
        held["plan_id"] = planned["plan_id"].clone();
        let opened = stack.done("whitelist_add", held).await;
        assert_eq!(
            (opened["outcome"].as_str(), opened["rule"]["holder"].as_str()),
            (Some("opened"), Some("alice@example.test")),
            "{opened:#}"
        );
        assert_eq!(stack.done("whitelist_add", arguments).await["outcome"], "already_yours");
        let list = stack.done("whitelist_list", json!({"security_group": "own", "address": address})).await;
        assert_eq!(
            (list["rules"][0]["managed"].as_bool(), list["rules"][0]["reason"].as_str()),
            (Some(true), Some("ticket OPS-1")),
            "{list:#}"
        );
        assert_eq!(list["rules"][0]["until"], opened["rule"]["until"]);
        let check =
            stack.done("whitelist_check", json!({"security_group": "own", "address": address, "port": 443})).await;
        assert_eq!(check["verdict"], "allowed");
    }
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto_and_the_life_of_a_lease() {
    let stack = Box::pin(opens(&emulator::own_group(emulator::moto(), "journey"))).await;
    let bob = stack.issuer.token("bob", "whitelist:write");
    let group = |mut arguments: Value| {
        arguments["security_group"] = "own".into();
        arguments
    };

    // Bob joins, alice leaves, and the rule stays for him.
    let join = group(json!({"address": "203.0.113.7", "port": "https", "reason": "the same office", "duration": "2h"}));
    let joined = stack.call_as(&bob, "whitelist_add", join).await["structuredContent"].clone();
    assert_eq!(joined["outcome"], "joined", "{joined:#}");
    let left = stack.done("whitelist_remove", group(json!({"address": "203.0.113.7"}))).await;
    assert_eq!(left["outcome"], "left", "{left:#}");

    // Bob extends, moves in place, and is the last to leave.
    let extended = group(json!({"address": "203.0.113.7", "duration": "3h"}));
    let extended = stack.call_as(&bob, "whitelist_extend", extended).await["structuredContent"].clone();
    assert_eq!(extended["outcome"], "extended", "{extended:#}");
    let moved = group(json!({"address": "203.0.113.8"}));
    let moved = stack.call_as(&bob, "whitelist_move", moved).await["structuredContent"].clone();
    let (rule, was) = (&moved["items"][0]["rule"], &joined["rule"]["rule_id"]);
    assert_eq!((moved["outcome"].as_str(), &rule["rule_id"]), (Some("moved"), was), "{moved:#}");
    assert_eq!((rule["source"].as_str(), &rule["until"]), (Some("203.0.113.8/32"), &extended["until"]));
    let leases = stack.call_as(&bob, "whitelist_leases", json!({})).await["structuredContent"].clone();
    assert_eq!(leases["rules"].as_array().map(Vec::len), Some(1), "{leases:#}");
    let removed =
        stack.call_as(&bob, "whitelist_remove", group(json!({"port": "https"}))).await["structuredContent"].clone();
    assert_eq!(removed["outcome"], "removed", "{removed:#}");

    // Several at once, and gone at once.
    let several = group(
        json!({"addresses": ["203.0.113.20", "203.0.113.21"], "ports": ["22", "postgres"], "reason": "ticket OPS-2", "duration": "1h"}),
    );
    let opened = stack.done("whitelist_add", several).await;
    assert_eq!(
        (opened["outcome"].as_str(), opened["items"].as_array().map(Vec::len)),
        (Some("opened"), Some(4)),
        "{opened:#}"
    );
    let removed = stack.done("whitelist_remove", group(json!({"ports": ["22", "5432", "443"]}))).await;
    assert_eq!(
        (removed["outcome"].as_str(), removed["items"].as_array().map(Vec::len)),
        (Some("removed"), Some(5)),
        "{removed:#}"
    );
    let nothing = stack.done("whitelist_remove", group(json!({"port": "22"}))).await;
    assert_eq!(nothing["outcome"], "nothing_to_remove");
    stack.stop().await;
}

/// ministack's evaluator allows tags on a rule that stands only for the resource `*`, where AWS takes the rule. The
/// policy is not widened for it: what tags is refused here, proved in the simulator, and run against moto.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ministack_with_every_policy_enforced() {
    let stack = Box::pin(opens(&emulator::own_group(emulator::ministack(), "journey"))).await;
    let remove = json!({"security_group": "own", "address": "203.0.113.7"});
    let error = stack.refused("whitelist_remove", remove).await;
    assert_eq!(error["reason"], "AWS_DENIED", "{error:#}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("ec2:CreateTags")), "{error:#}");
    stack.stop().await;
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
