//! Power is borrowed for each operation, is the least that does, and is never shared.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use whitelistmcp::aws::session_policy::{Actions, MOST_CHARACTERS, Power};
use whitelistmcp::aws::{AccountConfig, Accounts, Config};
use whitelistmcp::operation::Tool;
use whitelistmcp::operation::lease::Holder;
use whitelistmcp::operation::target::{AccountId, GroupId, Place, Region};

use crate::support::aws_double::AwsDouble;
use crate::support::{ACCOUNT, GROUP, OTHER_GROUP, REGION, Stack, emulator};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_for_each_operation_and_its_keys_for_it_alone() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let add = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "ticket OPS-1"});
    let opened = stack.done("whitelist_add", add.clone()).await;
    stack
        .done("whitelist_check", json!({"security_group": "payroll-db", "address": "203.0.113.7", "port": "22"}))
        .await;
    stack.done("whitelist_remove", json!({"security_group": "staging-db", "rule_id": opened["rule"]["rule_id"]})).await;
    let bob = stack.issuer.token("bob", "whitelist:write");
    stack.call_as(&bob, "whitelist_add", add).await;

    let asked = aws.asked();
    let (assumed, rest): (Vec<_>, Vec<_>) = asked.into_iter().partition(|asked| asked.action == "AssumeRole");
    assert_eq!(assumed.len(), 4);
    let base = aws.access().access_key_id;
    assert!(assumed.iter().all(|asked| asked.key == base), "the service's own key signs AssumeRole");
    assert!(rest.iter().all(|asked| asked.key != base), "and nothing else");
    let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for asked in &rest {
        uses.entry(&asked.key).or_default().push(&asked.action);
    }
    let look = "DescribeSecurityGroupRules";
    let mut uses: Vec<_> = uses.into_values().collect();
    uses.sort();
    let add = || vec![look, "AuthorizeSecurityGroupIngress"];
    // Marked, read again once AWS has settled, and only then taken away.
    let remove = vec![look, "CreateTags", look, "RevokeSecurityGroupIngress"];
    assert_eq!(uses, [vec![look], add(), add(), remove]);

    let first = &assumed[0].params;
    assert_eq!((first["DurationSeconds"].as_str(), first["ExternalId"].as_str()), ("900", "test-external-id"));
    assert_eq!(first["SourceIdentity"], first["RoleSessionName"]);
    assert!(first["SourceIdentity"].starts_with("alice@example.test-"), "{}", first["SourceIdentity"]);
    assert_ne!(first["SourceIdentity"], assumed[3].params["SourceIdentity"]);
    let tags: BTreeMap<&str, &str> = (1..=4)
        .map(|n| (first[&format!("Tags.member.{n}.Key")].as_str(), first[&format!("Tags.member.{n}.Value")].as_str()))
        .collect();
    assert_eq!((tags["call"], tags["tool"]), (opened["call_id"].as_str().expect("an id"), "whitelist_add"));
    assert!(!first.contains_key("TransitiveTagKeys.member.1"));
    for asked in &assumed {
        let policy: Value = serde_json::from_str(&asked.params["Policy"]).expect("JSON");
        let text = policy.to_string();
        assert!(text.len() <= MOST_CHARACTERS);
        assert!(!text.contains(if text.contains(GROUP) { OTHER_GROUP } else { GROUP }), "one group at most");
    }
    stack.stop().await;
}

/// Everything the code can produce, tried against what it must and must not allow.
#[test]
fn every_session_policy_allows_its_call_and_nothing_else() {
    let said = simulated(&subjects());
    assert!(said.contains("21 policies"), "{said}");
}

/// Asks the simulator; every case must come out as it wants.
pub(crate) fn simulated(subjects: &[Value]) -> String {
    let lines: Vec<String> = subjects.iter().map(Value::to_string).collect();
    let mut simulator = Command::new(emulator::tool("node/node_modules/.bin/node"))
        .arg(emulator::demo("aws/session_policies.cjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the simulator starts");
    simulator.stdin.take().expect("its input").write_all(lines.join("\n").as_bytes()).expect("written");
    let output = simulator.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong: Vec<&str> = said.lines().filter(|line| line.starts_with("DIFF")).collect();
    assert!(output.status.success() && wrong.is_empty(), "{wrong:#?}");
    said
}

pub(crate) fn subjects() -> Vec<Value> {
    let call = "01930000-0000-7000-8000-000000000000";
    let arn = |region: &str, resource: &str| format!("arn:aws:ec2:{region}:{ACCOUNT}:{resource}");
    let (group, other) =
        (arn(REGION, &format!("security-group/{GROUP}")), arn(REGION, &format!("security-group/{OTHER_GROUP}")));
    let (rule, elsewhere) = (
        arn(REGION, "security-group-rule/sgr-0123456789abcdef0"),
        arn("us-east-1", &format!("security-group/{GROUP}")),
    );
    let another_rule = arn(REGION, "security-group-rule/sgr-0fedcba9876543210");
    let here = json!({"aws:RequestedRegion": REGION});
    let there = json!({"aws:RequestedRegion": "us-east-1"});
    let creating = |call: &str| json!({"aws:RequestedRegion": REGION, "ec2:CreateAction": "AuthorizeSecurityGroupIngress", "aws:RequestTag/whitelistmcp:call": call});
    let case = |want: &str, action: &str, resource: &str, context: &Value| json!({"want": want, "action": action, "resource": resource, "context": context});
    let may = |yes: bool| if yes { "allow" } else { "deny" };

    let proof = |proof: &str| format!("whitelistmcp:holder:{proof}");
    let (alice, bob) = (proof("aaaaaaaaaaaaaaaa"), proof("bbbbbbbbbbbbbbbb"));
    let ours = |key: &str| json!({"aws:RequestedRegion": REGION, "aws:ResourceTag/whitelistmcp:call": call, "aws:TagKeys": [key]});
    let held_by = |holder: &str| json!({"aws:RequestedRegion": REGION, "aws:ResourceTag/whitelistmcp:call": call, format!("aws:ResourceTag/{holder}"): "x"});

    let mut subjects = Vec::new();
    for tool in Tool::ALL.into_iter().chain(Tool::OWN) {
        for changes in [true, false] {
            if changes && !tool.can_change() || !changes && Tool::OWN.contains(&tool) && tool.can_change() {
                continue;
            }
            use Tool::{
                Add, Close, Discover, Extend, Leases, Move, Remove, RevokeHolder, SelfTest, Survey, Targets, Tidy,
            };
            let is = |tools: &[Tool]| changes && tools.contains(&tool);
            let opens = is(&[Add, Extend, Move]);
            let closes = is(&[Remove, RevokeHolder, Move, Close]);
            // What looks at a whole Region sees rules or groups, and never one group by name.
            let rules_seen = !matches!(tool, Targets | Discover | SelfTest);
            let groups_seen = !matches!(tool, Survey | Leases | Tidy | SelfTest);
            let cases = vec![
                case(may(rules_seen), "ec2:DescribeSecurityGroupRules", "*", &here),
                case(may(groups_seen), "ec2:DescribeSecurityGroups", "*", &here),
                case(may(matches!(tool, Targets | Discover)), "ec2:DescribeNetworkInterfaces", "*", &here),
                case("deny", "ec2:DescribeSecurityGroupRules", "*", &there),
                case(may(opens), "ec2:AuthorizeSecurityGroupIngress", &group, &here),
                case(may(opens), "ec2:AuthorizeSecurityGroupIngress", &rule, &here),
                case("deny", "ec2:AuthorizeSecurityGroupIngress", &other, &here),
                case("deny", "ec2:AuthorizeSecurityGroupIngress", &elsewhere, &there),
                case("deny", "ec2:AuthorizeSecurityGroupEgress", &group, &here),
                case(may(closes), "ec2:RevokeSecurityGroupIngress", &group, &here),
                case("deny", "ec2:RevokeSecurityGroupIngress", &other, &here),
                case("deny", "ec2:RevokeSecurityGroupIngress", &elsewhere, &there),
                // A rule is changed in place only by who holds it.
                case(may(is(&[Move])), "ec2:ModifySecurityGroupRules", &group, &here),
                case("deny", "ec2:ModifySecurityGroupRules", &other, &here),
                case(may(is(&[Move])), "ec2:ModifySecurityGroupRules", &rule, &held_by(&alice)),
                case("deny", "ec2:ModifySecurityGroupRules", &rule, &held_by(&bob)),
                case("deny", "ec2:ModifySecurityGroupRules", &rule, &here),
                case(may(opens), "ec2:CreateTags", &rule, &creating(call)),
                case("deny", "ec2:CreateTags", &rule, &creating("01930000-0000-7000-8000-000000000001")),
                case("deny", "ec2:CreateTags", &rule, &here),
                case("deny", "ec2:CreateTags", &group, &creating(call)),
                // Of rules that stand, only ours, and only by the keys that the call is about.
                case(
                    may(is(&[Add, Extend, Move, Remove, RevokeHolder, Close])),
                    "ec2:CreateTags",
                    &rule,
                    &ours(&alice),
                ),
                case(may(is(&[Remove, RevokeHolder, Close])), "ec2:CreateTags", &rule, &ours(&bob)),
                case(
                    "deny",
                    "ec2:CreateTags",
                    &rule,
                    &ours("whitelistmcp:closing:01930000-0000-7000-8000-000000000001"),
                ),
                case(may(closes), "ec2:CreateTags", &rule, &ours(&format!("whitelistmcp:closing:{call}"))),
                case(may(closes), "ec2:DeleteTags", &rule, &ours(&format!("whitelistmcp:closing:{call}"))),
                case("deny", "ec2:CreateTags", &rule, &json!({"aws:TagKeys": [alice]})),
                case("deny", "ec2:CreateTags", &rule, &ours("whitelistmcp:call")),
                case("deny", "ec2:CreateTags", &rule, &ours("Name")),
                case("deny", "ec2:DeleteTags", &rule, &ours("whitelistmcp:lease")),
                case(
                    "deny",
                    "ec2:DeleteTags",
                    &rule,
                    &json!({"aws:RequestedRegion": REGION, "aws:ResourceTag/whitelistmcp:call": call}),
                ),
                case(
                    may(is(&[Tidy, Close, Remove, RevokeHolder])),
                    "ec2:DeleteTags",
                    &rule,
                    &ours("whitelistmcp:key:cccccccccccccccc:0"),
                ),
                case(
                    may(is(&[Add, Extend, Move, Remove, RevokeHolder])),
                    "ec2:CreateTags",
                    &another_rule,
                    &ours(&alice),
                ),
                case(
                    may(is(&[Move, Remove, RevokeHolder])),
                    "ec2:DeleteTags",
                    &another_rule,
                    &ours(&format!("whitelistmcp:closing:{call}")),
                ),
                case("deny", "ec2:CreateTags", &group, &ours(&alice)),
                case("deny", "ec2:DeleteSecurityGroup", &group, &here),
                case("deny", "ec2:RunInstances", &arn(REGION, "instance/*"), &here),
                case("deny", "sts:AssumeRole", &format!("arn:aws:iam::{ACCOUNT}:role/other"), &here),
            ];
            let policy = policy_of(tool, changes, call);
            assert!(policy.len() <= MOST_CHARACTERS, "{}: {} characters", tool.name(), policy.len());
            subjects.push(json!({"name": format!("{}{}", tool.name(), if changes { "" } else { ", reading" }), "policy": policy, "cases": cases}));
        }
    }
    let none = whitelistmcp::aws::session_policy::SessionPolicy::deny_all();
    let cases = [
        case("deny", "ec2:DescribeSecurityGroupRules", "*", &here),
        case("deny", "ec2:AuthorizeSecurityGroupIngress", &group, &here),
    ];
    subjects.push(json!({"name": "self-test", "policy": none.as_str(), "cases": cases}));
    subjects
}

fn policy_of(tool: Tool, changes: bool, call: &str) -> String {
    let account = AccountConfig {
        id: ACCOUNT.to_owned(),
        role_arn: Some(format!("arn:aws:iam::{ACCOUNT}:role/r")),
        external_id: None,
        regions: vec![REGION.to_owned()],
        rules_per_group: 60,
    };
    let accounts = Accounts::new(&Config { accounts: vec![account], ..Config::default() }).expect("sound");
    let place = Place::new(AccountId::parse(ACCOUNT).expect("an id"), Region::parse(REGION).expect("a Region"));
    let account = accounts.find(place.account()).expect("an account");
    let region_wide = matches!(tool, Tool::Leases | Tool::Targets | Tool::Survey | Tool::Discover);
    let of_one_rule = matches!(tool, Tool::Close | Tool::Tidy);
    let power = Power {
        tool,
        changes,
        place,
        group: (!region_wide).then(|| GroupId::parse(GROUP).expect("an id")),
        call: call.parse().expect("an id"),
        holder: Holder::new("alice", "alice-aaaaaaaaaaaaaaaa"),
        keyed: true,
        rules: of_one_rule.then(|| "sgr-0123456789abcdef0".to_owned()).into_iter().collect(),
        tags: vec!["whitelistmcp:key:cccccccccccccccc:0".to_owned()],
    };
    Actions::embedded().expect("annotated").session_policy(&power, account).as_str().to_owned()
}

#[test]
fn the_proto_and_the_code_name_the_same_tools() {
    let annotations =
        whitelistmcp::annotations::Annotations::read(whitelistmcp::pb::DESCRIPTOR_SET).expect("annotated");
    let named: Vec<_> = annotations
        .tools()
        .iter()
        .map(|spec| (spec.annotations.name.as_str(), spec.method.name().to_owned()))
        .collect();
    let known: Vec<_> =
        Tool::ALL.into_iter().map(|tool| (tool.name(), tool.rpc().unwrap_or_default().to_owned())).collect();
    assert_eq!(named, known);
}
