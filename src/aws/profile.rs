//! The AWS profile of the person who runs the program: their credentials, their Region, and who AWS says they are.
//!
//! The credentials are found by the SDK's own chain, each time anew: a profile that was logged in to again, or that a tool
//! of the person's has filled with other keys, counts at once. What has an end is kept until shortly before it, what has none
//! for a minute.

use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_sts::config::{Credentials, ProvideCredentials};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{Config, ConfigError, http_client, loader, refuse_endpoint_variables, with_endpoint};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::operation::target::{AccountId, Region};

/// How long credentials without an end are kept.
const KEPT: Duration = Duration::from_secs(60);
/// How long before their end credentials are asked for anew.
const AHEAD: Duration = Duration::from_secs(60);
/// How long finding credentials may take: the chain asks the network last.
const PATIENCE: Duration = Duration::from_secs(20);

/// A person's profile. Clones share what is kept.
#[derive(Clone)]
pub struct Profile {
    config: Config,
    http: SharedHttpClient,
    region: Option<Region>,
    clock: Clock,
    kept: Arc<Mutex<Option<(Credentials, Timestamp)>>>,
}

/// Who the profile's owner is, by AWS's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account that the profile is in.
    pub account: AccountId,
    /// The user or the session.
    pub arn: String,
    /// The account's partition: `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
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
        f.debug_struct("Profile").field("region", &self.region).finish_non_exhaustive()
    }
}

/// Which profile is meant, for people.
fn named() -> String {
    match std::env::var("AWS_PROFILE") {
        Ok(name) if !name.is_empty() => format!("AWS profile `{name}`"),
        _ => "the default AWS profile".to_owned(),
    }
}

impl Profile {
    /// Finds the profile's Region. Nothing is asked of AWS yet.
    pub async fn find(config: &Config, clock: Clock) -> Result<Self, ConfigError> {
        refuse_endpoint_variables()?;
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
        let region = chain.or_else(ProfileFileRegionProvider::new()).region().await;
        let region = region.map(|region| Region::parse(region.as_ref())).transpose()?;
        Ok(Self { config: config.clone(), http: http_client(config)?, region, clock, kept: Arc::default() })
    }

    /// The profile's Region.
    pub fn region(&self) -> Option<&Region> {
        self.region.as_ref()
    }

    /// Who AWS says the owner is. `GetCallerIdentity` needs no permission.
    pub async fn identity(&self, region: &Region) -> Result<Identity, ProfileError> {
        let credentials = self.credentials().await?;
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
            arn,
        })
    }

    /// The owner's credentials as they are now.
    pub async fn credentials(&self) -> Result<Credentials, ProfileError> {
        // Held while they are found: those who ask at once are answered by one search.
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some((credentials, until)) = &*kept
            && now < *until
        {
            return Ok(credentials.clone());
        }
        let found = async {
            let base = loader(&self.config, self.http.clone(), self.region.as_ref()).load().await;
            let provider = base.credentials_provider().ok_or("there is nothing to find them by")?;
            provider.provide_credentials().await.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        };
        let found = tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|late| Err(late.into()));
        let credentials = found.map_err(ProfileError::NoCredentials)?;
        let ends = credentials.expiry().and_then(|end| Timestamp::try_from(end).ok());
        let until = ends.map_or(now.checked_add(KEPT), |end| end.checked_sub(AHEAD)).unwrap_or(now);
        *kept = Some((credentials.clone(), until));
        Ok(credentials)
    }
}
