//! One accept loop for the edge and the core: TCP, TLS, then HTTP/1.1 or HTTP/2 over a router.
//!
//! Every stage is bounded in time, and all connections together in number, so a slow or silent client holds nothing for
//! long. Each request carries its [`Connection`], which is where the core learns whose certificate is on the other end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::identity::peer::PeerNames;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request's headers may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most connections at once.
const CONNECTIONS_MOST: usize = 10_000;
/// How old a connection may get before it is closed in order; clients open a new one, and balancers can move them.
const AGE_MOST: Duration = Duration::from_secs(3600);
/// The most requests at once on one HTTP/2 connection.
const STREAMS_MOST: u32 = 256;
/// How often a silent HTTP/2 connection is tried.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a connection without a running request may take to end, once the service shuts down.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long to wait when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known of the connection that a request came on.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    remote: Option<SocketAddr>,
    peer: Option<PeerNames>,
}

/// A bound address, not yet served.
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

// === impl Connection ===

impl Connection {
    /// A call within the process.
    pub fn in_process() -> Self {
        Self(Arc::new(Facts { remote: None, peer: Some(PeerNames::in_process()) }))
    }

    /// The other end's address.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.0.remote
    }

    /// The names in the other end's verified certificate, if it showed one.
    pub fn peer(&self) -> Option<&PeerNames> {
        self.0.peer.as_ref()
    }
}

// === impl Listener ===

impl Listener {
    /// Binds an address; port 0 lets the system choose.
    pub async fn bind(address: SocketAddr, tls: Option<rustls::ServerConfig>) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        Ok(Self { tcp, address, tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))) })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets the connections end what they are at. `connections` tracks them.
    pub async fn serve(self, router: axum::Router, shutdown: CancellationToken, connections: TaskTracker) {
        let free = Arc::new(Semaphore::new(CONNECTIONS_MOST));
        loop {
            // With every place taken, new connections wait in the system's queue.
            let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.tcp.accept() => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (tls, router, shutdown) = (self.tls.clone(), router.clone(), shutdown.clone());
            connections.spawn(async move {
                if let Err(error) = connection(stream, remote, tls, router, shutdown).await {
                    tracing::debug!(client.address = %remote, error = %error, "a connection ended early");
                }
                drop(place);
            });
        }
    }
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return serve(stream, Facts { remote: Some(remote), peer: None }, router, shutdown).await;
    };
    let stream = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = certificate.map(PeerNames::of_verified);
    serve(stream, Facts { remote: Some(remote), peer }, router, shutdown).await
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    facts: Facts,
    router: axum::Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let facts = Connection(Arc::new(facts));
    let running = Arc::new(AtomicUsize::new(0));
    let heard = Arc::new(AtomicBool::new(false));
    let (counted, hears) = (Arc::clone(&running), Arc::clone(&heard));
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(facts.clone());
        hears.store(true, Ordering::Relaxed);
        let (router, place) = (router.clone(), Running::begin(&counted));
        async move {
            let answer = router.oneshot(request.map(axum::body::Body::new)).await;
            drop(place);
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MOST)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(HEADER_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let age = tokio::time::sleep(AGE_MOST);
    // Neither protocol of hyper's bounds how long a client may stay silent after the handshake.
    let silence = async {
        tokio::time::sleep(HEADER_TIMEOUT).await;
        if heard.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = shutdown.cancelled() => {}
        () = age => {}
        () = silence => return Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")),
    }
    connection.as_mut().graceful_shutdown();
    // A client that sends nothing, or half a request, must not hold the process: it gets a moment to end in order.
    let idle = async {
        while running.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(GOODBYE).await;
        }
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        ended = connection => ended.map_err(io::Error::other),
        () = idle => Ok(()),
    }
}

/// Counts a request as running until it is dropped.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
