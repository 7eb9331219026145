//! TLS material that is read again while it is used: all its files together, checked as one set, swapped in one step.
//!
//! What the files hold is compared, not when they changed: orchestrators swap links, and clocks of volumes differ. A set
//! that fails its checks changes nothing but the log; what was in force stays in force.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::TlsError;
use super::authorities::Choice;
use super::load::{Contents, LoadError};
use crate::clock::Clock;
use crate::error::Chain;
use crate::telemetry;

/// How long changed files must stay the same before they are believed: whoever writes several writes them one by one,
/// and half a CA file would put the peers of the other half out.
const SETTLE: Duration = Duration::from_millis(250);

/// Files that make one set of TLS material.
pub trait Material: std::fmt::Debug + Send + Sync + 'static {
    /// What they come to.
    type Set: std::fmt::Debug + Send + Sync + 'static;

    /// Reads and checks them all.
    fn load(&self, now: Timestamp) -> Result<Self::Set, TlsError> {
        self.build(&Read::of(self)?, now)
    }

    /// The part of the configuration that names them.
    fn part(&self) -> &'static str;

    /// The files.
    fn paths(&self) -> Vec<&Path>;

    /// Checks what was read, and puts it together.
    fn build(&self, read: &Read, now: Timestamp) -> Result<Self::Set, TlsError>;

    /// When the first part of a set comes to its end.
    fn end(set: &Self::Set) -> Timestamp;

    /// Which CAs of the files it trusts.
    fn choice(set: &Self::Set) -> &Choice;
}

/// What a material's files held.
pub struct Read(pub(super) Contents);

/// The set in force: always the newest that passed its checks.
pub type Current<S> = watch::Receiver<Arc<S>>;

/// Reads a material's files again and again.
#[derive(Debug)]
pub struct Reloader<M: Material> {
    material: Arc<M>,
    force: watch::Sender<Arc<M::Set>>,
    seen: Seen,
    clock: Clock,
    ended: bool,
}

/// What the last look saw.
#[derive(Debug)]
struct Seen {
    state: State,
    good: bool,
}

/// What files hold, or why that cannot be said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Digest([u8; 32]),
    Unreadable(String),
}

impl Read {
    fn of<M: Material + ?Sized>(material: &M) -> Result<Self, LoadError> {
        Contents::read(&material.paths()).map(Self)
    }

    fn state(read: &Result<Self, LoadError>) -> State {
        match read {
            Ok(Self(contents)) => State::Digest(contents.digest()),
            Err(error) => State::Unreadable(Chain(error).to_string()),
        }
    }
}

impl<M: Material> Reloader<M> {
    /// Reads the files for the first time. Without a sound set there is nothing to start with.
    pub fn new(material: M, clock: Clock) -> Result<(Self, Current<M::Set>), TlsError> {
        let read = Read::of(&material);
        let state = Read::state(&read);
        let set = material.build(&read?, clock.now())?;
        tell_set_aside::<M>(material.part(), &set);
        let (force, current) = watch::channel(Arc::new(set));
        let seen = Seen { state, good: true };
        Ok((Self { material: Arc::new(material), force, seen, clock, ended: false }, current))
    }

    /// The part whose certificates they are, and until when those in force are good.
    pub fn until(&self) -> (&'static str, Box<dyn Fn() -> Timestamp + Send + Sync>) {
        let force = self.force.clone();
        (self.material.part(), Box::new(move || M::end(&force.borrow())))
    }

    /// Looks every so often, until it is stopped.
    /// A change of `asked` makes it look at once.
    pub async fn run(mut self, every: Duration, mut asked: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                Ok(()) = asked.changed() => {}
            }
            if stop.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
        }
    }

    /// Looks once.
    pub(super) async fn look(&mut self) {
        let part = self.material.part();
        let left = M::end(&self.force.borrow()).duration_since(self.clock.now());
        telemetry::record_certificate(part, Duration::try_from(left).unwrap_or_default());
        let Some(mut read) = self.read().await else { return };
        let mut state = Read::state(&read);
        let changed = state != self.seen.state;
        if changed {
            tokio::time::sleep(SETTLE).await;
            let Some(again) = self.read().await else { return };
            let settled = Read::state(&again);
            if settled != state {
                // Still being written; the next look sees the rest.
                return;
            }
            (read, state) = (again, settled);
        } else if self.seen.good && !self.is_due() {
            return;
        }
        // What was refused is tried again while it lies there: a certificate may only have been early.
        let now = self.clock.now();
        let built = read.map_err(TlsError::from).and_then(|read| self.material.build(&read, now));
        let good = built.is_ok();
        match built {
            Ok(set) => {
                tracing::info!(part, until = %M::end(&set), "new certificates are in force");
                tell_set_aside::<M>(part, &set);
                self.ended = false;
                self.force.send_replace(Arc::new(set));
            }
            Err(error) if changed => {
                let error = Chain(&error);
                tracing::error!(part, error = %error, "new certificates are refused; the ones before stay in force");
            }
            Err(error) => self.mind(&error),
        }
        self.seen = Seen { state, good };
    }

    /// Whether files that nobody has touched may come to another set: one without a CA that has ended, or with one that has begun.
    fn is_due(&self) -> bool {
        let (now, set) = (self.clock.now(), self.force.borrow());
        M::end(&set) < now || !M::choice(&set).is_right_at(now)
    }

    /// Says once that what is in force has come to its end, or that a CA that has begun cannot be trusted, and why.
    fn mind(&mut self, error: &TlsError) {
        let (part, error, until) = (self.material.part(), Chain(error), M::end(&self.force.borrow()));
        if until < self.clock.now() {
            if !std::mem::replace(&mut self.ended, true) {
                tracing::error!(part, until = %until, error = %error, "certificates or revocation lists in force have expired, and no newer ones are there");
            }
        } else if self.seen.good {
            tracing::error!(part, error = %error, "the certificates that are there have become unsound; the ones in force stay there");
        }
    }

    async fn read(&self) -> Option<Result<Read, LoadError>> {
        let material = Arc::clone(&self.material);
        tokio::task::spawn_blocking(move || Read::of(&*material)).await.ok()
    }
}

/// Says which CAs a set does not trust, though the files hold them.
fn tell_set_aside<M: Material>(part: &'static str, set: &M::Set) {
    for why in M::choice(set).set_aside() {
        tracing::info!(part, "{why}");
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Read(…)")
    }
}
