//! Which tools are shown to a caller: those that their scopes hold and, where the service behind the edge offers
//! `mcp.v1.Catalogue`, that it does not rule out for them. It is about what is shown, not about what is done: a tool that
//! is not shown is refused by the service when it is called all the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::time::Instant;

use super::Edge;
use super::dispatch::Call;
use super::rpc::outgoing;
use crate::digest::sha256_hex;
use crate::pb::mcp::v1::{ListCallableToolsRequest, ListCallableToolsResponse};

/// How long an answer is kept, and so how long a change of policy may take to show.
const KEPT: Duration = Duration::from_secs(15);
/// How many callers' answers are kept.
const KEPT_MOST: usize = 1024;
/// How long the service may take. A list that waits for longer is worse than one that shows too much.
const PATIENCE: Duration = Duration::from_secs(3);
/// The RPC.
const METHOD: &str = "/mcp.v1.Catalogue/ListCallableTools";

/// What the service has answered, by the digest of the token that it was asked with.
#[derive(Debug)]
pub(super) struct Callable(Cache<String, (Instant, Answer)>);

/// The tools that may be called, by name; none where the service behind does not offer to tell.
type Answer = Option<Arc<BTreeSet<String>>>;

impl Callable {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT_MOST))
    }
}

/// The tools as `tools/list` shows them to the caller.
pub(super) async fn tools<'e>(edge: &'e Edge, call: &Call<'_>) -> Vec<&'e Value> {
    let callable = answer(edge, call).await;
    let (specs, scopes) = (edge.annotations.tools(), edge.annotations.scopes());
    let shown = specs.iter().zip(&edge.tools).filter(|(spec, _)| {
        scopes.grants(call.caller.principal.scopes(), &spec.annotations.scope)
            && callable.as_ref().is_none_or(|tools| tools.contains(&spec.annotations.name))
    });
    shown.map(|(_, tool)| tool).collect()
}

async fn answer(edge: &Edge, call: &Call<'_>) -> Answer {
    let key = sha256_hex(call.caller.bearer.expose());
    if let Some((at, answer)) = edge.callable.0.get(&key)
        && at.elapsed() < KEPT
    {
        return answer;
    }
    let request = outgoing(edge, call, ListCallableToolsRequest {}.encode_to_vec().into())?;
    let asked = edge.link.unary(PathAndQuery::from_static(METHOD), request);
    let failed = match tokio::time::timeout(PATIENCE.min(edge.call_timeout(call.origin.until)), asked).await {
        Ok(Ok(answer)) => match ListCallableToolsResponse::decode(answer.into_inner()) {
            Ok(answer) => {
                let answer = Some(Arc::new(answer.tools.into_iter().collect()));
                edge.callable.0.insert(key, (Instant::now(), Option::clone(&answer)));
                return answer;
            }
            Err(error) => error.to_string(),
        },
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
            edge.callable.0.insert(key, (Instant::now(), None));
            return None;
        }
        Ok(Err(status)) => status.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    tracing::warn!(error = failed, "the service behind the edge did not say which tools may be called; scopes decide");
    None
}
