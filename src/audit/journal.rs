//! The journal: an append-only file of JSON lines, each carrying the hash of the one before.
//!
//! One thread writes. It takes everything that waits, writes it at once, and syncs the file once if anyone waits for
//! the disk, so many calls share one sync. If writing fails, the file is cut back to its last whole line, and every
//! change is refused until a write succeeds; reads go on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::oneshot;

use super::record::{Body, Open, Record};
use crate::clock::Clock;
use crate::digest::sha256_hex;

/// The version of the format.
const VERSION: u32 = 1;

/// How many records may wait for the writer before changes are refused, and reads and refusals counted and left out: a
/// slow disk must not eat the memory. As many ends again fit behind them, since what was begun must be ended.
const QUEUE: usize = 4096;

/// How long the writer waits before it tries again what it could not write.
const RETRY: Duration = Duration::from_secs(1);

/// `[audit]` in the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory of the journal, on a volume that outlives the process. Without one the core serves reads only.
    pub directory: Option<PathBuf>,
}

/// A journal that is being written. Clones write to the same file.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Option<SyncSender<Item>>,
    writer: Option<JoinHandle<()>>,
    writable: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    left_out: AtomicU64,
    path: PathBuf,
    id: String,
}

struct Item {
    body: Body,
    written: Option<oneshot::Sender<Result<(), JournalError>>>,
}

/// Why the journal cannot be written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory or the file.
    #[error("{path} cannot be {action}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Another process holds the file.
    #[error("{0} is locked by another process")]
    Locked(PathBuf),
    /// A record cannot be encoded.
    #[error("a record cannot be encoded")]
    Encode(#[source] Arc<serde_json::Error>),
    /// More waits than the disk takes.
    #[error("more records wait for the journal than it can take")]
    Full,
    /// The writer has stopped.
    #[error("the journal's writer has stopped")]
    Stopped,
}

struct Writer {
    file: File,
    path: PathBuf,
    clock: Clock,
    /// The length of the whole lines that are in the file.
    length: u64,
    seq: u64,
    prev: String,
    /// Bytes behind the whole lines could not be cut off.
    torn: bool,
    writable: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
}

// === impl Journal ===

impl Journal {
    /// Opens a new file in the directory, locks it, and starts the writer.
    pub fn open(directory: &Path, clock: Clock) -> Result<Self, JournalError> {
        let failed = |path: &Path, action| {
            let path = path.to_owned();
            move |source| JournalError::File { path, action, source: Arc::new(source) }
        };
        std::fs::create_dir_all(directory).map_err(failed(directory, "created"))?;
        let id = identity(directory)?;
        let path = directory.join(format!("journal-{}.jsonl", uuid::Uuid::now_v7()));
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(failed(&path, "created"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Locked(path.clone()),
            TryLockError::Error(source) => failed(&path, "locked")(source),
        })?;
        // The file's name must outlive a power cut as its lines do.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed(directory, "synced"))?;

        let writable = Arc::new(AtomicBool::new(true));
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut writer = Writer {
            file,
            path: path.clone(),
            clock,
            length: 0,
            seq: 0,
            prev: "0".repeat(64),
            torn: false,
            writable: Arc::clone(&writable),
            waiting: Arc::clone(&waiting),
        };
        let open = Body::Open(Open {
            service: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            format: "jsonl; prev = sha256 of the line before",
        });
        writer.append(&[Item { body: open, written: None }], true)?;

        let (queue, items) = sync_channel(2 * QUEUE);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&items))
            .map_err(failed(&path, "written"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                queue: Some(queue),
                writer: Some(writer),
                writable,
                waiting,
                left_out: AtomicU64::new(0),
                path,
                id,
            }),
        })
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The directory's own id, by which rules say where their making is recorded.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Whether the last write succeeded.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Relaxed)
    }

    /// Writes a record and returns once it is on disk.
    pub(super) async fn write_durably(&self, body: Body) -> Result<(), JournalError> {
        let (written, waiting) = oneshot::channel();
        self.send(Item { body, written: Some(written) })?;
        waiting.await.map_err(|_| JournalError::Stopped)?
    }

    /// Writes a record with the next batch.
    pub(super) fn write(&self, body: Body) {
        if let Err(error) = self.send(Item { body, written: None }) {
            let left_out = self.shared.left_out.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(error = %error, left_out, "a record was left out of the audit journal");
        }
    }

    fn send(&self, item: Item) -> Result<(), JournalError> {
        let queue = self.shared.queue.as_ref().ok_or(JournalError::Stopped)?;
        let is_end = matches!(item.body, Body::End(_));
        if !is_end && self.shared.waiting.load(Ordering::Relaxed) >= QUEUE {
            return Err(JournalError::Full);
        }
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        queue.try_send(item).map_err(|error| {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => JournalError::Full,
                TrySendError::Disconnected(_) => JournalError::Stopped,
            }
        })
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    /// Everything that was handed in is written before the process goes on to end.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            writer.join().unwrap_or_else(|_| tracing::error!("the audit journal's writer panicked"));
        }
    }
}

/// The id of a directory of journals, made with the first of them.
fn identity(directory: &Path) -> Result<String, JournalError> {
    let path = directory.join("journal-id");
    let failed = |action| {
        let path = path.clone();
        move |source| JournalError::File { path, action, source: Arc::new(source) }
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let new = uuid::Uuid::now_v7().to_string();
    match options.open(&path) {
        Ok(mut file) => {
            file.write_all(new.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("written"))?;
            Ok(new)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(&path).map_err(failed("read"))?;
            let id = uuid::Uuid::try_parse(text.trim());
            id.map(|id| id.to_string()).map_err(|_| failed("read")(std::io::Error::other("it does not hold a UUID")))
        }
        Err(error) => Err(failed("created")(error)),
    }
}

// === impl Writer ===

impl Writer {
    fn run(mut self, items: &Receiver<Item>) {
        let mut batch: Vec<Item> = Vec::new();
        loop {
            // What could not be written is tried again by itself, so that a disk that is well again is noticed.
            let first = if batch.is_empty() {
                items.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                items.recv_timeout(RETRY)
            };
            let ended = match first {
                Ok(first) => {
                    batch.push(first);
                    batch.extend(items.try_iter().take(QUEUE));
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            let durable = batch.iter().any(|item| item.written.is_some());
            let result = if batch.is_empty() { Ok(()) } else { self.append(&batch, durable) };
            self.writable.store(result.is_ok(), Ordering::Relaxed);
            let kept = match &result {
                Ok(()) => Vec::new(),
                Err(error) => {
                    tracing::error!(error = %crate::error::Chain(error), records = batch.len(), "the audit journal could not be written");
                    // Whoever waits is refused and changes nothing; what has happened must still be written down.
                    batch.extract_if(.., |item| item.written.is_none()).take(2 * QUEUE).collect()
                }
            };
            self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
            for written in batch.drain(..).filter_map(|item| item.written) {
                // Whoever waited may have gone, and then nobody needs the answer.
                written.send(result.clone()).unwrap_or_default();
            }
            if ended {
                break;
            }
            batch = kept;
        }
        if let Err(error) = self.file.sync_data() {
            tracing::error!(error = %error, "the audit journal could not be synced at its end");
        }
    }

    /// Writes all or nothing: on failure the chain and the file are as they were.
    fn append(&mut self, items: &[Item], durable: bool) -> Result<(), JournalError> {
        let failed = |path: &Path, source| JournalError::File {
            path: path.to_owned(),
            action: "written",
            source: Arc::new(source),
        };
        if self.torn {
            self.file.set_len(self.length).map_err(|source| failed(&self.path, source))?;
            self.torn = false;
        }
        let (mut seq, mut prev, mut lines) = (self.seq, self.prev.clone(), Vec::new());
        for item in items {
            seq += 1;
            let record = Record { v: VERSION, seq, prev: &prev, at: self.clock.now().to_string(), body: &item.body };
            let line = serde_json::to_vec(&record).map_err(|error| JournalError::Encode(Arc::new(error)))?;
            prev = sha256_hex(&line);
            lines.extend_from_slice(&line);
            lines.push(b'\n');
        }
        let result = self.file.write_all(&lines).and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        if let Err(source) = result {
            self.torn = self.file.set_len(self.length).is_err();
            return Err(failed(&self.path, source));
        }
        self.length += lines.len() as u64;
        self.seq = seq;
        self.prev = prev;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
