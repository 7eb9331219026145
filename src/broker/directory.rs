//! The groups that their owners opted in by the tag `whitelistmcp:managed`, found by asking EC2 and remembered for a
//! while, so that people can give names instead of ids. Where policies speak of what AWS alone knows of a group, its
//! tags and its VPC, the same look reads that of every group, before anything is decided.

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
use crate::operation::target::{Descriptions, OptedIn, Place, Targets};
use crate::operation::{Operation, Tool};
use crate::policy::Denial;

/// How long what was found is taken for true when somebody asks for all of it.
pub const FRESH: Duration = Duration::from_secs(30);
/// How soon a name that is not known may cause another look. Whoever guesses names costs no more than this.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long a look that failed is not tried again.
const FAILED: Duration = Duration::from_secs(2);
/// How long a group that was opted in is taken to be so still, and its tags to be what they were.
pub const STILL_OPTED_IN: Duration = Duration::from_secs(60);

/// How a look went.
#[derive(Debug)]
struct Asked {
    at: Instant,
    /// Why it failed, if it did: its code, reason and message.
    failed: Option<(Code, &'static str, String)>,
    /// When every group was last described.
    described: Option<Instant>,
}

/// What one look found: the groups that are opted in, if that was asked, and what AWS knows of every group, if that was.
struct Found {
    opted_in: Option<Vec<OptedIn>>,
    described: Option<Descriptions>,
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

    fn update(&self, learn: impl FnOnce(&Targets) -> Targets) {
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        *targets = Arc::new(learn(&targets));
    }

    fn learn(&self, place: &Place, found: Found) {
        self.update(|targets| {
            let mut targets = match found.opted_in {
                Some(opted_in) => targets.with_opted_in(place.clone(), opted_in),
                None => targets.clone(),
            };
            // What nobody reads any more would only grow old.
            if found.described.is_some() || targets.is_described(place) {
                targets = targets.with_described(place, found.described);
            }
            targets
        });
    }
}

impl Broker {
    /// Whether a decision on a group needs what AWS alone knows of it.
    pub fn reads_descriptions(&self) -> bool {
        self.policies.current().speaks_of_descriptions()
    }

    /// Looks for groups that are opted in, and at what policies speak of, wherever nobody has looked for that long; says
    /// where it could not.
    pub async fn discover(&self, places: &[Place], older_than: Duration) -> Vec<Missed> {
        let describes = self.reads_descriptions();
        if !self.config.discover && !describes {
            return Vec::new();
        }
        let mut asked = self.directory.asked.lock().await;
        let due: Vec<Place> = places
            .iter()
            .filter(|place| {
                asked.get(place).is_none_or(|asked| {
                    let older_than = if asked.failed.is_some() { older_than.min(FAILED) } else { older_than };
                    // Policies that were loaded since may speak of what nobody had a reason to read.
                    let lacks = describes && asked.described.is_none() && asked.failed.is_none();
                    lacks || asked.at.elapsed() >= older_than
                })
            })
            .cloned()
            .collect();
        let looks = futures_util::stream::iter(due).map(|place| async move {
            let found = self.look_around(&place, describes).await;
            (place, found)
        });
        for (place, found) in looks.buffered(AT_ONCE).collect::<Vec<_>>().await {
            let mut described = asked.get(&place).and_then(|asked| asked.described);
            let failed = match found {
                Ok(found) => {
                    described = found.described.is_some().then(Instant::now);
                    self.directory.learn(&place, found);
                    None
                }
                Err(error) => {
                    tracing::warn!(%place, error = %Chain(&error), "the security groups could not be read");
                    // What is too old decides nothing any more.
                    if described.is_some_and(|at| at.elapsed() >= STILL_OPTED_IN) {
                        described = None;
                        self.directory.update(|targets| targets.with_described(&place, None));
                    }
                    Some((error.code(), error.reason(), error.message().to_owned()))
                }
            };
            asked.insert(place, Asked { at: Instant::now(), failed, described });
        }
        let missed = places.iter().filter_map(|place| {
            let (code, reason, message) = asked.get(place)?.failed.clone()?;
            Some(Missed { place: place.clone(), error: Error::new(code, reason, message) })
        });
        missed.collect()
    }

    /// The answer to a request that could not be read. Where policy needs to know of groups what could not be read, a name
    /// that nothing seems to go by may be one of theirs, hidden or not: nobody can tell, and the answer is the same for all.
    pub fn unless_unread(&self, error: Error, missed: &[Missed]) -> Error {
        let unread = error.reason() == "SECURITY_GROUP_UNKNOWN" && !missed.is_empty() && self.reads_descriptions();
        if unread { Denial::Undescribed.into() } else { error }
    }

    /// One look at a place, with a session and an entry of its own.
    async fn look_around(&self, place: &Place, describes: bool) -> Result<Found, Error> {
        let caller = Arc::new(Caller::own("directory"));
        let operation = Operation::survey(Tool::Discover, place.clone(), self.clock.now());
        let (permit, policy) = self.permit(caller, operation)?;
        let entry = self.audit.begin_read(&permit, policy.sha256());
        let mut found = Found { opted_in: None, described: None };
        let result = async {
            let session = self.aws.assume(&permit, &policy, &entry, Some(Instant::now() + FRESH)).await?;
            if describes {
                let (described, mut opted_in) = session.every_group().await?;
                found.described = Some(described);
                if self.config.discover {
                    session.attach_all(&mut opted_in).await?;
                    found.opted_in = Some(opted_in);
                }
            } else {
                found.opted_in = Some(session.opted_in().await?);
            }
            Ok::<_, Failure>(super::Answer::Leases(Vec::new()))
        }
        .await;
        settle(entry, result, false, super::Done::default())?;
        Ok(found)
    }
}
