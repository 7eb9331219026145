//! `bridge`: MCP over stdin and stdout in front, a remote server behind.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::io::BufReader;
use url::Url;
use whitelistmcp::bridge::{self, Config, Token, Transport};

use crate::login::{Login, Network, absolute, log};
use crate::{complain, fail, say};

/// How long one request may take, in seconds, unless something else is said.
const TIMEOUT: u64 = 120;

/// Where it leads, and who asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server's MCP endpoint, such as `https://whitelist.example.com/mcp`; also ws:// or wss://.
    #[arg(env = "MCP_REMOTE_URL")]
    url: Url,
    /// How messages are carried; without it `MCP_MODE` says so (http or websocket). A ws:// or wss:// URL means a
    /// WebSocket.
    #[arg(long, value_enum)]
    transport: Option<Carried>,
    /// A file with an access token or API key, read anew for every request. Without it `MCP_AUTH_TOKEN` is used, and
    /// without that the bridge logs in.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Never opens a browser; a login made by `whitelistmcp login` is used all the same.
    #[arg(long)]
    no_login: bool,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    network: Network,
    /// How long one request may take, in seconds.
    #[arg(long, default_value_t = TIMEOUT, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Says on stderr what happens between the messages.
    #[arg(long)]
    verbose: bool,
    /// Prints the entry for Claude Desktop's configuration file, and ends.
    #[arg(long)]
    print_config: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Carried {
    Http,
    Websocket,
}

pub(crate) fn run(mut arguments: Arguments) -> ExitCode {
    if arguments.transport.is_none() {
        arguments.transport = match carried(std::env::var_os("MCP_MODE")) {
            Ok(carried) => carried,
            Err(why) => {
                complain(&why);
                return ExitCode::FAILURE;
            }
        };
    }
    if arguments.print_config {
        return print_config(&arguments);
    }
    log(arguments.verbose);
    let given = std::env::var_os("MCP_AUTH_TOKEN").filter(|token| !token.is_empty());
    let token = match (&arguments.token_file, given.map(std::ffi::OsString::into_string)) {
        (Some(path), _) => Some(Token::File(path.clone())),
        (None, Some(Err(_))) => {
            complain("MCP_AUTH_TOKEN holds no token: it must be one word of letters, digits and -._~+/=");
            return ExitCode::FAILURE;
        }
        (None, Some(Ok(token))) => match Token::given(&token, "MCP_AUTH_TOKEN") {
            Ok(token) => Some(token),
            Err(error) => return fail(&error),
        },
        (None, None) => None,
    };
    let Some(login) = arguments.login.config(token.is_none()) else { return ExitCode::FAILURE };
    let socket = matches!(arguments.url.scheme(), "ws" | "wss");
    let transport = match arguments.transport {
        Some(Carried::Websocket) => Transport::WebSocket,
        Some(Carried::Http) if !socket => Transport::Http,
        None if !socket => Transport::Http,
        None | Some(Carried::Http) => Transport::WebSocket,
    };
    let config = Config {
        transport,
        token,
        login,
        ask: !arguments.no_login,
        network: arguments.network.config(),
        timeout: Duration::from_secs(arguments.timeout),
        url: arguments.url,
    };
    // One thread is plenty, and starts at once.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let carried = runtime.block_on(bridge::run(config, BufReader::new(tokio::io::stdin()), tokio::io::stdout()));
    // A read of stdin that is still waiting must not hold the process.
    runtime.shutdown_background();
    match carried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// How the environment says that messages are carried, in the words of the predecessor's clients.
fn carried(mode: Option<std::ffi::OsString>) -> Result<Option<Carried>, String> {
    match mode.as_deref().map(|mode| mode.to_string_lossy()).as_deref() {
        None | Some("") => Ok(None),
        Some("http") => Ok(Some(Carried::Http)),
        Some("websocket") => Ok(Some(Carried::Websocket)),
        Some(other) => Err(format!(
            "MCP_MODE is {other:?}, which is not how a bridge speaks to its server: that is `http` or `websocket`. Change it, take it out, or say --transport"
        )),
    }
}

fn print_config(arguments: &Arguments) -> ExitCode {
    if let Err(error) = bridge::address(&arguments.url) {
        return fail(&error);
    }
    let Ok(program) = std::env::current_exe() else {
        complain("where this program is cannot be told; write the entry by hand, see the README");
        return ExitCode::FAILURE;
    };
    let mut words = vec!["bridge".to_owned(), arguments.url.to_string()];
    let Network { ca, certificate, key } = &arguments.network;
    let files = [("--ca", ca), ("--certificate", certificate), ("--key", key), ("--token-file", &arguments.token_file)];
    for (name, path) in files {
        words.extend(path.iter().flat_map(|path| [name.to_owned(), absolute(path)]));
    }
    if arguments.transport == Some(Carried::Websocket) {
        words.extend(["--transport", "websocket"].map(str::to_owned));
    }
    words.extend(arguments.no_login.then(|| "--no-login".to_owned()));
    if arguments.timeout != TIMEOUT {
        words.extend(["--timeout".to_owned(), arguments.timeout.to_string()]);
    }
    words.extend(arguments.login.words());
    let server = json!({"command": program, "args": words});
    let entry = json!({"mcpServers": {"whitelistmcp": server}});
    say(&serde_json::to_string_pretty(&entry).unwrap_or_default());
    ExitCode::SUCCESS
}
