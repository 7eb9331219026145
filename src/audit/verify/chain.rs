//! One chain: line after line, against the line before, the heads in it, and what others say of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::claims::{Claim, Claims};
use super::{Given, Report, shown};
use crate::audit::head::{Head, PublicKey};
use crate::audit::journal::layout;
use crate::digest::sha256_hex;

/// How much may be wrong with a file before the rest of it is left alone: a file that is made to be wrong in every line
/// must not fill the memory.
const WRONG_MOST: usize = 1000;

/// A chain that was looked at.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Its name.
    pub chain: String,
    /// How many whole lines there are.
    pub lines: u64,
    /// The first and last line's number.
    pub first: u64,
    /// The number of its last line.
    pub last: u64,
    /// That line's SHA-256.
    pub sha256: String,
    /// How many of its heads are signed by a key that is known.
    pub signed: u64,
    /// How many lines at its end have no such head behind them, and are not known otherwise.
    pub unsigned: u64,
    /// How it ends: `in order`, `alive`, `cut off`.
    pub ends: &'static str,
    /// The changes that it begins and does not end, and that no other chain ends as far as it knows.
    pub unended: Vec<String>,
}

/// As much of a line as its place depends on.
#[derive(Deserialize)]
pub(super) struct Line {
    v: u32,
    pub(super) seq: u64,
    pub(super) prev: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    call: String,
    #[serde(default)]
    changes: bool,
    pub(super) journal: Option<String>,
    chain: Option<String>,
    segment: Option<u32>,
    pub(super) key: Option<String>,
    pub(super) head: Option<Head>,
}

impl Line {
    /// Whether it opens this file.
    pub(super) fn opens(&self, chain: &str, number: u32) -> bool {
        self.chain.as_deref() == Some(chain) && self.segment == Some(number)
    }

    /// Whether a head says where the line that carries it stands. An empty journal is one that is not known.
    pub(super) fn head_fits(&self, head: &Head, chain: &str, number: u32, journal: &str) -> bool {
        head.chain == chain
            && head.segment == number
            && head.seq.checked_add(1) == Some(self.seq)
            && head.sha256 == self.prev
            && (journal.is_empty() || head.journal == journal)
    }
}

/// What stands before a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing, or nothing that is here.
    Nothing,
    /// The chain's first line.
    First,
    Head,
    Other,
}

struct Walk<'a> {
    chain: &'a str,
    claims: BTreeMap<u64, Vec<&'a Claim>>,
    given: &'a Given,
    report: &'a mut Report,
    seq: u64,
    prev: String,
    lines: u64,
    first: Option<u64>,
    keys: Vec<PublicKey>,
    signed: u64,
    /// The last line that a good head, or somebody who counts, vouches for.
    vouched: u64,
    before: Before,
    closed: bool,
    begun: BTreeSet<String>,
    /// The calls that end here and began elsewhere.
    ended: &'a mut HashSet<String>,
}

/// Looks at a chain.
pub(super) fn check(
    chain: &str,
    segments: &BTreeMap<u32, PathBuf>,
    alive: bool,
    claims: &Claims,
    given: &Given,
    report: &mut Report,
    ended: &mut HashSet<String>,
) {
    let mine: Vec<&Claim> = claims.claims.iter().filter(|claim| claim.chain == chain).collect();
    let mut walk = Walk::new(chain, &mine, given, report, ended);
    walk.files(segments, claims, alive);
    let last = segments.values().next_back().map(|path| shown(path)).unwrap_or_default();
    walk.compare(&mine, alive, &last);
    walk.end(alive, claims.adopted.contains_key(chain), &last);
}

impl<'a> Walk<'a> {
    fn new(
        chain: &'a str,
        mine: &[&'a Claim],
        given: &'a Given,
        report: &'a mut Report,
        ended: &'a mut HashSet<String>,
    ) -> Self {
        let mut claims = BTreeMap::<_, Vec<_>>::new();
        for claim in mine {
            claims.entry(claim.seq).or_default().push(*claim);
        }
        Self {
            chain,
            claims,
            given,
            report,
            seq: 0,
            prev: "0".repeat(64),
            lines: 0,
            first: None,
            keys: given.key.iter().cloned().collect(),
            signed: 0,
            vouched: 0,
            before: Before::Nothing,
            closed: false,
            begun: BTreeSet::new(),
            ended,
        }
    }

    /// Goes through the files, the oldest first.
    fn files(&mut self, segments: &BTreeMap<u32, PathBuf>, claims: &Claims, alive: bool) {
        let (newest, mut expected) = (segments.keys().next_back().copied(), 1);
        for (number, path) in segments {
            // What was let go of is on record with its end.
            let retired = claims.retired(self.chain).and_then(|retired| retired.range(expected..*number).next_back());
            if let Some((retired_number, retired)) = retired {
                (self.seq, self.prev, expected) = (retired.last, retired.sha256.clone(), retired_number + 1);
                (self.before, self.vouched) = (Before::Nothing, retired.last);
            }
            if expected != *number {
                let missing = match number - expected {
                    1 => expected.to_string(),
                    _ => format!("{expected} to {}", number - 1),
                };
                let what = format!("the files before it are missing: number {missing} of its chain");
                self.report.finding(shown(path), what);
                self.before = Before::Nothing;
            }
            expected = number.saturating_add(1);
            self.file(path, *number, Some(*number) == newest, alive);
        }
    }

    /// Holds the chain's end against what others say of it.
    fn compare(&mut self, mine: &[&Claim], alive: bool, last: &str) {
        let seq = self.seq;
        for claim in mine {
            if claim.seq > seq {
                self.report.finding(
                    last,
                    format!(
                        "the chain ends at line {seq}, and {} says that it had {}: its end was cut off, or an older copy was put in its place",
                        claim.by, claim.seq
                    ),
                );
            } else if !claim.kept && claim.seq < seq && !alive {
                self.report.finding(
                    last,
                    format!(
                        "{} says that the chain ended at line {}, and it goes on to {seq}: lines were put in",
                        claim.by, claim.seq
                    ),
                );
            }
        }
    }

    /// Says how the chain ends.
    fn end(self, alive: bool, adopted: bool, last: &str) {
        let unsigned = self.seq.saturating_sub(self.vouched);
        let ends = match (alive, self.closed) {
            (true, _) => "alive",
            (false, true) => "in order",
            (false, false) => "cut off",
        };
        if ends == "in order" && (self.before != Before::Head || unsigned > 0) {
            self.report.finding(
                last,
                format!("the chain is closed, and the head behind its closing line is missing or not good: nothing vouches for its last lines, {unsigned} in number"),
            );
        } else if ends == "cut off" && unsigned > 0 {
            self.report.note(
                last,
                format!("its last {unsigned} lines have no signed head behind them, as a crash leaves them: whoever can write here could have written them"),
            );
        }
        if ends == "cut off" && !adopted {
            self.report.note(
                last,
                "it ends without a closing line, and no later process has recorded how: a crash, or its end was cut off. Heads that were kept elsewhere tell",
            );
        }
        self.report.chains.push(Checked {
            chain: self.chain.to_owned(),
            lines: self.lines,
            first: self.first.unwrap_or(0),
            last: self.seq,
            sha256: self.prev,
            signed: self.signed,
            unsigned,
            ends,
            unended: self.begun.into_iter().collect(),
        });
    }

    fn file(&mut self, path: &Path, number: u32, newest: bool, alive: bool) {
        let name = shown(path);
        let mut lines = match layout::read(path) {
            Ok(lines) => lines,
            Err(error) => return self.report.finding(name, format!("it cannot be read: {error}")),
        };
        let (mut bytes, mut line_number) = (Vec::new(), 0);
        let said = self.report.findings.len() + self.report.notes.len();
        loop {
            match layout::read_line(&mut lines, &mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.report.finding(
                        format!("{name}:{}", line_number + 1),
                        format!("from here on it cannot be read: {error}"),
                    );
                    break;
                }
            }
            line_number += 1;
            let at = format!("{name}:{line_number}");
            if bytes.pop_if(|byte| *byte == b'\n').is_none() {
                match (newest, alive) {
                    (true, true) => {}
                    (true, false) if self.closed => {
                        self.report.finding(at, "the line is torn, and stands behind the chain's closing line")
                    }
                    (true, false) => {
                        self.report.note(at, "the line is torn, as a crash leaves it; nothing was done on its word")
                    }
                    (false, _) => self.report.finding(at, "the line is torn, and lines were written after it"),
                }
                break;
            }
            self.line(&bytes, &at, number, line_number == 1);
            if self.report.findings.len() + self.report.notes.len() > said + WRONG_MOST {
                self.report.finding(at, "so much is wrong up to here that the rest of the file was not looked at");
                break;
            }
        }
        if line_number == 0 && !(newest && alive) {
            if newest && !self.closed {
                self.report
                    .note(name, "it is empty: its process ended before it could write, or its lines were cut off");
            } else {
                self.report.finding(name, "it is empty, and lines should be in it");
            }
        }
    }

    fn line(&mut self, bytes: &[u8], at: &str, number: u32, opens: bool) {
        let hash = sha256_hex(bytes);
        if std::str::from_utf8(bytes).is_err() {
            self.report.finding(at, "it is not text: the journal is written in UTF-8");
        }
        let line: Line = match serde_json::from_slice(bytes) {
            Ok(line) => line,
            Err(error) => {
                self.report.finding(at, format!("it is no line of a journal: {error}"));
                (self.seq, self.prev, self.before) = (self.seq.saturating_add(1), hash, Before::Other);
                return;
            }
        };
        if line.v != crate::audit::VERSION {
            self.report.note(at, format!("a line of format {}, which this program does not know", line.v));
        }
        self.place(&line, at);
        self.neighbours(&line, at, opens);
        match line.kind.as_str() {
            "open" => self.open(&line, at, number),
            "head" => self.head(&line, at, number),
            "closed" => self.closed = true,
            "begin" if line.changes => drop(self.begun.insert(line.call.clone())),
            "end" if !self.begun.remove(&line.call) => drop(self.ended.insert(line.call.clone())),
            _ => {}
        }
        if self.closed && !matches!(line.kind.as_str(), "closed" | "head") {
            self.report.finding(at, "it stands behind the chain's closing line");
        }
        self.known(&line, at, &hash);
        self.first.get_or_insert(line.seq);
        (self.seq, self.prev, self.lines) = (line.seq, hash, self.lines + 1);
    }

    /// Whether a line has the next number, and was written after the line before it.
    fn place(&mut self, line: &Line, at: &str) {
        let expected = self.seq.saturating_add(1);
        if line.seq > expected {
            let missing = line.seq - expected;
            self.report.finding(
                at,
                format!(
                    "{missing} lines before it are missing: it is number {}, and {expected} should follow",
                    line.seq
                ),
            );
        } else if line.seq < expected {
            self.report.finding(
                at,
                format!("it is number {}, and {expected} should follow: lines were moved, or put in twice", line.seq),
            );
        } else if line.prev != self.prev {
            let what = if self.lines == 0 && self.seq == 0 {
                "the first line follows something that is not there".to_owned()
            } else {
                format!(
                    "the line before it, number {}, is not the one that it was written after: that one was changed, or put in its place",
                    self.seq
                )
            };
            self.report.finding(at, what);
        }
    }

    /// Whether what must open a file does, and what must be signed is; from now on the line stands before the next.
    fn neighbours(&mut self, line: &Line, at: &str, opens: bool) {
        if opens != (line.kind == "open") {
            let what = if opens {
                "a file's first line must say who opened it"
            } else {
                "a file is opened in the middle of another"
            };
            self.report.finding(at, what);
        }
        match self.before {
            Before::First if line.kind != "head" => {
                self.report
                    .finding(at, "the head behind the chain's first line is missing, and lines were written after it");
            }
            Before::First | Before::Other if opens => {
                self.report.finding(at, "the file before it was finished, and ends without the head that signs it");
            }
            _ => {}
        }
        self.before = match line.kind.as_str() {
            "head" => Before::Head,
            _ if line.seq == 1 => Before::First,
            _ => Before::Other,
        };
    }

    /// Whether a line is the one that others knew by its number.
    fn known(&mut self, line: &Line, at: &str, hash: &str) {
        for claim in self.claims.get(&line.seq).into_iter().flatten() {
            if claim.sha256 == hash {
                self.vouched = self.vouched.max(line.seq);
                self.report.heads += usize::from(claim.kept);
                continue;
            }
            self.report.findings.push(super::Finding {
                at: at.to_owned(),
                what: format!(
                    "line {} is not the one that {} knew: it, or a line before it, was written anew",
                    line.seq, claim.by
                ),
            });
        }
    }

    fn open(&mut self, line: &Line, at: &str, number: u32) {
        if !line.opens(self.chain, number) {
            self.report.finding(at, "the file's name is that of another chain or number than it says");
        }
        if !self.report.journal.is_empty() && line.journal.as_deref() != Some(self.report.journal.as_str()) {
            let of = line.journal.clone().unwrap_or_default();
            self.report.finding(at, format!("it comes from another directory, {of}"));
        }
        let key = line.key.as_deref().and_then(PublicKey::parse);
        match (key, &self.given.key) {
            (None, _) => self.report.finding(at, "it names no key"),
            (Some(key), Some(given)) if key != *given => {
                self.report.finding(
                    at,
                    format!("its heads are signed with the key {}, not with the one that was given", key.id()),
                );
            }
            (Some(key), None) => self.keys.push(key),
            (Some(_), Some(_)) => {}
        }
    }

    fn head(&mut self, line: &Line, at: &str, number: u32) {
        let Some(head) = &line.head else { return self.report.finding(at, "a head that says nothing") };
        if !line.head_fits(head, self.chain, number, &self.report.journal) {
            self.report.finding(at, "the signed head does not fit the line before it");
        } else if self.keys.iter().any(|key| head.is_signed_by(key)) {
            self.signed += 1;
            self.vouched = self.vouched.max(line.seq);
        } else {
            self.report.finding(at, "the head's signature is not good for any key that is known");
        }
    }
}
