//! Sending the journal's lines to the receiver of telemetry once more: those that it has not taken, or all of a time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Deserialize;

use super::journal::{JournalError, failed, layout};
use super::leave::event_of;
use super::taken::{self, Lines};
use super::unfinished::is_held;
use crate::telemetry::records::{self, Line, Severity};

/// How many lines are handed over before they are waited for: fewer than the queue of the exporter takes.
const AT_ONCE: u64 = 512;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// How many lines were handed over.
    pub sent: u64,
    /// How many of them the receiver has taken.
    pub taken: u64,
    /// How many it had taken before.
    pub known: u64,
    /// How many cannot be sent, since they are no lines of a journal.
    pub unreadable: u64,
}

/// As much of a line as a log record says besides.
#[derive(Deserialize)]
struct Said {
    seq: u64,
    at: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    call: String,
    trace: Option<String>,
    span: Option<String>,
}

type ByChain = Arc<Mutex<BTreeMap<String, Lines>>>;

/// Sends what the receiver has not taken; with `since`, everything from then on. `flush` waits for what was handed over.
pub fn replay(directory: &Path, since: Option<Timestamp>, flush: impl Fn()) -> Result<Replayed, JournalError> {
    let confirmed = ByChain::default();
    let told = Arc::clone(&confirmed);
    records::on_taken(move |chain, seq| {
        told.lock().unwrap_or_else(PoisonError::into_inner).entry(chain.to_owned()).or_default().insert(seq);
    });
    let mut replayed = Replayed::default();
    for (chain, segments) in layout::chains(directory).map_err(failed(directory, "listed"))? {
        let noted = layout::taken(directory, &chain);
        let mut known = taken::read(&noted).map_err(failed(&noted, "read"))?;
        // Who notes more lines than there are is not believed about the others: rather twice than never.
        if known.last() > last_of(&segments)? {
            known = Lines::default();
        }
        let before = replayed.sent;
        for path in segments.values() {
            let Some(mut lines) = lines_of(path)? else { continue };
            let mut bytes = Vec::new();
            while is_whole(&mut lines, &mut bytes).map_err(failed(path, "read"))? {
                let (Some((said, at)), Ok(text)) = (said(&bytes), std::str::from_utf8(&bytes)) else {
                    replayed.unreadable += 1;
                    continue;
                };
                let wanted = match since {
                    Some(since) => at >= since,
                    None => !known.contains(said.seq),
                };
                if !wanted {
                    replayed.known += u64::from(known.contains(said.seq));
                    continue;
                }
                send(&chain, &said, at, text);
                replayed.sent += 1;
                if (replayed.sent - before).is_multiple_of(AT_ONCE) {
                    flush();
                }
            }
        }
        flush();
        let mut now = known;
        if let Some(new) = confirmed.lock().unwrap_or_else(PoisonError::into_inner).remove(&chain) {
            replayed.taken += new.count();
            now.extend(&new);
        }
        // A living process keeps its own account.
        if replayed.sent > before && !is_held(&layout::lock(directory, &chain)) {
            taken::write(&noted, &now).map_err(failed(&noted, "written"))?;
        }
    }
    Ok(replayed)
}

/// The lines of a file; none if it was let go of since it was listed.
fn lines_of(path: &Path) -> Result<Option<Box<dyn io::BufRead + Send>>, JournalError> {
    match layout::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        lines => lines.map(Some).map_err(failed(path, "read")),
    }
}

/// Reads the next line without its line feed; not one that is torn.
fn is_whole(lines: &mut impl io::BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    Ok(layout::read_line(lines, bytes)? > 0 && bytes.pop_if(|byte| *byte == b'\n').is_some())
}

/// The number of a chain's last line; 0 if it has none.
fn last_of(segments: &BTreeMap<u32, PathBuf>) -> Result<u64, JournalError> {
    let (mut last, mut bytes) = (0, Vec::new());
    // The last file may have been begun, and nothing written in it.
    for path in segments.values().rev() {
        let Some(mut lines) = lines_of(path)? else { continue };
        while is_whole(&mut lines, &mut bytes).map_err(failed(path, "read"))? {
            last = said(&bytes).map_or(last, |(said, _)| last.max(said.seq));
        }
        if last > 0 {
            break;
        }
    }
    Ok(last)
}

fn said(line: &[u8]) -> Option<(Said, Timestamp)> {
    let said: Said = serde_json::from_slice(line).ok()?;
    let at = said.at.parse().ok()?;
    Some((said, at))
}

fn send(chain: &str, said: &Said, at: Timestamp, text: &str) {
    let attributes = [("whitelistmcp.call", said.call.as_str())];
    records::send_line(&Line {
        event: event_of(&said.kind),
        at,
        chain,
        seq: said.seq,
        text,
        trace_id: said.trace.as_deref(),
        span_id: said.span.as_deref(),
        attributes: if said.call.is_empty() { &[] } else { &attributes },
        severity: Severity::Info,
        replayed: true,
    });
}
