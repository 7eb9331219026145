//! Which lines of a chain a receiver of telemetry has taken, so that what it missed can be sent again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::journal::layout;
use crate::telemetry::records;

/// How often it is written down.
const EVERY: Duration = Duration::from_secs(5);

/// Numbers of lines, as ranges without gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines(BTreeMap<u64, u64>);

impl Lines {
    /// Adds a line.
    pub(super) fn insert(&mut self, seq: u64) {
        self.insert_all(seq, seq);
    }

    fn insert_all(&mut self, mut first: u64, mut last: u64) {
        // What it touches becomes one with it.
        while let Some((from, to)) = self.0.range(..=last.saturating_add(1)).next_back().map(|(from, to)| (*from, *to))
            && to.saturating_add(1) >= first
        {
            self.0.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.0.insert(first, last);
    }

    /// The last of them; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.0.values().next_back().copied().unwrap_or_default()
    }

    /// Whether a line is among them.
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).fold(0, u64::saturating_add)
    }

    /// Adds others.
    pub(super) fn extend(&mut self, others: &Self) {
        others.0.iter().for_each(|(first, last)| self.insert_all(*first, *last));
    }

    /// Reads `1-120,130-140`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let ranges = text.trim().split(',').filter(|range| !range.is_empty());
        let mut lines = Self::default();
        for range in ranges {
            let (first, last) = range.split_once('-')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            if first == 0 || first > last {
                return None;
            }
            lines.insert_all(first, last);
        }
        Some(lines)
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            write!(f, "{}{first}-{last}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// The lines of this process's chain that were taken, as they are written down beside it.
pub(super) struct Taken {
    path: PathBuf,
    lines: Arc<Mutex<Lines>>,
    kept: (Instant, Lines),
}

impl Taken {
    /// Hears of what is taken from now on.
    pub(super) fn follow(path: PathBuf, chain: &str) -> Self {
        let lines = Arc::new(Mutex::new(Lines::default()));
        let (known, chain) = (Arc::downgrade(&lines), chain.to_owned());
        records::on_taken(move |of, seq| {
            if let Some(known) = known.upgrade().filter(|_| of == chain) {
                known.lock().unwrap_or_else(PoisonError::into_inner).insert(seq);
            }
        });
        Self { path, lines, kept: (Instant::now(), Lines::default()) }
    }

    /// Writes it down, if there is something new and it is time.
    pub(super) fn keep(&mut self) {
        if self.kept.0.elapsed() < EVERY {
            return;
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if lines != self.kept.1 {
            if let Err(error) = write(&self.path, &lines) {
                tracing::warn!(path = %self.path.display(), error = %error, "what the telemetry receiver has taken could not be noted");
            }
            self.kept.1 = lines;
        }
        self.kept.0 = Instant::now();
    }
}

/// What was noted of a chain; nothing where nothing was.
pub(super) fn read(path: &Path) -> io::Result<Lines> {
    match layout::read_text(path) {
        Ok(text) => Lines::parse(&text).ok_or_else(|| io::Error::other("it does not hold ranges of numbers")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lines::default()),
        Err(error) => Err(error),
    }
}

/// Notes it, in place of what was noted before.
pub(super) fn write(path: &Path, lines: &Lines) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".tmp");
    std::fs::write(&new, lines.to_string())?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_ranges_in_whatever_order_they_come() {
        let mut lines = Lines::default();
        for seq in [5, 1, 2, 4, 9, 3, 3, 10, 7] {
            lines.insert(seq);
        }
        assert_eq!(lines.to_string(), "1-5,7-7,9-10");
        assert_eq!(Lines::parse(&lines.to_string()), Some(lines.clone()));
        let held: Vec<u64> = (0..12).filter(|seq| lines.contains(*seq)).collect();
        assert_eq!(held, [1, 2, 3, 4, 5, 7, 9, 10]);
        for wrong in ["1-x", "5-1", "0-3"] {
            assert_eq!(Lines::parse(wrong), None, "{wrong}");
        }
        // As many as there can be are one range, whatever is added.
        let mut all = Lines::parse("3-18446744073709551615,1-5").expect("ranges");
        all.extend(&lines);
        assert_eq!((all.to_string().as_str(), all.last(), all.count()), ("1-18446744073709551615", u64::MAX, u64::MAX));
        assert_eq!(Lines::parse(""), Some(Lines::default()));
    }
}
