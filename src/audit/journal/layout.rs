//! Which files there are in a directory of journals, and how they are read.
//!
//! One process start writes one *chain*: segments numbered from 1, each a file of lines. A finished segment may be
//! compressed. Beside them stand the directory's own id, the key that heads are signed with unless it is kept elsewhere,
//! and for each chain a file that its process holds locked, for as long as somebody must still look at the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

/// The file that holds the directory's own id.
pub(in crate::audit) const ID: &str = "journal-id";
/// The file of the key that is made where none is configured.
pub(in crate::audit) const KEY: &str = "journal-key.pem";
/// What a segment's name ends with while it is compressed.
pub(super) const UNFINISHED: &str = ".tmp";

/// How long a line may be, in bytes. The longest of ours are far from it, and what is longer must not fill the memory.
pub(in crate::audit) const LINE_MOST: usize = 16 << 20;

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

/// The names of everything that [`chains`] and [`open_chains`] go by: they are others once a file was begun, compressed,
/// or let go of.
pub(in crate::audit) fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    let names = std::fs::read_dir(directory)?.map(|file| Ok(file?.file_name()));
    let ours = |name: &OsString| {
        Path::new(name).extension().is_some_and(|end| ["jsonl", "gz", "lock"].iter().any(|ours| end == *ours))
    };
    names.filter(|name| name.as_ref().map_or(true, ours)).collect()
}

/// Files that are named like a segment and are none: nothing is written under such a name, and nobody reads it.
pub(in crate::audit) fn strangers(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut strangers = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let path = file?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (lower, whole) = (name.to_ascii_lowercase(), name.strip_suffix(UNFINISHED).unwrap_or(&name));
        if lower.starts_with("journal-") && lower.contains(".jsonl") && parse(whole).is_none() {
            strangers.push(path);
        }
    }
    strangers.sort();
    Ok(strangers)
}

/// A file's lines, whether or not it is compressed, and also if it has been since it was listed.
pub(in crate::audit) fn read(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    match read_exactly(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_compressed(path) => {
            read_exactly(&compressed(path)).map_err(|_| error)
        }
        lines => lines,
    }
}

/// A file's lines, under this name only.
pub(in crate::audit) fn read_exactly(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let file = BufReader::new(open(path)?);
    Ok(if is_compressed(path) { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
}

/// The next line with its line feed, in place of what `line` held; the number of its bytes, which is 0 at the end.
pub(in crate::audit) fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    let length = lines.by_ref().take(LINE_MOST as u64).read_until(b'\n', line)?;
    if length == LINE_MOST && !line.ends_with(b"\n") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the line is longer than {LINE_MOST} bytes")));
    }
    Ok(length)
}

/// The text of a small file.
pub(in crate::audit) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if open(path)?.take(LINE_MOST as u64).read_to_string(&mut text)? == LINE_MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {LINE_MOST} bytes")));
    }
    Ok(text)
}

/// Opens a file to read it.
pub(in crate::audit) fn open(path: &Path) -> io::Result<File> {
    must_be_file(path)?;
    File::open(path)
}

/// What a file is known by, whatever its name: its device and inode.
#[cfg(unix)]
pub(in crate::audit) fn known_as(is: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;

    (is.dev(), is.ino())
}

/// What a file is known by, whatever its name: when it was made, since Windows names no inode here.
#[cfg(windows)]
pub(in crate::audit) fn known_as(is: &std::fs::Metadata) -> (u64, u64) {
    use std::os::windows::fs::MetadataExt as _;

    (0, is.creation_time())
}

/// Whoever opens a pipe waits until somebody opens its other end.
pub(in crate::audit) fn must_be_file(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// A segment's name once it is compressed.
pub(in crate::audit) fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

pub(in crate::audit) fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// A segment's chain and number.
fn parse(name: &str) -> Option<(String, u32)> {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let (chain, number) = name.strip_prefix("journal-")?.strip_suffix(".jsonl")?.rsplit_once('-')?;
    // A number is written in one way, so that no two names are one segment's.
    let parsed = number.parse().ok().filter(|parsed| *parsed > 0 && format!("{parsed:06}") == number)?;
    is_chain(chain).then(|| (chain.to_owned(), parsed))
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
        assert_eq!(parse(&format!("journal-{chain}-1000000.jsonl")), Some((chain.to_owned(), 1_000_000)));
        for number in ["0000012", "12", "+00012", "000000", "9999999999"] {
            assert_eq!(parse(&format!("journal-{chain}-{number}.jsonl")), None, "{number}");
        }
    }

    #[test]
    fn a_line_that_would_fill_the_memory_is_not_read() {
        let mut line = Vec::new();
        let mut longest = BufReader::new(io::repeat(b'x').take(LINE_MOST as u64 - 1).chain(&b"\nnext"[..]));
        assert_eq!(read_line(&mut longest, &mut line).expect("it reads"), LINE_MOST);
        assert_eq!(read_line(&mut longest, &mut line).expect("it reads"), 4);
        let error = read_line(&mut BufReader::new(io::repeat(b'x')), &mut line).expect_err("too long");
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}
