//! Which files there are in a directory of journals, and how they are read.
//!
//! One process start writes one *chain*: segments numbered from 1, each a file of lines. A finished segment may be
//! compressed. Beside them stand the directory's own id, the key that heads are signed with unless it is kept elsewhere,
//! and for each chain a file that its process holds locked, for as long as somebody must still look at the chain.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

/// The file that holds the directory's own id.
pub(in crate::audit) const ID: &str = "journal-id";
/// The file of the key that is made where none is configured.
pub(in crate::audit) const KEY: &str = "journal-key.pem";
/// What a segment's name ends with while it is compressed.
pub(super) const UNFINISHED: &str = ".tmp";

/// The chains of a directory, oldest first, each with its segments.
pub(in crate::audit) type Chains = BTreeMap<String, BTreeMap<u32, PathBuf>>;

/// The name of a segment that is written.
pub(super) fn segment(directory: &Path, chain: &str, number: u32) -> PathBuf {
    directory.join(format!("journal-{chain}-{number:06}.jsonl"))
}

/// The name of the file that a chain's process holds locked.
pub(in crate::audit) fn lock(directory: &Path, chain: &str) -> PathBuf {
    directory.join(format!("journal-{chain}.lock"))
}

/// The name of the file that says which lines of a chain a receiver has taken.
pub(in crate::audit) fn taken(directory: &Path, chain: &str) -> PathBuf {
    directory.join(format!("journal-{chain}.sent"))
}

/// Every chain and segment. The names hold the time at which a chain was begun, so their order is that of their starts.
pub(in crate::audit) fn chains(directory: &Path) -> io::Result<Chains> {
    let mut chains = Chains::new();
    for file in std::fs::read_dir(directory)? {
        let path = file?.path();
        let Some((chain, number)) = path.file_name().and_then(|name| name.to_str()).and_then(parse) else { continue };
        // A process that ended while it compressed leaves both, and they say the same.
        let segments = chains.entry(chain).or_default();
        if is_compressed(&path) {
            segments.entry(number).or_insert(path);
        } else {
            segments.insert(number, path);
        }
    }
    Ok(chains)
}

/// The chains that somebody must still look at: those whose processes live, and those that nobody has accounted for.
pub(in crate::audit) fn open_chains(directory: &Path) -> io::Result<Vec<String>> {
    let mut open = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let name = file?.file_name();
        let chain = name.to_str().and_then(|name| name.strip_prefix("journal-")?.strip_suffix(".lock"));
        open.extend(chain.filter(|chain| is_chain(chain)).map(str::to_owned));
    }
    open.sort();
    Ok(open)
}

/// A file's lines, whether or not it is compressed.
pub(in crate::audit) fn read(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    is_file(path)?;
    let file = BufReader::new(File::open(path)?);
    Ok(if is_compressed(path) { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
}

/// Fails where something else has a file's name: opening a pipe would wait for somebody who writes.
pub(in crate::audit) fn is_file(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) }
}

pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// A segment's chain and number.
fn parse(name: &str) -> Option<(String, u32)> {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let (chain, number) = name.strip_prefix("journal-")?.strip_suffix(".jsonl")?.rsplit_once('-')?;
    let number = (number.len() >= 6).then(|| number.parse().ok()).flatten()?;
    is_chain(chain).then(|| (chain.to_owned(), number))
}

fn is_chain(name: &str) -> bool {
    uuid::Uuid::try_parse(name).is_ok_and(|id| id.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let chain = "01980000-0000-7000-8000-000000000001";
        let path = segment(Path::new("/x"), chain, 12);
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(name, "journal-01980000-0000-7000-8000-000000000001-000012.jsonl");
        assert_eq!(parse(name), Some((chain.to_owned(), 12)));
        assert_eq!(parse(&format!("{name}.gz")), Some((chain.to_owned(), 12)));
        for other in ["journal-id", "journal-key.pem", "journal-x-000001.jsonl", &format!("{name}.gz.tmp"), "a.jsonl"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
