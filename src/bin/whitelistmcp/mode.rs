//! Without arguments: what to be, by the environment and by what stdin is.
//!
//! | looked at, in this order | it is |
//! | --- | --- |
//! | `MCP_REMOTE_URL` is set | the bridge to it; `MCP_MODE` says how it speaks to it |
//! | `MCP_MODE` is `remote` | the server: edge and core in one process |
//! | `MCP_MODE` is `serverless`, or AWS Lambda has started it | a function of AWS Lambda |
//! | stdin is no terminal | local: MCP over stdio, with the person's own AWS profile |
//! | | a person who wants help |

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use whitelistmcp::config::{Config, ConfigError};

use crate::{Arguments, fail, lambda, run};

const REMOTE_URL: &str = "MCP_REMOTE_URL";
const MODE: &str = "MCP_MODE";
const REMOTE: &str = "remote";
const SERVERLESS: &str = "serverless";
/// Where a function speaks to its platform, which sets it.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
const SECRET: &str = "MCP_AUTH_TOKEN";
const CONFIG: &str = "WHITELISTMCP_CONFIG";

/// Why the environment does not say what to be.
#[derive(Debug, thiserror::Error)]
enum ModeError {
    #[error(
        "MCP_MODE={0} is how a bridge speaks to its server; set MCP_REMOTE_URL to the server's MCP endpoint as well, such as https://whitelist.example.com/mcp"
    )]
    NoUrl(String),
    #[error(
        "MCP_REMOTE_URL makes this a bridge, and MCP_MODE={0} is not how one speaks to its server: that is `http` or `websocket`. Take one of the two out"
    )]
    BridgeAndServer(String),
    #[error(
        "MCP_MODE={0} is not known; it is `remote` for the server, `serverless` for a function of AWS Lambda, or with MCP_REMOTE_URL `http` or `websocket` for the bridge"
    )]
    Unknown(String),
    #[error(
        "MCP_AUTH_TOKEN is set, and this server has no shared secret: people come with an access token of your OpenID Connect provider ([oidc.NAME]), programs with an API key of their own (`whitelistmcp key new`). Take it out; docs/MIGRATING.md says how to go on"
    )]
    Secret,
    #[error(
        "MCP_MODE={0} says to serve, and nothing says what: name a configuration file in WHITELISTMCP_CONFIG, or set WHITELISTMCP_EDGE__PUBLIC_URL and what else docs/MIGRATING.md lists"
    )]
    NoEdge(&'static str),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Is what the environment says.
pub(crate) fn run() -> ExitCode {
    let mode = variable(MODE);
    match (variable(REMOTE_URL), mode.as_deref()) {
        (Some(_), None | Some("http" | "websocket")) => subcommand("bridge"),
        (Some(_), Some(mode)) => fail(&ModeError::BridgeAndServer(mode.to_owned())),
        (None, Some(REMOTE)) => match server(REMOTE) {
            Ok(config) => run::run_configured(&config, run::Role::Serve),
            Err(error) => fail(&error),
        },
        (None, Some(mode @ ("http" | "websocket"))) => fail(&ModeError::NoUrl(mode.to_owned())),
        (None, Some(SERVERLESS)) => function(),
        (None, Some(mode)) => fail(&ModeError::Unknown(mode.to_owned())),
        // Nobody speaks to a function over stdin.
        (None, None) if variable(RUNTIME_API).is_some() => function(),
        (None, None) if !std::io::stdin().is_terminal() => subcommand("stdio"),
        (None, None) => help(),
    }
}

/// Is a function.
fn function() -> ExitCode {
    match server(SERVERLESS) {
        Ok(config) => lambda::run_configured(&config),
        Err(error) => fail(&error),
    }
}

/// Is a subcommand that finds what it needs in the environment.
fn subcommand(name: &str) -> ExitCode {
    match crate::read([env!("CARGO_PKG_NAME"), name].map(Into::into)) {
        Ok(command) => command.run(),
        Err(said) => said,
    }
}

/// The server's configuration: a file if one is named, and the environment.
///
/// A container speaks plain HTTP to the proxy in front of it, so that is what is meant where no certificate is given and
/// nothing else is said. It is
/// served to declared proxies alone, as everywhere.
fn server(mode: &'static str) -> Result<Config, ModeError> {
    if variable(SECRET).is_some() {
        return Err(ModeError::Secret);
    }
    let mut config = match variable(CONFIG) {
        Some(path) => Config::load(path.as_ref(), crate::environment())?,
        None => Config::of_environment(crate::environment())?,
    };
    if config.edge.is_none() {
        return Err(ModeError::NoEdge(mode));
    }
    if mode == REMOTE {
        plain_by_default(&mut config);
    }
    Ok(config)
}

/// The configuration of the server that this environment would start, or has started: for who asks it something.
pub(crate) fn configured(path: Option<&Path>) -> Result<Config, ConfigError> {
    let mut config = match path {
        Some(path) => Config::load(path, crate::environment())?,
        None => Config::of_environment(crate::environment())?,
    };
    if variable(MODE).as_deref() == Some(REMOTE) {
        plain_by_default(&mut config);
    }
    Ok(config)
}

fn plain_by_default(config: &mut Config) {
    if let Some(edge) = &mut config.edge {
        edge.plaintext.get_or_insert(edge.tls.is_none());
    }
}

/// A variable that is set to something: compose files pass on those that are not set as empty ones.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

fn help() -> ExitCode {
    // Help that nobody was there to read is no failure of ours.
    Arguments::command().print_help().unwrap_or_default();
    ExitCode::from(2)
}
