//! What the edge refuses before any core hears of it, as events: a bad token, a foreign page, too many requests, a message
//! that is none.
//!
//! They are no part of the audit journal: a flood of them must never fill it, nor stop a change. They go to a file of the edge's own,
//! bounded in size, and leave by OTLP. Of those that are alike the first are written down one by one; the rest of
//! the minute is one record that says how many there were. Nobody waits for any of it: what a thread cannot take in time is
//! left out, and counted.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::telemetry::records::{self, Severity};

/// How many events may wait for the thread.
const QUEUE: usize = 1024;
/// How many that are alike are written one by one, within a minute.
const ONE_BY_ONE: u64 = 5;
/// For how long those that are alike are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// How many reasons and addresses are told apart. Those that are more are counted by reason alone.
const KEYS_MOST: usize = 4096;
/// The most bytes of a text in an event.
const TEXT_MOST: usize = 200;

/// `[edge.events]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file; without one the events leave by OTLP alone.
    pub file: Option<PathBuf>,
    /// How large it may become before the next one is begun, in bytes.
    pub max_bytes: u64,
    /// How many are kept besides the one that is written.
    pub older: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { file: None, max_bytes: 10 * 1024 * 1024, older: 4 }
    }
}

/// Takes events. Clones hand them to the same thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Events {
    queue: SyncSender<Event>,
    left_out: Arc<AtomicU64>,
}

/// Something that was refused.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// The stable reason.
    pub(super) reason: &'static str,
    /// The HTTP status that it was answered with.
    pub(super) status: u16,
    /// The address that it came from.
    pub(super) address: Option<IpAddr>,
    /// Who asked, where that is proven: never what a token that was refused says.
    pub(super) who: Option<String>,
    /// What was wrong, in our own words.
    pub(super) text: String,
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(rename = "type")]
    kind: &'static str,
    reason: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<&'a str>,
    text: &'a str,
    /// How many there were that are not written one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    counted: Option<u64>,
    /// How many came too fast to be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
}

struct Repeated {
    since: Instant,
    written: u64,
    counted: u64,
    last: Event,
}

struct Recorder {
    config: Config,
    clock: Clock,
    file: Option<(File, u64)>,
    known: HashMap<(&'static str, Option<IpAddr>), Repeated>,
    left_out: Arc<AtomicU64>,
}

impl Events {
    /// Opens the file, where one is configured, and starts the thread.
    pub(super) fn start(config: Config, clock: Clock) -> io::Result<Self> {
        let file = config.file.as_deref().map(open).transpose()?;
        let (queue, events) = sync_channel(QUEUE);
        let left_out = Arc::<AtomicU64>::default();
        let recorder = Recorder { config, clock, file, known: HashMap::new(), left_out: Arc::clone(&left_out) };
        std::thread::Builder::new().name("edge-events".to_owned()).spawn(move || recorder.run(&events))?;
        Ok(Self { queue, left_out })
    }

    /// Hands an event over. Never waits.
    pub(super) fn refused(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

impl Recorder {
    fn run(mut self, events: &Receiver<Event>) {
        loop {
            match events.recv_timeout(Duration::from_secs(1)) {
                Ok(event) => self.take(event, Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_counted(false, Instant::now());
        }
        self.tell_counted(true, Instant::now());
    }

    fn take(&mut self, mut event: Event, now: Instant) {
        let end = event.text.floor_char_boundary(TEXT_MOST);
        event.text.truncate(end);
        let key = (event.reason, event.address);
        let key =
            if self.known.len() < KEYS_MOST || self.known.contains_key(&key) { key } else { (event.reason, None) };
        let repeated = self.known.entry(key).or_insert_with(|| Repeated {
            since: now,
            written: 0,
            counted: 0,
            last: event.clone(),
        });
        if repeated.written < ONE_BY_ONE {
            repeated.written += 1;
            self.write(&event, None);
        } else {
            repeated.counted += 1;
            repeated.last = event;
        }
    }

    /// Says how many there were in the minutes that are over; with `all`, in those that are not too.
    fn tell_counted(&mut self, all: bool, now: Instant) {
        let over: Vec<Repeated> = self
            .known
            .extract_if(|_, repeated| all || now.duration_since(repeated.since) >= WINDOW)
            .map(|(_, of)| of)
            .collect();
        for repeated in over.into_iter().filter(|repeated| repeated.counted > 0) {
            self.write(&repeated.last, Some(repeated.counted));
        }
    }

    fn write(&mut self, event: &Event, counted: Option<u64>) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let line = Line {
            at: self.clock.now().to_string(),
            kind: "refused",
            reason: event.reason,
            status: event.status,
            address: event.address,
            who: event.who.as_deref(),
            text: &event.text,
            counted,
            left_out: (left_out > 0).then_some(left_out),
        };
        let Ok(text) = serde_json::to_string(&line) else { return };
        let (address, counted) = (event.address.map(|address| address.to_string()), counted.unwrap_or(1).to_string());
        let mut attributes = vec![("error.type", event.reason), ("whitelistmcp.counted", counted.as_str())];
        attributes.extend(address.as_deref().map(|address| ("client.address", address)));
        attributes.extend(event.who.as_deref().map(|who| ("whitelistmcp.principal", who)));
        records::send_event("whitelistmcp.edge.refused", Severity::Info, &text, &attributes);
        if let Err(error) = self.append(&text) {
            tracing::warn!(error = %error, "the edge's file of events cannot be written; nobody is refused for it");
        }
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        let Some(path) = self.config.file.clone() else { return Ok(()) };
        let length = text.len() as u64 + 1;
        if self.file.as_ref().is_some_and(|(_, written)| written + length > self.config.max_bytes) {
            self.file = None;
            let older = |n: u32| {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".{n}"));
                PathBuf::from(name)
            };
            for n in (1..self.config.older).rev() {
                // The oldest is written over; those that are not there yet are no loss.
                std::fs::rename(older(n), older(n + 1)).unwrap_or_default();
            }
            if self.config.older > 0 { std::fs::rename(&path, older(1))? } else { std::fs::remove_file(&path)? }
        }
        if self.file.is_none() {
            self.file = Some(open(&path)?);
        }
        if let Some((file, written)) = &mut self.file {
            file.write_all(format!("{text}\n").as_bytes())?;
            *written += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(directory: &Path, max_bytes: u64) -> Recorder {
        let file = directory.join("events.jsonl");
        let config = Config { file: Some(file.clone()), max_bytes, older: 2 };
        let file = Some(open(&file).expect("it opens"));
        Recorder { config, clock: Clock::system(), file, known: HashMap::new(), left_out: Arc::default() }
    }

    fn event(n: u8) -> Event {
        let address = Some(IpAddr::from([198, 51, 100, n]));
        Event { reason: "TOKEN_INVALID", status: 401, address, who: None, text: "x".repeat(1000) }
    }

    fn directory() -> PathBuf {
        let path = std::env::temp_dir().join(format!("whitelistmcp-events-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[test]
    fn repeats_are_counted_by_reason_and_address() {
        let (directory, now) = (directory(), Instant::now());
        let mut recorder = recorder(&directory, 1 << 20);
        for _ in 0..1000 {
            recorder.take(event(1), now);
        }
        recorder.take(event(2), now);
        recorder.tell_counted(false, now + WINDOW / 2);
        recorder.tell_counted(false, now + WINDOW);
        let text = std::fs::read_to_string(directory.join("events.jsonl")).expect("text");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(lines.iter().filter(|line| line["address"] == "198.51.100.1").count(), 6);
        assert_eq!(lines.iter().filter_map(|line| line["counted"].as_u64()).collect::<Vec<_>>(), [995]);
        assert!(lines.iter().all(|line| line["text"].as_str().is_some_and(|text| text.len() == TEXT_MOST)));
        std::fs::remove_dir_all(directory).expect("gone");
    }

    #[test]
    fn a_flood_fills_neither_disk_nor_memory() {
        let (directory, now) = (directory(), Instant::now());
        let mut recorder = recorder(&directory, 20_000);
        for n in 0..200_000_u32 {
            let address = Some(IpAddr::from((n | 0x0a00_0000).to_be_bytes()));
            recorder.take(Event { address, ..event(0) }, now);
        }
        assert!(recorder.known.len() <= KEYS_MOST + 1);
        let sizes: Vec<u64> = std::fs::read_dir(&directory)
            .expect("listed")
            .map(|file| file.expect("a file").metadata().expect("a file").len())
            .collect();
        assert!(sizes.len() <= 3 && sizes.iter().all(|size| *size <= 20_000), "{sizes:?}");
        std::fs::remove_dir_all(directory).expect("gone");
    }
}
