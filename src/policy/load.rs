//! Policies from a file, checked against the schema before they are used.

use std::path::PathBuf;
use std::str::FromStr;

use cedar_policy::{Authorizer, PolicySet, Schema, ValidationMode, Validator};
use serde::Deserialize;

use super::{Policy, Reason, Rulebook};
use crate::approval::WhoseWord;
use crate::operation::term;

const SCHEMA: &str = include_str!("schema.cedarschema");
const DEFAULT: &str = include_str!("default.cedar");
const OWN: &str = include_str!("own.cedar");

/// `[policy]` in the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A file of Cedar policies; the shipped default where none is given.
    pub file: Option<PathBuf>,
}

/// Policies that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("policy file {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
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
    /// An `@approval` that is none, or where it says nothing.
    #[error("the `@approval` of policy `{0}` must be `another` or `requester`, on a forbid")]
    Approval(String),
    /// The shipped schema is broken.
    #[error("the shipped schema is broken: {0}")]
    Schema(String),
}

impl Policy {
    /// Loads and checks the policies.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        match &config.file {
            None => Self::parse(DEFAULT),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
                Self::parse(&text)
            }
        }
    }

    /// Checks policies.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| LoadError::Schema(error.to_string()))?;
        Ok(Self {
            callers: Rulebook::parse(text, &schema)?,
            own: Rulebook::parse(OWN, &schema)?,
            schema,
            authorizer: Authorizer::new(),
        })
    }
}

impl Rulebook {
    fn parse(text: &str, schema: &Schema) -> Result<Self, LoadError> {
        let policies = PolicySet::from_str(text).map_err(|error| LoadError::Parse(all(error.iter())))?;
        if policies.templates().next().is_some() {
            return Err(LoadError::Template);
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut terms = std::collections::HashMap::new();
        let mut demands = std::collections::HashMap::new();
        for policy in policies.policies() {
            let Some(id) = policy.annotation("id").filter(|id| !id.is_empty()) else {
                return Err(LoadError::Unnamed(format!("one has none: {policy}")));
            };
            if !seen.insert(id.to_owned()) {
                return Err(LoadError::Unnamed(format!("`{id}` is given twice")));
            }
            let forbids = policy.effect() == cedar_policy::Effect::Forbid;
            if forbids && policy.annotation("message").is_none_or(str::is_empty) {
                return Err(LoadError::Silent(id.to_owned()));
            }
            if let Some(written) = policy.annotation("approval") {
                let whose = WhoseWord::parse(written).filter(|_| forbids);
                demands.insert(policy.id().clone(), whose.ok_or_else(|| LoadError::Approval(id.to_owned()))?);
            }
            if let Some(written) = policy.annotation("duration") {
                let length = term::length(written).filter(|length| length.is_positive() && !forbids);
                terms.insert(policy.id().clone(), length.ok_or_else(|| LoadError::Term(id.to_owned()))?);
            }
        }
        let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        if !result.validation_passed() {
            return Err(LoadError::Invalid(all(result.validation_errors())));
        }
        let reasons = policies.policies().map(|policy| (policy.id().clone(), reason(policy))).collect();
        let mut without_demands = policies.clone();
        for demand in demands.keys() {
            without_demands.remove_static(demand.clone()).map_err(|error| LoadError::Parse(error.to_string()))?;
        }
        Ok(Self { policies, without_demands, reasons, terms, demands })
    }
}

/// A policy's name and words. Read once: Cedar parses an annotation's key each time it is asked for one.
fn reason(policy: &cedar_policy::Policy) -> Reason {
    let text = |key: &str| policy.annotation(key).unwrap_or_default().to_owned();
    Reason { policy: text("id"), message: text("message") }
}

fn all<E: std::fmt::Display>(errors: impl Iterator<Item = E>) -> String {
    errors.map(|error| error.to_string()).collect::<Vec<_>>().join("; ")
}
