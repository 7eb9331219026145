//! A login on another machine (RFC 8628): a code is shown here and typed in there.

use oauth2::{DeviceAuthorizationResponse, EmptyExtraDeviceAuthorizationFields, Scope};

use super::grant::{self, Wish};
use super::{Config, LoginError, client, plain};
use crate::bridge::store::{Client, Login};
use crate::clock::Clock;
use crate::http_client::HttpClient;

pub(super) async fn ask(
    http: &HttpClient,
    wish: &Wish<'_>,
    config: &Config,
    before: Option<Client>,
    clock: &Clock,
) -> Result<Login, LoginError> {
    let server = wish.server;
    let device = server.device_authorization_endpoint.as_ref();
    let device = device.ok_or(LoginError::Endpoint("device_authorization_endpoint"))?;
    let token = server.token_endpoint.as_ref().ok_or(LoginError::Endpoint("token_endpoint"))?;
    // Nobody is sent back, so whatever was registered before will do.
    let redirect = before.as_ref().map_or(&config.redirect, |client| &client.redirect).clone();
    let client = client::client(http, server, config, before, &redirect).await?;
    let asked = grant::device_client(&client, token, device);
    let mut request = asked.exchange_device_code().add_scopes(wish.scopes.iter().cloned().map(Scope::new));
    if let Some(resource) = &wish.resource {
        request = request.add_extra_param("resource", resource);
    }
    let shown: DeviceAuthorizationResponse<EmptyExtraDeviceAuthorizationFields> =
        request.request_async(http).await.map_err(grant::from_oauth2)?;
    let (code, page) = (plain(shown.user_code().secret()), plain(shown.verification_uri().as_str()));
    let whole = shown.verification_uri_complete().map(|url| format!(" (or open {} at once)", plain(url.secret())));
    (config.tell)(&format!("open {page} on any machine, and enter the code {code}{}", whole.unwrap_or_default()));
    let mut request = asked.exchange_device_access_token(&shown);
    if let Some(resource) = &wish.resource {
        request = request.add_extra_param("resource", resource);
    }
    let tokens = request.request_async(http, tokio::time::sleep, None).await;
    let tokens = tokens.map_err(|error| LoginError::from(grant::from_oauth2(error)))?;
    Ok(grant::login(wish, client.clone(), token, &tokens, clock.now())?)
}
