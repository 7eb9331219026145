use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::audit::head::SigningKey;
use crate::audit::journal::{Config, Journal, Volume};
use crate::audit::record::{Body, Retired};
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
    assert!(report.is_sound() && report.chains[0].ends == "cut off" && report.notes.len() == 2, "{report:#?}");
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

/// Lines with the numbers and hashes that they must have where they stand, as anybody can write them.
fn chained(lines: Vec<serde_json::Value>) -> Vec<String> {
    let (mut prev, mut seq) = ("0".repeat(64), 0);
    let chained = lines.into_iter().map(|mut line| {
        seq += 1;
        (line["v"], line["seq"], line["prev"]) = (2.into(), seq.into(), prev.clone().into());
        let line = line.to_string();
        prev = crate::digest::sha256_hex(&line);
        line
    });
    chained.collect()
}

fn parsed(lines: &[String]) -> Vec<serde_json::Value> {
    lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn who_has_no_key_lets_go_of_no_chain() {
    let written = Written::new(20, 1 << 30);
    let (lines, heads, file) = (written.lines(), written.heads(), written.files().pop().expect("a file"));
    let mut open = parsed(&lines)[0].clone();
    let (gone, other) = (open["chain"].clone(), uuid::Uuid::now_v7().to_string());
    open["chain"] = other.clone().into();
    let retired = serde_json::json!({"at": "2027-01-01T00:00:00Z", "type": "retired", "chain": gone, "segment": 1,
        "first": 1, "last": 24, "sha256": "0".repeat(64), "file": "x"});
    let adopted = serde_json::json!({"at": "2027-01-01T00:00:00Z", "type": "adopted", "chain": gone, "last": 0,
        "sha256": "", "torn": 0, "unfinished": []});
    std::fs::remove_file(&file).expect("removed");
    let lock = layout::lock(&written.path, gone.as_str().expect("a name"));
    let forged = written.path.join(format!("journal-{other}-000001.jsonl"));
    for (wrote, whole) in [
        (chained(vec![open.clone(), retired.clone()]), true),
        (chained(vec![retired.clone()]), true),
        (chained(vec![retired]), false),
        (chained(vec![open, adopted]), true),
    ] {
        let wrote = text(&wrote);
        std::fs::write(&forged, if whole { wrote.as_str() } else { wrote.trim_end() }).expect("written");
        let wrong = written.wrong(heads.clone());
        assert!(wrong.iter().any(|finding| finding.contains("missing from line 1 on")), "{wrong:#?}");
        let wrong = written.wrong(Vec::new());
        assert!(wrong.iter().any(|finding| finding.contains("none of its files is here")), "{wrong:#?}");
        // Whose heads they are is known by those that were kept.
        let report = verify(&written.path, &Given { key: None, heads: heads.clone() }).expect("read");
        assert!(report.findings.iter().any(|finding| finding.what.contains("missing from line 1 on")), "{report:#?}");
    }
    std::fs::remove_file(lock).expect("removed");
    assert!(!written.verify(heads).is_sound());
}

#[test]
fn what_was_let_go_of_on_record_is_not_missed_and_what_was_newer_is() {
    for (last, sound) in [(24, true), (10, false)] {
        let written = Written::new(20, 1 << 30);
        let (heads, file) = (written.heads(), written.files().pop().expect("a file"));
        let chain = heads[0].head.chain.clone();
        let journal = Journal::open(&Written::config(&written.path), Clock::system()).expect("opens").expect("one");
        let sha256 = "0".repeat(64);
        let retired = Retired { chain: chain.clone(), segment: 1, first: 1, last, sha256, file: "x".to_owned() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(journal.write_durably(Body::Retired(retired))).expect("written");
        std::fs::remove_file(file).expect("removed");
        std::fs::remove_file(layout::lock(&written.path, &chain)).expect("removed");
        // No head is behind it yet.
        assert!(!written.verify(heads.clone()).is_sound());
        drop(journal);
        let report = written.verify(heads.clone());
        assert_eq!(report.is_sound(), sound, "{report:#?}");
        assert_eq!(report.heads, 0, "what is not here is not compared");
        assert_eq!(report.findings.iter().any(|finding| finding.what.contains("missing from line 11")), !sound);
        let report = verify(&written.path, &Given { key: None, heads }).expect("read");
        assert_eq!(report.is_sound(), sound, "{report:#?}");
    }
}

#[test]
fn heads_that_must_be_there_are_missed() {
    let written = Written::new(20, 1 << 30);
    let lines = written.lines();
    let mut without = parsed(&lines);
    without.retain(|line| line["type"] != "head");
    written.put(&chained(without.clone()));
    let wrong = written.wrong(Vec::new());
    assert!(wrong.iter().any(|finding| finding.contains(":2: the head behind the chain's first line")), "{wrong:#?}");
    assert!(wrong.iter().any(|finding| finding.contains("its last lines, 22 in number")), "{wrong:#?}");
    without.pop();
    written.put(&chained(without));
    assert!(!written.verify(Vec::new()).is_sound());
    written.put(&lines[..23]);
    let wrong = written.wrong(Vec::new());
    assert!(wrong.len() == 1 && wrong[0].contains("its last lines, 21 in number"), "{wrong:#?}");
    // As a crash leaves it: before the first head, behind it, and later.
    for (kept, unsigned) in [(1, 1), (2, 0), (3, 1), (22, 20)] {
        written.put(&lines[..kept]);
        let report = written.verify(Vec::new());
        assert!(report.is_sound() && report.chains[0].unsigned == unsigned, "{kept}: {report:#?}");
        let named = format!("its last {unsigned} lines have no signed head");
        assert_eq!(report.notes.iter().any(|note| note.what.contains(&named)), unsigned > 0, "{report:#?}");
    }
}

#[test]
fn a_finished_file_ends_with_a_head() {
    let written = Written::new(200, 8_000);
    let files = written.files();
    let mut lines = Vec::new();
    layout::read(&files[0]).expect("it reads").read_to_end(&mut lines).expect("it reads");
    std::fs::remove_file(&files[0]).expect("removed");
    let lines: Vec<&str> = std::str::from_utf8(&lines).expect("text").lines().collect();
    let plain = files[0].with_extension("");
    std::fs::write(plain, text(&lines[..lines.len() - 1].iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()))
        .expect("written");
    let wrong = written.wrong(Vec::new());
    assert!(wrong.iter().any(|finding| finding.contains("ends without the head that signs it")), "{wrong:#?}");
}

#[test]
fn heads_that_fit_nothing_here_speak_against_the_directory() {
    let (written, other) = (Written::new(5, 1 << 30), Written::new(5, 1 << 30));
    let wrong = written.wrong(other.heads());
    assert!(wrong.len() == 1 && wrong[0].contains("none of the 2 is of a line that is here"), "{wrong:#?}");
    // One who receives heads of several journals keeps them together.
    let both = [written.heads(), other.heads()].concat();
    let report = written.verify(both);
    assert!(report.is_sound() && report.heads == 2 && report.notes.len() == 1, "{report:#?}");
    let heads = written.heads();
    for path in std::fs::read_dir(&written.path).expect("listed").flatten().map(|file| file.path()) {
        std::fs::remove_file(path).expect("removed");
    }
    assert!(!written.verify(heads.clone()).is_sound());
    std::fs::write(written.path.join(layout::ID), uuid::Uuid::now_v7().to_string()).expect("written");
    assert!(written.wrong(heads).iter().any(|finding| finding.contains("none of the 2")));
}

#[test]
fn a_journal_that_is_being_written_is_sound_at_every_moment() {
    let written = Written::new(1, 1 << 30);
    let config = Config { segment_bytes: 5_000, ..Written::config(&written.path) };
    let journal = Journal::open(&config, Clock::system()).expect("opens").expect("a journal");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            for _ in 0..1000 {
                runtime.block_on(journal.write_durably(Body::Vouched(carried()))).expect("written");
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let report = written.verify(Vec::new());
            assert!(report.is_sound(), "{:#?}", report.findings);
        }
    });
    drop(journal);
    assert!(written.verify(Vec::new()).is_sound());
}

#[test]
fn a_file_that_was_compressed_since_it_was_listed_is_read() {
    let written = Written::new(200, 8_000);
    let compressed = written.files()[0].clone();
    assert!(layout::is_compressed(&compressed));
    let (mut listed, mut now) = (String::new(), String::new());
    layout::read(&compressed.with_extension("")).expect("it reads").read_to_string(&mut listed).expect("text");
    layout::read(&compressed).expect("it reads").read_to_string(&mut now).expect("text");
    assert!(!now.is_empty() && listed == now);
}

#[test]
fn files_that_nobody_reads_are_named() {
    let written = Written::new(200, 8_000);
    let compressed = written.files()[0].clone();
    let (plain, bytes) = (compressed.with_extension(""), std::fs::read(&compressed).expect("read"));
    let mut lines = String::new();
    layout::read(&compressed).expect("it reads").read_to_string(&mut lines).expect("text");
    std::fs::write(&plain, &lines).expect("written");
    assert!(written.verify(Vec::new()).is_sound(), "a process that ended while it compressed leaves both");
    let other = std::fs::read(&written.files()[1]).expect("read");
    for forged in [&other[..], b"", b"junk", &bytes[..bytes.len() / 2]] {
        std::fs::write(&compressed, forged).expect("written");
        let wrong = written.wrong(Vec::new());
        assert!(wrong.len() == 1 && wrong[0].contains("stands beside a plain file"), "{wrong:#?}");
    }
    std::fs::write(&compressed, &bytes).expect("written");
    std::fs::remove_file(&plain).expect("removed");
    let name = compressed.file_name().and_then(|name| name.to_str()).expect("a name");
    for name in [
        name.replace("-000001", "-0000001"),
        name.replace("-000001", "-000000"),
        name.replace("-000001", "-1"),
        name.to_uppercase(),
        format!("{name}.old"),
    ] {
        let stranger = written.path.join(&name);
        std::fs::copy(&compressed, &stranger).expect("copied");
        let wrong = written.wrong(Vec::new());
        assert!(wrong.len() == 1 && wrong[0].contains(&name) && wrong[0].contains("is none"), "{name}: {wrong:#?}");
        std::fs::remove_file(stranger).expect("removed");
    }
    // What a process leaves that ended while it compressed.
    std::fs::write(written.path.join(format!("{name}.tmp")), "half").expect("written");
    assert!(written.verify(Vec::new()).is_sound());
}

#[test]
fn a_pipe_in_a_files_place_holds_nobody_up() {
    let written = Written::new(20, 1 << 30);
    let file = written.files().pop().expect("a file");
    let chain = written.heads()[0].head.chain.clone();
    let pipe = |path: &Path| {
        std::fs::remove_file(path).unwrap_or_default();
        assert!(std::process::Command::new("mkfifo").arg(path).status().expect("it runs").success());
    };
    pipe(&layout::lock(&written.path, &chain));
    assert!(written.wrong(Vec::new()).iter().any(|finding| finding.contains("no regular file")));
    let journal = Journal::open(&Written::config(&written.path), Clock::system()).expect("opens").expect("a journal");
    assert!(crate::audit::unfinished::orphans(&journal).expect("read").is_empty());
    drop(journal);
    pipe(&layout::taken(&written.path, &chain));
    crate::audit::replay::replay(&written.path, None, || ()).expect_err("it cannot be read");
    pipe(&file);
    let wrong = written.wrong(Vec::new());
    assert!(wrong.iter().any(|finding| finding.contains("cannot be read: it is no regular file")), "{wrong:#?}");
    pipe(&written.path.join(layout::ID));
    assert!(!written.verify(Vec::new()).is_sound());
}

#[test]
fn lines_that_would_fill_the_memory_are_found_and_not_held() {
    let written = Written::new(5, 1 << 30);
    let lines = written.lines();
    written.put(&[lines[..4].to_vec(), vec!["x".repeat(layout::LINE_MOST + 1)]].concat());
    let wrong = written.wrong(Vec::new());
    assert!(wrong.iter().any(|finding| finding.contains(":5: ") && finding.contains("longer than")), "{wrong:#?}");
    written.put(&[lines, vec![String::new(); 100_000]].concat());
    let wrong = written.wrong(Vec::new());
    assert!(wrong.len() < 1_100 && wrong.iter().any(|finding| finding.contains("so much is wrong")), "{}", wrong.len());
    let file = written.files().pop().expect("a file");
    std::fs::rename(&file, file.to_string_lossy().replace("-000001", "-4294967295")).expect("renamed");
    let wrong = written.wrong(Vec::new());
    assert!(wrong.iter().any(|finding| finding.contains("number 1 to 4294967294")), "{}", wrong.len());
}

#[test]
fn a_line_that_is_no_text_is_found_and_not_sent_as_an_empty_one() {
    let written = Written::new(5, 1 << 30);
    let (lines, file) = (written.lines(), written.files().pop().expect("a file"));
    let chain = written.heads()[0].head.chain.clone();
    let mut bytes = text(&lines[..3]).into_bytes();
    let (before, after) = lines[3].split_once("\"type\"").expect("a type");
    bytes.extend([before.as_bytes(), b"\"x\":\"\xff\xfe\",\"type\"", after.as_bytes(), b"\n"].concat());
    std::fs::write(&file, bytes).expect("written");
    let wrong = written.wrong(Vec::new());
    assert!(wrong.len() == 1 && wrong[0].contains(":4: it is not text"), "{wrong:#?}");
    let replayed = crate::audit::replay::replay(&written.path, None, || ()).expect("read");
    assert_eq!((replayed.sent, replayed.known, replayed.unreadable), (3, 0, 1));
    // Who notes more lines than there are is not believed.
    let noted = layout::taken(&written.path, &chain);
    for (note, sent, known) in [("1-1000", 3, 0), ("1-18446744073709551615", 3, 0), ("1-2", 1, 2), ("1-3", 0, 3)] {
        std::fs::write(&noted, note).expect("written");
        let replayed = crate::audit::replay::replay(&written.path, None, || ()).expect("read");
        assert_eq!((replayed.sent, replayed.known), (sent, known), "{note}");
    }
}
