//! Which of the events that are taken one is. API Gateway and EventBridge make them, so what a caller sends is in their values and
//! never in their shape.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Failure;
use super::authorizer::Asked;
use super::exchange::{self, Handed};

/// An event that is taken.
pub(super) enum Event {
    /// A request, by proxy integration or by a function URL.
    Http(Box<Handed>),
    /// The question of a `TOKEN` authorizer.
    Authorizer(Asked),
    /// A schedule of EventBridge.
    Schedule,
}

/// What an event is told by.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(rename = "type")]
    kind: Option<String>,
    version: Option<String>,
    http_method: Option<String>,
    request_context: Option<ShapeContext>,
    source: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShapeContext {
    http: Option<Box<RawValue>>,
    identity: Option<Box<RawValue>>,
    connection_id: Option<Box<RawValue>>,
}

/// What is said of any other event.
const TAKEN: &str = "this function takes requests of API Gateway (REST and HTTP APIs, by proxy integration) and of function URLs, TOKEN authorizers, and scheduled events of EventBridge; this event is none of them";

impl Event {
    pub(super) fn read(payload: &RawValue) -> Result<Self, Failure> {
        let other = || Failure::new("EventNotTaken", TAKEN);
        let shape: Shape = serde_json::from_str(payload.get()).map_err(|_| other())?;
        match (&shape.kind, &shape.request_context) {
            (Some(kind), None) if kind == "TOKEN" => {
                serde_json::from_str(payload.get()).map(Self::Authorizer).map_err(|_| other())
            }
            (Some(kind), _) if kind == "REQUEST" => Err(Failure::new(
                "EventNotTaken",
                "a REQUEST authorizer is not taken; make it a TOKEN authorizer on the header Authorization",
            )),
            (None, Some(context)) if context.connection_id.is_some() => {
                Err(Failure::new("EventNotTaken", "WebSocket APIs are not served by a function; use a server"))
            }
            (None, Some(context)) if context.http.is_some() && shape.version.as_deref() == Some("2.0") => {
                exchange::second(payload).map(|handed| Self::Http(Box::new(handed))).ok_or_else(other)
            }
            (None, Some(context)) if context.identity.is_some() && shape.http_method.is_some() => {
                exchange::first(payload).map(|handed| Self::Http(Box::new(handed))).ok_or_else(other)
            }
            (None, None)
                if shape.detail_type.as_deref() == Some("Scheduled Event")
                    && matches!(shape.source.as_deref(), Some("aws.events" | "aws.scheduler")) =>
            {
                Ok(Self::Schedule)
            }
            _ => Err(other()),
        }
    }
}
