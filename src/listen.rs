//! One accept loop for the edge and the core: TCP, TLS, then HTTP/1.1 or HTTP/2 over a router.
//!
//! Every stage is bounded in time, and connections in number: all together, those of one address, and those that are
//! still shaking hands. So a slow or silent client holds nothing for long. Each request carries its [`Connection`], which
//! is where the core learns whose certificate is on the other end; a connection ends with the trust in that certificate.

mod peer;
mod places;
mod serve;
mod stream;
mod traffic;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::identity::peer::PeerNames;
use crate::telemetry::OpenConnection;
use crate::tls::{Current, ServerSet};

pub use places::{PER_ADDRESS, PerAddress};

use peer::Peer;
use places::{Place, Places};

/// How long a TLS handshake may take, with the wait for its turn.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most TLS handshakes at once.
const HANDSHAKES_MOST: usize = 1024;
/// The most connections at once.
const CONNECTIONS_MOST: usize = 10_000;
/// How long to wait when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known of the connection that a request came on.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    remote: Option<SocketAddr>,
    peer: Option<PeerNames>,
    certificate: Option<[u8; 32]>,
    /// When whoever carries the request stops waiting for its answer, if that is known.
    until: Option<Instant>,
    /// Set when it is to end: whoever has made something else of it than HTTP finishes what runs, and leaves.
    closing: CancellationToken,
}

/// A bound address, not yet served.
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: Option<Current<ServerSet>>,
    places: Arc<Places>,
    clock: Clock,
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
        Self(Arc::new(Facts {
            remote: None,
            peer: Some(PeerNames::in_process()),
            certificate: None,
            until: None,
            closing: CancellationToken::new(),
        }))
    }

    /// A request that a platform has taken over TLS and hands over with the address that it came from, and that must be answered
    /// by then.
    pub fn handed_over(remote: Option<IpAddr>, until: Instant) -> Self {
        Self(Arc::new(Facts {
            remote: remote.map(|address| SocketAddr::new(address, 0)),
            peer: None,
            certificate: None,
            until: Some(until),
            closing: CancellationToken::new(),
        }))
    }

    /// The other end's address.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.0.remote
    }

    /// When whoever carries the request stops waiting for its answer, if that is known.
    pub fn until(&self) -> Option<Instant> {
        self.0.until
    }

    /// The names in the other end's verified certificate, if it showed one.
    pub fn peer(&self) -> Option<&PeerNames> {
        self.0.peer.as_ref()
    }

    /// Is set when it is to end: the service shuts down, it is old, or its peer is not believed any more. Who has made
    /// something else of it than HTTP finishes what runs and leaves; a while later it is cut.
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// The SHA-256 of the other end's verified certificate in DER, if it showed one: its thumbprint by RFC 8705, section
    /// 3.1, before encoding.
    pub fn certificate_sha256(&self) -> Option<[u8; 32]> {
        self.0.certificate
    }
}

// === impl Listener ===

impl Listener {
    /// Binds an address; port 0 lets the system choose. TLS is done by whatever set is in force when a client connects.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Current<ServerSet>>,
        per_address: PerAddress,
        clock: Clock,
    ) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        Ok(Self { tcp, address, tls, places: Places::new(per_address), clock })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets the connections end what they are at. `connections` tracks them.
    /// `door` is what it is called where connections are counted.
    pub async fn serve(
        self,
        door: &'static str,
        router: axum::Router,
        shutdown: CancellationToken,
        connections: TaskTracker,
    ) {
        let (free, handshakes) =
            (Arc::new(Semaphore::new(CONNECTIONS_MOST)), Arc::new(Semaphore::new(HANDSHAKES_MOST)));
        loop {
            // With every place taken, new connections wait in the system's queue.
            let Ok(held) = Arc::clone(&free).acquire_owned().await else { return };
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
            // One address too many is closed before it costs a handshake.
            let Some(place) = self.places.take(remote.ip()) else { continue };
            let (handshakes, router, shutdown) = (Arc::clone(&handshakes), router.clone(), shutdown.clone());
            let tls = self.tls.as_ref().map(|tls| (tls.clone(), self.clock.clone()));
            let counted = OpenConnection::count(door);
            connections.spawn(async move {
                if let Err(error) = connection(stream, remote, tls, &handshakes, place, router, shutdown).await {
                    tracing::debug!(client.address = %remote, error = %error, "a connection ended early");
                }
                drop((held, counted));
            });
        }
    }
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<(Current<ServerSet>, Clock)>,
    handshakes: &Semaphore,
    place: Place,
    router: axum::Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some((mut current, clock)) = tls else {
        let connection = Connection(Arc::new(Facts {
            remote: Some(remote),
            peer: None,
            certificate: None,
            until: None,
            closing: CancellationToken::new(),
        }));
        return serve::serve(stream, connection, None, place, router, shutdown).await;
    };
    let acceptor = TlsAcceptor::from(Arc::clone(current.borrow_and_update().config()));
    let handshake = async {
        let _turn = handshakes.acquire().await.map_err(io::Error::other)?;
        acceptor.accept(stream).await
    };
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| Peer::new(chain, current, clock));
    let names = peer.as_ref().and_then(Peer::names);
    let certificate = peer.as_ref().and_then(Peer::certificate_sha256);
    let connection = Connection(Arc::new(Facts {
        remote: Some(remote),
        peer: names,
        certificate,
        until: None,
        closing: CancellationToken::new(),
    }));
    serve::serve(stream, connection, peer, place, router, shutdown).await
}
