//! Files that are this person's alone: 0600 in a directory of 0700, replaced as a whole.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::StoreError;

/// The most bytes of a file; ours are a few kilobytes.
const FILE_MAX: u64 = 1024 * 1024;

fn wrong(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), source }
}

/// Makes the directory, or closes the one that is there to others.
pub(super) fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| wrong(directory, source))?;
    let mode = std::fs::metadata(directory).map_err(|source| wrong(directory, source))?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))
            .map_err(|source| wrong(directory, source))?;
    }
    Ok(())
}

/// Reads a file; nothing if there is none.
pub(in crate::bridge) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(wrong(path, source)),
    }
}

/// Writes a file. Whoever reads it meanwhile sees the old one or the new one.
pub(in crate::bridge) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        // One that was left behind keeps its mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().map_err(|source| {
        drop(std::fs::remove_file(&new));
        wrong(path, source)
    })
}

/// Removes a file that may be gone already.
pub(in crate::bridge) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(wrong(path, source)),
        _ => Ok(()),
    }
}
