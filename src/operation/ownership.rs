//! What stands on a rule that this service made: for whom, why, since when, until when, and by which call.
//!
//! EC2 keeps it as tags of the rule and, for people who look at the console, in the rule's description.

use jiff::Timestamp;

use super::lease::whole_seconds;

const CALL: &str = "whitelistmcp:call";
const HOLDER: &str = "whitelistmcp:holder";
const HOLDER_ID: &str = "whitelistmcp:holder-id";
const REASON: &str = "whitelistmcp:reason";
const SINCE: &str = "whitelistmcp:since";
const UNTIL: &str = "whitelistmcp:until";

/// The most characters of a tag's value (EC2 API, `Tag`).
const TAG_VALUE_MAX: usize = 256;
/// The most characters of a rule's description (EC2 API, `IpRange`).
const DESCRIPTION_MAX: usize = 255;

/// What this service wrote on a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The holder's name, for people.
    pub holder: String,
    /// The holder's stable id: the source identity of the session that made the rule.
    pub holder_id: String,
    /// Why the rule was asked for.
    pub reason: String,
    /// Since when it stands, RFC 3339.
    pub since: String,
    /// Until when it is meant to stand, RFC 3339.
    pub until: Option<String>,
    /// The id of the call that made it.
    pub call: String,
}

impl Ownership {
    /// What is written on a rule that is made now.
    pub fn new(
        holder: &str,
        holder_id: &str,
        reason: &str,
        now: Timestamp,
        until: Option<Timestamp>,
        call: &str,
    ) -> Self {
        Self {
            holder: tag_value(holder),
            holder_id: tag_value(holder_id),
            reason: tag_value(reason),
            since: whole_seconds(now).to_string(),
            until: until.map(|until| until.to_string()),
            call: call.to_owned(),
        }
    }

    /// The tags, as key and value.
    pub fn tags(&self) -> Vec<(&'static str, &str)> {
        let mut tags = vec![
            (CALL, self.call.as_str()),
            (HOLDER, self.holder.as_str()),
            (HOLDER_ID, self.holder_id.as_str()),
            (REASON, self.reason.as_str()),
            (SINCE, self.since.as_str()),
        ];
        tags.extend(self.until.as_deref().map(|until| (UNTIL, until)));
        tags
    }

    /// The key of the tag that names the call, which the session policy pins.
    pub const fn call_tag() -> &'static str {
        CALL
    }

    /// Reads the tags of a rule. A rule is ours only if its call and its holder are there.
    pub fn from_tags<'a>(tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let (mut call, mut holder, mut holder_id, mut reason, mut since, mut until) =
            (None, None, None, None, None, None);
        for (key, value) in tags {
            let slot = match key {
                CALL => &mut call,
                HOLDER => &mut holder,
                HOLDER_ID => &mut holder_id,
                REASON => &mut reason,
                SINCE => &mut since,
                UNTIL => &mut until,
                _ => continue,
            };
            *slot = Some(value.to_owned());
        }
        let holder_id = holder_id?;
        Some(Self {
            call: call?,
            holder: holder.unwrap_or_else(|| holder_id.clone()),
            holder_id,
            reason: reason.unwrap_or_default(),
            since: since.unwrap_or_default(),
            until,
        })
    }

    /// The rule's description, in the characters that EC2 takes: why, for whom, by which call.
    pub fn description(&self) -> String {
        let end = format!(" - {} [whitelistmcp {}]", self.holder, self.call);
        let room = DESCRIPTION_MAX.saturating_sub(end.chars().count());
        self.reason
            .chars()
            .take(room)
            .chain(end.chars())
            .take(DESCRIPTION_MAX)
            .map(|c| if in_description(c) { c } else { '_' })
            .collect()
    }
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

    fn ownership(reason: &str) -> Ownership {
        let now = "2027-01-01T00:00:00.25Z".parse().expect("parses");
        Ownership::new("alice@example.com", "alice@example.com-1a2b", reason, now, None, "0198-call")
    }

    #[test]
    fn tags_are_read_back() {
        let ownership = ownership("ticket OPS-12: <look> & see");
        assert_eq!(ownership.reason, "ticket OPS-12: _look_ _ see");
        assert_eq!(Ownership::from_tags(ownership.tags()), Some(ownership.clone()));
        assert_eq!(Ownership::from_tags(ownership.tags().into_iter().filter(|(key, _)| *key != CALL)), None);
    }

    #[test]
    fn a_description_keeps_to_what_ec2_takes() {
        let text = ownership(&"naïve reason'; \u{2603}\n".repeat(40)).description();
        assert_eq!(text.len(), 255);
        assert!(text.chars().all(in_description));
        assert!(text.ends_with(" - alice@example.com [whitelistmcp 0198-call]"), "{text}");
    }
}
