//! What must hold of a token's header and claims (RFC 9068, section 4; RFC 8725).
//!
//! Everything read before the signature is checked carries `unverified` in its name.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::scope::Scopes;
use super::super::thumbprint::Thumbprint;
use super::super::{Kind, Principal, Said, stable_id};
use super::profile::Profile;
use super::{CLOCK_LEEWAY, Config, IssuerError};

/// What this resource server expects of every token.
#[derive(Debug)]
pub(super) struct Expected {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    groups_claim: String,
    groups_prefix: String,
    kept_claims: Vec<String>,
    profile: Profile,
    scope_prefix: String,
    subject_claim: Option<String>,
}

/// A signed token, taken apart before anything about it is known to be true.
#[derive(Debug)]
pub(super) struct UnverifiedToken {
    unverified: jsonwebtoken::Header,
    unverified_issuer: Option<String>,
}

/// The one claim that is read before the signature is checked: it chooses who checks it.
#[derive(Deserialize)]
struct UnverifiedIssuer {
    iss: Option<Value>,
}

/// What is wrong with a token. The texts go to the caller: they name the check that failed, and nothing of the token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClaimsError {
    /// The header's `typ`.
    #[error("its type is not `at+jwt`, so it is not an access token (RFC 9068)")]
    Type,
    /// An ID token, or what cannot be told from one: the claim that says so.
    #[error("its claim `{0}` makes it an ID token, or nothing that could be told from one; an access token is needed")]
    IdToken(&'static str),
    /// The header's `alg`.
    #[error("its signature algorithm is not one that is accepted here")]
    Algorithm,
    /// The header carries `crit`, which names extensions that must be understood.
    #[error("it demands extensions (`crit`) that are not understood here")]
    Critical,
    /// The signature.
    #[error("its signature is wrong")]
    Signature,
    /// `iss`.
    #[error("it comes from another issuer")]
    Issuer,
    /// `aud`.
    #[error("it is meant for another audience")]
    Audience,
    /// `exp`.
    #[error("it has expired")]
    Expired,
    /// `nbf` or `iat`.
    #[error("it is not valid yet")]
    NotYetValid,
    /// A claim that RFC 9068 demands.
    #[error("its claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// The claim that is who somebody is at this issuer, where it is another than `sub`.
    #[error("its claim `{0}`, which is who somebody is at this issuer, is missing or malformed")]
    Subject(String),
    /// `cnf`: bound to a key that this service cannot ask the caller to prove.
    #[error(
        "it is bound to a key (`cnf`), and of such bonds only that to a client certificate (`x5t#S256`) is known here"
    )]
    Confirmation,
    /// `cnf`: bound to a certificate that the connection did not show (RFC 8705, section 3).
    #[error("it is bound to a client certificate (`cnf`), and that is not the one that the connection was made with")]
    Certificate,
}

/// The claims of RFC 9068, section 2.2, and those that name people. Times and audience are checked below and not by the
/// library: there is one clock and one leeway for them.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) iss: Option<Value>,
    pub(super) aud: Option<Value>,
    pub(super) sub: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) jti: Option<String>,
    pub(super) iat: Option<f64>,
    pub(super) nbf: Option<f64>,
    pub(super) exp: Option<f64>,
    pub(super) scope: Option<String>,
    /// Every other one.
    #[serde(flatten)]
    pub(super) rest: HashMap<String, Value>,
}

/// Whether a token is built like a signed or an encrypted JWT: three or five parts, the first of them a JSON object.
pub(super) fn looks_like_jwt(token: &str) -> bool {
    let parts = token.split('.').count();
    let header = token.split('.').next().and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    (parts == 3 || parts == 5) && header.is_some_and(|header| header.first() == Some(&b'{'))
}

// === impl UnverifiedToken ===

impl UnverifiedToken {
    /// Takes a token apart; none if it is no signed JWT.
    pub(super) fn read(token: &str) -> Option<Self> {
        let unverified = jsonwebtoken::decode_header(token).ok()?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: UnverifiedIssuer = serde_json::from_slice(&payload).ok()?;
        let unverified_issuer = claims.iss.as_ref().and_then(Value::as_str).map(str::to_owned);
        Some(Self { unverified, unverified_issuer })
    }

    /// The key that the token says it was signed with.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.unverified.kid.as_deref()
    }

    /// The issuer that the token says it comes from.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.unverified_issuer.as_deref()
    }
}

// === impl Expected ===

impl Expected {
    pub(super) fn new(config: &Config) -> Result<Self, IssuerError> {
        let algorithms = config.algorithms.iter().map(|name| algorithm(name)).collect::<Result<Vec<_>, _>>()?;
        if algorithms.is_empty() {
            return Err(IssuerError::Algorithm(String::new()));
        }
        Ok(Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            algorithms,
            groups_claim: config.groups_claim.clone(),
            groups_prefix: config.groups_prefix.clone().unwrap_or_default(),
            kept_claims: config.claims.clone(),
            profile: config.profile,
            scope_prefix: config.scope_prefix.clone().unwrap_or_default(),
            subject_claim: config.subject_claim.clone(),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Refuses by the header alone what no key could make good.
    pub(super) fn check_header(&self, token: &UnverifiedToken) -> Result<Algorithm, ClaimsError> {
        let header = &token.unverified;
        if !self.profile.takes_type(header.typ.as_deref()) {
            return Err(ClaimsError::Type);
        }
        self.check_signature_header(header)
    }

    /// The same of an ID token, which is of another type: an access token is no login.
    pub(super) fn check_login_header(&self, token: &UnverifiedToken) -> Result<Algorithm, ClaimsError> {
        let header = &token.unverified;
        match header.typ.as_deref() {
            None => {}
            Some(typ) if typ.eq_ignore_ascii_case("jwt") => {}
            Some(_) => return Err(ClaimsError::Type),
        }
        self.check_signature_header(header)
    }

    fn check_signature_header(&self, header: &jsonwebtoken::Header) -> Result<Algorithm, ClaimsError> {
        if header.crit.is_some() {
            return Err(ClaimsError::Critical);
        }
        let algorithm = header.alg;
        if self.algorithms.contains(&algorithm) { Ok(algorithm) } else { Err(ClaimsError::Algorithm) }
    }

    /// Checks the signature and every claim; what comes back is proven.
    pub(super) fn verify(
        &self,
        token: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Principal, ClaimsError> {
        let claims = self.profile.read(signed(token, key, algorithm)?)?;
        claims.jti.as_deref().filter(|jti| !jti.is_empty()).ok_or(ClaimsError::Claim("jti"))?;
        claims.iat.ok_or(ClaimsError::Claim("iat"))?;
        match &claims.iss {
            None => Err(ClaimsError::Claim("iss")),
            Some(_) => self.principal(claims, now),
        }
    }

    /// Checks what must hold of every access token, however its claims were proven.
    pub(super) fn principal(&self, claims: Claims, now: Timestamp) -> Result<Principal, ClaimsError> {
        // RFC 7519 knows one string here; a list that holds the issuer is not it.
        if claims.iss.is_some_and(|iss| iss.as_str() != Some(&self.issuer)) {
            return Err(ClaimsError::Issuer);
        }
        let own = |audience: &Value| audience.as_str() == Some(&self.audience);
        match &claims.aud {
            None | Some(Value::Null) => return Err(ClaimsError::Claim("aud")),
            Some(Value::Array(audiences)) if audiences.iter().any(own) => {}
            Some(audience) if own(audience) => {}
            Some(_) => return Err(ClaimsError::Audience),
        }
        let bound = claims.rest.get("cnf").map(certificate).transpose()?;
        let early = now.saturating_sub(CLOCK_LEEWAY).unwrap_or(now);
        let late = now.saturating_add(CLOCK_LEEWAY).unwrap_or(now);
        let expires = claims.exp.and_then(seconds).ok_or(ClaimsError::Claim("exp"))?;
        if expires <= early {
            return Err(ClaimsError::Expired);
        }
        for (name, date) in [("nbf", claims.nbf), ("iat", claims.iat)] {
            if let Some(date) = date
                && seconds(date).ok_or(ClaimsError::Claim(name))? > late
            {
                return Err(ClaimsError::NotYetValid);
            }
        }
        let subject = self.subject(claims.sub, &claims.rest)?;
        let client = claims.client_id.filter(|id| !id.is_empty()).ok_or(ClaimsError::Claim("client_id"))?;
        let groups = match claims.rest.get(&self.groups_claim) {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::Array(groups)) => {
                let prefix = &self.groups_prefix;
                groups.iter().filter_map(Value::as_str).map(|group| format!("{prefix}{group}")).collect()
            }
            Some(_) => return Err(ClaimsError::Claim("groups")),
        };
        // With some providers anybody can enter anybody's address: only a verified one is a name, and no other claim
        // may look like one. A name is for people to read; who somebody is, issuer and subject say.
        let text = |name: &str| claims.rest.get(name).and_then(Value::as_str);
        let verified = claims.rest.get("email_verified") == Some(&Value::Bool(true));
        let email = text("email").filter(|_| verified);
        let unverified = ["preferred_username", "name"].map(|name| text(name).filter(|name| !name.contains('@')));
        let name = email
            .into_iter()
            .chain(unverified.into_iter().flatten())
            .find(|name| is_plain(name))
            .unwrap_or(&subject)
            .to_owned();
        Ok(Principal {
            kind: Kind::Person,
            id: stable_id(&name, &self.issuer, &subject),
            issuer: self.issuer.clone(),
            subject,
            name,
            groups,
            client: Some(client),
            owner: None,
            scopes: claims.scope.as_deref().map(|scope| self.scopes(scope)).unwrap_or_default(),
            expires: Some(expires),
            bound,
            said: said(&claims.rest, &self.kept_claims),
        })
    }

    /// Who somebody is at this issuer, by the claims of an access token or an ID token.
    pub(super) fn subject(&self, sub: Option<String>, rest: &HashMap<String, Value>) -> Result<String, ClaimsError> {
        let (subject, missing) = match &self.subject_claim {
            None => (sub, ClaimsError::Claim("sub")),
            Some(name) => {
                (rest.get(name).and_then(Value::as_str).map(str::to_owned), ClaimsError::Subject(name.clone()))
            }
        };
        subject.filter(|subject| !subject.is_empty() && subject.len() <= 255).ok_or(missing)
    }

    /// What stands before the names of scopes where clients ask for them.
    pub(super) fn scope_prefix(&self) -> &str {
        &self.scope_prefix
    }

    /// The scopes of a token, which may carry them as they were asked for.
    fn scopes(&self, claim: &str) -> Scopes {
        let bare = |scope: &str| scope.strip_prefix(&self.scope_prefix).unwrap_or(scope).to_owned();
        Scopes::parse(claim).iter().map(bare).collect()
    }
}

/// The certificate that a token is bound to by `cnf`, if it is bound to that and to nothing else (RFC 8705, section 3.1).
fn certificate(confirmation: &Value) -> Result<Thumbprint, ClaimsError> {
    let mut members = confirmation.as_object().into_iter().flatten();
    match (members.next(), members.next()) {
        (Some((name, Value::String(thumbprint))), None) if name == "x5t#S256" => {
            Thumbprint::parse(thumbprint).ok_or(ClaimsError::Confirmation)
        }
        _ => Err(ClaimsError::Confirmation),
    }
}

/// The most actors that are kept of a chain of delegation.
const ACTORS_MOST: usize = 10;

/// What is said besides who somebody is. What is malformed here counts as not said: nothing is permitted by it.
fn said(claims: &HashMap<String, Value>, kept: &[String]) -> Said {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| is_plain(text)).map(str::to_owned);
    let methods = claims.get("amr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let actors = std::iter::successors(claims.get("act"), |actor| actor.get("act"))
        .take(ACTORS_MOST)
        .map_while(|actor| actor.get("sub").and_then(Value::as_str).filter(|sub| is_plain(sub)).map(str::to_owned));
    let as_text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    Said {
        acr: text("acr"),
        amr: methods.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        authenticated: claims.get("auth_time").and_then(Value::as_f64).and_then(seconds),
        actors: actors.collect(),
        claims: kept.iter().filter_map(|name| Some((name.clone(), as_text(claims.get(name)?)?))).collect(),
    }
}

/// A name that can stand in a description, a log line and a session name as it is.
fn is_plain(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= 128 && !name.chars().any(char::is_control)
}

/// NumericDate may be fractional (RFC 7519, section 2).
pub(super) fn seconds(date: f64) -> Option<Timestamp> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range is checked first, and a fraction of a second is dropped on purpose"
    )]
    (date.is_finite() && (0.0..4e11).contains(&date)).then(|| Timestamp::from_second(date as i64).ok()).flatten()
}

/// Only asymmetric algorithms: with a symmetric one, whoever can verify can sign.
pub(super) fn algorithm(name: &str) -> Result<Algorithm, IssuerError> {
    match name.parse::<Algorithm>() {
        Ok(algorithm) if !matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) => Ok(algorithm),
        _ => Err(IssuerError::Algorithm(name.to_owned())),
    }
}

/// The claims of a token whose signature is right. Nothing else is checked by the library: times and audience are, by whoever
/// asks, with the one clock and the one leeway.
pub(super) fn signed<C: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<C, ClaimsError> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.set_required_spec_claims::<&str>(&[]);
    jsonwebtoken::decode::<C>(token, key, &validation).map(|token| token.claims).map_err(|error| from_library(&error))
}

fn from_library(error: &jsonwebtoken::errors::Error) -> ClaimsError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidAlgorithm => ClaimsError::Algorithm,
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => ClaimsError::Claim("payload"),
        _ => ClaimsError::Signature,
    }
}
