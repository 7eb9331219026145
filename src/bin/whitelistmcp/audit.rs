//! `audit`: the journal, offline: is it whole, what does it say, and what has a receiver missed.

mod show;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use whitelistmcp::audit::head::{PublicKey, SigningKey};
use whitelistmcp::audit::replay::replay;
use whitelistmcp::audit::verify::{Given, Kept, Report, verify};
use whitelistmcp::config::Config;
use whitelistmcp::telemetry::{self, Telemetry};

use crate::{complain, fail, say};

/// Something to do with a journal.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Finds out whether a journal is what was written: edits, gaps, swaps, cuts and rollbacks, and where they are.
    Verify(Verify),
    /// Shows calls, or with --doors the rules that stood open.
    Show(show::Arguments),
    /// Sends to the OTLP receiver that `OTEL_EXPORTER_OTLP_ENDPOINT` names what it has not taken.
    Replay(Replay),
    /// Makes a key to sign heads with (`[audit] signing_key`), and prints its public half.
    Key(Key),
}

/// Where a journal is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Place {
    /// The directory of journals, whatever a configuration says.
    #[arg(long, short)]
    directory: Option<PathBuf>,
    /// The configuration whose `[audit] directory` it is.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    place: Place,
    /// A file with heads that were kept elsewhere: lines of the journal, log records in JSON, or heads. May be repeated.
    #[arg(long)]
    heads: Vec<PathBuf>,
    /// The public half of the key that heads must be signed with (PEM, or base64).
    #[arg(long)]
    key: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    place: Place,
    /// Sends everything from then on, whether or not it was taken before: a time, a date, or how long ago.
    #[arg(long)]
    since: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Key {
    /// The file to write the key to. It must not be there yet.
    #[arg(long)]
    out: PathBuf,
}

pub(crate) fn run(command: &Command) -> ExitCode {
    match command {
        Command::Verify(arguments) => verified(arguments),
        Command::Show(arguments) => show::run(arguments),
        Command::Replay(arguments) => replayed(arguments),
        Command::Key(Key { out }) => match SigningKey::create(out) {
            Ok(key) => {
                say(key.public().to_pem().trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        },
    }
}

impl Place {
    /// The directory; says what is wrong where there is none.
    fn directory(&self) -> Result<PathBuf, ExitCode> {
        let directory = match (&self.directory, &self.config) {
            (Some(directory), _) => Some(directory.clone()),
            (None, Some(path)) => {
                let config = Config::load(path, crate::environment()).map_err(|error| fail(&error))?;
                config.audit.directory
            }
            (None, None) => None,
        };
        let directory = directory.ok_or_else(|| {
            complain("the configuration names no `[audit] directory`");
            ExitCode::FAILURE
        })?;
        if directory.is_dir() {
            return Ok(directory);
        }
        complain(&format!("{} is not a directory", directory.display()));
        Err(ExitCode::FAILURE)
    }
}

fn verified(arguments: &Verify) -> ExitCode {
    let directory = match arguments.place.directory() {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let mut given = Given::default();
    for path in &arguments.heads {
        match Kept::read(path) {
            Ok(heads) => given.heads.extend(heads),
            Err(error) => return fail(&error),
        }
    }
    match arguments.key.as_deref().map(PublicKey::from_file).transpose() {
        Ok(key) => given.key = key,
        Err(error) => return fail(&error),
    }
    match verify(&directory, &given) {
        Ok(report) => {
            if arguments.json {
                let text = serde_json::to_string_pretty(&report).unwrap_or_default();
                // What JSON itself does not escape stands in strings only.
                say(&visible(
                    &text,
                    |c| c > '~',
                    |c| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
                ));
            } else {
                tell(&report, &given);
            }
            if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&error),
    }
}

/// Text from files without what a terminal would obey or hide: controls, changes of direction, and what has no width.
fn visible(text: &str, which: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{180b}'..='\u{180f}'
                    | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                    | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
            )
    };
    let shown = |c: char| if hidden(c) && which(c) { escape(c) } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn tell(report: &Report, given: &Given) {
    let say = |line: &str| say(&visible(line, |_| true, |c| c.escape_unicode().to_string()));
    for chain in &report.chains {
        say(&format!(
            "chain {}: lines {} to {}, {} signed heads, {} lines behind the last, ends {}; head {}",
            chain.chain, chain.first, chain.last, chain.signed, chain.unsigned, chain.ends, chain.sha256
        ));
        for call in &chain.unended {
            say(&format!("  begun and not ended: {call}"));
        }
    }
    for note in &report.notes {
        say(&format!("note: {}: {}", note.at, note.what));
    }
    for finding in &report.findings {
        say(&format!("WRONG: {}: {}", finding.at, finding.what));
    }
    if given.key.is_none() {
        say(
            "note: no key was given, so the keys that the journal names were taken: whoever wrote it anew could name theirs",
        );
    }
    if given.heads.is_empty() {
        say("note: no heads that were kept elsewhere were given, so a missing end of a chain may not show");
    }
    say(&match report.findings.len() {
        0 if given.heads.is_empty() => format!("journal {}: nothing speaks against it", report.journal),
        0 => format!(
            "journal {}: nothing speaks against it; {} of {} heads kept elsewhere were compared, and agree",
            report.journal,
            report.heads,
            given.heads.len()
        ),
        wrong => format!("journal {}: {wrong} things are not as they were written", report.journal),
    });
}

fn replayed(arguments: &Replay) -> ExitCode {
    let directory = match arguments.place.directory() {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let since = match arguments.since.as_deref().map(show::moment).transpose() {
        Ok(since) => since,
        Err(wrong) => {
            complain(&wrong);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let _entered = runtime.enter();
    if !telemetry::receiver_named() {
        complain("no receiver is named: set OTEL_EXPORTER_OTLP_ENDPOINT, as for the service itself");
        return ExitCode::FAILURE;
    }
    let telemetry = match Telemetry::start(&telemetry::Config::default(), "audit") {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(&error),
    };
    let result = replay(&directory, since, || telemetry.flush());
    telemetry.shutdown();
    match result {
        Ok(replayed) => {
            say(&format!(
                "{} lines sent, {} taken by the receiver; {} were taken before",
                replayed.sent, replayed.taken, replayed.known
            ));
            if replayed.unreadable > 0 {
                complain(&format!(
                    "{} lines are no lines of a journal, and were not sent: `audit verify` says which",
                    replayed.unreadable
                ));
                return ExitCode::FAILURE;
            }
            if replayed.taken >= replayed.sent { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_neither_obeys_nor_hides_what_a_file_says() {
        let shown = |text: &str| visible(text, |_| true, |c| c.escape_unicode().to_string());
        assert_eq!(shown("a\u{1b}[2J\r\u{202e}b\u{200b}\u{9b}"), "a\\u{1b}[2J\\u{d}\\u{202e}b\\u{200b}\\u{9b}");
        assert_eq!(shown("Zoë 世界"), "Zoë 世界");
    }
}
