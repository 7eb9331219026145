//! A login that somebody has just made in a browser, by its ID token (OpenID Connect Core 1.0, sections 2 and 3.1.3.7).
//!
//! It is no access token and opens nothing: it proves to the core that a person, and not only whoever holds their access
//! token, is there.

use jiff::Timestamp;
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::CLOCK_LEEWAY;
use super::claims::{ClaimsError, Expected, UnverifiedHeader, from_library, seconds};

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
    sub: String,
    aud: Value,
    azp: Option<String>,
    nonce: Option<String>,
    auth_time: Option<f64>,
    iat: Option<f64>,
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
        header: &UnverifiedHeader,
        key: &DecodingKey,
        client: &str,
    ) -> Result<Self, ClaimsError> {
        let mut validation = Validation::new(header.algorithm());
        validation.leeway = CLOCK_LEEWAY.as_secs();
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[expected.issuer()]);
        validation.set_audience(&[client]);
        let claims =
            jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(|error| from_library(&error))?.claims;
        if claims.iss != expected.issuer() {
            return Err(ClaimsError::Issuer);
        }
        let several = claims.aud.as_array().is_some_and(|audiences| audiences.len() > 1);
        if (several || claims.azp.is_some()) && claims.azp.as_deref() != Some(client) {
            return Err(ClaimsError::Audience);
        }
        claims.iat.and_then(seconds).ok_or(ClaimsError::Claim("iat"))?;
        // Without it nobody knows whether the person was asked at all: the provider must say it (`max_age` was sent).
        let at = claims.auth_time.and_then(seconds).ok_or(ClaimsError::Claim("auth_time"))?;
        let nonce = claims.nonce.filter(|nonce| !nonce.is_empty()).ok_or(ClaimsError::Claim("nonce"))?;
        Ok(Self { issuer: claims.iss, subject: claims.sub, nonce, at })
    }
}
