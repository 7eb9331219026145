//! Policies from a file or a directory, checked against the schema before they are used.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{ActionConstraint, Authorizer, Effect, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Policy, Reason, Rulebook, reach};
use crate::approval::WhoseWord;
use crate::digest::sha256_hex;
use crate::duration::{self, HOUR, SECOND};
use crate::operation::Tool;
use crate::schema::Length;

const SCHEMA: &str = include_str!("schema.cedarschema");
const DEFAULT: &str = include_str!("default.cedar");
const OWN: &str = include_str!("own.cedar");

/// The most bytes of all policies together. They are read again every few seconds.
const BYTES_MOST: usize = 512 * 1024;
/// The most policies. Each is evaluated for each question.
const POLICIES_MOST: usize = 500;
/// The most files of a directory.
const FILES_MOST: usize = 100;

/// `[policy]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A file of Cedar policies, or a directory of files named `*.cedar`; the shipped default where none is given.
    pub file: Option<PathBuf>,
    /// How often it is read again.
    #[serde(deserialize_with = "duration::within::<_, _, SECOND, HOUR>")]
    #[schemars(with = "Length<SECOND, HOUR>")]
    pub reload: Duration,
    /// The time zone in which policies are told hour, minute and weekday, such as `Europe/Berlin`; UTC unless given.
    pub time_zone: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { file: None, reload: Duration::from_secs(5), time_zone: None }
    }
}

/// Policies that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("the policies in {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A directory without policies: everything would be refused.
    #[error("{0} holds no file named `*.cedar`; without policies everything would be refused")]
    Empty(PathBuf),
    /// More than is evaluated for each call.
    #[error(
        "there are too many policies: at most {POLICIES_MOST}, in {FILES_MOST} files and {BYTES_MOST} bytes together"
    )]
    TooMuch,
    /// Not UTF-8.
    #[error("{0} is not UTF-8")]
    Encoding(PathBuf),
    /// No time zone.
    #[error("`time_zone = \"{0}\"` is not a time zone; one is called `Europe/Berlin` or `UTC`")]
    TimeZone(String),
    /// Something that is wrong in one file.
    #[error("{file}")]
    In {
        /// The file.
        file: String,
        /// What is wrong.
        source: Box<Self>,
    },
    /// Not Cedar.
    #[error("the policies cannot be parsed: {0}")]
    Parse(String),
    /// Cedar that speaks of something the schema does not have.
    #[error("the policies do not fit the schema: {0}")]
    Invalid(String),
    /// A policy without an `@id`, or two with the same.
    #[error("every policy needs an `@id` of its own, so that a refusal can name it: {0}")]
    Unnamed(String),
    /// A template, which nothing links.
    #[error("a policy is a template (`?principal` or `?resource`): nothing fills it in, so it would never apply")]
    Template,
    /// A forbid without a `@message`.
    #[error("the forbid policy `{0}` needs a `@message` that tells the caller what would be allowed")]
    Silent(String),
    /// A `@duration` that is none, or where it says nothing.
    #[error("the `@duration` of policy `{0}` must be a duration such as `2h`, on a permit")]
    Term(String),
    /// Approvals that anybody could give, or go without.
    #[error("a policy wants an `@approval`, and none says by name who may do `{0}` (action == Action::\"{0}\")")]
    Unsaid(&'static str),
    /// Nested too deeply to be read by anybody.
    #[error("a policy is nested more than {NESTED_MOST} deep, or longer than {POLICY_MOST} bytes")]
    TooDeep,
    /// An `@approval` that is none, or where it says nothing.
    #[error("the `@approval` of policy `{0}` must be `another` or `requester`, on a forbid")]
    Approval(String),
    /// The shipped schema is broken.
    #[error("the shipped schema is broken: {0}")]
    Schema(String),
}

/// The texts of all policies, each with the file that it stands in.
#[derive(Debug)]
pub(super) struct Sources(Vec<(String, String)>);

// === impl Sources ===

impl Sources {
    /// Reads what the configuration names.
    pub(super) fn read(config: &Config) -> Result<Self, LoadError> {
        let Some(path) = &config.file else { return Ok(Self::text("default.cedar", DEFAULT)) };
        let unreadable = |source| LoadError::Read { path: path.clone(), source };
        let mut left = BYTES_MOST;
        if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            let text = read_bounded(path, &mut left)?;
            return Ok(Self(vec![(path.display().to_string(), text)]));
        }
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && file.extension().is_some_and(|extension| extension == "cedar") {
                files.insert(file);
            }
            if files.len() > FILES_MOST {
                return Err(LoadError::TooMuch);
            }
        }
        if files.is_empty() {
            return Err(LoadError::Empty(path.clone()));
        }
        let texts = files.iter().map(|file| Ok((file.display().to_string(), read_bounded(file, &mut left)?)));
        texts.collect::<Result<_, LoadError>>().map(Self)
    }

    fn text(name: &str, text: &str) -> Self {
        Self(vec![(name.to_owned(), text.to_owned())])
    }

    /// What tells one content from another.
    pub(super) fn digest(&self) -> String {
        let each = self.0.iter().map(|(name, text)| format!("{} {name}\n", sha256_hex(text)));
        sha256_hex(each.collect::<String>())
    }
}

/// Reads a file of at most so many bytes, and takes them off what is left.
fn read_bounded(path: &Path, left: &mut usize) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
    // Whatever is no file, a pipe say, could keep the reader for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(std::io::ErrorKind::InvalidInput.into()));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let most = u64::try_from(*left).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    *left = left.checked_sub(bytes.len()).ok_or(LoadError::TooMuch)?;
    String::from_utf8(bytes).map_err(|_| LoadError::Encoding(path.to_owned()))
}

// === impl Policy, Rulebook ===

impl Policy {
    /// Loads and checks the policies.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        Self::of(&Sources::read(config)?, config)
    }

    /// Checks policies.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        Self::of(&Sources::text("policies", text), &Config::default())
    }

    pub(super) fn of(sources: &Sources, config: &Config) -> Result<Self, LoadError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| LoadError::Schema(error.to_string()))?;
        let zone = match config.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| LoadError::TimeZone(name.to_owned()))?,
        };
        Ok(Self {
            callers: Arc::new(Rulebook::read(sources, &schema)?),
            own: Arc::new(Rulebook::read(&Sources::text("own.cedar", OWN), &schema)?),
            schema: Arc::new(schema),
            authorizer: Authorizer::new(),
            zone,
        })
    }

    /// How many policies decide on callers.
    pub fn len(&self) -> usize {
        self.callers.reasons.len()
    }

    /// What those policies are called, in order.
    pub fn ids(&self) -> BTreeSet<&str> {
        self.callers.reasons.values().map(|reason| reason.policy.as_str()).collect()
    }

    /// Whether a policy decides on no tool: it sets a default term, or says whose word counts.
    pub fn is_aside(&self, id: &str) -> bool {
        let key = PolicyId::new(id);
        let about = |policy: &cedar_policy::Policy| match policy.action_constraint() {
            ActionConstraint::Eq(action) => Tool::from_name(action.id().unescaped()).is_none(),
            ActionConstraint::Any | ActionConstraint::In(_) => false,
        };
        self.callers.terms.contains_key(&key) || self.callers.policies.policy(&key).is_some_and(about)
    }

    /// Whether there is none, so that everything is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Rulebook {
    fn read(sources: &Sources, schema: &Schema) -> Result<Self, LoadError> {
        let mut book = Self {
            policies: PolicySet::new(),
            reasons: HashMap::new(),
            terms: HashMap::new(),
            demands: HashMap::new(),
            without_demands: PolicySet::new(),
            descriptions: false,
        };
        for (file, text) in &sources.0 {
            book.parse(text).map_err(|source| match sources.0.len() {
                1 => source,
                _ => LoadError::In { file: file.clone(), source: Box::new(source) },
            })?;
        }
        let result = Validator::new(schema.clone()).validate(&book.policies, ValidationMode::Strict);
        if !result.validation_passed() {
            return Err(LoadError::Invalid(all(result.validation_errors())));
        }
        // Whoever may do anything could approve anything, and go ahead without: that is never meant.
        if !book.demands.is_empty()
            && let Some(action) = ["approve", "break_glass"].into_iter().find(|action| !book.speaks_of(action))
        {
            return Err(LoadError::Unsaid(action));
        }
        book.without_demands = book.policies.clone();
        for demand in book.demands.keys() {
            book.without_demands.remove_static(demand.clone()).map_err(|error| LoadError::Parse(error.to_string()))?;
        }
        Ok(book)
    }

    /// Whether a policy names an action in its scope.
    fn speaks_of(&self, action: &str) -> bool {
        let is = |uid: &cedar_policy::EntityUid| uid.id().unescaped() == action;
        self.policies.policies().any(|policy| match policy.action_constraint() {
            ActionConstraint::Any => false,
            ActionConstraint::Eq(one) => is(&one),
            ActionConstraint::In(several) => several.iter().any(is),
        })
    }

    /// Adds the policies of one text, each under its `@id`.
    fn parse(&mut self, text: &str) -> Result<(), LoadError> {
        if is_too_deep(text) {
            return Err(LoadError::TooDeep);
        }
        let policies = PolicySet::from_str(text).map_err(|error| LoadError::Parse(all(error.iter())))?;
        if policies.templates().next().is_some() {
            return Err(LoadError::Template);
        }
        for policy in policies.policies() {
            let Some(id) = policy.annotation("id").filter(|id| !id.is_empty()) else {
                return Err(LoadError::Unnamed(format!("one has none: {policy}")));
            };
            let key = PolicyId::new(id);
            if self.reasons.contains_key(&key) {
                return Err(LoadError::Unnamed(format!("`{id}` is given twice")));
            }
            if self.reasons.len() >= POLICIES_MOST {
                return Err(LoadError::TooMuch);
            }
            let forbids = policy.effect() == Effect::Forbid;
            if forbids && policy.annotation("message").is_none_or(str::is_empty) {
                return Err(LoadError::Silent(id.to_owned()));
            }
            if let Some(written) = policy.annotation("approval") {
                let whose = WhoseWord::parse(written).filter(|_| forbids);
                self.demands.insert(key.clone(), whose.ok_or_else(|| LoadError::Approval(id.to_owned()))?);
            }
            if let Some(written) = policy.annotation("duration") {
                let length = duration::parse(written).filter(|length| length.is_positive() && !forbids);
                self.terms.insert(key.clone(), length.ok_or_else(|| LoadError::Term(id.to_owned()))?);
            }
            self.descriptions |= reach::speaks_of_descriptions(policy);
            self.reasons.insert(key.clone(), reason(policy));
            // INVARIANT: the id is not there yet, which is all that could be wrong.
            self.policies.add(policy.new_id(key)).map_err(|error| LoadError::Parse(error.to_string()))?;
        }
        Ok(())
    }
}

/// How deep one policy may be nested, and how many bytes it may have. Cedar reads and types policies by recursion: one that is
/// made for it would end the process.
const NESTED_MOST: usize = 64;
const POLICY_MOST: usize = 16 * 1024;

/// Whether a policy of a text is too deep or too long. Brackets and `if` count, wherever they stand: no policy that somebody has
/// written has as many, in strings or out of them.
fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut length) = (0usize, 0usize);
    let mut words = 0usize;
    for (at, b) in text.bytes().enumerate() {
        length += 1;
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'i' if text.get(at..).is_some_and(|rest| rest.starts_with("if")) => words += 1,
            b';' => (depth, length, words) = (0, 0, 0),
            _ => {}
        }
        if depth + words / 2 > NESTED_MOST || length > POLICY_MOST {
            return true;
        }
    }
    false
}

/// A policy's name and words. Read once: Cedar parses an annotation's key each time it is asked for one.
fn reason(policy: &cedar_policy::Policy) -> Reason {
    let text = |key: &str| policy.annotation(key).unwrap_or_default().to_owned();
    Reason { policy: text("id"), message: text("message") }
}

fn all<E: std::fmt::Display>(errors: impl Iterator<Item = E>) -> String {
    errors.map(|error| error.to_string()).collect::<Vec<_>>().join("; ")
}
