//! Approvals: a change for which policy asks for somebody's word waits as a request, until that person has said yes in a
//! login of their own, or no, or its time is up.
//!
//! A request is bound to who asked, for what exactly, of which group, and to the difference that the change would make.
//! The same caller asks for the same once more to have it carried out: nothing is handed over that could be stolen, and
//! filling in a form approves nothing. What is kept of a request is sealed, and its decision and its spending are each
//! written once, where every replica sees them: in Redis, or in the one process that there is. Where that cannot be
//! reached, the answer is no.

mod binding;
mod request;
mod store;
mod word;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::clock::Clock;
use crate::duration::{self, DAY, SECOND};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::operation::term::whole_seconds;
use crate::schema::Length;
use crate::seal::{Seal, SealError};
use crate::shared::Shared;

use store::Store;

pub use binding::{Binding, Change, Target};
pub use request::{Decision, Request, State};
pub use word::{Granted, Person, WhoseWord};

/// `[approvals]` in the configuration. Without it, what policy wants approved is refused.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long a request waits for its word and then for its use.
    #[serde(default = "default_wait", deserialize_with = "duration::within::<_, _, SECOND, DAY>")]
    #[schemars(with = "Length<SECOND, DAY>")]
    pub wait: Duration,
    /// The OAuth client that people log in through to decide; their ID tokens must be meant for it. Without one only
    /// services decide.
    pub login_client: Option<String>,
    /// A file with the key that requests are sealed with: 64 hexadecimal digits, the same for every replica. Needed with
    /// Redis; without it each process makes up its own.
    pub key_file: Option<PathBuf>,
}

fn default_wait() -> Duration {
    Duration::from_secs(1800)
}

/// How old a login may be that a person decides by.
pub const LOGIN_AGE_MOST: Duration = Duration::from_secs(300);

/// The most requests that one principal makes within the time that one waits.
const WAITING_MOST: usize = 20;

/// The most characters of a note.
const NOTE_MOST: usize = 200;

/// The requests that wait, of every replica.
#[derive(Clone, Debug)]
pub struct Approvals {
    store: Store,
    seal: Seal,
    wait: Duration,
    login_client: Option<String>,
    clock: Clock,
}

/// Why `[approvals]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Replicas that cannot read each other's requests.
    #[error("`key_file` is needed with `[redis]`: every replica must seal with the same key")]
    NoKey,
    /// The key.
    #[error("`key_file`")]
    Key(#[from] SealError),
}

/// Why a request cannot be made, read or decided.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// What all replicas share cannot be reached.
    #[error("where approvals are kept cannot be reached at the moment, so nothing that needs one is done")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Too many of the caller's wait.
    #[error(
        "you have asked for {WAITING_MOST} approvals within the time that one may wait, which is as many as are taken; try again later"
    )]
    TooMany,
    /// Too many wait.
    #[error("too many requests wait for approval already; nothing was asked for")]
    Full,
    /// There is no such request, it is over, or the caller has nothing to do with it.
    #[error("there is no request `{0}` that waits, or it is not yours to see")]
    Unknown(String),
    /// Somebody has decided already.
    #[error("{by} has {} this request already", if *.approved { "approved" } else { "declined" })]
    Decided {
        /// Who.
        by: String,
        /// What.
        approved: bool,
    },
    /// Who asked may not approve.
    #[error("this needs another person's word: who asked cannot give it")]
    OwnRequest,
    /// Somebody else than who asked.
    #[error("this needs the word of who asked, by a login of their own")]
    NotRequester,
    /// The note.
    #[error("a note has at most {NOTE_MOST} characters, and no control characters")]
    Note,
    /// Neither yes nor no.
    #[error("say `VERDICT_APPROVE` or `VERDICT_DECLINE`")]
    NoVerdict,
    /// A person without a login for this.
    #[error("a person decides by a login made for this very request: {0}")]
    Login(&'static str),
}

impl From<ApprovalError> for Error {
    fn from(error: ApprovalError) -> Self {
        let text = error.to_string();
        let (code, reason) = match &error {
            ApprovalError::Unreachable(_) => (Code::Unavailable, "APPROVALS_UNAVAILABLE"),
            ApprovalError::TooMany | ApprovalError::Full => (Code::ResourceExhausted, "APPROVALS_FULL"),
            ApprovalError::Unknown(_) => (Code::NotFound, "APPROVAL_UNKNOWN"),
            ApprovalError::Decided { .. } => (Code::FailedPrecondition, "APPROVAL_DECIDED"),
            ApprovalError::OwnRequest => (Code::PermissionDenied, "APPROVAL_OWN_REQUEST"),
            ApprovalError::NotRequester => (Code::PermissionDenied, "APPROVAL_NOT_REQUESTER"),
            ApprovalError::Note => return Self::invalid("note", "NOTE_INVALID", text),
            ApprovalError::NoVerdict => return Self::invalid("verdict", "VERDICT_MISSING", text),
            ApprovalError::Login(_) => (Code::PermissionDenied, "LOGIN_NEEDED"),
        };
        let base = Self::new(code, reason, text);
        match error {
            ApprovalError::Unreachable(_) => base.retry_after(Duration::from_secs(5)).caused_by(error),
            _ => base,
        }
    }
}

// === impl Approvals ===

impl Approvals {
    /// Checks the configuration, and keeps requests in what replicas share, or in this process where nothing is shared.
    pub fn new(config: &Config, shared: Option<Shared>, clock: Clock) -> Result<Self, ConfigError> {
        let seal = match &config.key_file {
            Some(file) => Seal::from_file(file)?,
            None if shared.is_some() => return Err(ConfigError::NoKey),
            None => Seal::random()?,
        };
        let store = shared.map_or_else(Store::process, Store::shared);
        Ok(Self { store, seal, wait: config.wait, login_client: config.login_client.clone(), clock })
    }

    /// The OAuth client that people log in through to decide.
    pub fn login_client(&self) -> Option<&str> {
        self.login_client.as_deref()
    }

    /// The word for a change, spent by this very use; or the request that waits for it, made now if there is none.
    pub async fn word(
        &self,
        binding: &Binding,
        from: WhoseWord,
        describe: impl FnOnce() -> Change,
    ) -> Result<Result<Granted, Request>, ApprovalError> {
        let place = binding.place();
        let standing = self.store.value(&place).await?;
        if let Some(id) = &standing
            && let Some(request) = self.find(&String::from_utf8_lossy(id)).await?
            && request.from() >= from
            && request.is_for(binding)
            && let Some(answer) = self.answer(request).await?
        {
            return Ok(answer);
        }
        self.take_place(binding).await?;
        let now = self.clock.now();
        let expires = whole_seconds(now.saturating_add(self.wait).unwrap_or(Timestamp::MAX));
        let request = Request::new(binding, from, describe(), now, expires);
        let sealed = self.seal.close(&context("request", request.id()), &request.to_json());
        self.store.put_new(&at("request", request.id()), &sealed, self.wait).await?;
        match standing {
            // What stood there is over, or spent.
            Some(_) => self.store.put(&place, request.id().as_bytes(), self.wait).await?,
            // Should another replica be asked for the same at this moment, one of the two requests counts.
            None if self.store.put_new(&place, request.id().as_bytes(), self.wait).await? => {}
            None => {
                let first = self.store.value(&place).await?.unwrap_or_default();
                let first = self.find(&String::from_utf8_lossy(&first)).await?;
                return Ok(Err(first.unwrap_or(request)));
            }
        }
        Ok(Err(request))
    }

    /// What a request that stands comes to; nothing where it is spent, and a new one is needed.
    async fn answer(&self, request: Request) -> Result<Option<Result<Granted, Request>>, ApprovalError> {
        match request.state() {
            State::Waiting | State::Declined => Ok(Some(Err(request))),
            State::Approved if self.spend(&request).await? => Ok(request.granted().map(Ok)),
            State::Approved | State::Used => Ok(None),
        }
    }

    /// Nobody fills the store: each has so many places, for as long as a request waits.
    async fn take_place(&self, binding: &Binding) -> Result<(), ApprovalError> {
        for place in 0..WAITING_MOST {
            if self.store.put_new(&format!("approval:of:{}:{place}", binding.whose()), b"", self.wait).await? {
                return Ok(());
            }
        }
        Err(ApprovalError::TooMany)
    }

    /// A request that is not over.
    pub async fn find(&self, id: &str) -> Result<Option<Request>, ApprovalError> {
        let Some(sealed) = self.store.value(&at("request", id)).await? else { return Ok(None) };
        let opened = self.seal.open(&context("request", id), &sealed);
        let Some(mut request) = opened.and_then(|text| Request::from_json(&text)) else { return Ok(None) };
        if request.is_over(self.clock.now()) {
            return Ok(None);
        }
        if let Some(sealed) = self.store.value(&at("decision", id)).await? {
            let opened = self.seal.open(&context("decision", id), &sealed);
            // What cannot be read is nobody's decision, and no second one can be written: the request is dead.
            let Some(decision) = opened.and_then(|text| Decision::from_json(&text)) else { return Ok(None) };
            let used = decision.is_used();
            request.decided(decision);
            request.used(used || self.store.value(&at("spent", id)).await?.is_some());
        }
        Ok(Some(request))
    }

    /// Decides a request, once.
    pub async fn decide(
        &self,
        request: Request,
        by: &Principal,
        approve: bool,
        note: &str,
    ) -> Result<Request, ApprovalError> {
        may_decide(&request, by)?;
        let decision = Decision::new(Person::of(by), approve, note, self.clock.now());
        let sealed = self.seal.close(&context("decision", request.id()), &decision.to_json());
        if !self.store.put_new(&at("decision", request.id()), &sealed, self.left(&request)).await? {
            let known = self.find(request.id()).await?;
            let decision = known.as_ref().and_then(Request::decision);
            let (by, approved) =
                decision.map_or(("somebody".to_owned(), false), |known| (known.by().name.clone(), known.is_approval()));
            return Err(ApprovalError::Decided { by, approved });
        }
        let mut request = request;
        request.decided(decision);
        Ok(request)
    }

    /// Spends an approval, once; false where that was done before.
    async fn spend(&self, request: &Request) -> Result<bool, ApprovalError> {
        if !self.store.put_new(&at("spent", request.id()), b"", self.left(request)).await? {
            return Ok(false);
        }
        // Said with the decision as well: should the spending be lost, the word is not found unspent.
        let Some(decision) = request.decision() else { return Ok(false) };
        let sealed = self.seal.close(&context("decision", request.id()), &decision.used().to_json());
        self.store.put(&at("decision", request.id()), &sealed, self.left(request)).await?;
        Ok(true)
    }

    /// How long what belongs to a request is kept: as long as the request itself, and a little longer, so that nothing is
    /// forgotten while it still counts.
    fn left(&self, request: &Request) -> Duration {
        let left = request.expires().duration_since(self.clock.now());
        Duration::try_from(left).unwrap_or_default() + Duration::from_secs(60)
    }
}

/// What is said with a decision, as it may be kept.
pub fn note(written: &str) -> Result<&str, ApprovalError> {
    let note = written.trim();
    let sound = note.chars().count() <= NOTE_MOST && !note.chars().any(char::is_control);
    if sound { Ok(note) } else { Err(ApprovalError::Note) }
}

/// Whether somebody may say yes or no to a request, as far as who asked tells; policy says the rest.
pub fn may_decide(request: &Request, by: &Principal) -> Result<(), ApprovalError> {
    if let Some(decision) = request.decision() {
        return Err(ApprovalError::Decided { by: decision.by().name.clone(), approved: decision.is_approval() });
    }
    match (request.from(), request.requester().is_behind(by)) {
        (WhoseWord::Another, true) => Err(ApprovalError::OwnRequest),
        (WhoseWord::Requester, false) => Err(ApprovalError::NotRequester),
        _ => Ok(()),
    }
}

fn at(what: &str, id: &str) -> String {
    format!("approval:{what}:{id}")
}

/// What a sealed text is bound to: it cannot be passed off as another's, nor a request as a decision.
fn context(what: &str, id: &str) -> Vec<u8> {
    format!("whitelistmcp approval {what} {id}").into_bytes()
}

#[cfg(test)]
mod tests;
