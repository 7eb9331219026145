//! The journal: append-only files of JSON lines, each line carrying the hash of the one before.
//!
//! One thread writes ([`writer`]). It takes everything that waits, writes it at once, and syncs the file once if anyone
//! waits for the disk, so many calls share one sync. If writing fails, the file is cut back to its last whole line, and
//! every change is refused until a write succeeds; reads go on. Where files are finished, another thread compresses them
//! and lets go of those that are old enough ([`archive`]).

mod archive;
pub(super) mod layout;
mod segment;
mod volume;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::head::{KeyError, SigningKey};
use super::record::Body;
use crate::clock::Clock;
use crate::duration::{self, DAY, EVER, SECOND};
use crate::schema::Length;
use crate::telemetry;

pub use volume::Volume;

use archive::Archive;
pub(super) use writer::VERSION;
use writer::{About, Condition, Writer};

/// How many records may wait for the writer before changes are refused, and reads and refusals counted and left out: a
/// slow disk must not eat the memory. As many ends again fit behind them, since what was begun must be ended.
const QUEUE: usize = 4096;

/// `[audit]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory of the journal, on a volume that outlives the process. Without one the core serves reads only.
    pub directory: Option<PathBuf>,
    /// How it is known that the directory outlives the process.
    pub volume: Volume,
    /// The id that the directory must have: another one, or a new one, is a volume that was lost or mixed up.
    #[serde(deserialize_with = "uuid_text")]
    pub journal: Option<String>,
    /// The key that heads are signed with (Ed25519, PKCS #8, PEM); one that is made in the directory where none is given.
    pub signing_key: Option<PathBuf>,
    /// How often the chain's head is signed, while anything is written.
    #[serde(deserialize_with = "duration::within::<_, _, SECOND, EVER>")]
    #[schemars(with = "Length<SECOND, EVER>")]
    pub heads: Duration,
    /// How large a file may become before the next one is begun, in bytes.
    pub segment_bytes: u64,
    /// How old a file may become before the next one is begun.
    #[serde(deserialize_with = "duration::within::<_, _, SECOND, EVER>")]
    #[schemars(with = "Length<SECOND, EVER>")]
    pub segment_age: Duration,
    /// How long a finished file is kept; for good where nothing is said.
    #[serde(deserialize_with = "duration::within::<_, _, DAY, EVER>")]
    #[schemars(with = "Option<Length<DAY, EVER>>")]
    pub retention: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            volume: Volume::default(),
            journal: None,
            signing_key: None,
            heads: Duration::from_secs(60),
            segment_bytes: 64 * 1024 * 1024,
            segment_age: Duration::from_secs(24 * 3600),
            retention: None,
        }
    }
}

fn uuid_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let written = String::deserialize(deserializer)?;
    let id = uuid::Uuid::try_parse(written.trim()).map(|id| Some(id.to_string()));
    id.map_err(|_| {
        serde::de::Error::custom(format!("`{written}` is not a UUID; the file journal-id in the directory holds it"))
    })
}

/// A journal that is being written. Clones write to the same chain.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Option<SyncSender<Item>>,
    writer: Option<JoinHandle<()>>,
    condition: Arc<Condition>,
    left_out: AtomicU64,
    directory: PathBuf,
    chain: String,
    id: String,
    objection: Option<String>,
    archive: Archive,
    retention: Option<Duration>,
    clock: Clock,
}

struct Item {
    /// None for whoever only wants what was handed in before to be on disk.
    body: Option<Body>,
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
        source: Arc<io::Error>,
    },
    /// Another process holds the file.
    #[error("{0} is locked by another process")]
    Locked(PathBuf),
    /// The file that is written is not in its directory any more.
    #[error("{0} is gone from its directory: what is written to it would be lost")]
    Gone(PathBuf),
    /// The key.
    #[error("the key that heads are signed with")]
    Key(#[source] Arc<KeyError>),
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

pub(super) fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError::File { path: path.to_owned(), action, source: Arc::new(source) }
}

impl JournalError {
    /// Whether it is the disk's state, which may become better by itself, and nothing that somebody must configure.
    pub fn may_pass(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StaleNetworkFileHandle, StorageFull};
        let Self::File { source, .. } = self else { return false };
        let passing = [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StaleNetworkFileHandle, StorageFull];
        // EIO has no kind of its own.
        passing.contains(&source.kind()) || source.raw_os_error() == Some(5)
    }
}

// === impl Journal ===

impl Journal {
    /// Begins a new chain in the configured directory, locks it, and starts the writer. None without a directory.
    pub fn open(config: &Config, clock: Clock) -> Result<Option<Self>, JournalError> {
        let Some(directory) = config.directory.clone() else { return Ok(None) };
        let mut made = std::fs::DirBuilder::new();
        made.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut made, 0o700);
        made.create(&directory).map_err(failed(&directory, "created"))?;
        let id = identity(&directory)?;
        let key = match &config.signing_key {
            Some(path) => SigningKey::from_file(path),
            None => SigningKey::open_or_create(&directory.join(layout::KEY)),
        };
        let key = key.map_err(|error| JournalError::Key(Arc::new(error)))?;
        let chain = uuid::Uuid::now_v7().to_string();
        let (lock, segment) = (layout::lock(&directory, &chain), layout::segment(&directory, &chain, 1));
        let begun = Self::begin(config, clock, directory, id, chain, key);
        begun.map(Some).inspect_err(|_| {
            // A chain that was never begun has nothing to say, and whoever tries again and again must not fill the directory.
            for path in [lock, segment] {
                std::fs::remove_file(path).unwrap_or_default();
            }
        })
    }

    fn begin(
        config: &Config,
        clock: Clock,
        directory: PathBuf,
        id: String,
        chain: String,
        key: SigningKey,
    ) -> Result<Self, JournalError> {
        let lock = layout::lock(&directory, &chain);
        let held = open_new(&lock).map_err(failed(&lock, "created"))?;
        held.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Locked(lock.clone()),
            TryLockError::Error(source) => failed(&lock, "locked")(source),
        })?;
        let objection = objection(config);
        let condition = Arc::new(Condition::default());
        let archive = Archive::start(directory.clone(), chain.clone(), config.retention, clock.clone())
            .map_err(failed(&directory, "looked after"))?;
        let about = About::of(config, directory.clone(), id.clone(), chain.clone(), key);
        let writer = Writer::open(about, clock.clone(), Arc::clone(&condition), archive.clone(), held)?;
        let (queue, items) = sync_channel(2 * QUEUE);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&items))
            .map_err(failed(&directory, "written"))?;
        let watched = Arc::downgrade(&condition);
        telemetry::watch_journal(move || watched.upgrade().map(|condition| condition.lag()));
        Ok(Self {
            shared: Arc::new(Shared {
                queue: Some(queue),
                writer: Some(writer),
                condition,
                left_out: AtomicU64::new(0),
                directory,
                chain,
                id,
                objection,
                archive,
                retention: config.retention,
                clock,
            }),
        })
    }

    /// The directory that it is written in.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// The chain that this process writes.
    pub fn chain(&self) -> &str {
        &self.shared.chain
    }

    /// The directory's own id, by which rules say where their making is recorded.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// From when on everything that was written is still there; none where nothing is let go of.
    pub(super) fn oldest_kept(&self) -> Option<Timestamp> {
        self.shared.clock.now().checked_sub(self.shared.retention?).ok()
    }

    /// A chain of a process that is gone has been accounted for: nobody needs to look at it again.
    pub(super) fn settled(&self, chain: &str) {
        self.shared.archive.settled(chain);
    }

    /// Says in the log that it is open, and whether changes may be made on its word.
    pub fn tell(&self) {
        tracing::info!(directory = %self.directory().display(), journal = self.id(), chain = self.chain(), "the audit journal is open");
        if let Some(objection) = self.objection() {
            tracing::error!(
                why = objection,
                "nobody knows that the audit journal is kept: this core lists and checks, and changes nothing"
            );
        }
    }

    /// Why nothing may be changed on the word of this journal, however well it is written: nobody knows that it is kept.
    pub fn objection(&self) -> Option<&str> {
        self.shared.objection.as_deref()
    }

    /// Says whether this machine's clock agrees with another one that can be believed.
    pub fn believe_clock(&self, agrees: bool) {
        self.shared.condition.clock_agrees.store(agrees, Ordering::Relaxed);
    }

    /// Why the last write failed; nothing if it did not.
    pub fn problem(&self) -> Option<String> {
        self.shared.condition.problem()
    }

    /// Writes a record and returns once it is on disk.
    pub(super) async fn write_durably(&self, body: Body) -> Result<(), JournalError> {
        let (written, waiting) = oneshot::channel();
        self.send(Item { body: Some(body), written: Some(written) })?;
        waiting.await.map_err(|_| JournalError::Stopped)?
    }

    /// Returns once everything that was handed in so far is on disk.
    pub(super) async fn settle(&self) -> Result<(), JournalError> {
        let (written, waiting) = oneshot::channel();
        self.send(Item { body: None, written: Some(written) })?;
        waiting.await.map_err(|_| JournalError::Stopped)?
    }

    /// Writes a record with the next batch.
    pub(super) fn write(&self, body: Body) {
        if let Err(error) = self.send(Item { body: Some(body), written: None }) {
            let left_out = self.shared.left_out.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(error = %error, left_out, "a record was left out of the audit journal");
        }
    }

    fn send(&self, item: Item) -> Result<(), JournalError> {
        let queue = self.shared.queue.as_ref().ok_or(JournalError::Stopped)?;
        let is_end = matches!(item.body, Some(Body::End(_)));
        let waiting = &self.shared.condition.waiting;
        if !is_end && waiting.load(Ordering::Relaxed) >= QUEUE {
            return Err(JournalError::Full);
        }
        self.shared.condition.hand_in();
        queue.try_send(item).map_err(|error| {
            waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => JournalError::Full,
                TrySendError::Disconnected(_) => JournalError::Stopped,
            }
        })
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("chain", &self.shared.chain).finish_non_exhaustive()
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

/// Whether the key that heads are signed with can be had, as things stand; one that is yet to be made can.
pub fn check_key(config: &Config) -> Result<(), KeyError> {
    let Some(directory) = config.directory.as_deref() else { return Ok(()) };
    let made = directory.join(layout::KEY);
    let path = match &config.signing_key {
        Some(path) => path,
        None if made.exists() => &made,
        None => return Ok(()),
    };
    if std::fs::metadata(path).is_ok_and(|file| !file.is_file()) {
        // Reading a pipe would wait for somebody who writes.
        return Err(KeyError::Private(path.clone()));
    }
    SigningKey::from_file(path).map(drop)
}

/// Why nothing could be changed on the word of a journal in the configured directory, as it stands; nothing if it could.
pub fn objection(config: &Config) -> Option<String> {
    let directory = config.directory.as_deref()?;
    let id = read_identity(&directory.join(layout::ID)).ok();
    match (&config.journal, id) {
        (Some(expected), Some(id)) if *expected != id => Some(format!(
            "the journal in {} is {id} and not {expected}, which `[audit] journal` names",
            directory.display()
        )),
        _ => volume::objection(config.volume, directory),
    }
}

/// The id of a directory of journals, made with the first of them.
fn identity(directory: &Path) -> Result<String, JournalError> {
    let path = directory.join(layout::ID);
    let new = uuid::Uuid::now_v7().to_string();
    match write_new(&path, new.as_bytes()) {
        Ok(()) => Ok(new),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_identity(&path),
        Err(error) => Err(failed(&path, "created")(error)),
    }
}

/// Reads the id of a directory of journals.
pub(super) fn read_identity(path: &Path) -> Result<String, JournalError> {
    let text = layout::read_text(path).map_err(failed(path, "read"))?;
    let id = uuid::Uuid::try_parse(text.trim());
    id.map(|id| id.to_string()).map_err(|_| failed(path, "read")(io::Error::other("it does not hold a UUID")))
}

/// Opens a file that must not be there yet, for its owner alone.
fn open_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes a small file that must not be there yet, whole or not at all.
pub(super) fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", uuid::Uuid::new_v4()));
    let new = PathBuf::from(new);
    let written = open_new(&new).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()?;
        // Unlike a rename, a link does not take the place of what is there. Not every volume has links.
        match std::fs::hard_link(&new, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => std::fs::rename(&new, path),
            linked => linked,
        }
    });
    // After a rename it is gone already.
    std::fs::remove_file(&new).unwrap_or_default();
    written
}

/// The file's name must outlive a power cut as its lines do.
fn sync_names(directory: &Path) -> io::Result<()> {
    // Windows opens no directory as a file, and keeps names in a log of its own.
    if cfg!(windows) { Ok(()) } else { File::open(directory).and_then(|directory| directory.sync_all()) }
}

#[cfg(test)]
mod tests;
