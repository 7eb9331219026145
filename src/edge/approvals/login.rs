//! A person's login in a browser: OAuth's code flow with PKCE, for an ID token that says when, and an access token for this
//! service (OpenID Connect Core 1.0, section 3.1; RFC 7636; RFC 8707).

use std::path::PathBuf;
use std::time::Duration;

use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, Scope, TokenResponse,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use url::Url;

use crate::http_client::HttpClient;
use crate::identity::oidc;

/// `[edge.login]` in the configuration: how people log in to decide on requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The issuer, by its name in `[oidc.NAME]`.
    pub issuer: String,
    /// The OAuth client that is registered for the page, with `…/approvals/callback` as its redirect URI.
    pub client_id: String,
    /// A file with the client's secret; none for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// The scopes that are asked for.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// A file with the key that logins under way are sealed with: 64 hexadecimal digits, the same for every edge behind one
    /// name. Without it each process makes up its own.
    pub key_file: Option<PathBuf>,
}

fn default_scopes() -> Vec<String> {
    ["openid", "whitelist:write"].map(str::to_owned).to_vec()
}

/// How old a login may be, in seconds: the provider must ask again, and say when it did.
const MAX_AGE: &str = "60";
/// How many logins are begun or ended at once: whoever begins many keeps no others waiting, and floods no provider.
const AT_ONCE: usize = 8;
/// How long the issuer's metadata is taken for true.
const METADATA_FOR: Duration = Duration::from_secs(600);
/// How long an issuer that did not answer is left alone.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// Logs people in through one client of one issuer.
#[derive(Debug)]
pub struct Login {
    issuer: String,
    client: String,
    secret: Option<ClientSecret>,
    scopes: Vec<String>,
    resource: Url,
    http: HttpClient,
    /// Where codes and secrets may be sent, besides the issuer's own origin.
    origins: Vec<String>,
    metadata: Mutex<Known>,
    places: Semaphore,
}

/// What is known of the issuer, and when it was asked.
#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Instant, CoreProviderMetadata)>,
    failed: Option<Instant>,
}

/// A login that was begun.
pub(super) struct Begun {
    /// Where the browser goes.
    pub(super) url: Url,
    /// What proves later that it was begun here.
    pub(super) verifier: String,
}

/// What a login brought. Nothing of it is checked.
pub(super) struct Tokens {
    pub(super) access_token: String,
    pub(super) id_token: String,
}

/// Why nobody can log in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// An issuer that is not configured.
    #[error("`[edge.login] issuer` is `{0}`, and there is no `[oidc.{0}]`")]
    Issuer(String),
    /// The client's secret.
    #[error("`[edge.login] client_secret_file` {path} cannot be read")]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key.
    #[error("`[edge.login] key_file`")]
    Key(#[from] crate::seal::SealError),
    /// A URL that is none.
    #[error("a URL of the issuer's cannot be used")]
    Url(#[from] url::ParseError),
    /// More logins at once than are worked on.
    #[error("too many logins at once")]
    Busy,
    /// The issuer did not answer a moment ago.
    #[error("the issuer's metadata could not be had a moment ago")]
    Failed,
    /// The issuer's metadata leads elsewhere.
    #[error("the issuer's metadata names {0}, which is neither at its own origin nor at one of its `origins`")]
    Elsewhere(Url),
    /// The issuer's metadata.
    #[error("the issuer's metadata cannot be had")]
    Metadata(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The issuer does not offer the code flow.
    #[error("the issuer names no token endpoint")]
    NoTokenEndpoint,
    /// The code was not taken.
    #[error("the issuer did not take the code")]
    Code(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There was no ID token.
    #[error("the issuer sent no ID token")]
    NoIdToken,
}

impl Login {
    /// A login by an issuer's URL; `resource` is this service's own identifier, which access tokens must be meant for.
    pub fn new(config: &Config, issuer: &oidc::Config, resource: Url, http: HttpClient) -> Result<Self, LoginError> {
        let secret = config.client_secret_file.as_ref().map(|path| {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|source| LoginError::Secret { path: path.clone(), source })?;
            Ok::<_, LoginError>(ClientSecret::new(text.trim().to_owned()))
        });
        Ok(Self {
            issuer: issuer.issuer.clone(),
            client: config.client_id.clone(),
            secret: secret.transpose()?,
            scopes: config.scopes.clone(),
            resource,
            http,
            origins: issuer.origins.clone(),
            metadata: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn client(&self) -> &str {
        &self.client
    }

    /// The issuer's metadata, asked for when it is needed. It must name the very same issuer, and lead nowhere else.
    async fn metadata(&self) -> Result<CoreProviderMetadata, LoginError> {
        let mut known = self.metadata.lock().await;
        if let Some((at, metadata)) = &known.metadata
            && at.elapsed() < METADATA_FOR
        {
            return Ok(metadata.clone());
        }
        if known.failed.is_some_and(|failed| failed.elapsed() < FAILED_FOR) {
            return Err(LoginError::Failed);
        }
        let discover = async {
            let issuer = IssuerUrl::new(self.issuer.clone())?;
            let found = CoreProviderMetadata::discover_async(issuer, &self.http).await;
            let found = found.map_err(|error| LoginError::Metadata(Box::new(error)))?;
            self.own(found.authorization_endpoint().url())?;
            self.own(found.token_endpoint().ok_or(LoginError::NoTokenEndpoint)?.url())?;
            Ok(found)
        };
        match discover.await {
            Ok(found) => {
                *known = Known { metadata: Some((Instant::now(), found.clone())), failed: None };
                Ok(found)
            }
            Err(error) => {
                known.failed = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Metadata does not choose who is sent people's codes and the client's secret.
    fn own(&self, url: &Url) -> Result<(), LoginError> {
        let origin = url.origin().ascii_serialization();
        let issuer = Url::parse(&self.issuer)?.origin().ascii_serialization();
        let known = origin == issuer || self.origins.contains(&origin);
        if known { Ok(()) } else { Err(LoginError::Elsewhere(url.clone())) }
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, LoginError> {
        self.places.try_acquire().map_err(|_| LoginError::Busy)
    }

    pub(super) async fn begin(&self, redirect: &str, state: &str, nonce: &str) -> Result<Begun, LoginError> {
        let _place = self.place()?;
        let client = ClientId::new(self.client.clone());
        let client = CoreClient::from_provider_metadata(self.metadata().await?, client, self.secret.clone())
            .set_redirect_uri(RedirectUrl::new(redirect.to_owned())?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (state, nonce) = (CsrfToken::new(state.to_owned()), Nonce::new(nonce.to_owned()));
        let request = client.authorize_url(CoreAuthenticationFlow::AuthorizationCode, move || state, move || nonce);
        // The flow asks for `openid` itself.
        let scopes = self.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new);
        let (url, ..) = request
            .add_scopes(scopes)
            .set_pkce_challenge(challenge)
            .add_extra_param("prompt", "login")
            .add_extra_param("max_age", MAX_AGE)
            .add_extra_param("resource", self.resource.as_str())
            .url();
        Ok(Begun { url, verifier: verifier.secret().clone() })
    }

    pub(super) async fn finish(&self, redirect: &str, code: String, verifier: String) -> Result<Tokens, LoginError> {
        let _place = self.place()?;
        let client = ClientId::new(self.client.clone());
        let client = CoreClient::from_provider_metadata(self.metadata().await?, client, self.secret.clone())
            .set_redirect_uri(RedirectUrl::new(redirect.to_owned())?);
        let request = client.exchange_code(AuthorizationCode::new(code)).map_err(|_| LoginError::NoTokenEndpoint)?;
        let tokens = request
            .set_pkce_verifier(PkceCodeVerifier::new(verifier))
            .add_extra_param("resource", self.resource.as_str())
            .request_async(&self.http)
            .await
            .map_err(|error| LoginError::Code(Box::new(error)))?;
        let id_token = tokens.id_token().ok_or(LoginError::NoIdToken)?.to_string();
        Ok(Tokens { access_token: tokens.access_token().secret().clone(), id_token })
    }
}
