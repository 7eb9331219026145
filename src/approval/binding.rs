//! What a request for approval is bound to.

use super::word::Person;
use crate::digest::sha256_hex;
use crate::identity::Principal;

/// Who asks, for what, and what it would come to: all that must be the same when it is carried out.
#[derive(Clone, Debug)]
pub struct Binding {
    requester: Person,
    digest: String,
}

/// A change in words, for who is to decide.
#[derive(Clone, Debug)]
pub struct Change {
    /// The tool.
    pub tool: &'static str,
    /// The security group's account, Region, id and, where it has one, name.
    pub target: Target,
    /// The change in a sentence.
    pub title: String,
    /// What it comes to, line by line: a name and what it says.
    pub details: Vec<(String, String)>,
    /// The call that asked first.
    pub call: String,
    /// The policies that want the word.
    pub policies: Vec<String>,
}

/// A security group, as a request names it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The group's id.
    pub group: String,
}

impl Binding {
    /// Binds to who asks, to the tool, group and arguments (`fingerprint`), and to the difference that the change makes.
    pub fn new(requester: &Principal, fingerprint: &str, difference: &str) -> Self {
        let requester = Person::of(requester);
        let parts = [&requester.issuer, &requester.subject, fingerprint, difference];
        // Each length first: no two lists of parts read the same.
        let digest = sha256_hex(parts.iter().map(|part| format!("{}:{part}", part.len())).collect::<String>());
        Self { requester, digest }
    }

    pub(super) fn requester(&self) -> &Person {
        &self.requester
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whose request it is, without saying who.
    pub(super) fn whose(&self) -> String {
        let Person { issuer, subject, .. } = &self.requester;
        sha256_hex(format!("{}:{issuer}{subject}", issuer.len()))
    }

    /// Where the id of the request for it is kept.
    pub(super) fn place(&self) -> String {
        format!("approval:asked:{}", self.digest)
    }
}
