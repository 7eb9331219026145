//! What a listener does TLS by: its own certificate, and whose certificates it believes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, UnixTime};
use schemars::JsonSchema;
use serde::Deserialize;

use super::authorities::{Choice, check_authorities};
use super::load::roots_of;
use super::reload::{Material, Read};
use super::verify::{Purpose, check_identity, check_revocation_list};
use super::{Identity, TlsError, provider};

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
pub enum Version {
    /// TLS 1.2 (RFC 5246), with ephemeral keys and authenticated encryption only.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Demand {
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    Required,
}

/// Whose client certificates are believed.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The CA certificates (PEM) that they come from.
    pub ca: PathBuf,
    /// Revocation lists. With any, every certificate of a chain needs one that covers it and is not past its end.
    pub crl: Vec<PathBuf>,
    /// Whether one must be shown.
    pub demand: Demand,
}

/// The files that a listener does TLS by.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    part: &'static str,
    identity: Identity,
    clients: Option<Clients>,
    minimum: Version,
    protocols: Vec<Vec<u8>>,
}

/// What those files come to.
#[derive(Debug)]
pub struct ServerSet {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    end: Timestamp,
    choice: Choice,
}

impl ServerFiles {
    /// A server of gRPC that demands a client certificate: TLS 1.3, HTTP/2.
    pub fn mutual(part: &'static str, identity: &Identity, ca: &Path, crl: &[PathBuf]) -> Self {
        let clients = Clients { ca: ca.to_owned(), crl: crl.to_vec(), demand: Demand::Required };
        Self {
            part,
            identity: identity.clone(),
            clients: Some(clients),
            minimum: Version::Tls13,
            protocols: vec![b"h2".to_vec()],
        }
    }

    /// A server for anyone, or for `clients` where they are given: HTTP/1.1 and HTTP/2.
    pub fn public(part: &'static str, identity: &Identity, minimum: Version, clients: Option<Clients>) -> Self {
        let protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { part, identity: identity.clone(), clients, minimum, protocols }
    }
}

impl Material for ServerFiles {
    type Set = ServerSet;

    fn part(&self) -> &'static str {
        self.part
    }

    fn paths(&self) -> Vec<&Path> {
        let clients = self.clients.iter().flat_map(|clients| std::iter::once(&clients.ca).chain(&clients.crl));
        [&self.identity.certificate, &self.identity.key].into_iter().chain(clients).map(PathBuf::as_path).collect()
    }

    fn build(&self, Read(read): &Read, now: Timestamp) -> Result<ServerSet, TlsError> {
        let (chain, key) = self.identity.take(read)?;
        let mut end = check_identity(&self.identity.certificate, &chain, Purpose::Server, now)?;
        let versions: &[_] = match self.minimum {
            Version::Tls13 => &[&TLS13],
            Version::Tls12 => &[&TLS13, &TLS12],
        };
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(TlsError::Protocol)?;
        let (mut clients, mut choice) = (None, Choice::default());
        let config = match &self.clients {
            None => config.with_no_client_auth(),
            Some(accepted) => {
                let authorities = check_authorities(&accepted.ca, &read.certificates(&accepted.ca)?, now)?;
                end = end.min(authorities.end);
                let (mut lists, mut aside) = (Vec::new(), Vec::new());
                for path in &accepted.crl {
                    for list in read.revocation_lists(path)? {
                        match check_revocation_list(path, &list, &authorities, now)? {
                            Some(until) => {
                                end = end.min(until);
                                lists.push(list);
                            }
                            None => aside.push(list),
                        }
                    }
                }
                // Lists of CAs that are set aside say by being there that others need one too. They come last, as the first of an
                // issuer's name counts.
                lists.append(&mut aside);
                choice = authorities.choice;
                let roots = Arc::new(roots_of(&accepted.ca, authorities.trusted)?);
                // With lists: the whole chain is looked up, and what no list speaks of is refused.
                let builder = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .with_crls(lists)
                    .enforce_revocation_expiration();
                let builder = match accepted.demand {
                    Demand::Required => builder,
                    Demand::Optional => builder.allow_unauthenticated(),
                };
                let verifier =
                    builder.build().map_err(|source| TlsError::ClientCa { ca: accepted.ca.clone(), source })?;
                clients = Some(Arc::clone(&verifier));
                config.with_client_cert_verifier(verifier)
            }
        };
        let mut config = config.with_single_cert(chain, key).map_err(|source| self.identity.unusable(source))?;
        config.alpn_protocols.clone_from(&self.protocols);
        if clients.is_some() {
            // A resumed session would carry a certificate that was checked long ago.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(ServerSet { config: Arc::new(config), clients, end, choice })
    }

    fn end(set: &ServerSet) -> Timestamp {
        set.end
    }

    fn choice(set: &ServerSet) -> &Choice {
        &set.choice
    }
}

impl ServerSet {
    /// The settings of a handshake.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether a client's chain, the leaf first, is believed at that time; a chain that was believed once may have been
    /// revoked, have lost its CA, or have ended.
    pub fn believes(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), rustls::Error> {
        let since = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        match (&self.clients, chain) {
            (Some(clients), [leaf, intermediates @ ..]) => {
                clients.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since)).map(drop)
            }
            _ => Err(rustls::Error::NoCertificatesPresented),
        }
    }
}
