//! Which security group is meant: from what the caller wrote to one account, Region and group id.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::{Code, Error};

/// `[targets]` in the configuration: the groups that callers may ask for by name, and the defaults.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The account of a group id that is given without one.
    pub account: Option<String>,
    /// The Region of a group id that is given without one.
    pub region: Option<String>,
    /// The groups that have names.
    pub groups: Vec<GroupConfig>,
}

/// One `[[targets.groups]]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// The name that callers use.
    pub name: String,
    /// The group's id, `sg-…`.
    pub id: String,
    /// The group's account; `targets.account` unless given.
    pub account: Option<String>,
    /// The group's Region; `targets.region` unless given.
    pub region: Option<String>,
}

/// A 12-digit AWS account id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(String);

/// An AWS Region's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(String);

/// A security group's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(String);

/// One account and Region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    account: AccountId,
    region: Region,
}

/// One security group that the service could reach. Whether the caller may is policy's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    place: Place,
    group: GroupId,
    name: Option<String>,
    known: Known,
    described: Option<Arc<Described>>,
}

/// What AWS alone knows of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The VPC that it is in.
    pub vpc: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// What was read of every group of a place.
pub type Descriptions = BTreeMap<GroupId, Arc<Described>>;

/// How the service knows of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The configuration names it.
    Configured,
    /// Its owner opted it in by the tag `whitelistmcp:managed`.
    OptedIn,
    /// Not at all: somebody gave its id.
    ById,
}

/// A group that its owner opted in, as AWS describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptedIn {
    /// Its id.
    pub group: GroupId,
    /// The name to speak of it by.
    pub name: String,
    /// Other names that mean it: the group's own, and those of what is attached to it.
    pub aliases: BTreeSet<String>,
    /// What is attached to it, for people.
    pub attached: BTreeSet<String>,
}

/// Every group, account and Region that is known.
#[derive(Clone, Debug)]
pub struct Targets {
    account: Option<AccountId>,
    region: Option<Region>,
    regions: BTreeMap<AccountId, BTreeSet<Region>>,
    groups: Vec<Target>,
    opted_in: BTreeMap<Place, Vec<OptedIn>>,
    described: BTreeMap<Place, Arc<Descriptions>>,
}

/// Why no target came of what was written, or of what was configured.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing that the caller may use goes by that name.
    #[error(
        "no security group `{0}` that you may use is known here; whitelist_targets names those there are, and check the account and the Region"
    )]
    Unknown(String),
    /// An account or Region for which there is no role.
    #[error("this service reaches nothing in that account and Region; leave them out to ask everywhere")]
    Nowhere,
    /// A group id without an account or Region, where there is no default.
    #[error("`{group}` needs {missing}: none is configured as the default")]
    Incomplete {
        /// The group as written.
        group: String,
        /// What is missing.
        missing: &'static str,
    },
    /// Not shaped like an account id.
    #[error("`{0}` is not an AWS account id; it has 12 digits")]
    Account(String),
    /// Not shaped like a Region.
    #[error("`{0}` is not an AWS Region; it looks like eu-central-1")]
    Region(String),
    /// Not shaped like a group id.
    #[error("`{0}` is not a security group id; it is sg- and 8 to 17 hexadecimal digits")]
    Group(String),
    /// A name that would be taken for an id, or twice the same.
    #[error("the group name `{0}` cannot be used: {1}")]
    Name(String, &'static str),
    /// A group in an account or Region for which no role is configured.
    #[error("group `{name}` is in account {account}, Region {region}, for which `[[aws.accounts]]` has no role")]
    NoRole {
        /// The group's name.
        name: String,
        /// Its account.
        account: AccountId,
        /// Its Region.
        region: Region,
    },
}

impl From<TargetError> for Error {
    fn from(error: TargetError) -> Self {
        let text = error.to_string();
        match error {
            TargetError::Account(_) => Self::invalid("account", "ACCOUNT_INVALID", text),
            TargetError::Region(_) => Self::invalid("region", "REGION_INVALID", text),
            TargetError::Nowhere => Self::invalid("account", "ACCOUNT_UNKNOWN", text),
            TargetError::Unknown(_) => Self::new(Code::NotFound, "SECURITY_GROUP_UNKNOWN", text),
            _ => Self::invalid("security_group", "SECURITY_GROUP_INVALID", text),
        }
    }
}

/// Whether a text has the shape of AWS's ids: a prefix, then 8 to 17 hexadecimal digits in lower case.
pub(super) fn is_aws_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|hex| {
        (8..=17).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

// === impl AccountId, Region, GroupId ===

impl AccountId {
    /// Reads an account id.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let sound = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        if sound { Ok(Self(text.to_owned())) } else { Err(TargetError::Account(text.to_owned())) }
    }

    /// The id's digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Region {
    /// Reads a Region's name. Its shape is checked, not that AWS has it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let sound = (5..=32).contains(&text.len())
            && text.contains('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if sound { Ok(Self(text.to_owned())) } else { Err(TargetError::Region(text.to_owned())) }
    }

    /// The Region's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GroupId {
    /// Reads a group id.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let sound = is_aws_id(text, "sg-");
        if sound { Ok(Self(text.to_owned())) } else { Err(TargetError::Group(text.to_owned())) }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Place ===

impl Place {
    /// An account and a Region.
    pub fn new(account: AccountId, region: Region) -> Self {
        Self { account, region }
    }

    /// The account.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The Region.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}, Region {}", self.account, self.region)
    }
}

// === impl Target ===

impl Target {
    /// Where the group is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The account that holds the group.
    pub fn account(&self) -> &AccountId {
        &self.place.account
    }

    /// The Region that the group is in.
    pub fn region(&self) -> &Region {
        &self.place.region
    }

    /// The group's id.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// The name that the group is known by, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How the service knows of it.
    pub fn known(&self) -> Known {
        self.known
    }

    /// What AWS was read to know of it; none where nobody had a reason to read it, or could.
    pub fn described(&self) -> Option<&Described> {
        self.described.as_deref()
    }

    /// Whether two are the same group.
    pub fn is(&self, other: &Self) -> bool {
        self.place == other.place && self.group == other.group
    }

    /// How the group is spoken of: its name and id, or its id.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.group),
            None => self.group.to_string(),
        }
    }
}

// === impl Targets ===

impl Targets {
    /// Checks the configuration. `accounts` are the accounts for which there is a role, and the Regions of each.
    pub fn new(
        config: &Config,
        accounts: impl IntoIterator<Item = (AccountId, BTreeSet<Region>)>,
    ) -> Result<Self, TargetError> {
        let mut targets = Self {
            account: config.account.as_deref().map(AccountId::parse).transpose()?,
            region: config.region.as_deref().map(Region::parse).transpose()?,
            regions: accounts.into_iter().collect(),
            groups: Vec::with_capacity(config.groups.len()),
            opted_in: BTreeMap::new(),
            described: BTreeMap::new(),
        };
        for group in &config.groups {
            if group.name.starts_with("sg-") || group.name.trim().is_empty() {
                return Err(TargetError::Name(group.name.clone(), "it must be a word, and not start with sg-"));
            }
            if targets.groups.iter().any(|known| known.name.as_deref() == Some(&group.name)) {
                return Err(TargetError::Name(group.name.clone(), "it is given twice"));
            }
            let account = group.account.as_deref().map(AccountId::parse).transpose()?;
            let region = group.region.as_deref().map(Region::parse).transpose()?;
            let place = targets.place(&group.id, account, region)?;
            let id = GroupId::parse(&group.id)?;
            if !targets.reaches(&place) {
                let Place { account, region } = place;
                return Err(TargetError::NoRole { name: group.name.clone(), account, region });
            }
            let name = Some(group.name.clone());
            targets.groups.push(Target { place, group: id, name, known: Known::Configured, described: None });
        }
        Ok(targets)
    }

    /// Finds the group that a caller means. Account and Region, where given, must be the group's own.
    pub fn resolve(&self, group: &str, account: Option<&str>, region: Option<&str>) -> Result<Target, TargetError> {
        let account = account.map(AccountId::parse).transpose()?;
        let region = region.map(Region::parse).transpose()?;
        let fits = |place: &Place| {
            account.as_ref().is_none_or(|account| *account == place.account)
                && region.as_ref().is_none_or(|region| *region == place.region)
        };
        let group = group.trim();
        let unknown = || TargetError::Unknown(group.to_owned());
        if !group.starts_with("sg-") {
            if let Some(named) = self.groups.iter().find(|known| known.name.as_deref() == Some(group)) {
                return if fits(&named.place) { Ok(named.clone()) } else { Err(unknown()) };
            }
            return self.by_alias(group, fits).ok_or_else(unknown);
        }
        let id = GroupId::parse(group)?;
        if let Some(known) = self.groups.iter().find(|known| known.group == id && fits(&known.place)) {
            return Ok(known.clone());
        }
        if let Some((place, known)) = self.opted_in().find(|(place, known)| known.group == id && fits(place)) {
            return Ok(self.opted(place, known));
        }
        // An id that lacks an account is answered like any other that is not known, configured or not.
        let place = self.place(group, account, region).map_err(|_| unknown())?;
        if self.reaches(&place) { Ok(self.by_id(place, id)) } else { Err(unknown()) }
    }

    /// The group that goes by a name of its own or of what is attached to it; none if several do.
    fn by_alias(&self, name: &str, fits: impl Fn(&Place) -> bool) -> Option<Target> {
        let called = |known: &OptedIn| known.name == name || known.aliases.contains(name);
        let mut found = self.opted_in().filter(|(place, known)| fits(place) && called(known));
        let (place, known) = found.next()?;
        found.next().is_none().then(|| self.known(place, known))
    }

    /// A group that was found in a place: under its configured name, if it has one.
    pub fn found(&self, place: &Place, group: &GroupId) -> Target {
        let configured = self.groups.iter().find(|target| target.place == *place && target.group == *group);
        let opted = || {
            self.opted_in.get(place)?.iter().find(|known| known.group == *group).map(|known| self.opted(place, known))
        };
        configured.cloned().or_else(opted).unwrap_or_else(|| self.by_id(place.clone(), group.clone()))
    }

    fn opted(&self, place: &Place, known: &OptedIn) -> Target {
        let target = self.by_id(place.clone(), known.group.clone());
        Target { name: Some(known.name.clone()), known: Known::OptedIn, ..target }
    }

    fn by_id(&self, place: Place, group: GroupId) -> Target {
        let described = self.described.get(&place).and_then(|groups| groups.get(&group)).cloned();
        Target { place, group, name: None, known: Known::ById, described }
    }

    fn known(&self, place: &Place, known: &OptedIn) -> Target {
        self.found(place, &known.group)
    }

    /// The groups that the configuration names.
    pub fn named(&self) -> &[Target] {
        &self.groups
    }

    /// The groups that their owners opted in.
    pub fn opted_in(&self) -> impl Iterator<Item = (&Place, &OptedIn)> {
        self.opted_in.iter().flat_map(|(place, groups)| groups.iter().map(move |group| (place, group)))
    }

    /// The same with what was found to be opted in at a place.
    #[must_use]
    pub fn with_opted_in(&self, place: Place, groups: Vec<OptedIn>) -> Self {
        let mut targets = self.clone();
        targets.opted_in.insert(place, groups);
        targets
    }

    /// The same with what AWS knows of every group of a place; with none, what was known of them is forgotten.
    #[must_use]
    pub fn with_described(&self, place: &Place, groups: Option<Descriptions>) -> Self {
        let mut targets = self.clone();
        match groups {
            Some(groups) => targets.described.insert(place.clone(), Arc::new(groups)),
            None => targets.described.remove(place),
        };
        let known = targets.described.get(place);
        for target in targets.groups.iter_mut().filter(|target| target.place == *place) {
            target.described = known.and_then(|groups| groups.get(&target.group)).cloned();
        }
        targets
    }

    /// Whether every group of a place was read: one that is not among them does not exist.
    pub fn is_described(&self, place: &Place) -> bool {
        self.described.contains_key(place)
    }

    /// Every account and Region for which there is a role, or those that are asked for.
    pub fn places(&self, account: Option<&str>, region: Option<&str>) -> Result<Vec<Place>, TargetError> {
        let account = account.map(AccountId::parse).transpose()?;
        let region = region.map(Region::parse).transpose()?;
        let every = self.regions.iter().flat_map(|(account, regions)| {
            regions.iter().map(|region| Place { account: account.clone(), region: region.clone() })
        });
        let places: Vec<Place> = every
            .filter(|place| account.as_ref().is_none_or(|account| *account == place.account))
            .filter(|place| region.as_ref().is_none_or(|region| *region == place.region))
            .collect();
        if places.is_empty() { Err(TargetError::Nowhere) } else { Ok(places) }
    }

    fn place(&self, group: &str, account: Option<AccountId>, region: Option<Region>) -> Result<Place, TargetError> {
        let missing = |missing| TargetError::Incomplete { group: group.to_owned(), missing };
        Ok(Place {
            account: account.or_else(|| self.account.clone()).ok_or_else(|| missing("an account"))?,
            region: region.or_else(|| self.region.clone()).ok_or_else(|| missing("a Region"))?,
        })
    }

    fn reaches(&self, place: &Place) -> bool {
        self.regions.get(&place.account).is_some_and(|regions| regions.contains(&place.region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        let config = Config {
            account: Some("111111111111".to_owned()),
            region: Some("eu-central-1".to_owned()),
            groups: vec![GroupConfig {
                name: "staging-db".to_owned(),
                id: "sg-0123456789abcdef0".to_owned(),
                account: None,
                region: None,
            }],
        };
        let region = Region::parse("eu-central-1").expect("parses");
        let accounts = [(AccountId::parse("111111111111").expect("parses"), BTreeSet::from([region]))];
        Targets::new(&config, accounts).expect("sound")
    }

    #[test]
    fn a_name_and_its_id_mean_the_same() {
        let targets = targets();
        let named = targets.resolve("staging-db", None, None).expect("known");
        assert_eq!(named, targets.resolve("sg-0123456789abcdef0", Some("111111111111"), None).expect("known"));
        assert_eq!(named.label(), "staging-db (sg-0123456789abcdef0)");
    }

    #[test]
    fn an_id_takes_the_defaults_and_needs_a_role() {
        let targets = targets();
        assert_eq!(targets.resolve("sg-00000000", None, None).expect("default account").name(), None);
        for (account, region) in [(Some("222222222222"), None), (None, Some("us-east-1"))] {
            assert!(matches!(targets.resolve("sg-00000000", account, region), Err(TargetError::Unknown(_))));
            assert!(matches!(targets.resolve("staging-db", account, region), Err(TargetError::Unknown(_))));
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        let targets = targets();
        for id in ["sg-", "sg-XYZ", "sg-0123456789abcdef01234", "sg-0123456/../x"] {
            assert!(matches!(targets.resolve(id, None, None), Err(TargetError::Group(_))), "{id}");
        }
        assert!(matches!(targets.resolve("prod-db", None, None), Err(TargetError::Unknown(_))));
        assert!(matches!(targets.resolve("staging-db", Some("12"), None), Err(TargetError::Account(_))));
        assert!(matches!(targets.resolve("staging-db", None, Some("EU")), Err(TargetError::Region(_))));
    }
}
