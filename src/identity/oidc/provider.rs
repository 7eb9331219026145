//! One provider's metadata and keys, asked over HTTP.
//!
//! The metadata is at the path of OpenID Connect Discovery 1.0 (behind the issuer's own path) or of RFC 8414, section
//! 3.1 (before it). It must name the very same issuer, and it may send us nowhere but to the issuer's own origin and to
//! those that the configuration lists: whoever can write metadata must not choose whom this service asks.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Request, StatusCode};
use jsonwebtoken::jwk::Jwk;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::claims::algorithm;
use super::keys::serving;
use super::{Config, Tokens};
use crate::http_client::{HttpClient, HttpError};

/// How long everything together may take that one token waits for: less than callers wait for their answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// One provider, asked lazily.
#[derive(Debug)]
pub(super) struct Provider {
    issuer: String,
    origins: Vec<String>,
    http: HttpClient,
    metadata: ArcSwapOption<Metadata>,
}

/// What we need of a provider's metadata (RFC 8414, section 2); anything else in it is not ours to judge.
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: Option<String>,
    introspection_endpoint: Option<String>,
}

/// A key set (RFC 7517, section 5), its keys not yet understood.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Why something of the provider could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No URL to ask.
    #[error("`{0}` is not a URL that can be asked")]
    Url(String),
    /// The request brought no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It took too long over all of it.
    #[error("no whole answer within {PATIENCE:?}")]
    Timeout,
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
    /// Metadata of somebody else.
    #[error("the metadata at {url} is that of another issuer, `{named}`")]
    Issuer {
        /// Where it was found.
        url: Url,
        /// Whose it says it is.
        named: String,
    },
    /// Metadata that lacks what is needed.
    #[error("the issuer's metadata has no `{0}`")]
    Missing(&'static str),
    /// Keys of which none could verify a token.
    #[error("the issuer publishes no key that a signature can be verified by")]
    NoKeys,
    /// Metadata that leads elsewhere.
    #[error("the issuer's metadata leads to `{0}`, which is neither on its own origin nor in `origins`")]
    Elsewhere(String),
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(Self::send(self, request))
    }
}

impl Provider {
    pub(super) fn new(config: &Config, http: HttpClient) -> Self {
        Self { issuer: config.issuer.clone(), origins: config.origins.clone(), http, metadata: ArcSwapOption::empty() }
    }

    /// Fetches the key set. A key that cannot be understood is left out and does not spoil the others.
    pub(super) async fn fetch_keys(&self) -> Result<Vec<Jwk>, ProviderError> {
        tokio::time::timeout(PATIENCE, self.fetch_all_keys()).await.unwrap_or(Err(ProviderError::Timeout))
    }

    async fn fetch_all_keys(&self) -> Result<Vec<Jwk>, ProviderError> {
        let metadata = self.metadata().await?;
        let fetched = async {
            let uri = metadata.jwks_uri.as_deref().ok_or(ProviderError::Missing("jwks_uri"))?;
            self.fetch::<KeySet>(self.own_url(uri)?).await
        };
        match fetched.await {
            Ok(set) => Ok(set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect()),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// Where the provider is asked about opaque tokens (RFC 8414, section 2).
    pub(super) async fn introspection_endpoint(&self) -> Result<Url, ProviderError> {
        let metadata = self.metadata().await?;
        let endpoint = metadata.introspection_endpoint.as_deref();
        self.own_url(endpoint.ok_or(ProviderError::Missing("introspection_endpoint"))?)
    }

    /// What the metadata named may have moved: the next question begins with them.
    pub(super) fn forget(&self) {
        self.metadata.store(None);
    }

    /// The client that this provider is asked with.
    pub(super) fn http(&self) -> &HttpClient {
        &self.http
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, ProviderError> {
        if let Some(known) = self.metadata.load_full() {
            return Ok(known);
        }
        let mut failed = None;
        for url in metadata_urls(&self.issuer)? {
            match self.fetch::<Metadata>(url.clone()).await {
                Ok(found) if found.issuer == self.issuer => {
                    let found = Arc::new(found);
                    self.metadata.store(Some(Arc::clone(&found)));
                    return Ok(found);
                }
                Ok(found) => return Err(ProviderError::Issuer { url, named: found.issuer }),
                Err(absent @ ProviderError::Status { .. }) => failed = failed.or(Some(absent)),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| ProviderError::Url(self.issuer.clone())))
    }

    /// A URL out of the metadata, if it leads where it may.
    fn own_url(&self, text: &str) -> Result<Url, ProviderError> {
        let elsewhere = || ProviderError::Elsewhere(text.to_owned());
        let url = Url::parse(text).map_err(|_| elsewhere())?;
        let origin = url.origin();
        let own = Url::parse(&self.issuer).is_ok_and(|issuer| issuer.origin() == origin);
        let listed = self.origins.iter().any(|listed| *listed == origin.ascii_serialization());
        if origin.is_tuple() && (own || listed) { Ok(url) } else { Err(elsewhere()) }
    }

    async fn fetch<T: DeserializeOwned>(&self, url: Url) -> Result<T, ProviderError> {
        let request = Request::get(url.as_str()).header("accept", "application/json").body(Vec::new())?;
        let answer = self.http.send(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(ProviderError::Status { url, status: answer.status() });
        }
        serde_json::from_slice(answer.body()).map_err(|source| ProviderError::Json { url, source })
    }
}

/// What an issuer publishes, found as this service finds it when the first token comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How many of its keys could verify a token; none where its tokens are opaque, and nobody needs them.
    pub keys: Option<usize>,
    /// Where its metadata says that it is asked about opaque tokens; none where the configuration says it, or nobody asks.
    pub introspection: Option<Url>,
}

/// Looks for what a service with this section would need of the issuer, with a client that trusts what the section says.
pub async fn inspect(config: &Config, http: HttpClient) -> Result<Found, ProviderError> {
    let provider = Provider::new(config, http);
    let looked = async {
        let keys = match config.tokens {
            Tokens::Opaque => None,
            Tokens::Jwt | Tokens::Either => Some(provider.fetch_all_keys().await?),
        };
        let asks = config.introspection.as_ref().is_some_and(|section| section.endpoint.is_none());
        let introspection = if asks { Some(provider.introspection_endpoint().await?) } else { None };
        // An issuer whose endpoint is configured and whose tokens are opaque needs to publish nothing.
        Ok((keys, introspection))
    };
    let (keys, introspection) = tokio::time::timeout(PATIENCE, looked).await.unwrap_or(Err(ProviderError::Timeout))?;
    // What is no algorithm fits no key; the check of the section names it.
    let algorithms: Vec<_> = config.algorithms.iter().filter_map(|name| algorithm(name).ok()).collect();
    let keys = keys.map(|published| serving(published, &algorithms));
    if keys == Some(0) { Err(ProviderError::NoKeys) } else { Ok(Found { keys, introspection }) }
}

/// Where an issuer's metadata may be, in the order in which it is looked for.
fn metadata_urls(issuer: &str) -> Result<Vec<Url>, ProviderError> {
    let wrong = || ProviderError::Url(issuer.to_owned());
    let base = Url::parse(issuer).map_err(|_| wrong())?;
    let path = base.path().trim_end_matches('/');
    let mut paths = vec![
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
    ];
    if !path.is_empty() {
        paths.push(format!("/.well-known/openid-configuration{path}"));
    }
    Ok(paths
        .into_iter()
        .map(|path| {
            let mut url = base.clone();
            url.set_path(&path);
            url
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_before_and_behind_the_path() {
        let at =
            |issuer: &str| metadata_urls(issuer).expect("a URL").iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            at("https://x.example"),
            [
                "https://x.example/.well-known/openid-configuration",
                "https://x.example/.well-known/oauth-authorization-server"
            ]
        );
        assert_eq!(
            at("https://x.example:8443/realms/a/"),
            [
                "https://x.example:8443/realms/a/.well-known/openid-configuration",
                "https://x.example:8443/.well-known/oauth-authorization-server/realms/a",
                "https://x.example:8443/.well-known/openid-configuration/realms/a"
            ]
        );
    }
}
