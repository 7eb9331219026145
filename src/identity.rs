//! Who calls: people by a verified access token, or by the process that they run themselves; services by a verified client
//! certificate; the service itself.
//!
//! A [`Principal`] can only be made here and below, from something that was verified; the rest of the program may only
//! ask it questions.

pub mod api_key;
pub mod bearer;
pub mod local;
pub mod oidc;
pub mod peer;
pub mod scope;
mod supposed;
pub mod thumbprint;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use peer::PeerId;
use scope::Scopes;
use thumbprint::Thumbprint;

pub use supposed::{Supposed, SupposedKind};

/// Somebody whose identity is proven.
#[derive(Clone, Debug)]
pub struct Principal {
    kind: Kind,
    issuer: String,
    subject: String,
    name: String,
    id: String,
    groups: BTreeSet<String>,
    client: Option<String>,
    owner: Option<String>,
    scopes: Scopes,
    expires: Option<Timestamp>,
    bound: Option<Thumbprint>,
    said: Said,
}

/// What a token says of its holder beyond who they are: for policies and the audit trail. A certificate says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The authentication context class (`acr`, OpenID Connect Core 1.0, section 2).
    pub acr: Option<String>,
    /// The authentication methods (`amr`, RFC 8176).
    pub amr: BTreeSet<String>,
    /// When the holder last logged in (`auth_time`).
    pub authenticated: Option<Timestamp>,
    /// Who acts for the holder, the current actor first (`act`, RFC 8693, section 4.1).
    pub actors: Vec<String>,
    /// The claims that the configuration asks to be kept, as text.
    pub claims: BTreeMap<String, String>,
}

/// What a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A person, or an agent with a person's token or on their machine.
    Person,
    /// A program with a client certificate of its own.
    Service,
    /// A program with an API key.
    ApiKey,
    /// This service, acting for itself.
    Own,
}

/// A principal, and how its call came in.
#[derive(Clone, Debug)]
pub struct Caller {
    principal: Principal,
    peer: PeerId,
    address: Option<IpAddr>,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Service => "service",
            Self::ApiKey => "api_key",
            Self::Own => "own",
        }
    }
}

// === impl Principal ===

impl Principal {
    /// A service that proved itself by its certificate.
    pub fn service(peer: &PeerId, scopes: Scopes) -> Self {
        let subject = peer.as_str().to_owned();
        let name = subject.rsplit("://").next().unwrap_or(&subject).to_owned();
        Self {
            kind: Kind::Service,
            id: stable_id(&name, "x509", &subject),
            issuer: "x509".to_owned(),
            name,
            subject,
            groups: BTreeSet::new(),
            client: None,
            owner: None,
            scopes,
            expires: None,
            bound: None,
            said: Said::default(),
        }
    }

    /// The person who runs this process for themselves.
    fn local(name: &str, subject: &str, scopes: Scopes) -> Self {
        Self {
            kind: Kind::Person,
            id: stable_id(name, local::ISSUER, subject),
            issuer: local::ISSUER.to_owned(),
            subject: subject.to_owned(),
            name: name.to_owned(),
            groups: BTreeSet::new(),
            client: None,
            owner: None,
            scopes,
            expires: None,
            bound: None,
            said: Said::default(),
        }
    }

    /// The service itself, in one of its own roles, such as `self-test`.
    pub fn own(role: &'static str) -> Self {
        Self {
            kind: Kind::Own,
            id: stable_id(role, "whitelistmcp", role),
            issuer: "whitelistmcp".to_owned(),
            subject: role.to_owned(),
            name: role.to_owned(),
            groups: BTreeSet::new(),
            client: None,
            owner: None,
            scopes: Scopes::default(),
            expires: None,
            bound: None,
            said: Said::default(),
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Who vouches for it: the OpenID Connect issuer, `x509`, `api-key`, or `aws-profile`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its identifier with that issuer (`sub`, or AWS's ARN), its certificate's name, or its key's id.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its name for people: the token's e-mail address or user name, or the subject.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An id made of letters, digits and `_+=,.@-`, 2 to 64 characters: the name, and a hash of issuer and subject, so
    /// never the same for two subjects or for one subject of two issuers. It is the STS source identity and stands on
    /// the principal's rules; [`Principal::is`] compares it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether an id that was written on a rule is this principal's: its name may have changed since, its issuer and
    /// subject have not.
    pub fn is(&self, id: &str) -> bool {
        let proof = |id: &str| id.rsplit_once('-').map(|(_, proof)| proof.to_owned());
        proof(id).is_some_and(|proof| proof.len() == 16) && proof(id) == proof(&self.id)
    }

    /// The groups that its issuer says it is in.
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }

    /// The OAuth client that it acts through, if it is a person.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// Who answers for it, if it is an API key.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// What it may ask for.
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// Until when it is proven; none for certificates, whose end the connection holds.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// The certificate that its token may only come with.
    pub fn bound(&self) -> Option<&Thumbprint> {
        self.bound.as_ref()
    }

    /// What its token says besides.
    pub fn said(&self) -> &Said {
        &self.said
    }
}

// === impl Caller ===

impl Caller {
    /// Ties a principal to the peer that its call came through and the address that it calls from.
    pub fn new(principal: Principal, peer: PeerId, address: Option<IpAddr>) -> Self {
        Self { principal, peer, address }
    }

    /// The service itself, in one of its own roles.
    pub fn own(role: &'static str) -> Self {
        Self::new(Principal::own(role), PeerId::in_process(), None)
    }

    /// Who calls.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The owner of the certificate on the other end of the connection.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The address that the call came from: as the edge saw it for a person, the connection's for a service.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

/// A readable prefix and a hash over everything that tells two principals apart.
///
/// The characters and the length are those of STS's `SourceIdentity` and `RoleSessionName`; an id never starts with
/// `aws:`, since `:` is not among the characters kept.
fn stable_id(name: &str, issuer: &str, subject: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((issuer.len() as u64).to_be_bytes());
    hash.update(issuer);
    hash.update(subject);
    let digest = hash.finalize();
    let prefix: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' })
        .take(47)
        .collect();
    let suffix = crate::digest::hex(&digest);
    format!("{prefix}-{}", suffix.get(..16).unwrap_or(&suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fit_for_sts_and_differ() {
        let ids = [
            stable_id("alice@example.com", "https://a.example", "1"),
            stable_id("alice@example.com", "https://b.example", "1"),
            stable_id("alice@example.com", "https://a.example", "2"),
            stable_id("aws:root", "https://a.example", "1"),
            stable_id(&"ä".repeat(100), "https://a.example", "1"),
            stable_id("", "", ""),
        ];
        for id in &ids {
            assert!((2..=64).contains(&id.len()), "{id}");
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b)), "{id}");
        }
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        let renamed = stable_id("alice@new.example", "https://a.example", "1");
        let alice = Principal { id: ids[0].clone(), ..Principal::own("test") };
        assert!(
            alice.is(&renamed)
                && !alice.is(&ids[1])
                && !alice.is(&ids[2])
                && !alice.is("alice@example.com")
                && !alice.is("")
        );
        assert!(ids[0].starts_with("alice@example.com-"));
    }
}
