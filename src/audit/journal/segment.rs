//! The file that is written: whole lines, or none.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{JournalError, failed, layout, open_new, sync_names};

/// A segment that is being written.
pub(super) struct Segment {
    file: File,
    pub(super) path: PathBuf,
    pub(super) number: u32,
    /// When it was begun.
    pub(super) begun: Timestamp,
    /// The length of the whole lines that are in the file.
    pub(super) length: u64,
    /// Bytes behind the whole lines could not be cut off.
    torn: bool,
    /// What it is known by, whatever its name.
    known_as: (u64, u64),
    /// It was not in its place when that was last looked at.
    missed: bool,
}

impl Segment {
    pub(super) fn create(directory: &Path, chain: &str, number: u32, begun: Timestamp) -> Result<Self, JournalError> {
        let path = layout::segment(directory, chain, number);
        let file = open_new(&path).map_err(failed(&path, "created"))?;
        sync_names(directory).map_err(failed(directory, "synced"))?;
        Self::over(file, path, number, begun)
    }

    pub(super) fn over(file: File, path: PathBuf, number: u32, begun: Timestamp) -> Result<Self, JournalError> {
        let is = file.metadata().map_err(failed(&path, "read"))?;
        Ok(Self { file, path, number, begun, length: 0, torn: false, known_as: layout::known_as(&is), missed: false })
    }

    /// Appends whole lines, all or nothing: on failure the file is as it was.
    pub(super) fn append(&mut self, lines: &[u8], durable: bool) -> Result<(), JournalError> {
        if self.torn {
            self.file.set_len(self.length).map_err(failed(&self.path, "written"))?;
            self.torn = false;
        }
        // Nothing that is written to a file which is known to be gone counts, whoever waits for it.
        if durable || self.missed {
            let there = self.check_there();
            self.missed = there.is_err();
            there?;
        }
        let result = self.file.write_all(lines).and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        if let Err(source) = result {
            self.torn = self.file.set_len(self.length).is_err();
            return Err(failed(&self.path, "written")(source));
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(failed(&self.path, "synced"))
    }

    /// A file that was taken away, or whose volume was, still takes every write.
    fn check_there(&self) -> Result<(), JournalError> {
        match std::fs::metadata(&self.path) {
            Ok(is) if layout::known_as(&is) == self.known_as => Ok(()),
            Ok(_) => Err(JournalError::Gone(self.path.clone())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(JournalError::Gone(self.path.clone())),
            Err(error) => Err(failed(&self.path, "looked at")(error)),
        }
    }
}
