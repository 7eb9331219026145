//! The ARN of a role (IAM User Guide, "IAM identifiers").

use std::fmt;

use crate::operation::target::AccountId;

/// The ARN of a role, such as `arn:aws:iam::111111111111:role/whitelistmcp-core`, in any of AWS's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleArn {
    text: String,
    partition: String,
    account: AccountId,
}

/// Whether a word may name one of AWS's partitions.
pub fn is_partition(word: &str) -> bool {
    word.starts_with("aws")
}

impl RoleArn {
    /// The ARN, if it is one of a role.
    pub fn parse(text: &str) -> Option<Self> {
        let ["arn", partition, "iam", "", account, role] = text.splitn(6, ':').collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_role = role.strip_prefix("role/").is_some_and(|name| !name.is_empty());
        let account = AccountId::parse(account).ok().filter(|_| is_role && is_partition(partition))?;
        Some(Self { text: text.to_owned(), partition: partition.to_owned(), account })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The partition, such as `aws`, `aws-cn` or `aws-us-gov`.
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// The account that the role is in.
    pub fn account(&self) -> &AccountId {
        &self.account
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_role_s_arn_is_one() {
        let role = RoleArn::parse("arn:aws-cn:iam::111111111111:role/service/whitelistmcp-core").expect("one");
        assert_eq!((role.partition(), role.account().as_str()), ("aws-cn", "111111111111"));
        for none in [
            "",
            "arn:aws:iam::111111111111:role/",
            "arn:aws:iam::111111111111:user/x",
            "arn:aws:iam::1:role/x",
            "arn:aws:iam:eu-central-1:111111111111:role/x",
            "arn:aws:sts::111111111111:role/x",
            "arn:azure:iam::111111111111:role/x",
            "arn::iam::111111111111:role/x",
            "111111111111:role/x",
        ] {
            assert_eq!(RoleArn::parse(none), None, "{none}");
        }
    }
}
