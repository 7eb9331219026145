//! Clients that show any certificate, good or bad: the service's own would refuse to start with some of them.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use whitelistmcp::tls;

/// Settings that trust the directory's CA and show that certificate of it.
pub(crate) fn client(directory: &Path, certificate: Option<&str>, protocols: &[&[u8]]) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(tls::load_roots(&directory.join("ca.pem")).expect("a CA"));
    let mut config = match certificate {
        None => config.with_no_client_auth(),
        Some(name) => {
            let file = |ending: &str| std::fs::read(directory.join(format!("{name}.{ending}"))).expect("a file");
            let chain = CertificateDer::pem_slice_iter(&file("pem")).collect::<Result<_, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_slice(&file("key")).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// A channel to a core by a certificate of that directory. It connects when it is first used.
pub(crate) fn channel(directory: &Path, certificate: &str, port: u16) -> Channel {
    let tls = TlsConnector::from(Arc::new(client(directory, Some(certificate), &[b"h2"])));
    let endpoint = Endpoint::from_shared(format!("http://localhost:{port}")).expect("an address");
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(("localhost", port)).await?;
            stream.set_nodelay(true)?;
            let name = "localhost".try_into().expect("a name");
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    }))
}
