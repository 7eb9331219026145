//! Sending the journal's lines to the receiver of telemetry once more: those that it has not taken, or all of a time.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
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
        let known = taken::read(&noted).map_err(failed(&noted, "read"))?;
        let before = replayed.sent;
        for path in segments.values() {
            let mut lines = layout::read(path).map_err(failed(path, "read"))?;
            let mut bytes = Vec::new();
            loop {
                bytes.clear();
                if lines.read_until(b'\n', &mut bytes).map_err(failed(path, "read"))? == 0 {
                    break;
                }
                if bytes.pop_if(|byte| *byte == b'\n').is_none() {
                    break;
                }
                let Some((said, at)) = said(&bytes) else { continue };
                let wanted = match since {
                    Some(since) => at >= since,
                    None => !known.contains(said.seq),
                };
                if !wanted {
                    replayed.known += u64::from(known.contains(said.seq));
                    continue;
                }
                send(&chain, &said, at, std::str::from_utf8(&bytes).unwrap_or_default());
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
