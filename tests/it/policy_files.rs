//! Policies that change while the service runs, and the commands that check, test and explain them.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::temporary::Directory;
use crate::support::{Options, Stack, emulator, error_of, eventually};

const OPEN: &str = r#"
    @id("all") permit (principal, action, resource);
    @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
"#;
const SHUT: &str = r#"
    @id("all") permit (principal, action, resource);
    @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
    @id("shut") @message("Not today.") forbid (principal, action == Action::"whitelist_add", resource) when { context has standing };
"#;

fn add(n: u8) -> serde_json::Value {
    json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "443", "reason": "a test"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_policies_come_into_force_whole_and_bad_ones_do_not() {
    let aws = AwsDouble::start().await;
    let options = Options { policy: Some(OPEN), policy_extra: "reload = \"1s\"", ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    stack.done("whitelist_add", add(1)).await;
    // A call that has begun keeps the policies that it began with, for its second decision too.
    aws.fail("AssumeRole", Fault::Hang(Duration::from_millis(3500)));
    let slow = stack.call("whitelist_add", add(2));
    let replaced = async {
        while !aws.actions().iter().filter(|action| *action == "AssumeRole").count().gt(&1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stack.directory.write("policy.cedar", SHUT);
        eventually("the new policies are in force", async || {
            let result = stack.call("whitelist_add", add(3)).await;
            if result["isError"] == true {
                return Some(error_of(&result));
            }
            stack.done("whitelist_remove", json!({"security_group": "staging-db", "address": "203.0.113.3"})).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        })
        .await
    };
    let (slow, refused) = tokio::join!(slow, replaced);
    assert_eq!(slow["isError"], false, "{slow:#}");
    assert_eq!(refused["facts"]["policies"], "shut");

    // Bad ones change nothing: neither what does not parse nor what is gone.
    stack
        .directory
        .write("policy.cedar", "@id(\"x\") permit (principal, action, resource) when { resource.colour == \"red\" };");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(stack.refused("whitelist_add", add(4)).await["facts"]["policies"], "shut");
    std::fs::remove_file(stack.directory.path().join("policy.cedar")).expect("removed");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(stack.refused("whitelist_add", add(4)).await["facts"]["policies"], "shut");
    stack.stop().await;
}

fn policy(arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_whitelistmcp")).arg("policy").args(arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn the_shipped_policies_decide_as_their_tables_say() {
    for name in ["default", "small-team", "regulated", "ci-runners"] {
        let table = emulator::checkout().join(format!("examples/policies/{name}.toml"));
        let (ok, said) = policy(&["test", &table.display().to_string()]);
        assert!(ok && said.contains("all as expected") && !said.contains("no case is decided by"), "{name}: {said}");
    }
    // The same expectations of other policies: what differs is said, and counts.
    let examples = emulator::checkout().join("examples/policies");
    let (table, other) = (examples.join("small-team.toml"), examples.join("ci-runners.cedar"));
    let (ok, said) = policy(&["test", &table.display().to_string(), "--policy", &other.display().to_string()]);
    assert!(!ok && said.contains("there is no policy `the-team`"), "{said}");
}

#[test]
fn a_table_that_does_not_hold_says_which_case_and_why() {
    let directory = Directory::new();
    let table = |cases: &str| {
        directory.write("table.toml", &format!("[groups.db]\n[who.alice]\n{cases}")).display().to_string()
    };
    let case = |expect: &str| {
        format!(
            "[[cases]]\nwho = \"alice\"\ntool = \"whitelist_add\"\narguments = {{ security_group = \"db\", address = \"0.0.0.0/0\", port = \"443\", reason = \"a test\" }}\nexpect = \"{expect}\"\n"
        )
    };
    let (ok, said) = policy(&["test", &table(&case("deny by whole-internet"))]);
    assert!(ok && said.contains("1 decisions, all as expected"), "{said}");
    for (expect, part) in [
        ("allow", "got       deny by not-a-host-address, too-wide, whole-internet"),
        ("unseen", "expected  unseen"),
        ("approval", "1 not as expected"),
        ("deny by not-your-lease", "1 not as expected"),
        ("deny by nobody", "there is no policy `nobody`"),
        ("maybe", "is none of: allow"),
    ] {
        let (ok, said) = policy(&["test", &table(&case(expect))]);
        assert!(!ok && said.contains(part), "{expect}: {said}");
    }
    for (cases, part) in [
        ("", "missing field `cases`"),
        ("cases = []\n", "cases"),
        ("[[cases]]\nwho = \"bob\"\ntool = \"whitelist_leases\"\nexpect = \"allow\"\n", "`bob` is not among"),
        ("[[cases]]\nwho = \"alice\"\ntool = \"whitelist_lease\"\nexpect = \"allow\"\n", "TOOL_UNKNOWN"),
        (
            "[[cases]]\nwho = \"alice\"\ntool = \"whitelist_leases\"\nexpcet = \"allow\"\nexpect = \"allow\"\n",
            "unknown field `expcet`",
        ),
        (
            "[[cases]]\nwho = \"alice\"\ntool = \"whitelist_list\"\narguments = { security_grop = \"db\" }\nexpect = \"allow\"\n",
            "did you mean `security_group`",
        ),
    ] {
        let (ok, said) = policy(&["test", &table(cases)]);
        assert!(!ok && said.contains(part), "{cases}: {said}");
    }
}

#[test]
fn policies_are_explained_offline() {
    let config = emulator::checkout().join("examples/whitelistmcp.toml").display().to_string();
    let explain = |more: &[&str]| policy(&[&["explain", "--config", &config, "--who", "alice"][..], more].concat());
    let adding = |more: &[&'static str]| {
        let whole = [
            &["--tool", "whitelist_add", "--target", "staging-db", "--port", "22", "--at", "2027-01-04T12:00:00Z"][..],
            more,
        ]
        .concat();
        explain(&whole)
    };
    let (ok, said) = adding(&["--address", "203.0.113.7"]);
    assert!(
        ok && said.contains("Yes: alice may, until 2027-01-04T14:00:00Z.")
            && said.contains("people-on-configured-groups"),
        "{said}"
    );
    let (ok, said) = adding(&["--address", "203.0.113.0/24", "--duration", "48h"]);
    assert!(!ok && said.contains("Refused by: admin-port-single-address, at-most-a-day."), "{said}");
    assert!(said.contains("for 203.0.113.0 alone, for 24h (`address`, `duration`)"), "{said}");
    let (ok, said) = adding(&["--address", "203.0.113.7", "--scope", "whitelist:read"]);
    assert!(!ok && said.contains("needs the scope `whitelist:write`"), "{said}");
    let (ok, said) = explain(&["--tool", "whitelist_list", "--target", "payroll"]);
    assert!(!ok && said.contains("may not know of this group"), "{said}");
    let removing = [
        "--tool",
        "whitelist_remove",
        "--target",
        "staging-db",
        "--address",
        "203.0.113.7",
        "--port",
        "22",
        "--holder",
        "bob",
        "--held-by",
        "bob",
    ];
    let (ok, said) = explain(&removing);
    assert!(!ok && said.contains("not-your-lease"), "{said}");
    let (ok, said) = explain(&[&removing[..], &["--group", "whitelistmcp-admins"]].concat());
    assert!(ok && said.contains("whitelist_revoke_holder"), "{said}");
}

#[test]
fn policies_are_checked_alone() {
    let directory = Directory::new();
    let at = directory.path().display().to_string();
    let (ok, said) = policy(&["check", &at]);
    assert!(!ok && said.contains("holds no file named `*.cedar`"), "{said}");
    directory.write("a.cedar", "@id(\"a\") permit (principal, action, resource);");
    directory.write(
        "b.cedar",
        "@id(\"b\") @message(\"No.\") forbid (principal, action, resource) when { context.call.hour > 19 };",
    );
    directory.write(".hidden.cedar", "nonsense");
    directory.write("notes.txt", "nonsense");
    let (ok, said) = policy(&["check", &at]);
    assert!(ok && said.contains("2 policies are sound"), "{said}");
    directory.write("c.cedar", "@id(\"a\") permit (principal, action, resource);");
    let (ok, said) = policy(&["check", &at]);
    assert!(!ok && said.contains("c.cedar") && said.contains("`a` is given twice"), "{said}");
}
