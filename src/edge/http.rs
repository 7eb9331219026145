//! `POST /mcp`: from HTTP to one message, and from its answer back to HTTP.

mod body;
mod guard;
mod refusal;

use std::sync::Arc;

use ::http::header::ACCEPT;
use ::http::request::Parts;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::aside::{self, Aside};
use super::bearer::{self, Presented};
use super::caller::{Caller, Origin};
use super::challenge::{self, Challenge};
use super::client_address::ClientAddress;
use super::dispatch::{self, Answer, Call, Carried};
use super::reply::Reply;
use super::session::{self, Begun};
use super::{Edge, batch, error, headers, news, places, stream};
use crate::limit::Subject;
use crate::listen::Connection;
use crate::mcp::code;
use crate::mcp::envelope::{self, EnvelopeError, Message, OwnedRequest, Received};
use crate::mcp::era::{self, Era, LEGACY, MODERN};
use crate::mcp::message::RpcError;

pub(super) use body::BODY_TIMEOUT;
pub(super) use guard::{address, guard};
pub(super) use refusal::{limited, not_presented};

use body::{after, read, read_away, refuse_encoding};
use refusal::{malformed, refused};

/// `GET /readyz`: whether the process takes work. Who shows a good token is told of each part by name.
pub(super) async fn readyz(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Response {
    let (status, word) = edge.health.answer();
    if request.headers().contains_key(::http::header::AUTHORIZATION) {
        let (connection, headers) = (request.extensions().get::<Connection>(), request.headers());
        let origin = Origin::of(connection, address(&edge, connection, headers));
        // A balancer's probe is never refused for a token: it is told what a stranger is told. A flood is, as elsewhere.
        if edge.limits.request(origin.address).is_ok()
            && let Presented::Token(_) = bearer::present(&edge, headers, &origin).await
        {
            return (status, axum::Json(edge.health.report())).into_response();
        }
    }
    (status, word).into_response()
}

/// A request that has been read: whose it is, and what it says.
struct Heard {
    caller: Caller,
    origin: Origin,
    /// The session that a legacy client's headers name.
    begun: Option<Begun>,
    body: Vec<u8>,
}

/// `POST /mcp`
pub(super) async fn mcp(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Heard { caller, origin, begun, body } = match hear(&edge, &parts, body).await {
        Ok(heard) => heard,
        Err(refusal) => return *refusal,
    };
    let request = match envelope::read(&body) {
        Ok(Received::One(Message::Request(request))) => OwnedRequest::from(request),
        Ok(Received::Many(messages)) if has_batches(&parts.headers) => {
            let carried = Carried::Http(&parts.headers, begun);
            let call = Call { caller: &caller, origin: &origin, carried, aside: &Aside::none() };
            return match batch::answer(&edge, messages, &call, &batch::GivenUp::new()).await {
                Some(Reply::Message(body)) => error::json_response(StatusCode::OK, body),
                Some(Reply::TokenRefused(why)) => challenge::refuse(&edge, &Challenge::Invalid(&why), None),
                None => StatusCode::ACCEPTED.into_response(),
            };
        }
        other => return besides(&edge, &parts.headers, &caller, &origin, other).await,
    };
    // Nobody needs the bytes any more, and the work may take long.
    drop(body);
    let (id, address, who) = (request.id().to_owned(), origin.address, caller.principal.id().to_owned());
    // Only a whole request takes a place: a slow body holds nothing but its own connection.
    let Some(place) = places::enter(&edge, &who).await else {
        edge.refused(StatusCode::TOO_MANY_REQUESTS, "BUSY", address, Some(&who), "too many requests at once");
        return error::busy(&id);
    };
    let (aside, ear) = if accepts_events(&parts.headers) { Aside::new(&id) } else { (Aside::none(), aside::deaf()) };
    let is_modern = is_modern(&parts.headers);
    let work = {
        let edge = Arc::clone(&edge);
        async move {
            let _place = place;
            let carried = Carried::Http(&parts.headers, begun);
            let call = Call { caller: &caller, origin: &origin, carried, aside: &aside };
            dispatch::dispatch(&edge, &request.as_request(), &call).await
        }
    };
    // Closing the connection gives up a modern request (2026-07-28, Streamable HTTP), which the work's end with its response
    // does by itself. It does not give up a legacy one (2025-11-25, "Streamable HTTP"), so that one works by itself.
    let work: stream::Work = if is_modern { work.boxed() } else { stream::by_itself(work) };
    let about = stream::About { edge, id, address, who };
    stream::respond(about, work, ear).await
}

/// Reads a request, once it is known whose it is.
async fn hear(edge: &Edge, parts: &Parts, body: Body) -> Result<Heard, Box<Response>> {
    let address = parts.extensions.get::<ClientAddress>().and_then(|known| known.0);
    if let Err(exceeded) = edge.limits.listens(address) {
        let id = read_away(body).await;
        return Err(Box::new(limited(edge, address, &exceeded, id.as_deref())));
    }
    let origin = Origin::of(parts.extensions.get::<Connection>(), address);
    let caller = match bearer::present(edge, &parts.headers, &origin).await {
        Presented::Token(caller) => caller,
        refused => {
            let id = read_away(body).await;
            return Err(Box::new(not_presented(edge, address, refused, id.as_deref())));
        }
    };
    let who = Some(caller.principal.id());
    if let Some(refusal) = refuse_encoding(&parts.headers) {
        edge.refused(refusal.status(), "ENCODING_REFUSED", address, who, "neither plain nor JSON");
        return Err(Box::new(after(body, refusal).await));
    }
    let body = read(body, edge.config.body_max).await.map_err(|refusal| {
        edge.refused(refusal.status(), "BODY_REFUSED", address, who, "too large, too slow or broken off");
        Box::new(refusal)
    })?;
    let begun = session_of(edge, caller.principal.id(), &parts.headers)?;
    Ok(Heard { caller, origin, begun, body })
}

/// Takes what is no request. No core hears of it, so it is counted here.
async fn besides(
    edge: &Edge,
    headers: &HeaderMap,
    caller: &Caller,
    origin: &Origin,
    received: Result<Received<'_>, EnvelopeError<'_>>,
) -> Response {
    let (address, who) = (origin.address, caller.principal.id());
    if let Err(exceeded) = edge.limits.other(Subject::of(who)).await {
        return limited(edge, address, &exceeded, None);
    }
    let no_message = |wrong: &EnvelopeError<'_>| {
        edge.refused(StatusCode::BAD_REQUEST, "MESSAGE_MALFORMED", address, Some(who), "no message of MCP");
        malformed(wrong)
    };
    match received {
        Err(wrong) => no_message(&wrong),
        Ok(Received::Many(_)) => no_message(&EnvelopeError::Batch),
        Ok(Received::One(_)) if let Err(wrong) = check_revision(headers) => refused(&wrong, None),
        // None of the notifications that exist asks anything of a server that keeps no state.
        Ok(Received::One(Message::Notification { .. })) => StatusCode::ACCEPTED.into_response(),
        Ok(Received::One(Message::Response(response))) if !is_modern(headers) => answered(edge, who, &response).await,
        Ok(Received::One(_)) => error::rpc(
            StatusCode::BAD_REQUEST,
            None,
            code::INVALID_REQUEST,
            "this revision of MCP has no responses of clients",
        ),
    }
}

/// The answer to a request, where nothing was said before it.
pub(super) fn respond(about: &stream::About, answer: Result<Answer, RpcError>) -> Response {
    let stream::About { edge, id, address, who } = about;
    let (address, who) = (*address, Some(who.as_str()));
    match answer {
        Ok(Answer::Body(body)) => error::json_response(StatusCode::OK, body),
        Ok(Answer::Session(body, session)) => {
            let mut response = error::json_response(StatusCode::OK, body);
            if let Ok(session) = HeaderValue::try_from(session) {
                response.headers_mut().insert(SESSION, session);
            }
            response
        }
        Ok(Answer::Limited(exceeded)) => limited(edge, address, &exceeded, Some(id)),
        Ok(Answer::Challenge(scope)) => {
            edge.refused(StatusCode::FORBIDDEN, "SCOPE_MISSING", address, who, &scope);
            challenge::refuse(edge, &Challenge::Scope(&scope), Some(id))
        }
        Ok(Answer::TokenRefused(why)) => {
            edge.refused(StatusCode::UNAUTHORIZED, "TOKEN_REFUSED", address, who, &why);
            challenge::refuse(edge, &Challenge::Invalid(&why), Some(id))
        }
        Err(wrong) => {
            let text = format!("JSON-RPC error {}", wrong.code);
            edge.refused(StatusCode::OK, "PROTOCOL_ERROR", address, who, &text);
            refused(&wrong, Some(id))
        }
    }
}

/// The header that names a session of a legacy client.
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The session that a legacy request names. One that is unknown is answered so that the client begins another.
fn session_of(edge: &Edge, who: &str, headers: &HeaderMap) -> Result<Option<Begun>, Box<Response>> {
    let Some(id) = headers.get(SESSION).filter(|_| edge.has_sessions() && !is_modern(headers)) else {
        return Ok(None);
    };
    let begun = id.to_str().ok().and_then(|id| session::read(&edge.sealed, who, id));
    begun.map(Some).ok_or_else(|| {
        let status = StatusCode::NOT_FOUND;
        let text = "this session is unknown or over; begin another one by `initialize`";
        Box::new(error::rpc(status, None, error::code_of(status), text))
    })
}

/// A revision that is named must be one that is served (Streamable HTTP). Of a request its own reading says so.
fn check_revision(headers: &HeaderMap) -> Result<(), RpcError> {
    headers::one(headers, "mcp-protocol-version").and_then(|named| named.map_or(Ok(()), era::check))
}

/// Takes a legacy client's answer to a question of ours.
async fn answered(edge: &Edge, who: &str, response: &envelope::Response<'_>) -> Response {
    if edge.questions.take(&edge.sealed, who, response).await {
        return StatusCode::ACCEPTED.into_response();
    }
    let text = "this is no answer to a question that this server has asked and still waits for";
    error::rpc(StatusCode::BAD_REQUEST, None, code::INVALID_REQUEST, text)
}

fn is_modern(headers: &HeaderMap) -> bool {
    headers.get("mcp-protocol-version").is_some_and(|revision| revision.as_bytes() == MODERN.as_bytes())
}

/// Whether a client takes a stream of events.
fn accepts_events(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|accept| {
        accept.to_str().is_ok_and(|accept| {
            accept.split(',').any(|kind| {
                kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
            })
        })
    })
}

/// Whether a client of that header may send batches. One without it is taken for one of 2025-03-26.
fn has_batches(headers: &HeaderMap) -> bool {
    headers.get("mcp-protocol-version").is_none_or(|revision| {
        LEGACY.into_iter().any(|known| known.as_bytes() == revision.as_bytes() && Era::Legacy(known).has_batches())
    })
}

/// `GET /mcp` without an upgrade: the stream on which a legacy client hears what changes.
pub(super) async fn listen(edge: Arc<Edge>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let address = parts.extensions.get::<ClientAddress>().and_then(|known| known.0);
    if edge.whole || !edge.server.offers.news() || !accepts_events(&parts.headers) || is_modern(&parts.headers) {
        return error::method_not_allowed().await;
    }
    if let Err(exceeded) = edge.limits.listens(address) {
        return limited(&edge, address, &exceeded, None);
    }
    let origin = Origin::of(parts.extensions.get::<Connection>(), address);
    let caller = match bearer::present(&edge, &parts.headers, &origin).await {
        Presented::Token(caller) => caller,
        refused => return not_presented(&edge, address, refused, None),
    };
    if let Err(wrong) = check_revision(&parts.headers) {
        return refused(&wrong, None);
    }
    let begun = match session_of(&edge, caller.principal.id(), &parts.headers) {
        Ok(Some(begun)) => begun,
        Ok(None) => {
            let (status, text) = (StatusCode::BAD_REQUEST, "send the Mcp-Session-Id that `initialize` gave");
            return error::rpc(status, None, error::code_of(status), text);
        }
        Err(refusal) => return *refusal,
    };
    if let Err(exceeded) = edge.limits.other(Subject::of(caller.principal.id())).await {
        return limited(&edge, address, &exceeded, None);
    }
    let session = parts.headers.get(SESSION).map(crate::digest::sha256_hex).unwrap_or_default();
    if edge.subscriptions.is_followed(&session) {
        // 2025-11-25, "Streamable HTTP": a message goes out on one stream.
        let (status, text) = (StatusCode::CONFLICT, "this session has a stream already");
        return error::rpc(status, None, error::code_of(status), text);
    }
    let listening = match news::begin(&edge, caller.principal.id()) {
        Ok(listening) => listening,
        Err(busy) => return refused(&busy, None),
    };
    stream::open(move |aside| async move {
        let carried = Carried::Http(&parts.headers, Some(begun));
        let call = Call { caller: &caller, origin: &origin, carried, aside: &aside };
        let _listening = listening;
        if let Some(key) = news::key(&call) {
            drop(news::tell(&edge, &call, &key).await);
        }
    })
}
