//! The person at this machine, where one person runs the whole service without a server.
//!
//! There is nobody to log in to, and nobody to tell apart: who can start this program as that user can use their AWS profile
//! without it. The process makes up a secret at its start. Its edge sends it with every call, as it would send a person's
//! token, and its core knows by it who calls. It never leaves the process.

use std::sync::Arc;

use super::Principal;
use super::bearer::Bearer;
use super::scope::Scopes;

/// Who vouches for such a person: AWS, for their profile.
pub const ISSUER: &str = "aws-profile";

/// The secret of this process, and whom it stands for.
#[derive(Debug)]
pub struct Local {
    digest: [u8; 32],
    principal: Arc<Principal>,
}

impl Local {
    /// Lets that secret stand for a person. `name` is what people call them; `subject` is who they are, by AWS's word where
    /// it was asked.
    pub fn new(secret: &Bearer, name: &str, subject: &str, scopes: Scopes) -> Self {
        Self { digest: secret.digest(), principal: Arc::new(Principal::local(name, subject, scopes)) }
    }

    /// The person, if that is the secret. Digests are compared, so the time that it takes says nothing of the secret.
    pub(super) fn whose(&self, bearer: &Bearer) -> Option<Arc<Principal>> {
        (bearer.digest() == self.digest).then(|| Arc::clone(&self.principal))
    }
}
