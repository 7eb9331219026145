//! Is a journal what was written? Answered offline, from the files, and from heads that left the host before.
//!
//! Each line carries the hash of the one before, so a line cannot be changed, put in, taken out or moved without its
//! neighbour saying so. What the chain itself cannot show is that its end is missing: a signed head that somebody keeps
//! elsewhere shows it, and so does the chain of the next process, which records how the one before had ended.

mod chain;
mod heads;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::head::{Head, PublicKey};
use super::journal::{JournalError, failed, layout, read_identity};
use super::record::{Adopted, Retired};
use super::unfinished::is_held;

pub use chain::Checked;
pub use heads::{HeadsError, Kept};

/// What is known before anything is read.
#[derive(Debug, Default)]
pub struct Given {
    /// The key that heads must be signed with. Without it the keys that the journal itself names are taken, and whoever
    /// wrote the journal anew could have named theirs.
    pub key: Option<PublicKey>,
    /// Heads that were kept elsewhere.
    pub heads: Vec<Kept>,
}

/// What was found out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The directory's own id.
    pub journal: String,
    /// The chains that there are.
    pub chains: Vec<Checked>,
    /// How many heads that were kept elsewhere were compared.
    pub heads: usize,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
    /// What is worth knowing and no sign of a change.
    pub notes: Vec<Finding>,
}

/// Something that was found, and where.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Finding {
    /// A file, or a file and a line.
    pub at: String,
    /// What is wrong there.
    pub what: String,
}

/// What some chain says of how another one ended.
#[derive(Clone, Debug)]
struct Claim {
    by: String,
    chain: String,
    seq: u64,
    sha256: String,
    /// The chain's process was gone by then, so nothing may follow.
    last: bool,
}

/// Everything that is said of a chain by others.
#[derive(Debug, Default)]
struct Claims {
    claims: Vec<Claim>,
    retired: BTreeMap<String, BTreeMap<u32, Retired>>,
    adopted: BTreeMap<String, Adopted>,
}

impl Report {
    /// Whether nothing speaks against the journal.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn finding(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.findings.push(Finding { at: at.into(), what: what.into() });
    }

    fn note(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.notes.push(Finding { at: at.into(), what: what.into() });
    }
}

/// Looks at every chain of a directory.
pub fn verify(directory: &Path, given: &Given) -> Result<Report, JournalError> {
    let chains = layout::chains(directory).map_err(failed(directory, "listed"))?;
    let mut report = Report::default();
    let id = directory.join(layout::ID);
    match read_identity(&id) {
        Ok(journal) => report.journal = journal,
        Err(error) => report.finding(shown(&id), crate::error::Chain(&error).to_string()),
    }
    let mut claims = Claims::default();
    for path in chains.values().flat_map(BTreeMap::values) {
        // A file that cannot be read is found when its own lines are looked at.
        claims.read(path).unwrap_or_default();
    }
    for head in &given.heads {
        claims.keep(&head.head, &head.at, given, &mut report);
    }
    report.heads = given.heads.len();

    let mut ended = HashSet::new();
    for (chain, segments) in &chains {
        let alive = is_held(&layout::lock(directory, chain));
        chain::check(chain, segments, alive, &claims, given, &mut report, &mut ended);
    }
    for checked in &mut report.chains {
        checked.unended.retain(|call| !ended.contains(call));
    }
    claims.of_chains_that_are_gone(&chains, &mut report);
    for open in layout::open_chains(directory).map_err(failed(directory, "listed"))? {
        let known =
            chains.contains_key(&open) || claims.retired.contains_key(&open) || claims.adopted.contains_key(&open);
        if !known {
            report.finding(
                shown(&layout::lock(directory, &open)),
                "a process began this chain, and none of its files is here",
            );
        }
    }
    Ok(report)
}

/// A path as it is shown: its last part.
fn shown(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
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

impl Claims {
    /// Gathers what a file says of other chains.
    fn read(&mut self, path: &Path) -> io::Result<()> {
        let mut lines = layout::read(path)?;
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            number += 1;
            // Parsed only where it may be one of these: most lines are not.
            let speaks = |word: &[u8]| line.windows(word.len()).any(|part| part == word);
            if !speaks(br#""type":"adopted""#) && !speaks(br#""type":"retired""#) {
                continue;
            }
            let by = format!("{}:{number}", shown(path));
            match serde_json::from_slice(&line) {
                Ok(OfOthers::Adopted(adopted)) => {
                    self.claims.push(Claim {
                        by,
                        chain: adopted.chain.clone(),
                        seq: adopted.last,
                        sha256: adopted.sha256.clone(),
                        last: true,
                    });
                    self.adopted.insert(adopted.chain.clone(), adopted);
                }
                Ok(OfOthers::Retired(retired)) => {
                    self.retired.entry(retired.chain.clone()).or_default().insert(retired.segment, retired);
                }
                Ok(OfOthers::Else) | Err(_) => {}
            }
        }
    }

    /// Takes a head that was kept elsewhere, if it is one.
    fn keep(&mut self, head: &Head, at: &str, given: &Given, report: &mut Report) {
        if !report.journal.is_empty() && head.journal != report.journal {
            report.note(at, format!("a head of another journal, {}, which is not here", head.journal));
            return;
        }
        if let Some(key) = &given.key
            && !head.is_signed_by(key)
        {
            report.finding(at, "this head is not signed by the key that was given; it is not believed");
            return;
        }
        self.claims.push(Claim {
            by: format!("{at}, signed at {}", head.at),
            chain: head.chain.clone(),
            seq: head.seq,
            sha256: head.sha256.clone(),
            last: false,
        });
    }

    /// The last line of a chain that was let go of.
    fn retired_up_to(&self, chain: &str) -> Option<&Retired> {
        self.retired.get(chain)?.values().next_back()
    }

    /// Chains that somebody speaks of and that are not here.
    fn of_chains_that_are_gone(&self, chains: &layout::Chains, report: &mut Report) {
        let mut furthest: BTreeMap<&str, &Claim> = BTreeMap::new();
        for claim in self.claims.iter().filter(|claim| !chains.contains_key(&claim.chain) && claim.seq > 0) {
            let known = furthest.entry(&claim.chain).or_insert(claim);
            if claim.seq > known.seq {
                *known = claim;
            }
        }
        for (chain, claim) in furthest {
            let retired = self.retired_up_to(chain).map_or(0, |retired| retired.last);
            if retired < claim.seq {
                report.finding(
                    format!("journal-{chain}"),
                    format!(
                        "the chain is missing from line {} on: {} says that it had {}",
                        retired + 1,
                        claim.by,
                        claim.seq
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
