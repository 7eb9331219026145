//! What policies are told, and that every door tells them the same; groups that are hidden; tools that are not shown.

use serde_json::{Value, json};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::{ACCOUNT, GROUP, OTHER_GROUP, Options, REGION, Stack, error_of, issuer, soon};

/// Everything in groups of one environment and VPC.
const BY_TAG: &str = r#"
    @id("staging") permit (principal, action, resource is SecurityGroup)
        when { resource.hasTag("env") && resource.getTag("env") == "staging" };
    @id("searches") permit (principal, action, resource is Region);
    @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
    @id("ssh-elsewhere") @message("No ssh outside vpc-1.") forbid (principal, action == Action::"whitelist_add", resource is SecurityGroup)
        when { context.from_port == 22 } unless { resource has vpc && resource.vpc == "vpc-1" };
"#;
/// One group by its name, whatever AWS says of it.
const BY_NAME: &str = r#"
    @id("staging") permit (principal, action, resource is SecurityGroup) when { resource has name && resource.name == "staging-db" };
    @id("searches") permit (principal, action, resource is Region);
    @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
"#;
const DISCOVERING: &str = "settle = \"30ms\"\nclose = false\ndiscover = true\n";

async fn tagged() -> AwsDouble {
    let aws = AwsDouble::start().await;
    aws.add_group(ACCOUNT, REGION, GROUP, "staging-db", &[("env", "staging")]);
    aws.add_group(ACCOUNT, REGION, OTHER_GROUP, "payroll-db", &[("env", "prod")]);
    aws.add_group(
        ACCOUNT,
        REGION,
        "sg-0cccccccccccccccc",
        "web",
        &[("whitelistmcp:managed", "web"), ("env", "staging")],
    );
    aws.add_group(
        ACCOUNT,
        REGION,
        "sg-0eeeeeeeeeeeeeeee",
        "hidden",
        &[("whitelistmcp:managed", "hidden-web"), ("env", "prod")],
    );
    aws
}

/// How often every group of the Region was read.
fn surveys(aws: &AwsDouble) -> usize {
    let every = |asked: &&crate::support::aws_double::Asked| {
        asked.action == "DescribeSecurityGroups"
            && !asked.params.keys().any(|key| key.starts_with("GroupId") || key.starts_with("Filter"))
    };
    aws.asked().iter().filter(every).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_and_vpc_are_read_before_the_first_decision_and_once() {
    let aws = tagged().await;
    let options = Options { policy: Some(BY_TAG), leases: Some(DISCOVERING), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let add = |group: &str, port: &str, dry_run: bool| json!({"security_group": group, "address": "203.0.113.7", "port": port, "reason": "a test", "dry_run": dry_run});
    for group in ["staging-db", "web", GROUP, "sg-0cccccccccccccccc"] {
        stack.done("whitelist_list", json!({"security_group": group})).await;
        stack.done("whitelist_add", add(group, "443", false)).await;
        for dry_run in [false, true] {
            let error = stack.refused("whitelist_add", add(group, "22", dry_run)).await;
            assert_eq!(error["facts"]["policies"], "ssh-elsewhere", "the VPC is another: {group}");
        }
    }
    assert_eq!(surveys(&aws), 1, "configured groups and those that are opted in, by one call");
    for group in ["payroll-db", "hidden-web", OTHER_GROUP, "sg-0eeeeeeeeeeeeeeee", "sg-0dddddddddddddddd"] {
        let error = stack.refused("whitelist_list", json!({"security_group": group})).await;
        assert_eq!(error["reason"], "SECURITY_GROUP_UNKNOWN", "{group}");
    }
    let shown = stack.done("whitelist_targets", json!({})).await;
    let names: Vec<&str> =
        shown["groups"].as_array().expect("groups").iter().filter_map(|group| group["name"].as_str()).collect();
    assert_eq!(names, ["staging-db", "web"]);
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["tool"] == "discover")).await;
    let look = entries.iter().find(|entry| entry["tool"] == "discover").expect("an entry of its own");
    assert!(look["who"]["id"].as_str().is_some_and(|id| id.starts_with("directory-")), "{look}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_of_no_tag_pays_for_none() {
    let aws = tagged().await;
    let options = Options { policy: Some(BY_NAME), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    stack
        .done(
            "whitelist_add",
            json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "443", "reason": "a test"}),
        )
        .await;
    stack.refused("whitelist_list", json!({"security_group": "nowhere"})).await;
    assert!(!aws.actions().iter().any(|action| action == "DescribeSecurityGroups"), "{:?}", aws.actions());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_groups_cannot_be_read_nothing_is_guessed_and_nothing_told() {
    let aws = tagged().await;
    aws.bucket("DescribeSecurityGroups", 0, 0.0);
    let options = Options { policy: Some(BY_TAG), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let mut errors = Vec::new();
    // One that they may see, one that they may not, one that is not there.
    for group in ["staging-db", "payroll-db", "nowhere", "sg-0dddddddddddddddd"] {
        for (tool, arguments) in [
            ("whitelist_list", json!({"security_group": group})),
            (
                "whitelist_add",
                json!({"security_group": group, "address": "203.0.113.7", "port": "443", "reason": "a test"}),
            ),
            ("whitelist_leases", json!({"security_group": group})),
        ] {
            let error = stack.refused(tool, arguments).await;
            assert_eq!(
                (error["code"].as_str(), error["reason"].as_str()),
                (Some("UNAVAILABLE"), Some("GROUPS_UNREAD")),
                "{group} {tool}: {error}"
            );
            errors.push(error["message"].to_string());
        }
    }
    errors.dedup();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(aws.standing().is_empty());
    aws.bucket("DescribeSecurityGroups", 1000, 1000.0);
    // A look that failed is not tried again for a while: the longer it took, the longer.
    soon("it is well again by itself", async || {
        let result = stack.call("whitelist_list", json!({"security_group": "staging-db"})).await;
        if result["isError"] == false {
            return Some(());
        }
        assert_eq!(error_of(&result)["reason"], "GROUPS_UNREAD");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        None
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_token_says_is_known_to_policy() {
    let aws = AwsDouble::start().await;
    let strict = r#"
        @id("see") permit (principal, action in [Action::"see", Action::"whitelist_list"], resource);
        @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
        @id("payments") permit (principal is Person, action == Action::"whitelist_add", resource)
        when {
            principal.hasTag("department") && principal.getTag("department") == "payments" &&
            context.call has acr && context.call.acr == "urn:example:mfa" && context.call.amr.containsAll(["hwk", "user"]) &&
            context.call has actor && context.call.actor == "assistant" && context.call.actors.contains("orchestrator") &&
            context.call has authenticated && context.call.authenticated < 300 &&
            context.call.now > datetime("2020-01-01") && context.call.hour < 24 && context.call.minute < 60 &&
            context.call.weekday >= 1 && context.call.weekday <= 7
        };
    "#;
    let options =
        Options { policy: Some(strict), oidc_extra: "claims = [\"department\"]\n".to_owned(), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let said = || {
        json!({
            "department": "payments", "acr": "urn:example:mfa", "amr": ["hwk", "user"], "auth_time": issuer::now() - 60,
            "act": {"sub": "assistant", "act": {"sub": "orchestrator"}},
        })
    };
    let call = async |said: Value| {
        let token = stack.issuer.token_with("alice", "whitelist:write", said);
        let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "443", "reason": "a test", "dry_run": true});
        stack.call_as(&token, "whitelist_add", arguments).await
    };
    assert_eq!(call(said()).await["isError"], false);
    for (claim, other) in [
        ("department", json!("sales")),
        ("department", Value::Null),
        ("acr", json!("urn:example:password")),
        ("acr", Value::Null),
        ("amr", json!(["hwk"])),
        ("auth_time", json!(issuer::now() - 3000)),
        ("auth_time", Value::Null),
        ("act", json!({"sub": "orchestrator"})),
        ("act", json!({"sub": "assistant"})),
    ] {
        let mut other_said = said();
        other_said[claim] = other.clone();
        let error = error_of(&call(other_said).await);
        assert_eq!(error["reason"], "POLICY_DOES_NOT_PERMIT", "{claim} {other}");
    }
    stack.stop().await;
}

/// What one call came to, in the same words for every door.
fn verdict(error: Option<(&str, &str)>) -> String {
    error.map_or_else(|| "allow".to_owned(), |(reason, policies)| format!("{reason} {policies}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_asks_the_same_policy_with_the_same_facts() {
    let aws = tagged().await;
    let table = r#"
        @id("staging") permit (principal, action, resource is SecurityGroup)
            when { resource.hasTag("env") && resource.getTag("env") == "staging" };
        @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
        @id("narrow") @message("One address.") forbid (principal, action == Action::"whitelist_add", resource)
            when { context.prefix < 32 || !context.public };
        @id("from-here") @message("From 127.0.0.0/8 alone.") forbid (principal, action in [Action::"whitelist_add", Action::"whitelist_list", Action::"whitelist_check"], resource)
            unless { context.call has client_address && context.call.client_address.isInRange(ip("127.0.0.0/8")) };
        @id("no-check") @message("Nothing is checked.") forbid (principal, action == Action::"whitelist_check", resource);
        @id("short") @message("An hour.") forbid (principal, action == Action::"whitelist_add", resource) when { context.seconds > 3600 };
    "#;
    let options = Options { policy: Some(table), leases: Some(DISCOVERING), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let mut grpc = stack.grpc("ci-runner");
    for (group, address, duration, expected) in [
        ("staging-db", "8.8.4.4", "1h", "allow"),
        ("web", "8.8.4.4", "", "allow"),
        ("staging-db", "8.8.4.0/24", "1h", "POLICY_FORBIDS narrow"),
        ("web", "10.0.0.1", "2h", "POLICY_FORBIDS narrow,short"),
        ("payroll-db", "8.8.4.4", "1h", "SECURITY_GROUP_UNKNOWN "),
        ("hidden-web", "8.8.4.0/24", "9h", "SECURITY_GROUP_UNKNOWN "),
        ("nowhere", "8.8.4.4", "1h", "SECURITY_GROUP_UNKNOWN "),
    ] {
        for dry_run in [true, false] {
            let mut arguments = json!({"security_group": group, "address": address, "port": "443", "reason": "a test", "dry_run": dry_run});
            if !duration.is_empty() {
                arguments["duration"] = duration.into();
            }
            let result = stack.call("whitelist_add", arguments).await;
            let error = (result["isError"] == true).then(|| error_of(&result));
            let said = error.as_ref().map(|error| {
                (error["reason"].as_str().unwrap_or_default(), error["facts"]["policies"].as_str().unwrap_or_default())
            });
            assert_eq!(verdict(said), expected, "MCP, dry run {dry_run}: {group} {address}");
            let request = pb::AddRuleRequest {
                security_group: group.to_owned(),
                address: address.to_owned(),
                port: "443".to_owned(),
                reason: "a test".to_owned(),
                duration: duration.to_owned(),
                dry_run,
                ..Default::default()
            };
            let refusal = grpc.add_rule(request).await.err().map(|status| Refusal::of(&status));
            let said = refusal.as_ref().map(|refusal| {
                (refusal.reason.as_str(), refusal.facts.get("policies").map(String::as_str).unwrap_or_default())
            });
            assert_eq!(verdict(said), expected, "gRPC, dry run {dry_run}: {group} {address}");
        }
        let seen = if expected.starts_with("SECURITY") { expected } else { "allow" };
        let list = pb::ListRulesRequest { security_group: group.to_owned(), ..Default::default() };
        let refusal = grpc.list_rules(list).await.err().map(|status| Refusal::of(&status));
        assert_eq!(verdict(refusal.as_ref().map(|refusal| (refusal.reason.as_str(), ""))), seen, "{group}");
        let listed = stack.call("whitelist_list", json!({"security_group": group})).await;
        assert_eq!(listed["isError"] == false, seen == "allow", "{group}");
        let check = pb::CheckAccessRequest {
            security_group: group.to_owned(),
            address: address.to_owned(),
            port: "443".to_owned(),
            ..Default::default()
        };
        let refusal = Refusal::of(&grpc.check_access(check).await.expect_err("nothing is checked"));
        let checked = error_of(
            &stack.call("whitelist_check", json!({"security_group": group, "address": address, "port": "443"})).await,
        );
        assert_eq!(refusal.reason, checked["reason"], "{group}");
        let expected = if seen == "allow" { "POLICY_FORBIDS" } else { "SECURITY_GROUP_UNKNOWN" };
        assert_eq!(refusal.reason, expected, "{group}");
    }
    stack.stop().await;
}

/// What AWS was asked and what was said, for a name that a caller asks for in every way, on a service that knows nothing
/// yet.
async fn asked_for(policy: &'static str, name: &str) -> (Vec<String>, Vec<String>) {
    let aws = tagged().await;
    let options = Options { policy: Some(policy), leases: Some(DISCOVERING), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let mut said = Vec::new();
    for (tool, arguments) in [
        ("whitelist_list", json!({"security_group": name})),
        ("whitelist_list", json!({"security_group": name})),
        ("whitelist_add", json!({"security_group": name, "address": "203.0.113.7", "port": "443", "reason": "a test"})),
        (
            "whitelist_add",
            json!({"security_groups": ["staging-db", name], "address": "203.0.113.7", "port": "443", "reason": "a test"}),
        ),
        (
            "whitelist_add",
            json!({"security_groups": [name, "not-there"], "address": "203.0.113.7", "port": "443", "reason": "a test"}),
        ),
        ("whitelist_remove", json!({"security_groups": [name, "staging-db"], "port": "443"})),
        ("whitelist_leases", json!({"security_group": name})),
    ] {
        let mut error = stack.refused(tool, arguments).await;
        error["facts"] = json!(null);
        said.push(error.to_string().replace(name, "NAME"));
    }
    assert!(aws.standing().is_empty(), "{name}: nothing was opened in the group beside it");
    stack.stop().await;
    (aws.actions(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_group_cannot_be_told_from_none_by_words_or_by_what_aws_is_asked() {
    for policy in [BY_NAME, BY_TAG] {
        let nowhere = Box::pin(asked_for(policy, "nowhere")).await;
        assert!(nowhere.1.iter().all(|said| said.contains("SECURITY_GROUP_UNKNOWN")), "{:#?}", nowhere.1);
        assert!(nowhere.0.iter().any(|action| action == "DescribeSecurityGroups"), "it is looked for");
        // Configured, opted in, and by id.
        for name in ["payroll-db", "hidden-web", OTHER_GROUP] {
            assert_eq!(Box::pin(asked_for(policy, name)).await, nowhere, "{name}");
        }
    }
}

async fn tools(stack: &Stack, token: &str) -> Vec<String> {
    let answer = stack.rpc(token, "tools/list", json!({})).await.json();
    let tools = answer["result"]["tools"].as_array().expect("a list").clone();
    tools
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .map(|name| name.trim_start_matches("whitelist_").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_scopes_or_policy_rule_out_are_not_shown() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let reader = stack.issuer.token("rita", "whitelist:read");
    assert_eq!(tools(&stack, &reader).await, ["list", "check", "leases", "targets"]);
    let everything = ["add", "remove", "extend", "move", "list", "check", "leases", "targets"];
    assert_eq!(tools(&stack, &stack.token()).await, everything);
    let admin = stack.issuer.token_with("root", "whitelist:write", json!({"groups": ["whitelistmcp-admins"]}));
    assert_eq!(tools(&stack, &admin).await.len(), everything.len() + 1);
    // What is not shown is refused as ever.
    let error = stack.refused("whitelist_revoke_holder", json!({"holder": "bob", "reason": "left"})).await;
    assert_eq!(error["facts"]["policies"], "not-an-administrator");
    // Where the core cannot be asked, scopes decide.
    let reader = stack.issuer.token("roy", "whitelist:read");
    stack.stop_core().await;
    assert_eq!(tools(&stack, &reader).await, ["list", "check", "leases", "targets"]);
    assert_eq!(tools(&stack, &stack.issuer.token("bob", "whitelist:write")).await.len(), everything.len() + 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_be_allowed_is_never_hidden() {
    let aws = AwsDouble::start().await;
    let narrow = r#"
        @id("looks") permit (principal, action in [Action::"see", Action::"whitelist_list"], resource);
        @id("dev-checks") permit (principal in Group::"dev", action == Action::"whitelist_check", resource);
        @id("ops-adds") permit (principal in Group::"ops", action == Action::"whitelist_add", resource);
        @id("dev-extends") permit (principal in Group::"dev", action == Action::"whitelist_extend", resource)
            when { context.call.hour == 3 && context.reason like "night*" && resource.hasTag("env") && resource.getTag("env") == "x" };
        @id("dev-moves") permit (principal in Group::"dev", action == Action::"whitelist_move", resource);
        @id("word") @approval("another") @message("Another's word.") forbid (principal, action == Action::"whitelist_move", resource);
        @id("nobody-decides") @message("Nobody.") forbid (principal, action in [Action::"approve", Action::"break_glass"], resource);
        @id("dev-removes") permit (principal in Group::"dev", action == Action::"whitelist_remove", resource);
        @id("nobody-removes") @message("Nobody.") forbid (principal in Group::"dev", action == Action::"whitelist_remove", resource);
    "#;
    let stack = Stack::with(&aws.access(), Options { policy: Some(narrow), ..Options::default() }).await;
    assert_eq!(tools(&stack, &stack.token()).await, ["extend", "move", "list", "check"]);
    stack.stop().await;
}
