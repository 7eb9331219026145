//! Is a journal what was written? Answered offline, from the files, and from heads that left the host before.
//!
//! Each line carries the hash of the one before, so a line cannot be changed, put in, taken out or moved without its
//! neighbour saying so. What the chain itself cannot show is that its end is missing: a signed head that somebody keeps
//! elsewhere shows it, and so does the chain of the next process, which records how the one before had ended.

mod chain;
mod claims;
mod heads;

use std::collections::HashSet;
use std::io::{self, BufRead as _};
use std::path::Path;

use serde::Serialize;

use super::head::PublicKey;
use super::journal::{JournalError, failed, layout, read_identity};
use super::unfinished::is_held;
use claims::Claims;

pub use chain::Checked;
pub use heads::{HeadsError, Kept};

/// What is known before anything is read.
#[derive(Debug, Default)]
pub struct Given {
    /// The key that heads must be signed with. Without it the keys that the journal itself names are taken, and whoever
    /// wrote the journal anew could have named theirs.
    pub key: Option<PublicKey>,
    /// Heads that were kept elsewhere.
    pub heads: Vec<Kept>,
}

/// What was found out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The directory's own id.
    pub journal: String,
    /// The chains that there are.
    pub chains: Vec<Checked>,
    /// How many heads that were kept elsewhere were compared with the line that they are of, and agree.
    pub heads: usize,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
    /// What is worth knowing and no sign of a change.
    pub notes: Vec<Finding>,
}

/// Something that was found, and where.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Finding {
    /// A file, or a file and a line.
    pub at: String,
    /// What is wrong there.
    pub what: String,
}

impl Report {
    /// Whether nothing speaks against the journal.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn finding(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.findings.push(Finding { at: at.into(), what: what.into() });
    }

    fn note(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.notes.push(Finding { at: at.into(), what: what.into() });
    }
}

/// How often a directory is looked at again whose files have moved meanwhile.
const AGAIN: usize = 3;

/// Looks at every chain of a directory.
pub fn verify(directory: &Path, given: &Given) -> Result<Report, JournalError> {
    // A service beside it begins files, compresses them and lets go of them. What that made look wrong is looked at again.
    let names = || layout::names(directory).map_err(failed(directory, "listed"));
    for _ in 0..AGAIN {
        let before = names()?;
        let report = look(directory, given)?;
        if report.is_sound() || names()? == before {
            return Ok(report);
        }
    }
    look(directory, given)
}

fn look(directory: &Path, given: &Given) -> Result<Report, JournalError> {
    let chains = layout::chains(directory).map_err(failed(directory, "listed"))?;
    let mut report = Report::default();
    let id = directory.join(layout::ID);
    match read_identity(&id) {
        Ok(journal) => report.journal = journal,
        Err(error) => report.finding(shown(&id), crate::error::Chain(&error).to_string()),
    }
    for path in layout::strangers(directory).map_err(failed(directory, "listed"))? {
        report
            .finding(shown(&path), "it is named like a file of the journal and is none: nobody looks at what it says");
    }
    if chains.is_empty() {
        report.note(shown(directory), "there is no chain in it");
    }
    let mut claims = Claims::default();
    claims.keep(given, &mut report);
    for (chain, segments) in &chains {
        claims.read(chain, segments, &report.journal, given);
    }

    let mut ended = HashSet::new();
    for (chain, segments) in &chains {
        segments.values().for_each(|path| twins(path, &mut report));
        let alive = is_held(&layout::lock(directory, chain));
        chain::check(chain, segments, alive, &claims, given, &mut report, &mut ended);
    }
    for checked in &mut report.chains {
        checked.unended.retain(|call| !ended.contains(call));
    }
    claims.of_chains_that_are_gone(&chains, &mut report);
    claims.of_heads(given, &mut report);
    for open in layout::open_chains(directory).map_err(failed(directory, "listed"))? {
        let lock = layout::lock(directory, &open);
        let known = chains.contains_key(&open) || claims.retired(&open).is_some() || claims.adopted.contains_key(&open);
        if !known {
            report.finding(shown(&lock), "a process began this chain, and none of its files is here");
        }
        match layout::must_be_file(&lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => report.finding(shown(&lock), error.to_string()),
            _ => {}
        }
    }
    Ok(report)
}

/// A path as it is shown: its last part.
fn shown(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A compressed file beside the plain one that it was made of says the same. Only one of them is read otherwise.
fn twins(path: &Path, report: &mut Report) {
    let other = layout::compressed(path);
    if layout::is_compressed(path) || std::fs::symlink_metadata(&other).is_err() {
        return;
    }
    let wrong = match is_same(path, &other) {
        Ok(true) => return,
        // The plain one went meanwhile: it was being compressed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Ok(false) => "it stands beside a plain file of the same number, and does not say the same".to_owned(),
        Err(error) => format!("it stands beside a plain file of the same number, and cannot be compared: {error}"),
    };
    report.finding(shown(&other), wrong);
}

fn is_same(plain: &Path, compressed: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (layout::read_exactly(plain)?, layout::read_exactly(compressed)?);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}

#[cfg(test)]
mod tests;
