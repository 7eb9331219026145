//! Somebody who is supposed to call, for questions that are asked offline: may they? What this makes is proven by nothing,
//! so it does not leave the crate: only [`crate::broker::trial`] asks for it, and that acts on nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::peer::PeerId;
use super::scope::Scopes;
use super::{Caller, Kind, Principal, Said, stable_id};

/// What a token, a certificate or a key would say of somebody.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Supposed {
    /// What they are; a person unless said.
    pub kind: SupposedKind,
    /// The name that people read; the subject unless said.
    pub name: Option<String>,
    /// Who vouches for a person.
    pub issuer: Option<String>,
    /// Their identifier with the issuer, or the name in the certificate.
    pub subject: String,
    /// The OAuth client that a person acts through.
    pub client: Option<String>,
    /// Who answers for an API key.
    pub owner: Option<String>,
    /// The groups that they are in.
    pub groups: BTreeSet<String>,
    /// The scopes that they hold.
    pub scopes: BTreeSet<String>,
    /// The class of their login.
    pub acr: Option<String>,
    /// The methods of their login.
    pub amr: BTreeSet<String>,
    /// How long ago they logged in, in seconds.
    pub authenticated: Option<i64>,
    /// Who acts for them, the current actor first.
    pub actors: Vec<String>,
    /// The claims that are kept of their token.
    pub claims: BTreeMap<String, String>,
}

/// What somebody is supposed to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SupposedKind {
    /// A person, by an access token.
    #[default]
    Person,
    /// A program, by its certificate.
    Service,
    /// A program, by an API key.
    ApiKey,
}

impl Supposed {
    /// The caller that they would be.
    pub(crate) fn caller(&self, from: Option<IpAddr>, now: Timestamp) -> Caller {
        let person = self.kind == SupposedKind::Person;
        let (kind, peer, vouches) = match self.kind {
            SupposedKind::Person => (Kind::Person, PeerId::in_process(), "https://issuer.example"),
            SupposedKind::Service => (Kind::Service, PeerId::supposed(&self.subject), "x509"),
            SupposedKind::ApiKey => (Kind::ApiKey, PeerId::in_process(), "api-key"),
        };
        let issuer = self.issuer.as_deref().filter(|_| person).unwrap_or(vouches);
        let owner = self.owner.as_deref().unwrap_or("nobody");
        let of_key = format!("{owner} (key {})", self.subject);
        let own =
            if kind == Kind::ApiKey { &of_key } else { self.subject.rsplit("://").next().unwrap_or(&self.subject) };
        let name = self.name.as_deref().unwrap_or(own);
        let ago = |seconds: i64| now.checked_sub(SignedDuration::from_secs(seconds)).ok();
        let said = Said {
            acr: self.acr.clone(),
            amr: self.amr.clone(),
            authenticated: self.authenticated.and_then(ago),
            actors: self.actors.clone(),
            claims: self.claims.clone(),
        };
        let principal = Principal {
            kind,
            id: stable_id(if kind == Kind::ApiKey { owner } else { name }, issuer, &self.subject),
            issuer: issuer.to_owned(),
            subject: self.subject.clone(),
            name: name.to_owned(),
            groups: self.groups.clone(),
            client: person.then(|| self.client.clone().unwrap_or_else(|| "client".to_owned())),
            owner: (kind == Kind::ApiKey).then(|| owner.to_owned()),
            scopes: self.scopes.iter().cloned().collect::<Scopes>(),
            expires: None,
            said: if person { said } else { Said::default() },
            bound: None,
        };
        Caller::new(principal, peer, from)
    }
}
