//! `stdio`: the whole service for one person, over stdin and stdout, with their own AWS profile.

use std::path::PathBuf;
use std::process::ExitCode;

/// What is different from the default.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file; `whitelistmcp/config.toml` in the configuration directory of the person, if there is one.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: Option<PathBuf>,
}

pub(crate) fn run(_arguments: &Arguments) -> ExitCode {
    crate::complain("not yet");
    ExitCode::FAILURE
}
