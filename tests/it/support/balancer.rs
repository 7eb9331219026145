//! A plain TCP balancer: each connection goes to the next backend that answers. It knows nothing of what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
}

impl Balancer {
    pub(crate) async fn start(backends: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (next, backends) = (Arc::new(AtomicUsize::new(0)), Arc::new(backends));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (next, backends) = (Arc::clone(&next), Arc::clone(&backends));
                tokio::spawn(async move {
                    for _ in 0..backends.len() {
                        let backend = backends[next.fetch_add(1, Ordering::Relaxed) % backends.len()];
                        if let Ok(mut server) = TcpStream::connect(("127.0.0.1", backend)).await {
                            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                            return;
                        }
                    }
                });
            }
        });
        Self { address }
    }
}
