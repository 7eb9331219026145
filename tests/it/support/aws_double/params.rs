//! The parameters of a request in the query protocol.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::Refusal;

pub(super) const INVALID: Refusal = (400, "InvalidParameterValue");
pub(super) const MISSING: Refusal = (400, "MissingParameter");

#[derive(Clone, Copy)]
pub(super) struct Params<'a>(pub(super) &'a BTreeMap<String, String>);

impl<'a> Params<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn required(self, name: &str) -> Result<&'a str, Refusal> {
        self.get(name).ok_or(MISSING)
    }

    /// A number, if there is one.
    pub(super) fn number<T: FromStr>(self, name: &str) -> Result<Option<T>, Refusal> {
        self.get(name).map(|text| text.parse().map_err(|_| INVALID)).transpose()
    }

    /// The values `name.1`, `name.2` and so on.
    pub(super) fn list(self, name: &str) -> Vec<&'a str> {
        (1..).map_while(|n| self.get(&format!("{name}.{n}"))).collect()
    }

    /// The prefixes `name.1.`, `name.2.` and so on that something starts with.
    pub(super) fn structures(self, name: &str) -> Vec<String> {
        (1..).map(|n| format!("{name}.{n}.")).take_while(|prefix| self.any(prefix)).collect()
    }

    /// Whether any parameter starts with `prefix`.
    pub(super) fn any(self, prefix: &str) -> bool {
        self.0.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }
}
