//! What a caller sent to say who they are, and what becomes of it: one door for every kind of bearer token, the same at
//! the edge and at the core.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Principal;
use super::oidc::{Issuers, TokenError};
use crate::clock::Clock;

/// For how long a token that was verified need not be verified again; its own end counts if it is sooner. It bounds
/// how long a token outlives the key that signed it.
pub(super) const VERIFIED_FOR: Duration = Duration::from_secs(60);

/// How many verified tokens are remembered.
const VERIFIED_MOST: usize = 10_000;

/// The most bytes of a token; anything longer is no token of ours.
const TOKEN_MAX: usize = 16 * 1024;

/// What a caller sent as a bearer token. Nothing about it is known to be true.
#[derive(Clone)]
pub struct Bearer(Arc<str>);

/// Verifies bearer tokens.
#[derive(Debug)]
pub struct Verifier {
    issuers: Issuers,
    verified: Cache<[u8; 32], (Arc<Principal>, Timestamp)>,
    clock: Clock,
}

// === impl Bearer ===

impl Bearer {
    /// Takes the token out of an `Authorization` header's value. The scheme's name has no case (RFC 9110, 11.1).
    pub fn from_authorization(value: &str) -> Option<Self> {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Self(token.into()))
    }

    /// The token's SHA-256, under which what is known of it is kept.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }

    /// The token itself, to send it on to the core. It must go nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

// === impl Verifier ===

impl Verifier {
    /// Accepts the tokens of these issuers.
    pub fn new(issuers: Issuers, clock: Clock) -> Self {
        Self { issuers, verified: Cache::new(VERIFIED_MOST), clock }
    }

    /// The issuers whose tokens are accepted.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Whose token this is.
    pub async fn verify(&self, bearer: &Bearer) -> Result<Arc<Principal>, TokenError> {
        if bearer.expose().len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = bearer.digest();
        let now = self.clock.now();
        if let Some((principal, until)) = self.verified.get(&digest) {
            if now < until {
                return Ok(principal);
            }
            self.verified.remove(&digest);
        }
        let (principal, until) = self.issuers.verify(bearer, now).await?;
        self.verified.insert(digest, (Arc::clone(&principal), until));
        Ok(principal)
    }
}
