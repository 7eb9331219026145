//! `health`: asks the service that runs on this host how it is, for images without a shell.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use url::Url;
use whitelistmcp::config::{Config, ConfigError};
use whitelistmcp::health::on_this_host;
use whitelistmcp::http_client::{self, HttpClient, HttpError};
use whitelistmcp::tls::{self, TlsError};

use crate::{fail, mode, say};

/// Asks whether the service is alive, unless --ready is given.
///
/// A probe that is answered by killing the process (a container's HEALTHCHECK under ECS or Swarm, a liveness probe) must ask
/// whether it is alive: a process that is not ready, because its disk is full or the core behind it is away, becomes no better by being killed, and what it
/// was about is cut off. Who takes a process out of a balancer, or waits for it to come up, asks --ready.
///
/// Asked is the address in `[health] listen`, or else the edge's own; where that speaks TLS, it must show exactly the certificate that
/// `[edge.tls]` names and hold its key. Without a file the environment is the configuration, as it is of a container of variables alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file of the service.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: Option<PathBuf>,
    /// Where the service is, in place of where the configuration says: https by the system's CAs, or http to loopback.
    #[arg(long)]
    url: Option<Url>,
    /// Asks whether it takes work and every part that it needs is well (/readyz).
    #[arg(long, conflicts_with = "live")]
    ready: bool,
    /// Asks whether it answers (/livez), as is done where nothing is said.
    #[arg(long)]
    live: bool,
}

/// How long the answer may take: less than any probe waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
enum HealthError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "there is nothing to ask over HTTP: the configuration has neither `[health] listen` nor an `[edge]`; set `[health] listen = \"0.0.0.0:8082\"`"
    )]
    Nothing,
    #[error("`{0}` has port 0, which the system chooses, so nobody can ask there; give it a port")]
    NoPort(SocketAddr),
    #[error(
        "the edge wants a client certificate, which a probe does not have; set `[health] listen = \"0.0.0.0:8082\"`"
    )]
    WantsCertificate,
    #[error("the certificate that the edge is known by")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{0} cannot be asked")]
    Request(Url, #[source] http::Error),
    #[error("{0} answers {1}: {2}")]
    Answer(Url, http::StatusCode, String),
    #[error("the address cannot be asked")]
    Address(#[from] url::ParseError),
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let asked = runtime.block_on(ask(arguments));
    // A name that is still looked up holds nobody up.
    runtime.shutdown_background();
    match asked {
        Ok(words) => {
            say(&words);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

async fn ask(arguments: &Arguments) -> Result<String, HealthError> {
    let (mut url, client) = match &arguments.url {
        Some(url) => (url.clone(), tls::public_client(None)?),
        None => whom(&mode::configured(arguments.config.as_deref())?)?,
    };
    url.set_path(if arguments.ready { "/readyz" } else { "/livez" });
    let mut client = HttpClient::of(http_client::pooled(client, http_client::IDLE), PATIENCE);
    if let (None, Some(host)) = (&arguments.url, url.host()) {
        // An address of this host's own is no further away than loopback.
        client = client.plain_to(host.to_owned());
    }
    let request = http::Request::get(url.as_str()).body(Vec::new());
    let answer = match client.send(request.map_err(|error| HealthError::Request(url.clone(), error))?).await {
        // The service keeps the certificate that it has where the file's is refused or not read yet: it is alive all the same, and
        // nothing secret was sent. Whoever kills it for that makes an outage of a renewal that went wrong.
        Err(error) if arguments.url.is_none() && !arguments.ready && shows_another_certificate(&error) => {
            return Ok(format!("{url} answers, by another certificate than the file has: look at the service's log"));
        }
        answer => answer?,
    };
    if answer.status() != http::StatusCode::OK {
        let words: String =
            String::from_utf8_lossy(answer.body()).chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(HealthError::Answer(url, answer.status(), words));
    }
    Ok(format!("{url} says that it is {}", if arguments.ready { "ready" } else { "alive" }))
}

/// Whether somebody answered, and showed a certificate that is not the one that was looked for.
fn shows_another_certificate(error: &HttpError) -> bool {
    matches!(tls::reason(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Who is asked, and by what they are known.
fn whom(config: &Config) -> Result<(Url, rustls::ClientConfig), HealthError> {
    let at = |scheme: &str, listen: SocketAddr| match listen.port() {
        0 => Err(HealthError::NoPort(listen)),
        _ => Ok(Url::parse(&format!("{scheme}://{}", on_this_host(listen)))?),
    };
    if let Some(listen) = config.health.listen {
        return Ok((at("http", listen)?, tls::public_client(None)?));
    }
    let edge = config.edge.as_ref().ok_or(HealthError::Nothing)?;
    match &edge.tls {
        None => Ok((at("http", edge.listen)?, tls::public_client(None)?)),
        Some(_) if edge.client_certificates == Some(tls::Demand::Required) => Err(HealthError::WantsCertificate),
        Some(identity) => {
            let mut known = tls::client_of(&identity.certificate)?;
            // The pool chooses the protocol itself.
            known.alpn_protocols.clear();
            Ok((at("https", edge.listen)?, known))
        }
    }
}
