//! How everything that a bridge asks is reached: TLS by the CAs, the client certificate and the proxies of this person. Nothing
//! is read or connected before it is first needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::HttpsConnector;
use tokio::sync::OnceCell;

use crate::http_client::{HttpClient, Pooled, Proxies, Route, pooled_through};
use crate::tls::{self, Identity, TlsError};

/// How long a connection is kept without a request: people think between two questions.
const IDLE: Duration = Duration::from_secs(60);
/// How long one request of a login may take: some providers are slow.
const LOGIN: Duration = Duration::from_secs(20);

/// What connections are made by.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// A file of CA certificates (PEM) to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to servers that ask for one, and its key.
    pub identity: Option<Identity>,
}

/// Connections that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// TLS.
    #[error("the certificates of this side cannot be used")]
    Tls(#[from] TlsError),
    /// The thread that reads them.
    #[error("the certificates of this side could not be read")]
    Panic(#[from] tokio::task::JoinError),
}

/// The network as this bridge sees it; clones share it.
#[derive(Clone)]
pub(super) struct Network(Arc<(Config, OnceCell<Made>)>);

struct Made {
    pooled: Pooled,
    http: HttpClient,
    socket: HttpsConnector<Route>,
}

impl Network {
    pub(super) fn new(config: Config) -> Self {
        Self(Arc::new((config, OnceCell::new())))
    }

    /// The pool of HTTP connections.
    pub(super) async fn pooled(&self) -> Result<&Pooled, NetworkError> {
        Ok(&self.made().await?.pooled)
    }

    /// A client over that pool for short exchanges.
    pub(super) async fn http(&self) -> Result<&HttpClient, NetworkError> {
        Ok(&self.made().await?.http)
    }

    /// Makes connections for HTTP/1.1 alone, which a WebSocket begins as.
    pub(super) async fn socket(&self) -> Result<HttpsConnector<Route>, NetworkError> {
        Ok(self.made().await?.socket.clone())
    }

    async fn made(&self) -> Result<&Made, NetworkError> {
        let (config, made) = &*self.0;
        let make = async || {
            let config = config.clone();
            // Reading the system's CAs takes a while, and is done where nothing waits for it.
            let tls = tokio::task::spawn_blocking(move || {
                tls::public_client_as(config.ca.as_deref(), config.identity.as_ref())
            });
            let tls = tls.await??;
            let route = Route::through(Proxies::from_env(tls.clone()));
            let pooled = pooled_through(tls.clone(), route.clone(), IDLE);
            let http = HttpClient::of(pooled.clone(), LOGIN);
            let socket = hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_or_http()
                .enable_http1()
                .wrap_connector(route);
            Ok(Made { pooled, http, socket })
        };
        made.get_or_try_init(make).await
    }
}
