//! `audit show` as an operator meets it: what it refuses, and what it prints of what others wrote.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::temporary::Directory;

const CHAIN: &str = "journal-01980000-0000-7000-8000-000000000001";

/// A journal of a begin by each of these.
fn journal(names: &[&str]) -> Directory {
    let directory = Directory::new();
    let begin = |(n, name): (usize, &&str)| {
        let begin = json!({"v": 2, "type": "begin", "at": format!("2026-11-03T10:00:{n:02}Z"), "call": format!("c{n}"), "tool": "whitelist_add",
            "who": {"name": name, "id": name}, "target": {"group": "sg-1"}, "changes": true});
        format!("{begin}\n")
    };
    directory.write(&format!("{CHAIN}-000001.jsonl"), &names.iter().enumerate().map(begin).collect::<String>());
    directory
}

fn run(arguments: &[&str], directory: &Directory) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    // In a service's own environment a configuration is named; a directory that is given counts all the same.
    command
        .env("WHITELISTMCP_CONFIG", "/nowhere.toml")
        .arg("audit")
        .args(arguments)
        .arg("--directory")
        .arg(directory.path());
    command.output().expect("it runs")
}

fn show(arguments: &[&str], directory: &Directory) -> Output {
    run(&[&["show"], arguments].concat(), directory)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_time_is_taken_whole_or_refused() {
    let directory = journal(&["alice"]);
    for (arguments, part) in [
        (["--since", "2026-11-03T13:00:00"], "does not say its offset from UTC"),
        (["--until", "2026-11-03 13:00"], "does not say its offset from UTC"),
        (["--since", "2026-11-03T13:00:00[Europe/Berlin]"], "2026-11-03T12:00:00Z"),
        (["--since", "yesterday"], "how long ago, like 24h"),
        (["--since=-24h", "--changes"], "how long ago, like 24h"),
        (["--on", "2026-11-03T13:00:00"], "`2026-11-03T13:00:00` is no day"),
        (["--on", "2026-11-03T13:00:00Z"], "give a date like 2026-11-03"),
    ] {
        let output = show(&arguments, &directory);
        assert!(!output.status.success() && said(&output).1.contains(part), "{arguments:?}: {output:?}");
    }
    let replayed = run(&["replay", "--since", "2026-11-03T13:00:00"], &directory);
    assert!(!replayed.status.success() && said(&replayed).1.contains("offset from UTC"), "{replayed:?}");
    for (arguments, is_shown) in [
        (["--since", "2026-11-03T10:00:00Z"], true),
        (["--since", "2026-11-03T12:00:01+02:00"], false),
        (["--until", "2026-11-03"], false),
        (["--on", "2026-11-03"], true),
        (["--on", "2026-11-04"], false),
        (["--until", "24h"], true),
    ] {
        let output = show(&arguments, &directory);
        assert!(output.status.success() && said(&output).0.contains("alice") == is_shown, "{arguments:?}: {output:?}");
    }
}

#[test]
fn doors_are_not_picked_by_what_is_a_calls() {
    let directory = journal(&["alice"]);
    for wrong in [["--call", "c1"].as_slice(), &["--tool", "close"], &["--outcome", "done"], &["--changes"]] {
        let output = show(&[&["--doors"], wrong].concat(), &directory);
        let (_, complaint) = said(&output);
        assert!(!output.status.success() && complaint.contains("cannot be used with"), "{wrong:?}: {complaint}");
        assert!(complaint.contains("--doors") && complaint.contains(wrong[0]), "{complaint}");
        assert!(show(wrong, &directory).status.success(), "{wrong:?}");
    }
}

#[test]
fn what_is_not_seen_is_spelled_out() {
    let names = ["bob\u{1b}[31m\u{7}\u{9b}31m\u{7f}", "bob\u{202e}gnp.exe\u{200b}\u{2028}\u{feff}\u{e0041}"];
    let directory = journal(&names);
    for format in ["table", "csv", "json"] {
        let (text, _) = said(&show(&["--format", format], &directory));
        let hidden = |c: &char| {
            let is_end = matches!(c, '\n') || (format == "csv" && *c == '\r');
            (c.is_control() && !is_end)
                || matches!(c, '\u{200b}' | '\u{2028}' | '\u{202e}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
        };
        assert_eq!(text.chars().find(hidden), None, "{format}: {text:?}");
        if format == "json" {
            let who: Vec<Value> =
                text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["who"].clone()).collect();
            assert_eq!(who, names, "JSON says the same");
        } else {
            assert!(text.contains(r"bob\u{202e}gnp.exe\u{200b}\u{2028}\u{feff}\u{e0041}"), "{format}: {text}");
            assert!(text.contains(r"bob\u{1b}[31m\u{7}\u{9b}31m\u{7f}"), "{format}: {text}");
        }
    }
}

#[test]
fn a_spreadsheet_finds_no_formula() {
    let names = ["=1", "\n+1", " \t-1", "\r@x", "\u{ff1d}1", "\u{200b}\u{ff20}x", "a;=1", "a,\"b\"", "a-b"];
    let (text, _) = said(&show(&["--format", "csv"], &journal(&names)));
    assert!(text.ends_with("\r\n") && !text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    let cells = [
        "'=1",
        r"'\u{a}+1",
        r"' \u{9}-1",
        r"'\u{d}@x",
        "'\u{ff1d}1",
        "'\\u{200b}\u{ff20}x",
        "\"a;=1\"",
        "\"a,\"\"b\"\"\"",
        "a-b",
    ];
    for (line, cell) in text.lines().skip(1).zip(cells) {
        assert!(line.contains(&format!("Z,{cell},whitelist_add,")), "{line} has {cell}");
    }
    assert_eq!(text.lines().count(), 1 + cells.len());
}

#[test]
fn a_file_that_cannot_be_read_is_told_of_and_hides_no_other() {
    let directory = journal(&["alice"]);
    let bad = directory.write(&format!("{CHAIN}-000002.jsonl.gz"), "no such thing");
    let output = show(&[], &directory);
    let (shown, complaint) = said(&output);
    assert!(shown.contains("alice"), "{output:?}");
    assert!(!output.status.success() && complaint.contains(&bad.display().to_string()), "{output:?}");
}
