//! `login` and `logout`: what the bridge is let in by, ahead of its first request, or no more.

use std::path::PathBuf;
use std::process::ExitCode;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use url::Url;
use whitelistmcp::bridge::{self, BridgeError, LoginConfig, NetworkConfig, StoreConfig};
use whitelistmcp::tls::Identity;

use crate::{complain, fail, say};

/// What is logged in to.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server's MCP endpoint, such as `https://whitelist.example.com/mcp`.
    #[arg(env = "MCP_REMOTE_URL")]
    url: Url,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    network: Network,
    /// Shows a code to be typed in on another machine, in place of opening a browser on this one.
    #[arg(long)]
    device: bool,
}

/// What is logged out of.
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArguments {
    /// The server's MCP endpoint.
    #[arg(env = "MCP_REMOTE_URL")]
    url: Url,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    network: Network,
}

/// How somebody logs in.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Login {
    /// The client id that was registered with the provider by hand; without it one is asked for there.
    #[arg(long, env = "WHITELISTMCP_BRIDGE_CLIENT_ID")]
    client_id: Option<String>,
    /// A file with that client's secret, if it has one.
    #[arg(long, requires_all = ["client_id", "issuer"], env = "WHITELISTMCP_BRIDGE_CLIENT_SECRET_FILE")]
    client_secret_file: Option<PathBuf>,
    /// The one provider that may let people in, exactly as it names itself. A client secret goes to no other, whatever
    /// the server says.
    #[arg(long, value_name = "URL", value_parser = issuer)]
    issuer: Option<String>,
    /// The https URL of a Client ID Metadata Document, for providers that take one as a client id.
    #[arg(long, value_name = "URL", value_parser = document, env = "WHITELISTMCP_BRIDGE_CLIENT_METADATA")]
    client_metadata: Option<Url>,
    /// Where the browser is sent back to on this machine. Without a port any will do.
    #[arg(
        long,
        value_name = "URL",
        value_parser = loopback,
        default_value = "http://127.0.0.1/callback",
        env = "WHITELISTMCP_BRIDGE_REDIRECT_URI"
    )]
    redirect_uri: Url,
    /// The scopes to ask for, in place of those that the server names.
    #[arg(long, value_name = "SCOPES", env = "WHITELISTMCP_BRIDGE_SCOPE")]
    scope: Option<String>,
    /// Logs in as the client itself and not as a person (OAuth's client credentials), for programs.
    #[arg(long, requires_all = ["client_secret_file", "issuer"])]
    as_program: bool,
    /// Leaves out the `resource` parameter, for providers that refuse it.
    #[arg(long)]
    without_resource: bool,
    /// Where logins are kept: in the system's keychain, and in a file where there is none, or always in a file.
    #[arg(long, value_enum, default_value_t = Keep::Keychain, env = "WHITELISTMCP_BRIDGE_STORE")]
    store: Keep,
}

/// Where logins are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Keep {
    Keychain,
    File,
}

/// How everything is connected to.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Network {
    /// A file of CA certificates (PEM) to trust in place of the system's.
    #[arg(long, env = "WHITELISTMCP_BRIDGE_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// A certificate (PEM) to show to servers that ask for one.
    #[arg(long, requires = "key", env = "WHITELISTMCP_BRIDGE_CERTIFICATE")]
    pub(crate) certificate: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, requires = "certificate", env = "WHITELISTMCP_BRIDGE_KEY")]
    pub(crate) key: Option<PathBuf>,
}

impl Network {
    pub(crate) fn config(&self) -> NetworkConfig {
        let identity = self.certificate.clone().zip(self.key.clone());
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        NetworkConfig { ca: self.ca.clone(), identity }
    }
}

impl Login {
    /// None where logins are `needed` and could not be kept anywhere: the reason is said.
    pub(crate) fn config(&self, needed: bool) -> Option<LoginConfig> {
        let home = std::env::home_dir();
        let directory = bridge::default_directory(|name| std::env::var_os(name), home.as_deref());
        if directory.is_none() && needed {
            complain("there is no home directory to keep logins in; set XDG_STATE_HOME");
            return None;
        }
        let directory = directory.unwrap_or_default();
        Some(LoginConfig {
            client_id: self.client_id.clone(),
            client_secret: self.client_secret_file.clone(),
            issuer: self.issuer.clone(),
            client_metadata: self.client_metadata.clone(),
            redirect: self.redirect_uri.clone(),
            scope: self.scope.clone(),
            as_program: self.as_program,
            without_resource: self.without_resource,
            store: StoreConfig { directory, keychain: self.store == Keep::Keychain },
            tell,
        })
    }

    /// The words that say the same on a command line, with paths that hold anywhere.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]))
        };
        add("--client-id", self.client_id.clone());
        add("--client-secret-file", self.client_secret_file.as_deref().map(absolute));
        add("--issuer", self.issuer.clone());
        add("--client-metadata", self.client_metadata.as_ref().map(ToString::to_string));
        let other = self.redirect_uri.as_str() != "http://127.0.0.1/callback";
        add("--redirect-uri", other.then(|| self.redirect_uri.to_string()));
        add("--scope", self.scope.clone());
        add("--store", (self.store == Keep::File).then(|| "file".to_owned()));
        for (name, is) in [("--as-program", self.as_program), ("--without-resource", self.without_resource)] {
            words.extend(is.then(|| name.to_owned()));
        }
        words
    }
}

/// Says something to the person. A client that has closed stderr, or reads no more of it, does not end the bridge.
fn tell(text: &str) {
    let mut stderr = std::io::stderr().lock();
    std::io::Write::write_fmt(&mut stderr, format_args!("whitelistmcp: {text}\n")).unwrap_or_default();
}

/// Programs are started in directories of their own.
pub(crate) fn absolute(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn loopback(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let here = url.scheme() == "http" && url.host().is_some_and(|host| whitelistmcp::http_client::is_loopback(&host));
    if here && url.query().is_none() && url.fragment().is_none() {
        Ok(url)
    } else {
        Err("it must be http:// to a loopback address, such as http://127.0.0.1/callback or http://localhost:8765/callback".to_owned())
    }
}

/// As it was written: issuers are compared letter by letter.
fn issuer(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if whitelistmcp::http_client::is_https_or_loopback(&url) && url.query().is_none() && url.fragment().is_none() {
        Ok(text.to_owned())
    } else {
        Err("it must be the https URL that the provider calls itself (`issuer` in its metadata)".to_owned())
    }
}

fn document(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    // Client ID Metadata Documents, section 3.
    if url.scheme() == "https" && url.path() != "/" && url.fragment().is_none() && url.username().is_empty() {
        Ok(url)
    } else {
        Err("it must be an https URL with a path".to_owned())
    }
}

/// Says on stderr what this program itself has to say: warnings, or everything.
pub(crate) fn log(verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let words = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    // The libraries below know headers, and headers hold tokens.
    let ours = Targets::new().with_target("whitelistmcp", level);
    // Who has set one up before has said where to write.
    tracing_subscriber::registry().with(words.with_filter(ours)).try_init().unwrap_or_default();
}

pub(crate) fn login(arguments: &Arguments) -> ExitCode {
    log(false);
    let Some(config) = arguments.login.config(true) else { return ExitCode::FAILURE };
    let done = block_on(bridge::log_in(&arguments.url, config, arguments.network.config(), arguments.device));
    finish(done, |()| format!("logged in to {}", arguments.url))
}

pub(crate) fn logout(arguments: &LogoutArguments) -> ExitCode {
    log(false);
    let Some(config) = arguments.login.config(true) else { return ExitCode::FAILURE };
    let done = block_on(bridge::log_out(&arguments.url, config, arguments.network.config()));
    finish(done, |there_was| match there_was {
        true => format!("logged out of {}", arguments.url),
        false => format!("nobody was logged in to {}", arguments.url),
    })
}

fn finish<T>(done: std::io::Result<Result<T, BridgeError>>, words: impl FnOnce(T) -> String) -> ExitCode {
    match done {
        Ok(Ok(done)) => {
            say(&words(done));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
