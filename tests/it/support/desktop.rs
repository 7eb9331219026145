//! A client that starts its servers itself: a process over pipes, by an entry of a Claude Desktop file.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A server that was started so.
pub(crate) struct Server {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

/// What a server has left when it has ended.
pub(crate) struct Left {
    pub(crate) status: ExitStatus,
    /// Lines on stdout that nobody had heard.
    pub(crate) lines: Vec<String>,
    pub(crate) stderr: String,
}

impl Server {
    /// Starts an entry of a file. It gets the variables that MCP's own clients pass on, and those of the entry.
    pub(crate) fn of(config: &Path, name: &str, home: &Path) -> Self {
        let text = std::fs::read_to_string(config).expect("a file");
        let file: Value = serde_json::from_str(&text).expect("JSON");
        let entry = &file["mcpServers"][name];
        let mut command = Command::new(entry["command"].as_str().expect("a program"));
        command.args(entry["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
        command.env_clear().env("HOME", home).env("USER", "alice").env("PATH", "/usr/bin:/bin");
        let variables = entry["env"].as_object().into_iter().flatten();
        command.envs(variables.map(|(name, value)| (name, value.as_str().expect("text"))));
        Self::start(command)
    }

    pub(crate) fn start(mut command: Command) -> Self {
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, input, output }
    }

    pub(crate) async fn say(&mut self, line: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(line.as_ref()).await.expect("written");
        input.write_all(b"\n").await.expect("written");
    }

    pub(crate) async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), self.output.next_line()).await;
        let line = line.expect("an answer in time").expect("it reads");
        let Some(line) = line else {
            let mut said = String::new();
            self.child.stderr.take().expect("stderr").read_to_string(&mut said).await.expect("text");
            panic!("it has ended: {said}");
        };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub(crate) async fn ask(&mut self, id: Value, method: &str, params: Value) -> Value {
        self.say(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()).await;
        self.hear().await
    }

    /// Calls a tool; its result.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.ask(json!(tool), "tools/call", json!({"name": tool, "arguments": arguments})).await;
        assert!(answer["id"] == tool && answer["result"].is_object(), "{answer:#}");
        answer["result"].clone()
    }

    /// Calls a tool that must succeed; its structured content.
    pub(crate) async fn done(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], false, "{result:#}");
        result["structuredContent"].clone()
    }

    /// Ends its input, and waits for it to end.
    pub(crate) async fn end(mut self) -> Left {
        drop(self.input.take());
        self.ended().await
    }

    /// Waits for it to end.
    pub(crate) async fn ended(mut self) -> Left {
        let mut stderr = self.child.stderr.take().expect("stderr");
        let said = tokio::spawn(async move {
            let mut said = String::new();
            stderr.read_to_string(&mut said).await.expect("text");
            said
        });
        let mut lines = Vec::new();
        while let Some(line) = self.output.next_line().await.expect("it reads") {
            lines.push(line);
        }
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.expect("it ends");
        Left { status: status.expect("a status"), lines, stderr: said.await.expect("read") }
    }
}
