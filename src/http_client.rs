//! The one HTTP client that the service asks other servers with, other than AWS.
//!
//! It speaks HTTPS, or HTTP to a loopback address or to the one host that it was made for; follows no redirect; and bounds
//! time and size, since the answers come from outside.

mod route;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::{Host, Url};

pub use route::{Proxies, Route, RouteError};

/// How long one request may take, from connecting to the last byte, unless something else is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept without a request.
pub const IDLE: Duration = Duration::from_secs(30);

/// The most bytes of an answer.
const BODY_MAX: usize = 1024 * 1024;

/// A client with a pool of connections; clones share it.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Pooled,
    timeout: Duration,
    /// The host that is asked over plain HTTP although it is not loopback.
    plain: Option<Host<String>>,
}

/// The pool below it, for whoever reads answers in a way of its own.
pub type Pooled = Client<HttpsConnector<Route>, Full<Bytes>>;

/// A request that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A URL that may not be asked.
    #[error("`{0}` is neither https nor http to a loopback address")]
    Insecure(Uri),
    /// Nobody answered.
    #[error("no answer from {uri}")]
    Send {
        /// Who was asked.
        uri: Uri,
        /// Why.
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    /// The answer broke off, or was too large.
    #[error("the answer of {uri} broke off or is larger than {BODY_MAX} bytes")]
    Body {
        /// Who was asked.
        uri: Uri,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No whole answer in time.
    #[error("no whole answer from {0} within {1:?}")]
    Timeout(Uri, Duration),
    /// The answer cannot be put together.
    #[error("the answer cannot be read")]
    Response(#[from] http::Error),
}

impl HttpClient {
    /// A client that trusts what `tls` trusts.
    pub fn new(tls: rustls::ClientConfig) -> Self {
        Self::of(pooled(tls, IDLE), TIMEOUT)
    }

    /// A client over that pool, whose requests may take that long each.
    pub fn of(client: Pooled, timeout: Duration) -> Self {
        Self { client, timeout, plain: None }
    }

    /// The same, which speaks plain HTTP to exactly this host besides: one that no wire outside this machine leads to, such as
    /// a platform's metadata service, or this machine by an address of its own.
    #[must_use]
    pub fn plain_to(self, host: Host<String>) -> Self {
        Self { plain: Some(host), ..self }
    }

    fn may_ask(&self, url: &Url) -> bool {
        let named = url.host().map(|host| host.to_owned());
        is_https_or_loopback(url) || (url.scheme() == "http" && named.is_some() && named == self.plain)
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let uri = request.uri().clone();
        if !Url::parse(&uri.to_string()).is_ok_and(|url| self.may_ask(&url)) {
            return Err(HttpError::Insecure(uri));
        }
        let exchange = async {
            let request = request.map(|body| Full::new(Bytes::from(body)));
            let response =
                self.client.request(request).await.map_err(|source| HttpError::Send { uri: uri.clone(), source })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, BODY_MAX)
                .collect()
                .await
                .map_err(|source| HttpError::Body { uri: uri.clone(), source })?;
            Ok(Response::from_parts(parts, body.to_bytes().into()))
        };
        let most = self.timeout;
        tokio::time::timeout(most, exchange).await.unwrap_or_else(|_| Err(HttpError::Timeout(uri.clone(), most)))
    }
}

/// HTTP/1.1 and HTTP/2 over a pool of connections, each kept for that long without a request.
pub fn pooled(tls: rustls::ClientConfig, idle: Duration) -> Pooled {
    pooled_through(tls, Route::direct(), idle)
}

/// The same, whose connections go that way.
pub fn pooled_through(tls: rustls::ClientConfig, route: Route, idle: Duration) -> Pooled {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(route);
    Client::builder(TokioExecutor::new()).pool_idle_timeout(idle).build(connector)
}

/// Whether a URL may carry what must not be read or forged on the way.
pub fn is_https_or_loopback(url: &Url) -> bool {
    let loopback = url.host().is_some_and(|host| is_loopback(&host));
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

/// Whether a host is this machine.
pub fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => name.as_ref() == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_loopback_and_to_the_one_host_that_was_named() {
        let client = HttpClient::new(crate::tls::public_client(None).expect("roots"));
        let host = |text: &str| Host::parse(text).expect("a host");
        let (named, numbered) =
            (client.clone().plain_to(host("metadata.example")), client.clone().plain_to(host("169.254.169.254")));
        for (url, at_once, by_name, by_number) in [
            ("http://127.0.0.1:1/", true, true, true),
            ("https://metadata.example/", true, true, true),
            ("http://metadata.example/", false, true, false),
            ("http://METADATA.example:80/a?b", false, true, false),
            ("http://metadata.example.evil/", false, false, false),
            ("http://evil-metadata.example/", false, false, false),
            ("http://metadata.example@evil/", false, false, false),
            ("http://169.254.169.254/", false, false, true),
            ("http://169.254.169.253/", false, false, false),
            ("ftp://metadata.example/", false, false, false),
        ] {
            let url = Url::parse(url).expect("a URL");
            let asked = (client.may_ask(&url), named.may_ask(&url), numbered.may_ask(&url));
            assert_eq!(asked, (at_once, by_name, by_number), "{url}");
        }
    }
}
