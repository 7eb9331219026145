//! Changes that a former process began and did not live to end.
//!
//! A journal file whose lock is free belongs to no living process. What it begins and no file ends was cut off by a
//! crash, a kill or a power cut.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::JournalError;

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

/// As much of a line as is needed here.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
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

/// Reads every file beside `own`, oldest first.
pub(super) fn read(own: &Path) -> Result<Vec<Unfinished>, JournalError> {
    let failed = |path: &Path, action| {
        let path = path.to_owned();
        move |source| JournalError::File { path, action, source: Arc::new(source) }
    };
    let files = files(own)?;
    let mut begun = BTreeMap::new();
    for path in files.iter().filter(|path| *path != own) {
        let file = File::open(path).map_err(failed(path, "read"))?;
        // A file that is locked has a living process, which ends its own; what it says of others still counts.
        let dead = file.try_lock_shared().is_ok();
        scan(BufReader::new(file), dead, &mut begun).map_err(failed(path, "read"))?;
    }
    Ok(begun.into_values().collect())
}

/// Every journal beside `own` and itself, oldest first: the names hold the time at which a file was opened.
fn files(own: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let Some(directory) = own.parent() else { return Ok(Vec::new()) };
    let failed = |source| JournalError::File { path: directory.to_owned(), action: "listed", source: Arc::new(source) };
    let mut files = Vec::new();
    for file in std::fs::read_dir(directory).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("journal-") && name.ends_with(".jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Which of these calls some journal has the begin of. The youngest file is looked at first, and each no more than once.
pub(super) fn has_entries(own: &Path, mut wanted: HashSet<String>) -> Result<HashSet<String>, JournalError> {
    let mut found = HashSet::new();
    for path in files(own)?.iter().rev() {
        if wanted.is_empty() {
            break;
        }
        let failed = |source| JournalError::File { path: path.clone(), action: "read", source: Arc::new(source) };
        let file = File::open(path).map_err(failed)?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(failed)?;
            // Where the call stands is the format's; the rest of the line need not be read for it.
            let call = line.split_once(BEGIN).and_then(|(_, rest)| rest.split_once('"')).map(|(call, _)| call);
            found.extend(call.and_then(|call| wanted.take(call)));
        }
    }
    Ok(found)
}

/// What stands before a call's id in the line that begins it.
const BEGIN: &str = r#""type":"begin","call":""#;

fn scan(mut lines: impl BufRead, dead: bool, begun: &mut BTreeMap<String, Unfinished>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if lines.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        // The last line of a file whose process was killed may be torn: it was never acted on.
        let Ok(line) = serde_json::from_slice::<Line>(&bytes) else { continue };
        match (line.kind.as_str(), line.target) {
            ("begin", Some(Target { account, region, group: Some(group) })) if line.changes && dead => {
                let Line { call, tool, at, who, arguments, .. } = line;
                let who = who.map(|who| who.id).unwrap_or_default();
                let Ok(at) = at.parse() else { continue };
                begun.insert(call.clone(), Unfinished { call, tool, account, region, group, who, at, arguments });
            }
            ("end", _) => drop(begun.remove(&line.call)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_not_ended_is_found() {
        let begin = |call: &str, changes: bool| {
            format!(
                r#"{{"v":1,"seq":2,"prev":"00","at":"2027-01-01T00:00:00Z","type":"begin","call":"{call}","tool":"whitelist_add","target":{{"account":"123456789012","region":"eu-central-1","group":"sg-00000000"}},"arguments":{{"x":1}},"changes":{changes}}}"#
            )
        };
        let end = r#"{"v":1,"seq":3,"prev":"00","at":"2027-01-01T00:00:00Z","type":"end","call":"b","outcome":"done"}"#;
        let torn = r#"{"v":1,"seq":4,"pre"#;
        let text = [begin("a", true), begin("b", true), begin("c", false), end.to_owned(), torn.to_owned()].join("\n");
        let mut begun = BTreeMap::new();
        scan(text.as_bytes(), true, &mut begun).expect("it reads");
        assert_eq!(begun.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(begun["a"].group, "sg-00000000");
        scan(end.replace("\"b\"", "\"a\"").as_bytes(), false, &mut begun).expect("it reads");
        assert!(begun.is_empty());
        scan(begin("d", true).as_bytes(), false, &mut begun).expect("it reads");
        assert!(begun.is_empty(), "its process is alive");
    }
}
