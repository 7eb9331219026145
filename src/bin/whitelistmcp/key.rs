//! `key`: API keys.

use std::process::ExitCode;

use whitelistmcp::annotations::Annotations;
use whitelistmcp::clock::Clock;
use whitelistmcp::identity::api_key::NewKey;
use whitelistmcp::pb::DESCRIPTOR_SET;

use crate::{fail, say};

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Makes a key, and prints it with the entry for the file that `[api_keys]` names. It is kept nowhere.
    New(New),
}

/// Whose key, and what for.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// Who answers for it: a person or a team.
    #[arg(long)]
    owner: String,
    /// What it may ask for.
    #[arg(long, required = true, value_delimiter = ',')]
    scopes: Vec<String>,
    /// For how many days it is good, at most 366.
    #[arg(long)]
    days: u16,
    /// A network that it may be used from; give the option again for more.
    #[arg(long, required = true)]
    network: Vec<String>,
}

pub(crate) fn run(command: &Command) -> ExitCode {
    let Command::New(new) = command;
    let annotations = match Annotations::read(DESCRIPTOR_SET) {
        Ok(annotations) => annotations,
        Err(error) => return fail(&error),
    };
    let known: Vec<String> = annotations.scopes().scopes().map(str::to_owned).collect();
    match NewKey::make(&new.owner, &new.scopes, &new.network, new.days, &known, Clock::system().now()) {
        Ok(key) => {
            say(&format!(
                "The key, shown this once; send it as `Authorization: Bearer …`:\n\n{}\n\nIts entry, for the file that `[api_keys]` names:\n\n{}",
                key.secret(),
                key.entry()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}
