//! Finished files: compressed as soon as they are, and let go of once they are old enough.
//!
//! A thread of its own does it, so that nobody who waits for the disk waits for this. A file goes only after the writer
//! has recorded that it was there, and how it ended.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};

use super::layout::{self, UNFINISHED};
use super::{open_new, sync_names};
use crate::audit::record::Retired;
use crate::clock::Clock;

/// How often old files are looked for.
const EVERY: Duration = Duration::from_secs(3600);

/// The way to the thread. It ends with the last of its clones.
#[derive(Clone)]
pub(super) struct Archive {
    tasks: Sender<Task>,
    old: Arc<Mutex<Vec<Old>>>,
}

/// A file that is old enough to go.
pub(super) struct Old {
    pub(super) path: PathBuf,
    pub(super) retired: Retired,
}

enum Task {
    Compress(PathBuf),
    Settled(String),
    LetGo(Vec<PathBuf>),
}

struct Archivist {
    directory: PathBuf,
    /// The chain that is being written.
    own: String,
    retention: Option<SignedDuration>,
    clock: Clock,
    old: Arc<Mutex<Vec<Old>>>,
}

impl Archive {
    pub(super) fn start(
        directory: PathBuf,
        own: String,
        retention: Option<Duration>,
        clock: Clock,
    ) -> io::Result<Self> {
        let (tasks, given) = channel();
        let old = Arc::<Mutex<Vec<Old>>>::default();
        let retention = retention.map(|kept| SignedDuration::try_from(kept).unwrap_or(SignedDuration::MAX));
        let archivist = Archivist { directory, own, retention, clock, old: Arc::clone(&old) };
        std::thread::Builder::new().name("archive".to_owned()).spawn(move || archivist.run(&given))?;
        Ok(Self { tasks, old })
    }

    /// A segment of the chain that is written was finished.
    pub(super) fn finished(&self, path: PathBuf) {
        self.give(Task::Compress(path));
    }

    /// A chain of a process that is gone was accounted for.
    pub(super) fn settled(&self, chain: &str) {
        self.give(Task::Settled(chain.to_owned()));
    }

    /// The files that are old enough to go, each told once.
    pub(super) fn old(&self) -> Vec<Old> {
        std::mem::take(&mut self.old.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It is on record that these were there.
    pub(super) fn let_go(&self, paths: Vec<PathBuf>) {
        self.give(Task::LetGo(paths));
    }

    fn give(&self, task: Task) {
        // The thread ends after whoever could give it something.
        self.tasks.send(task).unwrap_or_default();
    }
}

impl Archivist {
    fn run(self, given: &Receiver<Task>) {
        self.look();
        loop {
            match given.recv_timeout(EVERY) {
                Ok(Task::Compress(path)) => {
                    self.compress(&path);
                    self.look();
                }
                Ok(Task::Settled(chain)) => {
                    let segments = layout::chains(&self.directory).map(|mut chains| chains.remove(&chain));
                    for path in segments.ok().flatten().unwrap_or_default().values() {
                        self.compress(path);
                    }
                }
                Ok(Task::LetGo(paths)) => {
                    for path in paths {
                        if let Err(error) = std::fs::remove_file(&path) {
                            tracing::warn!(path = %path.display(), error = %error, "an old file of the audit journal could not be removed");
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn compress(&self, path: &Path) {
        if layout::is_compressed(path) {
            return;
        }
        if let Err(error) = compress(path).and_then(|()| sync_names(&self.directory)) {
            tracing::warn!(path = %path.display(), error = %error, "a finished file of the audit journal could not be compressed; it stays as it is");
        }
    }

    /// Finds what is old enough to go: of each chain its first segments, and of a chain that somebody must still look at
    /// none.
    fn look(&self) {
        let Some(retention) = self.retention else { return };
        match self.find(retention) {
            Ok(found) => *self.old.lock().unwrap_or_else(PoisonError::into_inner) = found,
            Err(error) => {
                tracing::warn!(error = %error, "old files of the audit journal could not be looked for");
            }
        }
    }

    fn find(&self, retention: SignedDuration) -> io::Result<Vec<Old>> {
        let now = self.clock.now();
        let (chains, open) = (layout::chains(&self.directory)?, layout::open_chains(&self.directory)?);
        let mut found = Vec::new();
        for (chain, segments) in chains {
            let last = segments.keys().next_back().copied().filter(|_| chain == self.own);
            if open.contains(&chain) && chain != self.own {
                continue;
            }
            for (number, path) in segments.into_iter().take_while(|(number, _)| Some(*number) != last) {
                match old(&path, now, retention) {
                    Ok(Age::Young) => break,
                    Ok(Age::Empty) => {}
                    Ok(Age::Old { first, last, sha256 }) => {
                        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                        let retired = Retired { chain: chain.clone(), segment: number, first, last, sha256, file };
                        found.push(Old { path, retired });
                    }
                    // It stays, and the rest of its chain with it; other chains go on.
                    Err(error) => {
                        tracing::warn!(path = %path.display(), error = %error, "an old file of the audit journal cannot be read, so it stays");
                        break;
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Whether a segment may go.
enum Age {
    Young,
    /// It says nothing.
    Empty,
    /// It may, with these lines in it.
    Old {
        first: u64,
        last: u64,
        sha256: String,
    },
}

fn old(path: &Path, now: Timestamp, retention: SignedDuration) -> io::Result<Age> {
    let written = Timestamp::try_from(std::fs::metadata(path)?.modified()?).map_err(io::Error::other)?;
    if now.duration_since(written) < retention {
        return Ok(Age::Young);
    }
    Ok(ends_of(path)?.map_or(Age::Empty, |(first, last, sha256)| Age::Old { first, last, sha256 }))
}

/// The numbers of a segment's first and last whole line, and the last one's SHA-256.
fn ends_of(path: &Path) -> io::Result<Option<(u64, u64, String)>> {
    let (mut lines, mut line) = (layout::read(path)?, Vec::new());
    let mut ends = None;
    loop {
        if layout::read_line(&mut lines, &mut line)? == 0 || line.pop() != Some(b'\n') {
            return Ok(ends);
        }
        let seq = serde_json::from_slice::<Numbered>(&line).map_err(io::Error::other)?.seq;
        let first = ends.as_ref().map_or(seq, |(first, ..)| *first);
        ends = Some((first, seq, crate::digest::sha256_hex(&line)));
    }
}

#[derive(serde::Deserialize)]
struct Numbered {
    seq: u64,
}

/// Puts a compressed file in the place of a plain one. Whoever looks meanwhile finds one of them whole.
fn compress(path: &Path) -> io::Result<()> {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let (whole, part) = (layout::compressed(path), with(&format!(".gz{UNFINISHED}")));
    std::fs::remove_file(&part).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut plain = layout::open(path)?;
    let written = plain.metadata()?.modified()?;
    let mut encoder = GzEncoder::new(open_new(&part)?, Compression::default());
    io::copy(&mut plain, &mut encoder)?;
    let file = encoder.finish()?;
    // Its age is that of what it says.
    file.set_modified(written)?;
    file.sync_all()?;
    std::fs::rename(&part, &whole)?;
    std::fs::remove_file(path)
}
