//! moto and ministack, started once for the run and ended with it: each is on a leash whose other end this process holds.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{AwsAccess, PATIENCE, REGION};

/// The children of the run. They end when this process does, however it does.
static LEASHES: Mutex<Vec<Child>> = Mutex::new(Vec::new());

pub(crate) fn checkout() -> PathBuf {
    // Asked for at run time: several checkouts may share one directory of build output.
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

pub(crate) fn demo(path: &str) -> PathBuf {
    checkout().join("examples/demo").join(path)
}

/// A tool that `make test` has installed. A missing one fails the test; it is never skipped.
pub(crate) fn tool(path: &str) -> PathBuf {
    let tools = std::env::var_os("TOOLS_DIR").map_or_else(|| checkout().join(".tools"), PathBuf::from);
    let tool = tools.join(path);
    assert!(tool.exists(), "{} is missing; `make test` installs it", tool.display());
    tool
}

/// ministack, which enforces trust, role and session policies.
pub(crate) fn ministack() -> &'static AwsAccess {
    static RUNNING: OnceLock<AwsAccess> = OnceLock::new();
    RUNNING.get_or_init(|| {
        let port = free_port();
        let settings = [
            ("AUTH", "true"),
            ("BIND_HOST", "127.0.0.1"),
            ("LOG_LEVEL", "WARNING"),
            ("IOT_MTLS_ENABLED", "0"),
            ("SFTP_ENABLED", "0"),
        ];
        let mut command = leashed(&[tool("ministack/bin/ministack")]);
        command.envs(settings).env("GATEWAY_PORT", port.to_string()).stdout(Stdio::null());
        hold(command.spawn().expect("ministack starts"));
        bootstrap(&format!("http://127.0.0.1:{port}"))
    })
}

/// moto, which keeps EC2's own rules most faithfully.
pub(crate) fn moto() -> &'static AwsAccess {
    static RUNNING: OnceLock<AwsAccess> = OnceLock::new();
    RUNNING.get_or_init(|| {
        let port = free_port().to_string();
        let mut command = leashed(&[tool("moto/bin/moto_server")]);
        command.args(["-H", "127.0.0.1", "-p", &port]).stdout(Stdio::null());
        hold(command.spawn().expect("moto starts"));
        bootstrap(&format!("http://127.0.0.1:{port}"))
    })
}

/// A moto of one test's own, that it may kill.
pub(crate) struct Moto {
    leash: Child,
    pub(crate) access: AwsAccess,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let port = free_port().to_string();
        let mut command = Command::new(tool("moto/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port]).stdout(Stdio::null()).stderr(Stdio::null());
        let leash = command.spawn().expect("moto starts");
        Self { leash, access: bootstrap(&format!("http://127.0.0.1:{port}")) }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.leash.kill().expect("killed");
        self.leash.wait().expect("gone");
    }
}

/// A real OpenID provider for that audience; its issuer.
pub(crate) fn provider(audience: &str) -> String {
    let settings = [
        ("PORT", "0"),
        ("RESOURCE", audience),
        ("OTHER_RESOURCE", "https://other.example/mcp"),
        ("PAGE", "https://localhost/approvals/callback"),
        ("MEMBERSHIPS", r#"{"bob": ["approvers"], "dora": ["approvers"]}"#),
    ];
    let provider = Provider::start(&[tool("node/node_modules/.bin/node"), demo("oidc/provider.mjs")], &settings);
    let issuer = provider.issuer();
    static RUNNING: Mutex<Vec<Provider>> = Mutex::new(Vec::new());
    RUNNING.lock().expect("not poisoned").push(provider);
    issuer
}

/// All that a login at a provider of ours brings.
pub(crate) fn login(issuer: &str, user: &str, resource: &str, scope: &str) -> Value {
    let mut command = Command::new("python3");
    command.arg(demo("client/login.py")).arg("--json");
    command.args(["--issuer", issuer, "--resource", resource, "--user", user, "--scope", scope]);
    serde_json::from_str(&output(&mut command)).expect("JSON")
}

/// The access token of a person who has logged in.
pub(crate) fn person_token(issuer: &str, user: &str) -> String {
    let tokens = login(issuer, user, super::AUDIENCE, "openid whitelist:write");
    tokens["access_token"].as_str().unwrap_or_else(|| panic!("{user}: {tokens}")).to_owned()
}

/// A provider in a process of its own, which ends when this is dropped or ended.
pub(crate) struct Provider {
    leash: Child,
    pub(crate) said: Value,
}

impl Provider {
    /// Starts it; the one line that it prints when it is ready is JSON.
    pub(crate) fn start(words: &[PathBuf], settings: &[(&str, &str)]) -> Self {
        let mut command = leashed(words);
        let mut leash = command.envs(settings.iter().copied()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(leash.stdout.take().expect("its output")).read_line(&mut line).expect("its first line");
        let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { leash, said }
    }

    pub(crate) fn issuer(&self) -> String {
        self.said["issuer"].as_str().expect("an issuer").to_owned()
    }

    /// Ends it, and returns when its port is free again.
    pub(crate) fn end(mut self) {
        drop(self.leash.stdin.take());
        self.leash.wait().expect("the leash ends");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // The other end of its leash closes, and it is not waited for.
        drop(self.leash.stdin.take());
    }
}

/// Runs a tool to its end; what it said.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("a command");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub(crate) fn leashed(words: &[PathBuf]) -> Command {
    let mut command = Command::new("python3");
    command.arg(demo("leash.py")).args(words).stdin(Stdio::piped()).stderr(Stdio::null());
    command
}

fn hold(child: Child) {
    LEASHES.lock().expect("not poisoned").push(child);
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn bootstrap(endpoint: &str) -> AwsAccess {
    let address = endpoint.trim_start_matches("http://");
    let begun = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < PATIENCE, "nobody listens on {address}");
        pause();
    }
    let text = output(
        Command::new(tool("python/bin/python")).arg(demo("aws/bootstrap.py")).args([endpoint, "--region", REGION]),
    );
    let said: Value = serde_json::from_str(&text).expect("one JSON object");
    let text = |key: &str| said[key].as_str().expect("a string").to_owned();
    let groups = said["groups"]
        .as_object()
        .expect("groups")
        .iter()
        .map(|(name, id)| (name.clone(), id.as_str().expect("an id").to_owned()))
        .collect();
    AwsAccess {
        endpoint: endpoint.to_owned(),
        account: text("account"),
        role_arn: text("role_arn"),
        external_id: text("external_id"),
        access_key_id: text("access_key_id"),
        secret_access_key: text("secret_access_key"),
        groups,
    }
}

#[expect(clippy::disallowed_methods, reason = "waits for another process, before any runtime needs this thread")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// A group of one's own in an emulator, so that tests do not meet.
pub(crate) fn own_group(aws: &AwsAccess, name: &str) -> AwsAccess {
    let script = "import sys,boto3,botocore.config as c\n\
        ec2=boto3.client('ec2',endpoint_url=sys.argv[1],region_name=sys.argv[2],aws_access_key_id='test',aws_secret_access_key='test',config=c.Config(proxies={}))\n\
        vpc=ec2.describe_vpcs()['Vpcs'][-1]['VpcId']\n\
        print(ec2.create_security_group(GroupName=sys.argv[3],Description='test',VpcId=vpc)['GroupId'])";
    let unique = format!("{name}-{}", uuid::Uuid::new_v4());
    let id = output(Command::new(tool("python/bin/python")).args(["-c", script, &aws.endpoint, REGION, &unique]));
    AwsAccess { groups: vec![("own".to_owned(), id.trim().to_owned())], ..aws.clone() }
}
