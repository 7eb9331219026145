//! Who calls, and from where.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Edge;
use crate::identity::Principal;
use crate::identity::bearer::{Bearer, BearerError};
use crate::identity::thumbprint::Thumbprint;
use crate::listen::Connection;

/// A caller whose token is good.
pub(super) struct Caller {
    pub(super) bearer: Bearer,
    pub(super) principal: Arc<Principal>,
}

/// Where requests come from: what stays as it is, whichever token they bring.
#[derive(Clone, Default)]
pub(super) struct Origin {
    /// The client's address, past the declared proxies.
    pub(super) address: Option<IpAddr>,
    /// The thumbprint of the certificate that the connection was made with.
    pub(super) certificate: Option<Thumbprint>,
    /// Ends with the connection, or with the service.
    pub(super) closing: CancellationToken,
    /// When whoever carries a request stops waiting for its answer, if that is known.
    pub(super) until: Option<Instant>,
}

impl Caller {
    /// The caller whose token it is, if it counts from there.
    pub(super) async fn of(edge: &Edge, bearer: Bearer, origin: &Origin) -> Result<Self, BearerError> {
        let principal = edge.verifier.verify(&bearer, origin.address, origin.certificate.as_ref()).await?;
        Ok(Self { bearer, principal })
    }

    /// Looks at the token again: what goes on for long does not outlive it.
    pub(super) async fn believe(&self, edge: &Edge, origin: &Origin) -> Result<(), BearerError> {
        edge.verifier.verify(&self.bearer, origin.address, origin.certificate.as_ref()).await.map(drop)
    }
}

impl Origin {
    /// The origin of what comes on a connection, with the address that stands behind it.
    pub(super) fn of(connection: Option<&Connection>, address: Option<IpAddr>) -> Self {
        Self {
            address,
            certificate: connection.and_then(Connection::certificate_sha256).map(Thumbprint::from),
            closing: connection.map(|connection| connection.closing().clone()).unwrap_or_default(),
            until: connection.and_then(Connection::until),
        }
    }
}
