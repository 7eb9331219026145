//! The AWS profile of the person who runs the program: their credentials, their Region, and who AWS says they are.
//!
//! The credentials are found by the SDK's own chain, each time anew: a profile that was logged in to again, or that a tool
//! of the person's has filled with other keys, counts at once. What has an end is kept until shortly before it, what has none
//! for a moment. Other keys are used only once AWS has said that they are the same person's: the audit trail has their name.

use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_sts::config::{Credentials, ProvideCredentials};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::os_shim_internal::{Env, Fs};
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{Config, ConfigError, http_client, loader, refuse_endpoint_variables, with_endpoint};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::operation::target::{AccountId, Region};

/// How long credentials without an end are kept.
const KEPT: Duration = Duration::from_secs(5);
/// How long before their end credentials are asked for anew.
const AHEAD: Duration = Duration::from_secs(60);
/// How long finding credentials may take: the chain asks the network last.
const PATIENCE: Duration = Duration::from_secs(20);

/// A person's profile. Clones share what is kept.
#[derive(Clone)]
pub struct Profile {
    config: Config,
    http: SharedHttpClient,
    /// What the system calls the person.
    name: String,
    clock: Clock,
    kept: Arc<Mutex<Kept>>,
}

/// What is known of a profile.
#[derive(Default)]
struct Kept {
    credentials: Option<(Credentials, Timestamp)>,
    owner: Option<Owner>,
}

/// Whose it is, and by which key and in which Region AWS has said so.
struct Owner {
    subject: String,
    key: String,
    region: Region,
}

/// Who the profile's owner is, by AWS's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account that the profile is in.
    pub account: AccountId,
    /// The user or the session.
    pub arn: String,
    /// The same wherever and whenever the person runs this: the ARN. Of a role that several may take, and whose session
    /// has a name that was made up for the occasion, the role and what the system calls the person.
    pub subject: String,
    /// The account's partition: `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such profile.
    #[error("there is no {named}: name one that stands in ~/.aws/config or ~/.aws/credentials in AWS_PROFILE", named = named())]
    NoProfile,
    /// No Region.
    #[error("no AWS Region is set: give one as `region` in the AWS profile, or in AWS_REGION")]
    NoRegion,
    /// No credentials.
    #[error(
        "no AWS credentials could be found ({named}): log in again, such as with `aws sso login`, or name another profile in AWS_PROFILE",
        named = named()
    )]
    NoCredentials(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing answered.
    #[error("AWS could not be asked whose credentials these are")]
    NoAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// AWS does not know them.
    #[error(
        "AWS does not take the credentials ({named}; {code}): log in again, such as with `aws sso login`, or name another profile in AWS_PROFILE",
        named = named()
    )]
    Refused {
        /// AWS's error code.
        code: String,
    },
    /// They are not the same person's any more.
    #[error(
        "the AWS profile is somebody else's now: it was {was} and is {is}. Start this program again to go on as {is}"
    )]
    SomebodyElse {
        /// Whose it was.
        was: String,
        /// Whose it is.
        is: String,
    },
    /// The answer makes no sense.
    #[error("AWS's answer to whose credentials these are lacks {0}")]
    Incomplete(&'static str),
    /// The clients cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<ProfileError> for Error {
    fn from(error: ProfileError) -> Self {
        let code = match error {
            ProfileError::NoAnswer(_) => Code::Unavailable,
            _ => Code::FailedPrecondition,
        };
        let new = Self::new(code, "AWS_PROFILE_UNUSABLE", error.to_string()).caused_by(error);
        if code == Code::Unavailable { new.retry_after(Duration::from_secs(5)) } else { new }
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which profile is meant, for people.
fn named() -> String {
    match std::env::var("AWS_PROFILE") {
        Ok(name) if !name.is_empty() => format!("AWS profile `{name}`"),
        _ => "the default AWS profile".to_owned(),
    }
}

/// Whether a profile is named that no file has.
async fn is_missing() -> bool {
    let Some(name) = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty()) else { return false };
    let files = aws_runtime::env_config::file::EnvConfigFiles::default();
    let set = aws_config::profile::load(&Fs::real(), &Env::real(), &files, None).await;
    set.is_ok_and(|set| set.get_profile(&name).is_none())
}

impl Profile {
    /// Prepares to look for it. Nothing is asked of AWS yet.
    pub fn new(config: &Config, name: &str, clock: Clock) -> Result<Self, ConfigError> {
        refuse_endpoint_variables()?;
        let (config, http, name) = (config.clone(), http_client(config)?, name.to_owned());
        Ok(Self { config, http, name, clock, kept: Arc::default() })
    }

    /// The profile's Region as it is now, if it says one.
    pub async fn region(&self) -> Result<Option<Region>, ProfileError> {
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
        let region = chain.or_else(ProfileFileRegionProvider::new()).region().await;
        match region {
            Some(region) => Ok(Some(Region::parse(region.as_ref()).map_err(ConfigError::from)?)),
            None if is_missing().await => Err(ProfileError::NoProfile),
            None => Ok(None),
        }
    }

    /// Who AWS says the owner is. From then on nobody else's credentials are taken.
    pub async fn identity(&self, region: &Region) -> Result<Identity, ProfileError> {
        let credentials = self.credentials().await?;
        let key = credentials.access_key_id().to_owned();
        let identity = self.ask(credentials, region).await?;
        let owner = Owner { subject: identity.subject.clone(), key, region: region.clone() };
        self.kept.lock().await.owner = Some(owner);
        Ok(identity)
    }

    /// Whose credentials these are. `GetCallerIdentity` needs no permission.
    async fn ask(&self, credentials: Credentials, region: &Region) -> Result<Identity, ProfileError> {
        let base = loader(&self.config, self.http.clone(), Some(region)).credentials_provider(credentials).load().await;
        let sts = aws_sdk_sts::Client::new(&with_endpoint(&self.config, base)?);
        let answer = sts.get_caller_identity().send().await.map_err(|error| {
            let code = error.as_service_error().and_then(|error| error.meta().code()).map(str::to_owned);
            match code {
                Some(code) => ProfileError::Refused { code },
                None => ProfileError::NoAnswer(Box::new(error)),
            }
        })?;
        let arn = answer.arn().ok_or(ProfileError::Incomplete("an ARN"))?.to_owned();
        let account = answer.account().and_then(|account| AccountId::parse(account).ok());
        let partition = arn.split(':').nth(1).filter(|partition| !partition.is_empty());
        Ok(Identity {
            account: account.ok_or(ProfileError::Incomplete("an account"))?,
            partition: partition.ok_or(ProfileError::Incomplete("a partition"))?.to_owned(),
            subject: subject(&arn, &self.name),
            arn,
        })
    }

    /// The owner's credentials as they are now.
    pub async fn credentials(&self) -> Result<Credentials, ProfileError> {
        // Held while they are found: those who ask at once are answered by one search.
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some((credentials, until)) = &kept.credentials
            && now < *until
        {
            return Ok(credentials.clone());
        }
        let found = async {
            let region = self.region().await?;
            let base = loader(&self.config, self.http.clone(), region.as_ref()).load().await;
            let provider = base.credentials_provider().ok_or("there is nothing to find them by")?;
            provider.provide_credentials().await.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        };
        let found = tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|late| Err(late.into()));
        let credentials = found.map_err(ProfileError::NoCredentials)?;
        if let Some(owner) = &mut kept.owner
            && owner.key != credentials.access_key_id()
        {
            let identity = self.ask(credentials.clone(), &owner.region).await?;
            if identity.subject != owner.subject {
                return Err(ProfileError::SomebodyElse { was: owner.subject.clone(), is: identity.subject });
            }
            credentials.access_key_id().clone_into(&mut owner.key);
        }
        let ends = credentials.expiry().and_then(|end| Timestamp::try_from(end).ok());
        let until = ends.map_or(now.checked_add(KEPT), |end| end.checked_sub(AHEAD)).unwrap_or(now);
        kept.credentials = Some((credentials.clone(), until));
        Ok(credentials)
    }
}

/// Who an ARN stands for. Tools that take a role make up a name for the session that ends in the time, so it says nothing.
fn subject(arn: &str, name: &str) -> String {
    let made_up = |session: &str| {
        let rest = session.trim_end_matches(|c: char| c.is_ascii_digit());
        session.len() - rest.len() >= 9 && (rest.is_empty() || rest.ends_with('-'))
    };
    match arn.rsplit_once('/') {
        Some((role, session)) if role.contains(":assumed-role/") && made_up(session) => format!("{role} as {name}"),
        _ => arn.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_the_same_tomorrow_and_nobody_else() {
        for (arn, expected) in [
            ("arn:aws:iam::123456789012:user/alice", None),
            ("arn:aws:iam::123456789012:user/123456789", None),
            ("arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Dev_0123456789abcdef/alice@example.com", None),
            ("arn:aws:sts::123456789012:assumed-role/Dev/i-0123456789abcdef0", None),
            ("arn:aws:sts::123456789012:assumed-role/Dev/alice-2", None),
            ("arn:aws:sts::123456789012:assumed-role/Dev/botocore-session-1764437898", Some("Dev")),
            ("arn:aws:sts::123456789012:assumed-role/Dev/assume-role-from-profile-1764437898123", Some("Dev")),
            ("arn:aws:sts::123456789012:assumed-role/team/Dev/1764437898123456789", Some("team/Dev")),
        ] {
            let role = expected.map(|role| format!("arn:aws:sts::123456789012:assumed-role/{role} as alice"));
            assert_eq!(subject(arn, "alice"), role.unwrap_or_else(|| arn.to_owned()), "{arn}");
        }
    }
}
