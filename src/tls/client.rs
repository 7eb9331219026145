//! What a client does mutual TLS by: its own certificate, and the CA that it believes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::version::TLS13;

use super::authorities::{Choice, check_authorities};
use super::load::roots_of;
use super::reload::{Material, Read};
use super::verify::{Purpose, check_identity};
use super::{Identity, TlsError, provider};

/// The files that a client does mutual TLS by.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    part: &'static str,
    identity: Identity,
    ca: PathBuf,
}

/// What those files come to.
#[derive(Debug)]
pub struct ClientSet {
    config: Arc<ClientConfig>,
    end: Timestamp,
    choice: Choice,
}

impl ClientFiles {
    /// A client of gRPC that shows its own certificate and trusts one CA file: TLS 1.3, HTTP/2.
    pub fn mutual(part: &'static str, identity: &Identity, ca: &Path) -> Self {
        Self { part, identity: identity.clone(), ca: ca.to_owned() }
    }
}

impl Material for ClientFiles {
    type Set = ClientSet;

    fn part(&self) -> &'static str {
        self.part
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.identity.certificate, &self.identity.key, &self.ca]
    }

    fn build(&self, Read(read): &Read, now: Timestamp) -> Result<ClientSet, TlsError> {
        let (chain, key) = self.identity.take(read)?;
        let end = check_identity(&self.identity.certificate, &chain, Purpose::Client, now)?;
        let authorities = check_authorities(&self.ca, &read.certificates(&self.ca)?, now)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Protocol)?
            .with_root_certificates(roots_of(&self.ca, authorities.trusted)?)
            .with_client_auth_cert(chain, key)
            .map_err(|source| self.identity.unusable(source))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(ClientSet { config: Arc::new(config), end: end.min(authorities.end), choice: authorities.choice })
    }

    fn end(set: &ClientSet) -> Timestamp {
        set.end
    }

    fn choice(set: &ClientSet) -> &Choice {
        &set.choice
    }
}

impl ClientSet {
    /// The settings of a handshake.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }
}
