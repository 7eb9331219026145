//! The bundle for Claude Desktop: packed as `make mcpb` does, unpacked and read by the official tool, and run as that says.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::desktop::Server;
use crate::support::temporary::Directory;
use crate::support::{Stack, emulator};

/// What a client makes of a manifest and of what its user has filled in, by the code that Claude Desktop shares.
const CONFIGURED: &str = "
import { readFileSync } from 'node:fs';
import { getMcpConfigForManifest } from '@anthropic-ai/mcpb/browser';
const [extensionPath, userConfig] = process.argv.slice(1);
const manifest = JSON.parse(readFileSync(`${extensionPath}/manifest.json`, 'utf8'));
const config = await getMcpConfigForManifest({
  manifest, extensionPath, systemDirs: {}, userConfig: JSON.parse(userConfig), pathSeparator: '/',
});
console.log(JSON.stringify(config ?? null));
";

fn mcpb(words: &[&str]) -> String {
    let tool = emulator::tool("node/node_modules/@anthropic-ai/mcpb/dist/cli/cli.js");
    emulator::output(Command::new(emulator::tool("node/node_modules/.bin/node")).arg(tool).args(words))
}

/// Packs and unpacks the bundle; where it is then.
fn unpacked(directory: &Directory) -> std::path::PathBuf {
    let script = emulator::checkout().join("scripts/mcpb.py");
    let mut pack = Command::new("python3");
    pack.arg(script).arg(env!("CARGO_BIN_EXE_whitelistmcp")).arg(directory.path()).args(["--level", "1"]);
    let bundle = emulator::output(&mut pack).trim().to_owned();
    let unpacked = directory.path().join("unpacked");
    mcpb(&["unpack", &bundle, unpacked.to_str().expect("text")]);
    unpacked
}

fn configured(unpacked: &Path, filled_in: &Value) -> Value {
    let mut node = Command::new(emulator::tool("node/node_modules/.bin/node"));
    node.current_dir(emulator::tool("node")).args(["--input-type=module", "--eval", CONFIGURED, "--"]);
    let text = emulator::output(node.arg(unpacked).arg(filled_in.to_string()));
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bundle_is_sound_and_leads_to_the_server() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let (directory, home) = (Directory::new(), Directory::new());
    let unpacked = unpacked(&directory);
    let manifest = unpacked.join("manifest.json");
    assert!(mcpb(&["validate", manifest.to_str().expect("text")]).contains("passes"));
    // Without the address there is nothing to run.
    assert_eq!(configured(&unpacked, &json!({})), Value::Null);
    let (url, ca) = (format!("https://localhost:{}/mcp", stack.edge.port()), stack.directory.path().join("ca.pem"));
    let entry = configured(&unpacked, &json!({"url": url, "token": stack.token(), "ca": ca}));
    assert_eq!(entry["args"], json!(["bridge"]));
    let file = directory.write("file.json", json!({"mcpServers": {"bundle": entry}}).to_string());
    let mut server = Server::of(&file, "bundle", home.path());
    let listed = server.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert!(listed["rules"].is_array(), "{listed:#}");
    assert!(server.end().await.status.success());
    // What is not filled in is as if it were not there.
    let entry = configured(&unpacked, &json!({"url": url}));
    assert!(!entry.to_string().contains("user_config"), "{entry:#}");
    let file = directory.write("file.json", json!({"mcpServers": {"bundle": entry}}).to_string());
    let mut server = Server::of(&file, "bundle", home.path());
    let answer = server.ask(json!(1), "ping", json!({})).await;
    assert!(answer["error"]["message"].is_string(), "{answer:#}");
    assert!(server.end().await.status.success());
    stack.stop().await;
}
