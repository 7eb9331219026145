//! What a journal stands on, as `check` and `doctor` ask it alike: its directory, and room in it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// How much is written to see whether there is room: more than a file system keeps beside a file's name.
const PROBE: [u8; 4096] = [0; 4096];

/// How a directory for a journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, and can be written.
    Ready,
    /// It is not there yet; the core makes it.
    ToBeMade,
}

/// Why no journal can be kept there, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{0} is not a directory, and the journal needs one: mend `[audit] directory`")]
    NotADirectory(PathBuf),
    #[error("{path} is full, so nothing is changed: make room, or give it a larger volume or quota")]
    Full {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} cannot be written, so nothing is changed: give the service's user the right to, on a volume that is mounted for writing"
    )]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Looks at a directory, and leaves nothing behind.
pub(crate) fn stand(directory: &Path) -> Result<Standing, VolumeError> {
    let nearest = directory.ancestors().find(|path| path.exists());
    if let Some(path) = nearest.filter(|path| !path.is_dir()) {
        return Err(VolumeError::NotADirectory(path.to_owned()));
    }
    if !directory.exists() {
        return Ok(Standing::ToBeMade);
    }
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    let written = File::create(&probe).and_then(|mut file| {
        file.write_all(&PROBE)?;
        file.sync_all()
    });
    // Where it could not be made there is nothing to remove.
    let removed = std::fs::remove_file(&probe);
    written.and(removed).map(|()| Standing::Ready).map_err(|source| {
        let path = directory.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VolumeError::Full { path, source },
            _ => VolumeError::Unwritable { path, source },
        }
    })
}
