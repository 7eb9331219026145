//! Changes that a former process began and did not live to end.
//!
//! A chain whose lock is free belongs to no living process. What it begins and no chain ends was cut off by a crash, a
//! kill or a power cut. Whoever takes the lock has the chain to itself until everything in it has its end; then the file
//! that is locked goes, and nobody needs to look at the chain again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::journal::{failed, layout};
use super::record::Adopted;
use super::{Journal, JournalError};
use crate::digest::sha256_hex;
use crate::error::Chain;

/// A change that was begun and not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    /// Its call.
    pub call: String,
    /// The tool that was called.
    pub tool: String,
    /// The account that it was about.
    pub account: String,
    /// The Region that it was about.
    pub region: String,
    /// The group that it was about.
    pub group: String,
    /// The id of who asked.
    pub who: String,
    /// When it was begun.
    pub at: Timestamp,
    /// What was asked, as the journal has it.
    pub arguments: Value,
}

/// A chain whose process is gone, held by whoever has this.
#[derive(Debug)]
pub struct Orphan {
    adopted: Adopted,
    unfinished: Vec<Unfinished>,
    lock: File,
    path: PathBuf,
}

/// As much of a line as is needed here.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    seq: u64,
    at: String,
    #[serde(default)]
    call: String,
    #[serde(default)]
    tool: String,
    #[serde(default)]
    changes: bool,
    target: Option<Target>,
    who: Option<Who>,
    #[serde(default)]
    arguments: Value,
}

#[derive(Deserialize)]
struct Who {
    id: String,
}

#[derive(Deserialize)]
struct Target {
    account: String,
    region: String,
    group: Option<String>,
}

// === impl Orphan ===

impl Orphan {
    /// The chain.
    pub fn chain(&self) -> &str {
        &self.adopted.chain
    }

    /// The changes that it began and nobody ended.
    pub fn unfinished(&self) -> &[Unfinished] {
        &self.unfinished
    }

    pub(super) fn adopted(&self) -> Adopted {
        self.adopted.clone()
    }

    /// Lets go of the chain for good.
    pub(super) fn release(self) -> Result<String, JournalError> {
        std::fs::remove_file(&self.path).map_err(failed(&self.path, "removed"))?;
        drop(self.lock);
        Ok(self.adopted.chain)
    }
}

/// The chains beside the journal's own whose processes are gone. One that cannot be read keeps nobody from the others.
pub(super) fn orphans(journal: &Journal) -> Result<Vec<Orphan>, JournalError> {
    let directory = journal.directory();
    let open = layout::open_chains(directory).map_err(failed(directory, "listed"))?;
    let mut orphans = Vec::new();
    for chain in open.into_iter().filter(|chain| chain != journal.chain()) {
        match orphan_of(directory, &chain) {
            Ok(found) => orphans.extend(found),
            Err(error) => {
                tracing::error!(chain, error = %Chain(&error), "a former process's journal cannot be read: what it began is not recovered");
            }
        }
    }
    Ok(orphans)
}

/// A chain, if its process is gone.
fn orphan_of(directory: &Path, chain: &str) -> Result<Option<Orphan>, JournalError> {
    let path = layout::lock(directory, chain);
    let lock = take(&path).map_err(failed(&path, "locked"))?;
    lock.map(|lock| orphan(directory, chain.to_owned(), lock, path)).transpose()
}

/// Takes a lock that is free; none if somebody holds it, or did until just now and has finished.
fn take(path: &Path) -> io::Result<Option<File>> {
    match layout::must_be_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // No process of ours holds what is no file; `verify` names it.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        checked => checked?,
    }
    let file = match File::options().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) => {}
    }
    let held = file.metadata()?;
    let is_there = std::fs::metadata(path).is_ok_and(|is| layout::known_as(&is) == layout::known_as(&held));
    Ok(is_there.then_some(file))
}

/// Whether a living process holds a chain.
pub(super) fn is_held(lock: &Path) -> bool {
    layout::open(lock).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn orphan(directory: &Path, chain: String, lock: File, path: PathBuf) -> Result<Orphan, JournalError> {
    let chains = layout::chains(directory).map_err(failed(directory, "listed"))?;
    let segments = chains.get(&chain).cloned().unwrap_or_default();
    let mut seen = Seen::default();
    for segment in segments.values() {
        let lines = layout::read(segment).map_err(failed(segment, "read"))?;
        seen.read(lines).map_err(failed(segment, "read"))?;
    }
    // Somebody may have written their ends, and been cut off before they could say that all is done.
    for segment in chains.iter().filter(|(other, _)| **other != chain).flat_map(|(_, segments)| segments.values()) {
        if seen.begun.is_empty() {
            break;
        }
        let Some(lines) = read_listed(segment).map_err(failed(segment, "read"))? else { continue };
        strike_ended(lines, &mut seen.begun).map_err(failed(segment, "read"))?;
    }
    let unfinished: Vec<Unfinished> = seen.begun.into_values().collect();
    let adopted = Adopted {
        chain,
        last: seen.seq,
        sha256: seen.sha256,
        torn: seen.torn,
        unfinished: unfinished.iter().map(|change| change.call.clone()).collect(),
    };
    Ok(Orphan { adopted, unfinished, lock, path })
}

/// A segment that was listed a moment ago, and may have been compressed since; none if it was old, and has been let go of.
fn read_listed(segment: &Path) -> io::Result<Option<Box<dyn BufRead + Send>>> {
    let lines = layout::read(segment).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound if !layout::is_compressed(segment) => layout::read(&layout::compressed(segment)),
        _ => Err(error),
    });
    match lines {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        lines => lines.map(Some),
    }
}

/// Which of these calls the directory has the begin of, and whether it says there that the call was not done. The youngest
/// file is looked at first, and each no more than once. A call that is older than what is kept may have had one.
pub(super) fn has_entries(
    journal: &Journal,
    mut wanted: HashSet<String>,
) -> Result<HashMap<String, bool>, JournalError> {
    let directory = journal.directory();
    let mut found: HashMap<String, bool> = match journal.oldest_kept() {
        Some(oldest) => {
            let older = wanted.extract_if(|call| made_at(call).is_some_and(|made| made < oldest));
            older.map(|call| (call, false)).collect()
        }
        None => HashMap::new(),
    };
    let mut not_done = HashSet::new();
    let chains = layout::chains(directory).map_err(failed(directory, "listed"))?;
    for path in chains.values().rev().flat_map(|segments| segments.values().rev()) {
        if wanted.is_empty() {
            break;
        }
        let Some(mut lines) = read_listed(path).map_err(failed(path, "read"))? else { continue };
        let mut bytes = Vec::new();
        while layout::read_line(&mut lines, &mut bytes).map_err(failed(path, "read"))? > 0 {
            let line = String::from_utf8_lossy(&bytes);
            // Where the call stands is the format's; the rest of the line need not be read for it.
            let call_after =
                |start| line.split_once(start).and_then(|(_, rest)| rest.split_once('"')).map(|(call, _)| call);
            if let Some(call) = call_after(BEGIN).and_then(|call| wanted.take(call)) {
                found.insert(call, false);
            } else if let Some(call) = call_after(END).filter(|_| line.contains(NOT_DONE)) {
                not_done.insert(call.to_owned());
            }
        }
    }
    for (call, said) in &mut found {
        *said = not_done.contains(call);
    }
    Ok(found)
}

/// When a call was made: its id (UUID version 7) says so.
fn made_at(call: &str) -> Option<Timestamp> {
    let (seconds, nanos) = uuid::Uuid::try_parse(call).ok()?.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

/// What stands before a call's id in the line that begins it.
const BEGIN: &str = r#""type":"begin","call":""#;
/// What a line that ends a call has in it.
const END: &str = r#""type":"end","call":""#;

/// And one that says that the call was not done.
const NOT_DONE: &str = r#""outcome":"not_done""#;

/// What a chain says.
#[derive(Debug, Default)]
struct Seen {
    begun: BTreeMap<String, Unfinished>,
    seq: u64,
    sha256: String,
    torn: u64,
}

impl Seen {
    fn read(&mut self, mut lines: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            if layout::read_line(&mut lines, &mut bytes)? == 0 {
                return Ok(());
            }
            // The last line of a file whose process was killed may be torn: it was never acted on.
            if bytes.pop_if(|byte| *byte == b'\n').is_none() {
                self.torn = bytes.len() as u64;
                return Ok(());
            }
            let Ok(line) = serde_json::from_slice::<Line>(&bytes) else { continue };
            (self.seq, self.sha256) = (line.seq, sha256_hex(&bytes));
            match (line.kind.as_str(), line.target) {
                ("begin", Some(Target { account, region, group: Some(group) })) if line.changes => {
                    let Line { call, tool, at, who, arguments, .. } = line;
                    let who = who.map(|who| who.id).unwrap_or_default();
                    let Ok(at) = at.parse() else { continue };
                    self.begun
                        .insert(call.clone(), Unfinished { call, tool, account, region, group, who, at, arguments });
                }
                ("end", _) => drop(self.begun.remove(&line.call)),
                _ => {}
            }
        }
    }
}

/// Takes out what some line ends.
fn strike_ended(mut lines: impl BufRead, begun: &mut BTreeMap<String, Unfinished>) -> io::Result<()> {
    let mut bytes = Vec::new();
    while layout::read_line(&mut lines, &mut bytes)? > 0 {
        let line = String::from_utf8_lossy(&bytes);
        if let Some((call, _)) = line.split_once(END).and_then(|(_, rest)| rest.split_once('"')) {
            begun.remove(call);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_not_ended_is_found() {
        let begin = |call: &str, changes: bool| {
            format!(
                r#"{{"v":2,"seq":2,"prev":"00","at":"2027-01-01T00:00:00Z","type":"begin","call":"{call}","tool":"whitelist_add","target":{{"account":"123456789012","region":"eu-central-1","group":"sg-00000000"}},"arguments":{{"x":1}},"changes":{changes}}}"#
            )
        };
        let end = r#"{"v":2,"seq":3,"prev":"00","at":"2027-01-01T00:00:00Z","type":"end","call":"b","outcome":"done"}"#;
        let torn = r#"{"v":2,"seq":4,"pre"#;
        let text = [begin("a", true), begin("b", true), begin("c", false), end.to_owned(), torn.to_owned()].join("\n");
        let mut seen = Seen::default();
        seen.read(text.as_bytes()).expect("it reads");
        assert_eq!(seen.begun.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(seen.begun["a"].group, "sg-00000000");
        assert_eq!((seen.seq, seen.torn), (3, torn.len() as u64));
        assert_eq!(seen.sha256, sha256_hex(end));
        strike_ended(end.as_bytes(), &mut seen.begun).expect("it reads");
        assert_eq!(seen.begun.len(), 1);
        strike_ended(end.replace("\"b\"", "\"a\"").as_bytes(), &mut seen.begun).expect("it reads");
        assert!(seen.begun.is_empty());
    }

    #[test]
    fn a_call_says_when_it_was_made() {
        assert_eq!(made_at("01980000-0000-7000-8000-000000000001").map(|at| at.as_second()), Some(1_752_346_656));
        assert_eq!(made_at("x"), None);
    }
}
