//! What the documents tell a reader to run is run.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::collector::free_port;
use crate::support::desktop::Server;
use crate::support::issuer::Issuer;
use crate::support::processes::{Process, listens};
use crate::support::temporary::Directory;
use crate::support::{Stack, emulator};

/// The fenced shell block of a document that holds `part`, with the binary put in for its name.
fn command(document: &str, part: &str) -> String {
    let text = std::fs::read_to_string(emulator::checkout().join(document)).expect("a document");
    let mut blocks =
        text.split("```").filter(|block| block.starts_with("sh ")).filter_map(|block| block.split_once('\n'));
    let (_, block) = blocks
        .find(|(_, block)| block.contains(part))
        .unwrap_or_else(|| panic!("{document} has no block with `{part}`"));
    block.replace("whitelistmcp ", concat!(env!("CARGO_BIN_EXE_whitelistmcp"), " "))
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
    assert!(shell(&check, stack.directory.path()).contains("whole up to line 10"));
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
    let output =
        Command::new("bash").args(["-euc", &check]).current_dir(stack.directory.path()).output().expect("it runs");
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

/// The fenced block of that kind in the page on migrating that holds `part`.
fn migrating(kind: &str, part: &str) -> String {
    let text = std::fs::read_to_string(emulator::checkout().join("docs/MIGRATING.md")).expect("the page");
    let mut blocks = text.split("```").filter_map(|block| block.strip_prefix(&format!("{kind}\n")));
    blocks.find(|block| block.contains(part)).unwrap_or_else(|| panic!("no block with `{part}`")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_container_of_the_migration_serves_what_its_guide_sends() {
    let (aws, issuer, directory) = (AwsDouble::start().await, Issuer::start().await, Directory::new());
    let (port, sockets) = (free_port(), free_port());
    let block = migrating("yaml", "MCP_MODE=remote");
    let documented = block.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split_once('='));
    let mut environment: BTreeMap<String, String> =
        documented.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert!(environment.len() > 8 && environment["WHITELISTMCP_EDGE__WEBSOCKET_LISTEN"] == "0.0.0.0:8081");
    // What belongs to the reader's own place is put in, and nothing else.
    let own = crate::mode::remote(&aws, &issuer, &directory, port);
    assert!(own.iter().all(|(name, _)| !name.contains("PROXIES") && !name.contains("CORS")));
    environment.extend(own);
    environment.insert("WHITELISTMCP_EDGE__WEBSOCKET_LISTEN".to_owned(), format!("127.0.0.1:{sockets}"));
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let server = Process::start(&[], &environment, directory.path().join("server.log"));
    listens(port, || server.log()).await;
    listens(sockets, || server.log()).await;
    let token = issuer.token("alice", "whitelist:read whitelist:write");
    let curl = command("docs/MIGRATING.md", "initialize")
        .replace("https://whitelist.example.com", &format!("http://localhost:{port}"));
    let answer = shell(&format!("TOKEN={token}\n{curl}"), directory.path());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(
        (answer["id"].as_i64(), answer["result"]["serverInfo"]["name"].as_str()),
        (Some(1), Some("whitelistmcp")),
        "{answer:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_migration_s_file_for_claude_desktop_starts_both() {
    let aws = crate::local::opted_in().await;
    let stack = Stack::start(&aws).await;
    let home = crate::local::Home::new(&aws.access());
    let mut file: Value = serde_json::from_str(&migrating("json", "whitelistmcp-local")).expect("JSON");
    let servers = &mut file["mcpServers"];
    assert_eq!(servers["whitelistmcp-local"]["env"], json!({"AWS_PROFILE": "development"}));
    servers["whitelistmcp-local"] = home.entry();
    let remote = &mut servers["whitelistmcp-remote"];
    remote["command"] = env!("CARGO_BIN_EXE_whitelistmcp").into();
    remote["env"]["MCP_REMOTE_URL"] = format!("https://localhost:{}/mcp", stack.edge.port()).into();
    remote["env"]["MCP_AUTH_TOKEN"] = stack.token().into();
    remote["env"]["WHITELISTMCP_BRIDGE_CA"] = stack.directory.path().join("ca.pem").display().to_string().into();
    let path = home.desktop(servers);
    for name in ["whitelistmcp-local", "whitelistmcp-remote"] {
        let mut server = Server::of(&path, name, home.path());
        let targets = server.done("whitelist_targets", json!({})).await;
        assert!(targets["groups"].as_array().is_some_and(|groups| !groups.is_empty()), "{name}: {targets:#}");
        assert!(server.end().await.status.success(), "{name}");
    }
    stack.stop().await;
}

#[test]
fn the_migration_s_key_is_made() {
    let said = shell(&command("docs/MIGRATING.md", "key new"), Directory::new().path());
    assert!(said.contains("wlk_"), "{said}");
}
