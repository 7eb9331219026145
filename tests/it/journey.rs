//! What users do, at both doors, over the double.

use serde_json::json;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::{GROUP, Stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_check_list_close() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7/24", "port": "https", "reason": "ticket OPS-1", "duration": "2h"});

    let opened = stack.done("whitelist_add", arguments.clone()).await;
    assert_eq!(opened["outcome"], "opened");
    let rule = &opened["rule"];
    assert_eq!((rule["source"].as_str(), rule["ports"].as_str()), (Some("203.0.113.0/24"), Some("443 (https)")));
    assert_eq!((rule["holder"].as_str(), rule["reason"].as_str()), (Some("alice@example.test"), Some("ticket OPS-1")));
    assert!(opened["notes"][0].as_str().is_some_and(|note| note.contains("203.0.113.0/24")), "{opened:#}");
    assert_eq!(rule["made_by_call"], opened["call_id"]);
    let tags = aws.tags().into_values().next().expect("a rule");
    assert_eq!(tags.get("whitelistmcp:call").map(String::as_str), opened["call_id"].as_str());
    let lease = tags.iter().find(|(key, _)| key.starts_with("whitelistmcp:holder:")).expect("a lease").1;
    assert!(lease.starts_with(rule["until"].as_str().expect("an end")) && lease.ends_with(" ticket OPS-1"), "{lease}");

    let again = stack.done("whitelist_add", arguments).await;
    assert_eq!(again["outcome"], "already_yours");
    assert_eq!(again["rule"]["rule_id"], rule["rule_id"]);

    let check =
        stack.done("whitelist_check", json!({"security_group": GROUP, "address": "203.0.113.200", "port": 443})).await;
    assert_eq!(check["verdict"], "allowed");
    assert_eq!(check["allowed_by"][0]["rule_id"], rule["rule_id"]);

    let list = stack.done("whitelist_list", json!({"security_group": "staging-db", "managed_only": true})).await;
    assert_eq!((list["rules"].as_array().map(Vec::len), list["total"].as_i64()), (Some(1), Some(1)));

    let removed = stack
        .done(
            "whitelist_remove",
            json!({"security_group": "staging-db", "address": "203.0.113.0/24", "port": "https", "protocol": "tcp"}),
        )
        .await;
    assert_eq!(
        (removed["outcome"].as_str(), removed["removed"][0]["rule_id"].as_str()),
        (Some("removed"), rule["rule_id"].as_str())
    );
    let gone =
        stack.done("whitelist_remove", json!({"security_group": "staging-db", "rule_id": rule["rule_id"]})).await;
    assert_eq!(gone["outcome"], "nothing_to_remove");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_changes_nothing_and_could_not() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let add = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "plan", "dry_run": true});
    let planned = stack.done("whitelist_add", add).await;
    assert_eq!((planned["outcome"].as_str(), planned["rule"]["rule_id"].as_str()), (Some("would_open"), Some("")));
    let id = stack
        .done(
            "whitelist_add",
            json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "real"}),
        )
        .await["rule"]["rule_id"]
        .clone();
    let planned =
        stack.done("whitelist_remove", json!({"security_group": "staging-db", "rule_id": id, "dry_run": true})).await;
    assert_eq!(
        (planned["outcome"].as_str(), planned["removed"].as_array().map(Vec::len)),
        (Some("would_remove"), Some(1))
    );
    assert_eq!(aws.tags().len(), 1);
    let sessions: Vec<_> = aws.asked().into_iter().filter(|asked| asked.action == "AssumeRole").collect();
    let policy = |index: usize| sessions[index].params["Policy"].clone();
    assert!(!policy(0).contains("Authorize") && policy(1).contains("Authorize") && !policy(2).contains("Revoke"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_does_the_same_by_grpc() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let mut client = stack.grpc("ci-runner");
    let request = pb::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "2001:db8::/64".to_owned(),
        port: "postgres".to_owned(),
        reason: "deploy 512".to_owned(),
        ..Default::default()
    };
    let opened = client.add_rule(request).await.expect("opened").into_inner();
    let rule = opened.rule.expect("a rule");
    assert_eq!(
        (rule.source.as_str(), rule.source_kind.as_str(), rule.holder.as_str()),
        ("2001:db8::/64", "ipv6", "test.example/ci-runner")
    );
    let current = pb::CheckAccessRequest {
        security_group: GROUP.to_owned(),
        address: "current".to_owned(),
        port: "postgres".to_owned(),
        ..Default::default()
    };
    let checked = client.check_access(current).await.expect("checked").into_inner();
    assert_eq!(checked.verdict, "not_allowed");
    assert!(checked.notes[0].contains("127.0.0.1/32"), "{:?}", checked.notes);
    let remove =
        pb::RemoveRulesRequest { security_group: GROUP.to_owned(), rule_id: rule.rule_id, ..Default::default() };
    assert_eq!(client.remove_rules(remove).await.expect("removed").into_inner().outcome, "removed");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn current_is_the_address_that_the_edge_sees() {
    let aws = AwsDouble::start().await;
    let options =
        crate::support::Options { edge_extra: "trusted_proxies = [\"127.0.0.0/8\", \"::1\"]", ..Default::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_add", "arguments": {"security_group": "staging-db", "address": "current", "port": "22", "reason": "from here"}}});
    let forwarded = [("x-forwarded-for", "198.51.100.66, 203.0.113.9")];
    let answer = stack.post(Some(&stack.token()), &forwarded, body.to_string()).await.json();
    assert_eq!(answer["result"]["structuredContent"]["rule"]["source"], "203.0.113.9/32", "{answer:#}");
    stack.stop().await;

    // Without declared proxies the header is hearsay: the connection's own address counts, and loopback is refused.
    let stack = Stack::start(&aws).await;
    let answer = stack.post(Some(&stack.token()), &forwarded, body.to_string()).await.json();
    assert!(
        answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("not-a-host-address")),
        "{answer:#}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ones_own_rules_are_removed() {
    let aws = AwsDouble::start().await;
    let by_hand = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.50/32"));
    let stack = Stack::start(&aws).await;
    let add =
        |address: &str| json!({"security_group": "staging-db", "address": address, "port": "22", "reason": "access"});
    let bob = stack.issuer.token("bob", "whitelist:write");
    let bobs =
        stack.call_as(&bob, "whitelist_add", add("203.0.113.51")).await["structuredContent"]["rule"]["rule_id"].clone();
    stack.done("whitelist_add", add("203.0.113.52")).await;

    let error = stack.refused("whitelist_remove", json!({"security_group": "staging-db", "rule_id": by_hand})).await;
    assert_eq!(error["reason"], "NOT_OURS");
    let error = stack.refused("whitelist_remove", json!({"security_group": "staging-db", "rule_id": bobs})).await;
    assert_eq!(error["reason"], "NOT_HELD");

    let removed = stack.done("whitelist_remove", json!({"security_group": "staging-db", "port": "ssh"})).await;
    assert_eq!(removed["removed"].as_array().map(Vec::len), Some(1));
    let why: Vec<_> =
        removed["kept"].as_array().expect("kept").iter().map(|kept| kept["why"].as_str().unwrap_or_default()).collect();
    assert_eq!(why.len(), 2);
    assert!(
        why.iter().any(|why| why.contains("not made by this service"))
            && why.iter().any(|why| why.contains("hold no lease")),
        "{why:?}"
    );
    assert_eq!(aws.tags().len(), 2);
    let error = stack.refused("whitelist_remove", json!({"security_group": "staging-db"})).await;
    assert_eq!(error["reason"], "SELECTOR_MISSING");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_cannot_tell_is_said() {
    let aws = AwsDouble::start().await;
    aws.rule("tcp", 5432, 5432, ("PrefixListId", "pl-0123456789abcdef0"));
    aws.rule("-1", -1, -1, ("Group", "sg-0cccccccccccccccc"));
    aws.rule("icmp", -1, -1, ("CidrIpv4", "203.0.113.0/24"));
    aws.rule("47", -1, -1, ("CidrIpv4", "203.0.113.0/24"));
    let stack = Stack::start(&aws).await;
    let check = stack
        .done("whitelist_check", json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "postgres"}))
        .await;
    assert_eq!((check["verdict"].as_str(), check["might_allow"].as_array().map(Vec::len)), (Some("depends"), Some(2)));
    let check = stack.done("whitelist_check", json!({"security_group": "staging-db", "address": "203.0.113.7", "protocol": "icmp", "port": "echo-request"})).await;
    assert_eq!(check["verdict"], "allowed");
    let list = stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    let kinds: Vec<_> = list["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| rule["source_kind"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(kinds, ["prefix_list", "security_group", "ipv4", "ipv4"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge_and_core_in_one_process_do_the_same() {
    let aws = AwsDouble::start().await;
    let ordinary = Stack::start(&aws).await;
    let at = ordinary.directory.path().display();
    let access = aws.access();
    let config = crate::support::parse(&format!(
        "[edge]\nlisten = \"127.0.0.1:0\"\npublic_url = \"http://localhost/mcp\"\nplaintext = true\n[oidc.company]\nissuer = \"{}\"\naudience = \"{}\"\n[aws]\nendpoint = \"{}\"\ncredentials_file = \"{at}/aws-credentials\"\n[[aws.accounts]]\nid = \"{}\"\nrole_arn = \"{}\"\nregions = [\"eu-central-1\"]\n[targets]\naccount = \"{}\"\nregion = \"eu-central-1\"\n[[targets.groups]]\nname = \"staging-db\"\nid = \"{GROUP}\"\n[audit]\ndirectory = \"{at}/journal-serve\"\nvolume = \"persistent\"\n",
        ordinary.issuer.url,
        crate::support::AUDIENCE,
        access.endpoint,
        access.account,
        access.role_arn,
        access.account,
    ));
    let shutdown = whitelistmcp::shutdown::Shutdown::new();
    let bound = whitelistmcp::app::serve(&config, &shutdown).await.expect("it starts");
    let edge = bound.edge_address().expect("an address");
    let serving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { bound.run(&shutdown).await }
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_add", "arguments": {"security_group": "staging-db", "address": "203.0.113.7", "port": 22, "reason": "serve"}}});
    let request = http::Request::post(format!("http://localhost:{}/mcp", edge.port()))
        .header("authorization", format!("Bearer {}", ordinary.token()))
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("a request");
    let answer: serde_json::Value =
        serde_json::from_slice(ordinary.http.send(request).await.expect("an answer").body()).expect("JSON");
    assert_eq!(answer["result"]["structuredContent"]["outcome"], "opened", "{answer:#}");
    shutdown.begin();
    assert!(serving.await.expect("no panic"));
    let entries = crate::support::journal(&ordinary.directory.path().join("journal-serve"));
    assert_eq!(entries.iter().filter(|entry| entry["type"] == "end" && entry["changed"] == true).count(), 1);
    ordinary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_its_subject_s_and_a_name_only_what_is_verified() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let token = |email: Option<&str>, verified: bool| {
        let mut claims = stack.issuer.claims("alice", "whitelist:write");
        claims["email"] = json!(email);
        claims["email_verified"] = verified.into();
        stack.issuer.sign(&crate::support::issuer::header(), &claims)
    };
    let add = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "ticket"});
    let opened = stack.call_as(&token(Some("ceo@example.test"), false), "whitelist_add", add.clone()).await;
    assert_eq!(opened["structuredContent"]["rule"]["holder"], "alice", "{opened:#}");
    let rule_id = opened["structuredContent"]["rule"]["rule_id"].clone();
    let remove = json!({"security_group": "staging-db", "rule_id": rule_id});
    let removed = stack.call_as(&token(Some("alice@new.example"), true), "whitelist_remove", remove).await;
    assert_eq!(removed["structuredContent"]["outcome"], "removed", "the same person under a new name: {removed:#}");
    stack.stop().await;
}
