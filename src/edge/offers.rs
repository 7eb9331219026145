//! What a service offers beside tools: resources, prompts, and values for arguments that are being written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::dispatch::{Answer, Call};
use super::rpc::{Brought, Came, Rpc};
use super::{Edge, content, error, transcode};
use crate::annotations::{PromptSpec, ResourceSpec};
use crate::grpc::status::Refusal;
use crate::mcp::code;
use crate::mcp::message::{Offers, RpcError};
use crate::pb::mcp::v1::complete_request::Of;
use crate::pb::mcp::v1::{CompleteRequest, CompleteResponse, GetPromptResponse, ReadResourceResponse, Watched};

/// The most values that one completion may hold (MCP, "Completion").
const VALUES_MOST: usize = 100;

/// What the annotations offer beside tools.
pub(super) fn of(annotations: &crate::annotations::Annotations) -> Offers {
    Offers {
        resources: !annotations.resources().is_empty(),
        prompts: !annotations.prompts().is_empty(),
        completions: annotations.completes().is_some(),
        logging: annotations.logs(),
        resource_news: annotations.watched(Watched::Resource),
        tools_news: annotations.watched(Watched::Tools),
        prompts_news: annotations.watched(Watched::Prompts),
        resources_news: annotations.watched(Watched::Resources),
    }
}

/// What comes of a request that is no tool call: the result, or why it is another answer.
pub(super) type Made = Result<Value, Answer>;

/// `resources/list` and `resources/templates/list`: those that the caller's scopes hold.
pub(super) fn resources<'e>(
    edge: &'e Edge,
    call: &Call<'_>,
    with_variables: bool,
) -> impl Iterator<Item = Value> + use<'e> {
    let shown =
        edge.annotations.resources().iter().filter(|spec| {
            spec.annotations.uri.is_empty() == with_variables && holds(edge, call, &spec.annotations.scope)
        });
    shown.map(crate::mcp::catalogue::resource).collect::<Vec<_>>().into_iter()
}

/// `prompts/list`: those that the caller's scopes hold.
pub(super) fn prompts(edge: &Edge, call: &Call<'_>) -> Vec<Value> {
    let shown = edge.annotations.prompts().iter().filter(|spec| holds(edge, call, &spec.annotations.scope));
    shown.map(|spec| crate::mcp::catalogue::prompt(spec, &edge.annotations)).collect()
}

pub(super) fn holds(edge: &Edge, call: &Call<'_>, scope: &str) -> bool {
    edge.annotations.scopes().grants(call.caller.principal.scopes(), scope)
}

/// The resource that a URI names, and what its variables are.
pub(super) fn resource<'e>(edge: &'e Edge, uri: &str) -> Option<(&'e ResourceSpec, Vec<(String, String)>)> {
    edge.annotations.resources().iter().find_map(|spec| Some((spec, spec.template.values(uri)?)))
}

/// There is no such resource, in the era's words.
pub(super) fn no_resource(uri: &str, is_modern: bool) -> RpcError {
    let code = if is_modern { code::INVALID_PARAMS } else { code::RESOURCE_NOT_FOUND };
    let shown: String = uri.chars().take(256).filter(|c| !c.is_control()).collect();
    RpcError::new(code, "there is no such resource").with_data(json!({"uri": shown}))
}

/// `resources/read`.
pub(super) async fn read(
    edge: &Edge,
    call: &Call<'_>,
    uri: &str,
    (spec, variables): (&ResourceSpec, Vec<(String, String)>),
    rpc: &Rpc<'_>,
    brought: &Brought,
) -> Result<Made, RpcError> {
    let arguments = variables.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    let wrong_uri = || no_resource(uri, rpc.era.is_modern());
    let came = run(edge, call, &spec.annotations.scope, rpc, brought, &arguments, |_| wrong_uri()).await?;
    let answer: ReadResourceResponse = match came {
        Ok(answer) => answer,
        Err(Unmade::Answer(answer)) => return Ok(Err(answer)),
        Err(Unmade::Question(question)) => return Ok(Ok(question)),
        Err(Unmade::Refused(refusal)) if refusal.code == tonic::Code::NotFound => return Err(wrong_uri()),
        Err(Unmade::Refused(refusal)) => return Err(error::of_refusal(refusal)),
    };
    if answer.contents.is_empty() {
        // MCP, "Resources": a resource that is not there is never an empty list.
        return Err(wrong_uri());
    }
    let contents = answer.contents.into_iter().map(content::resource).collect();
    Ok(Ok(edge.server.contents(contents, rpc.era)))
}

/// `prompts/get`.
pub(super) async fn prompt(
    edge: &Edge,
    call: &Call<'_>,
    spec: &PromptSpec,
    arguments: &Map<String, Value>,
    rpc: &Rpc<'_>,
    brought: &Brought,
) -> Result<Made, RpcError> {
    let wrong = |wrong: &str| RpcError::new(code::INVALID_PARAMS, wrong.to_owned());
    let came = run(edge, call, &spec.annotations.scope, rpc, brought, arguments, wrong).await?;
    let answer: GetPromptResponse = match came {
        Ok(answer) => answer,
        Err(Unmade::Answer(answer)) => return Ok(Err(answer)),
        Err(Unmade::Question(question)) => return Ok(Ok(question)),
        Err(Unmade::Refused(refusal)) => return Err(error::of_refusal(refusal)),
    };
    let messages: Vec<Value> = answer.messages.into_iter().filter_map(content::message).collect();
    let mut result = json!({"messages": messages});
    if let (Some(result), false) = (result.as_object_mut(), answer.description.is_empty()) {
        result.insert("description".to_owned(), answer.description.into());
    }
    Ok(Ok(edge.server.in_era(result, rpc.era)))
}

/// Why an RPC brought no answer of its own.
enum Unmade {
    Answer(Answer),
    Question(Value),
    Refused(Refusal),
}

/// Calls an RPC whose arguments are strings.
async fn run<A: prost::Message + Default>(
    edge: &Edge,
    call: &Call<'_>,
    scope: &str,
    rpc: &Rpc<'_>,
    brought: &Brought,
    arguments: &Map<String, Value>,
    wrong: impl Fn(&str) -> RpcError,
) -> Result<Result<A, Unmade>, RpcError> {
    if !edge.annotations.scopes().grants(call.caller.principal.scopes(), scope) {
        return Ok(Err(Unmade::Answer(Answer::Challenge(scope.to_owned()))));
    }
    let arguments = serde_json::value::to_raw_value(arguments).map_err(|error| wrong(&error.to_string()))?;
    let message = transcode::to_message(&rpc.method.input(), Some(&arguments), &edge.annotations);
    let message = message.map_err(|error| wrong(&error.to_string()))?;
    Ok(match rpc.run(edge, call, &message, brought).await? {
        Came::Answer(answer) => A::decode(answer).map_err(|error| {
            tracing::error!(error = %error, "an answer does not fit its descriptor");
            Unmade::Refused(Refusal::of(&tonic::Status::internal("the service's answer could not be read")))
        }),
        Came::Question(question) => Err(Unmade::Question(edge.server.input_required(question))),
        Came::Unanswered(why) => {
            return Err(RpcError::new(code::INVALID_PARAMS, format!("this needs something of you first: {why}")));
        }
        Came::Undeclared(wrong) => return Err(wrong),
        Came::Unsendable => Err(Unmade::Answer(Answer::TokenRefused("the access token cannot be sent on".to_owned()))),
        Came::Refused(status) => {
            let mut refusal = Refusal::of(&status);
            match (refusal.code, refusal.reason.as_str()) {
                (tonic::Code::Unauthenticated, _) => Err(Unmade::Answer(Answer::TokenRefused(refusal.message))),
                (tonic::Code::PermissionDenied, "SCOPE_MISSING") => {
                    let scope = refusal.facts.remove("scope").unwrap_or_else(|| scope.to_owned());
                    Err(Unmade::Answer(Answer::Challenge(scope)))
                }
                _ => Err(Unmade::Refused(refusal)),
            }
        }
    })
}

/// The parameters of `completion/complete`.
#[derive(Deserialize)]
struct CompleteParams {
    #[serde(rename = "ref")]
    of: Reference,
    argument: Argument,
    #[serde(default)]
    context: Context,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Reference {
    #[serde(rename = "ref/prompt")]
    Prompt { name: String },
    #[serde(rename = "ref/resource")]
    Resource { uri: String },
}

#[derive(Deserialize)]
struct Argument {
    name: String,
    value: String,
}

#[derive(Default, Deserialize)]
struct Context {
    #[serde(default)]
    arguments: BTreeMap<String, String>,
}

/// `completion/complete`, of prompts and templates that the caller may see.
pub(super) async fn complete(
    edge: &Edge,
    call: &Call<'_>,
    params: Option<&RawValue>,
    rpc: &Rpc<'_>,
) -> Result<Made, RpcError> {
    let wrong = |text: String| RpcError::new(code::INVALID_PARAMS, text);
    let params = params.and_then(|params| serde_json::from_str::<CompleteParams>(params.get()).ok());
    let CompleteParams { of, argument, context } = params.ok_or_else(|| {
        wrong(
            "`params` must hold `ref` (a prompt's name or a resource template) and `argument` (its name and value)"
                .into(),
        )
    })?;
    let (scope, input, of) = match of {
        Reference::Prompt { name } => {
            let spec = edge.annotations.prompts().iter().find(|spec| spec.annotations.name == name);
            let spec = spec.ok_or_else(|| wrong("there is no such prompt".to_owned()))?;
            (&spec.annotations.scope, spec.method.input(), Of::Prompt(name))
        }
        Reference::Resource { uri } => {
            let specs = edge.annotations.resources().iter();
            let spec = specs.clone().find(|spec| spec.annotations.uri_template == uri || spec.annotations.uri == uri);
            let spec = spec.ok_or_else(|| no_resource(&uri, rpc.era.is_modern()))?;
            (&spec.annotations.scope, spec.method.input(), Of::UriTemplate(uri))
        }
    };
    if input.get_field_by_name(&argument.name).is_none() {
        return Err(wrong("there is no such argument".to_owned()));
    }
    let request = CompleteRequest {
        argument: argument.name,
        value: argument.value,
        others: context.arguments.into_iter().collect(),
        of: Some(of),
    };
    if !holds(edge, call, scope) {
        return Ok(Err(Answer::Challenge(scope.clone())));
    }
    let message = prost::Message::encode_to_vec(&request).into();
    let answer = match rpc.run(edge, call, &message, &Brought::default()).await? {
        Came::Answer(answer) => answer,
        Came::Refused(status) if status.code() == tonic::Code::Unauthenticated => {
            return Ok(Err(Answer::TokenRefused(Refusal::of(&status).message)));
        }
        Came::Refused(status) => return Err(error::of_refusal(Refusal::of(&status))),
        _ => return Err(RpcError::new(code::INTERNAL_ERROR, "the service gave no completion")),
    };
    let answer = <CompleteResponse as prost::Message>::decode(answer)
        .map_err(|_| RpcError::new(code::INTERNAL_ERROR, "the service's answer could not be read"))?;
    let has_more = answer.has_more || answer.values.len() > VALUES_MOST;
    let values: Vec<String> = answer.values.into_iter().take(VALUES_MOST).collect();
    let mut completion = json!({"values": values, "hasMore": has_more});
    if let (Some(completion), Some(total)) = (completion.as_object_mut(), answer.total) {
        completion.insert("total".to_owned(), total.into());
    }
    Ok(Ok(edge.server.in_era(json!({"completion": completion}), rpc.era)))
}
