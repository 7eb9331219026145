//! The service's own AWS credentials out of the identity that another cloud has given it, without an AWS key anywhere.
//!
//! The platform's metadata service signs a token that says which workload this is; STS takes it for the base role
//! (`AssumeRoleWithWebIdentity`, a request that nobody signs). What STS gives is kept until shortly before its end; those who ask
//! while it is being renewed wait for the same renewal, and where that fails, what is still good is used on.
//! Source: STS API reference, `AssumeRoleWithWebIdentity`.

mod token;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sts::config::Credentials;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::error::may_pass;
use super::role::RoleArn;
use super::{loader, with_endpoint};
use crate::clock::Clock;
use crate::error::{Chain, Code, Error};
use crate::operation::target::Region;
use crate::tls::TlsError;

pub use token::TokenError;

use token::Source;

/// How long before their end credentials are renewed.
const AHEAD: Duration = Duration::from_secs(300);
/// How long before their end they are not used any more.
const LAST: Duration = Duration::from_secs(30);
/// How long after a renewal that failed the next one is tried, while what there is still good.
const AGAIN: Duration = Duration::from_secs(20);
/// How long a failure is the answer for everybody, where there is nothing good.
const REMEMBERED: Duration = Duration::from_secs(3);
/// How long after credentials were let go of because AWS did not take them others are not, if it does not take those either.
const NOT_TAKEN_AGAIN: Duration = Duration::from_secs(20);
/// AWS's words for credentials that it does not take. `AccessDenied` is none: it is about what they may do.
const NOT_TAKEN: [&str; 4] =
    ["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"];
/// The name of the session, which CloudTrail shows.
const SESSION: &str = "whitelistmcp-core";
/// What STS says where it could not ask the token's issuer for its keys; to be tried again, by its reference.
const UNREACHED: &str = "IDPCommunicationError";
/// Where STS is asked if no account and Region are configured.
const ANYWHERE: &str = "us-east-1";

/// `[aws.federation]`: the service's own credentials by another cloud's identity of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service runs, and so who says which workload it is: `google` (Cloud Run, Compute Engine, GKE: the metadata
    /// server's identity token of the service account) or `azure` (Container Apps, Container Instances, virtual machines: the managed identity's token).
    pub from: Platform,
    /// The base role, whose trust policy names that identity. It may do nothing but assume the accounts' roles.
    pub role_arn: String,
    /// Whom the token is for (`aud`), as the role's trust policy demands it. On Azure the resource: the Application ID URI that AWS's
    /// OIDC provider knows.
    pub audience: String,
    /// On Azure, which of several managed identities: its client id. Not needed where there is one.
    pub client_id: Option<String>,
    /// Where the platform's identity is asked for, if not where the platform says: http to loopback, to a link-local address, or to
    /// `metadata.google.internal`, without a path.
    pub endpoint: Option<Url>,
}

/// Another cloud.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// Google Cloud.
    Google,
    /// Microsoft Azure.
    Azure,
}

/// Why `[aws.federation]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The role.
    #[error(
        "`role_arn` must be the ARN of a role, such as arn:aws:iam::111111111111:role/whitelistmcp-core; `{0}` is none"
    )]
    Role(String),
    /// The audience.
    #[error("`audience` must say whom the platform's token is for, as the role's trust policy demands it")]
    Audience,
    /// A client id where there is none.
    #[error("`client_id` is Azure's; take it out")]
    ClientId,
    /// An endpoint that could be anybody's.
    #[error(
        "`endpoint` must be http to loopback, to a link-local address or to metadata.google.internal, without a path; `{0}` is not"
    )]
    Endpoint(Url),
    /// What the platform says of its own endpoint.
    #[error(
        "the environment variable IDENTITY_ENDPOINT is `{0}`, and the platform's is http to this host; take it out, or set `[aws.federation] endpoint`"
    )]
    Variable(String),
    /// No header to prove oneself by.
    #[error("IDENTITY_ENDPOINT is set and IDENTITY_HEADER is not: the platform sets both")]
    Header,
    /// The client.
    #[error("the client for the platform's identity")]
    Tls(#[from] TlsError),
}

/// Why there are no credentials: which step failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The platform gave no token.
    #[error("the platform's identity (the first step of [aws.federation])")]
    Token(#[from] TokenError),
    /// STS refused it.
    #[error(
        "STS does not give {role} for the platform's identity (the second step of [aws.federation]): {code}: {message}; the role must be there, AWS must know the \
         token's issuer as an identity provider, and the role's trust policy must allow sts:AssumeRoleWithWebIdentity to this identity and this audience"
    )]
    Refused {
        /// The role.
        role: String,
        /// AWS's error code.
        code: String,
        /// AWS's message.
        message: String,
    },
    /// STS did not answer, or could not decide: it throttles, has a fault of its own, or could not ask the token's issuer for its keys.
    #[error("STS has not decided on {role} (the second step of [aws.federation]); look at the way to STS")]
    NoAnswer {
        /// The role.
        role: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// STS's answer makes no sense.
    #[error("STS's answer to the platform's identity lacks {0}")]
    Incomplete(&'static str),
}

impl From<Arc<FederationError>> for Error {
    fn from(error: Arc<FederationError>) -> Self {
        let passing = match &*error {
            FederationError::Token(error) => error.may_pass(),
            FederationError::NoAnswer { .. } => true,
            FederationError::Refused { .. } | FederationError::Incomplete(_) => false,
        };
        let text = "this service cannot show AWS who it is at the moment, so nothing was changed; an operator must look at `[aws.federation]` and at the log";
        let code = if passing { Code::Unavailable } else { Code::FailedPrecondition };
        let new = Self::new(code, "AWS_IDENTITY_UNUSABLE", text.to_owned()).caused_by(error);
        if passing { new.retry_after(Duration::from_secs(5)) } else { new }
    }
}

/// The service's own credentials by federation. Clones share what is kept.
#[derive(Clone)]
pub struct Federation {
    source: Source,
    role: RoleArn,
    sts: aws_sdk_sts::Client,
    clock: Clock,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    credentials: Option<(Credentials, Timestamp)>,
    /// Before then nothing is asked again for what is still good.
    not_before: Option<Timestamp>,
    /// Why there is nothing good, and until when that is the answer without asking again.
    failed: Option<(Arc<FederationError>, Timestamp)>,
    /// Before then what AWS does not take is kept all the same.
    stays: Option<Timestamp>,
}

impl Kept {
    fn renewed(&mut self, fresh: (Credentials, Timestamp)) {
        *self = Self { credentials: Some(fresh), stays: self.stays, ..Self::default() };
    }
}

impl std::fmt::Debug for Federation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Federation").field("source", &self.source).field("role", &self.role).finish_non_exhaustive()
    }
}

impl Config {
    /// Checks what can be checked without asking anybody; the base role.
    pub fn check(&self) -> Result<RoleArn, ConfigError> {
        let role = RoleArn::parse(&self.role_arn).ok_or_else(|| ConfigError::Role(self.role_arn.clone()))?;
        if self.audience.trim().is_empty() || self.audience.chars().any(char::is_control) {
            return Err(ConfigError::Audience);
        }
        if self.client_id.is_some() && self.from != Platform::Azure {
            return Err(ConfigError::ClientId);
        }
        let sound =
            |endpoint: &&Url| !token::is_of_this_host(endpoint) || endpoint.path() != "/" || endpoint.query().is_some();
        match self.endpoint.as_ref().filter(sound) {
            Some(endpoint) => Err(ConfigError::Endpoint(endpoint.clone())),
            None => Ok(role),
        }
    }
}

impl Federation {
    /// Prepares it. Nothing is asked yet.
    pub async fn new(
        aws: &super::Config,
        config: &Config,
        http: SharedHttpClient,
        region: Option<&Region>,
        clock: Clock,
    ) -> Result<Self, super::ConfigError> {
        let role = config.check()?;
        let source = Source::new(config, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
        let anywhere = Region::parse(ANYWHERE)?;
        let base = loader(aws, http, Some(region.unwrap_or(&anywhere))).no_credentials().load().await;
        let sts = aws_sdk_sts::Client::new(&with_endpoint(aws, base)?);
        Ok(Self { source, role, sts, clock, kept: Arc::default() })
    }

    /// Credentials of the base role that are good for a while. Those near their end are renewed behind the caller's back.
    pub async fn credentials(&self) -> Result<Credentials, Arc<FederationError>> {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        let now = self.clock.now();
        let left = |until: Timestamp| Duration::try_from(until.duration_since(now)).unwrap_or_default();
        if let Some((credentials, until)) = kept.credentials.clone().filter(|(_, until)| left(*until) > LAST) {
            if left(until) <= AHEAD && kept.not_before.is_none_or(|then| then <= now) {
                kept.not_before = now.checked_add(AGAIN).ok();
                tokio::spawn(self.clone().renew_ahead(until));
            }
            return Ok(credentials);
        }
        if let Some((error, until)) = &kept.failed
            && now < *until
        {
            return Err(Arc::clone(error));
        }
        // In a task of its own, which holds what is kept until it is over: a caller who goes away does not end it, and those who
        // ask meanwhile are answered by it, whatever comes of it.
        let renewing = self.clone();
        let renewed = tokio::spawn(async move {
            let renewed = renewing.renew().await.map_err(Arc::new);
            match &renewed {
                Ok(fresh) => kept.renewed(fresh.clone()),
                Err(error) => {
                    tracing::error!(error = %Chain(error), "there are no AWS credentials by the platform's identity");
                    let until = renewing.clock.now().checked_add(REMEMBERED).ok();
                    kept.failed = until.map(|until| (Arc::clone(error), until));
                }
            }
            renewed.map(|(credentials, _)| credentials)
        });
        renewed.await.unwrap_or_else(|_| Err(Arc::new(FederationError::Incomplete("an end of the renewal"))))
    }

    /// Hears how AWS refused a request that was signed with these. Where it does not take them, whatever their end, they are kept
    /// no longer, and the next call has others.
    pub(super) fn refused(&self, access_key_id: &str, code: &str) {
        // Who holds what is kept is renewing it, or gone in a moment: the next refusal does.
        let Some(mut kept) = self.kept.try_lock().ok().filter(|_| NOT_TAKEN.contains(&code)) else { return };
        let now = self.clock.now();
        let are_kept = kept.credentials.as_ref().is_some_and(|(kept, _)| kept.access_key_id() == access_key_id);
        if are_kept && kept.stays.is_none_or(|then| then <= now) {
            tracing::warn!(code, "AWS does not take the service's own credentials; others are asked for");
            kept.credentials = None;
            kept.stays = now.checked_add(NOT_TAKEN_AGAIN).ok();
        }
    }

    /// Renews what is still good.
    async fn renew_ahead(self, good_until: Timestamp) {
        match self.renew().await {
            Ok(fresh) => self.kept.lock().await.renewed(fresh),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), %good_until, "the service's AWS credentials could not be renewed; those there are go on");
                self.kept.lock().await.not_before = self.clock.now().checked_add(AGAIN).ok();
            }
        }
    }

    async fn renew(&self) -> Result<(Credentials, Timestamp), FederationError> {
        let token = self.source.token().await?;
        let request = self.sts.assume_role_with_web_identity().role_arn(self.role.as_str()).role_session_name(SESSION);
        // Boxed, as it is seldom and would be large in every call.
        let answer = Box::pin(request.web_identity_token(token.expose()).send()).await;
        let answer = answer.map_err(|error| {
            let role = self.role.to_string();
            let refused = error.as_service_error();
            // Without a code it is not AWS that speaks, but something on the way there.
            match refused.and_then(ProvideErrorMetadata::code).filter(|code| !may_pass(code) && *code != UNREACHED) {
                Some(code) => {
                    let message = refused.and_then(ProvideErrorMetadata::message).unwrap_or("without a word");
                    FederationError::Refused { role, code: code.to_owned(), message: message.to_owned() }
                }
                None => FederationError::NoAnswer { role, source: Box::new(error) },
            }
        })?;
        let lent = answer.credentials().ok_or(FederationError::Incomplete("credentials"))?;
        let until = Timestamp::from_second(lent.expiration().secs()).ok();
        let until = until.ok_or(FederationError::Incomplete("an end"))?;
        let session = Some(lent.session_token().to_owned());
        let credentials =
            Credentials::new(lent.access_key_id(), lent.secret_access_key(), session, None, "whitelistmcp-federation");
        tracing::info!(role = %self.role, %until, "AWS has given the base role for the platform's identity");
        Ok((credentials, until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> String {
        let config = toml::from_str::<Config>(text).map_err(|error| error.to_string());
        config.and_then(|config| config.check().map(drop).map_err(|error| error.to_string())).err().unwrap_or_default()
    }

    #[test]
    fn what_could_send_the_token_elsewhere_is_refused() {
        let sound = "role_arn = \"arn:aws:iam::111111111111:role/whitelistmcp-core\"\naudience = \"a\"\n";
        for (text, part) in [
            ("from = \"google\"", ""),
            ("from = \"azure\"\nclient_id = \"x\"", ""),
            ("from = \"google\"\nendpoint = \"http://127.0.0.1:9\"", ""),
            ("from = \"google\"\nendpoint = \"http://metadata.google.internal\"", ""),
            ("from = \"azure\"\nendpoint = \"http://169.254.169.254\"", ""),
            ("from = \"azure\"\nendpoint = \"http://[fe80::1]\"", ""),
            ("from = \"aws\"", "unknown variant"),
            ("from = \"google\"\nclient_id = \"x\"", "Azure's"),
            ("from = \"google\"\nendpoint = \"http://10.0.0.1\"", "`endpoint` must be"),
            ("from = \"google\"\nendpoint = \"https://metadata.google.internal\"", "`endpoint` must be"),
            ("from = \"google\"\nendpoint = \"http://metadata.google.internal.evil.example\"", "`endpoint` must be"),
            ("from = \"google\"\nendpoint = \"http://u:p@127.0.0.1\"", "`endpoint` must be"),
            ("from = \"google\"\nendpoint = \"http://127.0.0.1/path\"", "`endpoint` must be"),
        ] {
            let said = checked(&format!("{text}\n{sound}"));
            assert!(if part.is_empty() { said.is_empty() } else { said.contains(part) }, "{text}: {said}");
        }
        for (from, to, part) in [
            ("role/whitelistmcp-core", "user/x", "ARN of a role"),
            ("111111111111", "1", "ARN of a role"),
            ("audience = \"a\"", "audience = \" \"", "`audience` must say"),
        ] {
            let said = checked(&format!("from = \"google\"\n{sound}").replace(from, to));
            assert!(said.contains(part), "{to}: {said}");
        }
    }
}
