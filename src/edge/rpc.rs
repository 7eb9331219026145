//! One RPC of the service behind the edge, from its encoded request to its encoded answer: the caller's token goes along, what
//! it says on the way goes to the client, and what it needs of the client is asked.

use std::collections::HashMap;
use std::time::Duration;

use ::http::uri::PathAndQuery;
use bytes::Bytes;
use prost_reflect::MethodDescriptor;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::Edge;
use super::aside::{Teller, Wants};
use super::dispatch::Call;
use super::transcode;
use crate::annotations::Exchange;
use crate::digest::sha256_hex;
use crate::grpc::{CLIENT_ADDRESS, CLIENT_CERTIFICATE};
use crate::mcp::client::Can;
use crate::mcp::code;
use crate::mcp::era::Era;
use crate::mcp::message::RpcError;
use crate::pb::mcp::v1::question::Kind;
use crate::pb::mcp::v1::{Client, Form, InputRequired, Notice, Question, Visit};

/// How long a client may take to bring back what it was given.
const STATE_GOOD_FOR: Duration = Duration::from_secs(600);
/// How often a legacy client is asked for one request.
const ROUNDS_MOST: usize = 8;
/// How many answers a client may send at once.
const ANSWERS_MOST: usize = 32;

/// An RPC, and what is known of the client that asks for it.
pub(super) struct Rpc<'a> {
    /// The RPC.
    pub(super) method: &'a MethodDescriptor,
    /// What passes beside its arguments and results.
    pub(super) exchange: &'a Exchange,
    /// The era that the client speaks.
    pub(super) era: Era,
    /// What the client can be asked for.
    pub(super) can: Can,
    /// What the client wants to hear on the way.
    pub(super) wants: Wants,
}

/// What an RPC came to.
pub(super) enum Came {
    /// An answer.
    Answer(Bytes),
    /// Something is needed of the client: the result that says what.
    Question(Value),
    /// The client cannot be asked for what is needed, in words.
    Unanswered(String),
    /// The client has not declared what is needed.
    Undeclared(RpcError),
    /// A refusal, or a failure.
    Refused(Status),
    /// The token cannot be sent on.
    Unsendable,
}

/// What a client brings back to a request that was asked before (MCP 2026-07-28, "Multi round-trip requests").
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// What it was given.
    state: Option<String>,
    /// What it answers.
    answers: HashMap<String, Map<String, Value>>,
}

/// The members of a request's parameters that hold it.
#[derive(Default, Deserialize)]
struct BroughtParams<'a> {
    #[serde(borrow, default, rename = "inputResponses", deserialize_with = "given")]
    responses: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "requestState", deserialize_with = "given")]
    state: Option<&'a RawValue>,
}

/// A member that is there, be it null.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Brought {
    /// Reads it.
    pub(super) fn read(params: Option<&RawValue>) -> Result<Self, RpcError> {
        let wrong = |text: &'static str| RpcError::new(code::INVALID_PARAMS, text);
        let Some(params) = params else { return Ok(Self::default()) };
        let BroughtParams { responses, state } = serde_json::from_str(params.get()).unwrap_or_default();
        let state = state
            .map(|state| serde_json::from_str::<String>(state.get()))
            .transpose()
            .map_err(|_| wrong("`requestState` must be the string that this server gave"))?;
        let answers: HashMap<_, _> = responses
            .map(|responses| serde_json::from_str(responses.get()))
            .transpose()
            .map_err(|_| wrong("`inputResponses` must be an object of results, each an object"))?
            .unwrap_or_default();
        if answers.len() > ANSWERS_MOST {
            return Err(wrong("`inputResponses` holds more answers than were ever asked for"));
        }
        Ok(Self { state, answers })
    }

    /// What was answered under that name.
    pub(super) fn answer(&self, name: &str) -> Option<&Map<String, Value>> {
        // Without what it was given, an answer is to nothing that this server has asked.
        self.answers.get(name).filter(|_| self.state.is_some())
    }
}

/// The RPC's request: the message, the person's own token, the address and the certificate that they call by, the deadline
/// and the trace.
pub(super) fn outgoing(edge: &Edge, call: &Call<'_>, message: Bytes) -> Option<tonic::Request<Bytes>> {
    let mut request = outgoing_without_end(call, message)?;
    request.set_timeout(edge.call_timeout(call.origin.until));
    Some(request)
}

/// The same for an RPC that lasts for as long as somebody listens.
pub(super) fn outgoing_without_end(call: &Call<'_>, message: Bytes) -> Option<tonic::Request<Bytes>> {
    let mut request = tonic::Request::new(message);
    let mut authorization = MetadataValue::try_from(format!("Bearer {}", call.caller.bearer.expose())).ok()?;
    authorization.set_sensitive(true);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", authorization);
    if let Some(address) = call.origin.address {
        metadata.insert(CLIENT_ADDRESS, MetadataValue::try_from(address.to_string()).ok()?);
    }
    if let Some(certificate) = call.origin.certificate {
        metadata.insert(CLIENT_CERTIFICATE, MetadataValue::try_from(certificate.to_string()).ok()?);
    }
    Some(request)
}

/// The RPC's path.
pub(super) fn path(method: &MethodDescriptor) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .map_err(|_| Status::internal("the RPC has no name that can be called"))
}

impl Rpc<'_> {
    /// Calls it. What a client brought back is opened first: it must be for this caller, this RPC and these arguments.
    pub(super) async fn run(
        &self,
        edge: &Edge,
        call: &Call<'_>,
        message: &Bytes,
        brought: &Brought,
    ) -> Result<Came, RpcError> {
        let bound = || self.bound(call, message);
        let state = match &brought.state {
            None => None,
            Some(state) => Some(edge.sealed.open_once(&bound(), state, STATE_GOOD_FOR).await.map_err(|why| {
                RpcError::new(code::INVALID_PARAMS, format!("`requestState` is not taken: {why}; ask again without it"))
            })?),
        };
        let mut client = self.client();
        let answers = sendable(brought.answers.clone());
        match state {
            Some(state) => (client.state, client.answers) = (state, answers),
            None => client.volunteered = answers,
        }
        for _ in 0..ROUNDS_MOST {
            let needed = match self.once(edge, call, message, &client).await {
                Came::Answer(answer) => match self.needed(&answer) {
                    Ok(None) => return Ok(Came::Answer(answer)),
                    Ok(Some(needed)) => needed,
                    Err(status) => return Ok(Came::Refused(status)),
                },
                Came::Refused(status) => {
                    if let (Some(state), tonic::Code::Unavailable) = (&brought.state, status.code()) {
                        edge.sealed.give_back(state).await;
                    }
                    return Ok(Came::Refused(status));
                }
                other => return Ok(other),
            };
            if let Some(lacks) = self.can.lacks(needed.questions.values()) {
                return Ok(self.undeclared(lacks));
            }
            if self.era.is_modern() {
                return Ok(Came::Question(question(edge, &bound(), needed)));
            }
            match self.ask(edge, call, &needed).await {
                Ok(answers) => client.answers = answers,
                Err(words) => return Ok(Came::Unanswered(words)),
            }
            client.state = needed.state;
        }
        Ok(Came::Unanswered("it asks again and again".to_owned()))
    }

    /// What the service behind is told of the client.
    fn client(&self) -> Client {
        let Can { fill_forms, open_urls, sample, tell_roots } = self.can;
        Client {
            answers_forms: fill_forms,
            opens_urls: open_urls,
            samples: sample,
            tells_roots: tell_roots,
            ..Client::default()
        }
    }

    /// What a state is bound to: who asks, and for what.
    fn bound(&self, call: &Call<'_>, message: &Bytes) -> Vec<u8> {
        // Not of the bytes: what holds a map has no order of its own in them.
        let arguments = transcode::canonical(&self.method.input(), message);
        let (who, what) = (sha256_hex(call.who()), sha256_hex(arguments));
        format!("state:{who}:{}:{what}", self.method.full_name()).into_bytes()
    }

    /// One round.
    async fn once(&self, edge: &Edge, call: &Call<'_>, message: &Bytes, client: &Client) -> Came {
        let message = match &self.exchange.client {
            Some(field) => transcode::with_field(message, field, client),
            None => message.clone(),
        };
        let Some(request) = outgoing(edge, call, message) else { return Came::Unsendable };
        let path = match path(self.method) {
            Ok(path) => path,
            Err(status) => return Came::Refused(status),
        };
        let answered = async {
            if self.method.is_server_streaming() {
                self.stream(edge, call, path, request).await
            } else {
                edge.link.unary(path, request).await.map(tonic::Response::into_inner)
            }
        };
        // The service keeps to the deadline itself; this one is for when it does not answer at all.
        match tokio::time::timeout(edge.call_timeout(call.origin.until) + Duration::from_secs(1), answered).await {
            Ok(Ok(answer)) => Came::Answer(answer),
            Ok(Err(status)) => Came::Refused(status),
            Err(_) => Came::Refused(Status::deadline_exceeded("the call took too long")),
        }
    }

    /// Reads a stream to its end: notices on the way, and the result last.
    async fn stream(
        &self,
        edge: &Edge,
        call: &Call<'_>,
        path: PathAndQuery,
        request: tonic::Request<Bytes>,
    ) -> Result<Bytes, Status> {
        let mut stream = edge.link.server_streaming(path, request).await?.into_inner();
        let (mut teller, mut result) = (Teller::new(call.aside, &self.wants), None);
        let output = self.method.output();
        while let Some(message) = stream.message().await? {
            let notice = match &self.exchange.notice {
                Some(field) => transcode::field::<Notice>(&output, field, &message).map_err(unreadable)?,
                None => None,
            };
            match notice {
                Some(notice) => teller.tell(notice),
                None => result = Some(message),
            }
        }
        result.ok_or_else(|| Status::internal("the stream ended without a result"))
    }

    fn needed(&self, answer: &Bytes) -> Result<Option<InputRequired>, Status> {
        let Some(field) = &self.exchange.input_required else { return Ok(None) };
        transcode::field(&self.method.output(), field, answer).map_err(unreadable)
    }

    fn undeclared(&self, lacks: Value) -> Came {
        if !self.era.is_modern() {
            let names: Vec<&str> = lacks.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
            return Came::Unanswered(format!("the client has not declared that it can be asked: {}", names.join(", ")));
        }
        let data = json!({"requiredCapabilities": lacks});
        let text = "this needs something of the client that it has not declared it can be asked for";
        Came::Undeclared(RpcError::new(code::MISSING_CLIENT_CAPABILITY, text).with_http(400).with_data(data))
    }

    /// Asks a legacy client, one question after the other.
    async fn ask(
        &self,
        edge: &Edge,
        call: &Call<'_>,
        needed: &InputRequired,
    ) -> Result<HashMap<String, prost_types::Struct>, String> {
        let mut answers = HashMap::new();
        for (name, question) in &needed.questions {
            let Some((method, params)) = params(question.clone(), true) else { continue };
            let answer = edge.questions.ask(edge, call, (method, &params)).await;
            answers.insert(name.clone(), transcode::to_struct(answer.map_err(|why| why.to_string())?));
        }
        Ok(answers)
    }

    /// Seals a state that only the same request can bring back.
    pub(super) fn seal(&self, edge: &Edge, call: &Call<'_>, message: &Bytes, state_of: &[u8]) -> String {
        state(edge, &self.bound(call, message), state_of)
    }
}

/// The result by which a modern client is asked.
fn question(edge: &Edge, bound: &[u8], needed: InputRequired) -> Value {
    let questions = needed.questions.into_iter().filter_map(|(name, question)| {
        let (method, params) = params(question, false)?;
        Some((name, json!({"method": method, "params": params})))
    });
    let questions: Map<String, Value> = questions.collect();
    json!({"inputRequests": questions, "requestState": state(edge, bound, &needed.state)})
}

fn state(edge: &Edge, bound: &[u8], of: &[u8]) -> String {
    edge.sealed.close(bound, of, STATE_GOOD_FOR)
}

fn sendable(answers: HashMap<String, Map<String, Value>>) -> HashMap<String, prost_types::Struct> {
    answers.into_iter().map(|(name, answer)| (name, transcode::to_struct(answer))).collect()
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> Status {
    tracing::error!(error = %error, "an answer does not fit its descriptor");
    Status::internal("the service's answer could not be read")
}

/// A question as MCP puts it: the method, and its parameters.
fn params(question: Question, is_legacy: bool) -> Option<(&'static str, Value)> {
    Some(match question.kind? {
        Kind::Form(Form { message, schema }) => {
            let schema = schema.map_or_else(|| json!({"type": "object", "properties": {}}), transcode::object_of);
            ("elicitation/create", json!({"message": message, "requestedSchema": schema}))
        }
        Kind::Visit(Visit { message, url }) => {
            let mut params = json!({"mode": "url", "message": message, "url": url});
            if let (Some(params), true) = (params.as_object_mut(), is_legacy) {
                params.insert("elicitationId".to_owned(), uuid::Uuid::new_v4().to_string().into());
            }
            ("elicitation/create", params)
        }
        Kind::Sampling(params) => ("sampling/createMessage", transcode::object_of(params)),
        Kind::Roots(_) => ("roots/list", json!({})),
    })
}
