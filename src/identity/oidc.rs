//! OAuth access tokens of OpenID Connect providers, verified by the providers' published keys.
//!
//! The edge and the core each hold [`Issuers`] of their own: a broken edge cannot invent people. Both are one resource
//! server with one audience. Of JWTs, only RFC 9068 tokens are accepted, so an ID token, or an access token for something else,
//! is refused by its type before its claims are read; where an issuer is configured to write them otherwise, [`Profile`] tells them apart.
//!
//! What a token says of its issuer, unverified, chooses the one [`Issuer`] that checks it, and nothing else: that
//! issuer's keys, algorithms and audience then decide, so no issuer can speak for another (RFC 9700, section 4.4).

mod claims;
pub mod introspection;
mod keys;
mod login;
mod profile;
mod provider;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::Principal;
use super::bearer::{Bearer, VERIFIED_FOR};
use crate::clock::Monotonic;
use crate::error::{Code, Error};
use crate::http_client::HttpClient;

use introspection::{Introspection, IntrospectionError};
use keys::Keys;
use provider::Provider;

pub use claims::ClaimsError;
pub use keys::KeyError;
pub use login::Login;
pub use profile::Profile;
pub use provider::{Found, ProviderError, inspect};

/// How far a provider's clock may be from ours, either way. Every check of time in a token uses it and nothing else.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(30);

/// The issuers by their names: `[oidc.NAME]` in the configuration.
pub type Configs = BTreeMap<String, Config>;

/// `[oidc.NAME]` in the configuration: one issuer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an issuer's own section, named as you like: `[oidc.company]`")]
pub struct Config {
    /// The issuer, exactly as tokens carry it in `iss`; it may have a path. Its metadata is looked for where OpenID
    /// Connect Discovery 1.0 puts it, and then where RFC 8414 does.
    pub issuer: String,
    /// What tokens must carry in `aud`: this service's own resource identifier.
    pub audience: String,
    /// The signature algorithms that are accepted. Asymmetric ones only.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<String>,
    /// Which tokens this issuer's are, and so how they are checked.
    #[serde(default)]
    pub tokens: Tokens,
    /// The form of its JWTs: by RFC 9068, or, as with Microsoft Entra, Okta and Keycloak, from before it.
    #[serde(default)]
    pub profile: Profile,
    /// What stands before the names of scopes where clients are told which to ask for: Microsoft Entra wants `api://ID/` there, and
    /// leaves it out of its tokens. At most 200 characters, without blanks, quotes and backslashes.
    pub scope_prefix: Option<String>,
    /// This process's client for asking the issuer about tokens.
    pub introspection: Option<introspection::Config>,
    /// A file of CA certificates (PEM) to trust for the issuer, in place of the system's.
    pub ca: Option<std::path::PathBuf>,
    /// Origins besides the issuer's own where its metadata may say that its keys and its introspection are.
    #[serde(default)]
    pub origins: Vec<String>,
    /// The claim that is who somebody is, the same in access tokens and ID tokens; `sub` unless given. Microsoft Entra has another
    /// `sub` for each application, and `oid` for all.
    pub subject_claim: Option<String>,
    /// The claim that lists a person's groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    /// What stands before the names of this issuer's groups where policies speak of them. Where there are several issuers it is
    /// the section's own name and a `/`, unless this says otherwise: one issuer must not make another's administrators.
    pub groups_prefix: Option<String>,
    /// Further claims that policies may speak of, by name.
    #[serde(default)]
    pub claims: Vec<String>,
}

/// The form of an issuer's access tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// JWTs (RFC 9068), checked by the issuer's keys.
    #[default]
    Jwt,
    /// Opaque: whatever they look like, the issuer is asked (RFC 7662).
    Opaque,
    /// JWTs are checked by keys, and the issuer is asked about all else.
    Either,
}

fn default_algorithms() -> Vec<String> {
    ["RS256", "PS256", "ES256", "EdDSA"].map(str::to_owned).to_vec()
}

fn default_groups_claim() -> String {
    "groups".to_owned()
}

/// Every issuer whose tokens are accepted. No two share a URL.
#[derive(Debug)]
pub struct Issuers(Vec<Issuer>);

/// One issuer: whose tokens it checks, and against what.
#[derive(Debug)]
pub struct Issuer {
    expected: claims::Expected,
    keys: Keys,
    tokens: Tokens,
    introspection: Option<Introspection>,
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
    /// The issuer was asked about it, in vain.
    #[error("the access token was not confirmed")]
    Introspection(#[from] IntrospectionError),
}

/// Why `[oidc]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name that environment variables could not spell.
    #[error("`{0}` cannot name an issuer: a name is of lower-case letters and digits, such as `[oidc.company]`")]
    Name(String),
    /// Two issuers with one URL: which of them checks a token would be chance.
    #[error("`[oidc.{0}]` and `[oidc.{1}]` have the same issuer")]
    Twice(String, String),
    /// One issuer's section.
    #[error("`[oidc.{name}]`")]
    Issuer {
        /// The issuer's name.
        name: String,
        /// What is wrong.
        #[source]
        source: IssuerError,
    },
}

/// Why `[oidc.NAME]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The issuer is not a URL that is safe to ask for keys.
    #[error("issuer `{0}` must be an https URL (http to a loopback address is allowed), without query or fragment")]
    Issuer(String),
    /// No audience.
    #[error("audience must name this service: it is what tells a token for it from a token for something else")]
    Audience,
    /// An algorithm that is unknown, or that is not asymmetric.
    #[error("algorithm `{0}` is not accepted; use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA")]
    Algorithm(String),
    /// Not an origin.
    #[error("origins must list origins like https://keys.example.com; `{0}` is not one")]
    Origin(String),
    /// Opaque tokens without a way to ask, or a way to ask without opaque tokens.
    #[error("`tokens = \"opaque\"` and `\"either\"` need `introspection`, and `\"jwt\"` (the default) forbids it")]
    Introspection,
    /// An endpoint that is no place for a secret.
    #[error("introspection.endpoint `{0}` must be an https URL (http to a loopback address is allowed)")]
    Endpoint(String),
    /// A prefix that cannot stand before a scope.
    #[error(
        "scope_prefix must be at most 200 characters of ASCII without blanks, quotes and backslashes, such as `api://ID/`"
    )]
    ScopePrefix,
    /// A rate of nothing.
    #[error("introspection.rate must be more than 0")]
    Rate,
    /// The client's secret.
    #[error("introspection.client_secret_file")]
    Secret(#[source] introspection::AskError),
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
            TokenError::Introspection(IntrospectionError::Unavailable(_)) => {
                let text = "the identity provider cannot be asked about tokens at the moment";
                Self::new(Code::Unavailable, "ISSUER_UNAVAILABLE", text)
                    .retry_after(Duration::from_secs(2))
                    .caused_by(error)
            }
            TokenError::Introspection(IntrospectionError::Busy) => {
                let text = "the identity provider is asked about too many tokens at once";
                Self::new(Code::Unavailable, "ISSUER_BUSY", text).retry_after(Duration::from_secs(2))
            }
            TokenError::Introspection(wrong) => {
                Self::new(Code::Unauthenticated, "TOKEN_INVALID", format!("the access token was refused: {wrong}"))
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

/// Checks everything that can be checked without asking an issuer.
pub fn check(configs: &Configs) -> Result<(), ConfigError> {
    let mut known = BTreeMap::new();
    for (name, config) in configs {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(ConfigError::Name(name.clone()));
        }
        let url = config.check().map_err(|source| ConfigError::Issuer { name: name.clone(), source })?;
        if let Some(other) = known.insert(url.as_str().trim_end_matches('/').to_owned(), name) {
            return Err(ConfigError::Twice(other.clone(), name.clone()));
        }
    }
    Ok(())
}

// === impl Config ===

impl Config {
    /// Checks one issuer's section; its URL.
    fn check(&self) -> Result<Url, IssuerError> {
        let wrong = || IssuerError::Issuer(self.issuer.clone());
        let url = Url::parse(&self.issuer).map_err(|_| wrong())?;
        let sound = crate::http_client::is_https_or_loopback(&url) && url.query().is_none() && url.fragment().is_none();
        if !sound {
            return Err(wrong());
        }
        if self.audience.trim().is_empty() {
            return Err(IssuerError::Audience);
        }
        let is_origin = |origin: &&String| {
            Url::parse(origin).is_ok_and(|url| {
                crate::http_client::is_https_or_loopback(&url) && url.origin().ascii_serialization() == **origin
            })
        };
        if let Some(wrong) = self.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(IssuerError::Origin(wrong.clone()));
        }
        // RFC 6749, section 3.3: what a scope may be made of.
        let letter = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if self.scope_prefix.as_deref().is_some_and(|prefix| prefix.len() > 200 || !prefix.bytes().all(letter)) {
            return Err(IssuerError::ScopePrefix);
        }
        claims::Expected::new(self)?;
        match (&self.introspection, self.tokens) {
            (None, Tokens::Jwt) => {}
            (Some(introspection), Tokens::Opaque | Tokens::Either) => introspection.check()?,
            (None, _) | (Some(_), Tokens::Jwt) => return Err(IssuerError::Introspection),
        }
        Ok(url)
    }
}

// === impl Issuers ===

impl Issuers {
    /// What is wrong with the keys of some issuer.
    pub(super) fn problem(&self) -> Option<String> {
        let problems = self
            .0
            .iter()
            .filter_map(|issuer| Some(format!("the keys of {}: {}", issuer.expected.issuer(), issuer.keys.problem()?)));
        let problems: Vec<String> = problems.collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// The issuers that are configured, each with a `client` that trusts what its section says. Nobody is asked before the
    /// first token comes.
    pub fn new<E: From<ConfigError>>(
        configs: &Configs,
        client: impl Fn(&Config) -> Result<HttpClient, E>,
    ) -> Result<Self, E> {
        check(configs)?;
        let issuer = |(name, config): (&String, &Config)| {
            let mut config = config.clone();
            let own = || if configs.len() > 1 { format!("{name}/") } else { String::new() };
            config.groups_prefix.get_or_insert_with(own);
            Issuer::new(&config, client(&config)?)
                .map_err(|source| ConfigError::Issuer { name: name.clone(), source }.into())
        };
        Ok(Self(configs.iter().map(issuer).collect::<Result<_, E>>()?))
    }

    /// None at all: nobody's token counts.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Their URLs.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|issuer| issuer.expected.issuer())
    }

    /// What clients are told to put before the names of scopes. Where issuers differ it is nothing: a client is not told which
    /// of them it will ask.
    pub fn scope_prefix(&self) -> &str {
        let mut prefixes = self.0.iter().map(|issuer| issuer.expected.scope_prefix());
        let first = prefixes.next().unwrap_or_default();
        if prefixes.all(|prefix| prefix == first) { first } else { "" }
    }

    /// The login that an ID token of that issuer, meant for that OAuth client, tells of.
    pub(super) async fn login(
        &self,
        issuer: &str,
        id_token: &str,
        client: &str,
        now: Timestamp,
    ) -> Result<Login, TokenError> {
        let issuer = self.0.iter().find(|known| known.expected.issuer() == issuer).ok_or(ClaimsError::Issuer)?;
        let token = claims::UnverifiedToken::read(id_token).ok_or(TokenError::Malformed)?;
        let algorithm = issuer.expected.check_login_header(&token)?;
        let key = issuer.keys.find(token.key_id(), algorithm).await?;
        Ok(Login::verify(&issuer.expected, id_token, algorithm, &key, client, now)?)
    }

    /// Whose token this is, and until when that need not be looked into again.
    pub(super) async fn verify(
        &self,
        bearer: &Bearer,
        now: Timestamp,
    ) -> Result<(Arc<Principal>, Timestamp), TokenError> {
        if !claims::looks_like_jwt(bearer.expose()) {
            return self.ask(bearer, now).await;
        }
        let token = claims::UnverifiedToken::read(bearer.expose()).ok_or(TokenError::Malformed)?;
        let named = token.issuer().ok_or(ClaimsError::Claim("iss"))?;
        let issuer = self.0.iter().find(|issuer| issuer.expected.issuer() == named).ok_or(ClaimsError::Issuer)?;
        match &issuer.introspection {
            Some(introspection) if issuer.tokens == Tokens::Opaque => {
                Ok(introspection.ask(&issuer.expected, bearer, now).await?)
            }
            _ => issuer.verify(bearer, &token, now).await,
        }
    }

    /// Asks each issuer that can be asked, once, until one knows the token.
    async fn ask(&self, bearer: &Bearer, now: Timestamp) -> Result<(Arc<Principal>, Timestamp), TokenError> {
        let mut outcome = TokenError::Malformed;
        for issuer in &self.0 {
            let Some(introspection) = &issuer.introspection else { continue };
            match introspection.ask(&issuer.expected, bearer, now).await {
                Ok(known) => return Ok(known),
                // While one issuer cannot say, nobody can say that the token is nobody's.
                Err(unknown @ IntrospectionError::Inactive) if matches!(outcome, TokenError::Malformed) => {
                    outcome = unknown.into();
                }
                Err(IntrospectionError::Inactive) => {}
                Err(silent @ (IntrospectionError::Unavailable(_) | IntrospectionError::Busy)) => {
                    outcome = silent.into();
                }
                // It is this issuer's, and not good.
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(outcome)
    }
}

// === impl Issuer ===

impl Issuer {
    fn new(config: &Config, http: HttpClient) -> Result<Self, IssuerError> {
        let provider = Arc::new(Provider::new(config, http));
        let introspection =
            config.introspection.clone().map(|config| Introspection::new(config, Arc::clone(&provider)));
        let expected = claims::Expected::new(config)?;
        Ok(Self { expected, keys: Keys::new(provider, Monotonic::system()), tokens: config.tokens, introspection })
    }

    async fn verify(
        &self,
        bearer: &Bearer,
        token: &claims::UnverifiedToken,
        now: Timestamp,
    ) -> Result<(Arc<Principal>, Timestamp), TokenError> {
        let algorithm = self.expected.check_header(token)?;
        let key = self.keys.find(token.key_id(), algorithm).await?;
        let principal = self.expected.verify(bearer.expose(), &key, algorithm, now)?;
        let until = now.saturating_add(VERIFIED_FOR).unwrap_or(now).min(principal.expires().unwrap_or(now));
        Ok((Arc::new(principal), until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let configs: Configs = toml::from_str(text).expect("TOML");
        check(&configs).map_or_else(|error| crate::error::Chain(&error).to_string(), |()| String::new())
    }

    #[test]
    fn issuers_are_checked_by_name() {
        let issuer = |name: &str, url: &str, more: &str| {
            format!("[{name}]\nissuer = \"{url}\"\naudience = \"https://x/mcp\"\n{more}\n")
        };
        let asked = |file: &str, more: &str| {
            format!("\n[a.introspection]\nclient_id = \"rs\"\nclient_secret_file = \"{file}\"\n{more}\n")
        };
        let opaque = "tokens = \"either\"".to_owned();
        let a = issuer("a", "https://login.example/realms/a", "");
        assert_eq!(problem(&(a.clone() + &issuer("b", "https://login.example/realms/b", ""))), "");
        for (text, part) in [
            (a.clone() + &issuer("b", "https://login.example/realms/a/", ""), "`[oidc.a]` and `[oidc.b]`"),
            (a + &issuer("b", "HTTPS://LOGIN.example:443/realms/a", ""), "same issuer"),
            (issuer("a_b", "https://login.example", ""), "`a_b`"),
            (issuer("a", "http://login.example", ""), "`[oidc.a]`: issuer `http://login.example` must be"),
            (issuer("a", "https://login.example/?x", ""), "without query"),
            (issuer("a", "https://login.example/#x", ""), "without query"),
            (issuer("a", "https://login.example", "tokens = \"opaque\""), "need `introspection`"),
            (issuer("a", "https://login.example", &asked("/dev/null", "")), "need `introspection`"),
            (issuer("a", "https://login.example", &(opaque.clone() + &asked("/dev/null", ""))), "/dev/null"),
            (issuer("a", "https://login.example", &(opaque.clone() + &asked("/", "rate = 0"))), "rate"),
            (
                issuer("a", "https://login.example", &(opaque + &asked("/", "endpoint = \"http://x.example\""))),
                "endpoint",
            ),
            (issuer("a", "https://login.example", "algorithms = []"), "algorithm"),
            (issuer("a", "https://login.example", "algorithms = [\"HS256\"]"), "`HS256`"),
            (issuer("a", "https://login.example", "algorithms = [\"none\"]"), "`none`"),
            (issuer("a", "https://login.example", "origins = [\"https://keys.example/x\"]"), "origins"),
            (issuer("a", "https://login.example", "origins = [\"http://keys.example\"]"), "origins"),
            ("[a]\nissuer = \"https://login.example\"\naudience = \" \"\n".to_owned(), "audience"),
        ] {
            let problem = problem(&text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
