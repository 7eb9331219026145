//! What AWS was read to say a moment ago, for those who only want to look. Off unless it is configured.
//!
//! The cache answers `whitelist_list` and `whitelist_check`, and gives a dry run its advice; no change rests on it. It is
//! asked with a permit in hand, so policy has decided for this very caller before, and whatever it answers with names
//! the call whose session read it. A change of our own drops what is kept of its group, and what was read while the
//! change had not settled is not kept at all; a change that somebody else makes shows when the lifetime is over.

mod process;
mod replicas;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::duration::{self, HOUR, MILLISECOND, MINUTE};
use crate::operation::target::Place;
use crate::schema::Length;
use crate::seal::{Seal, SealError};
use crate::shared::Shared;
use crate::telemetry;

use process::Process;
use replicas::Replicas;

/// `[aws.cache]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it is kept.
    pub kept_in: KeptIn,
    /// What is sealed with where it is kept for all replicas: a file of 64 hexadecimal digits, the same for each.
    pub key_file: Option<PathBuf>,
    /// How long the rules of a group are taken for what stands.
    #[serde(deserialize_with = "duration::within::<_, _, MILLISECOND, MINUTE>")]
    #[schemars(with = "Length<MILLISECOND, MINUTE>")]
    pub rules: Duration,
    /// How long a group is taken to exist, with its name and tags.
    #[serde(deserialize_with = "duration::within::<_, _, MILLISECOND, HOUR>")]
    #[schemars(with = "Length<MILLISECOND, HOUR>")]
    pub groups: Duration,
    /// How long a prefix list is taken to be of its size.
    #[serde(deserialize_with = "duration::within::<_, _, MILLISECOND, HOUR>")]
    #[schemars(with = "Length<MILLISECOND, HOUR>")]
    pub prefix_lists: Duration,
}

/// Where a cache is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptIn {
    /// In this process's own memory.
    #[default]
    Process,
    /// In Redis, for all replicas, sealed.
    Redis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kept_in: KeptIn::Process,
            key_file: None,
            rules: Duration::from_secs(5),
            groups: Duration::from_secs(60),
            prefix_lists: Duration::from_secs(300),
        }
    }
}

/// Why `[aws.cache]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Redis is meant, and none is configured.
    #[error("`[aws.cache] kept_in = \"redis\"` needs `[redis]`")]
    NoRedis,
    /// Others keep it, and could read and change it.
    #[error(
        "`[aws.cache] kept_in = \"redis\"` needs a `key_file`: what is kept names people, and others must not change it"
    )]
    NoKey,
    /// A key that seals nothing.
    #[error("`[aws.cache] key_file` is for `kept_in = \"redis\"`: take it out or set that")]
    UnusedKey,
    /// The key.
    #[error("`[aws.cache] key_file`")]
    Key(#[from] SealError),
}

/// What is kept, by kind: each has a lifetime of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The inbound rules of a group.
    Rules,
    /// A group's name and tags.
    Group,
    /// The size of a prefix list.
    PrefixList,
}

/// What was read before.
#[derive(Debug)]
pub(super) struct Seen<T> {
    /// What AWS said.
    pub(super) value: T,
    /// The call whose session read it.
    pub(super) call: String,
    /// How long ago that call asked.
    pub(super) age: Duration,
}

/// A look into the cache, and the right to put there what AWS says instead.
#[derive(Debug)]
pub(super) struct Ticket {
    kind: Kind,
    key: String,
    /// When it was looked: what is read from now on is at least that new.
    began: Instant,
    /// In Redis: the mark of the last change of ours, as it was then. None where what is read now may not show it yet.
    mark: Option<Vec<u8>>,
}

/// What is kept, as it is kept.
#[derive(Clone, Debug)]
struct Kept {
    call: String,
    age: Duration,
    value: String,
}

/// The cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    store: Store,
    rules: Duration,
    groups: Duration,
    prefix_lists: Duration,
}

#[derive(Clone, Debug)]
enum Store {
    Process(Process),
    Replicas(Replicas),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Group => "groups",
            Self::PrefixList => "prefix_lists",
        }
    }
}

// === impl Cache ===

impl Cache {
    /// A cache as it is configured. What AWS does not show for `settle` after a change of ours is not kept.
    pub fn new(config: &Config, shared: Option<Shared>, settle: Duration, clock: Clock) -> Result<Self, ConfigError> {
        let store = match (config.kept_in, &config.key_file) {
            (KeptIn::Process, None) => Store::Process(Process::new(settle)),
            (KeptIn::Process, Some(_)) => return Err(ConfigError::UnusedKey),
            (KeptIn::Redis, key_file) => {
                let shared = shared.ok_or(ConfigError::NoRedis)?;
                let seal = Seal::from_file(key_file.as_deref().ok_or(ConfigError::NoKey)?)?;
                Store::Replicas(Replicas::new(shared, seal, settle, clock))
            }
        };
        let Config { rules, groups, prefix_lists, .. } = *config;
        Ok(Self { store, rules, groups, prefix_lists })
    }

    fn lifetime(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Rules => self.rules,
            Kind::Group => self.groups,
            Kind::PrefixList => self.prefix_lists,
        }
    }

    /// Looks for what was read of a group or a prefix list; where `fresh` is asked for, only gives the right to keep what
    /// will be.
    pub(super) async fn look<T: DeserializeOwned>(
        &self,
        kind: Kind,
        place: &Place,
        id: &str,
        fresh: bool,
    ) -> (Option<Seen<T>>, Ticket) {
        let key = key(kind, place, id);
        let began = Instant::now();
        let (kept, mark) = match &self.store {
            Store::Process(process) => (process.look(&key), None),
            Store::Replicas(replicas) => replicas.look(&key).await,
        };
        let young = kept.filter(|kept| !fresh && kept.age < self.lifetime(kind));
        let seen = young.and_then(|kept| {
            let value = serde_json::from_str(&kept.value).ok()?;
            Some(Seen { value, call: kept.call, age: kept.age })
        });
        if !fresh {
            telemetry::record_cache(kind.name(), seen.is_some());
        }
        (seen, Ticket { kind, key, began, mark })
    }

    /// Keeps what a call has read since its look, unless a change of ours came between.
    pub(super) async fn keep(&self, ticket: Ticket, call: &str, value: &impl serde::Serialize) {
        let Ok(value) = serde_json::to_string(value) else { return };
        let lifetime = self.lifetime(ticket.kind);
        match &self.store {
            Store::Process(process) => process.keep(ticket, call, value, lifetime),
            Store::Replicas(replicas) => replicas.keep(ticket, call, value, lifetime).await,
        }
    }

    /// Forgets the rules of a group: a change of ours was sent.
    pub(super) async fn drop_rules(&self, place: &Place, group: &str) {
        let key = key(Kind::Rules, place, group);
        match &self.store {
            Store::Process(process) => process.drop(key),
            Store::Replicas(replicas) => replicas.drop(&key).await,
        }
    }
}

fn key(kind: Kind, place: &Place, id: &str) -> String {
    format!("seen:{}:{}:{}:{id}", kind.name(), place.account(), place.region())
}
