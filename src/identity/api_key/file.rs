//! The file of keys: read when it changes, and never replaced by one that is wrong.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Config, Entry, ID_DIGITS};
use crate::clock::Monotonic;

/// How long a change of the file may go unnoticed, and so a key that was taken back still count.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most bytes of the file.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// The keys that are known. Looking is part of using: nothing runs while nobody calls.
#[derive(Debug)]
pub struct ApiKeys {
    file: PathBuf,
    known_scopes: Vec<String>,
    current: ArcSwap<Table>,
    looked: Mutex<Looked>,
    time: Monotonic,
}

pub(super) type Table = HashMap<String, Entry>;

#[derive(Debug)]
struct Looked {
    at: Instant,
    text: String,
}

/// Why a file of keys is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not what a file of keys is.
    #[error("it is not a file of keys, one `[[keys]]` each")]
    Syntax(#[source] Box<toml::de::Error>),
    /// An id that no key could have.
    #[error("`{0}` is not the id of a key: {ID_DIGITS} hexadecimal digits in lower case")]
    Id(String),
    /// The same id twice.
    #[error("the key `{0}` is there twice")]
    Twice(String),
    /// The hash.
    #[error("the key `{0}`: `sha256` must be 64 hexadecimal digits in lower case")]
    Hash(String),
    /// Nobody to ask about it.
    #[error("the key `{0}`: `owner` must say who answers for it, in at most 64 characters")]
    Owner(String),
    /// No scope, or one that no tool asks for.
    #[error("the key `{0}`: `scopes` must be some of: {1}")]
    Scopes(String, String),
    /// No end.
    #[error("the key `{0}`: `expires` must be a time such as 2027-01-31T00:00:00Z")]
    Expires(String),
    /// From nowhere.
    #[error("the key `{0}`: `networks` must name at least one network, such as 203.0.113.0/24")]
    Networks(String),
    /// From nearly everywhere.
    #[error("the key `{0}`: `networks` holds {1}, which is too wide: {too_wide}", too_wide = crate::network::WIDEST)]
    Wide(String, IpNet),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    sha256: String,
    owner: String,
    scopes: Vec<String>,
    expires: String,
    networks: Vec<String>,
    #[serde(default)]
    disabled: bool,
}

impl ApiKeys {
    /// Reads the file for the first time; it must be sound then. `known_scopes` are those that some tool asks for.
    pub fn open(config: &Config, known_scopes: Vec<String>, time: Monotonic) -> Result<Self, FileError> {
        let path = config.file.clone();
        let wrong = |source| FileError::Read { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(wrong)?.len() > FILE_MAX {
            return Err(wrong(std::io::ErrorKind::FileTooLarge.into()));
        }
        let text = std::fs::read_to_string(&path).map_err(wrong)?;
        let table = parse(&text, &known_scopes)?;
        let looked = Mutex::new(Looked { at: time.now(), text });
        Ok(Self { file: path, known_scopes, current: ArcSwap::from_pointee(table), looked, time })
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.current.load().len()
    }

    /// The keys as the file has them now, or had them when it was last sound.
    pub(super) async fn current(&self) -> Arc<Table> {
        if self.is_time_to_look() {
            self.look().await;
        }
        self.current.load_full()
    }

    /// Whether to look; whoever is told so is the only one for a while.
    fn is_time_to_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.time.since(looked.at) >= LOOK_EVERY;
        if due {
            looked.at = self.time.now();
        }
        due
    }

    async fn look(&self) {
        let read = async {
            let metadata = tokio::fs::metadata(&self.file).await?;
            // Whatever is no file, a pipe say, could keep the reader for ever.
            if !metadata.is_file() {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            if metadata.len() > FILE_MAX {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            tokio::fs::read_to_string(&self.file).await
        };
        let text = match read.await {
            Ok(text) => text,
            Err(error) => {
                let path = self.file.display();
                return tracing::error!(%path, %error, "the file of API keys cannot be read; the keys from before count");
            }
        };
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.text == text {
                return;
            }
            looked.text.clone_from(&text);
        }
        match parse(&text, &self.known_scopes) {
            Ok(table) => {
                tracing::info!(path = %self.file.display(), keys = table.len(), "the API keys were read anew");
                self.current.store(Arc::new(table));
            }
            Err(error) => {
                let (path, error) = (self.file.display(), crate::error::Chain(&error).to_string());
                tracing::error!(%path, error, "the file of API keys is wrong; the keys from before count");
            }
        }
    }
}

/// Reads and checks a file's text, every entry of it.
pub(super) fn parse(text: &str, known_scopes: &[String]) -> Result<Table, FileError> {
    let file: File = toml::from_str(text).map_err(|error| FileError::Syntax(Box::new(error)))?;
    let mut table = HashMap::with_capacity(file.keys.len());
    for written in file.keys {
        let entry = check(written, known_scopes)?;
        if let Some(twice) = table.insert(entry.id.clone(), entry) {
            return Err(FileError::Twice(twice.id));
        }
    }
    Ok(table)
}

fn check(written: Written, known_scopes: &[String]) -> Result<Entry, FileError> {
    let Written { id, sha256, owner, scopes, expires, networks, disabled } = written;
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if id.len() != ID_DIGITS || !is_hex(&id) {
        return Err(FileError::Id(id));
    }
    let Some(hash) = unhex(&sha256).filter(|_| is_hex(&sha256)) else { return Err(FileError::Hash(id)) };
    if owner.trim().is_empty() || owner.chars().count() > 64 || owner.chars().any(char::is_control) {
        return Err(FileError::Owner(id));
    }
    if scopes.is_empty() || !scopes.iter().all(|scope| known_scopes.contains(scope)) {
        return Err(FileError::Scopes(id, known_scopes.join(", ")));
    }
    let Ok(expires) = expires.parse::<Timestamp>() else { return Err(FileError::Expires(id)) };
    let parsed = networks
        .iter()
        .map(|text| text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)));
    let networks = match parsed.collect::<Result<Vec<_>, std::net::AddrParseError>>() {
        Ok(networks) if !networks.is_empty() => networks,
        _ => return Err(FileError::Networks(id)),
    };
    if let Some(wide) = crate::network::too_wide(&networks) {
        return Err(FileError::Wide(id, wide));
    }
    Ok(Entry { id, hash, owner, scopes: scopes.into_iter().collect(), expires, networks, disabled })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
