//! Who calls, and from where.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::identity::Principal;
use crate::identity::bearer::Bearer;
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
