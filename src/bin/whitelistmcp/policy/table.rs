//! `policy test`: a table of expected decisions, in TOML.
//!
//! ```toml
//! policy = "small-team.cedar"             # beside the table; the shipped policies unless given
//! at = "2027-01-04T12:00:00Z"             # when the cases happen, unless they say otherwise
//!
//! [groups.staging-db]                     # the security groups that there are
//! tags = { env = "staging" }
//!
//! [who.alice]                             # who asks: what their token, certificate or key says of them
//! groups = ["developers"]
//!
//! [[cases]]
//! who = "alice"                           # or several: ["alice", "bob"]
//! tool = "whitelist_add"
//! arguments = { security_group = "staging-db", address = "203.0.113.7", port = "22", reason = "debugging" }
//! expect = "allow"                        # allow, approval, deny (each also `by ID`), unseen, scope, or a refusal's reason
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use whitelistmcp::annotations::Annotations;
use whitelistmcp::broker::trial;
use whitelistmcp::identity::{Supposed, SupposedKind};
use whitelistmcp::operation::rule::Rule;
use whitelistmcp::operation::target::{
    AccountId, Config as TargetConfig, Described, Descriptions, GroupConfig, GroupId, OptedIn, Place, Region, Targets,
};
use whitelistmcp::pb::DESCRIPTOR_SET;
use whitelistmcp::policy::{Config, Policy};

use super::ask::{Asked, Call, Verdict};
use crate::{fail, say};

/// Which table.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The table.
    file: PathBuf,
    /// The policies to test instead of those that the table names: a file, or a directory.
    #[arg(long)]
    policy: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    policy: Option<PathBuf>,
    time_zone: Option<String>,
    #[serde(default, deserialize_with = "time")]
    at: Option<Timestamp>,
    #[serde(default)]
    groups: BTreeMap<String, Group>,
    who: BTreeMap<String, Supposed>,
    cases: Vec<Case>,
}

/// A security group.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Group {
    id: Option<String>,
    account: Option<String>,
    region: Option<String>,
    /// Its owner opted it in; the configuration names it unless this is so.
    opted_in: bool,
    vpc: Option<String>,
    tags: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    title: Option<String>,
    who: OneOrMore,
    tool: String,
    #[serde(default)]
    arguments: serde_json::Map<String, serde_json::Value>,
    from: Option<IpAddr>,
    #[serde(default, deserialize_with = "time")]
    at: Option<Timestamp>,
    /// The rules that stand in the group.
    #[serde(default)]
    open: Vec<Open>,
    expect: String,
}

/// A rule that stands, and who holds it. Without holders it is not of this service's making.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    address: String,
    port: Option<String>,
    protocol: Option<String>,
    #[serde(default)]
    holders: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Reads a time such as `2027-01-04T12:00:00Z`.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let written = String::deserialize(deserializer)?;
    let wrong = |_| serde::de::Error::custom(format!("`{written}` is not a time such as \"{NOON}\""));
    written.parse().map(Some).map_err(wrong)
}

/// What a table cannot be run for.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a table of expected decisions")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("the policies")]
    Policy(#[from] whitelistmcp::policy::LoadError),
    #[error("the groups")]
    Targets(#[from] whitelistmcp::operation::target::TargetError),
    #[error("the embedded descriptors")]
    Annotations(#[from] whitelistmcp::annotations::AnnotationError),
    #[error("case {case}: `{who}` is not among `[who]`")]
    Stranger { case: usize, who: String },
    #[error("case {case}: what is open: {problem}")]
    Open { case: usize, problem: String },
    #[error(
        "case {case}: `expect = \"{expect}\"` is none of: allow, allow by ID, approval, approval by ID, deny, deny by ID, unseen, scope, or the reason of another refusal, such as DURATION_MISSING"
    )]
    Expectation { case: usize, expect: String },
    #[error("case {case}: there is no policy `{id}`")]
    NoSuchPolicy { case: usize, id: String },
    #[error("the table has no cases")]
    Empty,
}

/// What a case expects.
enum Expectation<'a> {
    Allow(Vec<&'a str>),
    Approval(Vec<&'a str>),
    Deny(Vec<&'a str>),
    Unseen,
    Scope,
    Reason(&'a str),
}

const ACCOUNT: &str = "111111111111";
const REGION: &str = "eu-central-1";
/// A Monday, at noon.
const NOON: &str = "2027-01-04T12:00:00Z";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match Table::read(&arguments.file).and_then(|table| table.run(arguments)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

impl Table {
    fn read(path: &Path) -> Result<Self, TableError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TableError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| TableError::Syntax { path: path.to_owned(), source: Box::new(source) })
    }

    fn run(mut self, arguments: &Arguments) -> Result<ExitCode, TableError> {
        if self.cases.is_empty() {
            return Err(TableError::Empty);
        }
        let annotations = Annotations::read(DESCRIPTOR_SET)?;
        for (name, who) in &mut self.who {
            who.fill_in(name, &annotations);
        }
        let beside = |policy: &PathBuf| arguments.file.parent().map_or(policy.clone(), |at| at.join(policy));
        let file = arguments.policy.clone().or_else(|| self.policy.as_ref().map(beside));
        let time_zone = self.time_zone.clone();
        let policy = Arc::new(Policy::load(&Config { file, time_zone, ..Config::default() })?);
        let asked = Asked { policy: Arc::clone(&policy), targets: Arc::new(self.targets()?), annotations };
        let (mut run, mut failed, mut decided) = (0, 0, BTreeSet::new());
        for (number, case) in (1..).zip(&self.cases) {
            let expected = expectation(number, &case.expect, &policy)?;
            let names = match &case.who {
                OneOrMore::One(name) => vec![name],
                OneOrMore::More(names) => names.iter().collect(),
            };
            for name in names {
                let verdict = self.ask(&asked, number, case, name)?;
                run += 1;
                if let Verdict::Allow(allowed) = &verdict {
                    decided.extend(allowed.policies.clone());
                } else if let Verdict::Approval(allowed, demand) = &verdict {
                    decided.extend(allowed.policies.iter().cloned().chain(demand.policies()));
                } else if let Verdict::Deny(policies, _) = &verdict {
                    decided.extend(policies.clone());
                }
                if !expected.is(&verdict) {
                    failed += 1;
                    let title = case.title.as_deref().unwrap_or("");
                    let arguments = serde_json::Value::Object(case.arguments.clone());
                    say(&format!(
                        "FAILED  case {number} {title}\n        {name}: {} {arguments}\n        expected  {}\n        got       {verdict}",
                        case.tool, case.expect
                    ));
                }
            }
        }
        // Whose word counts, and what a default term is, no call asks alone.
        let aside = |id: &str| policy.is_aside(id);
        let idle: Vec<&str> = policy.ids().into_iter().filter(|id| !decided.contains(*id) && !aside(id)).collect();
        if !idle.is_empty() {
            say(&format!("note    no case is decided by: {}", idle.join(", ")));
        }
        say(&match failed {
            0 => format!("{run} decisions, all as expected."),
            failed => format!("{run} decisions, {failed} not as expected."),
        });
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn ask(&self, asked: &Asked, number: usize, case: &Case, name: &str) -> Result<Verdict, TableError> {
        let stranger = |who: &str| TableError::Stranger { case: number, who: who.to_owned() };
        let who = self.who.get(name).ok_or_else(|| stranger(name))?;
        let at = case.at.or(self.at).or_else(|| NOON.parse().ok()).unwrap_or_default();
        let mut standing: Vec<Rule> = Vec::with_capacity(case.open.len());
        for open in &case.open {
            let holders = open.holders.iter().map(|name| self.who.get(name).ok_or_else(|| stranger(name)));
            let holders = holders.collect::<Result<Vec<_>, _>>()?;
            let opening = trial::opening(&open.address, open.port.as_deref(), open.protocol.as_deref())
                .map_err(|error| TableError::Open { case: number, problem: error.message().to_owned() })?;
            standing.push(trial::standing(opening, &holders, at, standing.len() + 1));
        }
        let arguments = serde_json::Value::Object(case.arguments.clone());
        Ok(asked.ask(&Call { who, tool: &case.tool, arguments: &arguments, from: case.from, at, standing: &standing }))
    }

    /// The groups, all of them described.
    fn targets(&self) -> Result<Targets, TableError> {
        let mut config =
            TargetConfig { account: Some(ACCOUNT.to_owned()), region: Some(REGION.to_owned()), ..Default::default() };
        let mut regions: BTreeMap<AccountId, BTreeSet<Region>> = BTreeMap::new();
        let mut opted: BTreeMap<Place, Vec<OptedIn>> = BTreeMap::new();
        let mut described: BTreeMap<Place, Descriptions> = BTreeMap::new();
        for (number, (name, group)) in (1..).zip(&self.groups) {
            let id = group.id.clone().unwrap_or_else(|| format!("sg-{number:017x}"));
            let account = AccountId::parse(group.account.as_deref().unwrap_or(ACCOUNT))?;
            let region = Region::parse(group.region.as_deref().unwrap_or(REGION))?;
            regions.entry(account.clone()).or_default().insert(region.clone());
            let place = Place::new(account.clone(), region.clone());
            let known = Described { vpc: group.vpc.clone(), tags: group.tags.clone() };
            described.entry(place.clone()).or_default().insert(GroupId::parse(&id)?, Arc::new(known));
            if group.opted_in {
                let group = GroupId::parse(&id)?;
                let known = OptedIn { group, name: name.clone(), aliases: BTreeSet::new(), attached: BTreeSet::new() };
                opted.entry(place).or_default().push(known);
            } else {
                let (account, region) = (Some(account.to_string()), Some(region.to_string()));
                config.groups.push(GroupConfig { name: name.clone(), id, account, region });
            }
        }
        let mut targets = Targets::new(&config, regions)?;
        for (place, groups) in opted {
            targets = targets.with_opted_in(place, groups);
        }
        for (place, groups) in described {
            targets = targets.with_described(&place, Some(groups));
        }
        Ok(targets)
    }
}

/// What a table, or the command line, leaves out of who somebody is.
pub(super) trait FillIn {
    fn fill_in(&mut self, name: &str, annotations: &Annotations);
}

impl FillIn for Supposed {
    /// A subject of the same name, and every scope.
    fn fill_in(&mut self, name: &str, annotations: &Annotations) {
        if self.subject.is_empty() {
            name.clone_into(&mut self.subject);
        }
        if self.name.is_none() && self.kind == SupposedKind::Person {
            self.name = Some(name.to_owned());
        }
        if self.scopes.is_empty() {
            self.scopes = annotations.scopes().scopes().map(str::to_owned).collect();
        }
    }
}

fn expectation<'a>(case: usize, expect: &'a str, policy: &Policy) -> Result<Expectation<'a>, TableError> {
    let (word, ids) = match expect.split_once(" by ") {
        Some((word, ids)) => (word, ids.split(',').map(str::trim).collect()),
        None => (expect, Vec::new()),
    };
    if let Some(id) = ids.iter().find(|id| !policy.ids().contains(*id)) {
        return Err(TableError::NoSuchPolicy { case, id: (*id).to_owned() });
    }
    let is_reason = |word: &str| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && word.len() > 3;
    Ok(match word {
        "allow" => Expectation::Allow(ids),
        "approval" => Expectation::Approval(ids),
        "deny" => Expectation::Deny(ids),
        "unseen" if ids.is_empty() => Expectation::Unseen,
        "scope" if ids.is_empty() => Expectation::Scope,
        reason if ids.is_empty() && is_reason(reason) => Expectation::Reason(reason),
        _ => return Err(TableError::Expectation { case, expect: expect.to_owned() }),
    })
}

impl Expectation<'_> {
    /// Whether that is what came of it. Of policies those that are named must be among those that decided.
    fn is(&self, verdict: &Verdict) -> bool {
        let all = |ids: &[&str], decided: &[String]| ids.iter().all(|id| decided.iter().any(|policy| policy == id));
        match (self, verdict) {
            (Self::Allow(ids), Verdict::Allow(allowed)) => all(ids, &allowed.policies),
            (Self::Approval(ids), Verdict::Approval(_, demand)) => all(ids, &demand.policies()),
            (Self::Deny(ids), Verdict::Deny(policies, _)) => all(ids, policies),
            (Self::Unseen, Verdict::Unseen(_)) | (Self::Scope, Verdict::Scope(_)) => true,
            (Self::Reason(reason), Verdict::Other(error) | Verdict::Deny(_, error)) => error.reason() == *reason,
            _ => false,
        }
    }
}
