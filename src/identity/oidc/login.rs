//! A login that somebody has just made in a browser, by its ID token (OpenID Connect Core 1.0, sections 2 and 3.1.3.7).
//!
//! It is no access token and opens nothing: it proves to the core that a person, and not only whoever holds their access
//! token, is there.

use std::collections::HashMap;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::CLOCK_LEEWAY;
use super::claims::{ClaimsError, Expected, seconds, signed};

/// A login that is proven.
#[derive(Clone, Debug)]
pub struct Login {
    issuer: String,
    subject: String,
    nonce: String,
    at: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: Option<String>,
    aud: Value,
    azp: Option<String>,
    nonce: Option<String>,
    auth_time: Option<f64>,
    iat: Option<f64>,
    exp: Option<f64>,
    /// Every other one.
    #[serde(flatten)]
    rest: HashMap<String, Value>,
}

impl Login {
    /// Who vouches for it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Who has logged in.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What the login was made for, as whoever started it has said.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// When.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    pub(super) fn verify(
        expected: &Expected,
        token: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
        client: &str,
        now: Timestamp,
    ) -> Result<Self, ClaimsError> {
        let claims: Claims = signed(token, key, algorithm)?;
        if claims.iss != expected.issuer() {
            return Err(ClaimsError::Issuer);
        }
        let audiences = claims.aud.as_array().map_or(std::slice::from_ref(&claims.aud), Vec::as_slice);
        let party = claims.azp.as_deref();
        let meant = audiences.iter().any(|audience| audience.as_str() == Some(client));
        if !meant || party.is_some_and(|party| party != client) || (audiences.len() > 1 && party.is_none()) {
            return Err(ClaimsError::Audience);
        }
        let expires = claims.exp.and_then(seconds).ok_or(ClaimsError::Claim("exp"))?;
        if expires <= now.saturating_sub(CLOCK_LEEWAY).unwrap_or(now) {
            return Err(ClaimsError::Expired);
        }
        let issued = claims.iat.and_then(seconds).ok_or(ClaimsError::Claim("iat"))?;
        if issued > now.saturating_add(CLOCK_LEEWAY).unwrap_or(now) {
            return Err(ClaimsError::NotYetValid);
        }
        // Without it nobody knows whether the person was asked at all: the provider must say it (`max_age` was sent).
        let at = claims.auth_time.and_then(seconds).ok_or(ClaimsError::Claim("auth_time"))?;
        let nonce = claims.nonce.filter(|nonce| !nonce.is_empty()).ok_or(ClaimsError::Claim("nonce"))?;
        let subject = expected.subject(claims.sub, &claims.rest)?;
        Ok(Self { issuer: claims.iss, subject, nonce, at })
    }
}
