//! A service that opens a security group for a while, looks, and closes it again, by gRPC over mTLS.
//!
//! ```text
//! whitelistmcp-client HOST:PORT CA CERTIFICATE KEY GROUP ADDRESS PORT
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use whitelistmcp::v1 as pb;
use whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient;

/// What `build.rs` generates; each package in the place that its name says.
mod mcp {
    pub mod v1 {
        tonic::include_proto!("mcp.v1");
    }
}
mod whitelistmcp {
    pub mod v1 {
        tonic::include_proto!("whitelistmcp.v1");
    }
}

/// How long one call may take. The core ends it after 60 s whatever a caller says.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How often, and for how long, a call that was told to come back does so.
const ATTEMPTS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, ca, certificate, key, group, address, port] = arguments.as_slice() else {
        eprintln!("usage: whitelistmcp-client HOST:PORT CA CERTIFICATE KEY GROUP ADDRESS PORT");
        return ExitCode::from(2);
    };
    let client = match connect(target, ca, certificate, key) {
        Ok(channel) => WhitelistServiceClient::new(channel),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match run(&client, group, address, port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => {
            explain(&status);
            ExitCode::FAILURE
        }
    }
}

async fn run(client: &WhitelistServiceClient<Channel>, group: &str, address: &str, port: &str) -> Result<(), Status> {
    let add = pb::AddRuleRequest {
        security_group: group.to_owned(),
        address: address.to_owned(),
        port: port.to_owned(),
        reason: "example client in Rust".to_owned(),
        duration: "30m".to_owned(),
        // The same word with every attempt: the change is made once, however often it is sent.
        idempotency_key: format!("rust-{}", uuid::Uuid::new_v4().simple()),
        ..Default::default()
    };
    let opened = again(async |deadline| client.clone().add_rule(within(deadline, add.clone())).await).await?;
    let rule = opened.rule.unwrap_or_default();
    println!("add: {} {} until {}", opened.outcome, rule.rule_id, opened.until);

    let check = pb::CheckAccessRequest {
        security_group: group.to_owned(),
        address: address.to_owned(),
        port: port.to_owned(),
        ..Default::default()
    };
    let checked = again(async |deadline| client.clone().check_access(within(deadline, check.clone())).await).await?;
    println!("check: {}", checked.verdict);

    let list = pb::ListRulesRequest { security_group: group.to_owned(), managed_only: true, ..Default::default() };
    let listed = again(async |deadline| client.clone().list_rules(within(deadline, list.clone())).await).await?;
    println!("list: {}", listed.total);

    let remove = pb::RemoveRulesRequest {
        security_group: group.to_owned(),
        rule_id: rule.rule_id,
        reason: "done".to_owned(),
        ..Default::default()
    };
    let removed = again(async |deadline| client.clone().remove_rules(within(deadline, remove.clone())).await).await?;
    println!("remove: {}", removed.outcome);
    Ok(())
}

/// Trusts the core's CA alone, and shows the certificate that says which service this is. It connects when it is first used.
fn connect(target: &str, ca: &str, certificate: &str, key: &str) -> Result<Channel, Box<dyn std::error::Error>> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(ca)?))
        .identity(Identity::from_pem(std::fs::read(certificate)?, std::fs::read(key)?));
    Ok(Endpoint::from_shared(format!("https://{target}"))?.tls_config(tls)?.connect_lazy())
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Makes a call, and makes it again where the core says when that may help.
async fn again<T>(call: impl AsyncFn(Duration) -> Result<Response<T>, Status>) -> Result<T, Status> {
    let end = Instant::now() + PATIENCE;
    let mut attempt = 1;
    loop {
        let status = match call(CALL_TIMEOUT).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let told = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
        match told {
            Some(wait) if attempt < ATTEMPTS && Instant::now() + wait < end => {
                eprintln!("told to come back in {} s", wait.as_secs_f32());
                tokio::time::sleep(wait).await;
            }
            _ => return Err(status),
        }
        attempt += 1;
    }
}

/// Prints what a program can act on: the class, the stable reason, the field that is wrong.
fn explain(status: &Status) {
    eprintln!("{:?}: {}", status.code(), status.message());
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        eprintln!("reason: {}", info.reason);
    }
    for violation in details.bad_request().iter().flat_map(|request| &request.field_violations) {
        eprintln!("field: {}", violation.field);
    }
}
