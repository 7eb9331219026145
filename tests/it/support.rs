//! The real stack on ports that the system chooses, with certificates and an issuer made for the run.

pub(crate) mod aws_double;
pub(crate) mod backend;
pub(crate) mod balancer;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod desktop;
pub(crate) mod emulator;
pub(crate) mod issuer;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod runtime_api;
pub(crate) mod temporary;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tonic::transport::Channel;
use whitelistmcp::app;
use whitelistmcp::config::Config;
use whitelistmcp::http_client::HttpClient;
use whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient;
use whitelistmcp::shutdown::Shutdown;

use aws_double::AwsDouble;
use certificates::Authority;
use issuer::Issuer;
use temporary::Directory;

pub(crate) const EDGE: &str = "spiffe://test.example/edge";
pub(crate) const CI_RUNNER: &str = "spiffe://test.example/ci-runner";
pub(crate) const READER: &str = "spiffe://test.example/reader";
pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const GROUP: &str = "sg-0aaaaaaaaaaaaaaaa";
pub(crate) const OTHER_GROUP: &str = "sg-0bbbbbbbbbbbbbbbb";
pub(crate) const AUDIENCE: &str = "https://localhost/mcp";

/// Where AWS is for a stack, and how to get in.
#[derive(Clone, Debug)]
pub(crate) struct AwsAccess {
    pub(crate) endpoint: String,
    pub(crate) account: String,
    pub(crate) role_arn: String,
    pub(crate) external_id: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    pub(crate) groups: Vec<(String, String)>,
}

/// A running stack.
pub(crate) struct Stack {
    pub(crate) directory: Directory,
    pub(crate) authority: Authority,
    pub(crate) issuer: Issuer,
    pub(crate) edge: SocketAddr,
    pub(crate) core: SocketAddr,
    shutdowns: Vec<Shutdown>,
    pub(crate) http: HttpClient,
}

/// What is different from the ordinary stack.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) without_journal: bool,
    pub(crate) policy: Option<&'static str>,
    /// More of `[policy]`.
    pub(crate) policy_extra: &'static str,
    pub(crate) issuer_url: Option<String>,
    pub(crate) audience: Option<String>,
    /// Keys of `[edge]`; `{at}` is the stack's directory.
    pub(crate) edge_extra: &'static str,
    /// What stands behind the issuer's own keys, at the edge and at the core alike.
    pub(crate) oidc_extra: String,
    /// What the edge alone knows of issuers and keys, in place of `oidc_extra`.
    pub(crate) edge_oidc_extra: Option<String>,
    /// Keys of `[core]`; `{at}` is the stack's directory.
    pub(crate) core_keys: &'static str,
    /// `[leases]`; the reconciler sleeps unless a test wakes it.
    pub(crate) leases: Option<&'static str>,
    /// More of the core's file; `{at}` is the stack's directory.
    pub(crate) core_extra: String,
    pub(crate) public_url: Option<&'static str>,
    /// `[limits]`; so high that no test meets them unless it is about them.
    pub(crate) limits: Option<&'static str>,
    /// Where Redis is, for core and edge.
    pub(crate) redis: Option<String>,
    /// `[shutdown]`, of core and edge.
    pub(crate) shutdown: &'static str,
    /// `[health]`; no self-test unless a test is about it.
    pub(crate) health: &'static str,
    /// What the file `login-secret` holds.
    pub(crate) login_secret: Option<&'static str>,
}

/// What `[leases]` says where a test is not about it.
const LEASES: &str = "settle = \"30ms\"\nclose = false\ndiscover = false\n";

/// What `[limits]` says where a test is not about it.
const LIMITS: &str = "reads_per_minute = 1000000
changes_per_minute = 1000000
others_per_minute = 1000000
changes_per_hour = 100000
changes_per_day = 100000
open_leases = 100000
in_flight = 10000
operations = 10000
address.requests_per_minute = 1000000
address.bad_tokens_per_minute = 1000000
";

/// An answer of the edge.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What a stack stands on: certificates, an issuer, a directory for everything.
pub(crate) struct Ground {
    pub(crate) directory: Directory,
    pub(crate) authority: Authority,
    pub(crate) issuer: Issuer,
}

impl Ground {
    pub(crate) async fn new(options: &Options) -> Self {
        let directory = Directory::new();
        let authority = Authority::new(directory.path());
        for (name, names) in [
            ("core", &["localhost"][..]),
            ("edge", &[EDGE, "localhost"]),
            ("ci-runner", &[CI_RUNNER]),
            ("reader", &[READER]),
            ("stranger", &["spiffe://test.example/stranger"]),
        ] {
            authority.issue(name, names);
        }
        directory.write("login-secret", options.login_secret.unwrap_or("approval-page-secret\n"));
        directory.write("sealing.key", &"0123456789abcdef".repeat(4));
        authority.revoke("ca.crl", &[]);
        Self { directory, authority, issuer: Issuer::start().await }
    }
}

/// What is said of issuers.
fn issuers(options: &Options, issuer: &Issuer) -> String {
    let issuer_url = options.issuer_url.clone().unwrap_or_else(|| issuer.url.clone());
    let audience = options.audience.clone().unwrap_or_else(|| AUDIENCE.to_owned());
    format!("[tls]\nreload = \"100ms\"\n[oidc.company]\nissuer = \"{issuer_url}\"\naudience = \"{audience}\"\n")
}

/// A core's configuration; port 0 lets the system choose.
pub(crate) fn core_file(
    directory: &Directory,
    aws: &AwsAccess,
    options: &Options,
    issuer: &Issuer,
    port: u16,
) -> String {
    let config = core_config(directory, aws, options) + &issuers(options, issuer) + &options.oidc_extra;
    config.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\""), 1)
}

/// The configuration of an edge in front of it.
pub(crate) fn edge_file(directory: &Directory, options: &Options, issuer: &Issuer, port: u16, core: u16) -> String {
    let at = directory.path().display();
    let shared = issuers(options, issuer) + options.edge_oidc_extra.as_ref().unwrap_or(&options.oidc_extra);
    let public_url = options.public_url.unwrap_or(AUDIENCE);
    format!(
        r#"{shared}{limits}
[edge]
listen = "127.0.0.1:{port}"
public_url = "{public_url}"
{extra}
[edge.tls]
certificate = "{at}/edge.pem"
key = "{at}/edge.key"
[edge.backend]
address = "localhost:{core}"
certificate = "{at}/edge.pem"
key = "{at}/edge.key"
ca = "{at}/ca.pem"
"#,
        limits = limits(options),
        extra = options.edge_extra.replace("{at}", &at.to_string()),
    )
}

impl Stack {
    /// The ordinary stack over a double.
    pub(crate) async fn start(aws: &AwsDouble) -> Self {
        Self::with(&aws.access(), Options::default()).await
    }

    pub(crate) async fn with(aws: &AwsAccess, options: Options) -> Self {
        let Ground { directory, authority, issuer } = Ground::new(&options).await;
        let core_shutdown = Shutdown::new();
        let config = core_file(&directory, aws, &options, &issuer, 0);
        let bound = Box::pin(app::core(&parse(&config), &core_shutdown)).await.expect("the core starts");
        let core = bound.core_address().expect("the core listens");
        run(bound, &core_shutdown);
        let edge_shutdown = Shutdown::new();
        let config = edge_file(&directory, &options, &issuer, 0, core.port());
        let bound = Box::pin(app::edge(&parse(&config), &edge_shutdown)).await.expect("the edge starts");
        let edge = bound.edge_address().expect("the edge listens");
        run(bound, &edge_shutdown);

        let http = HttpClient::new(
            whitelistmcp::tls::public_client(Some(&directory.path().join("ca.pem"))).expect("the CA loads"),
        );
        Self { directory, authority, issuer, edge, core, shutdowns: vec![edge_shutdown, core_shutdown], http }
    }

    /// A stack that a test has put together itself; `addresses` are the edge's and the core's.
    pub(crate) fn assembled(
        directory: Directory,
        authority: Authority,
        issuer: Issuer,
        (edge, core): (SocketAddr, SocketAddr),
        shutdowns: Vec<Shutdown>,
        http: HttpClient,
    ) -> Self {
        Self { directory, authority, issuer, edge, core, shutdowns, http }
    }

    /// A good token for alice with both scopes.
    pub(crate) fn token(&self) -> String {
        self.issuer.token("alice", "whitelist:read whitelist:write")
    }

    /// Sends bytes to the MCP endpoint.
    pub(crate) async fn post(&self, token: Option<&str>, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.send(http::Method::POST, "/mcp", token, headers, body.into()).await
    }

    pub(crate) async fn send(
        &self,
        method: http::Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let uri = format!("https://localhost:{}{path}", self.edge.port());
        send(&self.http, method, uri, token, headers, body).await.expect("an answer")
    }

    /// Sends a JSON-RPC request of a legacy client.
    pub(crate) async fn rpc(&self, token: &str, method: &str, params: Value) -> Answer {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        self.post(Some(token), &[], body.to_string()).await
    }

    /// Calls a tool as alice; the tool's result.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.call_as(&self.token(), tool, arguments).await
    }

    pub(crate) async fn call_as(&self, token: &str, tool: &str, arguments: Value) -> Value {
        let answer = self.rpc(token, "tools/call", json!({"name": tool, "arguments": arguments})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["result"].clone()
    }

    /// Calls a tool that must succeed; its structured content.
    pub(crate) async fn done(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], false, "{result:#}");
        result["structuredContent"].clone()
    }

    /// Calls a tool that must be refused; the error for programs.
    pub(crate) async fn refused(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        error_of(&result)
    }

    /// A gRPC client with that certificate.
    pub(crate) fn grpc(&self, certificate: &str) -> WhitelistServiceClient<Channel> {
        WhitelistServiceClient::new(self.channel(certificate))
    }

    pub(crate) fn channel(&self, certificate: &str) -> Channel {
        tls::channel(self.directory.path(), certificate, self.core.port())
    }

    /// The journal's lines.
    pub(crate) fn journal(&self) -> Vec<Value> {
        journal(&self.directory.path().join("journal"))
    }

    /// The journal's lines once `enough` holds of them: ends are written behind the answer.
    pub(crate) async fn journal_when(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let missing = || format!("the journal: {:#?}", self.journal());
        within(PATIENCE, missing, async || Some(self.journal()).filter(|entries| enough(entries))).await
    }

    /// Ends the core alone.
    pub(crate) async fn stop_core(&self) {
        let core = self.shutdowns.last().expect("a core");
        core.begin();
        core.finished().await;
    }

    /// Ends the stack in order; everything must finish.
    pub(crate) async fn stop(&self) {
        for shutdown in &self.shutdowns {
            shutdown.begin();
        }
        for shutdown in &self.shutdowns {
            assert!(shutdown.finished().await, "something did not end in time");
        }
    }
}

/// Sends a request to an edge; an error if no whole answer came.
pub(crate) async fn send(
    client: &HttpClient,
    method: http::Method,
    uri: String,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<Answer, whitelistmcp::http_client::HttpError> {
    let mut request = http::Request::builder().method(method).uri(uri);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = client.send(request.body(body).expect("a request")).await?;
    let (parts, body) = response.into_parts();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

impl Drop for Stack {
    fn drop(&mut self) {
        for shutdown in &self.shutdowns {
            shutdown.begin();
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The machine-readable error of a tool result.
pub(crate) fn error_of(result: &Value) -> Value {
    assert_eq!(result["isError"], true, "{result:#}");
    let text = result["content"][1]["text"].as_str().expect("a second block for programs");
    serde_json::from_str::<Value>(text).expect("JSON")["error"].clone()
}

/// The one file of a journal that was written by one process.
pub(crate) fn journal_file(directory: &Path) -> PathBuf {
    let files = std::fs::read_dir(directory).expect("a journal").filter_map(|file| Some(file.ok()?.path()));
    files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "jsonl")).expect("a file")
}

pub(crate) fn journal(directory: &Path) -> Vec<Value> {
    journal_lines(directory).iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The lines of every chain of a directory, in order, whether or not their files are compressed by now.
pub(crate) fn journal_lines(directory: &Path) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(directory) else { return Vec::new() };
    // A file's name without the ending that it gets when it is compressed.
    let plain =
        |path: PathBuf| if path.extension().is_some_and(|end| end == "gz") { path.with_extension("") } else { path };
    let mut files: Vec<PathBuf> = files.filter_map(|file| Some(plain(file.ok()?.path()))).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "jsonl"));
    files.sort();
    files.dedup();
    files.iter().flat_map(|file| lines_of(file)).collect()
}

fn lines_of(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).or_else(|_| {
        let mut text = String::new();
        let compressed = std::fs::File::open(file.with_extension("jsonl.gz"))?;
        std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(compressed), &mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    text.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// How long a test waits for what must come. It is no claim about speed: machines that run tests are busy.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// And for what would come by a slower road as well, where the quick one is meant.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// The value once there is one; what should be true and is not fails the test.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, || what.to_owned(), ask).await
}

/// The value once there is one, which must be soon.
pub(crate) async fn soon<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(SOON, || what.to_owned(), ask).await
}

/// The value once there is one; how things are when there is none within that time.
pub(crate) async fn within<T>(
    most: std::time::Duration,
    how: impl Fn() -> String,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = std::time::Instant::now();
    while begun.elapsed() < most {
        if let Some(value) = ask().await {
            return value;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{}: never within {most:?}", how());
}

pub(crate) fn parse(text: &str) -> Config {
    Config::parse(Path::new("test.toml"), text, []).expect("a sound configuration")
}

fn run(bound: app::Bound, shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    tokio::spawn(async move { bound.run(&shutdown).await });
}

/// The service's own credentials, as the SDK reads them.
pub(crate) fn credentials_file(aws: &AwsAccess) -> String {
    format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", aws.access_key_id, aws.secret_access_key)
}

/// A core's configuration without what it serves by.
fn from_aws_on(whole: &str) -> &str {
    whole.find("[aws]").and_then(|start| whole.get(start..)).expect("a section")
}

/// The configuration of a reconciler alone: AWS, the groups, a journal.
pub(crate) fn reconciler_config(directory: &Directory, aws: &AwsAccess) -> String {
    let whole = core_config(directory, aws, &Options::default());
    from_aws_on(&whole).to_owned()
}

/// The configuration of one core of several, each with a port and a journal of its own, for services alone.
pub(crate) fn replica_config(
    directory: &Directory,
    aws: &AwsAccess,
    port: u16,
    journal: &str,
    services: &[&str],
) -> String {
    let at = directory.path().display();
    let leases = "settle = \"400ms\"\ninterval = \"2s\"\ndiscover = false\n";
    let options = Options { leases: Some(leases), without_journal: true, ..Options::default() };
    let whole = core_config(directory, aws, &options);
    let rest = from_aws_on(&whole);
    let mut config = format!(
        "[core]\nlisten = \"127.0.0.1:{port}\"\nclient_ca = \"{at}/ca.pem\"\n[core.tls]\ncertificate = \"{at}/core.pem\"\nkey = \"{at}/core.key\"\n"
    );
    for service in services {
        config.push_str(&format!(
            "[[core.peers]]\nsan = \"spiffe://test.example/{service}\"\nrole = \"service\"\nscopes = [\"whitelist:write\"]\n"
        ));
    }
    config.push_str(rest);
    config.push_str(&format!("[audit]\ndirectory = \"{at}/{journal}\"\nvolume = \"persistent\"\n"));
    config
}

fn limits(options: &Options) -> String {
    let ending =
        if options.shutdown.is_empty() { String::new() } else { format!("[shutdown]\n{}\n", options.shutdown) };
    let redis = options.redis.as_ref().map(|url| format!("[redis]\nurl = \"{url}\"\n")).unwrap_or_default();
    format!("{ending}[limits]\n{}\n{redis}", options.limits.unwrap_or(LIMITS))
}

fn core_config(directory: &Directory, aws: &AwsAccess, options: &Options) -> String {
    let at = directory.path().display();
    directory.write("aws-credentials", &credentials_file(aws));
    let mut config = format!(
        r#"
[core]
listen = "127.0.0.1:0"
client_ca = "{at}/ca.pem"
{keys}
[core.tls]
certificate = "{at}/core.pem"
key = "{at}/core.key"
[[core.peers]]
san = "{EDGE}"
role = "edge"
[[core.peers]]
san = "{CI_RUNNER}"
role = "service"
scopes = ["whitelist:write"]
[[core.peers]]
san = "{READER}"
role = "service"
scopes = ["whitelist:read"]
[aws]
endpoint = "{endpoint}"
credentials_file = "{at}/aws-credentials"
[[aws.accounts]]
id = "{account}"
role_arn = "{role}"
external_id = "{external_id}"
regions = ["{REGION}"]
[targets]
account = "{account}"
region = "{REGION}"
"#,
        keys = options.core_keys.replace("{at}", &at.to_string()),
        endpoint = aws.endpoint,
        account = aws.account,
        role = aws.role_arn,
        external_id = aws.external_id,
    );
    for (name, id) in &aws.groups {
        config.push_str(&format!("[[targets.groups]]\nname = \"{name}\"\nid = \"{id}\"\n"));
    }
    config.push_str(&options.core_extra.replace("{at}", &at.to_string()));
    let health = if options.health.is_empty() { "self_test = \"off\"" } else { options.health };
    let leases = options.leases.unwrap_or(LEASES);
    let arrives = if leases.contains("on_its_way") { "" } else { "on_its_way = \"300ms\"\n" };
    config.push_str(&format!("[health]\n{health}\n[leases]\n{arrives}{leases}"));
    config.push_str(&limits(options));
    if !options.without_journal {
        config.push_str(&format!("[audit]\ndirectory = \"{at}/journal\"\nvolume = \"persistent\"\n"));
    }
    if let Some(policy) = options.policy {
        directory.write("policy.cedar", policy);
        config.push_str(&format!("[policy]\nfile = \"{at}/policy.cedar\"\n{}\n", options.policy_extra));
    }
    config
}
