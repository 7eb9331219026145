//! The groups that their owners opted in by the tag `whitelistmcp:managed`, found by asking EC2 and remembered for a
//! while, so that people can give names instead of ids. Where policies speak of what AWS alone knows of a group, its
//! tags and its VPC, the same look reads that of every group, before anything is decided.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

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
/// How long a look that failed is not tried again, at least; at most [`PATIENCE`], where it took that long to fail.
const FAILED: Duration = Duration::from_secs(2);
/// How long callers wait for a look. It goes on without them, and nobody else waits for it from then on.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long a group that was opted in is taken to be so still, and its tags to be what they were.
pub const STILL_OPTED_IN: Duration = Duration::from_secs(60);

/// How a look went.
#[derive(Debug)]
struct Asked {
    at: Instant,
    took: Duration,
    /// Why it failed, if it did: its code, reason and message.
    failed: Option<(Code, &'static str, String)>,
}

/// The looks at one place.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Asked>,
    /// When every group was last described.
    described: Option<Instant>,
    underway: Option<Underway>,
}

/// A look that somebody began. Many who wait cause one.
#[derive(Clone, Debug)]
struct Underway {
    since: Instant,
    /// Closed when it ends.
    end: watch::Receiver<()>,
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
    /// Each place by itself: what is slow to be asked holds up nobody who asks another.
    looks: Mutex<HashMap<Place, Looks>>,
}

impl Looks {
    /// Whether it is time for another look.
    fn is_due(&self, older_than: Duration, describes: bool) -> bool {
        self.last.as_ref().is_none_or(|last| match last.failed {
            Some(_) => last.at.elapsed() >= older_than.min(last.took.clamp(FAILED, PATIENCE)),
            // Policies that were loaded since may speak of what nobody had a reason to read.
            None => (describes && self.described.is_none()) || last.at.elapsed() >= older_than,
        })
    }

    /// Why the last look failed, if it did.
    fn failed(&self) -> Option<Error> {
        let (code, reason, message) = self.last.as_ref()?.failed.clone()?;
        Some(Error::new(code, reason, message))
    }
}

impl Directory {
    pub(super) fn new(targets: Targets) -> Self {
        Self { targets: RwLock::new(Arc::new(targets)), looks: Mutex::default() }
    }

    pub(super) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, learn: impl FnOnce(&Targets) -> Targets) {
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        *targets = Arc::new(learn(&targets));
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<Place, Looks>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over how a look ended.
    fn ended(&self, place: &Place, since: Instant, found: Result<Found, Error>) {
        let mut looks = self.looks();
        let of = looks.entry(place.clone()).or_default();
        let failed = match found {
            Ok(found) => {
                of.described = found.described.is_some().then(Instant::now);
                self.learn(place, found);
                None
            }
            Err(error) => {
                tracing::warn!(%place, error = %Chain(&error), "the security groups could not be read");
                self.forget_old(place, of);
                Some((error.code(), error.reason(), error.message().to_owned()))
            }
        };
        of.last = Some(Asked { at: Instant::now(), took: since.elapsed(), failed });
        of.underway = None;
    }

    /// What is too old decides nothing any more.
    fn forget_old(&self, place: &Place, of: &mut Looks) {
        if of.described.is_some_and(|at| at.elapsed() >= STILL_OPTED_IN) {
            of.described = None;
            self.update(|targets| targets.with_described(place, None));
        }
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

/// A look that goes on and is not waited for any more. Another that long may see its end.
fn slow() -> Error {
    let text = "AWS has not told in time which security groups there are; try again in a few seconds";
    Error::new(Code::Unavailable, "AWS_SLOW", text).retry_after(PATIENCE)
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
        let until = Instant::now() + PATIENCE;
        let missed = futures_util::stream::iter(places.iter().cloned()).map(|place| async move {
            let error = self.missed(&place, older_than, describes, until).await?;
            Some(Missed { place, error })
        });
        missed.buffered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// Looks at a place unless that was just done, and waits for it for a while; why it could not be read, if so.
    async fn missed(&self, place: &Place, older_than: Duration, describes: bool, until: Instant) -> Option<Error> {
        // Twice, as the first may be somebody's who did not look for as much.
        for _ in 0..2 {
            let Underway { since, mut end } = {
                let mut looks = self.directory.looks();
                let of = looks.entry(place.clone()).or_default();
                // A look that broke off is none.
                match of.underway.clone().filter(|underway| underway.end.has_changed().is_ok()) {
                    _ if !of.is_due(older_than, describes) => return of.failed(),
                    Some(underway) => underway,
                    None => of.underway.insert(self.begin_look(place.clone(), describes)).clone(),
                }
            };
            if timeout_at(until.min(since + PATIENCE), end.changed()).await.is_err() {
                break;
            }
        }
        let mut looks = self.directory.looks();
        self.directory.forget_old(place, looks.entry(place.clone()).or_default());
        Some(slow())
    }

    /// Begins a look that outlives its callers. It is bounded by its session.
    fn begin_look(&self, place: Place, describes: bool) -> Underway {
        let (since, (ends, end)) = (Instant::now(), watch::channel(()));
        let this = self.this.clone();
        let look = async move {
            let _ends = ends;
            if let Some(broker) = this.upgrade() {
                let found = broker.look_around(&place, describes).await;
                broker.directory.ended(&place, since, found);
            }
        };
        tokio::spawn(look.in_current_span());
        Underway { since, end }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_says_when_to_ask_again() {
        assert_eq!((slow().code(), slow().wait()), (Code::Unavailable, Some(PATIENCE)));
    }
}
