//! What the service costs: the real edge and core against the same hop with nothing in it, as ratios.
//!
//! `cargo bench --bench hop` measures in one run, with all sides in every round and in alternating order, and prints
//! the median of the rounds' ratios. Everything runs in one process, each part on a runtime of its own, so that a call
//! costs what it costs between processes and the table can say whose threads spent it. Clients share the processors
//! with what they measure; a throughput ratio therefore holds the client's own cost on both sides. "Of its own" is the
//! ratio of what the two sides' servers alone spent on a processor.
//!
//! Two bare hops stand beside a check: one sends AWS two ready-signed requests by plain hyper and throws the answers
//! away, one makes the same two calls with the AWS SDK.

#[path = "hop/bare.rs"]
mod bare;
#[path = "hop/client.rs"]
mod client;
#[path = "hop/doubles.rs"]
mod doubles;
#[path = "hop/measure.rs"]
mod measure;
#[path = "hop/process.rs"]
mod process;
#[path = "hop/stack.rs"]
mod stack;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use whitelistmcp::grpc::client::Link;
use whitelistmcp::telemetry::{self, Telemetry};

use bare::{Aws, Bare, Canned};
use client::{Client, Tool};
use doubles::{AwsDouble, Provider};
use measure::Side;
use process::Process;
use stack::{Addresses, Certificates};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// How many clients call at once.
const CLIENTS: usize = 16;
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(400);
/// Latency is measured with one client, in shorter rounds.
const LATENCY_ROUNDS: usize = 5;
const LATENCY_ROUND: Duration = Duration::from_millis(150);
const STARTS: usize = 5;

/// The argument that tells the process that measures from the one that starts it.
const MEASURE: &str = "--measure";
/// The parts that can be asked for by name, as in `cargo bench --bench hop -- check`; all of them unless one is.
const PARTS: [&str; 3] = ["refused", "check", "processes"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // `cargo test` runs benchmarks too, without `--bench`, to see that they start.
    if !has("--bench") && !has(MEASURE) {
        return ExitCode::SUCCESS;
    }
    let outcome = if has(MEASURE) { measure(&arguments) } else { start_measuring(&arguments) };
    if let Err(error) = outcome {
        say(&format!("the benchmark broke off: {error}"));
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]
fn say(text: &str) {
    println!("{text}");
}

/// Starts this program again with the environment that the core needs: a process cannot safely change its own.
fn start_measuring(arguments: &[String]) -> Result<()> {
    let directory = directory();
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let log = directory.join("log.jsonl");
    let mut command = Command::new(std::env::current_exe()?);
    environment(&mut command).arg(MEASURE).args(arguments).stdin(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let status = command.status()?;
    let text = std::fs::read_to_string(&log)?;
    let troubles: Vec<&str> = text.lines().filter(|line| !line.contains("\"level\":\"INFO\"")).collect();
    if let Some(first) = troubles.first() {
        say(&format!("{} lines of the log are warnings or errors, the first: {first}", troubles.len()));
    }
    if status.success() { Ok(()) } else { Err(format!("the measuring process ended with {status}").into()) }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("hop")
}

/// The person's own environment, less what would lead AWS calls, proxies or telemetry elsewhere.
fn environment(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars() {
        let foreign = ["AWS_", "OTEL_", "WHITELISTMCP_"].iter().any(|prefix| name.starts_with(prefix));
        if foreign || name.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "example")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// Everything that is measured, and what it stands on.
struct Scene {
    certificates: Certificates,
    runtimes: Runtimes,
    aws: AwsDouble,
    provider: Provider,
    tokens: Vec<String>,
    real: Addresses,
}

/// A runtime for each part, of the flavour that the binary uses.
struct Runtimes {
    client: Runtime,
    edge: Runtime,
    core: Runtime,
    front: Runtime,
    back: Runtime,
    double: Runtime,
}

impl Runtimes {
    fn new() -> std::io::Result<Self> {
        let runtime = |name| tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build();
        Ok(Self {
            client: runtime("client")?,
            edge: runtime("edge")?,
            core: runtime("core")?,
            front: runtime("front")?,
            back: runtime("back")?,
            double: runtime("double")?,
        })
    }
}

fn measure(arguments: &[String]) -> Result<()> {
    // As the binary has it: without a subscriber spans would cost nothing.
    let _telemetry = Telemetry::start(&telemetry::Config::default(), "bench")?;
    let scene = Scene::set(&directory())?;
    say(&format!("{CLIENTS} clients, {ROUNDS} rounds of {ROUND:?} for each side; the median of the rounds' ratios\n"));
    say("                                                calls/s   ratio  target          of its own   µs/call");
    let parts: Vec<&str> = PARTS.into_iter().filter(|part| arguments.iter().any(|argument| argument == part)).collect();
    for part in if parts.is_empty() { PARTS.to_vec() } else { parts } {
        match part {
            "refused" => scene.refused()?,
            "check" => scene.check()?,
            _ => scene.processes(&directory())?,
        }
    }
    Ok(())
}

impl Scene {
    fn set(directory: &Path) -> Result<Self> {
        let certificates = Certificates::create(directory.join("certs"))?;
        let runtimes = Runtimes::new()?;
        let aws = runtimes.double.block_on(AwsDouble::start())?;
        let provider = runtimes.double.block_on(Provider::start())?;
        let tokens = (0..CLIENTS).map(|number| provider.token(number)).collect::<Result<_>>()?;
        let core = stack::core_config(&certificates, 0, &provider.issuer, aws.address, &directory.join("journal"));
        let real = stack::start(&runtimes.core, &runtimes.edge, &stack::parse(&core)?, |core| {
            stack::parse(&stack::edge_config(&certificates, 0, &provider.issuer, core))
        })?;
        Ok(Self { certificates, runtimes, aws, provider, tokens, real })
    }

    fn refused(&self) -> Result<()> {
        let bare = self.bare(Aws::plain)?;
        let tool = Tool::Refused;
        let mut sides = [
            self.side("refused, through the edge", |token| self.mcp(self.real.edge, "/mcp", tool, token))?,
            self.side("  bare hop", |token| self.mcp(bare.front, "/refused", tool, token))?,
        ];
        self.compare(&mut sides, &[0.8], &["edge", "core", "journal"], &["front", "back"])?;
        let mut sides = [
            self.side("refused, by gRPC", |_| self.grpc(self.real.core, tool))?,
            self.side("  bare gRPC", |_| self.grpc(bare.back, tool))?,
        ];
        self.compare(&mut sides, &[0.9], &["core", "journal"], &["back"])
    }

    fn check(&self) -> Result<()> {
        let plain = self.bare(Aws::plain)?;
        let sdk = self.bare(|aws, _| self.runtimes.back.block_on(Aws::sdk(aws)))?;
        let tool = Tool::Check;
        let mut sides = [
            self.side("check, through the edge", |token| self.mcp(self.real.edge, "/mcp", tool, token))?,
            self.side("  bare hop, AWS by hyper", |token| self.mcp(plain.front, "/check", tool, token))?,
            self.side("  bare hop, AWS by SDK", |token| self.mcp(sdk.front, "/check", tool, token))?,
        ];
        self.compare(&mut sides, &[0.8, 0.8], &["edge", "core", "journal"], &["front", "back"])?;
        let mut sides = [
            self.side("check, by gRPC", |_| self.grpc(self.real.core, tool))?,
            self.side("  bare gRPC, AWS by hyper", |_| self.grpc(plain.back, tool))?,
            self.side("  bare gRPC, AWS by SDK", |_| self.grpc(sdk.back, tool))?,
        ];
        self.compare(&mut sides, &[0.9, 0.9], &["core", "journal"], &["back"])
    }

    /// Measures sides, the real one first, and says what came of it.
    fn compare(&self, sides: &mut [Side], targets: &[f64], real: &[&str], bare: &[&str]) -> Result<()> {
        measure::rounds(&self.runtimes.client, sides, ROUNDS, ROUND, CLIENTS)?;
        let threads: Vec<String> = sides
            .iter()
            .enumerate()
            .map(|(index, side)| {
                let own = if index == 0 { real } else { bare };
                let shown = own
                    .iter()
                    .chain(&["client", "double"])
                    .map(|thread| format!("{thread} {:.0}", side.processor(thread)));
                shown.collect::<Vec<_>>().join(", ")
            })
            .collect();
        let spent = |side: &Side, own: &[&str]| own.iter().map(|thread| side.processor(thread)).sum::<f64>();
        let [first, others @ ..] = &*sides else { return Ok(()) };
        let detail = threads.first().map(String::as_str).unwrap_or_default();
        say(&format!("{:46} {:8.0} {:48} {detail}", first.name, first.rate(), ""));
        for ((other, target), threads) in others.iter().zip(targets).zip(threads.iter().skip(1)) {
            let (ratio, own) = (first.ratio(other), spent(other, bare) / spent(first, real));
            let verdict = if ratio >= *target { "ok" } else { "below" };
            say(&format!(
                "{:46} {:8.0}    {ratio:.2}  ≥ {target:.1} {verdict:5}   {own:18.2}   {threads}",
                other.name,
                other.rate()
            ));
        }
        measure::rounds(&self.runtimes.client, sides, LATENCY_ROUNDS, LATENCY_ROUND, 1)?;
        let latency = |side: &Side| {
            format!("{} {:.0} / {:.0} µs", side.name.trim(), micros(side.latency(0.5)), micros(side.latency(0.99)))
        };
        say(&format!("  one client, p50 / p99: {}\n", sides.iter().map(latency).collect::<Vec<_>>().join("; ")));
        Ok(())
    }

    fn side(&self, name: &'static str, client: impl Fn(&str) -> Result<Client>) -> Result<Side> {
        let clients = self.tokens.iter().map(|token| client(token)).collect::<Result<_>>()?;
        Ok(Side::new(name, clients))
    }

    fn mcp(&self, address: std::net::SocketAddr, path: &'static str, tool: Tool, token: &str) -> Result<Client> {
        self.sound(Client::mcp(&self.certificates, address, path, tool, token), tool)
    }

    fn grpc(&self, address: std::net::SocketAddr, tool: Tool) -> Result<Client> {
        self.sound(async { Client::grpc(&self.certificates, address, tool) }, tool)
    }

    /// Makes a client and sees that its first call brings what it should: a benchmark of failures would look good.
    fn sound(&self, client: impl Future<Output = Result<Client>>, tool: Tool) -> Result<Client> {
        self.runtimes.client.block_on(async {
            let mut client = client.await?;
            let answer = String::from_utf8_lossy(&client.call().await?).into_owned();
            if answer.contains(tool.expected()) {
                Ok(client)
            } else {
                Err(format!("not the right answer: {answer}").into())
            }
        })
    }

    /// A bare hop that answers what the real stack answers now.
    fn bare(&self, aws: impl FnOnce(std::net::SocketAddr, [doubles::Recorded; 2]) -> Result<Aws>) -> Result<Bare> {
        let token = self.tokens.first().ok_or("no token")?;
        let http = |tool| {
            let mut client = self.mcp(self.real.edge, "/mcp", tool, token)?;
            self.runtimes.client.block_on(client.call())
        };
        let grpc = |tool: Tool| {
            self.runtimes.client.block_on(async {
                let link: Link = self.certificates.link("service", self.real.core)?;
                Ok::<_, Error>(link.unary(tool.path(), tonic::Request::new(tool.message())).await)
            })
        };
        let refusal = grpc(Tool::Refused)?.err().ok_or("the call was not refused")?;
        let canned = Canned {
            refused_http: http(Tool::Refused)?,
            // A new status: the one that was received has the answer's headers about it.
            refused_grpc: tonic::Status::with_details(
                refusal.code(),
                refusal.message(),
                refusal.details().to_vec().into(),
            ),
            check_http: http(Tool::Check)?,
            check_grpc: grpc(Tool::Check)??.into_inner(),
        };
        let aws = aws(self.aws.address, self.aws.recorded()?)?;
        bare::start(&self.runtimes.front, &self.runtimes.back, &self.certificates, &Arc::new(canned), aws)
    }

    /// The binary itself: how soon it is ready, and what it holds while it idles and after it has worked.
    fn processes(&self, directory: &Path) -> Result<()> {
        let runtime = &self.runtimes.client;
        let (mut ready, mut idle, mut worked) = ([const { Vec::new() }; 2], [0.0; 2], [0.0; 2]);
        for _ in 0..STARTS {
            let journal = directory.join("process-journal");
            let core = Process::start(runtime, directory, "core", &self.certificates, |port| {
                stack::core_config(&self.certificates, port, &self.provider.issuer, self.aws.address, &journal)
            })?;
            let edge = Process::start(runtime, directory, "edge", &self.certificates, |port| {
                stack::edge_config(&self.certificates, port, &self.provider.issuer, core.address)
            })?;
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(200)).await });
            idle = [core.resident()?, edge.resident()?];
            let mut side = [self.side("", |token| self.mcp(edge.address, "/mcp", Tool::Check, token))?];
            measure::rounds(runtime, &mut side, 1, Duration::from_millis(300), CLIENTS)?;
            worked = [core.resident()?, edge.resident()?];
            for (all, process) in ready.iter_mut().zip([&core, &edge]) {
                all.push(process.ready);
            }
        }
        for (((name, mut ready), idle), worked) in ["core", "edge"].into_iter().zip(ready).zip(idle).zip(worked) {
            ready.sort_unstable();
            let ready = micros(ready.get(STARTS / 2).copied().unwrap_or_default()) / 1000.0;
            let verdict = |ok| if ok { "ok" } else { "above" };
            say(&format!(
                "{name}: ready in {ready:.0} ms, ≤ 200 {}; idle {idle:.1} MiB, < 40 {}; after a burst of checks {worked:.1} MiB",
                verdict(ready <= 200.0),
                verdict(idle < 40.0)
            ));
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
