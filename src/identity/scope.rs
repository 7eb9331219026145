//! OAuth scopes, and which of them hold others.

use std::collections::{BTreeMap, BTreeSet};

/// The scopes that somebody holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<String>);

/// Which scope holds which others, as the proto's service annotation says.
#[derive(Clone, Debug, Default)]
pub struct Hierarchy(BTreeMap<String, Vec<String>>);

impl Scopes {
    /// Reads a `scope` claim: tokens parted by spaces (RFC 6749, section 3.3).
    pub fn parse(claim: &str) -> Self {
        Self(claim.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect())
    }

    /// The scopes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromIterator<String> for Scopes {
    fn from_iter<T: IntoIterator<Item = String>>(scopes: T) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl Hierarchy {
    /// From pairs of a scope and what it includes.
    pub fn new(scopes: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Self(scopes.into_iter().collect())
    }

    /// Every scope that is known.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether who holds `held` holds `wanted`, itself or through another scope.
    pub fn grants(&self, held: &Scopes, wanted: &str) -> bool {
        held.iter().any(|scope| self.reaches(scope, wanted, self.0.len()))
    }

    fn reaches(&self, scope: &str, wanted: &str, depth: usize) -> bool {
        // The depth bounds a hierarchy that was written in a circle.
        scope == wanted
            || (depth > 0
                && self
                    .0
                    .get(scope)
                    .is_some_and(|inner| inner.iter().any(|inner| self.reaches(inner, wanted, depth - 1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_holds_read_and_not_the_other_way() {
        let hierarchy = Hierarchy::new([
            ("w".to_owned(), vec!["r".to_owned()]),
            ("r".to_owned(), vec![]),
            ("loop".to_owned(), vec!["loop".to_owned()]),
        ]);
        assert!(hierarchy.grants(&Scopes::parse("openid  w"), "r"));
        assert!(!hierarchy.grants(&Scopes::parse("r"), "w"));
        assert!(!hierarchy.grants(&Scopes::parse("loop"), "w"));
        assert!(!hierarchy.grants(&Scopes::parse(""), "r"));
        assert!(!hierarchy.grants(&Scopes::parse("R"), "r"));
    }
}
