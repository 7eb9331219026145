//! The records of every chain, in the order of their times.

use std::fmt;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use super::{text, time};
use crate::audit::journal::{JournalError, failed, layout};

/// Every record of a directory.
#[derive(Debug)]
pub struct Records {
    /// The records, each with its time, oldest first. Within a chain the order is that of its lines, also where a clock
    /// stepped back.
    pub records: Vec<(Timestamp, Value)>,
    /// What could not be read.
    pub skipped: Vec<Skipped>,
}

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// The line's number in it, or that of the first of those that are left out.
    pub line: u64,
    /// What is wrong.
    pub what: Damage,
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The last line has no end: its process was killed, or writes it now. Nothing was done on its word.
    Torn,
    /// A line is none of a journal.
    Line,
    /// The file cannot be read from there on.
    File(String),
}

/// The types that say something of calls or doors.
const SHOWN: [&str; 6] = ["begin", "end", "refused", "decision", "vouched", "observed"];

/// A record under way: the latest time that its chain has told by then, its own time, and itself.
pub(super) type Timed = (Timestamp, Timestamp, Value);

impl Skipped {
    /// Whether something that was written is not shown.
    pub fn is_loss(&self) -> bool {
        self.what != Damage::Torn
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ", self.path.display(), self.line)?;
        match &self.what {
            Damage::Torn => f.write_str("is a line that was not written to its end"),
            Damage::Line => f.write_str("cannot be read"),
            Damage::File(error) => write!(f, "and what follows in this file cannot be read: {error}"),
        }
    }
}

impl Records {
    /// Reads every chain of a directory, whether or not its process lives. What cannot be read is skipped, and told.
    pub fn read(directory: &Path) -> Result<Self, JournalError> {
        let list = || layout::chains(directory).map_err(failed(directory, "listed"));
        let mut chains = list()?;
        // A file that is compressed while its directory is listed may show by neither name: the second look has it.
        for (chain, segments) in list()? {
            let known = chains.entry(chain).or_default();
            for (number, path) in segments {
                known.entry(number).or_insert(path);
            }
        }
        let (mut timed, mut skipped) = (Vec::<Timed>::new(), Vec::new());
        for segments in chains.values() {
            let mut latest = Timestamp::MIN;
            for path in segments.values() {
                read(path, &mut latest, &mut timed, &mut skipped);
            }
        }
        timed.sort_by_key(|(latest, ..)| *latest);
        Ok(Self { records: timed.into_iter().map(|(_, at, record)| (at, record)).collect(), skipped })
    }
}

/// Reads a file as far as it can be read.
pub(super) fn read(path: &Path, latest: &mut Timestamp, timed: &mut Vec<Timed>, skipped: &mut Vec<Skipped>) {
    let mut skip = |line, what| skipped.push(Skipped { path: path.to_owned(), line, what });
    let mut lines = match open(path) {
        Ok(Some(lines)) => lines,
        Ok(None) => return,
        Err(error) => return skip(1, Damage::File(error.to_string())),
    };
    let (mut bytes, mut number) = (Vec::new(), 0);
    loop {
        number += 1;
        match layout::read_line(&mut lines, &mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return skip(number, Damage::File(error.to_string())),
        }
        let record = serde_json::from_slice::<Value>(&bytes).ok();
        match record.and_then(|record| Some((time(&record, "at")?, record))) {
            Some((at, record)) => {
                *latest = at.max(*latest);
                if SHOWN.contains(&text(&record, "type")) {
                    timed.push((*latest, at, record));
                }
            }
            // `verify` says whether a torn last line should be there.
            None => skip(number, if bytes.ends_with(b"\n") { Damage::Line } else { Damage::Torn }),
        }
    }
}

/// A file's lines; none where it was let go of since it was listed.
fn open(path: &Path) -> io::Result<Option<Box<dyn BufRead + Send>>> {
    match layout::read(path) {
        // A name that leads nowhere is no file that was let go of.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => Ok(None),
        lines => lines.map(Some),
    }
}
