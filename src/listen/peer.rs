//! The other end of a TLS connection by its certificate, and for how long that is believed.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::identity::peer::PeerNames;
use crate::tls::{Current, ServerSet, end_of};

/// The longest time between two looks at the clock: it may be set while a connection is open.
const LOOK: Duration = Duration::from_secs(30);

/// A client that showed a certificate, and the handshake believed it.
#[derive(Debug)]
pub(super) struct Peer {
    chain: Vec<CertificateDer<'static>>,
    ends: Vec<Timestamp>,
    current: Current<ServerSet>,
    clock: Clock,
}

impl Peer {
    /// `current` was last read before the handshake.
    pub(super) fn new(chain: &[CertificateDer<'_>], current: Current<ServerSet>, clock: Clock) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let ends = chain.iter().filter_map(end_of).collect();
        (!chain.is_empty()).then_some(Self { chain, ends, current, clock })
    }

    /// The names in its certificate.
    pub(super) fn names(&self) -> Option<PeerNames> {
        self.chain.first().map(PeerNames::of_verified)
    }

    /// The SHA-256 of its certificate in DER.
    pub(super) fn certificate_sha256(&self) -> Option<[u8; 32]> {
        self.chain.first().map(|certificate| Sha256::digest(certificate).into())
    }

    /// Waits until it is not believed any more: a new set does not know its CA or has it revoked, or it ended. Says why.
    pub(super) async fn refused(&mut self) -> rustls::Error {
        let mut looked = self.clock.now();
        let mut reloads = true;
        loop {
            let next = self.ends.iter().filter(|end| **end >= looked).min();
            // The second that a certificate ends in is its last.
            let left = next.map(|end| end.duration_since(looked).unsigned_abs() + Duration::from_secs(1));
            let changed = tokio::select! {
                changed = self.current.changed(), if reloads => {
                    reloads = changed.is_ok();
                    reloads
                }
                () = tokio::time::sleep(left.unwrap_or(LOOK).min(LOOK)) => false,
            };
            let now = self.clock.now();
            let ended = self.ends.iter().any(|end| (looked..now).contains(end));
            looked = now;
            if changed || ended {
                let set = self.current.borrow_and_update().clone();
                if let Err(why) = set.believes(&self.chain, now) {
                    return why;
                }
            }
        }
    }
}
