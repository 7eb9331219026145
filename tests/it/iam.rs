//! What an operator sets up at AWS allows every call, and no more than the calls need.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::sessions::{simulated, subjects};
use crate::support::temporary::Directory;
use crate::support::{ACCOUNT, GROUP, OTHER_GROUP, REGION, emulator};

const BASE: &str = "arn:aws:iam::222222222222:role/whitelistmcp-core";
const MANAGED: &str = "aws:ResourceTag/whitelistmcp:managed";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    command.args(["iam", "print"]).args(arguments).env_remove("WHITELISTMCP_CONFIG").output().expect("it runs")
}

fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A configuration of the account that the tests are in.
fn configured(directory: &Directory) -> String {
    let text = format!(
        "[[aws.accounts]]\nid = \"{ACCOUNT}\"\nrole_arn = \"arn:aws:iam::{ACCOUNT}:role/whitelistmcp-target\"\nexternal_id = \"an-id\"\nregions = [\"{REGION}\"]\n[targets]\naccount = \"{ACCOUNT}\"\nregion = \"{REGION}\"\n[[targets.groups]]\nname = \"staging-db\"\nid = \"{GROUP}\"\n"
    );
    directory.write("whitelistmcp.toml", &text).display().to_string()
}

fn document(config: &str, only: &str, more: &[&str]) -> Value {
    let arguments = [&["--config", config, "--base-role", BASE, "--only", only], more].concat();
    serde_json::from_str(&printed(&arguments)).expect("JSON")
}

fn case(want: &str, action: &str, resource: &str, context: &Value) -> Value {
    json!({"want": want, "action": action, "resource": resource, "context": context})
}

/// The context with one more key, or one less.
fn with(context: &Value, key: &str, value: Value) -> Value {
    let mut context = context.clone();
    let object = context.as_object_mut().expect("a context");
    if value.is_null() {
        drop(object.remove(key))
    } else {
        drop(object.insert(key.to_owned(), value))
    }
    context
}

#[test]
fn what_is_shipped_is_what_is_printed() {
    let directory = Directory::new();
    let example = emulator::checkout().join("examples/whitelistmcp.toml").display().to_string();
    let at = directory.path().join("iam").display().to_string();
    printed(&["--config", &example, "--base-role", BASE, "--directory", &at]);
    let shipped = emulator::checkout().join("deploy/iam");
    let (made, shipped) = (files(Path::new(&at)), files(&shipped));
    assert!(made.len() > 15, "{made:?}");
    for (name, text) in &made {
        let same = shipped.iter().find(|(shipped, _)| shipped == name).is_some_and(|(_, shipped)| shipped == text);
        assert!(
            same,
            "deploy/iam/{name} is not what is printed; `whitelistmcp iam print --config examples/whitelistmcp.toml --base-role {BASE} --directory deploy/iam` writes it"
        );
    }
    assert_eq!(made.len(), shipped.len(), "something in deploy/iam is not printed");
}

/// Every file below a directory, by its path from there.
fn files(directory: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in entries {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, text)| (format!("{name}/{inner}"), text)));
        } else {
            found.push((name, std::fs::read_to_string(&path).expect("text")));
        }
    }
    found.sort();
    found
}

/// Every session policy that the code can make, within the role that is printed: as before on a tagged group, nothing on another.
#[test]
fn the_target_role_allows_every_call_on_groups_that_are_tagged() {
    let directory = Directory::new();
    let config = configured(&directory);
    let role = document(&config, "target-policy", &[]);
    let mut all = Vec::new();
    for mut subject in subjects() {
        let mut cases = Vec::new();
        for one in subject["cases"].as_array().expect("cases") {
            let mut tagged = one.clone();
            let changes = one["resource"].as_str().is_some_and(|resource| resource.contains(":security-group/"));
            if !changes {
                cases.push(tagged);
                continue;
            }
            for (value, counts) in [
                (json!("true"), true),
                (json!("orders-db"), true),
                (json!(""), true),
                (json!("No"), false),
                (json!("false"), false),
                (Value::Null, false),
            ] {
                tagged["context"] = with(&one["context"], MANAGED, value);
                tagged["want"] = if counts { one["want"].clone() } else { "deny".into() };
                cases.push(tagged.clone());
            }
        }
        subject["cases"] = cases.into();
        subject["role"] = role.clone();
        all.push(subject);
    }
    let said = simulated(&all);
    assert!(said.matches("allow ec2:AuthorizeSecurityGroupIngress").count() > 8, "{said}");
}

#[test]
fn the_limit_can_be_a_list_or_both() {
    let directory = Directory::new();
    let config = configured(&directory);
    let arn = |group: &str| format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{group}");
    let here = json!({"aws:RequestedRegion": REGION});
    let tagged = with(&here, MANAGED, json!("true"));
    let there = json!({"aws:RequestedRegion": "us-east-1", MANAGED: "true"});
    let action = "ec2:AuthorizeSecurityGroupIngress";
    let own_key = json!({"aws:RequestedRegion": REGION, "aws:ResourceTag/team:open": "yes"});
    let of = |name: &str, more: &[&str], cases: &[Value]| json!({"name": name, "role": document(&config, "target-policy", more), "cases": cases});
    simulated(&[
        of(
            "tagged",
            &[],
            &[
                case("allow", action, &arn(GROUP), &tagged),
                case("deny", action, &arn(GROUP), &here),
                case("deny", action, &arn(GROUP), &there),
            ],
        ),
        of(
            "listed",
            &["--limit", "listed"],
            &[
                case("allow", action, &arn(GROUP), &here),
                case("deny", action, &arn(OTHER_GROUP), &tagged),
                case("deny", action, &arn(GROUP), &there),
            ],
        ),
        of(
            "either",
            &["--limit", "either", "--group", "sg-0cccccccccccccccc"],
            &[
                case("allow", action, &arn(GROUP), &here),
                case("allow", action, &arn("sg-0cccccccccccccccc"), &here),
                case("allow", action, &arn(OTHER_GROUP), &tagged),
                case("deny", action, &arn(OTHER_GROUP), &here),
            ],
        ),
        of(
            "a tag of one's own",
            &["--tag-key", "team:open"],
            &[case("allow", action, &arn(GROUP), &own_key), case("deny", action, &arn(GROUP), &tagged)],
        ),
    ]);
    // Even without a session policy nobody tags a group, or a rule that is not ours, or leaves the Region.
    let rule = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group-rule/sgr-0123456789abcdef0");
    let key = json!({"aws:RequestedRegion": REGION, "aws:TagKeys": ["whitelistmcp:holder:aaaaaaaaaaaaaaaa"]});
    let ours = with(&key, "aws:ResourceTag/whitelistmcp:call", json!("x"));
    let elsewhere = |context: &Value| with(context, "aws:RequestedRegion", json!("us-east-1"));
    let new = json!({
        "aws:RequestedRegion": REGION, "ec2:CreateAction": "AuthorizeSecurityGroupIngress", "aws:RequestTag/whitelistmcp:call": "x",
    });
    simulated(&[of(
        "no session policy",
        &[],
        &[
            case("allow", "ec2:CreateTags", &rule, &ours),
            case("deny", "ec2:CreateTags", &rule, &elsewhere(&ours)),
            case("allow", "ec2:CreateTags", &rule, &new),
            case("deny", "ec2:CreateTags", &rule, &elsewhere(&new)),
            case("allow", "ec2:ModifySecurityGroupRules", &rule, &ours),
            case("deny", "ec2:ModifySecurityGroupRules", &rule, &elsewhere(&ours)),
            case("deny", "ec2:CreateTags", &rule, &key),
            case("deny", "ec2:CreateTags", &rule, &with(&ours, "aws:TagKeys", json!(["Name"]))),
            case("deny", "ec2:CreateTags", &rule, &with(&ours, "aws:TagKeys", json!(["whitelistmcp:call"]))),
            case("deny", "ec2:DeleteTags", &rule, &with(&ours, "aws:TagKeys", Value::Null)),
            case("deny", "ec2:CreateTags", &arn(GROUP), &ours),
            case("deny", "ec2:ModifySecurityGroupRules", &rule, &here),
            case("deny", "ec2:AuthorizeSecurityGroupEgress", &arn(GROUP), &tagged),
            case("deny", "ec2:DescribeSecurityGroups", "*", &json!({"aws:RequestedRegion": "us-east-1"})),
            case("allow", "ec2:DescribeSecurityGroups", "*", &here),
        ],
    )]);
}

#[test]
fn the_target_role_is_lent_only_with_external_id_name_and_tags() {
    let directory = Directory::new();
    let config = configured(&directory);
    let target = format!("arn:aws:iam::{ACCOUNT}:role/whitelistmcp-target");
    let whole = json!({
        "sts:ExternalId": "an-id", "sts:SourceIdentity": "alice@example.test-0123456789abcdef", "aws:RequestTag/call": "c", "aws:RequestTag/tool": "whitelist_add",
        "aws:TagKeys": ["call", "tool", "issuer", "peer"],
    });
    let tags = json!({"aws:RequestTag/call": "c", "aws:RequestTag/tool": "t", "aws:TagKeys": ["call", "tool"]});
    let named = json!({"sts:SourceIdentity": "alice"});
    let (assume, tag, name) = ("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity");
    let of = |want: &str, action: &str, context: &Value| case(want, action, &target, context);
    let cases = vec![
        of("allow", assume, &whole),
        of("deny", assume, &with(&whole, "sts:ExternalId", Value::Null)),
        of("deny", assume, &with(&whole, "sts:ExternalId", json!("another"))),
        of("deny", assume, &with(&whole, "sts:SourceIdentity", Value::Null)),
        of("deny", assume, &with(&whole, "aws:RequestTag/call", Value::Null)),
        of("deny", assume, &with(&whole, "aws:RequestTag/tool", Value::Null)),
        of("allow", name, &named),
        of("deny", name, &json!({})),
        of("allow", tag, &tags),
        of("allow", tag, &with(&tags, "aws:TagKeys", json!(["call", "tool", "issuer", "peer"]))),
        of("deny", tag, &with(&tags, "aws:RequestTag/call", Value::Null)),
        of("deny", tag, &with(&tags, "aws:TagKeys", json!(["call", "tool", "admin"]))),
        of("deny", tag, &with(&tags, "sts:TransitiveTagKeys", json!(["call"]))),
        case("deny", assume, &format!("arn:aws:iam::{ACCOUNT}:role/another"), &whole),
    ];
    let subject = |name: &str, role: &str, cases: &[Value]| {
        json!({
            "name": name, "principal": format!("arn:aws:sts::222222222222:assumed-role/{role}/session"),
            "role": document(&config, "base-policy", &[]), "trust": document(&config, "target-trust", &[]), "cases": cases,
        })
    };
    let refused: Vec<Value> =
        [(assume, &whole), (name, &named), (tag, &tags)].map(|(action, context)| of("deny", action, context)).into();
    simulated(&[subject("the base role", "whitelistmcp-core", &cases), subject("another role", "another", &refused)]);
    // A pod's session passes tags on: there nothing is said of further ones.
    let trust = document(
        &config,
        "target-trust",
        &["--platform", "eks-pod-identity", "--subject", "system:serviceaccount:a:b"],
    );
    assert!(!trust.to_string().contains("TransitiveTagKeys") && trust.to_string().contains("aws:RequestTag/call"));
    for (name, most) in [("target-trust", 2048), ("base-trust", 2048), ("target-policy", 10_240), ("kill-switch", 5120)]
    {
        assert!(document(&config, name, &[]).to_string().len() <= most, "{name}");
    }
}

#[test]
fn the_kill_switch_ends_it() {
    let directory = Directory::new();
    let config = configured(&directory);
    let group = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{GROUP}");
    let of = |role: &str, issued: &str| json!({"aws:RequestedRegion": REGION, MANAGED: "true", "aws:PrincipalArn": format!("arn:aws:iam::{ACCOUNT}:role/{role}"), "aws:TokenIssueTime": issued});
    let action = "ec2:AuthorizeSecurityGroupIngress";
    let (before, after) = ("2026-11-29T11:59:00Z", "2026-11-29T12:01:00Z");
    let subject = |name: &str, principal: &str, more: &[&str], cases: &[Value]| {
        json!({
            "name": name, "principal": format!("arn:aws:sts::{ACCOUNT}:assumed-role/{principal}/session"), "role": document(&config, "target-policy", &[]),
            "scp": document(&config, "kill-switch", more), "cases": cases,
        })
    };
    simulated(&[
        subject(
            "thrown",
            "whitelistmcp-target",
            &[],
            &[case("deny", action, &group, &of("whitelistmcp-target", after))],
        ),
        subject("thrown, for others", "another", &[], &[case("allow", action, &group, &of("another", after))]),
        subject(
            "thrown for older sessions",
            "whitelistmcp-target",
            &["--before", "2026-11-29T12:00:00Z"],
            &[
                case("deny", action, &group, &of("whitelistmcp-target", before)),
                case("allow", action, &group, &of("whitelistmcp-target", after)),
            ],
        ),
    ]);
}

/// The emulators cannot judge by tags of groups; so the demo's role is wider in that, and in nothing else.
#[test]
fn the_demo_s_role_has_the_printed_actions() {
    let directory = Directory::new();
    let actions = |policy: &Value| -> BTreeSet<String> {
        let statements = policy["Statement"].as_array().expect("statements").clone();
        let of = |statement: &Value| match &statement["Action"] {
            Value::Array(actions) => actions.clone(),
            one => vec![one.clone()],
        };
        statements.iter().flat_map(of).map(|action| action.as_str().expect("an action").to_owned()).collect()
    };
    let demo = std::fs::read_to_string(emulator::demo("aws/role_policy.json")).expect("the demo's role");
    let printed = document(&configured(&directory), "target-policy", &[]);
    assert_eq!(actions(&serde_json::from_str(&demo).expect("JSON")), actions(&printed));
}

#[test]
fn what_does_not_go_together_is_said() {
    let directory = Directory::new();
    let config = configured(&directory);
    let config = config.as_str();
    for (arguments, part) in [
        (&["--only", "target-policy"][..], "--config"),
        (&["--config", config, "--only", "base"], "is a template"),
        (&["--format", "terraform"], "say by --only"),
        (&["--format", "terraform", "--only", "base-policy"], "alone is JSON"),
        (&["--config", config, "--base-role", "alice", "--only", "target-trust"], "not the ARN of a role"),
        (&["--config", config, "--account", "999999999999"], "no account 999999999999"),
        (&["--config", config, "--platform", "google"], "unique id"),
        (&["--config", config, "--platform", "irsa", "--issuer", "x"], "system:serviceaccount"),
    ] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{arguments:?}: {said}");
    }
    let module = printed(&["--format", "terraform", "--only", "target", "--limit", "either"]);
    assert!(module.contains("var.group_arns") && module.contains("whitelistmcp:managed"));
    let template: Value =
        serde_json::from_str(&printed(&["--format", "cloudformation", "--only", "target"])).expect("JSON");
    assert_eq!(template["Resources"]["Role"]["Type"], "AWS::IAM::Role");
}
