//! What stands on a rule that this service made: the call that made it, its leases, the requests that must not be
//! carried out twice, and whether it is about to go. All of it is tags of the rule, for AWS is the only store.
//!
//! | key | value |
//! | --- | --- |
//! | `whitelistmcp:lease` | `v1`, by which our rules are found |
//! | `whitelistmcp:call` | the call that made the rule |
//! | `whitelistmcp:journal` | the audit journal that has that call's entry |
//! | `whitelistmcp:holder:PROOF` | one lease: `UNTIL SINCE CALL NAME REASON` |
//! | `whitelistmcp:key:PROOF:N` | one idempotency key of that holder: `DIGEST AT ARGUMENTS CALL UNTIL` |
//! | `whitelistmcp:closing:CALL` | a call is about to take the rule away, since then: `AT` |

use jiff::{SignedDuration, Timestamp};

use super::lease::{Holder, Lease};
use super::term::whole_seconds;
use crate::digest::sha256_hex;

/// What every key of ours begins with.
pub const PREFIX: &str = "whitelistmcp:";
/// The tag by which our rules are found, and its value.
pub const FORMAT: (&str, &str) = ("whitelistmcp:lease", "v1");
/// The tag that names the call that made the rule.
pub const CALL: &str = "whitelistmcp:call";
/// The tag that names the journal in which the making of the rule is recorded.
pub const JOURNAL: &str = "whitelistmcp:journal";

const KEY: &str = "key:";
const CLOSING: &str = "closing:";

/// The most characters of a tag's value (EC2 API, `Tag`).
pub const TAG_VALUE_MAX: usize = 256;
/// The most tags of a resource (EC2 User Guide, "Tag restrictions"), less some that stay free for marks of closing.
pub const TAGS_MOST: usize = 45;
/// How many idempotency keys of one holder are remembered on a rule; the oldest goes for a new one.
pub const KEYS_MOST: usize = 4;
/// How long an idempotency key is remembered.
pub const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// The most characters of a rule's description (EC2 API, `IpRange`).
const DESCRIPTION_MAX: usize = 255;

/// Where a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Not from this service: it is never adopted, tagged or ended.
    Elsewhere,
    /// From this service.
    Here(Ownership),
    /// It carries tags of ours that are not whole. It is reported and left alone.
    Damaged(String),
}

/// What this service wrote on a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The id of the call that made it.
    pub call: String,
    /// The audit journal that has that call's entry.
    pub journal: Option<String>,
    /// Who holds it, and until when: at least one, live or ended.
    pub leases: Vec<Lease>,
    /// The requests that must not be carried out twice.
    pub spent: Vec<Spent>,
    /// The marks of those who are about to take the rule away.
    pub closing: Vec<Closing>,
}

/// That a rule is about to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The call that is about to take it away.
    pub call: String,
    /// When it said so.
    pub at: Timestamp,
}

/// A request that was carried out under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose key it was, and which of the holder's places it has: what the tag's key says.
    pub place: String,
    /// The digest of principal and key.
    pub digest: String,
    /// When it was carried out.
    pub at: Timestamp,
    /// The digest of what was asked.
    pub arguments: String,
    /// The call that carried it out.
    pub call: String,
    /// The end that it gave.
    pub until: Timestamp,
}

// === impl Made ===

impl Made {
    /// What the tags of a rule say.
    pub fn from_tags<'a>(tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut format, mut call, mut journal) = (false, None, None);
        let (mut leases, mut spent, mut closing) = (Vec::new(), Vec::new(), Vec::new());
        let (mut any, mut damage) = (false, None);
        for (key, value) in tags {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            any = true;
            let sound = match key {
                _ if key == FORMAT.0 => {
                    format = value == FORMAT.1;
                    format
                }
                CALL => uuid::Uuid::try_parse(value).map(|id| call = Some(id.to_string())).is_ok(),
                JOURNAL => uuid::Uuid::try_parse(value).map(|id| journal = Some(id.to_string())).is_ok(),
                _ => match (Lease::parse(name, value), name.strip_prefix(KEY), name.strip_prefix(CLOSING)) {
                    (Some(lease), ..) => lease.map(|lease| leases.push(lease)).is_ok(),
                    (_, Some(place), _) => Spent::parse(place, value).map(|key| spent.push(key)).is_some(),
                    (.., Some(call)) => Closing::parse(call, value).map(|mark| closing.push(mark)).is_some(),
                    _ => false,
                },
            };
            if !sound {
                damage = Some(format!("the tag {key} cannot be read"));
            }
        }
        if !any {
            return Self::Elsewhere;
        }
        // AWS gives tags in no order of its own.
        spent.sort_by(|a: &Spent, b| a.place.cmp(&b.place));
        closing.sort_by(|a: &Closing, b| a.call.cmp(&b.call));
        leases.sort_by(|a: &Lease, b| (b.until, &a.holder).cmp(&(a.until, &b.holder)));
        match (damage, format, call) {
            (Some(damage), ..) => Self::Damaged(damage),
            (None, false, _) => Self::Damaged(format!("the tag {} is missing", FORMAT.0)),
            (None, _, None) => Self::Damaged(format!("the tag {CALL} is missing")),
            (None, ..) if leases.is_empty() => Self::Damaged("no tag names a holder".to_owned()),
            (None, _, Some(call)) => Self::Here(Ownership { call, journal, leases, spent, closing }),
        }
    }

    /// What this service wrote, where it is whole.
    pub fn here(&self) -> Option<&Ownership> {
        match self {
            Self::Here(ownership) => Some(ownership),
            Self::Elsewhere | Self::Damaged(_) => None,
        }
    }
}

// === impl Ownership ===

impl Ownership {
    /// What is written on a rule that is made for one holder.
    pub fn new(lease: Lease, spent: Option<Spent>) -> Self {
        let spent = spent.into_iter().collect();
        Self { call: lease.call.clone(), journal: None, leases: vec![lease], spent, closing: Vec::new() }
    }

    /// The same, recorded in that journal.
    #[must_use]
    pub fn recorded_in(self, journal: Option<&str>) -> Self {
        Self { journal: journal.map(str::to_owned), ..self }
    }

    /// The tags, as key and value.
    pub fn tags(&self) -> Vec<(String, String)> {
        let own = [(FORMAT.0.to_owned(), FORMAT.1.to_owned()), (CALL.to_owned(), self.call.clone())];
        let journal = self.journal.iter().map(|id| (JOURNAL.to_owned(), id.clone()));
        let leases = self.leases.iter().map(Lease::tag);
        let closing = self.closing.iter().map(Closing::tag);
        own.into_iter().chain(journal).chain(leases).chain(self.spent.iter().map(Spent::tag)).chain(closing).collect()
    }

    /// The lease of a holder, live or ended.
    pub fn lease_of(&self, holder: &Holder) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.holder.is(holder))
    }

    /// The leases that have an end ahead.
    pub fn live(&self, now: Timestamp) -> impl Iterator<Item = &Lease> {
        self.leases.iter().filter(move |lease| lease.is_live(now))
    }

    /// Whether a call has marked the rule as about to go.
    pub fn is_marked_by(&self, call: &str) -> bool {
        self.closing.iter().any(|closing| closing.call == call)
    }

    /// Whether nobody would hold the rule any more, were these leases to end.
    pub fn is_last(&self, ending: &[Lease], now: Timestamp) -> bool {
        !self.live(now).any(|lease| !ending.iter().any(|other| other.holder.is(&lease.holder)))
    }

    /// The end of the last lease: when the rule is to go.
    pub fn ends(&self) -> Timestamp {
        self.leases.iter().map(|lease| lease.until).max().unwrap_or(Timestamp::MIN)
    }

    /// The lease that lasts longest: who is named where there is room for one.
    pub fn longest(&self) -> Option<&Lease> {
        self.leases.iter().max_by_key(|lease| lease.until)
    }

    /// Puts a lease in the place of its holder's former one.
    pub fn put(&mut self, lease: Lease) {
        self.leases.retain(|other| !other.holder.is(&lease.holder));
        self.leases.push(lease);
    }

    /// The rule's description, in the characters that EC2 takes: why, for whom, by which call.
    pub fn description(&self) -> String {
        let lease = self.leases.first();
        let (name, reason) = lease.map_or(("", ""), |lease| (lease.holder.name(), lease.reason.as_str()));
        let end = format!(" - {name} [whitelistmcp {}]", self.call);
        let room = DESCRIPTION_MAX.saturating_sub(end.chars().count());
        let text = reason.chars().take(room).chain(end.chars()).take(DESCRIPTION_MAX);
        text.map(|c| if in_description(c) { c } else { '_' }).collect()
    }
}

// === impl Closing, Spent ===

impl Closing {
    /// The mark of a call that is about to take the rule away.
    pub fn new(call: &str, now: Timestamp) -> Self {
        Self { call: call.to_owned(), at: whole_seconds(now) }
    }

    /// The key of the tag by which a call marks a rule. Each call has its own: none takes another's mark off.
    pub fn tag_key(call: &str) -> String {
        format!("{PREFIX}{CLOSING}{call}")
    }

    /// The tag: key and value.
    pub fn tag(&self) -> (String, String) {
        (Self::tag_key(&self.call), self.at.to_string())
    }

    fn parse(call: &str, at: &str) -> Option<Self> {
        Some(Self { call: uuid::Uuid::try_parse(call).ok()?.to_string(), at: at.parse().ok()? })
    }
}

impl Spent {
    /// The digest under which a holder's key is remembered: two holders' keys never meet.
    pub fn digest_of(holder: &Holder, key: &str) -> String {
        short(&sha256_hex(format!("{}\n{key}", holder.tag_key())))
    }

    /// What the keys of a holder's tags begin with.
    pub fn tag_keys_of(holder: &Holder) -> String {
        format!("{PREFIX}{KEY}{}:", holder.proof())
    }

    /// The place for one more key of a holder on a rule: a free one, or that of the oldest.
    pub fn place_for(holder: &Holder, known: &[Self]) -> String {
        let places = (0..KEYS_MOST).map(|n| format!("{}:{n}", holder.proof()));
        let since = |place: &String| known.iter().find(|spent| spent.place == *place).map(|spent| spent.at);
        places.min_by_key(since).unwrap_or_default()
    }

    /// The tag: key and value.
    pub fn tag(&self) -> (String, String) {
        let value = format!("{} {} {} {} {}", self.digest, self.at, self.arguments, self.call, self.until);
        (format!("{PREFIX}{KEY}{}", self.place), value)
    }

    fn parse(place: &str, value: &str) -> Option<Self> {
        let [digest, at, arguments, call, until] = value.splitn(5, ' ').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            place: place.to_owned(),
            digest: digest.to_owned(),
            at: at.parse().ok()?,
            arguments: arguments.to_owned(),
            call: uuid::Uuid::try_parse(call).ok()?.to_string(),
            until: until.parse().ok()?,
        })
    }

    /// Whether it is still to be heeded.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) < KEY_LIFETIME
    }
}

/// As much of a digest as a tag has room for.
pub fn short(digest: &str) -> String {
    digest.chars().take(16).collect()
}

/// Whether a reason cannot stand on a rule as it is.
pub fn is_altered(reason: &str) -> bool {
    tag_value(reason) != reason
}

/// Source: `IpRange.Description` in the EC2 API reference, less `&`, which prefix-list rules do not take.
fn in_description(c: char) -> bool {
    c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=;{}!$*".contains(c)
}

/// Makes a tag value of free text: characters that EC2 and STS do not take become `_`.
pub fn tag_value(text: &str) -> String {
    text.chars()
        .take(TAG_VALUE_MAX)
        .map(|c| if c.is_alphanumeric() || " _.:/=+-@".contains(c) { c } else { '_' })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE_BY: &str = "01980000-0000-7000-8000-000000000001";

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn lease(name: &str, proof: char, until: &str, reason: &str) -> Lease {
        let holder = Holder::new(name, &format!("{name}-{}", proof.to_string().repeat(16))).expect("an id");
        Lease::new(holder, reason, time("2027-01-01T00:00:00.25Z"), time(until), MADE_BY)
    }

    fn shared() -> Ownership {
        let spent = Spent {
            place: "aaaaaaaaaaaaaaaa:0".to_owned(),
            digest: "0123456789abcdef".to_owned(),
            at: time("2027-01-01T00:00:00Z"),
            arguments: "fedcba9876543210".to_owned(),
            call: MADE_BY.to_owned(),
            until: time("2027-01-01T02:00:00Z"),
        };
        let mut shared = Ownership::new(lease("alice", 'a', "2027-01-01T02:00:00Z", "look & see"), Some(spent));
        shared.put(lease("bob", 'b', "2027-01-01T01:00:00Z", "the same"));
        shared.journal = Some(MADE_BY.to_owned());
        shared.closing = vec![Closing::new(MADE_BY, time("2027-01-01T03:00:00Z"))];
        shared
    }

    fn read(tags: &[(String, String)]) -> Made {
        Made::from_tags(tags.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    #[test]
    fn tags_are_read_back() {
        let mut tags = shared().tags();
        tags.push(("Name".to_owned(), "not ours".to_owned()));
        assert_eq!(read(&tags), Made::Here(shared()));
        assert_eq!(shared().ends(), time("2027-01-01T02:00:00Z"));
        assert_eq!(shared().live(time("2027-01-01T01:00:00Z")).count(), 1);
        assert_eq!(read(&[("Name".to_owned(), "x".to_owned())]), Made::Elsewhere);
    }

    #[test]
    fn tags_that_are_not_whole_are_damage() {
        let whole = Ownership { journal: None, spent: Vec::new(), closing: Vec::new(), ..shared() }.tags();
        for missing in 0..2 {
            let mut tags = whole.clone();
            tags.remove(missing);
            assert!(matches!(read(&tags), Made::Damaged(_)), "{missing}");
        }
        let mut tags = whole.clone();
        tags.truncate(2);
        assert!(matches!(read(&tags), Made::Damaged(_)), "nobody holds it");
        for (key, value) in [
            ("whitelistmcp:holder:aaaaaaaaaaaaaaaa", "2027"),
            ("whitelistmcp:lease", "v9"),
            ("whitelistmcp:closing:01980000-0000-7000-8000-000000000001", "now"),
            ("whitelistmcp:closing:me", "2027-01-01T03:00:00Z"),
            ("whitelistmcp:journal", "mine"),
            ("whitelistmcp:key:0", ""),
            ("whitelistmcp:later", "unknown to this version"),
        ] {
            let mut tags = whole.clone();
            tags.retain(|(other, _)| other != key);
            tags.push((key.to_owned(), value.to_owned()));
            assert!(matches!(read(&tags), Made::Damaged(_)), "{key}={value}");
        }
    }

    #[test]
    fn a_description_keeps_to_what_ec2_takes() {
        let long = "na\u{ef}ve reason'; ".repeat(40);
        let text = Ownership::new(lease("alice@example.com", 'a', "2027-01-01T02:00:00Z", &long), None).description();
        assert!(text.len() <= 255 && text.chars().all(in_description), "{text}");
        assert!(text.ends_with(&format!(" - alice@example.com [whitelistmcp {MADE_BY}]")), "{text}");
    }
}
