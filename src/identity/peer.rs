//! The owner of a client certificate, and the role that the configuration gives it.

use std::collections::HashMap;
use std::fmt;

use rustls_pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::Deserialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::scope::Scopes;
use crate::error::{Code, Error};

/// The name of a peer: a URI (such as a SPIFFE ID) or a DNS name from its certificate's subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerId(String);

/// Who is on the other end of a connection.
#[derive(Clone, Debug)]
pub struct PeerNames(End);

#[derive(Clone, Debug)]
enum End {
    /// The edge of the same process. No certificate can say so.
    InProcess,
    /// Every name that a verified certificate carries.
    Certificate(Vec<PeerId>),
}

/// `[[core.peers]]`: who may connect to the core, and as what.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The URI or DNS subject alternative name in the peer's certificate, compared exactly.
    pub san: String,
    /// What the peer is.
    pub role: RoleName,
    /// The scopes of a service; an edge and a client have none of their own.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// A role's name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Speaks for people, by their own tokens.
    Edge,
    /// Speaks for itself.
    Service,
    /// Lets programs with API keys connect; it is nobody by itself.
    Client,
}

/// What a known peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Speaks for people, by their own tokens; it is nobody by itself.
    Edge,
    /// Speaks for itself, with these scopes.
    Service(Scopes),
    /// Lets a program connect that then says who it is by an API key. It says nothing else: not which address it calls
    /// from, and nothing of people.
    Client,
}

/// The peers that are known.
#[derive(Clone, Debug)]
pub struct Peers {
    known: HashMap<PeerId, Role>,
    in_process: Option<(PeerId, Role)>,
}

/// Why a peer is not known.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No name of the certificate is in the configuration.
    #[error("this certificate is valid, but none of its names ({0}) is a known peer")]
    Unknown(String),
    /// Two names of one certificate have roles.
    #[error("this certificate carries several known names ({0}); one certificate must be one peer")]
    Ambiguous(String),
}

/// Why `[[core.peers]]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The same name twice.
    #[error("peer `{0}` is given twice")]
    Twice(String),
    /// An edge or a client with scopes.
    #[error("peer `{0}` is nobody by itself: the token or key that it sends along has scopes; take `scopes` out")]
    NobodyWithScopes(String),
    /// A service without scopes.
    #[error("peer `{0}` is a service without `scopes`; it could do nothing")]
    ServiceWithoutScopes(String),
    /// A scope that no tool asks for.
    #[error("peer `{0}`: no tool asks for the scope `{1}`")]
    UnknownScope(String, String),
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Self::new(Code::PermissionDenied, "PEER_UNKNOWN", error.to_string())
    }
}

impl PeerId {
    /// The link between an edge and a core that share one process.
    pub fn in_process() -> Self {
        Self("in-process".to_owned())
    }

    /// A peer that no certificate shows, for questions asked offline.
    pub(super) fn supposed(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PeerNames {
    /// The URI and DNS names of a certificate that TLS has verified. Its common name is not a name (RFC 6125).
    pub fn of_verified(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self(End::Certificate(Vec::new()));
        };
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return Self(End::Certificate(Vec::new())) };
        let named = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => Some(PeerId((*name).to_owned())),
            _ => None,
        });
        Self(End::Certificate(named.collect()))
    }

    /// The names of the link within one process.
    pub fn in_process() -> Self {
        Self(End::InProcess)
    }
}

impl fmt::Display for PeerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            End::InProcess => f.write_str("in-process"),
            End::Certificate(names) if names.is_empty() => f.write_str("it has no URI or DNS name"),
            End::Certificate(names) => f.write_str(&names.iter().map(PeerId::as_str).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Peers {
    /// Checks the configuration. `known_scopes` are those that some tool asks for.
    pub fn new<'a>(
        configs: &[Config],
        known_scopes: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Self, ConfigError> {
        let mut peers = HashMap::with_capacity(configs.len());
        for config in configs {
            if let Some(unknown) =
                config.scopes.iter().find(|scope| !known_scopes.clone().any(|known| known == scope.as_str()))
            {
                return Err(ConfigError::UnknownScope(config.san.clone(), unknown.clone()));
            }
            let role = match (config.role, config.scopes.is_empty()) {
                (RoleName::Edge, true) => Role::Edge,
                (RoleName::Service, false) => Role::Service(config.scopes.iter().cloned().collect()),
                (RoleName::Client, true) => Role::Client,
                (RoleName::Edge | RoleName::Client, false) => {
                    return Err(ConfigError::NobodyWithScopes(config.san.clone()));
                }
                (RoleName::Service, true) => return Err(ConfigError::ServiceWithoutScopes(config.san.clone())),
            };
            if peers.insert(PeerId(config.san.clone()), role).is_some() {
                return Err(ConfigError::Twice(config.san.clone()));
            }
        }
        Ok(Self { known: peers, in_process: None })
    }

    /// The edge of the same process, beside the peers that are configured.
    #[must_use]
    pub fn with_in_process_edge(mut self) -> Self {
        self.in_process = Some((PeerId::in_process(), Role::Edge));
        self
    }

    /// The one known name among a certificate's names, and its role.
    pub fn recognise(&self, names: &PeerNames) -> Result<(&PeerId, &Role), PeerError> {
        let certified = match &names.0 {
            End::InProcess => {
                let edge = self.in_process.as_ref().map(|(peer, role)| (peer, role));
                return edge.ok_or_else(|| PeerError::Unknown(names.to_string()));
            }
            End::Certificate(certified) => certified,
        };
        let mut known = certified.iter().filter_map(|name| self.known.get_key_value(name));
        match (known.next(), known.next()) {
            (Some(peer), None) => Ok(peer),
            (None, _) => Err(PeerError::Unknown(names.to_string())),
            (Some(_), Some(_)) => Err(PeerError::Ambiguous(names.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(names: &[&str]) -> PeerNames {
        let mut params = rcgen::CertificateParams::default();
        let ia5 = |name: &str| rcgen::string::Ia5String::try_from(name).expect("ASCII");
        let san = |name: &&str| {
            if name.contains(':') { rcgen::SanType::URI(ia5(name)) } else { rcgen::SanType::DnsName(ia5(name)) }
        };
        params.subject_alt_names = names.iter().map(san).collect();
        let key = rcgen::KeyPair::generate().expect("a key");
        PeerNames::of_verified(params.self_signed(&key).expect("a certificate").der())
    }

    fn peers(configs: &[Config]) -> Result<Peers, ConfigError> {
        Peers::new(configs, ["r", "w"].into_iter())
    }

    fn config(san: &str, role: RoleName, scopes: &[&str]) -> Config {
        Config { san: san.to_owned(), role, scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect() }
    }

    #[test]
    fn a_certificate_is_one_known_name() {
        let peers = peers(&[config("spiffe://x/edge", RoleName::Edge, &[]), config("ci.x", RoleName::Service, &["r"])])
            .expect("sound");
        assert_eq!(peers.recognise(&names_of(&["spiffe://x/edge", "localhost"])).expect("known").1, &Role::Edge);
        assert!(matches!(peers.recognise(&names_of(&["ci.x"])).expect("known").1, Role::Service(_)));
        for names in [&["spiffe://x/edge/"][..], &["CI.x"], &[], &["spiffe://x/edge", "ci.x"]] {
            assert!(peers.recognise(&names_of(names)).is_err(), "{names:?}");
        }
    }

    #[test]
    fn no_certificate_is_the_edge_of_the_same_process() {
        let peers = peers(&[]).expect("sound").with_in_process_edge();
        assert!(peers.recognise(&PeerNames::in_process()).is_ok());
        assert!(peers.recognise(&names_of(&["in-process"])).is_err());
        let remote_only = self::peers(&[]).expect("sound");
        assert!(remote_only.recognise(&PeerNames::in_process()).is_err());
    }

    #[test]
    fn roles_and_scopes_fit_together() {
        assert!(matches!(peers(&[config("a", RoleName::Edge, &["r"])]), Err(ConfigError::NobodyWithScopes(_))));
        assert!(matches!(peers(&[config("a", RoleName::Client, &["r"])]), Err(ConfigError::NobodyWithScopes(_))));
        assert!(matches!(peers(&[config("a", RoleName::Service, &[])]), Err(ConfigError::ServiceWithoutScopes(_))));
        assert!(matches!(peers(&[config("a", RoleName::Service, &["x"])]), Err(ConfigError::UnknownScope(..))));
        let twice = [config("a", RoleName::Edge, &[]), config("a", RoleName::Service, &["r"])];
        assert!(matches!(peers(&twice), Err(ConfigError::Twice(_))));
    }
}
