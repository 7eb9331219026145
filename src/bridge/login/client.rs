//! As whom the bridge asks an authorization server: a client id that somebody configured, a Client ID Metadata Document, or
//! one that the server gives out when it is asked (RFC 7591), whichever there is, in that order.

use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::discovery::AuthorizationServer;
use super::{Config, plain};
use crate::bridge::store::{Client, Method, Origin};
use crate::http_client::{HttpClient, HttpError};

/// How the bridge introduces itself.
const NAME: &str = "whitelistmcp bridge";

/// Why it can ask as nobody.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing is configured, and nothing is offered.
    #[error(
        "the provider {0} gives out no client ids by itself: register this program there (a native client that is sent back to {1}), and give its id with --client-id"
    )]
    Unknown(String, Url),
    /// The secret's file.
    #[error("the client secret's file {path} cannot be read")]
    Secret {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The secret belongs to nobody.
    #[error("a client secret goes to its own issuer alone: give --issuer, and if `{0}` is it, that")]
    Issuer(String),
    /// The registration brought no answer.
    #[error("the provider could not be asked for a client id")]
    Http(#[from] HttpError),
    /// The registration cannot be put together.
    #[error("the request cannot be put together")]
    Request(#[from] http::Error),
    /// It was refused.
    #[error("the provider gave no client id: {status} {said}")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// In its words.
        said: String,
    },
    /// It answered something else.
    #[error("the provider's answer is no registration")]
    Json(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Registration {
    client_id: String,
    client_secret: Option<String>,
    token_endpoint_auth_method: Option<String>,
}

/// The client to ask as, sent back to `redirect`. `before` is the one of the last login there.
pub(super) async fn client(
    http: &HttpClient,
    server: &AuthorizationServer,
    config: &Config,
    before: Option<Client>,
    redirect: &Url,
) -> Result<Client, ClientError> {
    if let Some(id) = &config.client_id {
        let secret = match &config.client_secret {
            Some(_) if config.issuer.as_ref() != Some(&server.issuer) => {
                return Err(ClientError::Issuer(plain(&server.issuer)));
            }
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|source| ClientError::Secret { path: path.clone(), source })?;
                Some(text.trim().to_owned())
            }
            None => None,
        };
        let method = method(server, None, secret.is_some());
        return Ok(Client { id: id.clone(), secret, method, redirect: redirect.clone(), origin: Origin::Configured });
    }
    if let Some(document) = &config.client_metadata
        && server.client_id_metadata_document_supported
    {
        let (id, redirect) = (document.to_string(), redirect.clone());
        return Ok(Client { id, secret: None, method: Method::None, redirect, origin: Origin::MetadataDocument });
    }
    if let Some(registered) =
        before.filter(|client| client.origin == Origin::Registered && client.redirect == *redirect)
    {
        return Ok(registered);
    }
    match &server.registration_endpoint {
        Some(endpoint) => register(http, server, endpoint, redirect).await,
        None => Err(ClientError::Unknown(plain(&server.issuer), config.redirect.clone())),
    }
}

async fn register(
    http: &HttpClient,
    server: &AuthorizationServer,
    endpoint: &Url,
    redirect: &Url,
) -> Result<Client, ClientError> {
    let offers =
        |method: &str| server.token_endpoint_auth_methods_supported.iter().flatten().any(|known| known == method);
    // A program that anybody can read keeps no secret, so it asks for none where it can.
    let wanted = match server.token_endpoint_auth_methods_supported {
        Some(_) if !offers("none") && offers("client_secret_basic") => "client_secret_basic",
        Some(_) if !offers("none") && offers("client_secret_post") => "client_secret_post",
        _ => "none",
    };
    let mut grants = vec!["authorization_code", "refresh_token"];
    if server.device_authorization_endpoint.is_some() {
        grants.push("urn:ietf:params:oauth:grant-type:device_code");
    }
    let body = json!({
        "client_name": NAME,
        "application_type": "native",
        "redirect_uris": [redirect],
        "grant_types": grants,
        "response_types": ["code"],
        "token_endpoint_auth_method": wanted,
    });
    let request = Request::post(endpoint.as_str())
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(body.to_string().into_bytes())?;
    let answer = http.send(request).await?;
    if !answer.status().is_success() {
        let said: Option<Value> = serde_json::from_slice(answer.body()).ok();
        let word = |key: &str| said.as_ref().and_then(|said| said.get(key)?.as_str());
        let said = word("error_description").or_else(|| word("error")).map(plain).unwrap_or_default();
        return Err(ClientError::Refused { status: answer.status(), said });
    }
    let Registration { client_id, client_secret, token_endpoint_auth_method } = serde_json::from_slice(answer.body())?;
    let method = method(server, token_endpoint_auth_method.as_deref(), client_secret.is_some());
    let redirect = redirect.clone();
    Ok(Client { id: client_id, secret: client_secret, method, redirect, origin: Origin::Registered })
}

/// How the client says who it is: as it was registered, else as the server can (RFC 8414: Basic, unless it says something).
fn method(server: &AuthorizationServer, registered: Option<&str>, has_secret: bool) -> Method {
    if !has_secret {
        return Method::None;
    }
    let known = |method: &str| match method {
        "client_secret_basic" => Some(Method::ClientSecretBasic),
        "client_secret_post" => Some(Method::ClientSecretPost),
        "none" => Some(Method::None),
        _ => None,
    };
    let offered = server.token_endpoint_auth_methods_supported.as_deref();
    let offered: Option<Vec<Method>> =
        offered.map(|offered| offered.iter().filter_map(|method| known(method)).collect());
    if let Some(method) = registered.and_then(known) {
        return method;
    }
    let offers = |method| offered.as_ref().is_none_or(|offered| offered.contains(&method));
    [Method::ClientSecretBasic, Method::ClientSecretPost, Method::None]
        .into_iter()
        .find(|method| offers(*method))
        .unwrap_or(Method::ClientSecretBasic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_who_it_is_as_the_server_can() {
        let server = |methods: Option<&[&str]>| AuthorizationServer {
            token_endpoint_auth_methods_supported: methods
                .map(|methods| methods.iter().map(|&method| method.to_owned()).collect()),
            ..AuthorizationServer::default()
        };
        for (offered, registered, has_secret, expected) in [
            (None, None, true, Method::ClientSecretBasic),
            (None, None, false, Method::None),
            (Some(&["client_secret_post"][..]), None, true, Method::ClientSecretPost),
            (Some(&["client_secret_post", "client_secret_basic"]), None, true, Method::ClientSecretBasic),
            (Some(&["none"]), None, true, Method::None),
            (Some(&["private_key_jwt"]), None, true, Method::ClientSecretBasic),
            (Some(&["client_secret_basic"]), Some("client_secret_post"), true, Method::ClientSecretPost),
            (Some(&["client_secret_basic"]), Some("client_secret_post"), false, Method::None),
        ] {
            assert_eq!(method(&server(offered), registered, has_secret), expected, "{offered:?} {registered:?}");
        }
    }
}
