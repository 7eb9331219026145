use serde_json::Value;

use super::segment::Segment;
use super::*;
use crate::audit::record::Carried;
use crate::digest::sha256_hex;

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("whitelistmcp-journal-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn config(&self) -> Config {
        Config { directory: Some(self.0.clone()), volume: Volume::Persistent, ..Config::default() }
    }

    fn open(config: &Config) -> Journal {
        Journal::open(config, Clock::system()).expect("it opens").expect("a directory is given")
    }

    /// The lines of every chain, in order.
    fn lines(&self) -> Vec<String> {
        let chains = layout::chains(&self.0).expect("listed");
        let files = chains.values().flat_map(|segments| segments.values());
        files.flat_map(|path| io::BufRead::lines(layout::read(path).expect("read")).map_while(Result::ok)).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn body() -> Body {
    Body::Vouched(Carried::for_tests())
}

fn assert_whole(lines: &[String]) {
    let mut prev = "0".repeat(64);
    for (index, line) in lines.iter().enumerate() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((entry["prev"].as_str(), entry["seq"].as_u64()), (Some(prev.as_str()), Some(index as u64 + 1)));
        prev = sha256_hex(line);
    }
}

#[tokio::test]
async fn what_was_handed_in_is_in_the_file_once_it_is_settled() {
    let directory = Directory::new();
    let journal = Directory::open(&directory.config());
    for times in 1..=3 {
        for _ in 0..100 {
            journal.write(body());
        }
        journal.settle().await.expect("settled");
        // Nothing more to do is no reason to wait.
        journal.settle().await.expect("settled");
        let lines = directory.lines();
        assert_eq!(lines.iter().filter(|line| line.contains("\"vouched\"")).count(), times * 100);
        assert_whole(&lines);
    }
}

#[tokio::test]
async fn every_line_carries_the_hash_of_the_one_before() {
    let directory = Directory::new();
    let journal = Directory::open(&directory.config());
    for _ in 0..5 {
        journal.write(body());
        journal.write_durably(body()).await.expect("written");
    }
    let lines = directory.lines();
    assert_eq!(lines.len(), 12, "the opening, its head, and what was written");
    assert_whole(&lines);
}

#[tokio::test]
async fn what_was_handed_in_is_written_before_the_end() {
    let directory = Directory::new();
    let journal = Directory::open(&directory.config());
    for _ in 0..1000 {
        journal.write(body());
    }
    drop(journal);
    let lines = directory.lines();
    assert_eq!(lines.len(), 1004, "and a closing line with its head");
    assert_whole(&lines);
    assert!(lines[1003].contains(r#""type":"head""#), "{}", lines[1003]);
}

#[tokio::test]
async fn a_chain_goes_on_over_files_that_are_compressed_and_signed_at_their_ends() {
    let directory = Directory::new();
    let config = Config { segment_bytes: 20_000, ..directory.config() };
    let journal = Directory::open(&config);
    for _ in 0..2000 {
        journal.write_durably(body()).await.expect("written");
    }
    drop(journal);
    let chains = layout::chains(&directory.0).expect("listed");
    assert_eq!(chains.len(), 1);
    let segments = chains.values().next().expect("a chain");
    assert!(segments.len() > 10, "{}", segments.len());
    let lines = directory.lines();
    assert_whole(&lines);
    let opened = lines.iter().filter(|line| line.contains(r#""type":"open""#)).count();
    assert_eq!(opened, segments.len());
    for _ in 0..100 {
        let plain = layout::chains(&directory.0).expect("listed").into_values().next().expect("a chain");
        if plain.values().filter(|path| !layout::is_compressed(path)).count() == 1 {
            assert_whole(&directory.lines());
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the finished files are compressed");
}

#[tokio::test]
async fn files_that_are_old_enough_go_once_that_is_on_record() {
    let directory = Directory::new();
    let config = Config { segment_bytes: 20_000, ..directory.config() };
    let journal = Directory::open(&config);
    for _ in 0..300 {
        journal.write_durably(body()).await.expect("written");
    }
    let first = journal.chain().to_owned();
    drop(journal);
    // Nobody needs to look at it any more.
    std::fs::remove_file(layout::lock(&directory.0, &first)).expect("removed");
    let later = Clock::from_fn(|| {
        #[expect(clippy::disallowed_methods, reason = "a test's own clock")]
        Timestamp::now().checked_add(jiff::SignedDuration::from_hours(49)).expect("a time")
    });
    let kept = Config { retention: Some(Duration::from_secs(48 * 3600)), ..config };
    let journal = Journal::open(&kept, later).expect("it opens").expect("a directory");
    // A clock that nobody vouches for lets go of nothing: it may have jumped.
    for _ in 0..5 {
        journal.write_durably(body()).await.expect("written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(layout::chains(&directory.0).expect("listed").contains_key(&first), "nothing has gone");
    journal.believe_clock(true);
    for _ in 0..100 {
        journal.write_durably(body()).await.expect("written");
        if !layout::chains(&directory.0).expect("listed").contains_key(&first) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(journal);
    assert!(!layout::chains(&directory.0).expect("listed").contains_key(&first), "the old chain is gone");
    let retired = directory.lines().iter().filter(|line| line.contains(r#""type":"retired""#)).count();
    assert!(retired > 1, "{retired}");
    let report = crate::audit::verify::verify(&directory.0, &crate::audit::verify::Given::default()).expect("read");
    assert!(report.is_sound(), "{:#?}", report.findings);
}

fn writer_over(path: &Path) -> Writer {
    // /dev/full takes every open and refuses every write.
    let file = OpenOptions::new().append(true).open(path).expect("it opens");
    let clock = Clock::system();
    let segment = Segment::over(file, path.to_owned(), 1, clock.now()).expect("a file");
    let directory = Directory::new();
    let key = SigningKey::create(&directory.0.join("key")).expect("a key");
    let about = About::of(&directory.config(), directory.0.clone(), "j".to_owned(), "c".to_owned(), key);
    Writer::over(segment, about, clock, Arc::default())
}

#[tokio::test]
async fn a_disk_that_is_full_loses_no_line_and_breaks_no_chain() {
    let mut writer = writer_over(Path::new("/dev/full"));
    (writer.seq, writer.prev) = (4, "p".to_owned());
    let error = writer.append(&[Item { body: Some(body()), written: None }], false).expect_err("full");
    assert!(error.to_string().contains("/dev/full cannot be written"), "{error}");
    assert_eq!((writer.seq, writer.prev.as_str(), writer.segment.length), (4, "p", 0));
}

#[tokio::test]
async fn a_file_that_was_taken_away_is_not_written_on() {
    let directory = Directory::new();
    let journal = Directory::open(&directory.config());
    journal.write_durably(body()).await.expect("written");
    assert_eq!(journal.problem(), None);
    let file = layout::chains(&directory.0).expect("listed")[journal.chain()][&1].clone();
    let aside = directory.0.join("aside");
    std::fs::rename(&file, &aside).expect("moved");
    let error = journal.write_durably(body()).await.expect_err("gone");
    assert!(error.to_string().contains("is gone from its directory"), "{error}");
    assert!(journal.problem().is_some_and(|problem| problem.contains("is gone")));
    // Nor does what nobody waits for make it well again.
    journal.write(body());
    journal.settle().await.expect_err("gone");
    assert!(journal.problem().is_some_and(|problem| problem.contains("is gone")));
    std::fs::write(&file, "something else\n").expect("written");
    journal.write_durably(body()).await.expect_err("another file");
    std::fs::rename(&aside, &file).expect("put back");
    journal.write_durably(body()).await.expect("it is there again");
    assert_eq!(journal.problem(), None);
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    let config = Config { directory: Some(PathBuf::from("/dev/null/journal")), ..Config::default() };
    let error = Journal::open(&config, Clock::system()).expect_err("no directory");
    assert!(error.to_string().contains("/dev/null/journal cannot be created"), "{error}");
}

#[test]
fn a_directory_that_is_not_the_expected_one_is_objected_to() {
    let directory = Directory::new();
    let id = Directory::open(&directory.config()).id().to_owned();
    let config = Config { journal: Some(id), ..directory.config() };
    assert_eq!(Directory::open(&config).objection(), None);
    let other = Config { journal: Some(uuid::Uuid::nil().to_string()), ..directory.config() };
    let journal = Directory::open(&other);
    assert!(journal.objection().is_some_and(|why| why.contains("which `[audit] journal` names")));
}

#[test]
fn two_processes_never_share_a_chain() {
    let directory = Directory::new();
    let (first, second) = (Directory::open(&directory.config()), Directory::open(&directory.config()));
    assert_ne!(first.chain(), second.chain());
    let again = File::open(layout::lock(&directory.0, first.chain())).expect("it can be read");
    assert!(again.try_lock().is_err(), "the writer holds the lock");
    assert!(crate::audit::unfinished::orphans(&second).expect("read").is_empty(), "both live");
    let chain = first.chain().to_owned();
    drop(first);
    let orphans = crate::audit::unfinished::orphans(&second).expect("read");
    assert_eq!(orphans.iter().map(crate::audit::Orphan::chain).collect::<Vec<_>>(), [&chain]);
    assert!(crate::audit::unfinished::orphans(&second).expect("read").is_empty(), "somebody has it");
    for orphan in orphans {
        orphan.release().expect("released");
    }
    assert!(crate::audit::unfinished::orphans(&second).expect("read").is_empty(), "it is accounted for");
}

#[test]
fn the_configuration_says_what_is_wrong() {
    let read = |text: &str| toml::from_str::<Config>(text).map_err(|error| error.to_string());
    let config =
        read("retention = \"400d\"\nheads = \"10s\"\nsegment_age = \"1h\"\nvolume = \"persistent\"").expect("sound");
    assert_eq!(config.retention, Some(Duration::from_secs(400 * 24 * 3600)));
    for (text, part) in [
        ("retention = \"1h\"", "at least"),
        ("heads = \"never\"", "not a duration"),
        ("journal = \"x\"", "not a UUID"),
        ("volume = \"perhaps\"", "unknown variant"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}
