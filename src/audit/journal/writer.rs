//! The thread that writes: batches, one sync for all who wait, heads at intervals, the next segment in time.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::archive::Archive;
use super::segment::Segment;
use super::{Config, Item, JournalError, QUEUE, layout};
use crate::audit::head::{Head, SigningKey};
use crate::audit::record::{Body, Closed, Open, Record};
use crate::audit::taken::Taken;
use crate::clock::Clock;
use crate::digest::sha256_hex;
use crate::error::Chain;
use crate::telemetry;

/// The version of the format.
pub(in crate::audit) const VERSION: u32 = 2;
/// How long the writer waits before it tries again what it could not write.
const RETRY: Duration = Duration::from_secs(1);
/// How long it waits before it tries again to begin the next segment.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// How the writer is, for whoever hands it records.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// How many records wait.
    pub(super) waiting: AtomicUsize,
    /// When the writer last got on, or had nothing to do and was handed something.
    went_on: Mutex<Option<Instant>>,
    /// Whether the machine's clock is known to be right. By one that is wrong everything could seem old enough to go.
    pub(super) clock_agrees: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl Condition {
    /// Why the last write failed.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Somebody hands in a record.
    pub(super) fn hand_in(&self) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.went_on();
        }
    }

    fn went_on(&self) {
        *self.went_on.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How many records wait, and for how long the writer has got no further.
    pub(super) fn lag(&self) -> (usize, Duration) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let since = *self.went_on.lock().unwrap_or_else(PoisonError::into_inner);
        (waiting, since.filter(|_| waiting > 0).map_or(Duration::ZERO, |since| since.elapsed()))
    }

    fn set(&self, result: &Result<(), JournalError>) {
        let problem = result.as_ref().err().map(|error| Chain(error).to_string());
        telemetry::record_journal_state(problem.is_none());
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

pub(super) struct Writer {
    pub(super) segment: Segment,
    pub(super) clock: Clock,
    pub(super) seq: u64,
    pub(super) prev: String,
    pub(super) condition: Arc<Condition>,
    pub(super) about: About,
    /// The changes that were begun and have no end yet.
    unended: HashSet<String>,
    /// When the head was last signed, and up to which line.
    headed: (Instant, u64),
    rotate_not_before: Instant,
    archive: Option<Archive>,
    taken: Option<Taken>,
    /// Held for as long as the process lives.
    lock: Option<File>,
}

/// Lines that follow the chain and are not written yet.
struct Lines {
    at: Timestamp,
    begun: Instant,
    /// The number and hash of the last of them.
    seq: u64,
    prev: String,
    bytes: Vec<u8>,
    /// Where each ends, before its line feed.
    ends: Vec<usize>,
}

/// What does not change while a chain is written.
pub(super) struct About {
    pub(super) directory: PathBuf,
    pub(super) journal: String,
    pub(super) chain: String,
    pub(super) key: SigningKey,
    pub(super) heads: Duration,
    pub(super) segment_bytes: u64,
    pub(super) segment_age: SignedDuration,
}

impl About {
    pub(super) fn of(config: &Config, directory: PathBuf, journal: String, chain: String, key: SigningKey) -> Self {
        Self {
            directory,
            journal,
            chain,
            key,
            heads: config.heads,
            segment_bytes: config.segment_bytes,
            segment_age: SignedDuration::try_from(config.segment_age).unwrap_or(SignedDuration::MAX),
        }
    }
}

impl Writer {
    /// Begins the chain. `lock` is held for as long as it is written.
    pub(super) fn open(
        about: About,
        clock: Clock,
        condition: Arc<Condition>,
        archive: Archive,
        lock: File,
    ) -> Result<Self, JournalError> {
        let segment = Segment::create(&about.directory, &about.chain, 1, clock.now())?;
        let mut writer =
            Self { lock: Some(lock), archive: Some(archive), ..Self::over(segment, about, clock, condition) };
        let open = writer.opening();
        writer.append(&[Item { body: Some(open), written: None }], true)?;
        writer.sign()?;
        let About { directory, chain, .. } = &writer.about;
        writer.taken = Some(Taken::follow(layout::taken(directory, chain), chain));
        Ok(writer)
    }

    /// A writer over a segment, with nothing beside it.
    pub(super) fn over(segment: Segment, about: About, clock: Clock, condition: Arc<Condition>) -> Self {
        Self {
            segment,
            clock,
            seq: 0,
            prev: "0".repeat(64),
            condition,
            about,
            unended: HashSet::new(),
            headed: (Instant::now(), 0),
            rotate_not_before: Instant::now(),
            archive: None,
            taken: None,
            lock: None,
        }
    }

    pub(super) fn run(mut self, items: &Receiver<Item>) {
        let mut batch: Vec<Item> = Vec::new();
        let mut failed: Option<(Instant, JournalError)> = None;
        loop {
            // What could not be written is tried again by itself, so that a disk that is well again is noticed.
            let wait = failed.as_ref().map(|(since, _)| RETRY.saturating_sub(since.elapsed()));
            let first = items.recv_timeout(wait.unwrap_or_else(|| self.patience()));
            let ended = match first {
                Ok(first) => {
                    batch.push(first);
                    batch.extend(items.try_iter().take(QUEUE));
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            // A disk that has just refused is not asked once more for each record that comes, unless somebody waits for one.
            let awaited = batch.iter().any(|item| item.written.is_some());
            let resting = failed.as_ref().filter(|(since, _)| !awaited && !ended && since.elapsed() < RETRY);
            let result = match resting {
                Some((_, error)) => Err(error.clone()),
                None => {
                    let result = self.attempt(&batch);
                    failed = result.as_ref().err().map(|error| (Instant::now(), error.clone()));
                    result
                }
            };
            let kept = if result.is_ok() { Vec::new() } else { keep(&mut batch) };
            self.condition.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
            for written in batch.drain(..).filter_map(|item| item.written) {
                // Whoever waited may have gone, and then nobody needs the answer.
                written.send(result.clone()).unwrap_or_default();
            }
            if ended {
                break;
            }
            batch = kept;
            if batch.is_empty() {
                self.look_after();
            }
        }
        self.close();
    }

    /// Writes a batch, if there is anything in it, and says how that went.
    fn attempt(&mut self, batch: &[Item]) -> Result<(), JournalError> {
        if batch.is_empty() {
            return Ok(());
        }
        let result = self.append(batch, batch.iter().any(|item| item.written.is_some()));
        if let Err(error) = &result {
            tracing::error!(error = %Chain(error), records = batch.len(), "the audit journal could not be written");
        }
        self.condition.set(&result);
        result
    }

    /// How long nothing needs to be done, if nothing comes.
    fn patience(&self) -> Duration {
        let unsigned = self.headed.1 < self.seq;
        let next = if unsigned { self.about.heads.saturating_sub(self.headed.0.elapsed()) } else { self.about.heads };
        next.clamp(Duration::from_millis(20), Duration::from_secs(60))
    }

    /// Signs the head and begins the next segment, when it is time.
    fn look_after(&mut self) {
        let old = self.clock.now().duration_since(self.segment.begun) >= self.about.segment_age;
        // A segment in which nothing happened is not worth a next one.
        let used = self.segment.length > 4096;
        let full = self.segment.length >= self.about.segment_bytes || (old && used);
        let unsigned = self.headed.1 < self.seq;
        if full && Instant::now() >= self.rotate_not_before {
            if let Err(error) = self.rotate() {
                tracing::error!(error = %Chain(&error), "the audit journal's next file could not be begun; the old one is written on");
                self.rotate_not_before = Instant::now() + ROTATE_AGAIN;
            }
        } else if unsigned && self.headed.0.elapsed() >= self.about.heads {
            let signed = self.sign();
            if let Err(error) = &signed {
                tracing::error!(error = %Chain(error), "the audit journal's head could not be written");
                // Not again before its time.
                self.headed.0 = Instant::now();
            }
            self.condition.set(&signed);
        }
        if let Err(error) = self.retire() {
            tracing::error!(error = %Chain(&error), "that old files of the audit journal may go could not be recorded, so they stay");
        }
        if let Some(taken) = &mut self.taken {
            taken.keep();
        }
    }

    /// Lets go of files that are old enough, once it is on record that they were there.
    fn retire(&mut self) -> Result<(), JournalError> {
        if !self.condition.clock_agrees.load(Ordering::Relaxed) {
            return Ok(());
        }
        let old = self.archive.as_ref().map(Archive::old).unwrap_or_default();
        if old.is_empty() {
            return Ok(());
        }
        let (paths, retired): (Vec<PathBuf>, Vec<Body>) =
            old.into_iter().map(|old| (old.path, Body::Retired(old.retired))).unzip();
        let items: Vec<Item> = retired.into_iter().map(|body| Item { body: Some(body), written: None }).collect();
        self.append(&items, true)?;
        // Such a record counts once a head is behind it, and the files must not be gone before.
        self.sign()?;
        if let Some(archive) = &self.archive {
            archive.let_go(paths);
        }
        Ok(())
    }

    /// Writes a signed head, and everything before it to the disk.
    fn sign(&mut self) -> Result<(), JournalError> {
        let head = self.head(self.seq, self.prev.clone());
        self.append(&[Item { body: Some(head), written: None }], true)?;
        self.headed = (Instant::now(), self.seq);
        Ok(())
    }

    /// That the chain had come to this line.
    fn head(&self, seq: u64, sha256: String) -> Body {
        let head = Head {
            journal: self.about.journal.clone(),
            chain: self.about.chain.clone(),
            segment: self.segment.number,
            seq,
            sha256,
            at: self.clock.now().to_string(),
            key: String::new(),
            signature: String::new(),
        };
        Body::Head { head: self.about.key.sign(head) }
    }

    /// Ends the segment with a signed head and begins the next.
    fn rotate(&mut self) -> Result<(), JournalError> {
        if self.headed.1 < self.seq {
            self.sign()?;
        }
        let number = self.segment.number + 1;
        let next = Segment::create(&self.about.directory, &self.about.chain, number, self.clock.now())?;
        let before = std::mem::replace(&mut self.segment, next);
        let open = self.opening();
        if let Err(error) = self.append(&[Item { body: Some(open), written: None }], true) {
            let next = std::mem::replace(&mut self.segment, before);
            // A file without a line says nothing, and its name is needed again.
            std::fs::remove_file(&next.path).unwrap_or_default();
            return Err(error);
        }
        if let Some(archive) = &self.archive {
            archive.finished(before.path);
        }
        Ok(())
    }

    fn opening(&self) -> Body {
        Body::Open(Open {
            service: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            format: "jsonl; prev = sha256 of the line before",
            journal: self.about.journal.clone(),
            chain: self.about.chain.clone(),
            segment: self.segment.number,
            key: self.about.key.public().to_base64(),
        })
    }

    /// The end of the chain: that it is one, and the head. They are written at once, so that a disk that becomes full
    /// leaves no closing line without its head.
    fn close(mut self) {
        let closed = Body::Closed(Closed { unended: self.unended.len() });
        let mut lines = Lines::after(&self);
        let closed = lines.push(&closed).and_then(|()| {
            let head = self.head(lines.seq, lines.prev.clone());
            lines.push(&head)?;
            self.put(lines, &[&closed, &head], true)
        });
        if let Err(error) = closed.and_then(|()| self.segment.sync()) {
            tracing::error!(error = %Chain(&error), "the audit journal could not be closed");
        }
        if let Some(taken) = &mut self.taken {
            taken.keep();
        }
        drop(self.lock);
    }

    /// Writes all or nothing: on failure the chain and the file are as they were.
    pub(super) fn append(&mut self, items: &[Item], durable: bool) -> Result<(), JournalError> {
        let mut lines = Lines::after(self);
        let bodies: Vec<&Body> = items.iter().filter_map(|item| item.body.as_ref()).collect();
        for body in &bodies {
            lines.push(body)?;
        }
        self.put(lines, &bodies, durable)
    }

    fn put(&mut self, lines: Lines, bodies: &[&Body], durable: bool) -> Result<(), JournalError> {
        let Lines { at, begun, seq: last, prev, bytes, ends } = lines;
        self.segment.append(&bytes, durable)?;
        telemetry::record_journal(begun.elapsed());
        self.condition.went_on();
        let (mut from, first) = (0, self.seq + 1);
        for ((body, end), seq) in bodies.iter().zip(ends).zip(first..) {
            match body {
                Body::Begin(begin) if begin.changes => drop(self.unended.insert(begin.call.clone())),
                Body::End(ended) => drop(self.unended.remove(ended.call())),
                _ => {}
            }
            let text = bytes.get(from..end).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
            body.leave(at, &self.about.chain, seq, text);
            from = end + 1;
        }
        self.seq = last;
        self.prev = prev;
        Ok(())
    }
}

/// Takes out of a batch that could not be written what has happened and must still be written down; whoever waits is refused,
/// and changes nothing.
fn keep(batch: &mut Vec<Item>) -> Vec<Item> {
    let kept: Vec<Item> = batch.extract_if(.., |item| item.written.is_none()).take(2 * QUEUE).collect();
    let lost = batch.iter().filter(|item| item.written.is_none()).count();
    if lost > 0 {
        tracing::error!(lost, "more records wait for the audit journal than are kept: these are left out");
    }
    kept
}

// === impl Lines ===

impl Lines {
    fn after(writer: &Writer) -> Self {
        Self {
            at: writer.clock.now(),
            begun: Instant::now(),
            seq: writer.seq,
            prev: writer.prev.clone(),
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn push(&mut self, body: &Body) -> Result<(), JournalError> {
        let record = Record { v: VERSION, seq: self.seq + 1, prev: &self.prev, at: self.at.to_string(), body };
        let line = serde_json::to_vec(&record).map_err(|error| JournalError::Encode(Arc::new(error)))?;
        self.prev = sha256_hex(&line);
        self.seq += 1;
        self.bytes.extend_from_slice(&line);
        self.ends.push(self.bytes.len());
        self.bytes.push(b'\n');
        Ok(())
    }
}
