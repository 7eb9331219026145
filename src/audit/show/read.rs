//! The records of every chain, in the order of their times.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use super::{text, time};
use crate::audit::journal::{JournalError, failed, layout};

/// Every record of a directory.
#[derive(Debug)]
pub struct Records {
    /// The records, each with its time, oldest first.
    pub records: Vec<(Timestamp, Value)>,
    /// What could not be read.
    pub skipped: Vec<Skipped>,
}

/// A line that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// The line's number in it.
    pub line: u64,
}

/// The types that say something of calls or doors.
const SHOWN: [&str; 6] = ["begin", "end", "refused", "decision", "vouched", "observed"];

impl Records {
    /// Reads every chain of a directory, whether or not its process lives.
    pub fn read(directory: &Path) -> Result<Self, JournalError> {
        let chains = layout::chains(directory).map_err(failed(directory, "listed"))?;
        let (mut records, mut skipped) = (Vec::new(), Vec::new());
        for path in chains.values().flat_map(|segments| segments.values()) {
            let mut lines = match layout::read(path) {
                // It has been let go of since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lines => lines.map_err(failed(path, "read"))?,
            };
            let (mut bytes, mut number) = (Vec::new(), 0);
            loop {
                if layout::read_line(&mut lines, &mut bytes).map_err(failed(path, "read"))? == 0 {
                    break;
                }
                number += 1;
                let record = serde_json::from_slice::<Value>(&bytes).ok();
                match record.and_then(|record| Some((time(&record, "at")?, record))) {
                    Some((at, record)) if SHOWN.contains(&text(&record, "type")) => records.push((at, record)),
                    Some(_) => {}
                    // A torn last line says nothing, and `verify` says whether it should be there.
                    None => skipped.push(Skipped { path: path.clone(), line: number }),
                }
            }
        }
        // Within a chain the order is that of its lines, also where a clock stepped back a little.
        records.sort_by_key(|(at, _)| *at);
        Ok(Self { records, skipped })
    }
}
