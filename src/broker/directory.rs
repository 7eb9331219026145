//! The groups that their owners opted in by the tag `whitelistmcp:managed`, found by asking EC2 and remembered for a
//! while, so that people can give names instead of ids.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::failure::Failure;
use super::leaver::{AT_ONCE, Missed};
use super::{Broker, settle};
use crate::error::{Chain, Code, Error};
use crate::identity::Caller;
use crate::operation::target::{OptedIn, Place, Targets};
use crate::operation::{Operation, Tool};

/// How long what was found is taken for true when somebody asks for all of it.
pub const FRESH: Duration = Duration::from_secs(30);
/// How soon a name that is not known may cause another look. Whoever guesses names costs no more than this.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long a look that failed is not tried again.
const FAILED: Duration = Duration::from_secs(2);
/// How long a group that was opted in is taken to be so still.
pub const STILL_OPTED_IN: Duration = Duration::from_secs(60);

/// How a look went.
#[derive(Debug)]
struct Asked {
    at: Instant,
    /// Why it failed, if it did: its code, reason and message.
    failed: Option<(Code, &'static str, String)>,
}

/// What is known of the groups.
#[derive(Debug)]
pub(super) struct Directory {
    targets: RwLock<Arc<Targets>>,
    /// When each place was last asked. Held while asking, so that many who wait cause one look.
    asked: tokio::sync::Mutex<HashMap<Place, Asked>>,
}

impl Directory {
    pub(super) fn new(targets: Targets) -> Self {
        Self { targets: RwLock::new(Arc::new(targets)), asked: tokio::sync::Mutex::default() }
    }

    pub(super) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn learn(&self, place: Place, groups: Vec<OptedIn>) {
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        *targets = Arc::new(targets.with_opted_in(place, groups));
    }
}

impl Broker {
    /// Looks for groups that are opted in, wherever nobody has looked for that long; says where it could not.
    pub async fn discover(&self, places: &[Place], older_than: Duration) -> Vec<Missed> {
        if !self.config.discover {
            return Vec::new();
        }
        let mut asked = self.directory.asked.lock().await;
        let due: Vec<Place> = places
            .iter()
            .filter(|place| {
                asked.get(place).is_none_or(|asked| {
                    let older_than = if asked.failed.is_some() { older_than.min(FAILED) } else { older_than };
                    asked.at.elapsed() >= older_than
                })
            })
            .cloned()
            .collect();
        let found = futures_util::stream::iter(due).map(|place| async move {
            let groups = self.opted_in(&place).await;
            (place, groups)
        });
        for (place, groups) in found.buffered(AT_ONCE).collect::<Vec<_>>().await {
            let failed = match groups {
                Ok(groups) => {
                    self.directory.learn(place.clone(), groups);
                    None
                }
                Err(error) => {
                    tracing::warn!(%place, error = %Chain(&error), "the groups that are opted in could not be read");
                    Some((error.code(), error.reason(), error.message().to_owned()))
                }
            };
            asked.insert(place, Asked { at: Instant::now(), failed });
        }
        let missed = places.iter().filter_map(|place| {
            let (code, reason, message) = asked.get(place)?.failed.clone()?;
            Some(Missed { place: place.clone(), error: Error::new(code, reason, message) })
        });
        missed.collect()
    }

    async fn opted_in(&self, place: &Place) -> Result<Vec<OptedIn>, Error> {
        let caller = Arc::new(Caller::own("directory"));
        let operation = Operation::survey(Tool::Discover, place.clone(), self.clock.now());
        let (permit, policy) = self.permit(caller, operation)?;
        let entry = self.audit.begin_read(&permit, policy.sha256());
        let mut groups = Vec::new();
        let result = async {
            let session = self.aws.assume(&permit, &policy, &entry, Some(Instant::now() + FRESH)).await?;
            groups = session.opted_in().await?;
            Ok::<_, Failure>(super::Answer::Leases(Vec::new()))
        }
        .await;
        settle(entry, result, false, super::Done::default())?;
        Ok(groups)
    }
}
