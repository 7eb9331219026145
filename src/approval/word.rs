//! Whose word a change waits for, and the word itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::Principal;

/// Whose word a change waits for. Another person's covers the requester's own: somebody has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhoseWord {
    /// The requester's own, by a fresh login: an agent alone cannot give it.
    Requester,
    /// Another person's.
    Another,
}

/// Somebody, as requests and decisions keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Who vouches for them.
    pub issuer: String,
    /// Who they are to that issuer.
    pub subject: String,
    /// Their name for people.
    pub name: String,
    /// Their stable id, as it stands on rules.
    pub id: String,
    /// What they are: `person`, `service`, `api_key`.
    pub kind: String,
    /// Who answers for them, where they are an API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A person's word for one change, spent by this use of it. Only this module's approvals make one.
#[derive(Clone, Debug)]
pub struct Granted {
    pub(super) request: String,
    pub(super) from: WhoseWord,
    pub(super) by: Person,
    pub(super) at: Timestamp,
    pub(super) note: String,
}

impl WhoseWord {
    /// Reads a policy's `@approval`.
    pub fn parse(written: &str) -> Option<Self> {
        match written {
            "another" => Some(Self::Another),
            "requester" => Some(Self::Requester),
            _ => None,
        }
    }

    /// The word as policies write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requester => "requester",
            Self::Another => "another",
        }
    }
}

impl Person {
    /// Keeps who a principal is.
    pub fn of(principal: &Principal) -> Self {
        Self {
            issuer: principal.issuer().to_owned(),
            subject: principal.subject().to_owned(),
            name: principal.name().to_owned(),
            id: principal.id().to_owned(),
            kind: principal.kind().as_str().to_owned(),
            owner: principal.owner().map(str::to_owned),
        }
    }

    /// Whether this is that principal: the same subject of the same issuer, whatever their name is now.
    pub fn is(&self, principal: &Principal) -> bool {
        self.issuer == principal.issuer() && self.subject == principal.subject()
    }

    /// Whether that principal stands behind this one: is the same, or answers for the key that this one is, or the other
    /// way round. Nobody gets round another person's word by a key of their own.
    pub fn is_behind(&self, principal: &Principal) -> bool {
        let names = |owner: &str, name: &str, subject: &str, id: &str| {
            [name, subject, id].into_iter().any(|known| known.eq_ignore_ascii_case(owner))
        };
        let (name, subject, id) = (principal.name(), principal.subject(), principal.id());
        self.is(principal)
            || self.owner.as_deref().is_some_and(|owner| names(owner, name, subject, id))
            || principal.owner().is_some_and(|owner| names(owner, &self.name, &self.subject, &self.id))
            || self.owner.as_deref().zip(principal.owner()).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
    }
}

impl Granted {
    /// The request that it was given to.
    pub fn request(&self) -> &str {
        &self.request
    }

    /// Whose word it is.
    pub fn from(&self) -> WhoseWord {
        self.from
    }

    /// Who gave it.
    pub fn by(&self) -> &Person {
        &self.by
    }

    /// When.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// What they said with it.
    pub fn note(&self) -> &str {
        &self.note
    }
}
