//! What the binary is when it is started without arguments, as a container and Claude Desktop start it.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::collector::free_port;
use crate::support::issuer::Issuer;
use crate::support::processes::{Process, listens};
use crate::support::temporary::Directory;
use crate::support::{AUDIENCE, REGION, Stack, send};

/// The binary without arguments, in an environment of its own.
fn bare(environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    command.env_clear().envs(environment.iter().copied());
    command
}

fn run(environment: &[(&str, &str)]) -> Output {
    bare(environment).stdin(Stdio::null()).output().expect("it runs")
}

/// What a container of the server is given: everything by variables.
pub(crate) fn remote(aws: &AwsDouble, issuer: &Issuer, directory: &Directory, port: u16) -> Vec<(String, String)> {
    let access = aws.access();
    let account = format!(
        "[{{ id = \"{}\", role_arn = \"{}\", external_id = \"{}\", regions = [\"{REGION}\"] }}]",
        access.account, access.role_arn, access.external_id
    );
    let groups: Vec<String> =
        access.groups.iter().map(|(name, id)| format!("{{ name = \"{name}\", id = \"{id}\" }}")).collect();
    let journal = directory.path().join("journal").display().to_string();
    [
        ("MCP_MODE", "remote".to_owned()),
        ("WHITELISTMCP_EDGE__LISTEN", format!("127.0.0.1:{port}")),
        ("WHITELISTMCP_EDGE__PUBLIC_URL", AUDIENCE.to_owned()),
        ("WHITELISTMCP_OIDC__COMPANY__ISSUER", issuer.url.clone()),
        ("WHITELISTMCP_OIDC__COMPANY__AUDIENCE", AUDIENCE.to_owned()),
        ("WHITELISTMCP_AWS__ENDPOINT", access.endpoint.clone()),
        ("WHITELISTMCP_AWS__ACCOUNTS", account),
        ("WHITELISTMCP_TARGETS__ACCOUNT", access.account.clone()),
        ("WHITELISTMCP_TARGETS__REGION", REGION.to_owned()),
        ("WHITELISTMCP_TARGETS__GROUPS", format!("[{}]", groups.join(", "))),
        ("WHITELISTMCP_AUDIT__DIRECTORY", journal),
        ("WHITELISTMCP_AUDIT__VOLUME", "persistent".to_owned()),
        ("AWS_ACCESS_KEY_ID", access.access_key_id.clone()),
        ("AWS_SECRET_ACCESS_KEY", access.secret_access_key),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

#[test]
fn an_environment_that_says_nothing_sound_is_refused_with_what_would_be() {
    let url = "https://whitelist.example.com/mcp";
    let open = [
        ("MCP_MODE", "remote"),
        ("WHITELISTMCP_EDGE__PUBLIC_URL", url),
        ("WHITELISTMCP_OIDC__COMPANY__ISSUER", "https://login.example.com"),
        ("WHITELISTMCP_OIDC__COMPANY__AUDIENCE", url),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&open[..], more].concat();
    for (environment, parts) in [
        (vec![("MCP_MODE", "http")], &["set MCP_REMOTE_URL"][..]),
        (vec![("MCP_MODE", "websocket")], &["set MCP_REMOTE_URL"]),
        (vec![("MCP_MODE", "serverless")], &["MCP_MODE=serverless", "WHITELISTMCP_EDGE__PUBLIC_URL"]),
        (vec![("MCP_MODE", "Remote")], &["`remote`", "`serverless`", "`http` or `websocket`"]),
        (vec![("MCP_MODE", "remote"), ("MCP_REMOTE_URL", url)], &["MCP_MODE=remote", "Take one of the two out"]),
        (vec![("MCP_REMOTE_URL", "not a url")], &["not a url"]),
        (vec![("MCP_MODE", "remote")], &["WHITELISTMCP_CONFIG", "WHITELISTMCP_EDGE__PUBLIC_URL", "MIGRATING"]),
        (with(&[("MCP_AUTH_TOKEN", "s3cret-of-all")]), &["no shared secret", "OpenID Connect", "key new", "MIGRATING"]),
        (with(&[("CORS_ORIGINS", "*")]), &["CORS_ORIGINS", "would let any web page call"]),
        (with(&[]), &["0.0.0.0:8080 is reachable from outside", "trusted_proxies", "[edge.tls]"]),
        (with(&[("WHITELISTMCP_EDGE__PLAINTEXT", "false")]), &["`[edge]` needs `tls`"]),
        // The bridge's own are nothing to a server.
        (with(&[("WHITELISTMCP_BRIDGE_CA", "/x")]), &["0.0.0.0:8080 is reachable from outside"]),
        (with(&[("WHITELISTMCP_CONFIG", "/nowhere.toml")]), &["/nowhere.toml"]),
        (with(&[("WHITELISTMCP_EDGE__LISTNE", "x")]), &["WHITELISTMCP_EDGE__LISTNE"]),
    ] {
        let output = run(&environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{environment:?}: {output:?}");
        for part in parts {
            assert!(said.contains(part), "{environment:?}: {part}: {said}");
        }
        assert!(!said.contains("s3cret-of-all"), "{said}");
    }
}

#[test]
fn a_person_at_a_terminal_gets_help_and_a_program_is_served() {
    // A terminal of its own, by the Python that the demo needs too.
    let script = "import os, pty, sys\n\
        code = pty.spawn(sys.argv[1:])\n\
        sys.exit(os.waitstatus_to_exitcode(code))";
    let mut command = Command::new("python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_whitelistmcp")]).env_clear().stdin(Stdio::null());
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Usage:") && said.contains("stdio") && said.contains("bridge"), "{said}");
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_the_server_by_its_environment_alone() {
    let (aws, issuer, directory, port) =
        (AwsDouble::start().await, Issuer::start().await, Directory::new(), free_port());
    let mut environment = remote(&aws, &issuer, &directory, port);
    environment.push(("CORS_ORIGINS".to_owned(), "https://app.example.com, https://b.example.com".to_owned()));
    // As a compose file passes it on where it is not set.
    environment.push(("MCP_AUTH_TOKEN".to_owned(), String::new()));
    let mut server = Process::start(&[], &environment, directory.path().join("server.log"));
    listens(port, || server.log()).await;
    let http = whitelistmcp::http_client::HttpClient::new(whitelistmcp::tls::public_client(None).expect("roots"));
    let url = |path: &str| format!("http://localhost:{port}{path}");
    let health = send(&http, http::Method::GET, url("/health"), None, &[], Vec::new()).await.expect("an answer").json();
    assert_eq!((health["status"].as_str(), health["service"].is_string()), (Some("healthy"), true), "{health:#}");
    let token = issuer.token("alice", "whitelist:read whitelist:write");
    let call = |tool: &str, arguments: Value| json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
    let add = json!({"security_group": "staging-db", "address": "203.0.113.9", "port": 22, "reason": "guide"});
    let headers = [("origin", "https://app.example.com")];
    let body = call("whitelist_add", add).to_string().into_bytes();
    let answer = send(&http, http::Method::POST, url("/mcp"), Some(&token), &headers, body).await.expect("an answer");
    assert_eq!(answer.json()["result"]["isError"], false, "{}", answer.json());
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    let headers = [("origin", "https://evil.example.com")];
    let body = call("whitelist_targets", json!({})).to_string().into_bytes();
    let answer = send(&http, http::Method::POST, url("/mcp"), Some(&token), &headers, body).await.expect("an answer");
    assert_eq!(answer.status, 403);
    server.signal("TERM");
    assert!(server.end_within(Duration::from_secs(30)).await.success(), "{}", server.log());
    assert_eq!(aws.standing().len(), 1);
    assert!(server.log().contains("edge is listening"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_url_it_is_the_bridge() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let ca = stack.directory.path().join("ca.pem").display().to_string();
    let (url, token) = (format!("https://localhost:{}/mcp", stack.edge.port()), stack.token());
    for mode in [&[][..], &[("MCP_MODE", "http")], &[("MCP_MODE", "")]] {
        let environment =
            [&[("MCP_REMOTE_URL", &*url), ("MCP_AUTH_TOKEN", &token), ("WHITELISTMCP_BRIDGE_CA", &ca)], mode].concat();
        let mut command = bare(&environment);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let line = json!({"jsonrpc": "2.0", "id": 4, "method": "ping"}).to_string() + "\n";
        let answer = tokio::task::spawn_blocking(move || {
            use std::io::{BufRead, BufReader, Write};
            let mut input = child.stdin.take().expect("stdin");
            input.write_all(line.as_bytes()).expect("written");
            let mut answer = String::new();
            BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut answer).expect("an answer");
            drop(input);
            assert!(child.wait().expect("it ends").success());
            answer
        });
        let answer: Value = serde_json::from_str(&answer.await.expect("no panic")).expect("JSON");
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 4, "result": {}}));
    }
    stack.stop().await;
}
