//! The service as processes of their own, that can be signalled, killed and started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use whitelistmcp::http_client::{HttpClient, HttpError};
use whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient;

use super::collector::free_port;
use super::{Answer, AwsAccess, Ground, Options, PATIENCE, core_file, edge_file, journal, send, tls, within};

/// A process of the binary.
pub(crate) struct Process {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str], environment: &[(String, String)], log: PathBuf) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut process = Self { arguments, environment: environment.to_vec(), log, child: None };
        process.begin();
        process
    }

    /// Starts it, or starts it again; its log goes on.
    pub(crate) fn begin(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .args(&self.arguments)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("it starts"));
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status().expect("kill runs");
        assert!(done.success(), "{name}");
    }

    /// SIGKILL: nothing is finished, nothing is flushed.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("asked")
    }

    /// Waits for its end.
    pub(crate) async fn end_within(&mut self, most: Duration) -> ExitStatus {
        let begun = Instant::now();
        while begun.elapsed() < most {
            if let Some(status) = self.ended() {
                self.child = None;
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it has not ended within {most:?}: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An edge and a core, each a process.
pub(crate) struct Processes {
    pub(crate) ground: Ground,
    pub(crate) core: Process,
    pub(crate) edge: Process,
    pub(crate) core_port: u16,
    pub(crate) edge_port: u16,
    pub(crate) http: HttpClient,
}

impl Processes {
    pub(crate) async fn start(aws: &AwsAccess, options: &Options, environment: &[(&str, String)]) -> Self {
        let ground = Ground::new(options).await;
        Self::on(ground, aws, options, environment).await
    }

    pub(crate) async fn on(ground: Ground, aws: &AwsAccess, options: &Options, environment: &[(&str, String)]) -> Self {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let (core_port, edge_port) = (free_port(), free_port());
        let directory = &ground.directory;
        directory.write("core.toml", &core_file(directory, aws, options, &ground.issuer, core_port));
        directory.write("edge.toml", &edge_file(directory, options, &ground.issuer, edge_port, core_port));
        let of = |role: &str| {
            let config = directory.path().join(format!("{role}.toml"));
            let config = config.to_str().expect("a path");
            Process::start(&[role, "--config", config], &environment, directory.path().join(format!("{role}.log")))
        };
        let (core, edge) = (of("core"), of("edge"));
        let ca = ground.directory.path().join("ca.pem");
        let http = HttpClient::new(whitelistmcp::tls::public_client(Some(&ca)).expect("the CA loads"));
        let processes = Self { ground, core, edge, core_port, edge_port, http };
        processes.listen().await;
        processes
    }

    /// Waits until both listen.
    pub(crate) async fn listen(&self) {
        for port in [self.core_port, self.edge_port] {
            listens(port, || format!("{}\n{}", self.core.log(), self.edge.log())).await;
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.ground.directory.path()
    }

    pub(crate) fn token(&self) -> String {
        self.ground.issuer.token("alice", "whitelist:read whitelist:write")
    }

    /// Posts to the MCP endpoint.
    pub(crate) async fn post(
        &self,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer, HttpError> {
        let uri = format!("https://localhost:{}/mcp", self.edge_port);
        send(&self.http, http::Method::POST, uri, token, headers, body.into_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, HttpError> {
        let uri = format!("https://localhost:{}{path}", self.edge_port);
        send(&self.http, http::Method::GET, uri, None, &[], Vec::new()).await
    }

    /// Calls a tool as alice; its result.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
        let answer = self.post(Some(&self.token()), &[], body.to_string()).await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["result"].clone()
    }

    pub(crate) fn grpc(&self, certificate: &str) -> WhitelistServiceClient<tonic::transport::Channel> {
        WhitelistServiceClient::new(tls::channel(self.path(), certificate, self.core_port))
    }

    pub(crate) fn journal(&self) -> Vec<Value> {
        journal(&self.path().join("journal"))
    }

    /// Ends both in order; the edge first, as it stands in front.
    pub(crate) async fn stop(&mut self) {
        for process in [&mut self.edge, &mut self.core] {
            process.signal("TERM");
            let status = process.end_within(Duration::from_secs(40)).await;
            assert!(status.success(), "{status}: {}", process.log());
        }
    }
}

/// Waits until somebody listens.
pub(crate) async fn listens(port: u16, why: impl Fn() -> String) {
    let nobody = || format!("nobody listens on {port}: {}", why());
    within(PATIENCE, nobody, async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
}
