//! The core's gRPC server: the service, health, and reflection in both of its versions.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::broker::Broker;
use crate::broker::upkeep::Reconciler;
use crate::identity::peer;
use crate::pb::mcp::v1::approvals_server::ApprovalsServer;
use crate::pb::mcp::v1::catalogue_server::CatalogueServer;
use crate::pb::whitelistmcp::v1::whitelist_service_server::WhitelistServiceServer;

use super::approvals;
use super::authn::Authenticator;
use super::catalogue::Catalogued;
use super::service::Service;
use crate::listen::{PER_ADDRESS, PerAddress};
use crate::tls::{self, ServerFiles};

/// `[core]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address to listen on.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The core's certificate and key.
    pub tls: tls::Identity,
    /// The CA (PEM) that every client's certificate must come from.
    pub client_ca: PathBuf,
    /// Revocation lists (PEM or DER) of that CA. With any, a certificate that none of them covers is refused.
    #[serde(default)]
    pub client_crl: Vec<PathBuf>,
    /// The most connections that one address may have open.
    #[serde(default = "default_connections")]
    pub connections_per_address: NonZeroUsize,
    /// Who may connect, and as what.
    #[serde(default)]
    pub peers: Vec<peer::Config>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn default_connections() -> NonZeroUsize {
    PER_ADDRESS
}

impl Config {
    /// The files that it does TLS by.
    pub fn files(&self) -> ServerFiles {
        ServerFiles::mutual("core.tls", &self.tls, &self.client_ca, &self.client_crl)
    }

    /// How many connections each address may have.
    pub fn per_address(&self) -> PerAddress {
        PerAddress { most: self.connections_per_address, uncounted: Vec::new() }
    }
}

/// The most bytes of a request. The largest sound request has a few hundred.
const REQUEST_MAX: usize = 64 * 1024;

/// The service, as its health is asked for.
pub const SERVICE: &str = "whitelistmcp.v1.WhitelistService";

/// What replicas share, as its health is asked for where it is configured.
pub const REDIS: &str = "redis";

/// The core's services as one router, and what tells its health service how it is.
pub async fn routes(
    broker: Arc<Broker>,
    reconciler: Arc<Reconciler>,
    authenticator: Arc<Authenticator>,
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let approvals = approvals::Service::new(Arc::clone(&broker), Arc::clone(&authenticator));
    let approvals = ApprovalsServer::new(approvals).max_decoding_message_size(REQUEST_MAX);
    let catalogue = CatalogueServer::new(Catalogued::new(Arc::clone(&broker), Arc::clone(&authenticator)))
        .max_decoding_message_size(REQUEST_MAX);
    let service = WhitelistServiceServer::new(Service::new(broker, reconciler, authenticator))
        .max_decoding_message_size(REQUEST_MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::pb::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = RoutesBuilder::default();
    routes.add_service(service).add_service(approvals).add_service(catalogue).add_service(health);
    // Clients in use speak one or the other.
    routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    Ok((routes.routes(), reporter))
}
