//! The audit trail: every operation is written down before it acts and completed after.
//!
//! An [`Entry`] is begun with a permit and ended with an outcome. For a change the begin must be on disk before AWS is
//! touched: the proof of that is a [`DurableEntry`], and nothing that changes AWS can be called without one. Reads and
//! refusals ride with whatever is written next. The journal's format is in `docs/AUDIT.md`.

mod journal;
mod record;
mod unfinished;

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use crate::approval::Request;
use crate::error::{Code, Error};
use crate::identity::Caller;
use crate::operation::rule::Rule;
use crate::operation::target::{GroupId, Place};
use crate::operation::{self, CallId, Operation, Tool};
use crate::policy::{LookPermit, Word};

pub use journal::{Config, Journal, JournalError};
pub use record::AwsCall;
pub use unfinished::Unfinished;

use record::{Begin, Carried, End, Refused, Vouched, Who};

/// The audit trail of one process. Clones share it.
#[derive(Clone, Debug)]
pub struct Audit {
    journal: Option<Journal>,
}

/// An operation that was begun. Dropping it without ending it is recorded as an unknown outcome.
#[derive(Debug)]
pub struct Entry {
    audit: Audit,
    call: CallId,
    begun: Instant,
    aws: Mutex<Vec<AwsCall>>,
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
        /// The rules that were made or removed, or would be.
        rules: &'a [Rule],
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
    /// The journal cannot be written.
    #[error("the audit journal cannot be written at the moment, so nothing is changed")]
    Journal(#[source] JournalError),
}

impl From<AuditError> for Error {
    fn from(error: AuditError) -> Self {
        let text = error.to_string();
        match error {
            AuditError::NoJournal => Self::new(Code::FailedPrecondition, "AUDIT_NOT_CONFIGURED", text),
            AuditError::Journal(source) => Self::new(Code::Unavailable, "AUDIT_UNAVAILABLE", text)
                .retry_after(std::time::Duration::from_secs(5))
                .caused_by(source),
        }
    }
}

// === impl Audit ===

impl Audit {
    /// The audit trail over a journal; without one only reads are possible.
    pub fn new(journal: Option<Journal>) -> Self {
        Self { journal }
    }

    /// Whether the journal can be written, as far as is known. Without one there is nothing that could fail.
    pub fn is_writable(&self) -> bool {
        self.journal.as_ref().is_none_or(Journal::is_writable)
    }

    /// Begins an operation that only reads.
    pub fn begin_read(&self, permit: &LookPermit, session_policy: &str) -> Entry {
        self.write(Self::begin(permit, session_policy));
        self.entry(permit)
    }

    /// Begins an operation that may change AWS; returns once the begin is on disk.
    pub async fn begin_change(&self, permit: &LookPermit, session_policy: &str) -> Result<DurableEntry, AuditError> {
        let journal = self.journal.as_ref().ok_or(AuditError::NoJournal)?;
        journal.write_durably(Self::begin(permit, session_policy)).await.map_err(AuditError::Journal)?;
        Ok(DurableEntry(self.entry(permit)))
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
            call: call.as_str().to_owned(),
            tool: tool.name(),
            who: caller.map(Who::of),
            target: operation.map(|operation| record::Target::of(operation.scope())),
            arguments: operation.map(operation::arguments),
            error: record::Failure::of(error),
            policies,
            counted: None,
        }));
    }

    /// Records calls that were refused alike, with the last of them for all.
    pub fn refuse_counted(&self, tool: Tool, call: &CallId, caller: Option<&Caller>, error: &Error, counted: u64) {
        self.write(record::Body::Refused(Refused {
            call: call.as_str().to_owned(),
            tool: tool.name(),
            who: caller.map(Who::of),
            target: None,
            arguments: None,
            error: record::Failure::of(error),
            policies: Vec::new(),
            counted: Some(counted),
        }));
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
        let journal = self.journal.as_ref().ok_or(AuditError::NoJournal)?;
        let decision = record::Decision::of(call, who, request, approved, note, policies);
        journal.write_durably(record::Body::Decision(decision)).await.map_err(AuditError::Journal)
    }

    /// Whether changes can be recorded at all.
    pub fn keeps_a_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// The id of the directory of journals.
    pub fn journal_id(&self) -> Option<&str> {
        self.journal.as_ref().map(Journal::id)
    }

    /// Which of these calls are recorded in this directory of journals. Reads files: not for a thread that serves calls.
    pub fn has_entries(&self, calls: HashSet<String>) -> Result<HashSet<String>, JournalError> {
        let none = || Ok(HashSet::new());
        self.journal.as_ref().map_or_else(none, |journal| unfinished::has_entries(journal.path(), calls))
    }

    /// The changes that former processes began in this journal's directory and did not live to end.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, JournalError> {
        self.journal.as_ref().map_or(Ok(Vec::new()), |journal| unfinished::read(journal.path()))
    }

    /// Records what was seen in AWS and is nobody's call: that a rule went, changed, or carries damaged tags.
    pub fn observed(&self, what: &'static str, place: &Place, group: &GroupId, rule: &Rule) {
        self.write(record::Body::Observed(record::Observed::of(what, place, group, rule)));
    }

    /// Ends an operation of a former process.
    pub fn recovered(&self, call: &str, found: Found, rules: &[Rule], by: &CallId) {
        self.write(record::Body::End(End::recovered(call, found, rules, by)));
    }

    fn begin(permit: &LookPermit, session_policy: &str) -> record::Body {
        let operation = permit.operation();
        record::Body::Begin(Begin {
            call: operation.call().as_str().to_owned(),
            part_of: operation.part_of().map(|call| call.as_str().to_owned()),
            tool: operation.tool().name(),
            who: Who::of(permit.caller()),
            target: record::Target::of(operation.scope()),
            arguments: operation::arguments(operation),
            policies: permit.policies().to_vec(),
            session_policy_sha256: session_policy.to_owned(),
            changes: operation.changes(),
            trace: crate::telemetry::trace_id(),
        })
    }

    fn entry(&self, permit: &LookPermit) -> Entry {
        Entry {
            audit: self.clone(),
            call: permit.operation().call().clone(),
            begun: Instant::now(),
            aws: Mutex::default(),
            before: OnceLock::new(),
            decided: OnceLock::new(),
            vouched: OnceLock::new(),
            ended: false,
        }
    }

    fn write(&self, body: record::Body) {
        if let Some(journal) = &self.journal {
            journal.write(body);
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Notes a call that was made to AWS for this operation.
    pub fn note(&self, call: AwsCall) {
        self.aws.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(call);
    }

    /// Whether AWS was asked to change something, and answered.
    pub fn has_asked_for_change(&self) -> bool {
        let calls = self.aws.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        calls.iter().any(|call| !call.action.starts_with("sts:") && !call.action.starts_with("ec2:Describe"))
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
        let aws = std::mem::take(self.aws.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        let before = self.before.take().map(|rules| rules.iter().map(record::Rule::of).collect());
        self.audit.write(record::Body::End(End::of(
            &self.call,
            outcome,
            aws,
            before,
            self.decided.take().unwrap_or_default(),
            self.vouched.take(),
            self.begun.elapsed(),
        )));
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
        let journal = self.0.audit.journal.as_ref().ok_or(AuditError::NoJournal)?;
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
