//! How a connection gets to where it leads: straight, through the proxy that the person's environment names, or to another place that
//! answers in that one's name.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;
use url::{Host, Url};

use super::is_loopback;

/// A way to any host.
#[derive(Clone, Debug)]
pub struct Route {
    straight: HttpConnector,
    proxies: Option<Arc<Proxies>>,
    instead: Option<Uri>,
}

/// The proxies of an environment.
#[derive(Debug)]
pub struct Proxies {
    matcher: Matcher,
    connector: HttpsConnector<HttpConnector>,
}

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Straight.
    #[error("there is no way to connect")]
    Straight(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Through a proxy.
    #[error("the proxy {proxy} does not lead there")]
    Proxy {
        /// The proxy, without what it is told of who asks.
        proxy: Uri,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A kind of proxy that is not known.
    #[error("the proxy {0} must be http://, https:// or socks5://")]
    Kind(Uri),
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

impl Proxies {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say, in capitals or not. `tls` is for proxies that are
    /// spoken to over TLS.
    pub fn from_env(tls: rustls::ClientConfig) -> Self {
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Self { matcher: Matcher::from_env(), connector }
    }
}

impl Route {
    /// Straight, wherever it leads.
    pub fn direct() -> Self {
        Self { straight: straight(), proxies: None, instead: None }
    }

    /// Through these proxies, where they say so. This machine is always reached straight.
    pub fn through(proxies: Proxies) -> Self {
        Self { straight: straight(), proxies: Some(Arc::new(proxies)), instead: None }
    }

    /// Straight to this URL's host and port, whatever leads there: `Host` and the name that TLS asks for stay those of who is meant.
    pub fn to(place: &Url) -> Result<Self, http::Error> {
        let (host, port) = (place.host_str().unwrap_or_default(), place.port_or_known_default().unwrap_or(443));
        let instead = Uri::builder().scheme("http").authority(format!("{host}:{port}")).path_and_query("/").build()?;
        Ok(Self { instead: Some(instead), ..Self::direct() })
    }

    fn proxy(&self, to: &Uri) -> Option<(Intercept, HttpsConnector<HttpConnector>)> {
        let proxies = self.proxies.as_ref()?;
        let host = Host::parse(to.host()?).ok()?;
        if is_loopback(&host) {
            return None;
        }
        Some((proxies.matcher.intercept(to)?, proxies.connector.clone()))
    }
}

fn straight() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = RouteError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, RouteError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RouteError>> {
        self.straight.poll_ready(context).map_err(|error| RouteError::Straight(error.into()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let to = self.instead.clone().unwrap_or(to);
        let Some((proxy, connector)) = self.proxy(&to) else {
            let connecting = self.straight.call(to);
            return Box::pin(async move {
                connecting.await.map(MaybeHttpsStream::Http).map_err(|error| RouteError::Straight(error.into()))
            });
        };
        let straight = self.straight.clone();
        Box::pin(async move {
            let uri = proxy.uri().clone();
            let wrong = |source| RouteError::Proxy { proxy: uri.clone(), source };
            match uri.scheme_str() {
                Some("http" | "https") => {
                    let mut tunnel = Tunnel::new(uri.clone(), connector);
                    if let Some(authorization) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(authorization.clone());
                    }
                    tunnel.call(to).await.map_err(|error| wrong(error.into()))
                }
                Some(scheme @ ("socks5" | "socks5h")) => {
                    let at = socks(&uri).map_err(|error| wrong(error.into()))?;
                    let mut socks = SocksV5::new(at, straight).local_dns(scheme == "socks5");
                    if let Some((user, password)) = proxy.raw_auth() {
                        socks = socks.with_auth(user.to_owned(), password.to_owned());
                    }
                    socks.call(to).await.map(MaybeHttpsStream::Http).map_err(|error| wrong(error.into()))
                }
                _ => Err(RouteError::Kind(uri)),
            }
        })
    }
}

/// Where a SOCKS proxy listens; its own port is 1080 (RFC 1928).
fn socks(uri: &Uri) -> Result<Uri, http::Error> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(1080));
    Uri::builder().scheme("http").authority(format!("{host}:{port}")).path_and_query("/").build()
}
