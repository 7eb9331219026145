//! One request to one answer, whatever carried it: which method, in which era, and for `tools/call` which RPC.

use ::http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::Instrument;

use super::aside::{Aside, Wants};
use super::caller::{Caller, Origin};
use super::rpc::{Brought, Rpc};
use super::session::{self, Begun};
use super::tool::{self, Outcome, ToolCall};
use super::{Edge, callable, headers, news, offers};
use crate::annotations::{Annotations, Exchange, ToolSpec};
use crate::limit::{Exceeded, Subject};
use crate::mcp::client::{self, Can};
use crate::mcp::code;
use crate::mcp::envelope::Request;
use crate::mcp::era::{Era, Spoken, Trace};
use crate::mcp::message::{self, RpcError, negotiated};
use crate::telemetry;

/// Who sent a request, and what came with it.
pub(super) struct Call<'a> {
    pub(super) caller: &'a Caller,
    pub(super) origin: &'a Origin,
    pub(super) carried: Carried<'a>,
    pub(super) aside: &'a Aside,
}

impl Call<'_> {
    /// The caller's id.
    pub(super) fn who(&self) -> &str {
        self.caller.principal.id()
    }

    /// Whose limits it counts against.
    pub(super) fn subject(&self) -> Subject {
        Subject::of(self.who())
    }
}

/// What carried a request, and says things of it besides the message.
#[derive(Clone, Copy)]
pub(super) enum Carried<'a> {
    /// HTTP: headers that must agree with the message, and the session that they name, if they name one.
    Http(&'a HeaderMap, Option<Begun>),
    /// A channel that is the client's alone, such as a WebSocket, and what was agreed on it, if anything was.
    Channel {
        /// The protocol's name, as the conventions for telemetry have it.
        name: &'static str,
        /// Which channel it is.
        number: u64,
        /// What was agreed on it.
        begun: Option<Begun>,
    },
    /// Nothing: the edge asks on its own account.
    Itself,
}

impl Carried<'_> {
    /// The protocol's name, as the conventions for telemetry have it.
    fn name(self) -> &'static str {
        match self {
            Self::Http(..) | Self::Itself => "http",
            Self::Channel { name, .. } => name,
        }
    }

    /// The transport below it.
    fn transport(self) -> &'static str {
        if self.name() == "stdio" { "pipe" } else { "tcp" }
    }

    fn header(&self, name: &str) -> Option<&str> {
        match self {
            Self::Http(headers, _) => headers.get(name)?.to_str().ok(),
            Self::Channel { .. } | Self::Itself => None,
        }
    }

    /// A header that must be there once and say the same as the message, where there are headers.
    fn agrees(self, name: &'static str, expected: &str) -> Result<(), RpcError> {
        match self {
            Self::Http(all, _) => headers::check(all, name, expected),
            Self::Channel { .. } | Self::Itself => Ok(()),
        }
    }

    /// Whether the headers say the same of a tool's arguments as the message, where they must.
    pub(super) fn says_arguments(
        self,
        spec: &ToolSpec,
        arguments: Option<&RawValue>,
        annotations: &Annotations,
        era: Era,
    ) -> Result<(), RpcError> {
        match self {
            Self::Http(all, _) if era.is_modern() => headers::check_arguments(all, spec, arguments, annotations),
            _ => Ok(()),
        }
    }

    /// Whether what is said to the client comes back the same way, to this very process.
    pub(super) fn is_a_channel(self) -> bool {
        matches!(self, Self::Channel { .. })
    }

    fn begun(self) -> Option<Begun> {
        match self {
            Self::Http(_, begun) | Self::Channel { begun, .. } => begun,
            Self::Itself => None,
        }
    }
}

/// What a request comes to.
pub(super) enum Answer {
    /// A JSON-RPC result.
    Body(Vec<u8>),
    /// The same, and the id of the session that it begins.
    Session(Vec<u8>, String),
    /// The caller is over a limit of the edge's.
    Limited(Exceeded),
    /// The token lacks these scopes.
    Challenge(String),
    /// The service behind the edge refused the token.
    TokenRefused(String),
}

/// Calls of tools are counted by the core, whatever door they come through. What the edge answers or refuses by itself no
/// core hears of, so it is counted here.
pub(super) async fn dispatch(edge: &Edge, request: &Request<'_>, call: &Call<'_>) -> Result<Answer, RpcError> {
    // A core of ours counts calls of tools; of another service nobody knows whether it counts anything.
    let calls_a_tool = request.method == "tools/call" && !edge.is_foreign();
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
const METHODS: [&str; 15] = [
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
];

fn known_method(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}

async fn answer(edge: &Edge, request: &Request<'_>, call: &Call<'_>) -> Result<Answer, RpcError> {
    let spoken = match call.carried {
        Carried::Http(all, _) => headers::one(all, "mcp-protocol-version")
            .and_then(|header| Era::of(&request.method, request.params, header)),
        Carried::Channel { begun, .. } => {
            Era::of_frame(&request.method, request.params, begun.map(|begun| begun.revision))
        }
        Carried::Itself => Era::of(&request.method, request.params, None),
    };
    let spoken = spoken.map(|spoken| known(edge, call, spoken));
    let (method, started) = (known_method(&request.method), Instant::now());
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
        network.transport = call.carried.transport(),
        network.protocol.name = call.carried.name(),
        client.address = call.origin.address.map(tracing::field::display),
        enduser.id = call.who(),
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

/// With what a legacy client said when it began.
fn known(edge: &Edge, call: &Call<'_>, mut spoken: Spoken) -> Spoken {
    if !spoken.era.is_modern() {
        spoken.can = call.carried.begun().map(|begun| begun.can).unwrap_or_default();
        spoken.log_level = edge.annotations.logs().then(|| edge.log_levels.of(call));
    }
    spoken
}

async fn spoken_to(edge: &Edge, request: &Request<'_>, call: &Call<'_>, spoken: Spoken) -> Result<Answer, RpcError> {
    let (era, offered) = (spoken.era, edge.server.offers);
    if era.is_modern() {
        call.carried.agrees("mcp-method", &request.method)?;
    }
    let body = |result: &Value| Ok(Answer::Body(message::result(request.id, result)));
    let made = |made: offers::Made| match made {
        Ok(result) => Ok(Answer::Body(message::result(request.id, &result))),
        Err(answer) => Ok(answer),
    };
    let list = |name: &str, items: Vec<Value>| {
        no_cursor(request.params)?;
        body(&edge.server.list(name, items, era))
    };
    match request.method.as_str() {
        "initialize" if !era.is_modern() => Ok(initialize(edge, request, call)),
        "ping" if !era.is_modern() => body(&json!({})),
        "server/discover" if era.is_modern() => body(&edge.server.discover()),
        "tools/list" => list("tools", callable::tools(edge, call).await.into_iter().cloned().collect()),
        "tools/call" => call_tool(edge, request, call, spoken).await,
        "resources/list" if offered.resources => list("resources", offers::resources(edge, call, false).collect()),
        "resources/templates/list" if offered.resources => {
            list("resourceTemplates", offers::resources(edge, call, true).collect())
        }
        "resources/read" if offered.resources => {
            let uri = parameter(request.params, "uri")?;
            if era.is_modern() {
                call.carried.agrees("mcp-name", &uri)?;
            }
            let found = offers::resource(edge, &uri).ok_or_else(|| offers::no_resource(&uri, era.is_modern()))?;
            let rpc = rpc(&found.0.method, &found.0.exchange, spoken);
            made(offers::read(edge, call, &uri, found, &rpc, &Brought::read(request.params)?).await?)
        }
        "resources/subscribe" | "resources/unsubscribe" if offered.resource_news && !era.is_modern() => {
            let uri = parameter(request.params, "uri")?;
            body(&news::subscribe(edge, call, &uri, request.method == "resources/subscribe").await?)
        }
        // Said before it is looked for, as it is spoken of in the specification and missing here for a reason.
        method @ "subscriptions/listen" if edge.whole => {
            let mut wrong = RpcError::method_not_found(method, era);
            wrong.message = "this server answers each request by itself and whole, so nothing can be listened to here; ask again instead".into();
            Err(wrong)
        }
        "subscriptions/listen" if offered.news() && era.is_modern() => {
            news::listen(edge, call, request.id, request.params).await
        }
        "prompts/list" if offered.prompts => list("prompts", offers::prompts(edge, call)),
        "prompts/get" if offered.prompts => {
            let name = parameter(request.params, "name")?;
            if era.is_modern() {
                call.carried.agrees("mcp-name", &name)?;
            }
            let spec = edge.annotations.prompts().iter().find(|spec| spec.annotations.name == name);
            let spec = spec.ok_or_else(|| RpcError::new(code::INVALID_PARAMS, "there is no such prompt"))?;
            let rpc = rpc(&spec.method, &spec.exchange, spoken);
            let arguments = arguments(request.params)?;
            made(offers::prompt(edge, call, spec, &arguments, &rpc, &Brought::read(request.params)?).await?)
        }
        "completion/complete" if offered.completions => {
            let Some(method) = edge.annotations.completes() else {
                return Err(RpcError::method_not_found(&request.method, era));
            };
            made(offers::complete(edge, call, request.params, &rpc(method, &Exchange::default(), spoken)).await?)
        }
        "logging/setLevel" if offered.logging && !era.is_modern() => {
            let level = parameter(request.params, "level")?;
            let level = client::log_level(&level)
                .ok_or_else(|| RpcError::new(code::INVALID_PARAMS, "`level` must be one of RFC 5424, such as info"))?;
            edge.log_levels.set(call, level);
            body(&json!({}))
        }
        method => Err(RpcError::method_not_found(method, era)),
    }
}

/// The answer to `initialize`. A session begins where the service behind may have something to ask or to tell, and only
/// then: a client without one can be served by any replica.
fn initialize(edge: &Edge, request: &Request<'_>, call: &Call<'_>) -> Answer {
    let answer = message::result(request.id, &edge.server.initialize(request.params));
    let begun = Begun { revision: negotiated(request.params), can: Can::of_initialize(request.params) };
    match call.carried {
        Carried::Http(..) if edge.has_sessions() => {
            Answer::Session(answer, session::begin(&edge.sealed, call.who(), begun))
        }
        _ => Answer::Body(answer),
    }
}

fn rpc<'a>(method: &'a prost_reflect::MethodDescriptor, exchange: &'a Exchange, spoken: Spoken) -> Rpc<'a> {
    let Spoken { era, can, progress, log_level, .. } = spoken;
    Rpc { method, exchange, era, can, wants: Wants { progress, log: log_level } }
}

/// A parameter that must be there and be a string.
fn parameter(params: Option<&RawValue>, name: &'static str) -> Result<String, RpcError> {
    let params = params.and_then(|params| serde_json::from_str::<Map<String, Value>>(params.get()).ok());
    let value = params.as_ref().and_then(|params| params.get(name)).and_then(Value::as_str);
    value
        .map(str::to_owned)
        .ok_or_else(|| RpcError::new(code::INVALID_PARAMS, format!("`params` must hold `{name}`, a string")))
}

/// A prompt's arguments.
fn arguments(params: Option<&RawValue>) -> Result<Map<String, Value>, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        arguments: Option<Map<String, Value>>,
    }
    let params = params.and_then(|params| serde_json::from_str::<Params>(params.get()).ok());
    let wrong = || RpcError::new(code::INVALID_PARAMS, "`arguments` must be an object");
    Ok(params.ok_or_else(wrong)?.arguments.unwrap_or_default())
}

/// Every list is given as a whole, so no cursor was ever handed out.
fn no_cursor(params: Option<&RawValue>) -> Result<(), RpcError> {
    #[derive(Default, Deserialize)]
    struct Params {
        cursor: Option<Value>,
    }
    let params: Params = params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
    match params.cursor {
        None => Ok(()),
        Some(_) => {
            Err(RpcError::new(code::INVALID_PARAMS, "`cursor` is none of this server's: its lists have one page"))
        }
    }
}

async fn call_tool(edge: &Edge, request: &Request<'_>, call: &Call<'_>, spoken: Spoken) -> Result<Answer, RpcError> {
    let era = spoken.era;
    let params: ToolCall<'_> =
        request.params.and_then(|params| serde_json::from_str(params.get()).ok()).ok_or_else(|| {
            RpcError::new(code::INVALID_PARAMS, "`params` must hold the tool's `name`, and `arguments` as an object")
        })?;
    if era.is_modern() {
        call.carried.agrees("mcp-name", &params.name)?;
    }
    let spec = edge.annotations.find(&params.name).ok_or_else(|| unknown_tool(edge, &params.name))?;
    let brought = Brought::read(request.params)?;
    let started = Instant::now();
    let span = span(request, spec, call, era);
    hang(&span, Some(&spoken.trace), call);
    let rpc = rpc(&spec.method, &spec.exchange, spoken);
    let called = tool::call_tool(edge, spec, params.arguments, &rpc, &brought, call).instrument(span.clone()).await;
    let body = |result: &Value| Answer::Body(message::result(request.id, result));
    let (kind, answer) = match called {
        Ok(Outcome::Result(content, structured)) => {
            (None, Ok(body(&edge.server.tool_result(content, structured, false, era))))
        }
        Ok(Outcome::ToolError(content)) => {
            (Some("tool_error".to_owned()), Ok(body(&edge.server.tool_result(content, None, true, era))))
        }
        Ok(Outcome::Question(question)) => (None, Ok(body(&edge.server.input_required(question)))),
        Ok(Outcome::Limited(exceeded)) => (Some("rate_limited".to_owned()), Ok(Answer::Limited(exceeded))),
        Ok(Outcome::Challenge(scope)) => (Some("insufficient_scope".to_owned()), Ok(Answer::Challenge(scope))),
        Ok(Outcome::TokenRefused(why)) => (Some("invalid_token".to_owned()), Ok(Answer::TokenRefused(why))),
        Err(wrong) => (Some(wrong.code.to_string()), Err(wrong)),
    };
    if let Some(kind) = &kind {
        if let Some(left_out) = edge.limits.log_principal() {
            let (tool, who) = (&params.name, call.who());
            span.in_scope(|| tracing::info!(tool, who, outcome = kind, left_out, "a tool call was not done"));
        }
        span.record("error.type", kind);
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", "the tool call was not done");
    }
    telemetry::record_mcp("tools/call", Some(&spec.annotations.name), kind.as_deref(), started.elapsed());
    answer
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
        network.transport = call.carried.transport(),
        network.protocol.name = call.carried.name(),
        client.address = call.origin.address.map(tracing::field::display),
        enduser.id = call.who(),
    )
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
