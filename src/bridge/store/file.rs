//! Files that are this person's alone: 0600 in a directory of 0700, replaced as a whole. On Windows what lies below a person's own
//! directory is theirs without more.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use super::StoreError;

/// The most bytes of a file; ours are a few kilobytes.
const FILE_MAX: u64 = 1024 * 1024;

fn wrong(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), source }
}

/// Makes the directory, or closes the one that is there to others.
pub(super) fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let mut made = DirBuilder::new();
    made.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut made, 0o700);
    made.create(directory).and_then(|()| close(directory)).map_err(|source| wrong(directory, source))
}

/// Closes a directory to others, if it is open to them.
#[cfg(unix)]
fn close(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if std::fs::metadata(directory)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn close(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// How a file is opened to be written: one that is made is its owner's alone.
pub(super) fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
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
        let mut file = writable().create(true).truncate(true).open(&new)?;
        // One that was left behind keeps its mode.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
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
