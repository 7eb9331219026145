//! Leases: opened, joined, extended, moved and given up, at the edge and over the double.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::{AwsDouble, Fault, What};
use crate::support::{ACCOUNT, GROUP, Options, Stack};

const READ_WRITE: &str = "whitelist:read whitelist:write";

fn group(mut arguments: Value) -> Value {
    arguments["security_group"] = "staging-db".into();
    arguments
}

fn ssh(address: &str) -> Value {
    group(json!({"address": address, "port": "22", "reason": "ticket OPS-1", "duration": "1h"}))
}

fn is_marked(tags: &std::collections::BTreeMap<String, String>) -> bool {
    tags.keys().any(|key| key.starts_with("whitelistmcp:closing:"))
}

/// Calls a tool as somebody; its structured content.
async fn done_as(stack: &Stack, who: &str, tool: &str, arguments: Value) -> Value {
    let result = stack.call_as(&stack.issuer.token(who, READ_WRITE), tool, arguments).await;
    assert_eq!(result["isError"], false, "{result:#}");
    result["structuredContent"].clone()
}

async fn refused_as(stack: &Stack, who: &str, tool: &str, arguments: Value) -> Value {
    crate::support::error_of(&stack.call_as(&stack.issuer.token(who, READ_WRITE), tool, arguments).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_says_when_it_ends_and_what_survives() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let opened = stack.done("whitelist_add", ssh("203.0.113.7")).await;
    let summary = opened["summary"].as_str().expect("a summary");
    let until = opened["until"].as_str().expect("an end");
    assert!(summary.contains("for 1h") && summary.contains(until) && until.ends_with('Z'), "{summary}");
    assert!(opened["notes"].to_string().contains("stay open"), "{opened:#}");
    // Who says nothing gets what policy says, and is told.
    let unsaid = group(json!({"address": "203.0.113.8", "port": "22", "reason": "ticket OPS-1"}));
    let opened = stack.done("whitelist_add", unsaid).await;
    assert!(opened["summary"].as_str().is_some_and(|text| text.contains("2h, which is the default")), "{opened:#}");
    let error = stack.refused("whitelist_add", {
        let mut add = ssh("203.0.113.9");
        add["duration"] = "48h".into();
        add
    });
    let error = error.await;
    assert_eq!(error["facts"]["policies"], "at-most-a-day");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_keeps_the_rule_when_the_other_leaves() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let opened = stack.done("whitelist_add", ssh("203.0.113.7")).await;
    let mut longer = ssh("203.0.113.7");
    longer["duration"] = "3h".into();
    let joined = done_as(&stack, "bob", "whitelist_add", longer.clone()).await;
    assert_eq!((joined["outcome"].as_str(), &joined["rule"]["rule_id"]), (Some("joined"), &opened["rule"]["rule_id"]));
    assert_eq!(joined["rule"]["until"], joined["until"], "the rule lasts as long as its last lease");
    assert_eq!(joined["rule"]["leases"].as_array().map(Vec::len), Some(2));
    assert_eq!(done_as(&stack, "bob", "whitelist_add", longer).await["outcome"], "already_yours");

    let remove = group(json!({"address": "203.0.113.7"}));
    let left = stack.done("whitelist_remove", remove.clone()).await;
    assert_eq!((left["outcome"].as_str(), aws.standing().len()), (Some("left"), 1), "{left:#}");
    // Alice holds nothing there any more; bob's lease is not hers to end.
    assert_eq!(stack.refused("whitelist_remove", remove.clone()).await["reason"], "NOT_HELD");
    let mut bobs = remove.clone();
    bobs["holder"] = "bob@example.test".into();
    let error = stack.refused("whitelist_remove", bobs).await;
    assert_eq!(error["facts"]["policies"], "not-your-lease");
    let removed = done_as(&stack, "bob", "whitelist_remove", remove.clone()).await;
    assert_eq!((removed["outcome"].as_str(), aws.standing().len()), (Some("removed"), 0));
    assert_eq!(done_as(&stack, "bob", "whitelist_remove", remove).await["outcome"], "nothing_to_remove");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_never_touched() {
    let aws = AwsDouble::start().await;
    let by_hand = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.7/32"));
    let anything = "@id(\"all\") permit (principal, action, resource); @id(\"h\") @duration(\"1h\") permit (principal, action == Action::\"default_duration\", resource);";
    let stack = Stack::with(&aws.access(), Options { policy: Some(anything), ..Options::default() }).await;
    let already = stack.done("whitelist_add", ssh("203.0.113.7")).await;
    assert_eq!(already["outcome"], "already_open");
    assert!(already["summary"].as_str().is_some_and(|text| text.contains("by hand") && text.contains("not close it")));
    for (tool, arguments, reason) in [
        ("whitelist_remove", group(json!({"rule_id": by_hand})), "NOT_OURS"),
        ("whitelist_remove", group(json!({"rule_id": by_hand, "holder": "everyone"})), "NOT_OURS"),
        ("whitelist_extend", group(json!({"rule_id": by_hand, "duration": "2h"})), "NO_LEASE"),
        ("whitelist_move", group(json!({"rule_id": by_hand, "address": "203.0.113.8"})), "NO_LEASE"),
    ] {
        assert_eq!(stack.refused(tool, arguments).await["reason"], reason, "{tool}");
    }
    // Nor one of ours whose tags somebody has meddled with.
    let damaged = stack.done("whitelist_add", ssh("203.0.113.9")).await["rule"]["rule_id"].clone();
    let damaged = damaged.as_str().expect("an id");
    assert!(aws.hand_tag(damaged, "whitelistmcp:call", "somebody's"));
    for (tool, arguments) in
        [("whitelist_add", ssh("203.0.113.9")), ("whitelist_remove", group(json!({"rule_id": damaged})))]
    {
        assert_eq!(stack.refused(tool, arguments).await["reason"], "TAGS_DAMAGED", "{tool}");
    }
    let list = stack.done("whitelist_list", group(json!({"address": "203.0.113.9"}))).await;
    assert!(list["rules"][0]["damaged"].as_str().is_some_and(|how| how.contains("whitelistmcp:call")), "{list:#}");
    assert!(aws.history().iter().all(|change| change.rule.id != by_hand || change.by == "by hand"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_moved_and_policy_decides_again() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let opened = stack.done("whitelist_add", ssh("203.0.113.7")).await;
    let extend = |duration: &str| group(json!({"address": "203.0.113.7", "duration": duration}));
    let extended = stack.done("whitelist_extend", extend("5h")).await;
    assert_eq!(extended["outcome"], "extended");
    assert!(extended["until"].as_str() > opened["until"].as_str(), "{extended:#}");
    assert_eq!(extended["items"][0]["rule"]["leases"][0]["since"], opened["rule"]["since"]);
    assert_eq!(stack.refused("whitelist_extend", extend("25h")).await["facts"]["policies"], "at-most-a-day");
    let shorter = stack.done("whitelist_extend", extend("10m")).await;
    assert!(shorter["until"].as_str() < opened["until"].as_str());
    assert_eq!(refused_as(&stack, "bob", "whitelist_extend", extend("1h")).await["reason"], "NO_LEASE");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_moves_without_a_gap() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let several =
        group(json!({"address": "203.0.113.7", "ports": ["22", "5432"], "reason": "ticket OPS-1", "duration": "1h"}));
    let opened = stack.done("whitelist_add", several).await;
    // Alone on the rule: changed in place, with its id and its tags.
    let moved = stack.done("whitelist_move", group(json!({"address": "203.0.113.70"}))).await;
    assert_eq!(moved["outcome"], "moved", "{moved:#}");
    let ids = |answer: &Value| {
        let rules = answer["items"].as_array().expect("items").iter();
        let mut ids: Vec<String> = rules.map(|item| item["rule"]["rule_id"].to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&moved), ids(&opened));
    assert!(aws.standing().iter().all(|rule| rule.source == "203.0.113.70/32" && !is_marked(&rule.tags)));
    assert_eq!(moved["items"][0]["until"], opened["until"]);

    // Shared: the other keeps the rule, and the mover gets one of their own.
    done_as(&stack, "bob", "whitelist_add", ssh("203.0.113.70")).await;
    let split = stack.done("whitelist_move", group(json!({"address": "203.0.113.71", "port": "22"}))).await;
    assert_eq!(split["outcome"], "moved", "{split:#}");
    let sources: Vec<_> = aws.standing().iter().map(|rule| format!("{} {}", rule.source, rule.from)).collect();
    assert_eq!(sources, ["203.0.113.70/32 22", "203.0.113.70/32 5432", "203.0.113.71/32 22"]);
    let held = aws.standing()[0].tags.iter().filter(|(key, _)| key.starts_with("whitelistmcp:holder:")).count();
    assert_eq!(held, 2, "bob's, and alice's that has ended");

    // From several addresses to one: say which. To where it is already, or where a rule by hand stands: said.
    let error = stack.refused("whitelist_move", group(json!({"address": "203.0.113.80"}))).await;
    assert_eq!(error["reason"], "FROM_ADDRESS_MISSING");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("203.0.113.70/32, 203.0.113.71/32")), "{error}");
    let stay = group(json!({"address": "203.0.113.71", "port": "22"}));
    assert_eq!(stack.done("whitelist_move", stay).await["outcome"], "already_yours");
    aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.90/32"));
    let foreign = group(json!({"address": "203.0.113.90", "from_address": "203.0.113.71"}));
    assert_eq!(stack.done("whitelist_move", foreign).await["outcome"], "already_open");
    // Onto bob's rule: joined. To the other family: a rule of its own, and the old one goes.
    let back = group(json!({"address": "203.0.113.70", "from_address": "203.0.113.71"}));
    assert_eq!(stack.done("whitelist_move", back).await["outcome"], "moved");
    let six = group(json!({"address": "2001:db8::7", "port": "5432"}));
    assert_eq!(stack.done("whitelist_move", six).await["outcome"], "moved");
    let mut sources: Vec<_> = aws.standing().iter().map(|rule| format!("{} {}", rule.source, rule.from)).collect();
    sources.sort();
    assert_eq!(sources, ["2001:db8::7/128 5432", "203.0.113.70/32 22", "203.0.113.90/32 22"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_while_a_rule_closes_is_not_lost() {
    let aws = AwsDouble::start().await;
    let leases = "settle = \"400ms\"\nclose = false\ndiscover = false\n";
    let stack = Stack::with(&aws.access(), Options { leases: Some(leases), ..Options::default() }).await;
    // AWS shows a write only after a while.
    aws.read_delay(Duration::from_millis(300));
    stack.done("whitelist_add", ssh("203.0.113.7")).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    for pause in [0_u64, 150, 300, 450, 620] {
        let leave = done_as(&stack, "alice", "whitelist_remove", group(json!({"address": "203.0.113.7"})));
        let join = async {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            done_as(&stack, "bob", "whitelist_add", ssh("203.0.113.7")).await
        };
        let (left, joined) = tokio::join!(leave, join);
        let word = joined["outcome"].as_str().expect("a word");
        assert!(["joined", "opened"].contains(&word), "after {pause} ms: {joined:#}");
        tokio::time::sleep(Duration::from_millis(350)).await;
        let standing = aws.standing();
        assert_eq!(standing.len(), 1, "bob was told that he holds it: after {pause} ms, {left:#}");
        assert!(!is_marked(&standing[0].tags), "after {pause} ms: {standing:#?}");
        // And the other way round for the next time.
        assert_eq!(done_as(&stack, "alice", "whitelist_add", ssh("203.0.113.7")).await["outcome"], "joined");
        let bob = done_as(&stack, "bob", "whitelist_remove", group(json!({"address": "203.0.113.7"}))).await;
        assert_eq!(bob["outcome"], "left");
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_one_call_to_aws_and_all_or_nothing() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let several = |addresses: &[&str]| {
        group(json!({"addresses": addresses, "ports": ["22", "5432"], "reason": "ticket OPS-1", "duration": "1h"}))
    };
    let opened = stack.done("whitelist_add", several(&["203.0.113.1", "203.0.113.2", "2001:db8::1"])).await;
    assert_eq!((opened["outcome"].as_str(), opened["items"].as_array().map(Vec::len)), (Some("opened"), Some(6)));
    assert_eq!(aws.actions(), ["AssumeRole", "DescribeSecurityGroupRules", "AuthorizeSecurityGroupIngress"]);
    // One that stands already does not keep the others back, and each is told of.
    let mixed = stack.done("whitelist_add", several(&["203.0.113.1", "203.0.113.3"])).await;
    let words: Vec<_> = mixed["items"].as_array().expect("items").iter().map(|item| item["outcome"].clone()).collect();
    assert_eq!(words, ["already_yours", "already_yours", "opened", "opened"]);
    assert_eq!(mixed["outcome"], "mixed");
    // One that policy refuses keeps them all back.
    let error = stack.refused("whitelist_add", several(&["203.0.113.4", "0.0.0.0/0"])).await;
    assert!(error["message"].as_str().is_some_and(|text| text.contains("tcp port 22 (ssh) from 0.0.0.0/0")), "{error}");
    assert_eq!(aws.standing().len(), 8);
    // And so does AWS's own limit.
    aws.rule_limit(7);
    let error = stack.refused("whitelist_add", several(&["203.0.113.4"])).await;
    assert_eq!((error["reason"].as_str(), aws.standing().len()), (Some("RULE_LIMIT"), 8));

    let extend = group(json!({"ports": ["22", "5432"], "duration": "4h"}));
    let before = aws.actions().len();
    let extended = stack.done("whitelist_extend", extend).await;
    assert_eq!((extended["outcome"].as_str(), extended["items"].as_array().map(Vec::len)), (Some("extended"), Some(8)));
    assert_eq!(aws.actions()[before..].iter().filter(|action| *action == "AssumeRole").count(), 1);
    let before = aws.actions().len();
    let removed = stack.done("whitelist_remove", group(json!({"protocol": "tcp"}))).await;
    assert_eq!((removed["outcome"].as_str(), aws.standing().len()), (Some("removed"), 0));
    let asked = aws.actions()[before..].to_vec();
    assert_eq!(asked.iter().filter(|action| *action == "RevokeSecurityGroupIngress").count(), 1, "{asked:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_groups_are_answered_for_one_by_one() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let both = |mut arguments: Value| {
        arguments["security_groups"] = json!(["staging-db", "payroll-db"]);
        arguments
    };
    let add = both(json!({"address": "203.0.113.7", "port": "22", "reason": "ticket OPS-1", "duration": "1h"}));
    let opened = stack.done("whitelist_add", add.clone()).await;
    assert_eq!((opened["outcome"].as_str(), opened["items"].as_array().map(Vec::len)), (Some("opened"), Some(2)));
    let calls: Vec<_> = opened["items"].as_array().expect("items").iter().map(|item| item["call_id"].clone()).collect();
    assert_ne!(calls[0], calls[1]);
    let begun = stack.journal();
    let of =
        |call: &Value| begun.iter().find(|entry| entry["type"] == "begin" && entry["call"] == *call).expect("a begin");
    assert_eq!(of(&calls[0])["part_of"], of(&calls[1])["part_of"]);
    // What fails in one is said, and the other stands.
    aws.forget(crate::support::OTHER_GROUP);
    let mut next = add;
    next["address"] = "203.0.113.8".into();
    let mixed = stack.done("whitelist_add", next).await;
    assert_eq!(mixed["outcome"], "mixed");
    let items = mixed["items"].as_array().expect("items");
    assert_eq!(
        (items[0]["outcome"].as_str(), items[1]["outcome"].as_str(), items[1]["reason"].as_str()),
        (Some("opened"), Some("failed"), Some("SECURITY_GROUP_NOT_FOUND"))
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_holds_only_while_what_stands_is_the_same() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let with = |mut arguments: Value, key: &str, value: Value| {
        arguments[key] = value;
        arguments
    };
    let plan = stack.done("whitelist_add", with(ssh("203.0.113.7"), "dry_run", true.into())).await;
    assert_eq!(plan["plans"][0]["ipv4_rules_left"], 59);
    assert_eq!(plan["plans"][0]["ipv6_rules_left"], 60);
    let id = plan["plan_id"].clone();
    // Another request, or another person, cannot use it.
    let other = with(ssh("203.0.113.8"), "plan_id", id.clone());
    assert_eq!(stack.refused("whitelist_add", other).await["reason"], "PLAN_STALE");
    let bobs = with(ssh("203.0.113.7"), "plan_id", id.clone());
    assert_eq!(refused_as(&stack, "bob", "whitelist_add", bobs.clone()).await["reason"], "PLAN_STALE");
    aws.rule("tcp", 443, 443, ("PrefixListId", "pl-0123456789abcdef0"));
    assert_eq!(stack.refused("whitelist_add", bobs).await["reason"], "PLAN_STALE", "something stands now that did not");

    aws.add_prefix_list(
        ACCOUNT,
        crate::support::REGION,
        crate::support::aws_double::PrefixList {
            id: "pl-0123456789abcdef0".to_owned(),
            name: "offices".to_owned(),
            ipv6: false,
            entries: 20,
            of_aws: false,
        },
    );
    let plan = stack.done("whitelist_add", with(ssh("203.0.113.7"), "dry_run", true.into())).await;
    assert_eq!(plan["plans"][0]["ipv4_rules_left"], 39, "a prefix list counts by its size");
    let opened = stack.done("whitelist_add", with(ssh("203.0.113.7"), "plan_id", plan["plan_id"].clone())).await;
    assert_eq!(opened["outcome"], "opened");
    for (tool, arguments, word) in [
        ("whitelist_extend", group(json!({"address": "203.0.113.7", "duration": "2h"})), "would_extend"),
        ("whitelist_move", group(json!({"address": "203.0.113.9"})), "would_move"),
        ("whitelist_remove", group(json!({"address": "203.0.113.7"})), "would_remove"),
    ] {
        let planned = stack.done(tool, with(arguments, "dry_run", true.into())).await;
        assert_eq!(planned["outcome"], word);
        assert!(planned["plan_id"].as_str().is_some_and(|id| id.starts_with("plan-")), "{planned:#}");
    }
    // Who else may own the group is said.
    aws.add_group(
        ACCOUNT,
        crate::support::REGION,
        "sg-0eeeeeeeeeeeeeeee",
        "web",
        &[("ManagedBy", "Terraform"), ("whitelistmcp:managed", "true")],
    );
    stack.stop().await;
    let leases = "settle = \"30ms\"\nclose = false\n";
    let stack = Stack::with(&aws.access(), Options { leases: Some(leases), ..Options::default() }).await;
    let mut web = with(ssh("203.0.113.7"), "dry_run", true.into());
    web["security_group"] = "web".into();
    let planned = stack.done("whitelist_add", web).await;
    assert!(planned["plans"][0]["warnings"][0].as_str().is_some_and(|text| text.contains("Terraform")), "{planned:#}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_key_is_never_carried_out_twice() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let keyed = |mut arguments: Value, key: &str| {
        arguments["idempotency_key"] = key.into();
        arguments
    };
    let first = stack.done("whitelist_add", keyed(ssh("203.0.113.7"), "deploy-1")).await;
    let extend = keyed(group(json!({"address": "203.0.113.7", "duration": "3h"})), "deploy-2");
    let extended = stack.done("whitelist_extend", extend.clone()).await;
    let longer = group(json!({"address": "203.0.113.7", "duration": "5h"}));
    stack.done("whitelist_extend", longer).await;
    let changes = aws.history().len();
    // The first answers, though the end has moved since, and on any replica: what remembers is the rule.
    let other =
        Stack::with(&aws.access(), Options { issuer_url: Some(stack.issuer.url.clone()), ..Options::default() }).await;
    let again = |tool: &'static str, arguments: Value| {
        let (other, token) = (&other, stack.token());
        async move {
            let result = other.call_as(&token, tool, arguments).await;
            assert_eq!(result["isError"], false, "{result:#}");
            result["structuredContent"].clone()
        }
    };
    let replayed = again("whitelist_add", keyed(ssh("203.0.113.7"), "deploy-1")).await;
    assert_eq!((replayed["outcome"].as_str(), &replayed["until"]), (Some("opened"), &first["until"]));
    assert_eq!(again("whitelist_extend", extend).await["until"], extended["until"]);
    assert_eq!(aws.history().len(), changes, "nothing was carried out twice");
    // The same key for something else is refused; another person's key is another key.
    let error = stack.refused("whitelist_add", keyed(ssh("203.0.113.8"), "deploy-1")).await;
    assert_eq!(error["reason"], "IDEMPOTENCY_KEY_REUSED");
    done_as(&stack, "bob", "whitelist_add", keyed(ssh("203.0.113.8"), "deploy-1")).await;
    other.stop().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_on_where_the_first_try_stopped() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let add =
        group(json!({"address": "203.0.113.7", "ports": ["22", "5432"], "reason": "ticket OPS-1", "duration": "1h"}));
    // With a plan as well: what the first try did itself is no change since the plan.
    let mut dry = add.clone();
    dry["dry_run"] = true.into();
    let mut keyed = add;
    keyed["plan_id"] = stack.done("whitelist_add", dry).await["plan_id"].clone();
    keyed["idempotency_key"] = "deploy-1".into();
    let first = stack.done("whitelist_add", keyed.clone()).await;
    let again = stack.done("whitelist_add", keyed).await;
    assert_eq!((&again["outcome"], &again["until"]), (&first["outcome"], &first["until"]));

    // One of two is moved, the other meets a fault: the same request again moves the other and no other.
    let relocate = group(json!({"address": "203.0.113.70", "idempotency_key": "move-1"}));
    aws.fail("ModifySecurityGroupRules", Fault::Refuse(400, "IncorrectState"));
    let error = stack.refused("whitelist_move", relocate.clone()).await;
    assert_eq!(error["facts"]["partly_done"], "true", "{error}");
    let moved = stack.done("whitelist_move", relocate).await;
    assert_eq!(
        (moved["outcome"].as_str(), moved["items"].as_array().map(Vec::len)),
        (Some("moved"), Some(2)),
        "{moved:#}"
    );
    assert!(aws.standing().iter().all(|rule| rule.source == "203.0.113.70/32" && !is_marked(&rule.tags)));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ending_that_aws_lost_is_written_again() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", ssh("203.0.113.7")).await;
    done_as(&stack, "bob", "whitelist_add", ssh("203.0.113.7")).await;
    // AWS fails over it and has done nothing.
    aws.fail("CreateTags", Fault::Refuse(503, "Unavailable"));
    let left = stack.done("whitelist_remove", group(json!({"address": "203.0.113.7"}))).await;
    assert_eq!(left["outcome"], "left");
    let leases = stack.done("whitelist_leases", json!({})).await;
    assert_eq!(leases["rules"].as_array().map(Vec::len), Some(0), "it has ended: {leases:#}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holder_twice_at_once_waits_for_nobody() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    done_as(&stack, "bob", "whitelist_add", ssh("203.0.113.7")).await;
    let started = std::time::Instant::now();
    let (one, two) =
        tokio::join!(stack.done("whitelist_add", ssh("203.0.113.7")), stack.done("whitelist_add", ssh("203.0.113.7")));
    for answer in [one, two] {
        assert!(["joined", "already_yours"].contains(&answer["outcome"].as_str().unwrap_or_default()), "{answer:#}");
    }
    let extend = |duration: &str| group(json!({"address": "203.0.113.7", "duration": duration}));
    let (one, two) =
        tokio::join!(stack.done("whitelist_extend", extend("2h")), stack.done("whitelist_extend", extend("3h")));
    assert_eq!((one["outcome"].as_str(), two["outcome"].as_str()), (Some("extended"), Some("extended")));
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waits for what will never show");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_moves_at_once_lose_nothing() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", ssh("203.0.113.7")).await;
    let relocate = || stack.call("whitelist_move", group(json!({"address": "203.0.113.8"})));
    let (one, two) = tokio::join!(relocate(), relocate());
    assert!(one["isError"] == false || two["isError"] == false, "{one:#} {two:#}");
    let held: Vec<_> = aws.standing().into_iter().map(|rule| (rule.source, is_marked(&rule.tags))).collect();
    assert_eq!(held, [("203.0.113.8/32".to_owned(), false)]);
    let leases = stack.done("whitelist_leases", json!({})).await;
    assert_eq!(leases["rules"].as_array().map(Vec::len), Some(1));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_settled_by_looking() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", ssh("203.0.113.7")).await;
    for action in ["CreateTags", "ModifySecurityGroupRules", "RevokeSecurityGroupIngress", "DeleteTags"] {
        aws.fail(action, Fault::ActThenCut);
    }
    let extended = group(json!({"address": "203.0.113.7", "duration": "3h"}));
    assert_eq!(stack.done("whitelist_extend", extended).await["outcome"], "extended");
    let moved = stack.done("whitelist_move", group(json!({"address": "203.0.113.8"}))).await;
    assert_eq!(moved["outcome"], "moved", "{moved:#}");
    aws.fail("CreateTags", Fault::ActThenCut);
    let removed = stack.done("whitelist_remove", group(json!({"address": "203.0.113.8"}))).await;
    assert_eq!((removed["outcome"].as_str(), aws.standing().len()), (Some("removed"), 0), "{removed:#}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_found_everywhere_and_a_leaver_loses_all() {
    let aws = AwsDouble::start().await;
    let elsewhere = "222222222222";
    aws.add_group(elsewhere, "us-east-1", "sg-0ffffffffffffffff", "shop", &[]);
    let core_extra = format!(
        "[[targets.groups]]\nname = \"shop\"\nid = \"sg-0ffffffffffffffff\"\naccount = \"{elsewhere}\"\nregion = \"us-east-1\"\n\
         [[aws.accounts]]\nid = \"{elsewhere}\"\nrole_arn = \"arn:aws:iam::{elsewhere}:role/r\"\nregions = [\"us-east-1\"]\n"
    );
    let stack = Stack::with(&aws.access(), Options { core_extra, ..Options::default() }).await;
    stack.done("whitelist_add", ssh("203.0.113.7")).await;
    let mut shop = ssh("203.0.113.7");
    shop["security_group"] = "shop".into();
    stack.done("whitelist_add", shop.clone()).await;
    done_as(&stack, "bob", "whitelist_add", shop).await;

    let mine = stack.done("whitelist_leases", json!({})).await;
    assert_eq!(mine["rules"].as_array().map(Vec::len), Some(2), "{mine:#}");
    assert!(mine["rules"].as_array().expect("rules").iter().all(|rule| {
        rule["leases"].as_array().is_some_and(|leases| leases.iter().any(|lease| lease["yours"] == true))
    }));
    let one = stack.done("whitelist_leases", json!({"account": elsewhere})).await;
    assert_eq!(one["rules"].as_array().map(Vec::len), Some(1));
    let bobs = stack.done("whitelist_leases", json!({"holder": "bob@example.test"})).await;
    assert_eq!(bobs["rules"].as_array().map(Vec::len), Some(1), "{bobs:#}");
    assert_eq!(
        stack.refused("whitelist_leases", json!({"account": "999999999999"})).await["reason"],
        "ACCOUNT_UNKNOWN"
    );
    // A part that fails is said, and the others stand.
    aws.fail("DescribeSecurityGroupRules", Fault::Refuse(400, "UnauthorizedOperation"));
    let some = stack.done("whitelist_leases", json!({})).await;
    assert_eq!((some["rules"].as_array().map(Vec::len), some["missed"].as_array().map(Vec::len)), (Some(1), Some(1)));

    let leaver = json!({"holder": "alice@example.test", "reason": "left the company"});
    assert_eq!(
        stack.refused("whitelist_revoke_holder", leaver.clone()).await["facts"]["policies"],
        "not-an-administrator"
    );
    let admin = stack.issuer.token_with("carol", READ_WRITE, json!({"groups": ["whitelistmcp-admins"]}));
    let mut dry = leaver.clone();
    dry["dry_run"] = true.into();
    let planned = stack.call_as(&admin, "whitelist_revoke_holder", dry).await["structuredContent"].clone();
    assert_eq!((planned["outcome"].as_str(), aws.standing().len()), (Some("would_remove"), 2), "{planned:#}");
    let ended = stack.call_as(&admin, "whitelist_revoke_holder", leaver.clone()).await["structuredContent"].clone();
    assert_eq!(ended["outcome"], "removed", "{ended:#}");
    assert_eq!(stack.done("whitelist_leases", json!({})).await["rules"].as_array().map(Vec::len), Some(0));
    let standing = aws.standing();
    assert_eq!(standing.len(), 1, "bob's stands: {standing:#?}");
    let again = stack.call_as(&admin, "whitelist_revoke_holder", leaver).await["structuredContent"].clone();
    assert_eq!(again["outcome"], "nothing_to_remove");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_found_by_the_names_of_what_is_attached() {
    let aws = AwsDouble::start().await;
    let region = crate::support::REGION;
    aws.add_group(
        ACCOUNT,
        region,
        "sg-0eeeeeeeeeeeeeeee",
        "web-sg",
        &[("whitelistmcp:managed", "true"), ("Name", "web")],
    );
    aws.add_group(ACCOUNT, region, "sg-01111111111111111", "reports-sg", &[("whitelistmcp:managed", "reports")]);
    aws.add_group(ACCOUNT, region, "sg-02222222222222222", "secret-sg", &[("Name", "secret")]);
    let interface = |id: &str, description: &str, group: &str, instance: Option<&str>| {
        crate::support::aws_double::NetworkInterface {
            id: id.to_owned(),
            description: description.to_owned(),
            groups: vec![group.to_owned()],
            attachment: instance.map(|instance| (Some(instance.to_owned()), ACCOUNT.to_owned())),
            ..Default::default()
        }
    };
    aws.add_interface(
        ACCOUNT,
        region,
        interface("eni-1", "ELB app/shop/50dc6c495c0c9188", "sg-0eeeeeeeeeeeeeeee", None),
    );
    aws.add_interface(ACCOUNT, region, interface("eni-2", "RDSNetworkInterface", "sg-01111111111111111", None));
    aws.add_interface(ACCOUNT, region, interface("eni-3", "", "sg-01111111111111111", Some("i-0123456789abcdef0")));
    let leases = "settle = \"30ms\"\nclose = false\n";
    let stack = Stack::with(&aws.access(), Options { leases: Some(leases), ..Options::default() }).await;
    let targets = stack.done("whitelist_targets", json!({})).await;
    let names: Vec<_> =
        targets["groups"].as_array().expect("groups").iter().map(|group| group["name"].clone()).collect();
    assert_eq!(names, ["staging-db", "payroll-db", "reports", "web"], "{targets:#}");
    assert_eq!(targets["groups"][3]["attached"], json!(["load balancer shop"]));
    let shop = stack.done("whitelist_targets", json!({"name": "SHOP"})).await;
    assert_eq!(shop["groups"].as_array().map(Vec::len), Some(1));
    for name in ["web", "web-sg", "shop", "reports", "i-0123456789abcdef0", "sg-01111111111111111"] {
        let list = stack.done("whitelist_list", json!({"security_group": name})).await;
        assert_eq!(list["total"], 0, "{name}");
    }
    for name in ["secret", "secret-sg", "sg-02222222222222222", "nothing"] {
        let error = stack.refused("whitelist_list", json!({"security_group": name})).await;
        assert_eq!(error["reason"], "SECURITY_GROUP_UNKNOWN", "{name}");
    }
    // Guessing names costs AWS one look.
    let looks = aws.actions().iter().filter(|action| *action == "DescribeNetworkInterfaces").count();
    assert_eq!(looks, 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_holders_than_tags_can_name_are_refused() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let id = stack.done("whitelist_add", ssh("203.0.113.7")).await["rule"]["rule_id"].clone();
    for n in 0..41 {
        assert!(aws.hand_tag(id.as_str().expect("an id"), &format!("cost-{n}"), "x"));
    }
    let error = refused_as(&stack, "bob", "whitelist_add", ssh("203.0.113.7")).await;
    assert_eq!((error["code"].as_str(), error["reason"].as_str()), (Some("RESOURCE_EXHAUSTED"), Some("HOLDER_LIMIT")));
    let changes = aws.history();
    assert!(changes.iter().filter(|change| change.what == What::Tagged).all(|change| change.by == "by hand"));
    assert!(changes.iter().all(|change| change.rule.group == GROUP || change.rule.group.is_empty()));
    stack.stop().await;
}
