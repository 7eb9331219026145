//! `check`: everything that can be said of a configuration without serving, as a table.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;
use whitelistmcp::annotations::Annotations;
use whitelistmcp::app;
use whitelistmcp::audit;
use whitelistmcp::aws::{Accounts, Aws, checked_endpoint, refuse_endpoint_variables};
use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::grpc::client::Link;
use whitelistmcp::identity::oidc;
use whitelistmcp::pb::DESCRIPTOR_SET;
use whitelistmcp::policy::Policy;
use whitelistmcp::tls::{self, Choice, ClientFiles, Material as _, ServerFiles, validity};

use crate::volume::{self, Standing};
use crate::{chain, fail, say};

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: PathBuf,
    /// Also assume every account's role, with a session that may do nothing, and ask STS who that is.
    #[arg(long)]
    aws: bool,
}

/// One line of the table.
pub(crate) struct Row {
    part: &'static str,
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Note,
    Wrong,
}

/// How wide the parts' names are where the lines are printed as they are known.
const WIDTH: usize = 13;

/// The table as it grows.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    at_once: bool,
}

impl Row {
    fn print(&self, width: usize) {
        let verdict = match self.verdict {
            Verdict::Good => "ok   ",
            Verdict::Note => "note ",
            Verdict::Wrong => "WRONG",
        };
        say(&format!("{verdict}  {:width$}  {}", self.part, self.text));
    }
}

impl Table {
    /// A table that prints each line as it is known.
    pub(crate) fn at_once() -> Self {
        Self { rows: Vec::new(), at_once: true }
    }

    fn push(&mut self, part: &'static str, verdict: Verdict, text: String) {
        let row = Row { part, verdict, text };
        if self.at_once {
            row.print(WIDTH);
        }
        self.rows.push(row);
    }

    fn add<E: Error + 'static>(&mut self, part: &'static str, good: impl Into<String>, result: Result<(), E>) {
        let (verdict, text) = match result {
            Ok(()) => (Verdict::Good, good.into()),
            Err(error) => (Verdict::Wrong, chain(&error)),
        };
        self.push(part, verdict, text);
    }

    pub(crate) fn good(&mut self, part: &'static str, text: impl Into<String>) {
        self.push(part, Verdict::Good, text.into());
    }

    pub(crate) fn note(&mut self, part: &'static str, text: impl Into<String>) {
        self.push(part, Verdict::Note, text.into());
    }

    pub(crate) fn wrong(&mut self, part: &'static str, text: impl Into<String>) {
        self.push(part, Verdict::Wrong, text.into());
    }

    /// Prints the lines that are not printed yet, and `sound` or how many are wrong.
    pub(crate) fn print(&self, sound: &str) -> ExitCode {
        let width = self.rows.iter().map(|row| row.part.len()).max().unwrap_or_default();
        for row in self.rows.iter().filter(|_| !self.at_once) {
            row.print(width);
        }
        let wrong = self.rows.iter().filter(|row| row.verdict == Verdict::Wrong).count();
        say(&if wrong == 0 { sound.to_owned() } else { format!("{wrong} to mend.") });
        if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let config = match Config::load(&arguments.config, crate::environment()) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let mut table = Table::default();
    edge(&config, &mut table);
    core(&config, &mut table);
    oidc(&config, &mut table);
    api_keys(&config, &mut table);
    aws(&config, &mut table);
    policy(&config, &mut table);
    approvals(&config, &mut table);
    journal(&config, &mut table);
    limits(&config, &mut table);
    probes(&config, &mut table);
    if config.edge.is_none() && config.core.is_none() && !arguments.aws {
        table.wrong("edge, core", "neither is configured: nothing can run from this file");
    }
    if arguments.aws {
        self_test(&config, &mut table);
    }

    table.print("The configuration is sound.")
}

fn approvals(config: &Config, table: &mut Table) {
    let login = config.edge.as_ref().and_then(|edge| edge.login.as_ref());
    match app::approvals(config) {
        Err(error) => return table.wrong("approvals", chain(&error)),
        Ok(None) if config.core.is_some() && app::wants_approvals(config) => {
            table.wrong(
                "approvals",
                "policies want somebody's word (`@approval`), and without `[approvals]` nobody is asked",
            );
        }
        Ok(None) => {}
        Ok(Some(approvals)) => match (approvals.login_client(), login) {
            (None, _) => table.note("approvals", "without `login_client` only services decide, by their certificates"),
            (Some(client), Some(login)) if login.client_id != client => table.wrong(
                "approvals",
                format!(
                    "`login_client` is `{client}` and `[edge.login] client_id` is `{}`: they must be the same",
                    login.client_id
                ),
            ),
            (Some(client), _) => {
                table.good("approvals", format!("people decide by logins through the client {client}"))
            }
        },
    }
    match app::has_approval_page(config) {
        Err(error) => table.wrong("edge.login", chain(&error)),
        Ok(true) => table.good("edge.login", "people have a page to decide on"),
        Ok(false) => {}
    }
}

fn edge(config: &Config, table: &mut Table) {
    let Some(edge) = &config.edge else {
        return table.note("edge", "not configured: `edge` and `serve` cannot run from this file");
    };
    let listens =
        format!("{} as {}{}", edge.public_url, edge.listen, if edge.is_plain() { ", plain HTTP" } else { "" });
    table.add("edge", listens, edge.check());
    if let Some(identity) = &edge.tls {
        let loaded = edge.files().map(|files| files.load(Clock::system().now())).transpose();
        let choice = loaded.as_ref().ok().and_then(Option::as_ref).map(ServerFiles::choice).cloned();
        table.add("edge.tls", identity.certificate.display().to_string(), loaded.map(drop));
        set_aside(table, "edge.tls", choice.as_ref());
        window(table, "edge.tls", &identity.certificate);
    }
    match &edge.backend {
        None => table.note("edge.backend", "not configured: `edge` cannot run from this file; `serve` needs none"),
        Some(backend) => {
            table.add(
                "edge.backend",
                backend.address.clone(),
                within_runtime(|| Link::remote(backend, Clock::system()).map(drop)),
            );
            let loaded = backend.files().load(Clock::system().now());
            set_aside(table, "edge.backend", loaded.as_ref().ok().map(ClientFiles::choice));
            window(table, "edge.backend", &backend.identity.certificate);
        }
    }
    if config.oidc.is_empty() && config.api_keys.is_none() {
        table.wrong(
            "oidc",
            "the edge needs an issuer, such as `[oidc.company]`: without an issuer nobody's token can be checked",
        );
    }
}

fn core(config: &Config, table: &mut Table) {
    let Some(core) = &config.core else {
        return table
            .note("core", "not configured: `core` cannot run from this file, and `serve` takes no gRPC callers");
    };
    let loaded = core.files().load(Clock::system().now());
    let choice = loaded.as_ref().ok().map(ServerFiles::choice).cloned();
    table.add("core", core.listen.to_string(), loaded.map(drop));
    set_aside(table, "core.tls", choice.as_ref());
    window(table, "core.tls", &core.tls.certificate);
    table.add("core.peers", format!("{} known", core.peers.len()), app::peers(config).map(drop));
    if core.peers.is_empty() {
        table.note("core.peers", "none: every caller will be refused");
    }
}

fn limits(config: &Config, table: &mut Table) {
    let limits = &config.limits;
    let text = format!(
        "{} changes an hour and {} a day, {} open leases, for each principal",
        limits.changes_per_hour, limits.changes_per_day, limits.open_leases
    );
    table.add("limits", text, limits.check());
    match &config.redis {
        Some(redis) => table.add("redis", format!("{:?}", redis.url), app::shared(config).map(drop)),
        None => table.note("redis", "not configured: each replica counts by itself"),
    }
    if let Some(cache) = &config.aws.cache {
        let shared = app::shared(config).ok().flatten();
        table.add(
            "aws.cache",
            format!("kept in {:?}", cache.kept_in),
            app::cache(config, shared, &Clock::system()).map(drop),
        );
    }
}

/// Where a probe asks, and whether that can be.
fn probes(config: &Config, table: &mut Table) {
    let taken = [
        config.edge.as_ref().map(|edge| ("[edge] listen", edge.listen)),
        config.edge.as_ref().and_then(|edge| Some(("[edge] websocket_listen", edge.websocket_listen?))),
        config.core.as_ref().map(|core| ("[core] listen", core.listen)),
    ];
    match config.health.listen {
        Some(listen) => {
            let meets = |other: SocketAddr| {
                let all = other.ip().is_unspecified() || listen.ip().is_unspecified();
                listen.port() != 0 && other.port() == listen.port() && (all || other.ip() == listen.ip())
            };
            match taken.into_iter().flatten().find(|(_, address)| meets(*address)) {
                Some((key, _)) => table.wrong("health", format!("`listen` is {listen}, and `{key}` has that port")),
                None => table.good("health", format!("probes alone are answered on {listen}, over plain HTTP")),
            }
        }
        None if config.edge.is_none() && config.core.is_some() => table.note(
            "health",
            "no `listen`: `whitelistmcp health` and HTTP probes cannot ask this core; gRPC probes with a certificate can",
        ),
        None => {}
    }
}

fn oidc(config: &Config, table: &mut Table) {
    if config.oidc.is_empty() {
        return;
    }
    table.add("oidc", format!("{} issuers", config.oidc.len()), oidc::check(&config.oidc));
    for (name, issuer) in &config.oidc {
        let trust = issuer.ca.as_ref().map_or("the system's CAs".to_owned(), |ca| ca.display().to_string());
        let found = tls::public_client(issuer.ca.as_deref()).map(drop);
        table.add("oidc", format!("{name}: {} for {}, by {trust}", issuer.issuer, issuer.audience), found);
        if let Some(edge) = &config.edge
            && edge.public_url.as_str().trim_end_matches('/') != issuer.audience.trim_end_matches('/')
        {
            table.note(
                "oidc",
                format!(
                    "{name}: clients ask for a token for {}, and only tokens for {} are accepted",
                    edge.public_url, issuer.audience
                ),
            );
        }
    }
}

fn api_keys(config: &Config, table: &mut Table) {
    let Some(section) = &config.api_keys else { return };
    match app::api_keys(config) {
        Ok(keys) => {
            let known = keys.map_or(0, |keys| keys.count());
            table.good("api_keys", format!("{}: {known} keys", section.file.display()));
        }
        Err(error) => table.wrong("api_keys", chain(&error)),
    }
}

fn aws(config: &Config, table: &mut Table) {
    if config.edge.is_some() && config.core.is_none() && config.aws.accounts.is_empty() {
        return table.note("aws", "not configured: this file is for an edge alone");
    }
    table.add("aws", format!("{} accounts", config.aws.accounts.len()), Accounts::new(&config.aws).map(drop));
    if let Err(error) = refuse_endpoint_variables() {
        table.wrong("aws.endpoint", chain(&error));
    }
    if let Some(endpoint) = &config.aws.endpoint {
        table.add("aws.endpoint", format!("{endpoint}, not AWS's own"), checked_endpoint(endpoint).map(drop));
    }
    if let Some(federation) = &config.aws.federation {
        let text = format!("{} by {}, for {}", federation.role_arn, federation.from, federation.audience);
        table.add("aws.federation", text, federation.check().map(drop));
    }
    table.add("targets", format!("{} named groups", config.targets.groups.len()), app::targets(config).map(drop));
    if config.targets.groups.is_empty() {
        table.note("targets", "no group has a name: under the shipped policies none can be reached");
    }
    table.add("proto", "every tool is annotated", Annotations::read(DESCRIPTOR_SET).map(drop));
}

fn policy(config: &Config, table: &mut Table) {
    let from = config.policy.file.as_ref().map_or("the shipped default".to_owned(), |file| file.display().to_string());
    let loaded = Policy::load(&config.policy);
    let count = loaded.as_ref().map_or(0, Policy::len);
    let speaks = loaded.as_ref().is_ok_and(Policy::speaks_of_descriptions);
    table.add("policy", format!("{count} policies from {from}"), loaded.map(drop));
    if speaks {
        table.note(
            "policy",
            "they speak of groups' tags or VPC: every group of each Region is read, once a minute at most",
        );
    }
}

fn journal(config: &Config, table: &mut Table) {
    let Some(directory) = &config.audit.directory else {
        return table.note("audit", "no `directory`: the core lists and checks, and changes nothing");
    };
    // The journal itself is not opened: a check leaves nothing behind.
    match volume::stand(directory) {
        Ok(Standing::Ready) => table.good("audit", directory.display().to_string()),
        Ok(Standing::ToBeMade) => {
            table.note("audit", format!("{} is not there yet; the core makes it when it starts", directory.display()));
        }
        Err(error) => table.wrong("audit", chain(&error)),
    }
    if let Err(error) = audit::check_key(&config.audit) {
        table.wrong("audit", format!("{}; the core does not start: mend `[audit] signing_key`", chain(&error)));
    }
}

/// Assumes each account's role where the service would, and says as whom it came back.
fn self_test(config: &Config, table: &mut Table) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let Ok(accounts) = Accounts::new(&config.aws) else { return };
    let tests: Vec<_> = accounts
        .regions()
        .flat_map(|(id, regions)| regions.into_iter().map(move |region| (id.clone(), region)))
        .collect();
    let aws = match runtime.block_on(Aws::new(&config.aws, accounts, Clock::system())) {
        Ok(aws) => aws,
        Err(error) => return table.wrong("aws", chain(&error)),
    };
    for (account, region) in tests {
        match runtime.block_on(aws.self_test(&account, &region)) {
            Ok(arn) => table.good("aws.role", format!("{region}: {arn}")),
            Err(error) => table.wrong("aws.role", format!("{account}, {region}: {}", chain(&error))),
        }
    }
}

/// The CAs that are not trusted, though their file holds them.
pub(crate) fn set_aside(table: &mut Table, part: &'static str, choice: Option<&Choice>) {
    for why in choice.into_iter().flat_map(Choice::set_aside) {
        table.note(part, why);
    }
}

/// Whether a certificate is valid today, and for how long.
pub(crate) fn window(table: &mut Table, part: &'static str, certificate: &std::path::Path) {
    let now: Timestamp = Clock::system().now();
    match validity(certificate) {
        Ok((from, _)) if now < from => {
            table.wrong(part, format!("{} is not valid before {from}", certificate.display()))
        }
        Ok((_, until)) if until <= now => table.wrong(part, format!("{} expired on {until}", certificate.display())),
        Ok((_, until)) if until.duration_since(now).as_hours() < 24 * 14 => {
            table.note(part, format!("{} expires on {until}", certificate.display()))
        }
        // A file that cannot be read has its own line already.
        Ok(_) | Err(_) => {}
    }
}

/// A channel, even one that is not connected, wants a runtime around it.
fn within_runtime<T>(make: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let _entered = runtime.as_ref().ok().map(tokio::runtime::Runtime::enter);
    make()
}
