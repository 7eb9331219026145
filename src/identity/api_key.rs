//! API keys: the simple way in for a program that can do neither OAuth nor client certificates. Off unless configured.
//!
//! A key is `wlk_ID_SECRET`: an id that says which entry of the file it is, 256 random bits, and a checksum, so that
//! scanners tell a leaked key from a string that looks like one. Its entry holds the SHA-256 of the whole. A plain hash
//! is enough: slow ones protect what people think up, and 256 random bits cannot be guessed however fast one tries
//! (NIST SP 800-63B, section 5.1.2.2, asks for salt and stretching below 112 bits only).
//!
//! An unknown id and a wrong secret are the same refusal, after the same work. What else is wrong with a key is told to
//! who has proved to hold it.

mod file;

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::scope::Scopes;
use super::{Kind, Principal, Said, stable_id};
use crate::digest::hex;
use crate::error::{Code, Error};

pub use file::{ApiKeys, FileError};

/// What every key begins with.
const PREFIX: &str = "wlk_";
/// The hexadecimal digits of an id, of a secret, and of the checksum behind it.
const ID_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 64;
const CHECK_DIGITS: usize = 8;

/// The longest life of a key that is made here.
pub const DAYS_MOST: u16 = 366;

/// `[api_keys]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file of keys (TOML). It is read anew when it changes.
    pub file: std::path::PathBuf,
}

/// One key: what it is for, and the hash that proves it.
#[derive(Debug)]
pub(super) struct Entry {
    id: String,
    hash: [u8; 32],
    owner: String,
    scopes: Scopes,
    expires: Timestamp,
    networks: Vec<IpNet>,
    disabled: bool,
}

/// Text that is built like a key. Nothing about it is known to be true.
struct Unproven<'a> {
    id: &'a str,
    hash: [u8; 32],
}

/// A key that was just made, and the entry that lets it in.
pub struct NewKey {
    secret: String,
    entry: String,
}

/// Why an API key was refused.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// No keys are configured.
    #[error("API keys are not accepted here")]
    Off,
    /// Not built like a key: a letter is missing, or it is something else.
    #[error("the API key is damaged: its checksum does not fit")]
    Malformed,
    /// No such key, or not its secret.
    #[error("the API key is not known")]
    Unknown,
    /// Its end is past.
    #[error("the API key has expired")]
    Expired,
    /// It was switched off.
    #[error("the API key is disabled")]
    Disabled,
    /// From elsewhere.
    #[error("the API key may not be used from this address")]
    Network,
}

/// Why a key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NewKeyError {
    /// The machine gives no random bits.
    #[error("the machine gives no random bits")]
    Random,
    /// An entry that would be refused.
    #[error("such a key would be refused")]
    Entry(#[from] FileError),
    /// Too long a life, or none.
    #[error("a key lives for 1 to {DAYS_MOST} days")]
    Days,
}

impl From<ApiKeyError> for Error {
    fn from(error: ApiKeyError) -> Self {
        Self::new(Code::Unauthenticated, "API_KEY_INVALID", error.to_string())
    }
}

/// Whether a bearer token means to be an API key.
pub fn is_api_key(token: &str) -> bool {
    token.starts_with(PREFIX)
}

impl<'a> Unproven<'a> {
    fn read(key: &'a str) -> Result<Self, ApiKeyError> {
        let digits = |text: &str, number: usize| {
            text.len() == number && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let (id, secret) =
            key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(ApiKeyError::Malformed)?;
        if !digits(id, ID_DIGITS) || !digits(secret, SECRET_DIGITS + CHECK_DIGITS) {
            return Err(ApiKeyError::Malformed);
        }
        let (checked, check) = key.split_at_checked(key.len() - CHECK_DIGITS).ok_or(ApiKeyError::Malformed)?;
        if checksum(checked) != check {
            return Err(ApiKeyError::Malformed);
        }
        Ok(Self { id, hash: Sha256::digest(key).into() })
    }
}

impl Entry {
    /// Whose key it is, if it may be used by whoever holds it, now and from there.
    fn admit(&self, address: Option<IpAddr>, now: Timestamp) -> Result<Principal, ApiKeyError> {
        let principal = self.stands(now)?;
        let within = |address: IpAddr| self.networks.iter().any(|network| network.contains(&address.to_canonical()));
        if !address.is_some_and(within) {
            return Err(ApiKeyError::Network);
        }
        Ok(principal)
    }

    /// Whose key it is, if it may be used now, from wherever that may be.
    fn stands(&self, now: Timestamp) -> Result<Principal, ApiKeyError> {
        if self.disabled {
            return Err(ApiKeyError::Disabled);
        }
        if self.expires <= now {
            return Err(ApiKeyError::Expired);
        }
        Ok(Principal::api_key(self))
    }
}

impl Principal {
    /// A program that proved itself by an API key.
    fn api_key(entry: &Entry) -> Self {
        Self {
            kind: Kind::ApiKey,
            // The id is the entry's alone: the owner may be renamed, and may have several keys.
            id: stable_id(&entry.owner, "api-key", &entry.id),
            issuer: "api-key".to_owned(),
            subject: entry.id.clone(),
            name: format!("{}/{}", entry.owner, entry.id),
            groups: std::collections::BTreeSet::new(),
            client: None,
            owner: Some(entry.owner.clone()),
            scopes: entry.scopes.clone(),
            expires: Some(entry.expires),
            bound: None,
            said: Said::default(),
        }
    }
}

impl ApiKeys {
    /// Whose key this is.
    pub(super) async fn verify(
        &self,
        key: &str,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Arc<Principal>, ApiKeyError> {
        self.proven(key, |entry| entry.admit(address, now)).await
    }

    /// The same, wherever it was sent from.
    pub(super) async fn recognise(&self, key: &str, now: Timestamp) -> Result<Arc<Principal>, ApiKeyError> {
        self.proven(key, |entry| entry.stands(now)).await
    }

    async fn proven(
        &self,
        key: &str,
        admit: impl FnOnce(&Entry) -> Result<Principal, ApiKeyError>,
    ) -> Result<Arc<Principal>, ApiKeyError> {
        let unproven = Unproven::read(key)?;
        let table = self.current().await;
        let entry = table.get(unproven.id);
        // An id that is not there costs the same comparison.
        let hash = entry.map_or([0; 32], |entry| entry.hash);
        let proven = verify_slices_are_equal(&hash, &unproven.hash).is_ok();
        match entry {
            Some(entry) if proven => admit(entry).map(Arc::new),
            _ => Err(ApiKeyError::Unknown),
        }
    }
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl NewKey {
    /// Makes a key for an owner, with these scopes, from these networks, for so many days.
    pub fn make(
        owner: &str,
        scopes: &[String],
        networks: &[String],
        days: u16,
        known_scopes: &[String],
        now: Timestamp,
    ) -> Result<Self, NewKeyError> {
        if !(1..=DAYS_MOST).contains(&days) {
            return Err(NewKeyError::Days);
        }
        let mut random = [0; ID_DIGITS / 2 + SECRET_DIGITS / 2];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| NewKeyError::Random)?;
        let digits = hex(&random);
        let (id, secret) = digits.split_at_checked(ID_DIGITS).ok_or(NewKeyError::Random)?;
        let checked = format!("{PREFIX}{id}_{secret}");
        let secret = format!("{checked}{}", checksum(&checked));
        let life = std::time::Duration::from_secs(u64::from(days) * 86_400);
        let expires = now.saturating_add(life).map_err(|_| NewKeyError::Days)?;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        let entry = format!(
            "[[keys]]\nid = \"{id}\"\nsha256 = \"{}\"\nowner = {}\nscopes = [{}]\nexpires = \"{}\"\nnetworks = [{}]\n",
            crate::digest::sha256_hex(&secret),
            quoted(owner),
            list(scopes),
            expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            list(networks),
        );
        // What is handed out must be let in: it is read as the service reads it.
        file::parse(&entry, known_scopes)?;
        Ok(Self { secret, entry })
    }

    /// The key itself. It is shown once and kept nowhere.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The entry for the file of keys.
    pub fn entry(&self) -> &str {
        &self.entry
    }
}

fn checksum(text: &str) -> String {
    let digest = crate::digest::sha256_hex(text);
    digest.chars().take(CHECK_DIGITS).collect()
}

#[cfg(test)]
mod tests;
