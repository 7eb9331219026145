//! Which security group is meant: from what the caller wrote to one account, Region and group id.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use crate::error::{Code, Error};

/// `[targets]` in the configuration: the groups that callers may ask for by name, and the defaults.
#[derive(Clone, Debug, Default, Deserialize)]
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
#[derive(Clone, Debug, Deserialize)]
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

/// One security group that the service could reach. Whether the caller may is policy's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    account: AccountId,
    region: Region,
    group: GroupId,
    name: Option<String>,
}

/// Every group, account and Region that the configuration names.
#[derive(Clone, Debug)]
pub struct Targets {
    account: Option<AccountId>,
    region: Option<Region>,
    regions: BTreeMap<AccountId, BTreeSet<Region>>,
    groups: Vec<Target>,
}

/// Why no target came of what was written, or of what was configured.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing that the caller may use goes by that name.
    #[error(
        "no security group `{0}` that you may use is known here; give a configured name or a group id, and check the account and the Region"
    )]
    Unknown(String),
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

// === impl Target ===

impl Target {
    /// The account that holds the group.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The Region that the group is in.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The group's id.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// The name that the configuration gives the group, if it does.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
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
            let target = targets.complete(&group.id, account, region, Some(group.name.clone()))?;
            if !targets.reaches(&target) {
                return Err(TargetError::NoRole {
                    name: group.name.clone(),
                    account: target.account,
                    region: target.region,
                });
            }
            targets.groups.push(target);
        }
        Ok(targets)
    }

    /// Finds the group that a caller means. Account and Region, where given, must be the group's own.
    pub fn resolve(&self, group: &str, account: Option<&str>, region: Option<&str>) -> Result<Target, TargetError> {
        let account = account.map(AccountId::parse).transpose()?;
        let region = region.map(Region::parse).transpose()?;
        let fits = |known: &&Target| {
            account.as_ref().is_none_or(|account| *account == known.account)
                && region.as_ref().is_none_or(|region| *region == known.region)
        };
        let group = group.trim();
        if !group.starts_with("sg-") {
            let named = self.groups.iter().find(|known| known.name.as_deref() == Some(group));
            return named.filter(fits).cloned().ok_or_else(|| TargetError::Unknown(group.to_owned()));
        }
        if let Some(known) = self.groups.iter().filter(|known| known.group.as_str() == group).find(fits) {
            return Ok(known.clone());
        }
        // An id that lacks an account is answered like any other that is not known, configured or not.
        let target = self.complete(group, account, region, None).map_err(|error| match error {
            TargetError::Incomplete { group, .. } => TargetError::Unknown(group),
            other => other,
        })?;
        if self.reaches(&target) { Ok(target) } else { Err(TargetError::Unknown(group.to_owned())) }
    }

    /// The groups that have names.
    pub fn named(&self) -> &[Target] {
        &self.groups
    }

    fn complete(
        &self,
        group: &str,
        account: Option<AccountId>,
        region: Option<Region>,
        name: Option<String>,
    ) -> Result<Target, TargetError> {
        let missing = |missing| TargetError::Incomplete { group: group.to_owned(), missing };
        Ok(Target {
            group: GroupId::parse(group)?,
            account: account.or_else(|| self.account.clone()).ok_or_else(|| missing("an account"))?,
            region: region.or_else(|| self.region.clone()).ok_or_else(|| missing("a Region"))?,
            name,
        })
    }

    fn reaches(&self, target: &Target) -> bool {
        self.regions.get(&target.account).is_some_and(|regions| regions.contains(&target.region))
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
