//! What one line of the journal says. The fields are the format: changing one needs a new `v`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::head::Head;
use super::{Found, Outcome, Touch};
use crate::approval::{Person, Request};
use crate::error::{Chain, Error};
use crate::identity::{Caller, Kind, local};
use crate::operation::target::{GroupId, Place};
use crate::operation::{self, CallId, Scope};
use crate::policy::Word;

/// One line: the chain's fields, and what happened.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    /// The format's version.
    pub(super) v: u32,
    /// The line's number in its file, from 1.
    pub(super) seq: u64,
    /// The SHA-256 of the line before, in hexadecimal; zeros for the first.
    pub(super) prev: &'a str,
    /// When it was written, RFC 3339.
    pub(super) at: String,
    #[serde(flatten)]
    pub(super) body: &'a Body,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Body {
    /// The file was opened by a process.
    Open(Open),
    /// An operation was begun.
    Begin(Begin),
    /// An operation ended.
    End(End),
    /// A call was refused before it could begin.
    Refused(Refused),
    /// Something was seen in AWS that is nobody's call.
    Observed(Observed),
    /// Somebody decides on a request for approval.
    Decision(Decision),
    /// Somebody's word, or none where policy lets the caller go ahead, carries an operation.
    Vouched(Carried),
    /// How far the chain had come, signed.
    Head {
        /// The line before.
        head: Head,
    },
    /// A chain whose process is gone was looked at, and how it ended.
    Adopted(Adopted),
    /// A file that was old enough is let go of, and how it ended.
    Retired(Retired),
    /// The chain ends here, in order.
    Closed(Closed),
}

/// How a chain ended whose process is gone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Adopted {
    pub(super) chain: String,
    /// The number of its last whole line; 0 if none is left.
    pub(super) last: u64,
    /// That line's SHA-256.
    pub(super) sha256: String,
    /// Bytes of a line that was cut off.
    pub(super) torn: u64,
    /// The changes that it began and did not end.
    pub(super) unfinished: Vec<String>,
}

/// How a segment ended that is let go of.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Retired {
    pub(super) chain: String,
    pub(super) segment: u32,
    /// The numbers of its lines.
    pub(super) first: u64,
    pub(super) last: u64,
    /// The last line's SHA-256.
    pub(super) sha256: String,
    pub(super) file: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Closed {
    /// How many changes were begun and have no end.
    pub(super) unended: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Observed {
    what: &'static str,
    target: Target,
    rule: Rule,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Open {
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) process: u32,
    pub(super) format: &'static str,
    /// The directory's own id.
    pub(super) journal: String,
    pub(super) chain: String,
    pub(super) segment: u32,
    /// The public half of the key that heads are signed with, in base64.
    pub(super) key: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Begin {
    pub(super) call: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) part_of: Option<String>,
    pub(super) tool: &'static str,
    pub(super) who: Who,
    pub(super) target: Target,
    pub(super) arguments: Value,
    pub(super) policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_policy_sha256: Option<String>,
    /// `own` where nothing was borrowed: a person's own credentials, which no session policy narrows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) credentials: Option<&'static str>,
    pub(super) changes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) span: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Refused {
    pub(super) call: String,
    pub(super) tool: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) who: Option<Who>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) arguments: Option<Value>,
    pub(super) error: Failure,
    pub(super) policies: Vec<String>,
    /// How many calls of this caller were refused for this reason and are not written down one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) counted: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) span: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct End {
    call: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<Vouched>,
    aws: Vec<Noted>,
    /// The calls whose sessions read what this one was answered from, where that was not its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read_from: Vec<String>,
    /// The group's inbound rules before a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Vec<Rule>>,
    /// And after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Vec<Rule>>,
    /// The rules that the call was about, each with what happened to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Touched>,
    /// The call whose end this is did not live to write it: another has found out what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered_by: Option<String>,
    /// How long the begin of a change took to be on disk, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_ms: Option<u64>,
    /// How long the whole took, in milliseconds.
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<String>,
}

/// A request to AWS, and when its answer came.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Noted {
    #[serde(flatten)]
    pub(super) call: AwsCall,
    /// Milliseconds since the operation was begun.
    pub(super) at_ms: u64,
}

/// What an operation gathers between its begin and its end.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) aws: Vec<Noted>,
    pub(super) read_from: Vec<String>,
    pub(super) before: Option<Vec<Rule>>,
    pub(super) decided: Vec<String>,
    pub(super) approval: Option<Vouched>,
    pub(super) recorded: Option<Duration>,
    pub(super) took: Duration,
    pub(super) trace: Option<(String, String)>,
}

/// A rule, and what happened to it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Touched {
    what: &'static str,
    #[serde(flatten)]
    rule: Rule,
}

/// Whose word stood in for what policy demands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Vouched {
    /// `approved`, or `break_glass`.
    how: &'static str,
    /// The policies that demand it.
    demanded_by: Vec<String>,
    /// The request that was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    /// Who approved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Person>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    /// The policies that let the caller go ahead without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    /// Somebody must ask why.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    review: bool,
}

/// What carries an operation that policy wants vouched for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Carried {
    pub(super) call: String,
    pub(super) approval: Vouched,
}

/// A decision on a request for approval.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Decision {
    pub(super) call: String,
    /// Who decided.
    pub(super) who: Who,
    pub(super) request: String,
    pub(super) approved: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
    /// Who had asked.
    pub(super) requester: Person,
    /// The call that asked.
    pub(super) asked_by: String,
    pub(super) tool: String,
    pub(super) target: Target,
    /// The policies that let this person decide.
    pub(super) policies: Vec<String>,
}

/// One request that AWS answered, or did not.
#[derive(Clone, Debug, Serialize)]
pub struct AwsCall {
    /// The action, such as `sts:AssumeRole`.
    pub action: &'static str,
    /// AWS's id of the request, if it answered: the key to CloudTrail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// AWS's error code, if it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl AwsCall {
    /// Whether it is one that changes something, as opposed to a look or a loan.
    pub(super) fn is_change(&self) -> bool {
        !self.action.starts_with("sts:") && !self.action.starts_with("ec2:Describe")
    }
}

/// Who called.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Who {
    kind: &'static str,
    issuer: String,
    subject: String,
    name: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// Who answers for an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Who acts for the caller, the current actor first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actors: Vec<String>,
    authentication: Authentication,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// How the caller proved who they are.
#[derive(Clone, Debug, Serialize)]
struct Authentication {
    /// `access_token`, `certificate`, `api_key`, or `own` for the service itself.
    by: &'static str,
    /// Whether it counts with one client certificate only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bound: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    amr: Vec<String>,
    /// When the person logged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Target {
    account: String,
    region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// An error as it is recorded: the caller's message, and our cause where there is one.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    code: &'static str,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

/// A rule as it stood or stands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    source: String,
    protocol: String,
    from_port: i32,
    to_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leases: Vec<Lease>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

/// A lease on such a rule.
#[derive(Clone, Debug, Serialize)]
struct Lease {
    holder_id: String,
    until: String,
    call: String,
}

impl Who {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn of(caller: &Caller) -> Self {
        let principal = caller.principal();
        Self {
            kind: principal.kind().as_str(),
            issuer: principal.issuer().to_owned(),
            subject: principal.subject().to_owned(),
            name: principal.name().to_owned(),
            id: principal.id().to_owned(),
            client: principal.client().map(str::to_owned),
            owner: principal.owner().map(str::to_owned),
            actors: principal.said().actors.clone(),
            authentication: Authentication {
                by: match principal.kind() {
                    Kind::Person if principal.issuer() == local::ISSUER => "aws_profile",
                    Kind::Person => "access_token",
                    Kind::Service => "certificate",
                    Kind::ApiKey => "api_key",
                    Kind::Own => "own",
                },
                bound: principal.bound().is_some(),
                acr: principal.said().acr.clone(),
                amr: principal.said().amr.iter().cloned().collect(),
                at: principal.said().authenticated.map(|at| at.to_string()),
            },
            peer: caller.peer().as_str().to_owned(),
            address: caller.address().map(|address| address.to_canonical().to_string()),
        }
    }
}

#[cfg(test)]
impl Carried {
    /// A line like any other.
    pub(super) fn for_tests() -> Self {
        let approval = Vouched {
            how: "break_glass",
            demanded_by: vec!["four-eyes".to_owned()],
            request: None,
            by: None,
            at: None,
            note: String::new(),
            policies: Vec::new(),
            review: true,
        };
        Self { call: uuid::Uuid::now_v7().to_string(), approval }
    }
}

impl Vouched {
    pub(super) fn of(word: &Word, demanded_by: Vec<String>) -> Self {
        match word {
            Word::Granted(granted) => Self {
                how: "approved",
                demanded_by,
                request: Some(granted.request().to_owned()),
                by: Some(granted.by().clone()),
                at: Some(granted.at().to_string()),
                note: granted.note().to_owned(),
                policies: Vec::new(),
                review: false,
            },
            Word::Glass(glass) => Self {
                how: "break_glass",
                demanded_by,
                request: None,
                by: None,
                at: None,
                note: String::new(),
                policies: glass.policies().to_vec(),
                review: true,
            },
        }
    }
}

impl Decision {
    pub(super) fn of(
        call: &CallId,
        who: &Caller,
        request: &Request,
        approved: bool,
        note: &str,
        policies: Vec<String>,
    ) -> Self {
        let target = request.target();
        Self {
            call: call.as_str().to_owned(),
            who: Who::of(who),
            request: request.id().to_owned(),
            approved,
            note: note.to_owned(),
            requester: request.requester().clone(),
            asked_by: request.call().to_owned(),
            tool: request.tool().to_owned(),
            target: Target {
                account: target.account.clone(),
                region: target.region.clone(),
                group: Some(target.group.clone()),
                name: None,
            },
            policies,
        }
    }
}

impl Target {
    pub(super) fn of(scope: &Scope) -> Self {
        let (place, group) = (scope.place(), scope.group());
        Self {
            account: place.account().to_string(),
            region: place.region().to_string(),
            group: group.map(|target| target.group().to_string()),
            name: group.and_then(|target| target.name()).map(str::to_owned),
        }
    }
}

impl Observed {
    pub(super) fn of(what: &'static str, place: &Place, group: &GroupId, rule: &operation::rule::Rule) -> Self {
        let target = Target {
            account: place.account().to_string(),
            region: place.region().to_string(),
            group: Some(group.to_string()),
            name: None,
        };
        Self { what, target, rule: Rule::of(rule) }
    }
}

impl Failure {
    pub(super) fn reason(&self) -> &'static str {
        self.reason
    }

    pub(super) fn of(error: &Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| Chain(cause).to_string());
        Self { code: error.code().as_str(), reason: error.reason(), message: error.message().to_owned(), cause }
    }
}

impl Rule {
    pub(super) fn of(rule: &operation::rule::Rule) -> Self {
        let (from_port, to_port) = rule.traffic.range();
        let ownership = rule.ownership();
        let lease = |lease: &operation::lease::Lease| Lease {
            holder_id: lease.holder.id(),
            until: lease.until.to_string(),
            call: lease.call.clone(),
        };
        Self {
            id: rule.id.clone(),
            source: rule.source.to_string(),
            protocol: rule.traffic.protocol().to_owned(),
            from_port,
            to_port,
            call: ownership.map(|ownership| ownership.call.clone()),
            leases: ownership.map(|ownership| ownership.leases.iter().map(lease).collect()).unwrap_or_default(),
            damaged: match &rule.made {
                operation::ownership::Made::Damaged(how) => Some(how.clone()),
                _ => None,
            },
        }
    }
}

impl Touched {
    fn of(touch: &Touch) -> Self {
        Self { what: touch.what, rule: Rule::of(&touch.rule) }
    }
}

/// What stands after a change: what stood before, less what went, with what is different and what is new.
fn after(before: &[Rule], touched: &[Touch]) -> Vec<Rule> {
    let of = |rule: &Rule| touched.iter().find(|touch| touch.rule.id.is_some() && touch.rule.id == rule.id);
    let mut after: Vec<Rule> = before
        .iter()
        .filter_map(|rule| match of(rule) {
            None => Some(rule.clone()),
            Some(touch) => (!touch.is_gone()).then(|| Rule::of(&touch.rule)),
        })
        .collect();
    let stood = |touch: &&Touch| before.iter().any(|rule| rule.id == touch.rule.id);
    after.extend(touched.iter().filter(|touch| !touch.is_gone() && !stood(touch)).map(|touch| Rule::of(&touch.rule)));
    after
}

impl End {
    /// The call that ends.
    pub(super) fn call(&self) -> &str {
        &self.call
    }

    pub(super) fn outcome(&self) -> &'static str {
        self.outcome
    }

    /// The ids of its trace and span.
    pub(super) fn trace(&self) -> (Option<&str>, Option<&str>) {
        (self.trace.as_deref(), self.span.as_deref())
    }

    /// The end of a call that did not live to write it.
    pub(super) fn recovered(call: &str, found: Found, rules: &[operation::rule::Rule], by: &CallId) -> Self {
        let (outcome, changed) = match found {
            Found::Done => ("done", Some(true)),
            Found::NotDone => ("not_done", Some(false)),
            Found::Unknown => ("unknown", None),
        };
        let rules = rules.iter().map(|rule| Touched { what: "stands", rule: Rule::of(rule) }).collect();
        Self {
            call: call.to_owned(),
            outcome,
            changed,
            error: None,
            policies: Vec::new(),
            approval: None,
            aws: Vec::new(),
            read_from: Vec::new(),
            before: None,
            after: None,
            rules,
            recovered_by: Some(by.as_str().to_owned()),
            recorded_ms: None,
            ms: 0,
            trace: None,
            span: None,
        }
    }

    pub(super) fn of(call: &CallId, outcome: &Outcome<'_>, gathered: Gathered) -> Self {
        let Gathered { aws, read_from, before, decided, approval, recorded, took, trace } = gathered;
        let (word, changed, error, policies, touched) = match outcome {
            Outcome::Done { changed, touched } => ("done", Some(*changed), None, decided, *touched),
            Outcome::Denied(error, policies) => {
                ("denied", Some(false), Some(Failure::of(error)), policies.clone(), [].as_slice())
            }
            Outcome::Waits(error, policies) => {
                ("waiting", Some(false), Some(Failure::of(error)), policies.clone(), [].as_slice())
            }
            Outcome::Failed(error) => ("failed", Some(false), Some(Failure::of(error)), Vec::new(), [].as_slice()),
            Outcome::Partly(error) => ("partly", Some(true), Some(Failure::of(error)), decided, [].as_slice()),
            Outcome::Unknown(error) => ("unknown", None, Some(Failure::of(error)), Vec::new(), [].as_slice()),
        };
        // What stands after a failure is not known from what the call was told.
        let known = matches!(outcome, Outcome::Done { .. });
        let after = before.as_ref().filter(|_| known).map(|before| after(before, touched));
        let ms = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (trace, span) = trace.unzip();
        Self {
            call: call.as_str().to_owned(),
            outcome: word,
            changed,
            error,
            policies,
            approval,
            aws,
            read_from,
            before,
            after,
            rules: touched.iter().map(Touched::of).collect(),
            recovered_by: None,
            recorded_ms: recorded.map(ms),
            ms: ms(took),
            trace,
            span,
        }
    }
}
