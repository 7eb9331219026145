use serde_json::Value;

use super::*;

fn directory() -> PathBuf {
    let path = std::env::temp_dir().join(format!("whitelistmcp-journal-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

fn body() -> Body {
    Body::Open(Open { service: "test", version: "0", process: 1, format: "x" })
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).expect("text").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn every_line_carries_the_hash_of_the_one_before() {
    let directory = directory();
    let journal = Journal::open(&directory, Clock::system()).expect("it opens");
    for _ in 0..5 {
        journal.write(body());
        journal.write_durably(body()).await.expect("written");
    }
    let mut prev = "0".repeat(64);
    let lines = lines(journal.path());
    assert_eq!(lines.len(), 11);
    for (index, line) in lines.iter().enumerate() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((entry["prev"].as_str(), entry["seq"].as_u64()), (Some(prev.as_str()), Some(index as u64 + 1)));
        prev = sha256_hex(line);
    }
    std::fs::remove_dir_all(directory).expect("gone");
}

#[tokio::test]
async fn what_was_handed_in_is_written_before_the_end() {
    let directory = directory();
    let journal = Journal::open(&directory, Clock::system()).expect("it opens");
    let path = journal.path().to_owned();
    for _ in 0..1000 {
        journal.write(body());
    }
    drop(journal);
    assert_eq!(lines(&path).len(), 1001);
    std::fs::remove_dir_all(directory).expect("gone");
}

#[tokio::test]
async fn a_disk_that_is_full_loses_no_line_and_breaks_no_chain() {
    // /dev/full takes every open and refuses every write.
    let path = PathBuf::from("/dev/full");
    let file = OpenOptions::new().append(true).open(&path).expect("it opens");
    let writable = Arc::new(AtomicBool::new(true));
    let mut writer = Writer {
        file,
        path,
        clock: Clock::system(),
        length: 0,
        seq: 4,
        prev: "p".to_owned(),
        torn: false,
        writable,
        waiting: Arc::default(),
    };
    let error = writer.append(&[Item { body: body(), written: None }], false).expect_err("full");
    assert!(error.to_string().contains("/dev/full cannot be written"), "{error}");
    assert_eq!((writer.seq, writer.prev.as_str(), writer.length), (4, "p", 0));
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    let error = Journal::open(Path::new("/dev/null/journal"), Clock::system()).expect_err("no directory");
    assert!(error.to_string().contains("/dev/null/journal cannot be created"), "{error}");
}

#[test]
fn two_processes_never_share_a_file() {
    let directory = directory();
    let first = Journal::open(&directory, Clock::system()).expect("it opens");
    let second = Journal::open(&directory, Clock::system()).expect("it opens");
    assert_ne!(first.path(), second.path());
    let again = File::open(first.path()).expect("it can be read");
    assert!(again.try_lock().is_err(), "the writer holds the lock");
    std::fs::remove_dir_all(directory).expect("gone");
}
