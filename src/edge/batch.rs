//! Batches (JSON-RPC 2.0, section 6), for the revisions of MCP that have them: 2025-03-26, and the one before.

use std::collections::HashMap;

use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::Edge;
use super::dispatch::Call;
use super::reply::{self, Reply};
use crate::mcp::code;
use crate::mcp::envelope::{EnvelopeError, Message};
use crate::mcp::message::RpcError;

/// How each request of a batch is given up, by its id as it was written.
pub(super) type GivenUp = HashMap<String, CancellationToken>;

/// How many messages of one batch are worked on at once.
const AT_ONCE: usize = 4;

/// Answers a batch: an array of what its requests come to, in their order. None where nothing in it wants an answer.
pub(super) async fn answer(
    edge: &Edge,
    messages: Vec<Result<Message<'_>, EnvelopeError<'_>>>,
    call: &Call<'_>,
    given_up: &GivenUp,
) -> Option<Reply> {
    let replies: Vec<_> = messages.into_iter().map(|message| one(edge, message, call, given_up).boxed()).collect();
    let replies: Vec<Option<Reply>> = futures_util::stream::iter(replies).buffered(AT_ONCE).collect().await;
    let mut body = Vec::new();
    for reply in replies.into_iter().flatten() {
        match reply {
            Reply::Message(message) => {
                body.push(if body.is_empty() { b'[' } else { b',' });
                body.extend_from_slice(&message);
            }
            refused @ Reply::TokenRefused(_) => return Some(refused),
        }
    }
    if body.is_empty() {
        return None;
    }
    body.push(b']');
    Some(Reply::Message(body))
}

async fn one(
    edge: &Edge,
    message: Result<Message<'_>, EnvelopeError<'_>>,
    call: &Call<'_>,
    given_up: &GivenUp,
) -> Option<Reply> {
    match message {
        // 2025-03-26, "Lifecycle": nothing can be in one batch with the request that says which revision is spoken.
        Ok(Message::Request(request)) if request.method == "initialize" => {
            let wrong = RpcError::new(code::INVALID_REQUEST, "`initialize` is sent by itself, not in a batch");
            Some(Reply::Message(wrong.to_body(Some(request.id))))
        }
        Ok(Message::Request(request)) => match given_up.get(request.id.get()) {
            Some(given_up) => given_up.run_until_cancelled(reply::reply(edge, &request, call)).await,
            None => Some(reply::reply(edge, &request, call).await),
        },
        Ok(Message::Response(response)) => {
            // One that nobody waits for is no message that could be answered.
            edge.questions.take(&edge.sealed, call.who(), &response).await;
            None
        }
        Ok(Message::Notification { .. }) => None,
        Err(wrong) => {
            let counted = edge.limits.other(call.subject()).await;
            Some(Reply::Message(match counted {
                Ok(()) => reply::malformed(&wrong),
                Err(exceeded) => reply::limited(edge, call.origin.address, &exceeded, None),
            }))
        }
    }
}
