use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::audit::head::SigningKey;
use crate::audit::journal::{Config, Journal, Volume};
use crate::audit::record::Body;
use crate::clock::Clock;

struct Written {
    path: PathBuf,
    key: PublicKey,
}

impl Drop for Written {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).unwrap_or_default();
    }
}

impl Written {
    /// A journal of one chain of some lines over several files, closed in order.
    fn new(lines: usize, segment_bytes: u64) -> Self {
        let path = std::env::temp_dir().join(format!("whitelistmcp-verify-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory");
        let config = Config { segment_bytes, ..Self::config(&path) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let journal = Journal::open(&config, Clock::system()).expect("opens").expect("a journal");
        for _ in 0..lines {
            runtime.block_on(journal.write_durably(Body::Vouched(carried()))).expect("written");
        }
        let written = Self { key: SigningKey::from_file(&path.join(layout::KEY)).expect("a key").public(), path };
        drop(journal);
        // The compressing goes on for a moment, and tests change plain files.
        for _ in 0..200 {
            let compressing = std::fs::read_dir(&written.path)
                .expect("listed")
                .flatten()
                .any(|file| file.file_name().to_string_lossy().ends_with(".tmp"));
            let plain =
                written.files().iter().filter(|file| file.extension().is_some_and(|end| end == "jsonl")).count();
            if !compressing && plain == 1 {
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "a test without a runtime waits for a thread")]
            std::thread::sleep(Duration::from_millis(10));
        }
        written
    }

    fn config(path: &Path) -> Config {
        Config { directory: Some(path.to_owned()), volume: Volume::Persistent, ..Config::default() }
    }

    fn files(&self) -> Vec<PathBuf> {
        layout::chains(&self.path).expect("listed").into_values().flat_map(BTreeMap::into_values).collect()
    }

    fn lines(&self) -> Vec<String> {
        let file = self.files().pop().expect("a file");
        std::fs::read_to_string(file).expect("text").lines().map(str::to_owned).collect()
    }

    /// Writes the newest file anew.
    fn put(&self, lines: &[String]) {
        let file = self.files().pop().expect("a file");
        std::fs::write(file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    }

    fn heads(&self) -> Vec<Kept> {
        let path = self.path.join("heads");
        std::fs::write(&path, self.lines().join("\n")).expect("written");
        let heads = Kept::read(&path).expect("heads");
        std::fs::remove_file(path).expect("removed");
        heads
    }

    fn verify(&self, heads: Vec<Kept>) -> Report {
        verify(&self.path, &Given { key: Some(self.key.clone()), heads }).expect("read")
    }

    fn wrong(&self, heads: Vec<Kept>) -> Vec<String> {
        self.verify(heads).findings.into_iter().map(|finding| format!("{}: {}", finding.at, finding.what)).collect()
    }
}

fn carried() -> crate::audit::record::Carried {
    crate::audit::record::Carried::for_tests()
}

#[test]
fn a_journal_as_it_was_written_is_sound() {
    let written = Written::new(20, 1 << 30);
    let report = written.verify(written.heads());
    assert!(report.is_sound(), "{:#?}", report.findings);
    assert_eq!((report.chains.len(), report.chains[0].ends, report.chains[0].signed), (1, "in order", 2));
    assert_eq!(report.chains[0].last, 24, "opening, head, twenty, closing, head");
    let several = Written::new(200, 8_000);
    let report = several.verify(several.heads());
    assert!(report.is_sound(), "{:#?}", report.findings);
    assert!(several.files().len() > 3);
}

#[test]
fn an_edit_is_found_and_said_where() {
    let written = Written::new(20, 1 << 30);
    let lines = written.lines();
    for changed in 0..lines.len() {
        let mut forged = lines.clone();
        forged[changed] = forged[changed].replace("\"at\":\"2", "\"at\":\"3");
        written.put(&forged);
        let wrong = written.wrong(Vec::new());
        if changed + 1 == lines.len() {
            // Nothing follows the last line but what somebody else knows.
            assert!(!written.wrong(heads_of(&lines)).is_empty() || wrong.is_empty());
            continue;
        }
        let next = format!(":{}: ", changed + 2);
        assert!(
            wrong.iter().any(|finding| finding.contains(&next) && finding.contains("was changed")),
            "{changed}: {wrong:#?}"
        );
    }
}

fn heads_of(lines: &[String]) -> Vec<Kept> {
    let heads = lines.iter().filter_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let head = serde_json::from_value(value.get("head")?.clone()).ok()?;
        Some(Kept { head, at: "elsewhere".to_owned() })
    });
    heads.collect()
}

#[test]
fn gaps_swaps_and_repetitions_are_found() {
    let written = Written::new(20, 1 << 30);
    let lines = written.lines();
    let mut gap = lines.clone();
    gap.drain(5..8);
    written.put(&gap);
    let wrong = written.wrong(Vec::new());
    assert!(wrong.len() == 1 && wrong[0].contains(":6: 3 lines before it are missing"), "{wrong:#?}");
    let mut swapped = lines.clone();
    swapped.swap(5, 6);
    written.put(&swapped);
    let wrong = written.wrong(Vec::new());
    assert!(
        wrong.iter().any(|finding| finding.contains(":6: ")) && wrong.iter().any(|finding| finding.contains("moved")),
        "{wrong:#?}"
    );
    let mut twice = lines.clone();
    twice.insert(6, lines[5].clone());
    written.put(&twice);
    assert!(
        written.wrong(Vec::new()).iter().any(|finding| finding.contains(":7: ") && finding.contains("put in twice"))
    );
    let mut junk = lines;
    junk[7] = "what is this".to_owned();
    written.put(&junk);
    assert!(written.wrong(Vec::new()).iter().any(|finding| finding.contains(":8: it is no line of a journal")));
}

#[test]
fn a_cut_end_shows_by_a_head_that_was_kept_elsewhere() {
    let written = Written::new(20, 1 << 30);
    let (lines, heads) = (written.lines(), written.heads());
    written.put(&lines[..10]);
    let report = written.verify(Vec::new());
    assert!(report.is_sound() && report.chains[0].ends == "cut off" && report.notes.len() == 1, "{report:#?}");
    let wrong = written.wrong(heads.clone());
    assert!(
        wrong.iter().any(|finding| finding.contains("ends at line 10") && finding.contains("had 23")),
        "{wrong:#?}"
    );
    // A torn line is what a crash leaves, and the end is missing all the same.
    let file = written.files().pop().expect("a file");
    std::fs::write(&file, format!("{}\n{}", lines[..10].join("\n"), lines[10].get(..20).expect("a line")))
        .expect("written");
    let report = written.verify(Vec::new());
    assert!(report.is_sound() && report.notes.iter().any(|note| note.what.contains("torn")), "{report:#?}");
    assert!(!written.verify(heads).is_sound());
}

#[test]
fn a_chain_that_is_gone_or_written_anew_shows_by_heads() {
    let written = Written::new(20, 1 << 30);
    let heads = written.heads();
    // Written anew from the start, by somebody who has no key: hashes right, another content.
    let mut forged = written.lines();
    forged.truncate(23);
    let mut prev = "0".repeat(64);
    for line in &mut forged {
        let mut value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).expect("JSON");
        value.insert("prev".to_owned(), prev.into());
        if value["type"] == "vouched" {
            value.insert("call".to_owned(), "another".into());
        }
        *line = serde_json::to_string(&value).expect("JSON");
        prev = crate::digest::sha256_hex(&line);
    }
    written.put(&forged);
    let wrong = written.wrong(heads.clone());
    assert!(
        wrong.iter().any(|finding| finding.contains("does not fit") || finding.contains("written anew")),
        "{wrong:#?}"
    );
    let file = written.files().pop().expect("a file");
    std::fs::remove_file(file).expect("removed");
    let wrong = written.wrong(heads);
    assert!(wrong.iter().any(|finding| finding.contains("the chain is missing from line 1 on")), "{wrong:#?}");
    assert!(
        written.wrong(Vec::new()).iter().any(|finding| finding.contains("none of its files is here")),
        "its lock is left"
    );
}

#[test]
fn a_file_of_a_chain_that_is_missing_is_named() {
    let written = Written::new(200, 8_000);
    let files = written.files();
    std::fs::remove_file(&files[1]).expect("removed");
    let wrong = written.wrong(Vec::new());
    assert!(wrong.iter().any(|finding| finding.contains("the files before it are missing: number 2")), "{wrong:#?}");
}

#[test]
fn a_compressed_file_that_is_damaged_is_named() {
    let written = Written::new(200, 8_000);
    let file = &written.files()[0];
    let mut bytes = std::fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(file, bytes).expect("written");
    assert!(!written.verify(Vec::new()).is_sound());
}

#[test]
fn heads_count_by_their_signature() {
    let written = Written::new(5, 1 << 30);
    let mut heads = written.heads();
    heads[0].head.seq += 100;
    let wrong = written.wrong(heads);
    assert!(wrong.len() == 1 && wrong[0].contains("not signed by the key"), "{wrong:#?}");
    // A journal that was signed with another key is not this one.
    let other = SigningKey::create(&written.path.join("other.pem")).expect("a key").public();
    let report = verify(&written.path, &Given { key: Some(other), heads: Vec::new() }).expect("read");
    assert!(report.findings.iter().any(|finding| finding.what.contains("not with the one that was given")));
}

#[test]
fn what_the_next_process_recorded_holds_the_one_before_to_its_end() {
    let written = Written::new(20, 1 << 30);
    let first = written.lines();
    let file = written.files().pop().expect("a file");
    let config = Written::config(&written.path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let journal = Journal::open(&config, Clock::system()).expect("opens").expect("a journal");
    for orphan in crate::audit::unfinished::orphans(&journal).expect("read") {
        runtime.block_on(journal.write_durably(Body::Adopted(orphan.adopted()))).expect("written");
    }
    drop(journal);
    let report = written.verify(Vec::new());
    assert!(report.is_sound(), "{report:#?}");
    // The end of the first chain is cut off: without any head that was kept elsewhere.
    std::fs::write(&file, first[..20].iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    let wrong = written.wrong(Vec::new());
    assert!(
        wrong.iter().any(|finding| finding.contains("ends at line 20") && finding.contains("had 24")),
        "{wrong:#?}"
    );
}

#[test]
fn heads_are_found_in_log_records_and_in_lists() {
    let written = Written::new(3, 1 << 30);
    let line = written.lines().pop().expect("a head");
    let path = written.path.join("collected.json");
    for text in [
        serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": line}}]}]}]})
            .to_string(),
        format!("2026-11-03 collector {line}\nnoise\n"),
        format!("[{line}]"),
    ] {
        std::fs::write(&path, &text).expect("written");
        assert_eq!(Kept::read(&path).expect("heads").len(), 1, "{text}");
    }
    std::fs::write(&path, "nothing").expect("written");
    assert!(matches!(Kept::read(&path), Err(HeadsError::None(_))));
}
