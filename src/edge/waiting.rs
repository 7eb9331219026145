//! A change that waits for somebody's word, as an MCP client sees it: a URL to open where the client can, words where it
//! cannot.
//!
//! Whatever a client answers to that, it approves nothing: the core alone knows whether somebody has. An answer only says
//! whether there is any use in asking the core again.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Edge, approvals};
use crate::grpc::status::Refusal;

/// The name under which a client is asked, and answers.
const ASKED: &str = "approval";

/// What came back for a question: MCP's `ElicitResult`.
#[derive(Deserialize)]
struct Answered {
    action: String,
}

/// What a client has answered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It was not asked.
    NotAsked,
    /// Its user has looked, or says so.
    Looked,
    /// Its user wants no more of it.
    GaveUp,
}

impl Before {
    /// Reads `inputResponses`. What cannot be read, or answers something else, counts as no answer.
    pub(super) fn of(responses: Option<&HashMap<String, &RawValue>>) -> Self {
        // The answers to further questions go the same way: there is one change, done or not.
        let answer = responses.and_then(|responses| responses.get(ASKED));
        let answer = answer.and_then(|answer| serde_json::from_str::<Answered>(answer.get()).ok());
        match answer.as_ref().map(|answer| answer.action.as_str()) {
            Some("decline" | "cancel") => Self::GaveUp,
            Some("accept") => Self::Looked,
            _ => Self::NotAsked,
        }
    }
}

/// Adds to a refusal where the page for it is, if the change waits and there is one; the question that a client is asked.
pub(super) fn point_to_page(edge: &Edge, refusal: &mut Refusal) -> Option<Value> {
    if refusal.reason != "APPROVAL_NEEDED" {
        return None;
    }
    let ids = refusal.facts.get("approval")?.clone();
    let pages: Vec<(&str, String)> =
        ids.split(',').map(|id| Some((id, approvals::url_of(edge, id)?))).collect::<Option<_>>()?;
    let questions = pages.iter().enumerate().map(|(at, (id, url))| {
        let name = if at == 0 { ASKED.to_owned() } else { format!("{ASKED}-{}", at + 1) };
        let params = json!({"mode": "url", "message": refusal.message, "url": url, "elicitationId": id});
        (name, json!({"method": "elicitation/create", "params": params}))
    });
    let question = json!({
        "inputRequests": questions.collect::<serde_json::Map<_, _>>(),
        // It says nothing that the arguments do not: the core finds the request by who asks for what.
        "requestState": ids,
    });
    let whose =
        if refusal.facts.get("approval_from").is_some_and(|from| from.split(',').all(|from| from == "requester")) {
            "The person who asks decides there"
        } else {
            "Send this link to somebody who may decide"
        };
    let urls = pages.into_iter().map(|(_, url)| url).collect::<Vec<_>>().join(" ");
    refusal.message = format!("{}. {whose}: {urls}", refusal.message.trim_end_matches('.'));
    refusal.facts.insert("approval_url".to_owned(), urls);
    Some(question)
}
