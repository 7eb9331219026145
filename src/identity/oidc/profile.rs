//! How issuers write their access tokens: by RFC 9068, or in the ways from before it.
//!
//! Microsoft Entra, Okta, and Keycloak unless told otherwise, sign access tokens whose header does not say that they are
//! such, and have names of their own for scopes and client. An ID token for the same people is signed by the same key, so whatever
//! tells the two apart is asked for here: a scope, which ID tokens have not; an audience that is another than the client, which
//! theirs is not (OpenID Connect Core 1.0, section 2); and none of the claims that only ID tokens have.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::claims::{Claims, ClaimsError};

/// The form of an issuer's signed access tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// RFC 9068: the type `at+jwt`, and every claim under its registered name.
    #[default]
    Rfc9068,
    /// Signed JWTs from before it: of the type `JWT` or none, with scopes in `scope` or `scp`, the client in `client_id`, `azp`,
    /// `cid` or `appid`, and the id in `jti` or `uti`.
    Jwt,
}

/// What the payload of an access token may call itself, where it does (Keycloak).
const BEARER: &str = "Bearer";

/// Claims that ID tokens alone have (OpenID Connect Core 1.0, sections 2 and 3.3.2.11; FAPI 1.0, part 2, section 5.2.2.1).
const OF_ID_TOKENS: [&str; 4] = ["nonce", "at_hash", "c_hash", "s_hash"];

/// Where the client is, in the order in which it is looked for.
const CLIENT: [&str; 3] = ["azp", "cid", "appid"];

impl Profile {
    /// Whether a header's `typ` may stand on an access token.
    pub(super) fn takes_type(self, typ: Option<&str>) -> bool {
        let is = |name: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
        let stated = is("at+jwt") || is("application/at+jwt");
        stated || (self == Self::Jwt && (typ.is_none() || is("JWT")))
    }

    /// The claims under their registered names, those of an access token.
    pub(super) fn read(self, mut claims: Claims) -> Result<Claims, ClaimsError> {
        if self == Self::Rfc9068 {
            return Ok(claims);
        }
        if let Some(name) = OF_ID_TOKENS.into_iter().find(|name| claims.rest.contains_key(*name)) {
            return Err(ClaimsError::IdToken(name));
        }
        if claims.rest.get("typ").is_some_and(|typ| typ.as_str() != Some(BEARER)) {
            return Err(ClaimsError::IdToken("typ"));
        }
        let text = |name: &str| claims.rest.get(name).and_then(Value::as_str).map(str::to_owned);
        claims.client_id = claims.client_id.take().or_else(|| CLIENT.into_iter().find_map(text));
        claims.jti = claims.jti.take().or_else(|| text("uti"));
        claims.scope = match (claims.scope.take(), claims.rest.get("scp")) {
            (Some(scope), _) => Some(scope),
            (None, Some(Value::String(scope))) => Some(scope.clone()),
            (None, Some(Value::Array(scopes))) => {
                Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
            }
            (None, _) => return Err(ClaimsError::Claim("scope")),
        };
        let client = claims.client_id.as_deref();
        let audiences = match &claims.aud {
            Some(Value::Array(audiences)) => audiences.as_slice(),
            Some(audience) => std::slice::from_ref(audience),
            None => &[],
        };
        if client.is_some() && audiences.iter().any(|audience| audience.as_str() == client) {
            return Err(ClaimsError::IdToken("aud"));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: Value) -> Result<Claims, String> {
        Profile::Jwt.read(serde_json::from_value(claims).expect("claims")).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_may_be_an_access_token_is_one() {
        for (typ, older) in [
            (Some("at+jwt"), true),
            (Some("application/AT+JWT"), true),
            (Some("JWT"), true),
            (None, true),
            (Some("logout+jwt"), false),
            (Some("dpop+jwt"), false),
            (Some(""), false),
        ] {
            assert_eq!(Profile::Jwt.takes_type(typ), older, "{typ:?}");
            assert_eq!(
                Profile::Rfc9068.takes_type(typ),
                typ.is_some_and(|typ| typ.to_lowercase().ends_with("at+jwt")),
                "{typ:?}"
            );
        }
    }

    #[test]
    fn every_provider_s_names_are_known() {
        for claims in [
            json!({"scp": "whitelist:read whitelist:write", "azp": "c", "uti": "1", "aud": "api"}), // Entra, v2.
            json!({"scp": "whitelist:read whitelist:write", "appid": "c", "uti": "1", "aud": "api"}), // Entra, v1.
            json!({"scp": ["whitelist:read", "whitelist:write"], "cid": "c", "jti": "1", "aud": "api"}), // Okta.
            json!({"scope": "whitelist:read whitelist:write", "azp": "c", "jti": "1", "typ": "Bearer", "aud": ["api", "account"]}), // Keycloak.
        ] {
            let shown = claims.to_string();
            let read = read(claims).unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(
                (read.client_id.as_deref(), read.jti.as_deref(), read.scope.as_deref()),
                (Some("c"), Some("1"), Some("whitelist:read whitelist:write")),
                "{shown}"
            );
        }
    }

    #[test]
    fn what_may_be_an_id_token_is_refused() {
        let good = json!({"scope": "whitelist:read", "azp": "c", "jti": "1", "aud": "api"});
        for (name, value, part) in [
            ("nonce", json!("n"), "`nonce`"),
            ("at_hash", json!("h"), "`at_hash`"),
            ("typ", json!("ID"), "`typ`"),
            ("typ", json!("Refresh"), "`typ`"),
            ("aud", json!("c"), "`aud`"),
            ("aud", json!(["api", "c"]), "`aud`"),
            ("scope", Value::Null, "`scope`"),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            let refused = read(claims.clone()).err().unwrap_or_default();
            assert!(refused.contains(part), "{claims}: {refused}");
        }
    }
}
