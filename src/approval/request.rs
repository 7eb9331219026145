//! One request for approval, and the decision on it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::binding::{Binding, Change, Target};
use super::word::{Granted, Person, WhoseWord};

/// A change that waits for somebody's word, or waited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    id: String,
    from: WhoseWord,
    requester: Person,
    digest: String,
    tool: String,
    target: Target,
    title: String,
    details: Vec<(String, String)>,
    call: String,
    policies: Vec<String>,
    made: Timestamp,
    expires: Timestamp,
    #[serde(skip)]
    decision: Option<Decision>,
    #[serde(skip)]
    used: bool,
}

/// A yes or a no.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decision {
    by: Person,
    approved: bool,
    note: String,
    at: Timestamp,
    #[serde(default)]
    used: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Waiting,
    /// It was approved and not used yet.
    Approved,
    /// It was declined.
    Declined,
    /// It was approved and used.
    Used,
}

impl Decision {
    pub(super) fn new(by: Person, approved: bool, note: &str, at: Timestamp) -> Self {
        Self { by, approved, note: note.to_owned(), at, used: false }
    }

    /// The same, once it was used.
    pub(super) fn used(&self) -> Self {
        Self { used: true, ..self.clone() }
    }

    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Who decided.
    pub fn by(&self) -> &Person {
        &self.by
    }

    /// Whether it is a yes.
    pub fn is_approval(&self) -> bool {
        self.approved
    }

    /// What was said with it.
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl Request {
    pub(super) fn new(binding: &Binding, from: WhoseWord, change: Change, made: Timestamp, expires: Timestamp) -> Self {
        Self {
            // Nobody guesses 122 random bits.
            id: uuid::Uuid::new_v4().simple().to_string(),
            from,
            requester: binding.requester().clone(),
            digest: binding.digest().to_owned(),
            tool: change.tool.to_owned(),
            target: change.target,
            title: change.title,
            details: change.details,
            call: change.call,
            policies: change.policies,
            made,
            expires,
            decision: None,
            used: false,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    pub(super) fn decided(&mut self, decision: Decision) {
        self.decision = Some(decision);
    }

    pub(super) fn used(&mut self, used: bool) {
        self.used = used;
    }

    pub(super) fn is_for(&self, binding: &Binding) -> bool {
        self.digest == binding.digest()
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        now >= self.expires
    }

    pub(super) fn granted(&self) -> Option<Granted> {
        let decision = self.decision.as_ref().filter(|decision| decision.approved)?;
        Some(Granted {
            request: self.id.clone(),
            from: self.from,
            by: decision.by.clone(),
            at: decision.at,
            note: decision.note.clone(),
        })
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whose word it waits for.
    pub fn from(&self) -> WhoseWord {
        self.from
    }

    /// Who asked.
    pub fn requester(&self) -> &Person {
        &self.requester
    }

    /// The tool that was called.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The security group.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What is asked for, in a sentence.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What it comes to, line by line.
    pub fn details(&self) -> &[(String, String)] {
        &self.details
    }

    /// The call that asked.
    pub fn call(&self) -> &str {
        &self.call
    }

    /// The policies that want the word.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// When it was made.
    pub fn made(&self) -> Timestamp {
        self.made
    }

    /// Until when it can be approved and used.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// The decision, if there is one.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    /// What became of it.
    pub fn state(&self) -> State {
        match &self.decision {
            None => State::Waiting,
            Some(decision) if !decision.approved => State::Declined,
            Some(_) if self.used => State::Used,
            Some(_) => State::Approved,
        }
    }
}
