//! The real stack: certificates, configuration, core and edge.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whitelistmcp::app;
use whitelistmcp::certs::{self, Leaf};
use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::grpc::client::{self, Link};
use whitelistmcp::listen::{Listener, PerAddress};
use whitelistmcp::shutdown::Shutdown;
use whitelistmcp::tls::{Current, Identity, Reloader, ServerFiles, ServerSet, Version};

use crate::Result;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const GROUP: &str = "sg-0123456789abcdef0";
pub(crate) const GROUP_NAME: &str = "staging-db";
pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/whitelistmcp";
pub(crate) const EXTERNAL_ID: &str = "bench-external-id";
pub(crate) const AUDIENCE: &str = "https://localhost/mcp";

const EDGE: &str = "spiffe://bench.example/edge";
const SERVICE: &str = "spiffe://bench.example/service";

/// Certificates for everyone, in one directory.
#[derive(Clone)]
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    pub(crate) fn create(directory: PathBuf) -> Result<Self> {
        let leaf = |name: &str, names: &[&str]| Leaf {
            name: name.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let leaves = [leaf("core", &["localhost"]), leaf("edge", &[EDGE, "localhost"]), leaf("service", &[SERVICE])];
        certs::create(&directory, &leaves)?;
        Ok(Self(directory))
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        Identity { certificate: self.0.join(format!("{name}.pem")), key: self.0.join(format!("{name}.key")) }
    }

    /// The service's own link by mTLS, to `backend`: as the edge makes it, and as a gRPC client of the core makes it.
    pub(crate) fn link(&self, name: &str, backend: SocketAddr) -> Result<Link> {
        let config = client::Config {
            address: backend.to_string(),
            server_name: Some("localhost".to_owned()),
            identity: self.identity(name),
            ca: self.ca(),
            descriptors: None,
        };
        Ok(Link::remote(&config, Clock::system())?.0)
    }
}

/// Where the real stack listens.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) edge: SocketAddr,
    pub(crate) core: SocketAddr,
}

/// Starts core and edge, each on a runtime of its own, as in two processes.
pub(crate) fn start(
    core_runtime: &Runtime,
    edge_runtime: &Runtime,
    core: &Config,
    edge: impl FnOnce(SocketAddr) -> Result<Config>,
) -> Result<Addresses> {
    let shutdown = Shutdown::new();
    let bound = core_runtime.block_on(app::core(core, &shutdown))?;
    let core = bound.core_address().ok_or("the core has no address")?;
    core_runtime.spawn({
        let shutdown = shutdown.clone();
        async move { bound.run(&shutdown).await }
    });
    let bound = edge_runtime.block_on(app::edge(&edge(core)?, &shutdown))?;
    let edge = bound.edge_address().ok_or("the edge has no address")?;
    edge_runtime.spawn(async move { bound.run(&shutdown).await });
    Ok(Addresses { edge, core })
}

/// Serves a router as the service serves its own: the same listener, the same TLS.
pub(crate) async fn serve(router: Router, tls: Option<Current<ServerSet>>) -> Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind(address, tls, PerAddress::default(), Clock::system()).await?;
    let address = listener.address();
    tokio::spawn(listener.serve("bench", router, CancellationToken::new(), TaskTracker::new()));
    Ok(address)
}

/// The core's TLS, for the bare hop's backend.
pub(crate) fn backend_tls(certificates: &Certificates) -> Result<Current<ServerSet>> {
    let files = ServerFiles::mutual("core.tls", &certificates.identity("core"), &certificates.ca(), &[]);
    Ok(Reloader::new(files, Clock::system())?.1)
}

/// The edge's TLS, for the bare hop's front.
pub(crate) fn front_tls(certificates: &Certificates) -> Result<Current<ServerSet>> {
    let files = ServerFiles::public("edge.tls", &certificates.identity("edge"), Version::default(), None);
    Ok(Reloader::new(files, Clock::system())?.1)
}

/// So high that none of what is measured meets them.
const LIMITS: &str = "
        [limits]
        reads_per_minute = 10000000
        changes_per_minute = 10000000
        others_per_minute = 10000000
        changes_per_hour = 100000
        changes_per_day = 100000
        in_flight = 10000
        operations = 10000
        address.requests_per_minute = 10000000
        ";

/// The core's configuration; port 0 lets the system choose.
pub(crate) fn core_config(
    certificates: &Certificates,
    port: u16,
    issuer: &str,
    aws: SocketAddr,
    journal: &Path,
) -> String {
    let (core, ca) = (certificates.identity("core"), certificates.ca());
    format!(
        r#"
        [core]
        listen = "127.0.0.1:{port}"
        client_ca = "{ca}"
        tls = {{ certificate = "{certificate}", key = "{key}" }}

        [[core.peers]]
        san = "{EDGE}"
        role = "edge"

        [[core.peers]]
        san = "{SERVICE}"
        role = "service"
        scopes = ["whitelist:write"]

        [oidc.company]
        issuer = "{issuer}"
        audience = "{AUDIENCE}"

        [aws]
        endpoint = "http://{aws}"

        [[aws.accounts]]
        id = "{ACCOUNT}"
        role_arn = "{ROLE}"
        external_id = "{EXTERNAL_ID}"
        regions = ["{REGION}"]

        [targets]
        account = "{ACCOUNT}"
        region = "{REGION}"
        groups = [{{ name = "{GROUP_NAME}", id = "{GROUP}" }}]

        [audit]
        directory = "{journal}"
        volume = "persistent"
        {LIMITS}
        "#,
        ca = ca.display(),
        certificate = core.certificate.display(),
        key = core.key.display(),
        journal = journal.display(),
    )
}

/// The edge's configuration; port 0 lets the system choose.
pub(crate) fn edge_config(certificates: &Certificates, port: u16, issuer: &str, core: SocketAddr) -> String {
    let (edge, ca) = (certificates.identity("edge"), certificates.ca());
    format!(
        r#"
        [edge]
        listen = "127.0.0.1:{port}"
        public_url = "{AUDIENCE}"
        tls = {{ certificate = "{certificate}", key = "{key}" }}

        [edge.backend]
        address = "{core}"
        server_name = "localhost"
        certificate = "{certificate}"
        key = "{key}"
        ca = "{ca}"

        [oidc.company]
        issuer = "{issuer}"
        audience = "{AUDIENCE}"
        {LIMITS}
        "#,
        certificate = edge.certificate.display(),
        key = edge.key.display(),
        ca = ca.display(),
    )
}

/// Reads a configuration as the binary would.
pub(crate) fn parse(text: &str) -> Result<Config> {
    Ok(Config::parse(Path::new("bench.toml"), text, [])?)
}
