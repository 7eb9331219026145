//! The audit trail: every operation is written down before it acts and completed after.
//!
//! An [`Entry`] is begun with a permit and ended with an outcome. For a change the begin must be on disk before AWS is
//! touched: the proof of that is a [`DurableEntry`], and nothing that changes AWS can be called without one. Reads and
//! refusals ride with whatever is written next. The journal's format is in `docs/AUDIT.md`.

pub mod head;
mod journal;
mod leave;
mod record;
pub mod replay;
pub mod show;
mod taken;
mod unfinished;
pub mod verify;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::approval::Request;
use crate::clock::Clock;
use crate::error::{Chain, Code, Error};
use crate::identity::Caller;
use crate::operation::rule::Rule;
use crate::operation::target::{GroupId, Place};
use crate::operation::{self, CallId, Operation, Tool};
use crate::policy::{LookPermit, Word};

pub use journal::{Config, Journal, JournalError, Volume, check_key, objection};
pub use record::AwsCall;
pub use unfinished::{Orphan, Unfinished};

use journal::VERSION;
use record::{Begin, Carried, End, Gathered, Noted, Refused, Vouched, Who};

/// The audit trail of one process. Clones share it.
#[derive(Clone, Debug)]
pub struct Audit {
    journal: Arc<OnceLock<Journal>>,
    /// Why the journal that is configured could not be opened so far.
    unopened: Option<Arc<Mutex<JournalError>>>,
}

/// An operation that was begun. Dropping it without ending it is recorded as an unknown outcome.
#[derive(Debug)]
pub struct Entry {
    audit: Audit,
    call: CallId,
    tool: &'static str,
    begun: Instant,
    recorded: Option<Duration>,
    trace: Option<(String, String)>,
    aws: Mutex<Vec<Noted>>,
    read_from: Mutex<Vec<String>>,
    before: OnceLock<Vec<Rule>>,
    decided: OnceLock<Vec<String>>,
    vouched: OnceLock<Vouched>,
    ended: bool,
}

/// An operation whose begin is on disk. Only with one can AWS be changed.
#[derive(Debug)]
pub struct DurableEntry(Entry);

/// How an operation came out.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It was done; `changed` says whether AWS is different for it.
    Done {
        /// Whether anything was changed.
        changed: bool,
        /// The rules that it was about, and what happened to each.
        touched: &'a [Touch],
    },
    /// Policy refused it once AWS was read.
    Denied(&'a Error, Vec<String>),
    /// It waits for somebody's word.
    Waits(&'a Error, Vec<String>),
    /// It failed, and AWS is as it was.
    Failed(&'a Error),
    /// It failed, and some of it was done before.
    Partly(&'a Error),
    /// It failed, and whether AWS has changed is not known.
    Unknown(&'a Error),
}

/// A rule that an operation was about.
#[derive(Clone, Debug)]
pub struct Touch {
    /// What happened to it, in the API's word: `opened`, `joined`, `extended`, `moved`, `removed`, `left`,
    /// `already_yours`, `already_open`; or `would_…` in a dry run.
    pub what: &'static str,
    /// The rule as it stands, stood or would stand.
    pub rule: Rule,
}

impl Touch {
    /// Whether it is gone.
    fn is_gone(&self) -> bool {
        self.what == "removed"
    }
}

/// What became of an operation that was begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// AWS shows that it was done.
    Done,
    /// AWS shows that it was not.
    NotDone,
    /// AWS cannot tell any more.
    Unknown,
}

/// Why an operation cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No journal is configured: reads only.
    #[error("this service keeps no audit journal, so it changes nothing; it can list and check")]
    NoJournal,
    /// Nobody knows that the journal outlives the process: reads only.
    #[error(
        "this service does not know that its audit journal is kept, so it changes nothing; it can list and check. An operator must look: {0}"
    )]
    NotKept(String),
    /// The journal cannot be written.
    #[error("the audit journal cannot be written at the moment, so nothing is changed")]
    Journal(#[source] JournalError),
}

impl From<AuditError> for Error {
    fn from(error: AuditError) -> Self {
        let text = error.to_string();
        match error {
            AuditError::NoJournal => Self::new(Code::FailedPrecondition, "AUDIT_NOT_CONFIGURED", text),
            AuditError::NotKept(_) => Self::new(Code::FailedPrecondition, "AUDIT_NOT_KEPT", text),
            AuditError::Journal(source) => Self::new(Code::Unavailable, "AUDIT_UNAVAILABLE", text)
                .retry_after(Duration::from_secs(5))
                .caused_by(source),
        }
    }
}

// === impl Audit ===

impl Audit {
    /// The audit trail over a journal; without one only reads are possible.
    pub fn new(journal: Option<Journal>) -> Self {
        Self { journal: Arc::new(journal.map(OnceLock::from).unwrap_or_default()), unopened: None }
    }

    /// The audit trail over a journal that cannot be opened now; until it can be, only reads are possible.
    pub fn unopened(why: JournalError) -> Self {
        Self { journal: Arc::default(), unopened: Some(Arc::new(Mutex::new(why))) }
    }

    /// Tries once to open a journal that could not be opened at the start. Whoever is first counts. Why it fails now is said
    /// where it is another reason than before.
    pub async fn open_late(&self, config: &Config) {
        let config = config.clone();
        match tokio::task::spawn_blocking(move || Journal::open(&config, Clock::system())).await {
            Ok(Ok(Some(journal))) => {
                journal.tell();
                self.journal.get_or_init(|| journal);
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => self.still_unopened(error),
            Err(panic) => tracing::error!(error = %panic, "the audit journal could not be opened"),
        }
    }

    fn still_unopened(&self, error: JournalError) {
        let Some(known) = &self.unopened else { return };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if Chain(&*known).to_string() != Chain(&error).to_string() {
            tracing::error!(error = %Chain(&error), "the audit journal cannot be opened yet, now for another reason");
        }
        *known = error;
    }

    /// Why the journal that is configured could not be opened when it was last tried.
    fn why_unopened(&self) -> Option<JournalError> {
        let known = self.unopened.as_ref()?;
        Some(known.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Whether a journal is configured and not open yet.
    pub fn awaits_its_journal(&self) -> bool {
        self.unopened.is_some() && self.journal().is_none()
    }

    fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Why the journal cannot be written, as far as is known. Without one there is nothing that could fail.
    pub fn problem(&self) -> Option<String> {
        match self.journal() {
            Some(journal) => journal.problem(),
            None => self.why_unopened().map(|why| format!("it could not be opened: {}", Chain(&why))),
        }
    }

    /// The journal on whose word AWS may be changed.
    fn kept(&self) -> Result<&Journal, AuditError> {
        let journal =
            self.journal().ok_or_else(|| self.why_unopened().map_or(AuditError::NoJournal, AuditError::Journal))?;
        let objection = journal.objection().map(|objection| AuditError::NotKept(objection.to_owned()));
        objection.map_or(Ok(journal), Err)
    }

    /// Begins an operation that only reads.
    pub fn begin_read(&self, permit: &LookPermit, session_policy: Option<&str>) -> Entry {
        let trace = crate::telemetry::records::span_ids();
        self.write(Self::begin(permit, session_policy, trace.clone()));
        self.entry(permit, Instant::now(), None, trace)
    }

    /// Begins an operation that may change AWS; returns once the begin is on disk.
    pub async fn begin_change(
        &self,
        permit: &LookPermit,
        session_policy: Option<&str>,
    ) -> Result<DurableEntry, AuditError> {
        let (begun, trace) = (Instant::now(), crate::telemetry::records::span_ids());
        let begin = Self::begin(permit, session_policy, trace.clone());
        self.kept()?.write_durably(begin).await.map_err(AuditError::Journal)?;
        Ok(DurableEntry(self.entry(permit, begun, Some(begun.elapsed()), trace)))
    }

    /// Records a call that was refused before it became an operation of anybody's.
    pub fn refuse(
        &self,
        tool: Tool,
        call: &CallId,
        caller: Option<&Caller>,
        operation: Option<&Operation>,
        error: &Error,
        policies: Vec<String>,
    ) {
        self.write(record::Body::Refused(Refused {
            who: caller.map(Who::of),
            target: operation.map(|operation| record::Target::of(operation.scope())),
            arguments: operation.map(operation::arguments),
            policies,
            ..Self::refused(tool, call, error)
        }));
    }

    /// Records calls that were refused alike, with the last of them for all.
    pub fn refuse_counted(&self, tool: Tool, call: &CallId, caller: Option<&Caller>, error: &Error, counted: u64) {
        let refused = Refused { who: caller.map(Who::of), counted: Some(counted), ..Self::refused(tool, call, error) };
        self.write(record::Body::Refused(refused));
    }

    fn refused(tool: Tool, call: &CallId, error: &Error) -> Refused {
        let (trace, span) = crate::telemetry::records::span_ids().unzip();
        Refused {
            call: call.as_str().to_owned(),
            tool: tool.name(),
            who: None,
            target: None,
            arguments: None,
            error: record::Failure::of(error),
            policies: Vec::new(),
            counted: None,
            trace,
            span,
        }
    }

    /// Records a decision on a request for approval; returns once it is on disk. Only then may it count.
    pub async fn decide(
        &self,
        call: &CallId,
        who: &Caller,
        request: &Request,
        approved: bool,
        note: &str,
        policies: Vec<String>,
    ) -> Result<(), AuditError> {
        let journal = self.kept()?;
        let decision = record::Decision::of(call, who, request, approved, note, policies);
        journal.write_durably(record::Body::Decision(decision)).await.map_err(AuditError::Journal)
    }

    /// Why nothing may be changed, however well the journal is written; nothing without a journal.
    pub fn objection(&self) -> Option<&str> {
        self.journal().and_then(Journal::objection)
    }

    /// Says whether this machine's clock agrees with AWS's: nothing is let go of by a clock that may be wrong.
    pub fn believe_clock(&self, agrees: bool) {
        if let Some(journal) = self.journal() {
            journal.believe_clock(agrees);
        }
    }

    /// Returns once everything that was recorded so far is on disk, or says why it is not: for a process that may be stopped at
    /// any moment from then on.
    pub async fn settle(&self) -> Result<(), JournalError> {
        match self.journal() {
            Some(journal) => journal.settle().await,
            None => Ok(()),
        }
    }

    /// Whether changes can be recorded at all.
    pub fn keeps_a_journal(&self) -> bool {
        self.kept().is_ok()
    }

    /// The id of the directory of journals.
    pub fn journal_id(&self) -> Option<&str> {
        self.journal().map(Journal::id)
    }

    /// Which of these calls are recorded in this directory of journals, or may have been and are let go of; and whether it
    /// says there that the call was not done. Reads files: not for a thread that serves calls.
    pub fn has_entries(&self, calls: HashSet<String>) -> Result<HashMap<String, bool>, JournalError> {
        let none = || Ok(HashMap::new());
        self.journal().map_or_else(none, |journal| unfinished::has_entries(journal, calls))
    }

    /// The chains of processes that are gone, with the changes that they began and did not live to end. Whoever gets one
    /// holds it alone. Reads files: not for a thread that serves calls.
    pub fn orphans(&self) -> Result<Vec<Orphan>, JournalError> {
        self.journal().map_or(Ok(Vec::new()), unfinished::orphans)
    }

    /// Records how an orphan ended, before anything is done about it.
    pub async fn adopt(&self, orphan: &Orphan) -> Result<(), JournalError> {
        let journal = self.journal().ok_or(JournalError::Stopped)?;
        journal.write_durably(record::Body::Adopted(orphan.adopted())).await
    }

    /// Everything that an orphan began has its end.
    pub fn settled(&self, orphan: Orphan) -> Result<(), JournalError> {
        let chain = orphan.release()?;
        if let Some(journal) = self.journal() {
            journal.settled(&chain);
        }
        Ok(())
    }

    /// Records what was seen in AWS and is nobody's call: that a rule went, changed, or carries damaged tags.
    pub fn observed(&self, what: &'static str, place: &Place, group: &GroupId, rule: &Rule) {
        self.write(record::Body::Observed(record::Observed::of(what, place, group, rule)));
    }

    /// Ends an operation of a former process; returns once that is on disk.
    pub async fn recovered(&self, call: &str, found: Found, rules: &[Rule], by: &CallId) -> Result<(), AuditError> {
        let journal = self.journal().ok_or(AuditError::NoJournal)?;
        let end = record::Body::End(End::recovered(call, found, rules, by));
        journal.write_durably(end).await.map_err(AuditError::Journal)
    }

    fn begin(permit: &LookPermit, session_policy: Option<&str>, trace: Option<(String, String)>) -> record::Body {
        let operation = permit.operation();
        let (trace, span) = trace.unzip();
        record::Body::Begin(Begin {
            call: operation.call().as_str().to_owned(),
            part_of: operation.part_of().map(|call| call.as_str().to_owned()),
            tool: operation.tool().name(),
            who: Who::of(permit.caller()),
            target: record::Target::of(operation.scope()),
            arguments: operation::arguments(operation),
            policies: permit.policies().to_vec(),
            session_policy_sha256: session_policy.map(str::to_owned),
            credentials: session_policy.is_none().then_some("own"),
            changes: operation.changes(),
            trace,
            span,
        })
    }

    fn entry(
        &self,
        permit: &LookPermit,
        begun: Instant,
        recorded: Option<Duration>,
        trace: Option<(String, String)>,
    ) -> Entry {
        Entry {
            audit: self.clone(),
            call: permit.operation().call().clone(),
            tool: permit.operation().tool().name(),
            begun,
            recorded,
            trace,
            aws: Mutex::default(),
            read_from: Mutex::default(),
            before: OnceLock::new(),
            decided: OnceLock::new(),
            vouched: OnceLock::new(),
            ended: false,
        }
    }

    fn write(&self, body: record::Body) {
        if let Some(journal) = self.journal() {
            journal.write(body);
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Notes a call that was made to AWS for this operation.
    pub fn note(&self, call: AwsCall) {
        let at_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.aws.lock().unwrap_or_else(PoisonError::into_inner).push(Noted { call, at_ms });
    }

    /// Notes that what the answer says was not read for this operation, but for that call before.
    pub fn read_from(&self, call: &str) {
        let mut calls = self.read_from.lock().unwrap_or_else(PoisonError::into_inner);
        if !calls.iter().any(|known| known == call) {
            calls.push(call.to_owned());
        }
    }

    /// The tool that was called.
    pub fn tool(&self) -> &'static str {
        self.tool
    }

    /// AWS's ids of the requests so far.
    pub fn request_ids(&self) -> Vec<String> {
        let calls = self.aws.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter_map(|noted| noted.call.request_id.clone()).collect()
    }

    /// Whether AWS was asked to change something, and answered.
    pub fn has_asked_for_change(&self) -> bool {
        let calls = self.aws.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().any(|Noted { call, .. }| call.is_change())
    }

    /// Whether AWS has changed something for this operation.
    pub fn has_changed(&self) -> bool {
        let calls = self.aws.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().any(|Noted { call, .. }| call.error.is_none() && call.is_change())
    }

    /// Keeps the policies that permitted the operation once AWS was read. Said twice, the first counts.
    pub fn decided(&self, policies: &[String]) {
        self.decided.get_or_init(|| policies.to_vec());
    }

    /// Ends the operation. The answer to the caller does not wait for the disk.
    pub fn end(mut self, outcome: &Outcome<'_>) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: &Outcome<'_>) {
        self.ended = true;
        let aws = std::mem::take(self.aws.get_mut().unwrap_or_else(PoisonError::into_inner));
        let before = self.before.take().map(|rules| rules.iter().map(record::Rule::of).collect());
        let gathered = Gathered {
            aws,
            read_from: std::mem::take(self.read_from.get_mut().unwrap_or_else(PoisonError::into_inner)),
            before,
            decided: self.decided.take().unwrap_or_default(),
            approval: self.vouched.take(),
            recorded: self.recorded,
            took: self.begun.elapsed(),
            trace: self.trace.take(),
        };
        self.audit.write(record::Body::End(End::of(&self.call, outcome, gathered)));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.ended {
            let error = Error::new(Code::Internal, "ABANDONED", "the operation was given up before it ended");
            self.finish(&Outcome::Unknown(&error));
        }
    }
}

// === impl DurableEntry ===

impl DurableEntry {
    /// Records whose word stands in for what policy demands, and the policies that demand it; returns once that is on
    /// disk. Only then may AWS be changed.
    pub async fn vouched(&self, word: &Word, demanded_by: Vec<String>) -> Result<(), AuditError> {
        let journal = self.0.audit.kept()?;
        let approval = Vouched::of(word, demanded_by);
        let call = self.0.call.as_str().to_owned();
        let body = record::Body::Vouched(Carried { call, approval: approval.clone() });
        journal.write_durably(body).await.map_err(AuditError::Journal)?;
        self.0.vouched.get_or_init(|| approval);
        Ok(())
    }

    /// The entry, to note calls to AWS on.
    pub fn entry(&self) -> &Entry {
        &self.0
    }

    /// Keeps what stood in the group before the change. Said twice, the first counts.
    pub fn before(&self, rules: &[Rule]) {
        self.0.before.get_or_init(|| rules.to_vec());
    }

    /// The entry, to end it. What is left cannot change AWS.
    pub fn into_entry(self) -> Entry {
        self.0
    }
}
