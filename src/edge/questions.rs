//! Questions to clients of the revisions before 2026-07-28: requests of ours that travel to the client beside its own, and
//! answers that come back as messages of their own, over HTTP perhaps to another replica.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::Edge;
use super::dispatch::Call;
use super::sealed::Sealed;
use crate::digest::sha256_hex;
use crate::mcp::envelope::Response;
use crate::mcp::message;

/// How long somebody has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// How many of one caller's: enough for a person, and not for all of the places.
const OF_ONE_MOST: usize = 8;
/// How often it is looked whether the answer came to another replica.
const LOOK: Duration = Duration::from_millis(250);
/// What a question's id is sealed for.
const PURPOSE: &[u8] = b"question";

/// The questions that wait.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<String, Waiting>>);

#[derive(Debug)]
struct Waiting {
    principal: String,
    answer: oneshot::Sender<Came>,
}

/// What a client says: MCP's result, or the words of its error.
type Came = Result<Map<String, Value>, String>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("this connection cannot carry a question: accept `text/event-stream`, or use a WebSocket")]
    NoWay,
    #[error(
        "this server has several replicas and nothing that carries an answer from one to another (`[redis]`); use a WebSocket, or a client of MCP 2026-07-28"
    )]
    Apart,
    #[error("too many questions wait for an answer already")]
    TooMany,
    #[error("nobody answered within {} minutes", PATIENCE.as_secs() / 60)]
    Timeout,
    #[error("the client went away")]
    Gone,
    #[error("this server ends or the connection does; ask again")]
    Ending,
    #[error("the client refused the question: {0}")]
    Refused(String),
}

/// Takes a question off the list, however its asking ends.
struct Place<'a> {
    questions: &'a Questions,
    id: String,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.questions.waiting().remove(&self.id);
    }
}

impl Questions {
    /// Asks, and waits for the answer.
    pub(super) async fn ask(
        &self,
        edge: &Edge,
        call: &Call<'_>,
        (method, params): (&str, &Value),
    ) -> Result<Map<String, Value>, AskError> {
        let (sealed, aside, principal) = (&edge.sealed, call.aside, call.who());
        let on_a_socket = call.carried.is_a_channel();
        if !aside.is_open() {
            return Err(AskError::NoWay);
        }
        if !on_a_socket && sealed.is_apart() {
            return Err(AskError::Apart);
        }
        let id = sealed.close(PURPOSE, &purpose(principal), PATIENCE);
        let (answer, mut answered) = oneshot::channel();
        let place = {
            let mut waiting = self.waiting();
            let own = waiting.values().filter(|waiting| waiting.principal == principal).count();
            // Each holds its request's place, and most of the places are for requests that end by themselves.
            if waiting.len() >= (edge.config.in_flight_max / 4).max(1) || own >= OF_ONE_MOST {
                return Err(AskError::TooMany);
            }
            waiting.insert(id.clone(), Waiting { principal: principal.to_owned(), answer });
            Place { questions: self, id: id.clone() }
        };
        if !aside.say(message::request(&id, method, params)).await {
            return Err(AskError::Gone);
        }
        let waited = async {
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    came = &mut answered => return came.map_err(|_| AskError::Gone)?.map_err(AskError::Refused),
                    _ = look.tick() => {}
                    () = call.origin.closing.cancelled() => return Err(AskError::Ending),
                    // Nothing that was answered could be told to who has gone.
                    () = aside.closed() => return Err(AskError::Gone),
                }
                if !on_a_socket && let Some(came) = elsewhere(sealed, &id).await {
                    return came.map_err(AskError::Refused);
                }
            }
        };
        let came = tokio::time::timeout(PATIENCE, waited).await.unwrap_or(Err(AskError::Timeout));
        drop(place);
        came
    }

    /// Takes an answer; whether it was one to a question of ours, to that caller.
    pub(super) async fn take(&self, sealed: &Sealed, principal: &str, response: &Response<'_>) -> bool {
        let Ok(id) = serde_json::from_str::<String>(response.id.get()) else { return false };
        if sealed.open(PURPOSE, &id).ok().as_deref() != Some(&*purpose(principal)) {
            return false;
        }
        let here = self.waiting().remove(&id);
        if let Some(waiting) = here {
            // Whoever asked may have given up meanwhile.
            waiting.answer.send(came(response)).unwrap_or_default();
            return true;
        }
        let Some(shared) = sealed.shared() else { return false };
        let whole = match response.came {
            Ok(result) => format!("{{\"result\":{}}}", result.get()),
            Err(error) => format!("{{\"error\":{}}}", error.get()),
        };
        let value = sealed.close(ANSWER, whole.as_bytes(), PATIENCE);
        shared.put(&key(&id), value.as_bytes(), PATIENCE).await.is_ok()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer is sealed for on its way from one replica to another.
const ANSWER: &[u8] = b"answer";

fn purpose(principal: &str) -> Vec<u8> {
    sha256_hex(principal).into_bytes()
}

fn key(id: &str) -> String {
    format!("answer:{}", sha256_hex(id))
}

/// The answer that came to another replica, if one did.
async fn elsewhere(sealed: &Sealed, id: &str) -> Option<Came> {
    // Redis that fails has no answer yet; the person may still give it here.
    let value = sealed.shared()?.value(&key(id)).await.ok()??;
    let whole = sealed.open(ANSWER, std::str::from_utf8(&value).ok()?).ok()?;
    #[derive(serde::Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let Whole { result, error } = serde_json::from_slice(&whole).ok()?;
    let id = RawValue::from_string("0".to_owned()).ok()?;
    let said = result.map(Ok).or(error.map(Err))?;
    Some(came(&Response { id: &id, came: said }))
}

fn came(response: &Response<'_>) -> Came {
    match response.came {
        Ok(result) => {
            serde_json::from_str(result.get()).map_err(|_| "its result is not what MCP says it must be".to_owned())
        }
        Err(error) => {
            let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
            let text = error.get("message").and_then(Value::as_str).unwrap_or("it gives no reason");
            Err(text.chars().filter(|c| !c.is_control()).take(200).collect())
        }
    }
}
