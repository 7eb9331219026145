//! The CAs of a file: those that are trusted, and for how long that is the right choice.
//!
//! Whoever changes a CA puts the new one into the file beside the old one, perhaps before its time, and keeps the old one there,
//! often past its end. So one that has not begun, or has ended, is set aside as long as another is left. TLS itself would
//! trust it all the same, since it does not look at a root's dates.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;

use super::load::LoadError;
use super::verify::{UnfitError, parse, window};

/// The CAs of a file.
pub(super) struct Authorities<'a> {
    /// Those that are trusted.
    pub(super) trusted: Vec<CertificateDer<'a>>,
    /// When the first of those ends.
    pub(super) end: Timestamp,
    /// Those that are set aside.
    pub(super) set_aside: Vec<CertificateDer<'a>>,
    /// Which is which, and until when.
    pub(super) choice: Choice,
}

/// Which CAs of a file were set aside, and while the same ones would be.
#[derive(Clone, Debug)]
pub struct Choice {
    from: Timestamp,
    before: Timestamp,
    set_aside: Vec<String>,
}

impl Default for Choice {
    /// Where there is nothing to choose, the choice is right at any time.
    fn default() -> Self {
        Self { from: Timestamp::MIN, before: Timestamp::MAX, set_aside: Vec::new() }
    }
}

impl Choice {
    /// Whether the choice would be the same at that time. Clocks are set back as well.
    pub(super) fn is_right_at(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.before
    }

    /// A sentence for each CA that was set aside: which it is, and why.
    pub fn set_aside(&self) -> &[String] {
        &self.set_aside
    }
}

/// Checks certificates that are to be trusted.
pub(super) fn check_authorities<'a>(
    path: &Path,
    authorities: &[CertificateDer<'a>],
    now: Timestamp,
) -> Result<Authorities<'a>, UnfitError> {
    let broken = || LoadError::NoCertificate(path.to_owned());
    let mut all =
        Authorities { trusted: Vec::new(), end: Timestamp::MAX, set_aside: Vec::new(), choice: Choice::default() };
    let choice = &mut all.choice;
    for authority in authorities {
        let parsed = parse(authority).ok_or_else(broken)?;
        let usage = parsed.key_usage().ok().flatten();
        // RFC 5280, section 4.2.1.9 and 4.2.1.3.
        if !parsed.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(LoadError::NotACa(path.to_owned()).into());
        }
        let (begin, end) = window(&parsed).ok_or_else(broken)?;
        // Its end is its last valid moment.
        let after = end.checked_add(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MAX);
        let (name, file) = (parsed.subject(), path.display());
        if now < begin {
            choice.before = choice.before.min(begin);
            choice.set_aside.push(format!("the CA {name} in {file} is trusted from {begin} on, and not yet"));
            all.set_aside.push(authority.clone());
        } else if now < after {
            (choice.from, choice.before) = (choice.from.max(begin), choice.before.min(after));
            all.end = all.end.min(end);
            all.trusted.push(authority.clone());
        } else {
            choice.from = choice.from.max(after);
            choice.set_aside.push(format!("the CA {name} in {file} expired on {end}, and is trusted no longer"));
            all.set_aside.push(authority.clone());
        }
    }
    if all.trusted.is_empty() && !all.choice.set_aside.is_empty() {
        return Err(UnfitError::Authorities { path: path.to_owned(), why: all.choice.set_aside.join("; ") });
    }
    Ok(all)
}
