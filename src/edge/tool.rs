//! `tools/call`: from arguments to one RPC, and from its answer to a tool's result.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::dispatch::Call;
use super::rpc::{Brought, Came, Rpc};
use super::waiting::{self, Before};
use super::{Edge, content, error, transcode};
use crate::annotations::ToolSpec;
use crate::grpc::status::Refusal;
use crate::limit::Exceeded;
use crate::mcp::message::{RpcError, text};
use crate::telemetry;

/// The parameters of `tools/call`.
#[derive(Deserialize)]
pub(super) struct ToolCall<'a> {
    pub(super) name: String,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
}

/// How a tool call came out.
pub(super) enum Outcome {
    Result(Vec<Value>, Option<Value>),
    ToolError(Vec<Value>),
    Question(Value),
    Limited(Exceeded),
    Challenge(String),
    TokenRefused(String),
}

/// Calls a tool.
pub(super) async fn call_tool(
    edge: &Edge,
    spec: &ToolSpec,
    arguments: Option<&RawValue>,
    rpc: &Rpc<'_>,
    brought: &Brought,
    call: &Call<'_>,
) -> Result<Outcome, RpcError> {
    let scope = &spec.annotations.scope;
    if !edge.annotations.scopes().grants(call.caller.principal.scopes(), scope) {
        return Ok(by_itself(edge, call, || Outcome::Challenge(scope.clone())).await);
    }
    call.carried.says_arguments(spec, arguments, &edge.annotations, rpc.era)?;
    let message = match transcode::to_message(&spec.method.input(), arguments, &edge.annotations) {
        Ok(message) => message,
        Err(wrong) => return Ok(by_itself(edge, call, || misfit(edge, call, &wrong)).await),
    };
    let before = Before::of(brought);
    if before == Before::GaveUp {
        let words = "Not done: its approval was not wanted any more. Nothing was changed.";
        return Ok(by_itself(edge, call, || Outcome::ToolError(vec![text(words)])).await);
    }
    if telemetry::logs_requests() {
        let shape = transcode::shape(&spec.method.input(), &message, &edge.annotations);
        telemetry::log_request(&spec.annotations.name, &shape);
    }
    let status = match rpc.run(edge, call, &message, brought).await? {
        Came::Answer(answer) => match answered(edge, spec, answer) {
            Ok(result) => return Ok(result),
            Err(status) => *status,
        },
        Came::Question(question) => return Ok(Outcome::Question(question)),
        Came::Unanswered(why) => {
            let words = format!("Not done: the tool needs something of you that could not be asked for: {why}.");
            return Ok(tool_error(words, "FAILED_PRECONDITION", "INPUT_NOT_GIVEN", &why));
        }
        Came::Undeclared(wrong) => return Err(wrong),
        Came::Unsendable => {
            return Ok(Outcome::TokenRefused("the access token cannot be sent on".to_owned()));
        }
        Came::Refused(status) => status,
    };
    let mut refusal = Refusal::of(&status);
    if telemetry::logs_requests() {
        telemetry::log_answer(&spec.annotations.name, &json!({"refused": refusal.reason}));
    }
    match (refusal.code, refusal.reason.as_str()) {
        (tonic::Code::Unauthenticated, _) => Ok(Outcome::TokenRefused(refusal.message)),
        (tonic::Code::PermissionDenied, "SCOPE_MISSING") => {
            Ok(Outcome::Challenge(refusal.facts.remove("scope").unwrap_or_else(|| scope.clone())))
        }
        _ => {
            error::unnamed(&mut refusal, spec.annotations.read_only);
            if let Some((questions, ids)) = waiting::point_to_page(edge, &mut refusal)
                && rpc.era.is_modern()
                && rpc.can.open_urls
                && before == Before::NotAsked
            {
                // It says nothing that the arguments do not: the core finds the request by who asks for what.
                let state = rpc.seal(edge, call, &message, ids.as_bytes());
                return Ok(Outcome::Question(json!({"inputRequests": questions, "requestState": state})));
            }
            let (sentence, structured) = error::tool_error(&refusal);
            Ok(Outcome::ToolError(vec![text(sentence), text(structured.to_string())]))
        }
    }
}

/// What the edge answers without a core, which is counted here. Who is over the limit is told that alone.
async fn by_itself(edge: &Edge, call: &Call<'_>, outcome: impl FnOnce() -> Outcome) -> Outcome {
    edge.limits.other(call.subject()).await.map_or_else(Outcome::Limited, |()| outcome())
}

/// The refusal of arguments that do not fit the tool's schema.
fn misfit(edge: &Edge, call: &Call<'_>, wrong: &transcode::ArgumentError) -> Outcome {
    let told = "arguments that do not fit the tool's schema";
    edge.refused(::http::StatusCode::OK, wrong.reason(), call.origin.address, Some(call.who()), told);
    tool_error(format!("Refused: {wrong}"), "INVALID_ARGUMENT", wrong.reason(), &wrong.to_string())
}

/// An error of the edge's own, in words and for programs.
fn tool_error(words: String, code: &str, reason: &str, message: &str) -> Outcome {
    let structured = json!({"error": {"code": code, "reason": reason, "message": message, "retryable": false}});
    Outcome::ToolError(vec![text(words), text(structured.to_string())])
}

/// The result that an answer comes to.
fn answered(edge: &Edge, spec: &ToolSpec, answer: Bytes) -> Result<Outcome, Box<tonic::Status>> {
    let output = spec.method.output();
    let shape = telemetry::logs_requests().then(|| transcode::shape(&output, &answer, &edge.annotations));
    let said = transcode::to_json(&output, &spec.exchange, answer, &edge.annotations).map_err(|undecodable| {
        tracing::error!(error = %undecodable, "an answer does not fit its descriptor");
        Box::new(tonic::Status::internal("the service's answer could not be read"))
    })?;
    if let Some(shape) = shape {
        telemetry::log_answer(&spec.annotations.name, &shape);
    }
    let json = said.structured.as_ref().map(Value::to_string);
    let texts = said.summary.into_iter().chain(json).map(text);
    let content = said.content.into_iter().filter_map(content::block).chain(texts).collect();
    Ok(Outcome::Result(content, said.structured))
}
