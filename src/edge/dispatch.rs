//! One request to one answer, whatever carried it: which method, in which era, and for `tools/call` which RPC.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ::http::HeaderMap;
use ::http::uri::PathAndQuery;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tonic::metadata::MetadataValue;
use tracing::Instrument;

use super::waiting::{self, Before};
use super::{Edge, callable, error, transcode};
use crate::annotations::ToolSpec;
use crate::grpc::status::Refusal;
use crate::grpc::{CLIENT_ADDRESS, CLIENT_CERTIFICATE};
use crate::identity::Principal;
use crate::identity::bearer::Bearer;
use crate::identity::thumbprint::Thumbprint;
use crate::limit::{Exceeded, Subject};
use crate::mcp::code;
use crate::mcp::envelope::Request;
use crate::mcp::era::{self, Era, Spoken, Trace};
use crate::mcp::message::{self, RpcError, text};
use crate::telemetry;

/// Who sent a request, and what came with it.
pub(super) struct Call<'a> {
    pub(super) bearer: &'a Bearer,
    pub(super) principal: &'a Arc<Principal>,
    pub(super) address: Option<IpAddr>,
    pub(super) certificate: Option<Thumbprint>,
    pub(super) carried: Carried<'a>,
}

/// What carried a request, and says things of it besides the message.
#[derive(Clone, Copy)]
pub(super) enum Carried<'a> {
    /// HTTP: headers that must agree with the message.
    Http(&'a HeaderMap),
    /// A WebSocket, on which that revision was negotiated, if any was.
    Socket(Option<&'static str>),
    /// Nothing: the edge asks on its own account.
    Itself,
}

impl Carried<'_> {
    /// The protocol's name, as the conventions for telemetry have it.
    fn name(self) -> &'static str {
        if matches!(self, Self::Socket(_)) { "websocket" } else { "http" }
    }

    fn header(&self, name: &str) -> Option<&str> {
        match self {
            Self::Http(headers) => headers.get(name)?.to_str().ok(),
            Self::Socket(_) | Self::Itself => None,
        }
    }

    /// A header that must be there once and say the same as the message, where there are headers.
    fn agrees(self, name: &'static str, expected: &str) -> Result<(), RpcError> {
        match self {
            Self::Http(headers) => check_header(headers, name, expected),
            Self::Socket(_) | Self::Itself => Ok(()),
        }
    }
}

impl Call<'_> {
    /// Whose limits it counts against.
    fn subject(&self) -> Subject {
        Subject::of(self.principal.id())
    }
}

/// What a request comes to.
pub(super) enum Answer {
    /// A JSON-RPC result.
    Body(Vec<u8>),
    /// The caller is over a limit of the edge's.
    Limited(Exceeded),
    /// The token lacks these scopes.
    Challenge(String),
    /// The service behind the edge refused the token.
    TokenRefused(String),
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    /// What the client answers to a question of an earlier result (MCP 2026-07-28, "Multi round-trip requests").
    #[serde(borrow, rename = "inputResponses")]
    responses: Option<HashMap<String, &'a RawValue>>,
}

/// Calls of tools are counted by the core, whatever door they come through. What the edge answers or refuses by itself no
/// core hears of, so it is counted here.
pub(super) async fn dispatch(edge: &Edge, request: &Request<'_>, call: &Call<'_>) -> Result<Answer, RpcError> {
    let calls_a_tool = request.method == "tools/call";
    if !calls_a_tool && let Err(exceeded) = edge.limits.other(call.subject()).await {
        return Ok(Answer::Limited(exceeded));
    }
    match answer(edge, request, call).await {
        Err(_) if calls_a_tool && let Err(exceeded) = edge.limits.other(call.subject()).await => {
            Ok(Answer::Limited(exceeded))
        }
        answer => answer,
    }
}

/// The methods that are spoken of by name where each name costs something; any other could be anything.
const METHODS: [&str; 6] =
    ["initialize", "ping", "server/discover", "tools/list", "tools/call", "notifications/initialized"];

fn known_method(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}

async fn answer(edge: &Edge, request: &Request<'_>, call: &Call<'_>) -> Result<Answer, RpcError> {
    let spoken = match call.carried {
        Carried::Http(headers) => {
            one(headers, "mcp-protocol-version").and_then(|header| Era::of(&request.method, request.params, header))
        }
        Carried::Socket(negotiated) => Era::of_frame(&request.method, request.params, negotiated),
        Carried::Itself => Era::of(&request.method, request.params, None),
    };
    let (method, started) = (known_method(&request.method), tokio::time::Instant::now());
    // A call of a tool that there is has a span and a measure of its own.
    let is_of_tool = tool_named(request).is_some_and(|tool| edge.annotations.find(&tool).is_some());
    if method == "tools/call" && is_of_tool && spoken.is_ok() {
        return spoken_to(edge, request, call, spoken?).await;
    }
    let span = tracing::info_span!(
        "mcp",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
        error.type = tracing::field::Empty,
        rpc.response.status_code = tracing::field::Empty,
        mcp.method.name = method,
        mcp.protocol.version = spoken.as_ref().ok().map(|spoken| spoken.era.revision()),
        jsonrpc.request.id = shown_id(request),
        network.transport = "tcp",
        network.protocol.name = call.carried.name(),
        client.address = call.address.map(tracing::field::display),
        enduser.id = call.principal.id(),
    );
    hang(&span, spoken.as_ref().ok().map(|spoken| &spoken.trace), call);
    let answer = match spoken {
        Ok(spoken) => spoken_to(edge, request, call, spoken).instrument(span.clone()).await,
        Err(wrong) => Err(wrong),
    };
    let error = answer.as_ref().err().map(|wrong| {
        span.record("error.type", wrong.code.to_string());
        span.record("rpc.response.status_code", wrong.code.to_string());
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", &*wrong.message);
        wrong.code.to_string()
    });
    telemetry::record_mcp(method, None, error.as_deref(), started.elapsed());
    answer
}

/// The tool that a request names, if it names one.
fn tool_named(request: &Request<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    serde_json::from_str::<Named>(request.params?.get()).ok().map(|named| named.name)
}

fn shown_id(request: &Request<'_>) -> String {
    request.id.get().trim_matches('"').chars().take(64).collect()
}

/// Makes a span part of the trace that the message names. The transport's own is its parent where the message names none, and
/// told of otherwise (semantic conventions for MCP).
fn hang(span: &tracing::Span, trace: Option<&Trace>, call: &Call<'_>) {
    let header = |key: &str| call.carried.header(key);
    match trace.filter(|trace| trace.parent.is_some()) {
        Some(trace) => {
            telemetry::continue_trace(span, |key| match key {
                "traceparent" => trace.parent.as_deref(),
                "tracestate" => trace.state.as_deref(),
                _ => None,
            });
            telemetry::link_trace(span, header);
        }
        None => telemetry::continue_trace(span, header),
    }
}

async fn spoken_to(edge: &Edge, request: &Request<'_>, call: &Call<'_>, spoken: Spoken) -> Result<Answer, RpcError> {
    let era = spoken.era;
    if era.is_modern() {
        call.carried.agrees("mcp-method", &request.method)?;
    }
    let body = |result: &Value| Ok(Answer::Body(message::result(request.id, result)));
    match request.method.as_str() {
        "initialize" if !era.is_modern() => body(&edge.server.initialize(request.params)),
        "ping" if !era.is_modern() => body(&json!({})),
        "server/discover" if era.is_modern() => body(&edge.server.discover()),
        "tools/list" => body(&edge.server.tools(&callable::tools(edge, call).await, era)),
        "tools/call" => {
            let params: ToolCall<'_> =
                request.params.and_then(|params| serde_json::from_str(params.get()).ok()).ok_or_else(|| {
                    RpcError::new(
                        code::INVALID_PARAMS,
                        "`params` must hold the tool's `name`, and `arguments` as an object",
                    )
                })?;
            if era.is_modern() {
                call.carried.agrees("mcp-name", &params.name)?;
            }
            let spec = edge.annotations.find(&params.name).ok_or_else(|| unknown_tool(edge, &params.name))?;
            let started = tokio::time::Instant::now();
            let span = span(request, spec, call, era);
            hang(&span, Some(&spoken.trace), call);
            let outcome = tool_call(edge, spec, &params, call, spoken.opens_urls).instrument(span.clone()).await;
            let (kind, answer) = match outcome {
                Outcome::Result(content, structured) => (None, Ok((content, Some(structured), false))),
                Outcome::ToolError(content) => (Some("tool_error"), Ok((content, None, true))),
                Outcome::Question(question) => {
                    (None, Err(Answer::Body(message::result(request.id, &edge.server.input_required(question)))))
                }
                Outcome::Limited(exceeded) => (Some("rate_limited"), Err(Answer::Limited(exceeded))),
                Outcome::Challenge(scope) => (Some("insufficient_scope"), Err(Answer::Challenge(scope))),
                Outcome::TokenRefused(why) => (Some("invalid_token"), Err(Answer::TokenRefused(why))),
            };
            if let Some(kind) = kind {
                if let Some(left_out) = edge.limits.log_principal() {
                    span.in_scope(|| {
                        tracing::info!(
                            tool = params.name,
                            who = call.principal.id(),
                            outcome = kind,
                            left_out,
                            "a tool call was not done"
                        )
                    });
                }
                span.record("error.type", kind);
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", "the tool call was not done");
            }
            telemetry::record_mcp("tools/call", Some(&spec.annotations.name), kind, started.elapsed());
            match answer {
                Ok((content, structured, is_error)) => {
                    body(&edge.server.tool_result(content, structured, is_error, era))
                }
                Err(answer) => Ok(answer),
            }
        }
        method => Err(RpcError::method_not_found(method, era)),
    }
}

/// A tool call's span, by the OpenTelemetry conventions for MCP.
fn span(request: &Request<'_>, spec: &ToolSpec, call: &Call<'_>, era: Era) -> tracing::Span {
    let tool = spec.annotations.name.as_str();
    tracing::info_span!(
        "tools/call",
        otel.name = format!("tools/call {tool}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
        error.type = tracing::field::Empty,
        mcp.method.name = "tools/call",
        mcp.protocol.version = era.revision(),
        gen_ai.tool.name = tool,
        gen_ai.operation.name = "execute_tool",
        jsonrpc.request.id = shown_id(request),
        network.transport = "tcp",
        network.protocol.name = call.carried.name(),
        client.address = call.address.map(tracing::field::display),
        enduser.id = call.principal.id(),
    )
}

/// How a tool call came out.
enum Outcome {
    Result(Vec<Value>, Value),
    ToolError(Vec<Value>),
    Question(Value),
    Limited(Exceeded),
    Challenge(String),
    TokenRefused(String),
}

async fn tool_call(edge: &Edge, spec: &ToolSpec, params: &ToolCall<'_>, call: &Call<'_>, opens_urls: bool) -> Outcome {
    let scope = &spec.annotations.scope;
    if !edge.annotations.scopes().grants(call.principal.scopes(), scope) {
        let counted = edge.limits.other(call.subject()).await;
        return counted.map_or_else(Outcome::Limited, |()| Outcome::Challenge(scope.clone()));
    }
    let message = match transcode::to_message(&spec.method.input(), params.arguments, &edge.annotations) {
        Ok(message) => message,
        Err(wrong) => {
            if let Err(exceeded) = edge.limits.other(call.subject()).await {
                return Outcome::Limited(exceeded);
            }
            let text_of = "arguments that do not fit the tool's schema";
            edge.refused(::http::StatusCode::OK, wrong.reason(), call.address, Some(call.principal.id()), text_of);
            let structured = json!({"error": {"code": "INVALID_ARGUMENT", "reason": wrong.reason(), "message": wrong.to_string(), "retryable": false}});
            return Outcome::ToolError(vec![text(format!("Refused: {wrong}")), text(structured.to_string())]);
        }
    };
    let before = Before::of(params.responses.as_ref());
    if before == Before::GaveUp {
        if let Err(exceeded) = edge.limits.other(call.subject()).await {
            return Outcome::Limited(exceeded);
        }
        return Outcome::ToolError(vec![text("Not done: its approval was not wanted any more. Nothing was changed.")]);
    }
    if telemetry::logs_requests() {
        let (tool, request) =
            (&spec.annotations.name, transcode::shape(&spec.method.input(), &message, &edge.annotations));
        telemetry::log_request(tool, &request);
    }
    let path = format!("/{}/{}", spec.method.parent_service().full_name(), spec.method.name());
    let Some(request) = outgoing(edge, call, message) else {
        return Outcome::TokenRefused("the access token cannot be sent on".to_owned());
    };
    let answer = match PathAndQuery::try_from(path) {
        // The service keeps to the deadline itself; this one is for when it does not answer at all.
        Ok(path) => {
            tokio::time::timeout(
                edge.call_timeout() + std::time::Duration::from_secs(1),
                edge.link.unary(path, request),
            )
            .await
        }
        Err(_) => Ok(Err(tonic::Status::internal("the tool's RPC has no name that can be called"))),
    };
    let status = match answer {
        Ok(Ok(answer)) => {
            match transcode::to_json(&spec.method.output(), answer.get_ref().clone(), &edge.annotations) {
                Ok((summary, structured)) => {
                    if telemetry::logs_requests() {
                        let answer = transcode::shape(&spec.method.output(), answer.get_ref(), &edge.annotations);
                        telemetry::log_answer(&spec.annotations.name, &answer);
                    }
                    let json = structured.to_string();
                    let content = summary.into_iter().chain([json]).map(text).collect();
                    return Outcome::Result(content, structured);
                }
                Err(undecodable) => {
                    tracing::error!(error = %undecodable, "an answer does not fit its descriptor");
                    tonic::Status::internal("the service's answer could not be read")
                }
            }
        }
        Ok(Err(status)) => status,
        Err(_) => tonic::Status::deadline_exceeded("the call took too long"),
    };
    let mut refusal = Refusal::of(&status);
    if telemetry::logs_requests() {
        telemetry::log_answer(&spec.annotations.name, &json!({"refused": refusal.reason}));
    }
    match (refusal.code, refusal.reason.as_str()) {
        (tonic::Code::Unauthenticated, _) => Outcome::TokenRefused(refusal.message),
        (tonic::Code::PermissionDenied, "SCOPE_MISSING") => {
            Outcome::Challenge(refusal.facts.remove("scope").unwrap_or_else(|| scope.clone()))
        }
        _ => {
            if refusal.reason.is_empty() {
                // Not a word of the service's own: a broken link, whose details are ours.
                tracing::warn!(code = ?refusal.code, message = refusal.message, "the service behind the edge did not answer");
                refusal.reason = "BACKEND_UNAVAILABLE".to_owned();
                refusal.message = if spec.annotations.read_only {
                    "the service behind this server does not answer at the moment; try again in a few seconds"
                        .to_owned()
                } else {
                    "the service behind this server did not answer, so whether the change was made is not known; look before trying again".to_owned()
                };
                refusal.retry_after = Some(std::time::Duration::from_secs(5));
            }
            if let Some(question) = waiting::point_to_page(edge, &mut refusal)
                && opens_urls
                && before == Before::NotAsked
            {
                return Outcome::Question(question);
            }
            let (sentence, structured) = error::tool_error(&refusal);
            Outcome::ToolError(vec![text(sentence), text(structured.to_string())])
        }
    }
}

/// The RPC's request: the message, the person's own token, the address and the certificate that they call by, the deadline
/// and the trace.
pub(super) fn outgoing(edge: &Edge, call: &Call<'_>, message: Bytes) -> Option<tonic::Request<Bytes>> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(edge.call_timeout());
    let mut authorization = MetadataValue::try_from(format!("Bearer {}", call.bearer.expose())).ok()?;
    authorization.set_sensitive(true);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", authorization);
    if let Some(address) = call.address {
        metadata.insert(CLIENT_ADDRESS, MetadataValue::try_from(address.to_string()).ok()?);
    }
    if let Some(certificate) = call.certificate {
        metadata.insert(CLIENT_CERTIFICATE, MetadataValue::try_from(certificate.to_string()).ok()?);
    }
    Some(request)
}

fn unknown_tool(edge: &Edge, name: &str) -> RpcError {
    let shown: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
    let known = edge.annotations.tools().iter().map(|tool| tool.annotations.name.as_str());
    let nearest = known
        .min_by_key(|known| strsim::osa_distance(known, &shown))
        .filter(|known| strsim::osa_distance(known, &shown) <= 6);
    let hint = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
    RpcError::new(code::INVALID_PARAMS, format!("there is no tool `{shown}`{hint}"))
}

/// A header that must be there once and say the same as the body.
fn check_header(headers: &HeaderMap, name: &'static str, expected: &str) -> Result<(), RpcError> {
    let value = one(headers, name)?.ok_or_else(|| {
        era::mismatch(
            "a header is missing: modern requests carry MCP-Protocol-Version, Mcp-Method and, for a tool, Mcp-Name",
        )
    })?;
    if transcode::decode_header(value).as_deref() == Some(expected) {
        Ok(())
    } else {
        Err(era::mismatch("Mcp-Method or Mcp-Name and the body differ"))
    }
}

fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| era::mismatch("a header holds characters that are not ASCII"))
        }
        (Some(_), Some(_)) => Err(era::mismatch("a header is given twice")),
    }
}
