//! What a caller sent to say who they are, and what becomes of it: one door for every kind of bearer token, the same at
//! the edge and at the core.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Principal;
use super::api_key::{ApiKeyError, ApiKeys, is_api_key};
use super::local::Local;
use super::oidc::{ClaimsError, Issuers, Login, TokenError};
use super::thumbprint::Thumbprint;
use crate::clock::Clock;
use crate::digest::hex;
use crate::error::{Code, Error};
use crate::telemetry;

/// For how long a token that was verified need not be verified again; its own end counts if it is sooner. It bounds
/// how long a token outlives the key that signed it.
pub(super) const VERIFIED_FOR: Duration = Duration::from_secs(60);

/// How many verified tokens are remembered.
const VERIFIED_MOST: usize = 10_000;

/// The most bytes of a token; anything longer is no token of ours.
const TOKEN_MAX: usize = 16 * 1024;

/// What a caller sent as a bearer token. Nothing about it is known to be true.
#[derive(Clone)]
pub struct Bearer(Arc<str>);

/// Verifies bearer tokens.
#[derive(Debug)]
pub struct Verifier {
    issuers: Issuers,
    api_keys: Option<ApiKeys>,
    /// The person whose process this is; then nobody else's token counts.
    local: Option<Local>,
    verified: Cache<[u8; 32], (Arc<Principal>, Timestamp)>,
    clock: Clock,
}

/// Why a bearer token was refused.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// An access token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// An API key.
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    /// Not the secret of this process.
    #[error("this process serves the person who started it and nobody else")]
    Stranger,
}

impl From<BearerError> for Error {
    fn from(error: BearerError) -> Self {
        match error {
            BearerError::Token(error) => error.into(),
            BearerError::ApiKey(error) => error.into(),
            BearerError::Stranger => Self::new(Code::Unauthenticated, "TOKEN_INVALID", error.to_string()),
        }
    }
}

// === impl Bearer ===

impl Bearer {
    /// Takes the token out of an `Authorization` header's value. The scheme's name has no case (RFC 9110, 11.1).
    pub fn from_authorization(value: &str) -> Option<Self> {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim_matches(' ');
        // RFC 6750, section 2.1: `b64token`. Nothing else can be a token, and nothing else is sent on.
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
        let body = token.trim_end_matches('=');
        (scheme.eq_ignore_ascii_case("bearer") && !body.is_empty() && body.bytes().all(letter))
            .then(|| Self(token.into()))
    }

    /// A secret that nobody knows yet, or none where the system has no randomness.
    pub fn random() -> Option<Self> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        Some(Self(hex(&secret).into()))
    }

    /// Whether it means to be an API key.
    pub fn is_api_key(&self) -> bool {
        is_api_key(&self.0)
    }

    /// The token's SHA-256, under which what is known of it is kept.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
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
    /// Accepts the tokens of these issuers, and these keys if there are any.
    pub fn new(issuers: Issuers, api_keys: Option<ApiKeys>, clock: Clock) -> Self {
        Self { issuers, api_keys, local: None, verified: Cache::new(VERIFIED_MOST), clock }
    }

    /// Accepts the secret of this process and nothing else.
    pub fn local(local: Local, clock: Clock) -> Self {
        Self { local: Some(local), ..Self::new(Issuers::none(), None, clock) }
    }

    /// The issuers whose tokens are accepted.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Whose token this is, sent from that address and with that certificate, as far as they are known.
    pub async fn verify(
        &self,
        bearer: &Bearer,
        address: Option<IpAddr>,
        certificate: Option<&Thumbprint>,
    ) -> Result<Arc<Principal>, BearerError> {
        let verified = self.look_at(bearer, address, certificate).await;
        let kind = match &self.local {
            Some(_) => "local",
            None if bearer.is_api_key() => "api_key",
            None => "access_token",
        };
        telemetry::record_verification(kind, if verified.is_ok() { "good" } else { "refused" });
        verified
    }

    /// Whose token this is, as far as can be told without the address and the certificate that it was sent with: an API key that
    /// may not be used from there, and a token that is bound to a certificate, are recognised all the same. It opens nothing by
    /// itself: whoever serves the call verifies again.
    pub async fn recognise(&self, bearer: &Bearer) -> Result<Arc<Principal>, BearerError> {
        let now = self.clock.now();
        let recognised = match (&self.api_keys, bearer.is_api_key()) {
            (Some(keys), true) => keys.recognise(bearer.expose(), now).await.map_err(BearerError::from),
            (None, true) => Err(ApiKeyError::Off.into()),
            (_, false) => self.verify_token(bearer, now).await.map_err(BearerError::from),
        };
        let kind = if bearer.is_api_key() { "api_key" } else { "access_token" };
        telemetry::record_verification(kind, if recognised.is_ok() { "good" } else { "refused" });
        recognised
    }

    async fn look_at(
        &self,
        bearer: &Bearer,
        address: Option<IpAddr>,
        certificate: Option<&Thumbprint>,
    ) -> Result<Arc<Principal>, BearerError> {
        if let Some(local) = &self.local {
            return local.whose(bearer).ok_or(BearerError::Stranger);
        }
        let now = self.clock.now();
        if bearer.is_api_key() {
            // Looked up each time: the address counts, and a key that is taken back is gone at once.
            let keys = self.api_keys.as_ref().ok_or(ApiKeyError::Off)?;
            return Ok(keys.verify(bearer.expose(), address, now).await?);
        }
        let principal = self.verify_token(bearer, now).await?;
        // Asked each time, of tokens that are remembered as well: the certificate is the connection's, not the token's.
        match principal.bound() {
            Some(bound) if certificate != Some(bound) => Err(TokenError::from(ClaimsError::Certificate).into()),
            _ => Ok(principal),
        }
    }

    /// What is wrong with the keys that tokens are verified by; nothing before they were needed for the first time.
    pub fn problem(&self) -> Option<String> {
        self.issuers.problem()
    }

    /// The login that an ID token of that issuer, meant for that OAuth client, tells of. It is no bearer token.
    pub async fn login(&self, issuer: &str, id_token: &str, client: &str) -> Result<Login, TokenError> {
        if id_token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        self.issuers.login(issuer, id_token, client, self.clock.now()).await
    }

    async fn verify_token(&self, bearer: &Bearer, now: Timestamp) -> Result<Arc<Principal>, TokenError> {
        if bearer.expose().len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = bearer.digest();
        if let Some((principal, until)) = self.verified.get(&digest) {
            if now < until {
                telemetry::record_cache("tokens", true);
                return Ok(principal);
            }
            self.verified.remove(&digest);
        }
        telemetry::record_cache("tokens", false);
        let (principal, until) = self.issuers.verify(bearer, now).await?;
        self.verified.insert(digest, (Arc::clone(&principal), until));
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::oidc;

    fn verifier(now: &'static str) -> Verifier {
        let clock = Clock::from_fn(move || now.parse().expect("a time"));
        let nobody = |_: &oidc::Config| Err(oidc::ConfigError::Name(String::new()));
        let issuers = Issuers::new(&oidc::Configs::new(), nobody);
        Verifier::new(issuers.expect("no issuers"), None, clock)
    }

    #[test]
    fn only_what_a_token_can_be_is_one() {
        for good in ["Bearer abc", "bearer a.b-c_d~e+f/g==", "BEARER  abc "] {
            assert!(Bearer::from_authorization(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer =",
            "Bearer a b",
            "Bearer a,b",
            "Bearer ä",
            "Bearer a=b",
            "Basic abc",
            "abc",
        ] {
            assert!(Bearer::from_authorization(bad).is_none(), "{bad}");
        }
        let bearer = Bearer::from_authorization("Bearer secret").expect("a token");
        assert_eq!(format!("{bearer:?}"), "Bearer(…)");
    }

    #[tokio::test]
    async fn a_process_of_one_person_knows_its_own_secret_alone() {
        let (secret, other) = (Bearer::random().expect("a secret"), Bearer::random().expect("another"));
        assert!(secret.expose() != other.expose() && secret.expose().len() == 64);
        let arn = "arn:aws:iam::123456789012:user/alice";
        let scopes = crate::identity::scope::Scopes::parse("whitelist:write");
        let verifier = Verifier::local(Local::new(&secret, "alice", arn, scopes), Clock::system());
        let alice = verifier.verify(&secret, None, None).await.expect("known");
        assert_eq!((alice.name(), alice.issuer(), alice.subject()), ("alice", "aws-profile", arn));
        assert!(alice.id().starts_with("alice-"));
        let key = Bearer::from_authorization("Bearer wlk_abc").expect("a token");
        for stranger in [&other, &key] {
            assert!(matches!(verifier.verify(stranger, None, None).await, Err(BearerError::Stranger)));
        }
        assert!(!format!("{verifier:?}").contains(secret.expose()));
    }

    #[tokio::test]
    async fn what_is_known_of_tokens_is_bounded_and_ends_with_them() {
        let verifier = verifier("2026-01-01T00:00:00Z");
        let principal = Arc::new(Principal::own("test"));
        let known = |text: &str, until: &str| {
            let bearer = Bearer(text.into());
            verifier.verified.insert(bearer.digest(), (Arc::clone(&principal), until.parse().expect("a time")));
            bearer
        };
        let (good, ended) = (known("a", "2026-01-01T00:00:01Z"), known("b", "2026-01-01T00:00:00Z"));
        assert!(verifier.verify(&good, None, None).await.is_ok());
        assert!(verifier.verify(&ended, None, None).await.is_err());
        assert!(verifier.verified.get(&ended.digest()).is_none(), "it is forgotten");
        for number in 0..3 * VERIFIED_MOST {
            known(&number.to_string(), "2026-01-01T00:00:01Z");
        }
        assert!(verifier.verified.len() <= VERIFIED_MOST);
        let long = Bearer("a".repeat(TOKEN_MAX + 1).into());
        assert!(matches!(verifier.verify(&long, None, None).await, Err(BearerError::Token(TokenError::Malformed))));
    }
}
