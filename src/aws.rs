//! AWS: one STS session for each operation, of least power, and the few EC2 calls that the operation needs.
//!
//! The service's own credentials sign AssumeRole and nothing else: the SDK's chain finds them, or the platform's identity stands
//! for them ([`federation`]). Where one person runs all of it without a server
//! ([`profile`]), an account without a role is reached by that person's own credentials, and nothing less. A [`Session`] is made from a permit, a session
//! policy and an audit entry, serves one operation, and is gone with it; reading asks for the session, changing for a
//! second permit and a durable entry besides.

mod assume;
pub mod cache;
mod circuit;
pub mod doctor;
mod ec2;
mod error;
pub mod federation;
pub mod iam;
mod observe;
pub mod profile;
pub mod role;
mod seen;
pub mod session_policy;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_http_client::tls;
use aws_types::service_config::ServiceConfigKey;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::clock::Clock;
use crate::operation::target::{AccountId, Region, TargetError};

use aws_sdk_sts::config::Credentials;
use federation::Federation;
use observe::Observe;
use profile::{Identity, Profile};
use role::RoleArn;

pub use assume::Session;
pub use ec2::{Authorized, GroupFacts, MANAGED};
pub use error::AwsError;
pub use seen::{Asking, Look};

/// How long one connection to AWS may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one attempt of a request may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take with its retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(25);

/// `[aws]` in the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where AWS is, if not where the SDK says: https anywhere, http to a loopback address only. Setting it in the
    /// environment or in a profile instead is refused.
    pub endpoint: Option<String>,
    /// A file of CA certificates (PEM) to trust for AWS, beside the system's.
    pub ca: Option<PathBuf>,
    /// A file of AWS credentials in the SDK's own format, whose profile `default` is used. Without one, the SDK's own
    /// chain finds the credentials: environment, profile, container or instance role.
    pub credentials_file: Option<PathBuf>,
    /// The service's own credentials by the identity that another cloud has given it, in place of the chain.
    pub federation: Option<federation::Config>,
    /// The accounts that can be reached, each by a role.
    pub accounts: Vec<AccountConfig>,
    /// Whether what was read is remembered for a moment, for those who only look. Not unless it is there.
    pub cache: Option<cache::Config>,
}

/// One `[[aws.accounts]]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// The account's 12 digits.
    pub id: String,
    /// The role to assume in it. A server needs one; locally the person's own credentials do without.
    pub role_arn: Option<String>,
    /// What the role's trust policy demands as `sts:ExternalId`.
    pub external_id: Option<String>,
    /// The Regions that may be used in it.
    pub regions: Vec<String>,
    /// How many inbound rules of each family a security group of this account may have: AWS's quota, 60 unless it was
    /// raised.
    #[serde(default = "rules_per_group")]
    pub rules_per_group: u16,
}

fn rules_per_group() -> u16 {
    60
}

/// An account and the way into it.
#[derive(Clone, Debug)]
pub struct Account {
    role: Option<Role>,
    partition: String,
    regions: BTreeSet<Region>,
    rules_per_group: u16,
}

/// The role that lends power over an account.
#[derive(Clone, Debug)]
struct Role {
    arn: RoleArn,
    external_id: Option<String>,
}

/// The accounts that are configured.
#[derive(Clone, Debug)]
pub struct Accounts(BTreeMap<AccountId, Account>);

/// Access to AWS.
#[derive(Clone, Debug)]
pub struct Aws {
    accounts: Accounts,
    sts: BTreeMap<Region, aws_sdk_sts::Client>,
    /// Clients without any credentials: each request brings its own session's.
    ec2: BTreeMap<Region, aws_sdk_ec2::Client>,
    /// The person whose credentials count, where there is no server.
    profile: Option<Profile>,
    /// What the service's own credentials are had by, where the SDK's chain does not find them.
    federation: Option<Federation>,
    time: time::AwsTime,
    circuits: circuit::Circuits,
    cache: Option<cache::Cache>,
}

/// Why `[aws]` is wrong, or AWS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A malformed account id or Region.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The same account twice.
    #[error("account {0} is given twice")]
    Twice(AccountId),
    /// A role that is malformed, or in another account.
    #[error(
        "`{role_arn}` is not the ARN of a role in account {account}, such as arn:aws:iam::{account}:role/whitelistmcp-target"
    )]
    Role {
        /// The role.
        role_arn: String,
        /// The account.
        account: AccountId,
    },
    /// No role, where there must be one.
    #[error(
        "account {0} needs a `role_arn`: only `whitelistmcp stdio` reaches an account by a person's own credentials"
    )]
    NoRole(AccountId),
    /// An account without a role that the person is not in.
    #[error(
        "account {account} needs a `role_arn`: your AWS profile is in account {own}, and reaches no other without one"
    )]
    Elsewhere {
        /// The account.
        account: AccountId,
        /// The profile's.
        own: AccountId,
    },
    /// An account without Regions.
    #[error("account {0} needs at least one Region")]
    NoRegions(AccountId),
    /// An external id that STS does not take.
    #[error("the external id of account {0} must be 2 to 1224 of A-Z a-z 0-9 + = , . @ : / _ and -")]
    ExternalId(AccountId),
    /// `[aws.federation]`
    #[error("`[aws.federation]`")]
    Federation(#[from] federation::ConfigError),
    /// Two kinds of credentials.
    #[error("`[aws]` has both `credentials_file` and `[aws.federation]`; take one out")]
    TwoCredentials,
    /// An endpoint that is neither safe nor local.
    #[error("the AWS endpoint `{0}` must be https, or http to a loopback address")]
    Endpoint(String),
    /// An endpoint from outside the configuration.
    #[error("{0} redirects AWS calls; take it out, and set `[aws] endpoint` if that is meant")]
    ForeignEndpoint(String),
    /// The CA file.
    #[error("the CA file {path} cannot be used")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP client.
    #[error("the TLS settings for AWS cannot be put together: {0}")]
    Tls(String),
}

// === impl Accounts ===

impl Accounts {
    /// Checks the configuration of a server: every account has a role.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        check_federation(config)?;
        Self::read(config, None)
    }

    /// The accounts that a person reaches from where they sit: those that are configured, or else their own in that Region.
    /// One without a role is reached by their own credentials.
    pub fn of_person(config: &Config, identity: &Identity, region: &Region) -> Result<Self, ConfigError> {
        let mut accounts = Self::read(config, Some(identity))?;
        if accounts.0.is_empty() {
            let own = Account {
                role: None,
                partition: identity.partition.clone(),
                regions: BTreeSet::from([region.clone()]),
                rules_per_group: rules_per_group(),
            };
            accounts.0.insert(identity.account.clone(), own);
        }
        Ok(accounts)
    }

    fn read(config: &Config, person: Option<&Identity>) -> Result<Self, ConfigError> {
        let mut accounts = BTreeMap::new();
        for account in &config.accounts {
            let id = AccountId::parse(&account.id)?;
            let regions =
                account.regions.iter().map(|region| Region::parse(region)).collect::<Result<BTreeSet<_>, _>>()?;
            if regions.is_empty() {
                return Err(ConfigError::NoRegions(id));
            }
            let role_arn = account.role_arn.as_deref().map(|text| role_in(&id, text)).transpose()?;
            let partition = match (&role_arn, person) {
                (Some(role_arn), _) => role_arn.partition().to_owned(),
                (None, Some(person)) if person.account == id => person.partition.clone(),
                (None, Some(person)) => {
                    return Err(ConfigError::Elsewhere { account: id, own: person.account.clone() });
                }
                (None, None) => return Err(ConfigError::NoRole(id)),
            };
            let sound = |text: &str| {
                (2..=1224).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@:/_-".contains(&b))
            };
            if account.external_id.as_deref().is_some_and(|external_id| !sound(external_id)) {
                return Err(ConfigError::ExternalId(id));
            }
            let external_id = account.external_id.clone();
            let entry = Account {
                role: role_arn.map(|arn| Role { arn, external_id }),
                partition,
                regions,
                rules_per_group: account.rules_per_group,
            };
            if accounts.insert(id.clone(), entry).is_some() {
                return Err(ConfigError::Twice(id));
            }
        }
        Ok(Self(accounts))
    }

    /// The accounts and their Regions.
    pub fn regions(&self) -> impl Iterator<Item = (AccountId, BTreeSet<Region>)> {
        self.0.iter().map(|(id, account)| (id.clone(), account.regions.clone()))
    }

    /// An account.
    pub fn find(&self, id: &AccountId) -> Option<&Account> {
        self.0.get(id)
    }
}

/// A role's ARN, if it is one of a role in that account.
fn role_in(account: &AccountId, text: &str) -> Result<RoleArn, ConfigError> {
    let role = RoleArn::parse(text).filter(|role| role.account() == account);
    role.ok_or_else(|| ConfigError::Role { role_arn: text.to_owned(), account: account.clone() })
}

impl Account {
    /// Whether there is a role to borrow. Where there is none, calls are made with a person's own credentials.
    pub fn has_role(&self) -> bool {
        self.role.is_some()
    }

    /// The ARN partition: `aws`, `aws-cn` or `aws-us-gov`.
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// How many inbound rules of each family one of its security groups may have.
    pub fn rules_per_group(&self) -> u16 {
        self.rules_per_group
    }
}

// === impl Aws ===

impl Aws {
    /// Prepares access with the platform's identity where `[aws.federation]` says so, or else with the SDK's own chain of
    /// credentials. Nothing is asked of AWS yet.
    pub async fn new(config: &Config, accounts: Accounts, clock: Clock) -> Result<Self, ConfigError> {
        check_federation(config)?;
        let region = accounts.0.values().flat_map(|account| &account.regions).next();
        let http = http_client(config)?;
        let Some(section) = &config.federation else {
            let base = loader(config, http, region).load().await;
            return Self::over(with_endpoint(config, base)?, accounts, None);
        };
        let federation = Federation::new(config, section, http.clone(), region, clock).await?;
        // Each request brings them.
        let base = loader(config, http, region).no_credentials().load().await;
        let aws = Self::over(with_endpoint(config, base)?, accounts, None)?;
        Ok(Self { federation: Some(federation), ..aws })
    }

    /// Prepares access for one person, with the credentials of their profile.
    pub async fn of_person(config: &Config, accounts: Accounts, profile: Profile) -> Result<Self, ConfigError> {
        let region = accounts.0.values().flat_map(|account| &account.regions).next();
        let base = loader(config, http_client(config)?, region);
        // Each request brings its own.
        let base = base.no_credentials().load().await;
        Self::over(with_endpoint(config, base)?, accounts, Some(profile))
    }

    fn over(base: SdkConfig, accounts: Accounts, profile: Option<Profile>) -> Result<Self, ConfigError> {
        let regions: BTreeSet<&Region> = accounts.0.values().flat_map(|account| &account.regions).collect();
        let mut bare = base.clone().into_builder();
        bare.set_credentials_provider(None);
        let bare = bare.build();
        let time = time::AwsTime::default();
        let (mut sts, mut ec2) = (BTreeMap::new(), BTreeMap::new());
        for region in regions {
            let name = aws_config::Region::new(region.as_str().to_owned());
            let config = aws_sdk_sts::config::Builder::from(&base)
                .region(name.clone())
                .interceptor(time.clone())
                .interceptor(Observe("STS"))
                .build();
            sts.insert(region.clone(), aws_sdk_sts::Client::from_conf(config));
            let config = aws_sdk_ec2::config::Builder::from(&bare)
                .region(name)
                .interceptor(time.clone())
                .interceptor(Observe("EC2"));
            let config = config.identity_cache(aws_sdk_ec2::config::IdentityCache::no_cache()).build();
            ec2.insert(region.clone(), aws_sdk_ec2::Client::from_conf(config));
        }
        let (federation, circuits) = (None, circuit::Circuits::default());
        Ok(Self { accounts, sts, ec2, profile, federation, time, circuits, cache: None })
    }

    /// The credentials that a request for a role is signed with, where the clients do not have them themselves.
    async fn own(&self) -> Result<Option<Credentials>, AwsError> {
        Ok(match (&self.profile, &self.federation) {
            // Boxed, as few calls have it and all would be as large.
            (Some(profile), _) => Some(Box::pin(profile.credentials()).await?),
            (None, Some(federation)) => Some(Box::pin(federation.credentials()).await?),
            (None, None) => None,
        })
    }

    /// The service's own credentials by the platform's identity, had now; none where they are had otherwise.
    pub async fn federated(&self) -> Result<Option<()>, Arc<federation::FederationError>> {
        match &self.federation {
            Some(federation) => federation.credentials().await.map(|_| Some(())),
            None => Ok(None),
        }
    }

    /// The same, remembering what was read.
    #[must_use]
    pub fn with_cache(self, cache: Option<cache::Cache>) -> Self {
        Self { cache, ..self }
    }

    /// The time as AWS last told it; none before it has answered for the first time.
    pub fn time(&self) -> Option<jiff::Timestamp> {
        self.time.now()
    }

    /// The accounts that are configured.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }
}

fn check_federation(config: &Config) -> Result<(), ConfigError> {
    let Some(section) = &config.federation else { return Ok(()) };
    if config.credentials_file.is_some() {
        return Err(ConfigError::TwoCredentials);
    }
    section.check()?;
    Ok(())
}

/// How the SDK finds what it needs, with our bounds.
fn loader(
    config: &Config,
    http: aws_smithy_runtime_api::client::http::SharedHttpClient,
    region: Option<&Region>,
) -> aws_config::ConfigLoader {
    let timeouts = aws_config::timeout::TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT);
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).timeout_config(timeouts.build());
    if let Some(path) = &config.credentials_file {
        let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
        let credentials = ProfileFileCredentialsProvider::builder().profile_files(files.clone()).build();
        loader = loader.profile_files(files).credentials_provider(credentials);
    }
    match region {
        Some(region) => loader.region(aws_config::Region::new(region.as_str().to_owned())),
        None => loader,
    }
}

/// The same, leading to where the configuration says that AWS is.
fn with_endpoint(config: &Config, base: SdkConfig) -> Result<SdkConfig, ConfigError> {
    refuse_foreign_endpoint(&base)?;
    Ok(match &config.endpoint {
        Some(endpoint) => base.into_builder().endpoint_url(checked_endpoint(endpoint)?).build(),
        None => base,
    })
}

/// Checks `[aws] endpoint`.
pub fn checked_endpoint(endpoint: &str) -> Result<&str, ConfigError> {
    let sound = Url::parse(endpoint).is_ok_and(|url| crate::http_client::is_https_or_loopback(&url));
    if sound { Ok(endpoint) } else { Err(ConfigError::Endpoint(endpoint.to_owned())) }
}

/// Fails if the environment redirects AWS calls.
pub fn refuse_endpoint_variables() -> Result<(), ConfigError> {
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_EC2"] {
        if std::env::var_os(name).is_some() {
            return Err(ConfigError::ForeignEndpoint(format!("the environment variable {name}")));
        }
    }
    Ok(())
}

/// An endpoint from the environment or a profile would send the service's credentials wherever someone likes.
fn refuse_foreign_endpoint(base: &SdkConfig) -> Result<(), ConfigError> {
    refuse_endpoint_variables()?;
    let of_service = |service_id| {
        let key = ServiceConfigKey::builder()
            .service_id(service_id)
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .ok()?;
        base.service_config()?.load_config(key)
    };
    if base.endpoint_url().is_some() || of_service("STS").is_some() || of_service("EC2").is_some() {
        return Err(ConfigError::ForeignEndpoint("the setting endpoint_url of the AWS profile".to_owned()));
    }
    Ok(())
}

/// One pool of connections for every AWS client.
fn http_client(config: &Config) -> Result<aws_smithy_runtime_api::client::http::SharedHttpClient, ConfigError> {
    let mut trust = tls::TrustStore::default();
    if let Some(path) = &config.ca {
        trust = trust.with_pem_certificate(
            std::fs::read(path).map_err(|source| ConfigError::Ca { path: path.clone(), source })?,
        );
    }
    let context = tls::TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| ConfigError::Tls(error.to_string()))?;
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    Ok(aws_smithy_http_client::Builder::new().tls_provider(provider).tls_context(context).build_https())
}
