//! The client code that is shown to internal services does what it says, against a real core, in every language.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::{CI_RUNNER, Options, Stack, emulator};

fn clients() -> PathBuf {
    emulator::checkout().join("examples/clients")
}

/// Where what the clients are built to is kept, beside the build's own output.
fn target() -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_whitelistmcp"));
    binary.parent().and_then(|profile| profile.parent()).expect("a target directory").join("clients")
}

async fn build(program: &str, arguments: &[&str], environment: &[(&str, String)]) {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (*name, value))).current_dir(clients());
    let output = command.output().await.unwrap_or_else(|error| panic!("{program}: {error}; `make tools` installs it"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn rust() -> Vec<String> {
    let (cargo, target) =
        (std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), target().display().to_string());
    build(
        &cargo,
        &["build", "--quiet", "--locked", "--manifest-path", "rust/Cargo.toml", "--target-dir", &target],
        &[],
    )
    .await;
    vec![format!("{target}/debug/whitelistmcp-client")]
}

async fn python() -> Vec<String> {
    let python = emulator::tool("python/bin/python").display().to_string();
    vec![python, clients().join("python/client.py").display().to_string()]
}

async fn go() -> Vec<String> {
    let target = target().display().to_string();
    let (path, program) = (format!("{target}/gopath"), format!("{target}/client-go"));
    build("bash", &["go/generate.sh", &path], &[]).await;
    let environment = [
        ("GO111MODULE", "off".to_owned()),
        ("GOPATH", format!("{path}:/usr/share/gocode")),
        ("GOCACHE", format!("{target}/go-cache")),
        ("GOFLAGS", String::new()),
    ];
    build("bash", &["-euc", "test -z \"$(gofmt -l go/main.go)\""], &environment).await;
    build("go", &["vet", "go/main.go"], &environment).await;
    build("go", &["build", "-o", &program, "go/main.go"], &environment).await;
    vec![program]
}

/// How it ended, and what it said on stdout and on stderr.
async fn run(client: &[String], stack: &Stack, certificate: &str, group: &str) -> (Option<i32>, String, String) {
    let at = |file: &str| stack.directory.path().join(file).display().to_string();
    let mut command = Command::new(&client[0]);
    command.args(&client[1..]).arg(format!("localhost:{}", stack.core.port()));
    command.args([at("ca.pem"), at(&format!("{certificate}.pem")), at(&format!("{certificate}.key"))]);
    command.args([group, "203.0.113.7", "postgres"]).stdin(Stdio::null());
    // A proxy of the reader's own has no part in it.
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy"] {
        command.env_remove(name);
    }
    let output = command.output().await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn does_what_it_says(client: Vec<String>, word: &str) {
    let aws = AwsDouble::start().await;
    // Thirty changes at once, and then one every two seconds.
    let limits = "changes_per_minute = 30\nreads_per_minute = 1000\nchanges_per_hour = 1000\nchanges_per_day = 1000\n";
    let stack = Stack::with(&aws.access(), Options { limits: Some(limits), ..Options::default() }).await;

    let (code, said, complained) = run(&client, &stack, "ci-runner", "staging-db").await;
    assert_eq!(code, Some(0), "{said}{complained}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("add: opened sgr-") && lines[0].contains(" until 20"), "{said}");
    assert_eq!(&lines[1..], ["check: allowed", "list: 1", "remove: removed"], "{said}");
    assert!(aws.standing().is_empty());
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "end").count() >= 4).await;
    let add = entries.iter().find(|entry| entry["tool"] == "whitelist_add").expect("an entry").to_string();
    assert!(add.contains(CI_RUNNER) && add.contains(word), "{add}");

    // Told to come back, it comes back when it was told to.
    let mut greedy = stack.grpc("ci-runner");
    let dry = pb::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.9".to_owned(),
        port: "22".to_owned(),
        reason: "greedy".to_owned(),
        dry_run: true,
        ..Default::default()
    };
    while greedy.add_rule(dry.clone()).await.is_ok() {}
    let (code, said, complained) = run(&client, &stack, "ci-runner", "staging-db").await;
    assert_eq!(code, Some(0), "{said}{complained}");
    assert!(complained.contains("told to come back in") && said.contains("remove: removed"), "{said}{complained}");

    // A refusal is told with its reason and its field, and not sent again.
    let (code, said, complained) = run(&client, &stack, "ci-runner", "no-such-group").await;
    let refused = complained.contains("reason: SECURITY_GROUP_UNKNOWN")
        && complained.to_uppercase().replace('_', "").contains("NOTFOUND:");
    assert!(code == Some(1) && said.is_empty() && refused, "{said}{complained}");
    // Without a certificate of the core's own CA that it knows, nobody is let in.
    let (code, said, complained) = run(&client, &stack, "stranger", "staging-db").await;
    assert!(code == Some(1) && said.is_empty() && !complained.is_empty(), "{said}{complained}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_in_rust_does_what_it_says() {
    does_what_it_says(rust().await, "in Rust").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_in_python_does_what_it_says() {
    does_what_it_says(python().await, "in Python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_in_go_does_what_it_says() {
    does_what_it_says(go().await, "in Go").await;
}

/// What the Python client needs is what the tests have.
#[test]
fn the_python_client_s_requirements_are_those_that_it_is_tried_with() {
    let text = |path: &str| std::fs::read_to_string(emulator::checkout().join(path)).expect("a file");
    let tried = text("examples/demo/tools/requirements-python.txt");
    for line in text("examples/clients/python/requirements.txt").lines() {
        assert!(tried.lines().any(|pinned| pinned == line), "{line} is not what is tried");
    }
}
