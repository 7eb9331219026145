//! What stands around the service: certificates, AWS, Redis, the collector, the journal.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use url::Url;
use whitelistmcp::app;
use whitelistmcp::audit::{self, verify};
use whitelistmcp::aws::Aws;
use whitelistmcp::aws::doctor::{Permission, Trust};
use whitelistmcp::aws::session_policy::Actions;
use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::identity::peer::{PeerNames, Role};
use whitelistmcp::operation::target::Place;
use whitelistmcp::telemetry;
use whitelistmcp::tls::Material as _;

use super::bounded;
use crate::chain;
use crate::check::{Table, window};

/// Certificates that end, and names that the other end does not know.
pub(super) fn certificates(config: &Config, table: &mut Table) {
    let now = Clock::system().now();
    if let Some(edge) = &config.edge {
        match edge.files().map(|files| files.load(now)).transpose() {
            Ok(_) => table.good("edge.tls", "the certificate and its key are good"),
            Err(error) => table.wrong("edge.tls", format!("{}: put a good one in its place", chain(&error))),
        }
        if let Some(identity) = &edge.tls {
            window(table, "edge.tls", &identity.certificate);
        }
        if let Some(backend) = &edge.backend {
            match backend.check(&Clock::system()) {
                Ok(()) => table.good("edge.backend", "the edge's own certificate is good"),
                Err(error) => table.wrong("edge.backend", format!("{}: put a good one in its place", chain(&error))),
            }
            window(table, "edge.backend", &backend.identity.certificate);
            known(config, &backend.identity.certificate, table);
        }
    }
    if let Some(core) = &config.core {
        match core.files().load(now) {
            Ok(_) => table.good("core.tls", "the certificate, its key and the CA are good"),
            Err(error) => table.wrong("core.tls", format!("{}: put a good one in its place", chain(&error))),
        }
        window(table, "core.tls", &core.tls.certificate);
    }
}

/// Whether the core knows the edge by its certificate.
fn known(config: &Config, certificate: &Path, table: &mut Table) {
    if config.core.is_none() {
        return table.note("core.peers", "the core is configured elsewhere: whether it knows this edge shows there");
    }
    let (Ok(peers), Ok(der)) = (app::peers(config), CertificateDer::from_pem_file(certificate)) else { return };
    match peers.recognise(&PeerNames::of_verified(&der)) {
        Ok((name, Role::Edge)) => table.good("core.peers", format!("the edge is known as {}", name.as_str())),
        Ok((name, _)) => table.wrong(
            "core.peers",
            format!("{} has another role than `edge`: change `role` in `[[core.peers]]`", name.as_str()),
        ),
        Err(error) => table.wrong(
            "core.peers",
            format!(
                "{}: add one of the edge certificate's names to `[[core.peers]]` with role = \"edge\"",
                chain(&error)
            ),
        ),
    }
}

/// The roles, and what they may do.
pub(super) async fn aws(config: &Config, table: &mut Table) {
    if config.aws.accounts.is_empty() {
        return table.note("aws", "no account is configured here");
    }
    let (accounts, targets) = match app::targets(config) {
        Ok(found) => found,
        Err(error) => return table.wrong("aws", chain(&error)),
    };
    let places: Vec<Place> = accounts
        .regions()
        .flat_map(|(id, regions)| regions.into_iter().map(move |region| Place::new(id.clone(), region)))
        .collect();
    let (aws, actions) = match (Aws::new(&config.aws, accounts).await, Actions::embedded()) {
        (Ok(aws), Ok(actions)) => (aws, actions),
        (Err(error), _) => return table.wrong("aws", chain(&error)),
        (_, Err(error)) => return table.wrong("aws", chain(&error)),
    };
    for place in places {
        let trust = bounded(aws.trust(&place)).await.unwrap_or_else(|| Trust::Unasked("no answer in time".to_owned()));
        match trust {
            Trust::Whole => {
                table.good("aws.trust", format!("{place}: the role is lent, with tags and a source identity"))
            }
            Trust::Lacks(actions) => {
                table.wrong(
                    "aws.trust",
                    format!(
                        "{place}: the role's trust policy must allow {} besides sts:AssumeRole",
                        actions.join(" and ")
                    ),
                );
                continue;
            }
            Trust::Refused(why) => {
                table.wrong("aws.trust", format!("{place}: {why}; the role must be there, its trust policy must name the service's own identity and allow sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity, and `external_id` must be the one that it demands"));
                continue;
            }
            Trust::Unasked(why) => {
                table.wrong(
                    "aws.trust",
                    format!("{place}: {why}; look at the service's credentials and at the way to STS"),
                );
                continue;
            }
        }
        for target in targets.named().iter().filter(|target| *target.place() == place) {
            let label = target.name().unwrap_or_else(|| target.group().as_str()).to_owned();
            let answer = bounded(aws.may_open(&place, target.group(), &actions)).await;
            match answer.unwrap_or_else(|| Permission::Unasked("no answer in time".to_owned())) {
                Permission::Given => table.good("aws.group", format!("{label}: a dry run would have opened it")),
                Permission::Refused(code) if code.contains("NotFound") || code.contains("Malformed") => {
                    table.wrong("aws.group", format!("{label}: {} is not there ({code}); mend `[[targets.groups]]`", target.group()));
                }
                Permission::Refused(code) => table.wrong(
                    "aws.group",
                    format!("{label}: {code}; the role's policy must allow ec2:AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress, ModifySecurityGroupRules and CreateTags on it"),
                ),
                Permission::Unasked(why) => table.wrong("aws.group", format!("{label}: {why}")),
            }
        }
    }
    if let Some(told) = aws.time() {
        let off = Clock::system().now().duration_since(told).as_secs();
        if off.abs() > 60 {
            table.wrong(
                "clock",
                format!("this machine is {off} s ahead of AWS, so nothing is opened; set the clock (NTP)"),
            );
        } else {
            table.good("clock", "agrees with AWS");
        }
    }
}

/// Whether Redis answers.
pub(super) async fn redis(config: &Config, table: &mut Table) {
    let Some(section) = &config.redis else { return };
    let shared = match app::shared(config) {
        Ok(shared) => shared,
        Err(error) => return table.wrong("redis", chain(&error)),
    };
    let Some(shared) = shared else { return };
    // The first question may find nothing connected yet.
    for _ in 0..20 {
        if let Some(Ok(_)) = bounded(shared.value("doctor")).await {
            return table.good("redis", format!("{:?} answers", section.url));
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    table.wrong("redis", format!("{:?} does not answer: look at the address, the password, its CA and the way there; until then each replica counts by itself, and approvals are refused", section.url));
}

/// Whether the receiver of telemetry can be reached.
pub(super) async fn collector(table: &mut Table) {
    if !telemetry::receiver_named() {
        return table.note("collector", "no OTEL_EXPORTER_OTLP_ENDPOINT in this environment: nothing leaves by OTLP");
    }
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_default();
    let address =
        Url::parse(&endpoint).ok().and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?)));
    let Some((host, port)) = address else {
        return table.wrong("collector", format!("`{endpoint}` must be a URL such as https://collector.internal:4317"));
    };
    match bounded(TcpStream::connect((host.trim_matches(['[', ']']), port))).await {
        Some(Ok(_)) => table.good("collector", format!("{endpoint} can be reached")),
        Some(Err(error)) => table.wrong("collector", format!("{endpoint}: {error}; start it, or mend OTEL_EXPORTER_OTLP_ENDPOINT. `audit replay` sends what it has missed")),
        None => table.wrong("collector", format!("{endpoint} does not answer; `audit replay` sends what it has missed")),
    }
}

/// Whether the journal can be kept, and is whole.
pub(super) fn journal(config: &Config, table: &mut Table) {
    let Some(directory) = &config.audit.directory else {
        return table.note("journal", "no `[audit] directory`: the core lists and checks, and changes nothing");
    };
    if !directory.is_dir() {
        return table
            .note("journal", format!("{} is not there yet; the core makes it when it starts", directory.display()));
    }
    let probe = directory.join(format!(".doctor-{}", std::process::id()));
    if let Err(error) = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)) {
        table.wrong(
            "journal",
            format!(
                "{} cannot be written ({error}), so nothing is changed: give the service's user the right to, or room",
                directory.display()
            ),
        );
    }
    if let Some(objection) = audit::objection(&config.audit) {
        table.wrong("journal", objection);
    }
    match verify::verify(directory, &verify::Given::default()) {
        Ok(report) if report.is_sound() => table.good(
            "journal",
            format!("{}: {} chains, nothing speaks against them", directory.display(), report.chains.len()),
        ),
        Ok(report) => table.wrong(
            "journal",
            format!(
                "{}: {} things are not as they were written; `whitelistmcp audit verify` says which",
                directory.display(),
                report.findings.len()
            ),
        ),
        Err(error) => table.wrong("journal", chain(&error)),
    }
}
