//! OAuth access tokens of an OpenID Connect provider, verified offline by the provider's published keys.
//!
//! The edge and the core each hold a [`Verifier`] of their own: a broken edge cannot invent people. Both are one
//! resource server with one audience. Only RFC 9068 tokens are accepted, so an ID token, or an access token for
//! something else, is refused by its type before its claims are read.

mod claims;
mod keys;
mod login;
mod provider;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::Principal;
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::http_client::HttpClient;

use keys::Keys;

pub use claims::ClaimsError;
pub use keys::KeyError;
pub use login::Login;
pub use provider::ProviderError;

/// How far a provider's clock may be from ours, either way. Every check of time in a token uses it and nothing else.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(30);

/// For how long a token that was verified need not be verified again; its own end counts if it is sooner. It bounds
/// how long a token outlives the key that signed it.
const VERIFIED_FOR: Duration = Duration::from_secs(60);

/// How many verified tokens are remembered.
const VERIFIED_MOST: usize = 10_000;

/// The most bytes of a token; anything longer is no token of ours.
const TOKEN_MAX: usize = 16 * 1024;

/// `[oidc]` in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The issuer, exactly as tokens carry it in `iss`. Its metadata is at `/.well-known/openid-configuration` below.
    pub issuer: String,
    /// What tokens must carry in `aud`: this service's own resource identifier.
    pub audience: String,
    /// The signature algorithms that are accepted. Asymmetric ones only.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<String>,
    /// A file of CA certificates (PEM) to trust for the issuer, in place of the system's.
    pub ca: Option<std::path::PathBuf>,
    /// The claim that lists a person's groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    /// Further claims that policies may speak of, by name.
    #[serde(default)]
    pub claims: Vec<String>,
}

fn default_algorithms() -> Vec<String> {
    ["RS256", "PS256", "ES256", "EdDSA"].map(str::to_owned).to_vec()
}

fn default_groups_claim() -> String {
    "groups".to_owned()
}

/// What a caller sent as a bearer token. Nothing about it is known to be true.
#[derive(Clone)]
pub struct Bearer(Arc<str>);

/// Verifies bearer tokens of one issuer for one audience.
#[derive(Debug)]
pub struct Verifier {
    expected: claims::Expected,
    keys: Keys,
    verified: Cache<[u8; 32], (Arc<Principal>, Timestamp)>,
    clock: Clock,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT of a size that could be one.
    #[error("the bearer token is not an RFC 9068 access token (a signed JWT)")]
    Malformed,
    /// The token's header, claims or signature are wrong.
    #[error("the access token was refused")]
    Claims(#[from] ClaimsError),
    /// The key cannot be had.
    #[error("the access token's signature cannot be checked")]
    Keys(#[from] KeyError),
}

/// Why `[oidc]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The issuer is not a URL that is safe to ask for keys.
    #[error("issuer `{0}` must be an https URL (http to a loopback address is allowed), without query or fragment")]
    Issuer(String),
    /// No audience.
    #[error("audience must name this service: it is what tells a token for it from a token for something else")]
    Audience,
    /// An algorithm that is unknown, or that is not asymmetric.
    #[error("algorithm `{0}` is not accepted; use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA")]
    Algorithm(String),
}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        match &error {
            TokenError::Keys(KeyError::Unavailable(_)) => {
                let text = "the identity provider's keys cannot be had at the moment, so nobody's token can be checked";
                Self::new(Code::Unavailable, "ISSUER_UNAVAILABLE", text)
                    .retry_after(Duration::from_secs(10))
                    .caused_by(error)
            }
            TokenError::Claims(wrong) => {
                Self::new(Code::Unauthenticated, "TOKEN_INVALID", format!("the access token was refused: {wrong}"))
            }
            TokenError::Keys(unknown) => {
                Self::new(Code::Unauthenticated, "TOKEN_INVALID", format!("the access token was refused: {unknown}"))
            }
            TokenError::Malformed => Self::new(Code::Unauthenticated, "TOKEN_INVALID", error.to_string()),
        }
    }
}

// === impl Config ===

impl Config {
    /// Checks everything that can be checked without asking the issuer.
    pub fn check(&self) -> Result<(), ConfigError> {
        let url = Url::parse(&self.issuer).map_err(|_| ConfigError::Issuer(self.issuer.clone()))?;
        let sound = crate::http_client::is_https_or_loopback(&url) && url.query().is_none() && url.fragment().is_none();
        if !sound {
            return Err(ConfigError::Issuer(self.issuer.clone()));
        }
        if self.audience.trim().is_empty() {
            return Err(ConfigError::Audience);
        }
        claims::Expected::new(self).map(|_| ())
    }
}

// === impl Bearer ===

impl Bearer {
    /// Takes the token out of an `Authorization` header's value. The scheme's name has no case (RFC 9110, 11.1).
    pub fn from_authorization(value: &str) -> Option<Self> {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Self(token.into()))
    }

    /// The token itself, to send it on to the core. It must go nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier that asks the issuer for its keys when the first token comes.
    pub fn new(config: &Config, http: HttpClient, clock: Clock) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            expected: claims::Expected::new(config)?,
            keys: Keys::new(config.issuer.clone(), http),
            verified: Cache::new(VERIFIED_MOST),
            clock,
        })
    }

    /// The issuer whose tokens are accepted.
    pub fn issuer(&self) -> &str {
        self.expected.issuer()
    }

    /// The login that an ID token of that issuer, meant for that OAuth client, tells of.
    pub async fn login(&self, issuer: &str, id_token: &str, client: &str) -> Result<Login, TokenError> {
        if issuer != self.issuer() {
            return Err(ClaimsError::Issuer.into());
        }
        if id_token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let header = claims::UnverifiedHeader::read(id_token).ok_or(TokenError::Malformed)?;
        let algorithm = self.expected.check_login_header(&header)?;
        let key = self.keys.find(header.key_id(), algorithm).await?;
        Ok(Login::verify(&self.expected, id_token, &header, &key, client)?)
    }

    /// Whose token this is.
    pub async fn verify(&self, bearer: &Bearer) -> Result<Arc<Principal>, TokenError> {
        let token = bearer.expose();
        if token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let now = self.clock.now();
        if let Some((principal, until)) = self.verified.get(&digest) {
            if now < until {
                return Ok(principal);
            }
            self.verified.remove(&digest);
        }
        let header = claims::UnverifiedHeader::read(token).ok_or(TokenError::Malformed)?;
        let algorithm = self.expected.check_header(&header)?;
        let key = self.keys.find(header.key_id(), algorithm).await?;
        let principal = Arc::new(self.expected.verify(token, &key, algorithm, now)?);
        let until = now.saturating_add(VERIFIED_FOR).unwrap_or(now).min(principal.expires().unwrap_or(now));
        self.verified.insert(digest, (Arc::clone(&principal), until));
        Ok(principal)
    }
}
