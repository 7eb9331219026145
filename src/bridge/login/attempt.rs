//! A login that waits for its person, as other programs see it: whoever comes next goes on with it if its program has been
//! ended, by the same page that is open already, and whoever has waited for it in vain learns why.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use super::PERSON;
use super::grant::Wish;
use crate::bridge::store::{self, Client, Store, StoreError};
use crate::error::Chain;

/// The ending of the file.
const ENDING: &str = "attempt";

/// A page that is open.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) issuer: String,
    pub(super) resource: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) client: Client,
    /// Where the browser was sent to.
    pub(super) url: Url,
    pub(super) state: String,
    pub(super) verifier: String,
    begun: Timestamp,
    /// Whether the browser was opened, as far as its program got to say.
    pub(super) opened: bool,
}

/// A login of another program that failed.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct Failed {
    at: Timestamp,
    why: String,
    /// Whether somebody has said no.
    #[serde(default)]
    refused: bool,
}

/// How long somebody who has said no is not asked again.
const REFUSED: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Attempt {
    Open(Box<Open>),
    Failed(Failed),
}

fn read(store: &Store) -> Option<Attempt> {
    let bytes = store::read(&store.path(ENDING)).ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}

fn write(store: &Store, attempt: &Attempt) -> Result<(), StoreError> {
    // INVARIANT: strings and lists can always be written.
    store::write(&store.path(ENDING), &serde_json::to_vec(attempt).unwrap_or_default())
}

impl Open {
    pub(super) fn new(
        wish: &Wish<'_>,
        client: Client,
        url: Url,
        state: String,
        verifier: String,
        now: Timestamp,
    ) -> Self {
        let (issuer, resource, scopes) = (wish.server.issuer.clone(), wish.resource.clone(), wish.scopes.clone());
        Self { issuer, resource, scopes, client, url, state, verifier, begun: now, opened: false }
    }

    /// Lets other programs know of it.
    pub(super) fn tell(&self, store: &Store) -> Result<(), StoreError> {
        write(store, &Attempt::Open(Box::new(self.clone())))
    }

    fn is_young(&self, now: Timestamp) -> bool {
        now.duration_since(self.begun).unsigned_abs() < PERSON
    }

    /// The one that was left behind, if it is for the same thing and its page is open. Whoever asks holds the lock.
    pub(super) fn left_behind(store: &Store, wish: &Wish<'_>, now: Timestamp) -> Option<Self> {
        let Some(Attempt::Open(open)) = read(store) else { return None };
        let same = open.issuer == wish.server.issuer && open.resource == wish.resource && open.scopes == wish.scopes;
        (same && open.opened && open.is_young(now)).then_some(*open)
    }
}

/// The page that waits for a person, if one does.
pub(super) fn open_at(store: &Store, now: Timestamp) -> Option<Url> {
    match read(store)? {
        Attempt::Open(open) if open.is_young(now) => Some(open.url),
        _ => None,
    }
}

/// Whether another program's login has failed since then, which this one would only repeat.
pub(super) fn failed_since(store: &Store, since: Timestamp) -> Result<(), Failed> {
    match read(store) {
        Some(Attempt::Failed(failed)) if failed.at >= since => Err(failed),
        _ => Ok(()),
    }
}

/// Whether somebody has just said no, to this program (`own`) or to another.
pub(super) fn refused_lately(store: &Store, own: Option<&Failed>, now: Timestamp) -> Result<(), Failed> {
    let others = match read(store) {
        Some(Attempt::Failed(failed)) => Some(failed),
        _ => None,
    };
    let lately = |failed: &Failed| failed.refused && now.duration_since(failed.at).unsigned_abs() < REFUSED;
    others.or_else(|| own.cloned()).filter(lately).map_or(Ok(()), Err)
}

/// It is over: how it failed, if it did. Who cannot be told of it finds a page that nobody answers to, and opens another.
pub(super) fn over(store: &Store, error: Option<&super::LoginError>, now: Timestamp) -> Option<Failed> {
    let failed = error.map(|error| Failed { at: now, why: Chain(error).to_string(), refused: error.is_refusal() });
    let written = match &failed {
        Some(failed) => write(store, &Attempt::Failed(failed.clone())),
        None => store::remove(&store.path(ENDING)),
    };
    if let Err(error) = written {
        tracing::warn!(error = %Chain(&error), "other programs cannot be told how the login ended");
    }
    failed
}
