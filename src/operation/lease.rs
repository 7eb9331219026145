//! A lease: what one holder holds a rule open by. It is one tag of the rule.
//!
//! Tags of AWS have no compare-and-set, so each holder has a tag of their own: whoever joins, extends or leaves writes
//! that one tag and no other. A lease does not vanish when it is given up, it ends: a rule stands as long as one of its
//! leases has an end ahead.

use jiff::Timestamp;

use super::ownership::{PREFIX, TAG_VALUE_MAX, tag_value};
use super::term::whole_seconds;

/// The tag's key, before the holder's proof.
const HOLDER: &str = "holder:";

/// The most characters of a holder's name on a tag.
const NAME_MAX: usize = 64;

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    name: String,
    proof: String,
}

/// What one holder holds a rule open by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub holder: Holder,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// The call that made or last changed it.
    pub call: String,
    /// Why.
    pub reason: String,
}

// === impl Holder ===

impl Holder {
    /// The holder that a principal's name and id stand for; none if the id does not end in 16 hexadecimal digits.
    pub fn new(name: &str, id: &str) -> Option<Self> {
        let proof = id.rsplit_once('-').map(|(_, proof)| proof).filter(|proof| is_proof(proof))?;
        Some(Self { name: as_written(name), proof: proof.to_owned() })
    }

    /// What tells it from every other holder.
    pub fn proof(&self) -> &str {
        &self.proof
    }

    /// The name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A stable id: the name, and what tells two holders of one name apart.
    pub fn id(&self) -> String {
        format!("{}-{}", self.name, self.proof)
    }

    /// Whether two are the same holder: their names may differ, what proves them does not.
    pub fn is(&self, other: &Self) -> bool {
        self.proof == other.proof
    }

    /// Whether a text that somebody wrote may mean this holder: the name, or an id. A name can be made to look like an
    /// id, so both count, and where that means several holders the caller must say which.
    pub fn is_called(&self, written: &str) -> bool {
        self.is_id(written) || self.name == as_written(written)
    }

    /// Whether a text is an id of this holder.
    pub fn is_id(&self, written: &str) -> bool {
        written.rsplit_once('-').is_some_and(|(_, proof)| proof == self.proof)
    }

    /// The key of the tag that holds this holder's lease.
    pub fn tag_key(&self) -> String {
        format!("{PREFIX}{HOLDER}{}", self.proof)
    }
}

/// A name as it stands on a tag.
fn as_written(name: &str) -> String {
    let name: String =
        tag_value(name).chars().map(|c| if c.is_whitespace() { '_' } else { c }).take(NAME_MAX).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

fn is_proof(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

// === impl Lease ===

impl Lease {
    /// A lease that begins now.
    pub fn new(holder: Holder, reason: &str, now: Timestamp, until: Timestamp, call: &str) -> Self {
        let (since, until) = (whole_seconds(now), whole_seconds(until));
        let mut lease = Self { holder, since, until, call: call.to_owned(), reason: String::new() };
        lease.reason = lease.fitting(reason);
        lease
    }

    /// Whether it has an end ahead.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.until > now
    }

    /// The lease with another end.
    #[must_use]
    pub fn until(&self, until: Timestamp, call: &str) -> Self {
        Self { until: whole_seconds(until), call: call.to_owned(), ..self.clone() }
    }

    /// The lease, given up now. What has ended already keeps its end.
    #[must_use]
    pub fn ended(&self, now: Timestamp, call: &str) -> Self {
        self.until(self.until.min(now), call)
    }

    /// The lease for another reason.
    #[must_use]
    pub fn because(&self, reason: &str) -> Self {
        Self { reason: self.fitting(reason), ..self.clone() }
    }

    /// As much of a reason as the tag has room for, in the characters that tags take.
    fn fitting(&self, reason: &str) -> String {
        let room = TAG_VALUE_MAX.saturating_sub(self.head().chars().count() + 1);
        tag_value(reason).chars().take(room).collect::<String>().trim().to_owned()
    }

    fn head(&self) -> String {
        format!("{} {} {} {}", self.until, self.since, self.call, self.holder.name)
    }

    /// The tag: key and value.
    pub fn tag(&self) -> (String, String) {
        (self.holder.tag_key(), format!("{} {}", self.head(), self.reason).trim_end().to_owned())
    }

    /// Reads a tag whose key, without the prefix, is `key`. None if it is no lease's; an error if it should be one.
    pub(super) fn parse(key: &str, value: &str) -> Option<Result<Self, String>> {
        let proof = key.strip_prefix(HOLDER)?;
        let damaged = || format!("the tag {PREFIX}{key} does not read as a lease");
        let mut words = value.splitn(5, ' ');
        let mut read = || {
            let until = words.next()?.parse().ok()?;
            let since = words.next()?.parse().ok()?;
            let call = uuid::Uuid::try_parse(words.next()?).ok()?.to_string();
            let name = words.next().filter(|name| !name.is_empty())?.to_owned();
            let reason = words.next().unwrap_or_default().to_owned();
            let holder = Holder { name, proof: Some(proof).filter(|proof| is_proof(proof))?.to_owned() };
            Some(Self { holder, since, until, call, reason })
        };
        Some(read().ok_or_else(damaged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = "01980000-0000-7000-8000-000000000001";

    fn alice() -> Holder {
        Holder::new("alice@example.com", "alice@example.com-0123456789abcdef").expect("an id")
    }

    fn lease(reason: &str) -> Lease {
        let time = |text: &str| text.parse().expect("a time");
        Lease::new(alice(), reason, time("2027-01-01T00:00:00.25Z"), time("2027-01-01T02:00:00Z"), CALL)
    }

    #[test]
    fn a_lease_is_read_back_from_its_tag() {
        for reason in ["ticket OPS-12: <look> & see", "", "x", &"long ".repeat(60)] {
            let lease = lease(reason);
            let (key, value) = lease.tag();
            assert_eq!(key, "whitelistmcp:holder:0123456789abcdef");
            assert!(value.chars().count() <= 256, "{value}");
            let key = key.strip_prefix(PREFIX).expect("the prefix");
            assert_eq!(Lease::parse(key, &value), Some(Ok(lease)));
        }
        assert_eq!(lease("ticket OPS-12: <look>").reason, "ticket OPS-12: _look_");
    }

    #[test]
    fn a_tag_that_was_tampered_with_is_no_lease() {
        let (_, value) = lease("because").tag();
        let key = "holder:0123456789abcdef";
        for broken in ["", "2027-01-01T02:00:00Z", &value.replace("2027", "soon"), &value.replace(CALL, "call")] {
            assert!(matches!(Lease::parse(key, broken), Some(Err(_))), "{broken}");
        }
        assert!(matches!(Lease::parse("holder:alice", &value), Some(Err(_))));
        assert_eq!(Lease::parse("owner", &value), None);
    }

    #[test]
    fn a_holder_is_found_by_name_or_id_and_known_by_proof() {
        let alice = alice();
        assert!(alice.is_called("alice@example.com") && alice.is_called(&alice.id()) && !alice.is_called("bob"));
        assert!(!alice.is_called("alice@example.com-ffffffffffffffff"));
        let renamed = Holder::new("a.smith@example.com", "a.smith@example.com-0123456789abcdef").expect("an id");
        assert!(alice.is(&renamed) && renamed.is_called(&alice.id()));
        let spaced = Holder::new("Alice B. Smith", "x-0123456789abcdef").expect("an id");
        assert!(spaced.name() == "Alice_B._Smith" && spaced.is_called("Alice B. Smith"));
        let disguised = Holder::new("bob-0123456789abcdef", "bob-bbbbbbbbbbbbbbbb").expect("an id");
        assert!(disguised.is_called("bob-0123456789abcdef") && alice.is_called("bob-0123456789abcdef"), "ask which");
        assert_eq!(Holder::new("alice", "alice"), None);
    }

    #[test]
    fn giving_up_ends_and_never_lengthens() {
        let lease = lease("because");
        let now = "2027-01-01T01:00:00Z".parse().expect("a time");
        let later = "2027-01-01T03:00:00Z".parse().expect("a time");
        assert!(lease.is_live(now) && !lease.ended(now, CALL).is_live(now));
        assert_eq!(lease.ended(later, CALL).until, lease.until);
        assert!(!lease.is_live(lease.until));
    }
}
