//! `tools/call`: from arguments to one RPC, and from its answer to a tool's result.

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
    if !edge.annotations.scopes().grants(call.principal.scopes(), scope) {
        let counted = edge.limits.other(call.subject()).await;
        return Ok(counted.map_or_else(Outcome::Limited, |()| Outcome::Challenge(scope.clone())));
    }
    call.carried.says_arguments(spec, arguments, &edge.annotations, rpc.era)?;
    let message = match transcode::to_message(&spec.method.input(), arguments, &edge.annotations) {
        Ok(message) => message,
        Err(wrong) => {
            if let Err(exceeded) = edge.limits.other(call.subject()).await {
                return Ok(Outcome::Limited(exceeded));
            }
            let text_of = "arguments that do not fit the tool's schema";
            edge.refused(::http::StatusCode::OK, wrong.reason(), call.address, Some(call.principal.id()), text_of);
            let structured = json!({"error": {"code": "INVALID_ARGUMENT", "reason": wrong.reason(), "message": wrong.to_string(), "retryable": false}});
            return Ok(Outcome::ToolError(vec![text(format!("Refused: {wrong}")), text(structured.to_string())]));
        }
    };
    let before = Before::of(brought);
    if before == Before::GaveUp {
        if let Err(exceeded) = edge.limits.other(call.subject()).await {
            return Ok(Outcome::Limited(exceeded));
        }
        let words = "Not done: its approval was not wanted any more. Nothing was changed.";
        return Ok(Outcome::ToolError(vec![text(words)]));
    }
    let tool = &spec.annotations.name;
    if telemetry::logs_requests() {
        telemetry::log_request(tool, &transcode::shape(&spec.method.input(), &message, &edge.annotations));
    }
    let status = match rpc.run(edge, call, &message, brought).await? {
        Came::Answer(answer) => {
            let shape =
                telemetry::logs_requests().then(|| transcode::shape(&spec.method.output(), &answer, &edge.annotations));
            match transcode::to_json(&spec.method.output(), &spec.exchange, answer, &edge.annotations) {
                Ok(said) => {
                    if let Some(shape) = shape {
                        telemetry::log_answer(tool, &shape);
                    }
                    let json = said.structured.as_ref().map(Value::to_string);
                    let texts = said.summary.into_iter().chain(json).map(text);
                    let content = said.content.into_iter().filter_map(content::block).chain(texts).collect();
                    return Ok(Outcome::Result(content, said.structured));
                }
                Err(undecodable) => {
                    tracing::error!(error = %undecodable, "an answer does not fit its descriptor");
                    tonic::Status::internal("the service's answer could not be read")
                }
            }
        }
        Came::Question(question) => return Ok(Outcome::Question(question)),
        Came::Unanswered(why) => {
            let structured = json!({"error": {"code": "FAILED_PRECONDITION", "reason": "INPUT_NOT_GIVEN", "message": why, "retryable": false}});
            let words = format!("Not done: the tool needs something of you that could not be asked for: {why}.");
            return Ok(Outcome::ToolError(vec![text(words), text(structured.to_string())]));
        }
        Came::Undeclared(wrong) => return Err(wrong),
        Came::Unsendable => {
            return Ok(Outcome::TokenRefused("the access token cannot be sent on".to_owned()));
        }
        Came::Refused(status) => status,
    };
    let mut refusal = Refusal::of(&status);
    if telemetry::logs_requests() {
        telemetry::log_answer(tool, &json!({"refused": refusal.reason}));
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
