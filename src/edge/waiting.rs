//! A change that waits for somebody's word, as an MCP client sees it: a URL to open where the client can, words where it
//! cannot.
//!
//! Whatever a client answers to that, it approves nothing: the core alone knows whether somebody has. An answer only says
//! whether there is any use in asking the core again.

use serde_json::{Map, Value, json};

use super::rpc::Brought;
use super::{Edge, approvals};
use crate::grpc::status::Refusal;

/// The name under which a client is asked, and answers.
const ASKED: &str = "approval";

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
    /// Reads what a client brought back. What cannot be read, or answers something else, counts as no answer.
    pub(super) fn of(brought: &Brought) -> Self {
        // The answers to further questions go the same way: there is one change, done or not.
        match brought.answer(ASKED).and_then(|answer| answer.get("action")).and_then(Value::as_str) {
            Some("decline" | "cancel") => Self::GaveUp,
            Some("accept") => Self::Looked,
            _ => Self::NotAsked,
        }
    }
}

/// Adds to a refusal where the page for it is, if the change waits and there is one; what a client is asked, and the
/// requests' ids.
pub(super) fn point_to_page(edge: &Edge, refusal: &mut Refusal) -> Option<(Map<String, Value>, String)> {
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
    let questions = questions.collect();
    let whose =
        if refusal.facts.get("approval_from").is_some_and(|from| from.split(',').all(|from| from == "requester")) {
            "The person who asks decides there"
        } else {
            "Send this link to somebody who may decide"
        };
    let urls = pages.into_iter().map(|(_, url)| url).collect::<Vec<_>>().join(" ");
    refusal.message = format!("{}. {whose}: {urls}", refusal.message.trim_end_matches('.'));
    refusal.facts.insert("approval_url".to_owned(), urls);
    Some((questions, ids))
}
