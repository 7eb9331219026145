//! A TCP proxy that cuts connections where it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A proxy in front of one address.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    limits: Arc<Limits>,
}

/// How many bytes still pass, in each direction, over all connections.
struct Limits {
    connections: AtomicUsize,
    up: AtomicUsize,
    down: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let limits = Arc::new(Limits {
            connections: AtomicUsize::new(0),
            up: AtomicUsize::new(usize::MAX),
            down: AtomicUsize::new(usize::MAX),
        });
        let shared = Arc::clone(&limits);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let limits = Arc::clone(&shared);
                limits.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let (client_read, client_write) = client.into_split();
                    let (server_read, server_write) = server.into_split();
                    let cut = CancellationToken::new();
                    tokio::join!(
                        pass(client_read, server_write, &limits.up, &cut),
                        pass(server_read, client_write, &limits.down, &cut)
                    );
                });
            }
        });
        Self { address, limits }
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.limits.connections.load(Ordering::Relaxed)
    }

    /// Connections are cut once so many more bytes have passed up, or down.
    pub(crate) fn cut_after(&self, up: usize, down: usize) {
        self.limits.up.store(up, Ordering::SeqCst);
        self.limits.down.store(down, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub(crate) fn heal(&self) {
        self.cut_after(usize::MAX, usize::MAX);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    left: &AtomicUsize,
    cut: &CancellationToken,
) {
    let mut bytes = vec![0; 4096];
    loop {
        let read = tokio::select! {
            () = cut.cancelled() => return,
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        if read == 0 {
            return;
        }
        let allowed = left.load(Ordering::SeqCst).min(read);
        if left.load(Ordering::SeqCst) != usize::MAX {
            left.fetch_sub(allowed, Ordering::SeqCst);
        }
        if to.write_all(&bytes[..allowed]).await.is_err() {
            return;
        }
        if allowed < read {
            // Both directions end at once: a reset, not a farewell.
            cut.cancel();
            return;
        }
    }
}
