//! An issuer that signs whatever a test wants, right or wrong; it stands for somebody else's provider and speaks its
//! protocol: discovery and a key set.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::AUDIENCE;

pub(crate) struct Issuer {
    pub(crate) url: String,
    key: EncodingKey,
    keys: Arc<arc_swap::ArcSwap<Value>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (key, jwk) = signing_key("k1");
        let keys = Arc::new(arc_swap::ArcSwap::from_pointee(json!({"keys": [jwk]})));
        let asked = Arc::new(AtomicUsize::new(0));
        let metadata = json!({
            "issuer": url, "jwks_uri": format!("{url}/jwks"), "authorization_endpoint": format!("{url}/auth"), "token_endpoint": format!("{url}/token"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        });
        let (served, counter) = (Arc::clone(&keys), Arc::clone(&asked));
        let router = axum::Router::new()
            .route("/.well-known/openid-configuration", get(move || async move { Json(metadata) }))
            .route(
                "/jwks",
                get(move || async move {
                    counter.fetch_add(1, Ordering::Relaxed);
                    Json(Value::clone(&served.load()))
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, key, keys, asked }
    }

    /// How often the keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Publishes another key set.
    pub(crate) fn publish(&self, keys: Value) {
        self.keys.store(Arc::new(keys));
    }

    /// The claims of a good token.
    pub(crate) fn claims(&self, user: &str, scope: &str) -> Value {
        let now = now();
        json!({
            "iss": self.url, "aud": AUDIENCE, "sub": user, "client_id": "test", "jti": uuid::Uuid::new_v4().to_string(), "iat": now, "exp": now + 600,
            "scope": scope, "email": format!("{user}@example.test"), "email_verified": true, "groups": ["dev"],
        })
    }

    pub(crate) fn token(&self, user: &str, scope: &str) -> String {
        self.sign(&header(), &self.claims(user, scope))
    }

    /// A token with other claims in it.
    pub(crate) fn token_with(&self, user: &str, scope: &str, other: Value) -> String {
        let mut claims = self.claims(user, scope);
        for (name, value) in other.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        self.sign(&header(), &claims)
    }

    pub(crate) fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).expect("a token")
    }
}

/// The header of a good token.
pub(crate) fn header() -> Header {
    let mut header = Header::new(Algorithm::ES256);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some("k1".to_owned());
    header
}

/// A key to sign with, and its public half as it is published.
pub(crate) fn signing_key(id: &str) -> (EncodingKey, Value) {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a JWK");
    jwk.common.key_id = Some(id.to_owned());
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    jwk["use"] = "sig".into();
    (key, jwk)
}

#[expect(clippy::disallowed_methods, reason = "tokens of a test live in the machine's own time")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
