//! Opaque tokens: what they mean, only their issuer can say (RFC 7662).
//!
//! An answer is kept for a short while, a refusal shorter still, and whoever comes meanwhile with the same token waits
//! for the same answer. The questions together are bounded, so a flood of made-up tokens stays here. An issuer that
//! does not answer is no verdict on the token.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenResponse, BasicTokenType};
use oauth2::{
    AccessToken, AsyncHttpClient, Client, ClientId, ClientSecret, ExtraTokenFields, HttpRequest, HttpResponse,
    IntrospectionUrl, RequestTokenError, StandardRevocableToken, StandardTokenIntrospectionResponse,
    TokenIntrospectionResponse,
};
use quick_cache::sync::Cache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::super::Principal;
use super::super::bearer::{Bearer, VERIFIED_FOR};
use super::IssuerError;
use super::claims::{Claims, ClaimsError, Expected, seconds};
use super::provider::{PATIENCE, Provider, ProviderError};
use crate::clock::Monotonic;
use crate::http_client::{HttpClient, HttpError, is_https_or_loopback};

/// For how long a token that was refused is not asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// For how long an issuer that did not answer is not asked about the same token again.
const UNANSWERED_FOR: Duration = Duration::from_secs(1);

/// How many answers are kept.
const ANSWERS_MOST: usize = 10_000;

/// `[oidc.NAME.introspection]`: this process's own client at the issuer. The edge and the core each have theirs.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The client that this process is to the issuer.
    pub client_id: String,
    /// The file that holds the client's secret and nothing else. It is read for each question, so it can be changed.
    pub client_secret_file: PathBuf,
    /// The introspection endpoint; the issuer's metadata names it unless given.
    pub endpoint: Option<String>,
    /// The most questions a second. Beyond it, tokens that are not known yet are told to come back.
    #[serde(default = "default_rate")]
    pub rate: u32,
}

fn default_rate() -> u32 {
    50
}

/// What is asked of one issuer, and what it answered.
#[derive(Debug)]
pub(super) struct Introspection {
    config: Config,
    provider: Arc<Provider>,
    answers: Cache<[u8; 32], (Answer, Timestamp)>,
    allowance: Mutex<Allowance>,
    time: Monotonic,
}

type Answer = Result<Arc<Principal>, IntrospectionError>;

/// Questions that may still be asked: as many as `rate` a second, and at once.
#[derive(Debug)]
struct Allowance {
    left: f64,
    counted: Instant,
}

/// Why there is no answer, or a bad one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IntrospectionError {
    /// The issuer does not know the token, or it has ended or was revoked.
    #[error("its issuer does not know it, or it has ended")]
    Inactive,
    /// Not an access token: a refresh token, say, or one that needs a proof.
    #[error("its issuer does not call it a bearer access token")]
    Type,
    /// What the issuer says of it is not enough.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The issuer could not be asked.
    #[error("the issuer cannot be asked about the token")]
    Unavailable(#[source] Arc<AskError>),
    /// More tokens that are not known than the issuer may be asked about.
    #[error("the issuer is asked about too many tokens at once")]
    Busy,
}

/// Why an issuer could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its metadata.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// Our own secret.
    #[error("{path} cannot be read, or is empty")]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The question.
    #[error("the issuer did not answer as RFC 7662 says")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What an answer holds beside RFC 7662's own members.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Rest {
    #[serde(flatten)]
    claims: HashMap<String, Value>,
}

impl ExtraTokenFields for Rest {}

type Response = StandardTokenIntrospectionResponse<Rest, BasicTokenType>;
type Introspector =
    Client<BasicErrorResponse, BasicTokenResponse, Response, StandardRevocableToken, BasicRevocationErrorResponse>;

impl Config {
    /// Checks what can be checked without asking the issuer.
    pub(super) fn check(&self) -> Result<(), IssuerError> {
        if let Some(endpoint) = &self.endpoint
            && !Url::parse(endpoint).is_ok_and(|url| is_https_or_loopback(&url))
        {
            return Err(IssuerError::Endpoint(endpoint.clone()));
        }
        if self.rate == 0 {
            return Err(IssuerError::Rate);
        }
        self.secret().map(drop).map_err(IssuerError::Secret)
    }

    /// The client's secret as it stands in its file now.
    pub fn secret(&self) -> Result<ClientSecret, AskError> {
        let wrong = |source| AskError::Secret { path: self.client_secret_file.clone(), source };
        let text = std::fs::read_to_string(&self.client_secret_file).map_err(wrong)?;
        match text.trim() {
            "" => Err(wrong(std::io::ErrorKind::UnexpectedEof.into())),
            secret => Ok(ClientSecret::new(secret.to_owned())),
        }
    }
}

impl Introspection {
    pub(super) fn new(config: Config, provider: Arc<Provider>) -> Self {
        let time = Monotonic::system();
        let allowance = Mutex::new(Allowance { left: f64::from(config.rate), counted: time.now() });
        Self { config, provider, answers: Cache::new(ANSWERS_MOST), allowance, time }
    }

    /// Whose token this is, and until when that need not be asked again.
    pub(super) async fn ask(
        &self,
        expected: &Expected,
        bearer: &Bearer,
        now: Timestamp,
    ) -> Result<(Arc<Principal>, Timestamp), IntrospectionError> {
        let digest = bearer.digest();
        // What has ended is forgotten first, or the cache would hand it out.
        if self.answers.get(&digest).is_some_and(|(_, until)| until <= now) {
            self.answers.remove(&digest);
        }
        let (answer, until) = match self.answers.get_value_or_guard_async(&digest).await {
            Ok(known) => known,
            Err(first) => {
                let answer = self.ask_issuer(expected, bearer, now).await;
                let known_for = |time: Duration| now.saturating_add(time).unwrap_or(now);
                let until = match &answer {
                    Ok(principal) => known_for(VERIFIED_FOR).min(principal.expires().unwrap_or(now)),
                    Err(IntrospectionError::Unavailable(_) | IntrospectionError::Busy) => known_for(UNANSWERED_FOR),
                    Err(_) => known_for(REFUSED_FOR),
                };
                // It fails only if the answer was put there by another hand meanwhile.
                drop(first.insert((answer.clone(), until)));
                (answer, until)
            }
        };
        Ok((answer?, until))
    }

    async fn ask_issuer(&self, expected: &Expected, bearer: &Bearer, now: Timestamp) -> Answer {
        if !self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(self.config.rate, self.time.now()) {
            return Err(IntrospectionError::Busy);
        }
        let asked = tokio::time::timeout(PATIENCE, self.request(bearer)).await;
        let response = asked.unwrap_or(Err(ProviderError::Timeout.into())).map_err(|error| {
            tracing::warn!(error = %crate::error::Chain(&error), "the issuer could not be asked about a token");
            IntrospectionError::Unavailable(Arc::new(error))
        })?;
        let Some(response) = response else { return Err(IntrospectionError::Type) };
        if !response.active() {
            return Err(IntrospectionError::Inactive);
        }
        if !matches!(response.token_type(), Some(BasicTokenType::Bearer)) {
            return Err(IntrospectionError::Type);
        }
        Ok(Arc::new(expected.principal(claims(&response), now)?))
    }

    /// The issuer's answer; none if it says that such tokens cannot be asked about.
    async fn request(&self, bearer: &Bearer) -> Result<Option<Response>, AskError> {
        let endpoint = match &self.config.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.provider.introspection_endpoint().await?.into(),
        };
        let endpoint = IntrospectionUrl::new(endpoint).map_err(|error| AskError::Answer(error.into()))?;
        let client = Introspector::new(ClientId::new(self.config.client_id.clone()))
            .set_client_secret(self.config.secret()?)
            .set_introspection_url(endpoint);
        let token = AccessToken::new(bearer.expose().to_owned());
        // The hint keeps issuers that look refresh tokens up as well from finding one.
        let question = client.introspect(&token).set_token_type_hint("access_token");
        match question.request_async(&Tidied(self.provider.http())).await {
            Ok(response) => Ok(Some(response)),
            // RFC 7009, section 2.2.1, has the word for it.
            Err(RequestTokenError::ServerResponse(said)) if said.error().as_ref() == "unsupported_token_type" => {
                Ok(None)
            }
            Err(error) => {
                self.provider.forget();
                Err(AskError::Answer(error.into()))
            }
        }
    }
}

/// Hears answers that are a little off: dates with a fraction (RFC 7662 wants whole seconds, and RFC 7519 does not mind),
/// and members that are null instead of absent.
struct Tidied<'h>(&'h HttpClient);

impl<'c> AsyncHttpClient<'c> for Tidied<'_> {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut answer = self.0.send(request).await?;
            if let Ok(Value::Object(mut members)) = serde_json::from_slice(answer.body()) {
                members.retain(|_, value| !value.is_null());
                for date in ["exp", "iat", "nbf"] {
                    if let Some(whole) = members.get(date).and_then(Value::as_f64).and_then(seconds) {
                        members.insert(date.to_owned(), whole.as_second().into());
                    }
                }
                *answer.body_mut() = Value::Object(members).to_string().into_bytes();
            }
            Ok(answer)
        })
    }
}

impl Allowance {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        self.left = (self.left + now.saturating_duration_since(self.counted).as_secs_f64() * rate).min(rate);
        self.counted = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// An answer as the claims that a JWT would hold, for the same checks.
fn claims(response: &Response) -> Claims {
    #[expect(clippy::cast_precision_loss, reason = "every second that is a date is a whole number of few bits")]
    let date = |date: i64| date as f64;
    let mut rest = response.extra_fields().claims.clone();
    // RFC 7662's `username` is the one that people know.
    if let (false, Some(name)) = (rest.contains_key("preferred_username"), response.username()) {
        rest.insert("preferred_username".to_owned(), name.into());
    }
    Claims {
        iss: response.iss().map(Value::from),
        aud: response.aud().map(|audiences| audiences.iter().map(String::as_str).collect::<Vec<_>>().into()),
        sub: response.sub().map(str::to_owned),
        client_id: response.client_id().map(|client| client.as_str().to_owned()),
        jti: response.jti().map(str::to_owned),
        iat: response.iat().map(|time| date(time.timestamp())),
        nbf: response.nbf().map(|time| date(time.timestamp())),
        exp: response.exp().map(|time| date(time.timestamp())),
        scope: response.scopes().map(|scopes| scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")),
        rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_bounded_by_the_second() {
        let start = Monotonic::system().now();
        let mut allowance = Allowance { left: 5.0, counted: start };
        let mut taken = |at: Duration| (0..100).filter(|_| allowance.take(5, start + at)).count();
        assert_eq!(taken(Duration::ZERO), 5);
        assert_eq!(taken(Duration::from_millis(400)), 2);
        assert_eq!(taken(Duration::from_secs(100)), 5, "rest is not saved up");
    }
}
