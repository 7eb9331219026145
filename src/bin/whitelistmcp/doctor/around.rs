//! What stands around the service: certificates, AWS, Redis, the collector.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use whitelistmcp::app;
use whitelistmcp::aws::Aws;
use whitelistmcp::aws::doctor::{Permission, Trust};
use whitelistmcp::aws::session_policy::Actions;
use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::identity::peer::{PeerNames, Role};
use whitelistmcp::operation::target::{Place, Target};
use whitelistmcp::telemetry;
use whitelistmcp::tls::{ClientFiles, Material as _, ServerFiles};

use super::bounded;
use crate::chain;
use crate::check::{Table, set_aside, window};

/// Certificates that end, and names that the other end does not know.
pub(super) fn certificates(config: &Config, table: &mut Table) {
    let now = Clock::system().now();
    if let Some(edge) = &config.edge {
        match edge.files().map(|files| files.load(now)).transpose() {
            Ok(set) => {
                table.good("edge.tls", "the certificate and its key are good");
                set_aside(table, "edge.tls", set.as_ref().map(ServerFiles::choice));
            }
            Err(error) => table.wrong("edge.tls", format!("{}: put a good one in its place", chain(&error))),
        }
        if let Some(identity) = &edge.tls {
            window(table, "edge.tls", &identity.certificate);
        }
        if let Some(backend) = &edge.backend {
            match backend.files().load(now) {
                Ok(set) => {
                    table.good("edge.backend", "the edge's own certificate is good");
                    set_aside(table, "edge.backend", Some(ClientFiles::choice(&set)));
                }
                Err(error) => table.wrong("edge.backend", format!("{}: put a good one in its place", chain(&error))),
            }
            window(table, "edge.backend", &backend.identity.certificate);
            known(config, &backend.identity.certificate, table);
        }
    }
    if let Some(core) = &config.core {
        match core.files().load(now) {
            Ok(set) => {
                table.good("core.tls", "the certificate, its key and the CA are good");
                set_aside(table, "core.tls", Some(ServerFiles::choice(&set)));
            }
            Err(error) => table.wrong("core.tls", format!("{}: put a good one in its place", chain(&error))),
        }
        window(table, "core.tls", &core.tls.certificate);
    }
}

/// Whether the core of the same file knows the edge by its certificate.
fn known(config: &Config, certificate: &Path, table: &mut Table) {
    if config.core.is_none() {
        return;
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
    let (aws, actions) = match (Aws::new(&config.aws, accounts, Clock::system()).await, Actions::embedded()) {
        (Ok(aws), Ok(actions)) => (aws, actions),
        (Err(error), _) => return table.wrong("aws", chain(&error)),
        (_, Err(error)) => return table.wrong("aws", chain(&error)),
    };
    if let Some(section) = &config.aws.federation
        && !federation(&aws, &section.role_arn, table).await
    {
        return;
    }
    for place in places {
        if trust(&aws, &place, table).await {
            for target in targets.named().iter().filter(|target| *target.place() == place) {
                group(&aws, target, &actions, table).await;
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

/// Whether AWS gives the base role for the platform's identity.
async fn federation(aws: &Aws, role_arn: &str, table: &mut Table) -> bool {
    let wrong = match bounded(aws.federated()).await {
        Some(Ok(_)) => {
            table.good("aws.federation", format!("AWS gives {role_arn} for this platform's identity"));
            return true;
        }
        Some(Err(error)) => chain(&error),
        None => "no answer in time: look at the platform's metadata service and at the way to STS".to_owned(),
    };
    table.wrong("aws.federation", wrong);
    false
}

/// Whether the account's role is lent as the service needs it.
async fn trust(aws: &Aws, place: &Place, table: &mut Table) -> bool {
    let trust = bounded(aws.trust(place)).await.unwrap_or_else(|| Trust::Unasked("no answer in time".to_owned()));
    let wrong = match trust {
        Trust::Whole => {
            table.good("aws.trust", format!("{place}: the role is lent, with tags and a source identity"));
            return true;
        }
        Trust::Lacks(actions) => {
            format!("{place}: the role's trust policy must allow {} besides sts:AssumeRole", actions.join(" and "))
        }
        Trust::Refused(why) => format!(
            "{place}: {why}; the role must be there, its trust policy must name the service's own identity and allow sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity, and `external_id` must be the one that it demands"
        ),
        Trust::Unasked(why) => format!("{place}: {why}; look at the service's credentials and at the way to STS"),
    };
    table.wrong("aws.trust", wrong);
    false
}

/// Whether a group that is configured is there, and could be changed.
async fn group(aws: &Aws, target: &Target, actions: &Actions, table: &mut Table) {
    let label = target.name().unwrap_or_else(|| target.group().as_str());
    let answer = bounded(aws.may_open(target.place(), target.group(), actions)).await;
    let wrong = match answer.unwrap_or_else(|| Permission::Unasked("no answer in time".to_owned())) {
        Permission::Given => return table.good("aws.group", format!("{label}: a dry run would have opened it")),
        Permission::Refused(code) if code.contains("NotFound") || code.contains("Malformed") => {
            format!("{label}: {} is not there ({code}); mend `[[targets.groups]]`", target.group())
        }
        Permission::Refused(code) => format!(
            "{label}: {code}; the role's policy must allow ec2:AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress, ModifySecurityGroupRules and CreateTags on it"
        ),
        Permission::Unasked(why) => format!("{label}: {why}"),
    };
    table.wrong("aws.group", wrong);
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
    let answers = async {
        for _ in 0..20 {
            if shared.value("doctor").await.is_ok() {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
        false
    };
    if bounded(answers).await == Some(true) {
        return table.good("redis", format!("{:?} answers", section.url));
    }
    table.wrong("redis", format!("{:?} does not answer: look at the address, the password, its CA and the way there; until then each replica counts by itself, and approvals are refused", section.url));
}

/// Whether the receivers of telemetry can be reached.
pub(super) async fn collector(table: &mut Table) {
    let receivers = match telemetry::receivers() {
        Ok(receivers) => receivers,
        Err(error) => return table.wrong("collector", format!("{}; no process starts like that", chain(&error))),
    };
    if receivers.is_empty() {
        return table
            .note("collector", "the OTEL_* variables of this environment name no receiver: nothing leaves by OTLP");
    }
    for receiver in receivers {
        let shown = receiver.shown().to_owned();
        match receiver.reach().await {
            Ok(()) => table.good("collector", format!("{shown} can be reached")),
            Err(error) => {
                table.wrong("collector", format!("{shown}: {}. `audit replay` sends what it has missed", chain(&error)))
            }
        }
    }
}
