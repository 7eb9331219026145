//! The command line: chooses a subcommand and exits with what it says. One file a subcommand. Without arguments `mode`
//! chooses.

mod audit;
mod bridge;
mod certs;
mod check;
mod doctor;
mod health;
mod iam;
mod key;
mod lambda;
mod login;
mod mode;
mod policy;
mod reconcile;
mod reference;
mod run;
mod stdio;
mod volume;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
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
    /// Takes the events of a function of AWS Lambda: requests, a TOKEN authorizer's, and a schedule's.
    Lambda(lambda::Arguments),
    /// Leads from stdin and stdout to a remote server, for Claude Desktop and others that start their servers themselves.
    Bridge(bridge::Arguments),
    /// Logs in to a remote server ahead of the bridge, in a browser or on another machine.
    Login(login::Arguments),
    /// Forgets the login to a remote server, and tells the provider.
    Logout(login::LogoutArguments),
    /// Serves MCP over stdin and stdout to one person, with their own AWS profile and without a server.
    Stdio(stdio::Arguments),
    /// Closes what has ended, once.
    Reconcile(reconcile::Arguments),
    /// Checks a configuration and says in a table what is wrong and where.
    Check(check::Arguments),
    /// Looks at the running service and at everything around it as they are seen from here, and says what to do.
    Doctor(doctor::Arguments),
    /// Asks the service that runs on this host whether it is alive or ready: one line, and 0 or 1 as the exit code.
    Health(health::Arguments),
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
    /// Prints the reference of the configuration, and its JSON Schema.
    #[command(subcommand)]
    Reference(reference::Command),
}

fn main() -> ExitCode {
    if std::env::args_os().len() <= 1 {
        return mode::run();
    }
    match read(std::env::args_os()) {
        Ok(command) => command.run(),
        Err(said) => said,
    }
}

/// Reads a command line, and the variables that stand in for what it leaves out. One that is empty stands for nothing: that
/// is how compose files and bundles pass on what was not set.
fn read(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Command, ExitCode> {
    let matches = with_set_variables(Arguments::command()).try_get_matches_from(words);
    let read = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    read.map(|arguments| arguments.command).map_err(|error| {
        // Nobody to tell it to is no worse than what it says.
        error.print().unwrap_or_default();
        if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
    })
}

fn with_set_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|argument| match argument.get_env() {
        Some(name) if is_empty(name) => argument.env(None::<&'static str>),
        _ => argument,
    });
    command.mut_subcommands(with_set_variables)
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Self::Core(arguments) => run::run(&arguments, run::Role::Core),
            Self::Edge(arguments) => run::run(&arguments, run::Role::Edge),
            Self::Serve(arguments) => run::run(&arguments, run::Role::Serve),
            Self::Lambda(arguments) => lambda::run(&arguments),
            Self::Bridge(arguments) => bridge::run(arguments),
            Self::Login(arguments) => login::login(&arguments),
            Self::Logout(arguments) => login::logout(&arguments),
            Self::Stdio(arguments) => stdio::run(&arguments),
            Self::Reconcile(arguments) => reconcile::run(&arguments),
            Self::Check(arguments) => check::run(&arguments),
            Self::Doctor(arguments) => doctor::run(&arguments),
            Self::Health(arguments) => health::run(&arguments),
            Self::Certs(arguments) => certs::run(&arguments),
            Self::Key(command) => key::run(&command),
            Self::Iam(command) => iam::run(&command),
            Self::Audit(command) => audit::run(&command),
            Self::Policy(command) => policy::run(&command),
            Self::Reference(command) => reference::run(command),
        }
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

/// Says what the command was asked for. Whoever has stopped reading, such as `head`, has read enough.
#[expect(clippy::exit, reason = "what was asked for cannot be said, and no command can go on without")]
fn say(text: &str) {
    use std::io::Write as _;
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        complain(&format!("the answer cannot be written: {error}"));
        std::process::exit(1);
    }
}
