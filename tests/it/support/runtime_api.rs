//! A double of AWS Lambda's Runtime and Extensions API, by which the real binary takes the events that a test hands it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// How long a function may take where a test is not about that.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct RuntimeApi {
    address: String,
    events: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
}

struct Shared {
    next: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    /// Who waits for the answer to which invocation.
    waiting: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    extensions: Mutex<Vec<String>>,
}

struct Event {
    id: String,
    deadline_ms: u128,
    payload: Value,
}

/// What a function answered: a result, or an error with its type and message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Answer(Value),
    Error(Value),
}

impl Outcome {
    pub(crate) fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            Self::Error(error) => panic!("an error: {error:#}"),
        }
    }

    /// The error's type and message.
    pub(crate) fn error(self) -> (String, String) {
        match self {
            Self::Answer(answer) => panic!("an answer: {answer:#}"),
            Self::Error(error) => {
                let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{error:#}")).to_owned();
                (text("errorType"), text("errorMessage"))
            }
        }
    }
}

impl RuntimeApi {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (events, next) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            next: tokio::sync::Mutex::new(next),
            waiting: Mutex::default(),
            extensions: Mutex::default(),
        });
        let router = axum::Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next_event))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(answered))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
            .route("/2020-01-01/extension/register", post(register))
            .route("/2020-01-01/extension/event/next", get(std::future::pending::<StatusCode>))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, events, shared }
    }

    /// What the platform sets for a function.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_LAMBDA_RUNTIME_API", self.address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "whitelistmcp"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/whitelistmcp"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/29/[$LATEST]0"),
            ("_HANDLER", "bootstrap"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Hands an event over, and waits for what becomes of it.
    pub(crate) async fn invoke(&self, payload: Value) -> Outcome {
        self.invoke_within(payload, TIMEOUT).await
    }

    /// The same, with so much time until the platform stops waiting.
    pub(crate) async fn invoke_within(&self, payload: Value, left: Duration) -> Outcome {
        let (id, (answer, answered)) = (uuid::Uuid::new_v4().to_string(), oneshot::channel());
        self.shared.waiting.lock().expect("not poisoned").insert(id.clone(), answer);
        self.events.send(Event { id, deadline_ms: now_ms() + left.as_millis(), payload }).expect("it takes events");
        tokio::time::timeout(left.max(Duration::from_secs(5)) + TIMEOUT, answered)
            .await
            .expect("an answer in time")
            .expect("an answer")
    }

    /// The extensions that registered, by name.
    pub(crate) fn extensions(&self) -> Vec<String> {
        self.shared.extensions.lock().expect("not poisoned").clone()
    }
}

async fn next_event(State(shared): State<Arc<Shared>>) -> Response {
    let Some(event) = shared.next.lock().await.recv().await else { return StatusCode::GONE.into_response() };
    let headers = [
        ("lambda-runtime-aws-request-id", event.id),
        ("lambda-runtime-deadline-ms", event.deadline_ms.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-central-1:123456789012:function:whitelistmcp".to_owned(),
        ),
        ("lambda-runtime-trace-id", "Root=1-6746d8a1-5f1c0c9e2b7a4d3e8f901234;Sampled=0".to_owned()),
    ];
    let mut response = Json(event.payload).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().expect("a header"));
    }
    response
}

async fn answered(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    answer: bytes::Bytes,
) -> (StatusCode, Json<Value>) {
    shared.end(&id, Outcome::Answer(read(&answer)))
}

async fn failed(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    error: bytes::Bytes,
) -> (StatusCode, Json<Value>) {
    shared.end(&id, Outcome::Error(read(&error)))
}

/// The runtime does not say what kind of content it sends.
fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

async fn register(State(shared): State<Arc<Shared>>, headers: http::HeaderMap) -> Response {
    let name = headers["lambda-extension-name"].to_str().expect("a name").to_owned();
    shared.extensions.lock().expect("not poisoned").push(name);
    let said = json!({"functionName": "whitelistmcp", "functionVersion": "$LATEST", "handler": "bootstrap"});
    ([("lambda-extension-identifier", uuid::Uuid::new_v4().to_string())], Json(said)).into_response()
}

impl Shared {
    fn end(&self, id: &str, outcome: Outcome) -> (StatusCode, Json<Value>) {
        if let Some(waiting) = self.waiting.lock().expect("not poisoned").remove(id) {
            // A test that has given up needs no answer.
            waiting.send(outcome).unwrap_or_default();
        }
        (StatusCode::ACCEPTED, Json(json!({"status": "OK"})))
    }
}

#[expect(clippy::disallowed_methods, reason = "the platform tells the machine's own time")]
fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()
}
