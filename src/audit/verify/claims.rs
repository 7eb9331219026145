//! What others say of a chain: other chains, how it ended and what of it was let go of; and heads that were kept elsewhere,
//! how far it had come.
//!
//! Anybody who can write in the directory can write that a chain was let go of. Such a line counts only in a chain that is
//! whole up to it, and, where it is known whose heads are believed, only with one of those heads behind it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::chain::Line;
use super::{Given, Report, shown};
use crate::audit::head::PublicKey;
use crate::audit::journal::layout;
use crate::audit::record::{Adopted, Retired};
use crate::digest::sha256_hex;

/// What is said of how far a chain came.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) by: String,
    pub(super) chain: String,
    pub(super) seq: u64,
    pub(super) sha256: String,
    /// A head that was kept elsewhere says it; otherwise the chain that took this one over, whose process was gone by
    /// then, so nothing may follow.
    pub(super) kept: bool,
}

/// Everything that is said of chains by others.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) claims: Vec<Claim>,
    retired: BTreeMap<String, BTreeMap<u32, Retired>>,
    pub(super) adopted: BTreeMap<String, Adopted>,
}

/// A line that speaks of other chains.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OfOthers {
    Adopted(Adopted),
    Retired(Retired),
    #[serde(other)]
    Else,
}

/// One chain, read for what it says of others.
struct Survey<'a> {
    chain: &'a str,
    journal: &'a str,
    given: &'a Given,
    /// The hashes of its lines that heads kept elsewhere know.
    kept: BTreeMap<u64, String>,
    /// The keys whose heads are believed.
    keys: Vec<PublicKey>,
    /// The number and hash of the line before.
    before: Option<(u64, String)>,
    /// What was said and has no head behind it yet.
    pending: Vec<(String, OfOthers)>,
    counted: Vec<(String, OfOthers)>,
}

// === impl Claims ===

impl Claims {
    /// Takes the heads that were kept elsewhere, those that are any.
    pub(super) fn keep(&mut self, given: &Given, report: &mut Report) {
        let mut strange: BTreeMap<&str, usize> = BTreeMap::new();
        for kept in &given.heads {
            let (head, at) = (&kept.head, &kept.at);
            if !report.journal.is_empty() && head.journal != report.journal {
                *strange.entry(&head.journal).or_default() += 1;
                continue;
            }
            if given.key.as_ref().is_some_and(|key| !head.is_signed_by(key)) {
                report.finding(at, "this head is not signed by the key that was given; it is not believed");
                continue;
            }
            self.claims.push(Claim {
                by: format!("{at}, signed at {}", head.at),
                chain: head.chain.clone(),
                seq: head.seq,
                sha256: head.sha256.clone(),
                kept: true,
            });
        }
        for (journal, heads) in strange {
            report.note(KEPT, format!("{heads} are of another journal, {journal}, which is not here"));
        }
    }

    /// Gathers what a chain says of others, as far as it counts.
    pub(super) fn read(&mut self, chain: &str, segments: &BTreeMap<u32, PathBuf>, journal: &str, given: &Given) {
        let kept = self.claims.iter().filter(|claim| claim.kept && claim.chain == chain);
        let mut survey = Survey {
            chain,
            journal,
            given,
            kept: kept.map(|claim| (claim.seq, claim.sha256.clone())).collect(),
            keys: given.key.iter().cloned().collect(),
            before: None,
            pending: Vec::new(),
            counted: Vec::new(),
        };
        for (number, path) in segments {
            if !survey.file(path, *number) {
                break;
            }
        }
        for (by, said) in survey.counted {
            match said {
                OfOthers::Adopted(adopted) if adopted.chain != chain => {
                    self.claims.push(Claim {
                        by,
                        chain: adopted.chain.clone(),
                        seq: adopted.last,
                        sha256: adopted.sha256.clone(),
                        kept: false,
                    });
                    self.adopted.insert(adopted.chain.clone(), adopted);
                }
                OfOthers::Retired(retired) => {
                    self.retired.entry(retired.chain.clone()).or_default().insert(retired.segment, retired);
                }
                OfOthers::Adopted(_) | OfOthers::Else => {}
            }
        }
    }

    /// What is on record of the segments of a chain that were let go of.
    pub(super) fn retired(&self, chain: &str) -> Option<&BTreeMap<u32, Retired>> {
        self.retired.get(chain)
    }

    /// The last line of a chain that was let go of.
    fn retired_up_to(&self, chain: &str) -> Option<&Retired> {
        self.retired.get(chain)?.values().next_back()
    }

    /// Chains that somebody speaks of and that are not here.
    pub(super) fn of_chains_that_are_gone(&self, chains: &layout::Chains, report: &mut Report) {
        let mut furthest: BTreeMap<&str, &Claim> = BTreeMap::new();
        for claim in self.claims.iter().filter(|claim| !chains.contains_key(&claim.chain) && claim.seq > 0) {
            let known = furthest.entry(&claim.chain).or_insert(claim);
            if claim.seq > known.seq {
                *known = claim;
            }
        }
        for (chain, claim) in furthest {
            let (last, sha256) = self.retired_up_to(chain).map_or((0, ""), |retired| (retired.last, &retired.sha256));
            if last < claim.seq {
                report.finding(
                    format!("journal-{chain}"),
                    format!(
                        "the chain is missing from line {} on: {} says that it had {}",
                        last.saturating_add(1),
                        claim.by,
                        claim.seq
                    ),
                );
            } else if last == claim.seq && sha256 != claim.sha256 {
                report.finding(
                    format!("journal-{chain}"),
                    format!("line {last}, which was let go of, is not the one that {} knew", claim.by),
                );
            }
        }
    }

    /// Says which of the heads that were kept elsewhere were not compared, once everything was.
    pub(super) fn of_heads(&self, given: &Given, report: &mut Report) {
        let let_go = |claim: &&Claim| {
            claim.kept && self.retired_up_to(&claim.chain).is_some_and(|retired| claim.seq <= retired.last)
        };
        let let_go = self.claims.iter().filter(let_go).count();
        if let_go > 0 {
            report.note(KEPT, format!("{let_go} are of files that were let go of, so not all were compared"));
        }
        if !given.heads.is_empty() && report.heads + let_go == 0 {
            report.finding(
                KEPT,
                format!(
                    "none of the {} is of a line that is here: this is not the journal that they are of, or it is gone",
                    given.heads.len()
                ),
            );
        }
    }
}

/// Where something is found that is true of all the heads that were given.
const KEPT: &str = "the heads that were kept elsewhere";

// === impl Survey ===

impl Survey<'_> {
    /// Reads a file. Whether what follows can still count.
    fn file(&mut self, path: &std::path::Path, number: u32) -> bool {
        // What is wrong with a file is found when its own lines are looked at.
        let Ok(mut lines) = layout::read(path) else { return false };
        let (mut bytes, mut line_number) = (Vec::new(), 0);
        loop {
            match layout::read_line(&mut lines, &mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
            line_number += 1;
            if bytes.pop_if(|byte| *byte == b'\n').is_none() {
                return true;
            }
            if !self.line(&bytes, number, line_number == 1, || format!("{}:{line_number}", shown(path))) {
                return false;
            }
        }
    }

    fn line(&mut self, bytes: &[u8], number: u32, opens: bool, at: impl Fn() -> String) -> bool {
        let hash = sha256_hex(bytes);
        let Ok(line) = serde_json::from_slice::<Line>(bytes) else { return false };
        let follows = match &self.before {
            Some((seq, prev)) => line.seq == seq.saturating_add(1) && line.prev == *prev,
            // The files before may have been let go of.
            None => number > 1 || line.seq == 1,
        };
        if !follows && opens {
            // Files are missing between, or the one before is cut: what has no head yet gets none any more.
            self.pending.clear();
        } else if !follows {
            return false;
        }
        if opens != (line.kind == "open") {
            return false;
        }
        match line.kind.as_str() {
            "open" => {
                if !line.opens(self.chain, number) || line.journal.as_deref() != Some(self.journal) {
                    return false;
                }
                self.learn(&line);
            }
            "adopted" | "retired" => {
                let Ok(said) = serde_json::from_slice(bytes) else { return false };
                self.pending.push((at(), said));
            }
            _ => {}
        }
        let signed = line.kind == "head" && self.is_believed(&line, number);
        let known = self.kept.get(&line.seq).is_some_and(|sha256| *sha256 == hash);
        if signed || known || (self.given.key.is_none() && self.given.heads.is_empty()) {
            self.counted.append(&mut self.pending);
        }
        self.before = Some((line.seq, hash));
        true
    }

    /// Without a key that was given, one that signed a head that was kept elsewhere is believed.
    fn learn(&mut self, line: &Line) {
        if self.given.key.is_some() {
            return;
        }
        let key = line.key.as_deref().and_then(PublicKey::parse).filter(|key| !self.keys.contains(key));
        self.keys.extend(key.filter(|key| {
            let id = key.id();
            self.given.heads.iter().any(|kept| kept.head.key == id && kept.head.is_signed_by(key))
        }));
    }

    fn is_believed(&self, line: &Line, number: u32) -> bool {
        line.head.as_ref().is_some_and(|head| {
            line.head_fits(head, self.chain, number, self.journal) && self.keys.iter().any(|key| head.is_signed_by(key))
        })
    }
}
