//! Who lets people in to a server: the protected resource's metadata (RFC 9728), and the authorization server's (RFC 8414,
//! OpenID Connect Discovery 1.0), as MCP's authorization says where they are looked for.

use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::challenge::Challenge;
use super::plain;
use crate::http_client::{HttpClient, HttpError, is_https_or_loopback, is_loopback};

/// What is known of a server and of who lets people in to it.
#[derive(Clone, Debug)]
pub(super) struct Discovered {
    /// The resource's identifier, exactly as it is published; none where nothing is published.
    pub(super) resource: Option<String>,
    /// The scopes that the resource's metadata names.
    pub(super) scopes: Option<Vec<String>>,
    /// Who lets people in.
    pub(super) server: AuthorizationServer,
}

/// An authorization server's metadata, as far as a client needs it (RFC 8414, section 2).
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct AuthorizationServer {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Option<Url>,
    pub(super) token_endpoint: Option<Url>,
    pub(super) registration_endpoint: Option<Url>,
    pub(super) device_authorization_endpoint: Option<Url>,
    pub(super) revocation_endpoint: Option<Url>,
    pub(super) scopes_supported: Option<Vec<String>>,
    pub(super) grant_types_supported: Option<Vec<String>>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    pub(super) code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    pub(super) client_id_metadata_document_supported: bool,
    /// Whether nothing was published, and the endpoints are those of 2025-03-26.
    #[serde(skip)]
    pub(super) assumed: bool,
}

/// A protected resource's metadata (RFC 9728, section 2).
#[derive(Debug, Deserialize)]
struct ProtectedResource {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    scopes_supported: Option<Vec<String>>,
}

/// Why it cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The request brought no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The request cannot be put together.
    #[error("the request cannot be put together")]
    Request(#[from] http::Error),
    /// An answer that is no success.
    #[error("{url} answered {status}")]
    Status {
        /// Who was asked.
        url: Url,
        /// What it answered.
        status: StatusCode,
    },
    /// An answer that is something else.
    #[error("{url} answered something that is not what belongs there")]
    Json {
        /// Who was asked.
        url: Url,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Something that is no URL that may be asked.
    #[error("`{0}` must be https://…, or http:// to a loopback address where the server is at one as well")]
    Insecure(String),
    /// Metadata of another resource.
    #[error(
        "the server says that it is `{named}`, and not `{asked}`: use the address that it names, or tell its operator"
    )]
    Resource {
        /// What it says that it is.
        named: String,
        /// What was asked for.
        asked: Url,
    },
    /// Metadata of another issuer.
    #[error("the metadata at {url} is that of another issuer, `{named}`, and not of `{expected}`")]
    Issuer {
        /// Where it was found.
        url: Url,
        /// Whose it says it is.
        named: String,
        /// Whose it must be.
        expected: String,
    },
    /// Nobody is named.
    #[error("the server names no authorization server, so nobody can log in to it")]
    Nobody,
    /// Somebody else than the one who was configured.
    #[error("the server is let in to by {named}, and --issuer says `{expected}`; nothing was sent there")]
    OtherIssuer {
        /// Who the server names.
        named: String,
        /// Who was configured.
        expected: String,
    },
}

/// A server, and what holds for whatever is found from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The MCP endpoint, as HTTP names it.
    pub(super) url: &'a Url,
    /// Whether it is spoken to over a WebSocket.
    pub(super) socket: bool,
    /// The one issuer that may let people in, if one is configured.
    pub(super) issuer: Option<&'a str>,
}

/// Finds out who lets people in to the server. `preferred` is the issuer of a login that there was before, which stays if
/// it is still named.
pub(super) async fn discover(
    http: &HttpClient,
    place: Place<'_>,
    challenge: &Challenge,
    preferred: Option<&str>,
) -> Result<Discovered, DiscoveryError> {
    let Some(resource) = protected_resource(http, place, challenge).await? else {
        return fallback(http, place).await;
    };
    let mut issuers = resource.authorization_servers;
    if let Some(expected) = place.issuer {
        let named = issuers.iter().map(|issuer| format!("`{}`", plain(issuer))).collect::<Vec<_>>().join(", ");
        issuers.retain(|issuer| issuer == expected);
        if issuers.is_empty() && !named.is_empty() {
            return Err(DiscoveryError::OtherIssuer { named, expected: expected.to_owned() });
        }
    }
    // Whoever was good before is asked first.
    issuers.sort_by_key(|issuer| Some(issuer.as_str()) != preferred);
    let mut failed = None;
    for issuer in issuers {
        match authorization_server(http, place, &issuer).await {
            Ok(server) => {
                return Ok(Discovered { resource: Some(resource.resource), scopes: resource.scopes_supported, server });
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or(DiscoveryError::Nobody))
}

async fn protected_resource(
    http: &HttpClient,
    place: Place<'_>,
    challenge: &Challenge,
) -> Result<Option<ProtectedResource>, DiscoveryError> {
    let url = place.url;
    let named = match &challenge.resource_metadata {
        Some(named) => vec![place.allowed(named)?],
        None => well_known(url, "oauth-protected-resource"),
    };
    for at in named {
        let found: Option<ProtectedResource> = fetch(http, &at).await?;
        let Some(found) = found else { continue };
        if !is_resource_of(&found.resource, url, place.socket) {
            return Err(DiscoveryError::Resource { named: plain(&found.resource), asked: url.clone() });
        }
        return Ok(Some(found));
    }
    Ok(None)
}

/// The metadata of an issuer, wherever it is.
async fn authorization_server(
    http: &HttpClient,
    server: Place<'_>,
    issuer: &str,
) -> Result<AuthorizationServer, DiscoveryError> {
    let base = server.allowed(issuer)?;
    let mut places = vec![];
    let path = base.path().trim_end_matches('/').to_owned();
    for (before, kind, behind) in [
        ("", "oauth-authorization-server", path.as_str()),
        ("", "openid-configuration", path.as_str()),
        (path.as_str(), "openid-configuration", ""),
    ] {
        let mut place = base.clone();
        place.set_path(&format!("{before}/.well-known/{kind}{behind}"));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let mut last = base;
    for at in places {
        if let Some(found) = fetch::<AuthorizationServer>(http, &at).await? {
            return of_issuer(server, found, issuer, at);
        }
        last = at;
    }
    Err(DiscoveryError::Status { url: last, status: StatusCode::NOT_FOUND })
}

/// Servers of 2025-03-26 publish nothing of themselves, and are their own authorization server.
async fn fallback(http: &HttpClient, server: Place<'_>) -> Result<Discovered, DiscoveryError> {
    let issuer = server.url.origin().ascii_serialization();
    if let Some(expected) = server.issuer.filter(|expected| *expected != issuer) {
        return Err(DiscoveryError::OtherIssuer { named: format!("`{issuer}`"), expected: expected.to_owned() });
    }
    let base = server.allowed(&issuer)?;
    let at = |path: &str| {
        let mut url = base.clone();
        url.set_path(path);
        url
    };
    let place = at("/.well-known/oauth-authorization-server");
    let server = match fetch::<AuthorizationServer>(http, &place).await? {
        Some(found) => of_issuer(server, found, &issuer, place)?,
        None => AuthorizationServer {
            issuer,
            authorization_endpoint: Some(at("/authorize")),
            token_endpoint: Some(at("/token")),
            registration_endpoint: Some(at("/register")),
            assumed: true,
            ..AuthorizationServer::default()
        },
    };
    Ok(Discovered { resource: None, scopes: None, server })
}

/// Takes metadata that is the issuer's, and leads nowhere that may not be asked.
fn of_issuer(
    place: Place<'_>,
    server: AuthorizationServer,
    issuer: &str,
    url: Url,
) -> Result<AuthorizationServer, DiscoveryError> {
    if server.issuer != issuer {
        return Err(DiscoveryError::Issuer { url, named: plain(&server.issuer), expected: plain(issuer) });
    }
    let endpoints = [
        &server.authorization_endpoint,
        &server.token_endpoint,
        &server.registration_endpoint,
        &server.device_authorization_endpoint,
        &server.revocation_endpoint,
    ];
    for endpoint in endpoints.into_iter().flatten() {
        place.allowed(endpoint.as_str())?;
    }
    Ok(server)
}

/// Whether metadata of that resource may be believed for that address: it is the same, or the whole origin, which is what
/// servers say that publish at the root only (the conformance suite's `auth/metadata-var2` is one). A WebSocket's address is
/// not MCP's own, so `…/ws` may be that of the `…/mcp` beside it.
fn is_resource_of(resource: &str, asked: &Url, socket: bool) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    if resource.origin() != asked.origin() || resource.fragment().is_some() {
        return false;
    }
    let (named, path) = (resource.path().trim_end_matches('/'), asked.path().trim_end_matches('/'));
    let beside = socket && path.strip_suffix("/ws").is_some_and(|above| named.strip_suffix("/mcp") == Some(above));
    named == path || named.is_empty() || beside
}

impl Place<'_> {
    /// A URL as it may be asked. Without TLS that is this machine's, and only for whoever is on it already: a server
    /// elsewhere leads to nothing here.
    fn allowed(&self, text: &str) -> Result<Url, DiscoveryError> {
        let on_loopback = |url: &Url| url.host().is_some_and(|host| is_loopback(&host));
        let configured = self.issuer.and_then(|issuer| Url::parse(issuer).ok());
        let here = on_loopback(self.url) || configured.as_ref().is_some_and(on_loopback);
        let found = Url::parse(text).ok().filter(|url| url.scheme() == "https" || here && is_https_or_loopback(url));
        found.ok_or_else(|| DiscoveryError::Insecure(plain(text)))
    }
}

/// A well-known URI with the URL's path, and without it.
fn well_known(url: &Url, kind: &str) -> Vec<Url> {
    let path = url.path().trim_end_matches('/').to_owned();
    let mut places = Vec::new();
    for behind in [path.as_str(), ""] {
        let mut place = url.clone();
        place.set_path(&format!("/.well-known/{kind}{behind}"));
        place.set_query(None);
        place.set_fragment(None);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Fetches a document; nothing where there is none.
async fn fetch<T: DeserializeOwned>(http: &HttpClient, url: &Url) -> Result<Option<T>, DiscoveryError> {
    let request = Request::get(url.as_str()).header("accept", "application/json").body(Vec::new())?;
    let answer = http.send(request).await?;
    if answer.status() == StatusCode::OK {
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        // Sites that answer every path with a page have nothing there either.
        if kind.to_ascii_lowercase().starts_with("text/html") {
            return Ok(None);
        }
        return serde_json::from_slice(answer.body())
            .map(Some)
            .map_err(|source| DiscoveryError::Json { url: url.clone(), source });
    }
    // A client error says that nothing is there, whichever it is; a server's own says nothing of it.
    if answer.status().is_client_error() || answer.status().is_redirection() {
        return Ok(None);
    }
    Err(DiscoveryError::Status { url: url.clone(), status: answer.status() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn metadata_counts_for_its_own_resource_alone() {
        for (resource, asked) in [
            ("https://x.example/mcp", "https://x.example/mcp"),
            ("https://x.example/mcp/", "https://x.example/mcp"),
            ("https://x.example", "https://x.example/"),
            ("https://x.example", "https://x.example/mcp"),
            ("https://x.example:443/mcp", "https://x.example/mcp?x=1"),
        ] {
            assert!(is_resource_of(resource, &url(asked), false), "{resource} {asked}");
        }
        for (resource, asked) in
            [("https://x.example/mcp", "https://x.example/ws"), ("https://x.example/a/mcp", "https://x.example/a/ws")]
        {
            assert!(is_resource_of(resource, &url(asked), true), "{resource} {asked}");
            assert!(!is_resource_of(resource, &url(asked), false), "{resource} {asked}");
        }
        for (resource, asked) in [
            ("https://evil.example/mcp", "https://x.example/mcp"),
            ("http://x.example/mcp", "https://x.example/mcp"),
            ("https://x.example:8443/mcp", "https://x.example/mcp"),
            ("https://x.example/mcp2", "https://x.example/mcp"),
            ("https://x.example/mc", "https://x.example/mcp"),
            ("https://x.example/mcp#a", "https://x.example/mcp"),
            ("https://evil.example/mcp", "https://x.example/ws"),
            ("https://x.example/a", "https://x.example/a/mcp"),
            ("https://x.example/b/mcp", "https://x.example/a/ws"),
            ("https://x.example/b", "https://x.example/ws"),
            ("mcp", "https://x.example/mcp"),
        ] {
            assert!(!is_resource_of(resource, &url(asked), true), "{resource} {asked}");
        }
    }

    #[test]
    fn the_resource_is_looked_for_with_its_path_and_without() {
        let places = |text: &str| {
            well_known(&url(text), "oauth-protected-resource").iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            places("https://x.example/a/mcp?b=c"),
            [
                "https://x.example/.well-known/oauth-protected-resource/a/mcp",
                "https://x.example/.well-known/oauth-protected-resource"
            ]
        );
        assert_eq!(places("https://x.example"), ["https://x.example/.well-known/oauth-protected-resource"]);
    }

    #[test]
    fn what_is_not_safe_is_not_asked() {
        let (there, here) = (url("https://x.example/mcp"), url("https://localhost:1/mcp"));
        let place = Place { url: &there, socket: false, issuer: None };
        let allowed = |text: &str| Place { url: &here, ..place }.allowed(text);
        assert!(allowed("https://x.example").is_ok() && allowed("http://127.0.0.1:1/x").is_ok());
        assert!(place.allowed("https://y.example").is_ok() && place.allowed("http://127.0.0.1:1/x").is_err());
        assert!(Place { issuer: Some("http://localhost:2"), ..place }.allowed("http://127.0.0.1:1/x").is_ok());
        for bad in ["http://x.example", "file:///etc/passwd", "x", "javascript:alert(1)"] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
        let server = AuthorizationServer { issuer: "https://x.example".to_owned(), ..AuthorizationServer::default() };
        let at = url("https://x.example/.well-known/openid-configuration");
        assert!(of_issuer(place, server.clone(), "https://x.example", at.clone()).is_ok());
        assert!(matches!(
            of_issuer(place, server.clone(), "https://x.example/", at.clone()),
            Err(DiscoveryError::Issuer { .. })
        ));
        let leads = AuthorizationServer { token_endpoint: Some(url("http://x.example/token")), ..server };
        assert!(matches!(of_issuer(place, leads, "https://x.example", at), Err(DiscoveryError::Insecure(_))));
    }
}
