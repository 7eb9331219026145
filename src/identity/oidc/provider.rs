//! Finding the provider's keys: OpenID Connect Discovery 1.0, then the key set it points to.

use std::pin::Pin;
use std::sync::Arc;

use jsonwebtoken::jwk::Jwk;
use openidconnect::core::{CoreJsonWebKeySet, CoreProviderMetadata};
use openidconnect::{AsyncHttpClient, DiscoveryError, HttpRequest, HttpResponse, IssuerUrl, JsonWebKeySetUrl};
use tokio::sync::OnceCell;

use crate::http_client::{HttpClient, HttpError};

/// One provider, asked lazily.
#[derive(Debug)]
pub(super) struct Provider {
    issuer: String,
    http: HttpClient,
    jwks_uri: OnceCell<JsonWebKeySetUrl>,
}

/// Why the provider's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The issuer's URL cannot be parsed.
    #[error("the issuer's URL cannot be used")]
    Issuer(#[from] url::ParseError),
    /// Its metadata, or its keys, could not be fetched or understood. The metadata must name the very same issuer.
    #[error("the issuer's metadata or keys could not be fetched")]
    Discovery(#[source] Arc<DiscoveryError<HttpError>>),
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(Self::send(self, request))
    }
}

impl Provider {
    pub(super) fn new(issuer: String, http: HttpClient) -> Self {
        Self { issuer, http, jwks_uri: OnceCell::new() }
    }

    /// Fetches the key set. A key that cannot be understood is left out and does not spoil the others.
    pub(super) async fn fetch_keys(&self) -> Result<Vec<Jwk>, ProviderError> {
        let failed = |error| ProviderError::Discovery(Arc::new(error));
        let set = match self.jwks_uri.get() {
            Some(uri) => CoreJsonWebKeySet::fetch_async(uri, &self.http).await.map_err(failed)?,
            None => {
                let metadata = CoreProviderMetadata::discover_async(IssuerUrl::new(self.issuer.clone())?, &self.http)
                    .await
                    .map_err(failed)?;
                // A second discovery that ran at the same time found the same.
                self.jwks_uri.set(metadata.jwks_uri().clone()).unwrap_or_default();
                metadata.jwks().clone()
            }
        };
        Ok(set
            .keys()
            .iter()
            .filter_map(|key| serde_json::to_value(key).ok())
            .filter_map(|key| serde_json::from_value(key).ok())
            .collect())
    }
}
