//! The command line: chooses a subcommand and exits with what it says. One file a subcommand.

mod audit;
mod bridge;
mod certs;
mod check;
mod doctor;
mod iam;
mod key;
mod login;
mod policy;
mod reconcile;
mod run;
mod volume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use whitelistmcp::error::Chain;

/// Opens, lists, checks and closes IP allow-list rules in AWS EC2 security groups.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the core: gRPC over mTLS in front, AWS behind.
    Core(run::Arguments),
    /// Runs the edge: MCP over HTTP in front, a core behind.
    Edge(run::Arguments),
    /// Runs edge and core in one process.
    Serve(run::Arguments),
    /// Leads from stdin and stdout to a remote server, for Claude Desktop and others that start their servers themselves.
    Bridge(bridge::Arguments),
    /// Logs in to a remote server ahead of the bridge, in a browser or on another machine.
    Login(login::Arguments),
    /// Forgets the login to a remote server, and tells the provider.
    Logout(login::LogoutArguments),
    /// Closes what has ended, once.
    Reconcile(reconcile::Arguments),
    /// Checks a configuration and says in a table what is wrong and where.
    Check(check::Arguments),
    /// Looks at the running service and at everything around it as they are seen from here, and says what to do.
    Doctor(doctor::Arguments),
    /// Makes a CA and certificates to try the service out.
    Certs(certs::Arguments),
    /// Makes API keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Prints what AWS is asked for.
    #[command(subcommand)]
    Iam(iam::Command),
    /// Verifies, shows and replays audit journals, offline.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Checks policies, tests them, and says what they would answer.
    #[command(subcommand)]
    Policy(policy::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Core(arguments) => run::run(&arguments, run::Role::Core),
        Command::Edge(arguments) => run::run(&arguments, run::Role::Edge),
        Command::Serve(arguments) => run::run(&arguments, run::Role::Serve),
        Command::Bridge(arguments) => bridge::run(arguments),
        Command::Login(arguments) => login::login(&arguments),
        Command::Logout(arguments) => login::logout(&arguments),
        Command::Reconcile(arguments) => reconcile::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Certs(arguments) => certs::run(&arguments),
        Command::Key(command) => key::run(&command),
        Command::Iam(command) => iam::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Policy(command) => policy::run(&command),
    }
}

/// The environment, less what is not text: none of our variables would be.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Says on stderr what went wrong, with every cause, and fails.
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    complain(&chain(error));
    ExitCode::FAILURE
}

/// An error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}

#[expect(clippy::print_stderr, reason = "the command line's own words, before or without logging")]
fn complain(text: &str) {
    eprintln!("whitelistmcp: {text}");
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn say(text: &str) {
    println!("{text}");
}
