//! What the token endpoint is asked: for the tokens of a code or of a device, for the next ones, and to take them back.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oauth2::basic::{BasicClient, BasicTokenResponse, BasicTokenType};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, TokenResponse, TokenUrl,
};
use url::Url;

use super::discovery::AuthorizationServer;
use super::plain;
use crate::bridge::store::{Client, Grant, Login, Method};
use crate::http_client::{HttpClient, HttpError};
use crate::identity::bearer::Bearer;

/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_secs(60);
/// The longest life of a token that is believed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What is asked for, and of whom.
pub(super) struct Wish<'a> {
    pub(super) server: &'a AuthorizationServer,
    pub(super) scopes: Vec<String>,
    pub(super) resource: Option<String>,
    pub(super) grant: Grant,
}

/// Why no token came.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The provider refused, in its own words.
    #[error("it says `{code}`{}", described(.description.as_deref()))]
    Refused {
        /// RFC 6749, section 5.2.
        code: String,
        /// For people.
        description: Option<String>,
    },
    /// The provider could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answered something else.
    #[error("its answer cannot be understood: {0}")]
    Answer(String),
    /// The token is none that can be sent.
    #[error("what it gave is no bearer token")]
    Token,
}

fn described(description: Option<&str>) -> String {
    description.map(|text| format!(": {text}")).unwrap_or_default()
}

impl GrantError {
    /// Whether the provider does not know the client any more.
    pub(super) fn is_of_unknown_client(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "invalid_client" || code == "unauthorized_client")
    }

    /// Whether asking again would bring the same.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_request", "unsupported_grant_type"]
                    .contains(&code.as_str())
            }
            Self::Answer(_) | Self::Token => true,
            Self::Http(_) => false,
        }
    }
}

/// The OAuth client of the `oauth2` crate, as far as its token endpoint.
pub(super) type TokenClient = BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

pub(super) fn token_client(client: &Client, endpoint: &Url) -> TokenClient {
    let made = BasicClient::new(ClientId::new(client.id.clone()))
        .set_redirect_uri(RedirectUrl::from_url(client.redirect.clone()))
        .set_auth_type(match client.method {
            Method::ClientSecretBasic => AuthType::BasicAuth,
            Method::ClientSecretPost | Method::None => AuthType::RequestBody,
        })
        .set_token_uri(TokenUrl::from_url(endpoint.clone()));
    match &client.secret {
        Some(secret) if client.method != Method::None => made.set_client_secret(ClientSecret::new(secret.clone())),
        _ => made,
    }
}

/// The same with the endpoint where the browser goes.
pub(super) fn authorization_client(
    client: &Client,
    token: &Url,
    authorization: &Url,
) -> BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet> {
    token_client(client, token).set_auth_uri(AuthUrl::from_url(authorization.clone()))
}

/// The same with the endpoint where a device asks for its code.
pub(super) fn device_client(
    client: &Client,
    token: &Url,
    device: &Url,
) -> BasicClient<EndpointNotSet, EndpointSet, EndpointNotSet, EndpointNotSet, EndpointSet> {
    token_client(client, token).set_device_authorization_url(DeviceAuthorizationUrl::from_url(device.clone()))
}

/// The tokens of a code.
pub(super) async fn exchange(
    http: &HttpClient,
    wish: &Wish<'_>,
    client: Client,
    endpoint: &Url,
    code: String,
    verifier: String,
    now: Timestamp,
) -> Result<Login, GrantError> {
    let asked = token_client(&client, endpoint);
    let mut request =
        asked.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(PkceCodeVerifier::new(verifier));
    if let Some(resource) = &wish.resource {
        request = request.add_extra_param("resource", resource);
    }
    let tokens = request.request_async(http).await.map_err(from_oauth2)?;
    login(wish, client, endpoint, &tokens, now)
}

/// The token of a program that asks for itself (RFC 6749, section 4.4).
pub(super) async fn of_program(
    http: &HttpClient,
    wish: &Wish<'_>,
    client: Client,
    endpoint: &Url,
    now: Timestamp,
) -> Result<Login, GrantError> {
    let asked = token_client(&client, endpoint);
    let mut request = asked.exchange_client_credentials().add_scopes(wish.scopes.iter().cloned().map(Scope::new));
    if let Some(resource) = &wish.resource {
        request = request.add_extra_param("resource", resource);
    }
    let tokens = request.request_async(http).await.map_err(from_oauth2)?;
    login(wish, client, endpoint, &tokens, now)
}

/// The next tokens of a login.
pub(super) async fn refresh(http: &HttpClient, old: &Login, now: Timestamp) -> Result<Login, GrantError> {
    let refresh = RefreshToken::new(old.refresh_token.clone().unwrap_or_default());
    let client = token_client(&old.client, &old.token_endpoint);
    let mut request = client.exchange_refresh_token(&refresh);
    if let Some(resource) = &old.resource {
        request = request.add_extra_param("resource", resource);
    }
    let tokens: BasicTokenResponse = request.request_async(http).await.map_err(from_oauth2)?;
    let (ends, renew) = ends(&tokens, now);
    let mut login = Login { ends, renew, access_token: access_token(&tokens)?, ..old.clone() };
    // A provider that does not rotate them says nothing, and the old one stays.
    if let Some(refresh) = tokens.refresh_token() {
        login.refresh_token = Some(refresh.secret().clone());
    }
    Ok(login)
}

/// Tells the provider that the tokens are not wanted any more.
pub(super) async fn revoke(http: &HttpClient, login: &Login) -> Result<(), GrantError> {
    let Some(endpoint) = &login.revocation_endpoint else { return Ok(()) };
    let client = token_client(&login.client, &login.token_endpoint)
        .set_revocation_url(oauth2::RevocationUrl::from_url(endpoint.clone()));
    let token: oauth2::StandardRevocableToken = match &login.refresh_token {
        Some(refresh) => RefreshToken::new(refresh.clone()).into(),
        None => oauth2::AccessToken::new(login.access_token.clone()).into(),
    };
    let request = client.revoke_token(token).map_err(|error| GrantError::Answer(error.to_string()))?;
    request.request_async(http).await.map_err(from_oauth2)
}

/// What came of tokens.
pub(super) fn login(
    wish: &Wish<'_>,
    client: Client,
    endpoint: &Url,
    tokens: &BasicTokenResponse,
    now: Timestamp,
) -> Result<Login, GrantError> {
    let mut scopes = wish.scopes.clone();
    for scope in tokens.scopes().into_iter().flatten() {
        if !scopes.contains(scope) {
            scopes.push(scope.to_string());
        }
    }
    let (ends, renew) = ends(tokens, now);
    Ok(Login {
        issuer: wish.server.issuer.clone(),
        grant: wish.grant,
        client,
        token_endpoint: endpoint.clone(),
        revocation_endpoint: wish.server.revocation_endpoint.clone(),
        resource: wish.resource.clone(),
        scopes,
        access_token: access_token(tokens)?,
        ends,
        renew,
        refresh_token: tokens.refresh_token().map(|token| token.secret().clone()),
    })
}

fn access_token(tokens: &BasicTokenResponse) -> Result<String, GrantError> {
    let token = tokens.access_token().secret();
    // A token of another type is of no use as a bearer's (RFC 6749, section 7.1).
    if *tokens.token_type() != BasicTokenType::Bearer {
        return Err(GrantError::Token);
    }
    Bearer::from_authorization(&format!("Bearer {token}")).map(|_| token.clone()).ok_or(GrantError::Token)
}

/// When a token ends, and from when on it is renewed ahead of that: a minute before, or a quarter of a short life.
fn ends(tokens: &BasicTokenResponse, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
    let at = |after: Duration| now.checked_add(SignedDuration::try_from(after).ok()?).ok();
    let Some(life) = tokens.expires_in().map(|life| life.min(LONGEST)) else { return (None, None) };
    (at(life), at(life - EARLY.min(life / 4)))
}

/// The `oauth2` crate's errors as ours. What could not be parsed is not shown: there may be tokens in it.
pub(super) fn from_oauth2<T>(error: RequestTokenError<HttpError, oauth2::StandardErrorResponse<T>>) -> GrantError
where
    T: oauth2::ErrorResponseType + std::fmt::Display + 'static,
{
    match error {
        RequestTokenError::ServerResponse(said) => GrantError::Refused {
            code: plain(&said.error().to_string()),
            description: said.error_description().map(|text| plain(text)),
        },
        RequestTokenError::Request(error) => GrantError::Http(error),
        RequestTokenError::Parse(error, _) => GrantError::Answer(format!("at `{}`", error.path())),
        RequestTokenError::Other(text) => GrantError::Answer(plain(&text)),
    }
}

#[cfg(test)]
mod tests {
    use oauth2::basic::BasicErrorResponseType;

    use super::*;

    #[test]
    fn a_token_is_a_bearer_s_or_none() {
        let tokens = |kind: &str| -> BasicTokenResponse {
            serde_json::from_value(serde_json::json!({"access_token": "a", "token_type": kind})).expect("an answer")
        };
        for kind in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(access_token(&tokens(kind)).ok().as_deref(), Some("a"), "{kind}");
        }
        for kind in ["mac", "DPoP", "N_A", ""] {
            assert!(matches!(access_token(&tokens(kind)), Err(GrantError::Token)), "{kind}");
        }
    }

    #[test]
    fn what_will_not_change_is_told_from_what_may() {
        let refused = |code: &str| GrantError::Refused { code: code.to_owned(), description: None };
        for code in ["invalid_grant", "invalid_client", "unauthorized_client"] {
            assert!(refused(code).is_final(), "{code}");
            let known: BasicErrorResponseType = serde_json::from_value(code.into()).expect("a code");
            assert_eq!(known.to_string(), code, "it is compared with what the crate shows");
        }
        for code in ["temporarily_unavailable", "server_error", "slow_down"] {
            assert!(!refused(code).is_final(), "{code}");
        }
    }
}
