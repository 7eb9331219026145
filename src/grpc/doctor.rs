//! What an edge finds where its core should be, and what listens where a core should: for an operator, not on the road of
//! a call. Nothing is changed or recorded by any of it, and every question has an end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Request};

use super::client::{Config, Link, LinkError};
use super::probe;
use super::server;
use super::status::Refusal;
use crate::clock::Clock;
use crate::tls::{self, Material as _, TlsError};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an HTTP/2 client says first: the preface and an empty SETTINGS frame (RFC 9113, section 3.4).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Which tools a caller may call: it establishes who calls, and nothing is recorded of it.
const WHO: &str = "/mcp.v1.Catalogue/ListCallableTools";

/// Why an edge does not come through to its core, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// The edge's own settings.
    #[error(transparent)]
    Own(#[from] LinkError),
    /// Nobody listens, or no way leads there.
    #[error(
        "{address}: nobody listens there or no way leads there; start the core, or mend `[edge.backend] address`, its name or the network between"
    )]
    Nobody {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer.
    #[error(
        "{0} gives no answer within {PATIENCE:?}; look at the network between, and whether that is the core's address"
    )]
    Silent(String),
    /// Its certificate is of another CA.
    #[error(
        "{address} shows a certificate that does not come from {ca}: name the CA of the core's certificate in `[edge.backend] ca`, or mend the address"
    )]
    Issuer {
        /// Where.
        address: String,
        /// The CA's file.
        ca: PathBuf,
    },
    /// Its certificate is of another name.
    #[error(
        "{address} shows a certificate of another name: set `[edge.backend] server_name` to a name in the core's certificate"
    )]
    Name {
        /// Where.
        address: String,
        /// Which names were wanted and shown.
        #[source]
        source: rustls::Error,
    },
    /// Its certificate is not good otherwise.
    #[error("{address} shows a certificate that is not good: give the core a new one")]
    Unfit {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The edge's own certificate is not taken.
    #[error(
        "{0} does not take the edge's certificate ({1}): it must come from the core's `[core] client_ca`, be neither revoked nor expired, and `client_crl` must cover its CA"
    )]
    Refused(String, String),
    /// TLS failed otherwise.
    #[error("{address} does not speak TLS as a core does; mend `[edge.backend] address`, or look at the core's log")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a core takes an edge by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// As an edge.
    Edge,
    /// As something else: another role, or nobody.
    Else(String),
    /// What answers does not say.
    Untold(String),
}

/// A core that an edge comes through to.
#[derive(Debug)]
pub struct Core(Link);

/// What listens where a core should.
#[derive(Debug)]
pub enum Listening {
    /// The core, by its certificate.
    Core,
    /// Nobody, as far as can be seen from here.
    Nobody(io::Error),
    /// Something that does not show the core's certificate.
    Else(String),
}

impl Core {
    /// Connects as the edge would.
    pub async fn reach(config: &Config, clock: Clock) -> Result<Self, Unreached> {
        let (link, _) = Link::remote(config, clock.clone())?;
        let address = config.address.clone();
        let set = config.files().load(clock.now()).map_err(LinkError::from)?;
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let name = config.server_name.clone().unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
        let name = ServerName::try_from(name.clone()).map_err(|_| LinkError::ServerName(name))?;
        let silent = || Unreached::Silent(address.clone());
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(&address)).await.map_err(|_| silent())?;
        let stream = stream.map_err(|source| Unreached::Nobody { address: address.clone(), source })?;
        let exchange = async {
            let mut stream = TlsConnector::from(Arc::clone(set.config())).connect(name, stream).await?;
            // In TLS 1.3 a client hears only afterwards that its certificate is not taken.
            stream.write_all(HELLO).await?;
            stream.flush().await?;
            let heard = stream.read(&mut [0; 1]).await?;
            if heard == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        };
        let said = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| silent())?;
        said.map_err(|error| why(address.clone(), &config.ca, error))?;
        Ok(Self(link))
    }

    /// Whether it serves, by the gRPC health protocol; what is wrong if not.
    pub async fn serves(&self) -> Result<(), probe::Problem> {
        probe::ask(&self.0).await
    }

    /// As what it takes the edge.
    pub async fn takes(&self) -> Taken {
        let answer = self.0.unary(PathAndQuery::from_static(WHO), Request::new(Bytes::new()));
        let status = match tokio::time::timeout(PATIENCE, answer).await {
            Err(_) => return Taken::Untold("no answer in time".to_owned()),
            Ok(Ok(_)) => return Taken::Else("it is known as a service, not as an edge".to_owned()),
            Ok(Err(status)) => status,
        };
        let refusal = Refusal::of(&status);
        match refusal.reason.as_str() {
            // Known, and only the person's token is missing.
            "TOKEN_MISSING" => Taken::Edge,
            "API_KEY_MISSING" => Taken::Else("it is known as a client, not as an edge".to_owned()),
            _ if status.code() == Code::PermissionDenied => Taken::Else(refusal.message),
            _ => Taken::Untold(super::status::name(status.code()).to_owned()),
        }
    }
}

/// What a handshake that failed says.
fn why(address: String, ca: &Path, source: io::Error) -> Unreached {
    match tls::reason(&source) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            Unreached::Issuer { address, ca: ca.to_owned() }
        }
        Some(
            error @ rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ),
        ) => Unreached::Name { address, source: error.clone() },
        Some(error @ rustls::Error::InvalidCertificate(_)) => Unreached::Unfit { address, source: error.clone() },
        Some(rustls::Error::AlertReceived(
            alert @ (AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate),
        )) => Unreached::Refused(address, format!("{alert:?}")),
        _ => Unreached::Tls { address, source },
    }
}

/// What listens where a core of this configuration would. None where the system chooses the port.
pub async fn listening(core: &server::Config) -> Result<Option<Listening>, TlsError> {
    let address = seen_from_here(core.listen);
    if address.port() == 0 {
        return Ok(None);
    }
    let config = tls::client_of(&core.tls.certificate)?;
    let stream = match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Err(_) => return Ok(Some(Listening::Nobody(io::ErrorKind::TimedOut.into()))),
        Ok(Err(error)) => return Ok(Some(Listening::Nobody(error))),
        Ok(Ok(stream)) => stream,
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream);
    Ok(Some(match tokio::time::timeout(PATIENCE, handshake).await {
        Err(_) => Listening::Else(format!("it says nothing within {PATIENCE:?}")),
        Ok(Ok(_)) => Listening::Core,
        Ok(Err(error)) => match tls::reason(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => Listening::Else("it shows another certificate".to_owned()),
            _ => Listening::Else(format!("it does not speak TLS as a core does: {error}")),
        },
    }))
}

/// Every address of the machine is listened on at its loopback address too.
fn seen_from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
