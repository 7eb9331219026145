//! The bridge as a program starts it: a process with pipes, a real edge behind, and everything that can go wrong between.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::collector::free_port;
use crate::support::{Options, Stack};

pub(crate) struct Bridge {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// The binary with those words, and nothing of ours in its environment.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    command.args(words).kill_on_drop(true);
    for name in ["MCP_AUTH_TOKEN", "MCP_REMOTE_URL", "MCP_MODE", "XDG_STATE_HOME", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    // Nothing is kept outside the test, and no browser opened.
    command.env("HOME", "/nonexistent");
    command
}

impl Bridge {
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let input = child.stdin.take().expect("stdin");
        let output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, input, output }
    }

    pub(crate) fn start(directory: &Path, url: &str, token: Option<&str>, more: &[&str]) -> Self {
        let mut command = command(&["bridge", url]);
        command.arg("--ca").arg(directory.join("ca.pem")).args(more);
        command.envs(token.map(|token| ("MCP_AUTH_TOKEN", token)));
        Self::spawn(command)
    }

    fn to(stack: &Stack) -> Self {
        Self::start(stack.directory.path(), &url(stack), Some(&stack.token()), &[])
    }

    pub(crate) async fn say(&mut self, line: impl AsRef<[u8]>) {
        self.input.write_all(line.as_ref()).await.expect("written");
        self.input.write_all(b"\n").await.expect("written");
    }

    pub(crate) async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(60), self.output.next_line()).await;
        let line = line.expect("an answer in time").expect("it reads").expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub(crate) async fn ask(&mut self, id: Value, method: &str, params: Value) -> Value {
        self.say(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()).await;
        self.hear().await
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Ends its stdin; what it still said on stdout, and on stderr.
    pub(crate) async fn end(mut self) -> (String, String) {
        drop(self.input);
        let mut rest = String::new();
        while let Some(line) = self.output.next_line().await.expect("it reads") {
            rest.push_str(&line);
        }
        let status = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.expect("it ends");
        assert!(status.expect("a status").success());
        let mut said = String::new();
        self.child.stderr.take().expect("stderr").read_to_string(&mut said).await.expect("text");
        (rest, said)
    }
}

pub(crate) fn url(stack: &Stack) -> String {
    format!("https://localhost:{}/mcp", stack.edge.port())
}

pub(crate) fn list() -> Value {
    json!({"name": "whitelist_list", "arguments": {"security_group": "staging-db"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_eras_go_through_as_they_are() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut bridge = Bridge::to(&stack);
    let first =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let answer = bridge.ask(json!(0), "initialize", first).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18", "{answer:#}");
    bridge.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await;
    let tools = bridge.ask(json!("t"), "tools/list", json!({})).await;
    assert!(tools["id"] == "t" && tools["result"]["tools"].is_array(), "{tools:#}");
    let called = bridge.ask(json!(18446744073709551615_u64), "tools/call", list()).await;
    assert_eq!(called["id"].as_u64(), Some(u64::MAX), "ids are echoed exactly");
    assert_eq!(called["result"]["isError"], false, "{called:#}");
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let found = bridge.ask(json!(1), "server/discover", json!({"_meta": meta})).await;
    assert_eq!(found["result"]["resultType"], "complete", "{found:#}");
    let mut modern = list();
    modern["_meta"] = meta.clone();
    assert_eq!(bridge.ask(json!(2), "tools/call", modern).await["result"]["resultType"], "complete");
    let unknown = bridge.ask(json!(3), "x/y", json!({"_meta": meta})).await;
    assert_eq!(unknown["error"]["code"], -32601, "a refusal that has an HTTP status of its own: {unknown:#}");
    let (rest, _) = bridge.end().await;
    assert_eq!(rest, "", "nothing but answers");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_at_once_and_ends_with_stdin() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let begun = Instant::now();
    // Nobody is there, and it does not mind before it is asked something.
    let bridge =
        Bridge::start(stack.directory.path(), &format!("https://localhost:{}/mcp", free_port()), Some("a-token"), &[]);
    let (rest, said) = bridge.end().await;
    assert_eq!((rest.as_str(), said.as_str()), ("", ""));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    stack.stop().await;
}

#[tokio::test]
async fn it_answers_hardly_later_than_the_program_starts() {
    let mut least = [Duration::MAX; 2];
    for _ in 0..10 {
        let begun = Instant::now();
        assert!(command(&["--version"]).output().await.expect("it runs").status.success());
        least[0] = least[0].min(begun.elapsed());
        let begun = Instant::now();
        let mut bridge = Bridge::spawn(command(&["bridge", "https://localhost:1/mcp"]));
        bridge.say("{").await;
        assert_eq!(bridge.hear().await["error"]["code"], -32700);
        least[1] = least[1].min(begun.elapsed());
        bridge.end().await;
    }
    let [starts, answers] = least;
    // On a machine that has nothing else to do it is a few milliseconds.
    assert!(answers < starts * 3 + Duration::from_millis(100), "it starts in {starts:?} and answers in {answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_whatever_fails() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let ping = |id: i32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"}).to_string();
    let there = url(&stack);
    let token = stack.token();
    for (address, token, more, code, words) in [
        (there.clone(), None, &["--no-login"][..], 401, "set MCP_AUTH_TOKEN"),
        (there.clone(), Some("made-up-token"), &[], 401, "get a new one"),
        (there.replace("/mcp", "/nothing"), Some(token.as_str()), &[], 404, "/mcp"),
        (format!("https://localhost:{}/mcp", free_port()), Some(&token), &[], 503, "Is the address right"),
        (there.replace("https:", "http:"), Some(&token), &[], 502, "broke"),
    ] {
        let mut bridge = Bridge::start(stack.directory.path(), &address, token, more);
        bridge.say(ping(7)).await;
        let answer = bridge.hear().await;
        assert_eq!((answer["id"].as_i64(), answer["error"]["code"].as_i64()), (Some(7), Some(code)), "{answer:#}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(words)), "{answer:#}");
        let (_, said) = bridge.end().await;
        assert!(token.is_none_or(|token| !said.contains(token)), "{said}");
    }
    // A server that is slow.
    let mut bridge = Bridge::start(stack.directory.path(), &there, Some(&token), &["--timeout", "1"]);
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(8)));
    let answer = bridge.ask(json!(1), "tools/call", list()).await;
    assert_eq!(answer["error"]["code"], 504, "{answer:#}");
    // One that is given up by the client is not answered, and the next one is.
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(8)));
    let mut bridge = Bridge::to(&stack);
    bridge.say(json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": list()}).to_string()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    bridge
        .say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}).to_string())
        .await;
    assert_eq!(bridge.ask(json!(6), "ping", json!({})).await["id"], 6);
    let (rest, _) = bridge.end().await;
    assert_eq!(rest, "");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_answered_and_it_goes_on() {
    let options = Options { edge_extra: "body_max = 8000000", ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    let mut bridge = Bridge::to(&stack);
    for (line, code) in [
        (b"{not json".to_vec(), -32700),
        (b"\xff\xfe{}".to_vec(), -32700),
        (b"{} {}".to_vec(), -32700),
        (vec![b'x'; 17 * 1024 * 1024], -32600),
        (json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}).to_string().into_bytes(), -32600),
    ] {
        bridge.say(&line).await;
        let answer = bridge.hear().await;
        assert_eq!(answer["error"]["code"], code, "{answer:#}");
    }
    bridge.say("   ").await;
    // Five megabytes of a request come through, and are the server's to refuse.
    let long = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "whitelist_list",
        "arguments": {"security_group": "x".repeat(5_000_000)}}});
    bridge.say(long.to_string()).await;
    let answer = bridge.hear().await;
    assert_eq!((answer["id"].as_i64(), answer["result"]["isError"].as_bool()), (Some(9), Some(true)));
    assert_eq!(bridge.ask(json!(10), "ping", json!({})).await["result"], json!({}));
    bridge.end().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_at_once_are_all_answered() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut bridge = Bridge::to(&stack);
    let all: String =
        (0..1000).map(|id| format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": "ping"}))).collect();
    let Bridge { child, mut input, mut output } = bridge;
    let writing = tokio::spawn(async move {
        input.write_all(all.as_bytes()).await.expect("written");
        input
    });
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 1000 {
        let line = tokio::time::timeout(Duration::from_secs(60), output.next_line()).await;
        let line = line.expect("in time").expect("it reads").expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["result"], json!({}), "{answer:#}");
        assert!(answered.insert(answer["id"].as_i64().expect("an id")), "answered twice: {answer:#}");
    }
    bridge = Bridge { child, input: writing.await.expect("written"), output };
    bridge.end().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_entry_starts_it() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let file = stack.directory.write("token", &stack.token());
    let ca = stack.directory.path().join("ca.pem");
    let output = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
        .args(["bridge", &url(&stack), "--print-config", "--token-file"])
        .arg(&file)
        .arg("--ca")
        .arg(&ca)
        .output()
        .await
        .expect("it runs");
    let entry: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let server = &entry["mcpServers"]["whitelistmcp"];
    let words: Vec<&str> = server["args"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    assert_eq!(server["command"], env!("CARGO_BIN_EXE_whitelistmcp"));
    let mut started = command(&words);
    started.current_dir("/");
    let mut bridge = Bridge::spawn(started);
    let called = bridge.ask(json!(1), "tools/call", list()).await;
    assert_eq!(called["result"]["isError"], false, "{called:#}");
    // A token that something else renews is read anew.
    std::fs::write(&file, "made-up").expect("written");
    assert_eq!(bridge.ask(json!(2), "ping", json!({})).await["error"]["code"], 401);
    std::fs::write(&file, stack.token()).expect("written");
    assert_eq!(bridge.ask(json!(3), "ping", json!({})).await["result"], json!({}));
    bridge.end().await;
    stack.stop().await;
}
