//! `bridge`: MCP over stdin and stdout in front, a remote server behind.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::io::BufReader;
use url::Url;
use whitelistmcp::bridge::{self, Config, Token};

use crate::{complain, fail, say};

/// Where it leads, and who asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server's MCP endpoint, such as `https://whitelist.example.com/mcp`.
    #[arg(env = "MCP_REMOTE_URL")]
    url: Url,
    /// A file with the access token or API key, read anew for every request. Without it `MCP_AUTH_TOKEN` is used.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// A file of CA certificates (PEM) to trust in place of the system's.
    #[arg(long, env = "WHITELISTMCP_BRIDGE_CA")]
    ca: Option<PathBuf>,
    /// How long one request may take, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Prints the entry for Claude Desktop's configuration file, and ends.
    #[arg(long)]
    print_config: bool,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    if arguments.print_config {
        return print_config(&arguments);
    }
    let given = std::env::var("MCP_AUTH_TOKEN").ok().filter(|token| !token.is_empty());
    let token = match (&arguments.token_file, given) {
        (Some(path), _) => Some(Token::File(path.clone())),
        (None, Some(token)) => match Token::given(&token, "MCP_AUTH_TOKEN") {
            Ok(token) => Some(token),
            Err(error) => return fail(&error),
        },
        (None, None) => None,
    };
    let Arguments { url, ca, timeout, .. } = arguments;
    let config = Config { url, token, ca, timeout: Duration::from_secs(timeout) };
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

fn print_config(arguments: &Arguments) -> ExitCode {
    let Ok(program) = std::env::current_exe() else {
        complain("where this program is cannot be told; write the entry by hand, see the README");
        return ExitCode::FAILURE;
    };
    let mut words = vec!["bridge".to_owned(), arguments.url.to_string()];
    for (name, path) in [("--ca", &arguments.ca), ("--token-file", &arguments.token_file)] {
        words.extend(path.iter().flat_map(|path| [name.to_owned(), absolute(path).display().to_string()]));
    }
    let server = match &arguments.token_file {
        Some(_) => json!({"command": program, "args": words}),
        None => json!({
            "command": program, "args": words, "env": {"MCP_AUTH_TOKEN": "put the access token or API key here"},
        }),
    };
    let entry = json!({"mcpServers": {"whitelistmcp": server}});
    say(&serde_json::to_string_pretty(&entry).unwrap_or_default());
    ExitCode::SUCCESS
}

/// Claude Desktop starts its servers in a directory of its own.
fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
