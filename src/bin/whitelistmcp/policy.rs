//! `policy`: policies checked, tested against a table of expected decisions, and asked a question offline. The decisions
//! are those of a running core: the same code, on facts that the command line or the table states.

mod ask;
mod explain;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use whitelistmcp::policy::{Config, Policy};

use crate::{fail, say};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Checks policies: that they parse, fit the schema, and can be named in a refusal.
    Check(CheckArguments),
    /// Runs a table of expected decisions and says which are others.
    Test(table::Arguments),
    /// Answers whether somebody may do something, and by which policies.
    Explain(Box<explain::Arguments>),
}

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// A file of Cedar policies, or a directory of files named `*.cedar`.
    file: PathBuf,
}

pub(crate) fn run(command: &Command) -> ExitCode {
    match command {
        Command::Check(arguments) => check(arguments),
        Command::Test(arguments) => table::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
    }
}

fn check(arguments: &CheckArguments) -> ExitCode {
    match Policy::load(&Config { file: Some(arguments.file.clone()), ..Config::default() }) {
        Ok(policy) => {
            say(&format!("{} policies are sound.", policy.len()));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}
