//! An issuer that signs whatever a test wants, right or wrong; it stands for somebody else's provider and speaks its
//! protocol: discovery, a key set, and introspection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::HeaderMap;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::AUDIENCE;

pub(crate) struct Issuer {
    pub(crate) url: String,
    key: EncodingKey,
    keys: Arc<arc_swap::ArcSwap<Value>>,
    asked: Arc<AtomicUsize>,
    opaque: Arc<Opaque>,
}

/// How an issuer differs from the ordinary one.
#[derive(Default)]
pub(crate) struct Shape {
    /// Its own path.
    pub(crate) path: &'static str,
    /// Where its metadata is, if not where OpenID Connect puts it.
    pub(crate) metadata_at: Option<&'static str>,
    /// What its metadata says differently.
    pub(crate) metadata: Value,
}

/// What it knows of opaque tokens, and what it was asked.
#[derive(Default)]
struct Opaque {
    tokens: Mutex<HashMap<String, Value>>,
    questions: Mutex<Vec<Question>>,
    down: AtomicBool,
    slow: AtomicBool,
}

/// One question about a token: how the client proved itself, and the form that it sent.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) authorization: String,
    pub(crate) form: String,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        Self::shaped(Shape::default()).await
    }

    pub(crate) async fn shaped(shape: Shape) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}{}", listener.local_addr().expect("an address"), shape.path);
        let (key, jwk) = signing_key("k1");
        let keys = Arc::new(arc_swap::ArcSwap::from_pointee(json!({"keys": [jwk]})));
        let asked = Arc::new(AtomicUsize::new(0));
        let mut metadata = json!({
            "issuer": url, "jwks_uri": format!("{url}/jwks"), "authorization_endpoint": format!("{url}/auth"), "token_endpoint": format!("{url}/token"),
            "introspection_endpoint": format!("{url}/introspect"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        });
        for (name, value) in shape.metadata.as_object().into_iter().flatten() {
            metadata[name] = value.clone();
        }
        let at = shape.metadata_at.map_or(format!("{}/.well-known/openid-configuration", shape.path), str::to_owned);
        let opaque = Arc::new(Opaque::default());
        let (served, counter, known) = (Arc::clone(&keys), Arc::clone(&asked), Arc::clone(&opaque));
        let router = axum::Router::new()
            .route(&at, get(move || async move { Json(metadata) }))
            .route(
                &format!("{}/jwks", shape.path),
                get(move || async move {
                    counter.fetch_add(1, Ordering::Relaxed);
                    Json(Value::clone(&served.load()))
                }),
            )
            .route(
                &format!("{}/introspect", shape.path),
                post(move |headers: HeaderMap, form: String| async move { introspect(&known, &headers, form).await }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, key, keys, asked, opaque }
    }

    /// Makes an opaque token known, with this answer to questions about it.
    pub(crate) fn opaque(&self, token: &str, answer: Value) {
        self.opaque.tokens.lock().expect("not poisoned").insert(token.to_owned(), answer);
    }

    /// What it says of a good opaque token.
    pub(crate) fn active(&self, user: &str, scope: &str) -> Value {
        let mut claims = self.claims(user, scope);
        claims["active"] = true.into();
        claims["token_type"] = "Bearer".into();
        claims
    }

    /// What it was asked about tokens.
    pub(crate) fn questions(&self) -> Vec<Question> {
        self.opaque.questions.lock().expect("not poisoned").clone()
    }

    /// From now on it answers nothing but an error, or answers again.
    pub(crate) fn set_down(&self, down: bool) {
        self.opaque.down.store(down, Ordering::Relaxed);
    }

    /// From now on it takes a while to answer.
    pub(crate) fn set_slow(&self) {
        self.opaque.slow.store(true, Ordering::Relaxed);
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

    pub(crate) fn sign(&self, header: &Header, claims: &impl serde::Serialize) -> String {
        jsonwebtoken::encode(header, claims, &self.key).expect("a token")
    }
}

async fn introspect(known: &Opaque, headers: &HeaderMap, form: String) -> Response {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let question = Question { authorization: authorization.to_owned(), form };
    let token = url::form_urlencoded::parse(question.form.as_bytes()).find(|(name, _)| name == "token");
    let token = token.map(|(_, token)| token.into_owned()).unwrap_or_default();
    known.questions.lock().expect("not poisoned").push(question);
    if known.slow.load(Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    if known.down.load(Ordering::Relaxed) {
        return http::StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let answer = known.tokens.lock().expect("not poisoned").get(&token).cloned();
    Json(answer.unwrap_or_else(|| json!({"active": false}))).into_response()
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
