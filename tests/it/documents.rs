//! What the documents tell a reader to run is run.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::aws_double::AwsDouble;
use crate::support::temporary::Directory;
use crate::support::{Stack, emulator};

/// The fenced shell block of a document that holds `part`, with the binary put in for its name.
fn command(document: &str, part: &str) -> String {
    let text = std::fs::read_to_string(emulator::checkout().join(document)).expect("a document");
    let block = text.split("```").find(|block| block.starts_with("sh\n") && block.contains(part));
    let block = block.unwrap_or_else(|| panic!("{document} has no block with `{part}`"));
    block.trim_start_matches("sh\n").replace("whitelistmcp ", concat!(env!("CARGO_BIN_EXE_whitelistmcp"), " "))
}

fn shell(script: &str, directory: &Path) -> String {
    emulator::output(Command::new("bash").args(["-euc", script]).current_dir(directory))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_is_checked_as_documented() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    for n in 0..3 {
        let arguments = json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "chain"});
        stack.done("whitelist_add", arguments).await;
    }
    stack.stop().await;
    let journal = stack.directory.path().join("journal");
    // Opening and head, three calls, closing and head.
    stack.journal_when(|entries| entries.len() == 10).await;
    let check = command("docs/AUDIT.md", "hashlib");
    assert!(shell(&check, &journal).contains("whole up to line 10"));
    let verify = command("docs/AUDIT.md", "audit verify");
    assert!(shell(&verify, stack.directory.path()).contains("nothing speaks against it"));
    let shown = shell(&command("docs/AUDIT.md", "audit show"), stack.directory.path());
    assert!(shown.matches("whitelist_add").count() == 3, "{shown}");
    let keys = shell(&command("docs/AUDIT.md", "audit key"), stack.directory.path());
    assert!(keys.is_empty() && stack.directory.path().join("heads.pub").exists());

    // A changed word is found.
    let file = crate::support::journal_file(&journal);
    let text = std::fs::read_to_string(&file).expect("text").replacen("203.0.113.1/32", "203.0.113.9/32", 1);
    std::fs::write(&file, text).expect("written");
    let output = Command::new("bash").args(["-euc", &check]).current_dir(&journal).output().expect("it runs");
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("does not follow the one before")
    );
    let output =
        Command::new("bash").args(["-euc", &verify]).current_dir(stack.directory.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("WRONG") && said.contains("was changed"), "{said}");
}

#[test]
fn certificates_are_made_as_documented() {
    let directory = Directory::new();
    shell(&command("certs/README.md", "whitelistmcp certs"), directory.path());
    for file in ["ca.pem", "core.pem", "core.key", "edge.pem", "ci-runner.key"] {
        assert!(directory.path().join("certs").join(file).exists(), "{file}");
    }
}

#[test]
fn the_session_policy_is_printed_as_documented() {
    let directory = Directory::new();
    let printed = shell(&command("README.md", "iam session-policy"), directory.path());
    assert!(printed.contains("ec2:AuthorizeSecurityGroupIngress"), "{printed}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/ARCHITECTURE.md",
        "docs/AUDIT.md",
        "docs/OPERATIONS.md",
        "docs/TELEMETRY.md",
        "docs/PROMISES.md",
        "certs/README.md",
    ] {
        let path = emulator::checkout().join(document);
        let text = std::fs::read_to_string(&path).expect("a document");
        for link in
            text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://"))
        {
            assert!(path.parent().expect("a directory").join(link).exists(), "{document}: {link}");
        }
    }
}
